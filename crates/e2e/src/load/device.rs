//! One device: it reconnects, keeps its place in the live stream of each of its chats, resumes when it has to, and refetches history when
//! told to.
//!
//! As the contract asks of clients: the offset is the highest seq up to which everything is known; a new epoch, a gap that lasts a second
//! and `resync` make it `resume`; `recovered: false` makes it read history, whose position it then goes on from. `messagePositioned` counts
//! towards the offset as the message itself would have.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use holdfast_socketio_client::{Client, ConnectError, Event, Events};
use serde_json::{Map, Value, json};
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
    chats: BTreeSet<String>,
    token: String,
    gateways: Vec<String>,
    connection: watch::Sender<Option<Connection>>,
    seen: Mutex<Seen>,
    /// Asks the device to catch up; answered when it has.
    settle: Mutex<Vec<oneshot::Sender<()>>>,
    end: CancellationToken,
}

/// The place in each chat's live stream.
type Places = BTreeMap<String, Place>;

/// The place in a chat's live stream.
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
    /// Connects, to the gateway of this index first. `seen` says whose device it is, and of which chats.
    pub(super) async fn start(seen: Seen, token: &str, gateways: Vec<String>, first: usize, rng: Rng) -> Result<Self> {
        let user = seen.user.clone();
        let device = Self(Arc::new(Inner {
            user: user.clone(),
            name: seen.device.clone(),
            chats: seen.chats.clone(),
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
    /// Whether what it is shown is what somebody sent, and to one of its chats.
    fn check(&self, message: &Value) {
        if !is_genuine(message) || !message["chatId"].as_str().is_some_and(|chat| self.chats.contains(chat)) {
            self.seen().mutated.insert(message["messageId"].to_string());
        }
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(device: Arc<Inner>, first: usize, mut rng: Rng) {
    static NUMBERS: AtomicU64 = AtomicU64::new(1);
    let place = || Place { good_ms: now_ms(), stale: true, ..Place::default() };
    let mut places: Places = device.chats.iter().map(|chat| (chat.clone(), place())).collect();
    for turn in first.. {
        let gateway = &device.gateways[turn % device.gateways.len()];
        if let Ok((client, events)) = connect(&device, gateway, &places).await {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            device.seen().connections += 1;
            let connection = Connection { client: Arc::new(client), number, gateway: gateway.clone() };
            device.connection.send_replace(Some(connection.clone()));
            places.values_mut().for_each(|place| place.stale |= place.epoch.is_none());
            stay(&device, &connection, events, &mut places).await;
            device.connection.send_replace(None);
            places.values_mut().for_each(|place| place.stale = true);
        }
        sleep(Duration::from_millis(rng.u64(50..500))).await;
    }
}

/// The offsets of the chats that are asked for, as far as there are any.
fn offsets<'a>(places: &Places, chats: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let known = chats.filter_map(|chat| {
        let place = &places[chat];
        Some((chat.clone(), json!({ "epoch": place.epoch.as_ref()?, "seq": place.upto })))
    });
    known.collect()
}

async fn connect(device: &Inner, gateway: &str, places: &Places) -> Result<(Client, Events), ConnectError> {
    let mut auth = json!({ "token": device.token });
    let offsets = offsets(places, places.keys());
    if !offsets.is_empty() {
        auth["offsets"] = offsets.into();
    }
    Client::connect_with(gateway, &auth).await
}

/// Until the connection ends.
async fn stay(device: &Inner, connection: &Connection, mut events: Events, places: &mut Places) {
    let mut tick = interval(Duration::from_millis(200));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // With offsets in the handshake, `resumed` comes by itself; should it not, the tick after next asks.
    let mut awaited = places.values().any(|place| place.epoch.is_some()).then(|| Instant::now() + PATIENCE);
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(event) => {
                    if event.name == "resumed" {
                        awaited = None;
                    }
                    take(device, connection.number, places, &event);
                }
            },
            _ = tick.tick() => {
                let gap = |place: &Place| place.gap_since.is_some_and(|since| since.elapsed() > GAP);
                let gaps = places.values().filter(|place| gap(place)).count() as u32;
                device.seen().gaps += gaps;
                let asked: Vec<_> = std::mem::take(&mut *device.settle.lock().unwrap_or_else(PoisonError::into_inner));
                let waiting = awaited.is_some_and(|until| Instant::now() < until);
                let behind = |place: &Place| !asked.is_empty() || gap(place) || (place.stale && !waiting);
                let chats: Vec<_> =
                    places.iter().filter(|(_, place)| behind(place)).map(|(chat, _)| chat.clone()).collect();
                if !chats.is_empty() && Instant::now() >= not_before {
                    awaited = None;
                    let wait = catch_up(device, &connection.client, places, &chats).await.err().unwrap_or_default();
                    not_before = Instant::now() + PAUSE.max(wait);
                    caught_up(device, places, asked);
                } else {
                    device.settle.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
                    places.values_mut().for_each(Place::note_if_good);
                }
            }
        }
    }
}

/// Tells whoever asked for it, if nothing is missing anywhere.
fn caught_up(device: &Inner, places: &mut Places, asked: Vec<oneshot::Sender<()>>) {
    if places.values().any(|place| place.stale) {
        device.settle.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
    } else {
        for asked in asked {
            // Whoever asked may be gone.
            let _ = asked.send(());
        }
    }
    places.values_mut().for_each(Place::note_if_good);
}

fn take(device: &Inner, connection: u64, places: &mut Places, event: &Event) {
    let data = &event.data;
    match &*event.name {
        "newMessage" => {
            let Some(id) = data["messageId"].as_str() else { return };
            device.check(data);
            let position = data["epoch"].as_str().zip(data["seq"].as_u64());
            let live = Live { connection, position: position.map(|(epoch, seq)| (epoch.to_owned(), seq)) };
            device.seen().live.entry(id.to_owned()).or_default().push(live);
            if let Some((epoch, seq)) = position
                && let Some(place) = data["chatId"].as_str().and_then(|chat| places.get_mut(chat))
            {
                place.advance(epoch, seq);
            }
        }
        "messagePositioned" => {
            let Some(id) = data["messageId"].as_str() else { return };
            // Of a message that it does not have, the seq stays missing: that is a gap.
            if device.seen().has(id)
                && let Some((epoch, seq)) = data["epoch"].as_str().zip(data["seq"].as_u64())
                && let Some(place) = data["chatId"].as_str().and_then(|chat| places.get_mut(chat))
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
            places.values_mut().for_each(|place| place.stale = true);
        }
        "resumed" => {
            // What is not recovered stays stale: the next tick asks and refetches.
            for (chat, place) in places {
                resumed(device, place, &data["chats"][chat]);
            }
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

    /// Notes that everything is known now, if it is.
    fn note_if_good(&mut self) {
        if !self.stale && self.gap_since.is_none() {
            self.good_ms = now_ms();
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

/// Resumes, and reads the history of chats of which that recovers nothing. Leaves places stale that can't be caught up now; an error says
/// how long the gateway asks to wait.
async fn catch_up(device: &Inner, client: &Client, places: &mut Places, chats: &[String]) -> Result<(), Duration> {
    let offsets = offsets(places, chats.iter());
    places.iter_mut().filter(|(chat, _)| chats.contains(chat)).for_each(|(_, place)| place.stale = true);
    if !offsets.is_empty() {
        let answer = ask(client, "resume", &json!({ "offsets": offsets })).await?;
        for (chat, place) in places.iter_mut().filter(|(chat, _)| offsets.contains_key(*chat)) {
            resumed(device, place, &answer["chats"][chat]);
        }
    }
    for chat in chats {
        if let Some(place) = places.get_mut(chat).filter(|place| place.stale) {
            refetch(device, client, chat, place).await?;
        }
    }
    Ok(())
}

/// An answer that is of use; else for how long to wait.
async fn ask(client: &Client, event: &str, request: &Value) -> Result<Value, Duration> {
    let answer = timeout(PATIENCE, client.emit_with_ack(event, request)).await;
    let answer = answer.ok().and_then(Result::ok).ok_or(Duration::ZERO)?;
    match answer["ok"] == true {
        true => Ok(answer),
        false => Err(Duration::from_millis(answer["error"]["retryAfterMs"].as_u64().unwrap_or_default())),
    }
}

/// Reads history back to a while before the last good moment.
async fn refetch(device: &Inner, client: &Client, chat: &str, place: &mut Place) -> Result<(), Duration> {
    let until = place.good_ms - BACK_MS;
    let mut cursor = Value::Null;
    let mut position = None;
    loop {
        let mut request = json!({ "chatId": chat, "limit": 100 });
        if cursor.is_string() {
            request["before"] = cursor;
        }
        let page = ask(client, "history", &request).await?;
        if page["complete"] != true {
            return Err(Duration::ZERO);
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
    let (epoch, seq) = position.unwrap_or_default();
    place.set(&epoch, &seq);
    // Without a stream to follow nothing announces what comes.
    place.stale = place.epoch.is_none();
    Ok(())
}
