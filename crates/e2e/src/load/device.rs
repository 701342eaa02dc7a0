//! One device: it reconnects, keeps its place in the live streams, resumes when it has to, and refetches history when told to.
//!
//! As the contract asks of clients: the offset is the highest seq up to which everything is known; a new epoch, a gap that lasts a second
//! and `resync` make it `resume`; `recovered: false` makes it read history, whose position it then goes on from. `messagePositioned` counts
//! towards the offset as the message itself would have.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use holdfast_bench::client::{Client, ConnectError, Event, Events};
use holdfast_message::{ChatId, UserId};
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use crate::ledger::{Live, Seen, is_genuine, now_ms};

/// How long a seq may be missing.
const GAP: Duration = Duration::from_secs(1);
/// Between two tries to catch up.
const PAUSE: Duration = Duration::from_secs(1);
/// How long the first connection may take.
const FIRST: Duration = Duration::from_secs(30);
/// How far below the last good moment history is read again, in milliseconds: what was delayed is older than its arrival.
const BACK_MS: i64 = 60_000;

/// A connection, as senders use it.
#[derive(Clone)]
pub struct Connection {
    /// The connection itself.
    pub client: Arc<Client>,
    /// A number that no other connection of this process has.
    pub number: u64,
    /// Its gateway's address.
    pub gateway: String,
}

/// A device. Cheap to clone.
#[derive(Clone)]
pub struct Device(Arc<Inner>);

struct Inner {
    user: String,
    name: String,
    chat: String,
    token: String,
    gateways: Vec<String>,
    connection: watch::Sender<Option<Connection>>,
    seen: Mutex<Seen>,
    /// Asks the device to catch up; answered when it has.
    settle: Mutex<Vec<oneshot::Sender<()>>>,
    end: CancellationToken,
}

/// The place in the chat's live stream.
#[derive(Debug, Default)]
struct Place {
    epoch: Option<String>,
    /// Everything up to this seq is known.
    upto: u64,
    /// Known seqs above a gap.
    above: BTreeSet<u64>,
    gap_since: Option<Instant>,
    /// Something may have been missed.
    stale: bool,
    /// When everything was known last, in epoch milliseconds.
    good_ms: i64,
}

impl Device {
    /// Connects, to the gateway of this index first.
    pub(super) async fn start(
        user: &str,
        friend: &str,
        name: &str,
        token: &str,
        gateways: Vec<String>,
        first: usize,
        rng: Rng,
    ) -> Result<Self> {
        let chat = ChatId::direct(&UserId::parse(user)?, &UserId::parse(friend)?)?.to_string();
        let seen = Seen { user: user.to_owned(), device: name.to_owned(), ..Seen::default() };
        let device = Self(Arc::new(Inner {
            user: user.to_owned(),
            name: name.to_owned(),
            chat,
            token: token.to_owned(),
            gateways,
            connection: watch::Sender::new(None),
            seen: Mutex::new(seen),
            settle: Mutex::default(),
            end: CancellationToken::new(),
        }));
        let run = run(Arc::clone(&device.0), first, rng);
        tokio::spawn(device.0.end.clone().run_until_cancelled_owned(run));
        timeout(FIRST, device.connected()).await.with_context(|| format!("{user} can't connect"))?;
        Ok(device)
    }

    /// What it is called in messages.
    pub fn label(&self) -> String {
        format!("{}/{}", self.0.user, self.0.name)
    }

    /// Whose it is.
    pub fn user(&self) -> &str {
        &self.0.user
    }

    /// The chat that it takes part in.
    pub fn chat(&self) -> &str {
        &self.0.chat
    }

    /// The present connection, if there is one.
    pub fn connection(&self) -> Option<Connection> {
        self.0.connection.borrow().clone()
    }

    /// The present connection, or the next one; none when the device has been stopped.
    pub async fn connected(&self) -> Option<Connection> {
        let mut connection = self.0.connection.subscribe();
        connection.wait_for(Option::is_some).await.ok()?.clone()
    }

    /// Ends the present connection without a word; the device connects again.
    pub fn cut(&self) {
        if let Some(connection) = self.connection() {
            connection.client.kill();
        }
    }

    /// Waits until it knows that it has missed nothing.
    pub(super) async fn settle(&self) {
        let (sender, receiver) = oneshot::channel();
        self.0.settle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        // Its end is good as an answer: nothing more will be seen.
        let _ = receiver.await;
    }

    /// Ends it, and returns what it saw.
    pub(super) fn stop(&self) -> Seen {
        self.0.end.cancel();
        self.0.seen().clone()
    }
}

impl Inner {
    /// Whether what it is shown is what somebody sent, and to this chat.
    fn check(&self, message: &Value) {
        if !is_genuine(message) || message["chatId"] != *self.chat {
            self.seen().mutated.insert(message["messageId"].to_string());
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(device: Arc<Inner>, first: usize, mut rng: Rng) {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let mut place = Place { good_ms: now_ms(), stale: true, ..Place::default() };
    for turn in first.. {
        let gateway = &device.gateways[turn % device.gateways.len()];
        if let Ok((client, events)) = connect(&device, gateway, &place).await {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            device.seen().connections += 1;
            let connection = Connection { client: Arc::new(client), number, gateway: gateway.clone() };
            device.connection.send_replace(Some(connection.clone()));
            place.stale |= place.epoch.is_none();
            stay(&device, &connection, events, &mut place).await;
            device.connection.send_replace(None);
            place.stale = true;
        }
        sleep(Duration::from_millis(rng.u64(50..500))).await;
    }
}

async fn connect(device: &Inner, gateway: &str, place: &Place) -> Result<(Client, Events), ConnectError> {
    let mut auth = json!({ "token": device.token });
    if let Some(epoch) = &place.epoch {
        auth["offsets"] = json!({ device.chat.clone(): { "epoch": epoch, "seq": place.upto } });
    }
    Client::connect_with(gateway, &auth).await
}

/// Until the connection ends.
async fn stay(device: &Inner, connection: &Connection, mut events: Events, place: &mut Place) {
    let mut tick = interval(Duration::from_millis(200));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // With offsets in the handshake, `resumed` comes by itself; should it not, the tick after next asks.
    let mut awaited = place.epoch.is_some().then(|| Instant::now() + PATIENCE);
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(event) => {
                    if event.name == "resumed" {
                        awaited = None;
                    }
                    take(device, connection.number, place, &event);
                }
            },
            _ = tick.tick() => {
                let gap = place.gap_since.is_some_and(|since| since.elapsed() > GAP);
                if gap {
                    device.seen().gaps += 1;
                }
                let asked: Vec<_> = std::mem::take(&mut *device.settle.lock().unwrap_or_else(PoisonError::into_inner));
                let waiting = awaited.is_some_and(|until| Instant::now() < until);
                if gap || !asked.is_empty() || (place.stale && !waiting && Instant::now() >= not_before) {
                    awaited = None;
                    catch_up(device, &connection.client, place).await;
                    not_before = Instant::now() + PAUSE;
                }
                if place.stale {
                    device.settle.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
                } else {
                    for asked in asked {
                        // Whoever asked may be gone.
                        let _ = asked.send(());
                    }
                    if place.gap_since.is_none() {
                        place.good_ms = now_ms();
                    }
                }
            }
        }
    }
}

fn take(device: &Inner, connection: u64, place: &mut Place, event: &Event) {
    let data = &event.data;
    match &*event.name {
        "newMessage" => {
            let Some(id) = data["messageId"].as_str() else { return };
            device.check(data);
            let position = data["epoch"].as_str().zip(data["seq"].as_u64());
            let live = Live { connection, position: position.map(|(epoch, seq)| (epoch.to_owned(), seq)) };
            device.seen().live.entry(id.to_owned()).or_default().push(live);
            if let Some((epoch, seq)) = position {
                place.advance(epoch, seq);
            }
        }
        "messagePositioned" => {
            let Some(id) = data["messageId"].as_str() else { return };
            // Of a message that it does not have, the seq stays missing: that is a gap.
            if device.seen().has(id)
                && let Some((epoch, seq)) = data["epoch"].as_str().zip(data["seq"].as_u64())
            {
                place.advance(epoch, seq);
            }
        }
        "messageFailed" => {
            if let Some(id) = data["messageId"].as_str() {
                device.seen().take_back(id);
            }
        }
        "resync" => {
            device.seen().resyncs += 1;
            place.stale = true;
        }
        "resumed" => {
            // An answer that recovers nothing leaves the place stale: the next tick asks and refetches.
            resumed(device, place, &data["chats"][&device.chat]);
        }
        _ => {}
    }
}

impl Place {
    fn advance(&mut self, epoch: &str, seq: u64) {
        if self.epoch.as_deref() != Some(epoch) {
            self.stale = true;
        } else if seq > self.upto {
            self.above.insert(seq);
            self.close_gap();
        }
    }

    fn close_gap(&mut self) {
        while self.above.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
        self.above.retain(|seq| *seq > self.upto);
        if self.above.is_empty() {
            self.gap_since = None;
        } else {
            self.gap_since.get_or_insert_with(Instant::now);
        }
    }

    fn set(&mut self, epoch: &Value, seq: &Value) {
        let epoch = epoch.as_str().map(str::to_owned);
        if epoch != self.epoch {
            self.above.clear();
        }
        self.epoch = epoch;
        self.upto = seq.as_u64().unwrap_or_default();
        self.gap_since = None;
        self.close_gap();
    }
}

/// Takes one chat's part of an answer to `resume`. Returns whether everything was recovered.
fn resumed(device: &Inner, place: &mut Place, answer: &Value) -> bool {
    if answer["recovered"] != true {
        return false;
    }
    for message in answer["messages"].as_array().into_iter().flatten() {
        device.check(message);
        let Some(id) = message["messageId"].as_str() else { continue };
        device.seen().resumed.insert(id.to_owned());
    }
    place.set(&answer["epoch"], &answer["seq"]);
    place.stale = false;
    true
}

/// Resumes, and reads history if that recovers nothing. Leaves the place stale if neither works now.
async fn catch_up(device: &Inner, client: &Client, place: &mut Place) {
    place.stale = true;
    if let Some(epoch) = &place.epoch {
        let offsets = json!({ "offsets": { device.chat.clone(): { "epoch": epoch, "seq": place.upto } } });
        let answer = timeout(PATIENCE, client.emit_with_ack("resume", &offsets)).await;
        let Ok(Ok(answer)) = answer else { return };
        if resumed(device, place, &answer["chats"][&device.chat]) {
            return;
        }
    }
    let _ = refetch(device, client, place).await;
}

/// Reads history back to a while before the last good moment.
async fn refetch(device: &Inner, client: &Client, place: &mut Place) -> Option<()> {
    let until = place.good_ms - BACK_MS;
    let mut cursor = Value::Null;
    let mut position = None;
    loop {
        let mut request = json!({ "chatId": device.chat, "limit": 100 });
        if cursor.is_string() {
            request["before"] = cursor;
        }
        let page = timeout(PATIENCE, client.emit_with_ack("history", &request)).await.ok()?.ok()?;
        if page["ok"] != true || page["complete"] != true {
            return None;
        }
        position.get_or_insert_with(|| (page["epoch"].clone(), page["seq"].clone()));
        let mut oldest = None;
        page["messages"].as_array().into_iter().flatten().for_each(|message| device.check(message));
        let mut seen = device.seen();
        for message in page["messages"].as_array().into_iter().flatten() {
            oldest = message["timestamp"].as_i64();
            if let Some(id) = message["messageId"].as_str().filter(|id| !seen.has(id)) {
                let id = id.to_owned();
                seen.refetched.insert(id);
            }
        }
        drop(seen);
        cursor = page["nextCursor"].clone();
        if cursor.is_null() || oldest.is_none_or(|oldest| oldest < until) {
            break;
        }
    }
    let (epoch, seq) = position?;
    place.set(&epoch, &seq);
    // Without a stream to follow nothing announces what comes.
    place.stale = place.epoch.is_none();
    Some(())
}
