//! One device: it reconnects, tracks its offset in the live stream of each of its chats, resumes after gaps, and reads history again when a
//! resume recovers nothing.
//!
//! It follows the client contract: the offset is the highest seq up to which everything is known; a new epoch, a gap that lasts a second and
//! `resync` make it `resume`; `recovered: false` makes it read history, from whose position it continues. `messagePositioned` advances the
//! offset as the message itself would have.

mod stream;

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use holdfast_socketio_client::{Client, ConnectError, Event, Events};
use serde_json::{Value, json};
use stream::{StreamState, Streams, offsets};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::PATIENCE;
use crate::ledger::{Live, Seen, is_genuine};

/// How long a seq may be missing before the device resumes.
const GAP: Duration = Duration::from_secs(1);
/// The pause between two attempts to catch up.
const PAUSE: Duration = Duration::from_secs(1);
/// The time limit of the first connection.
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
    /// Pending requests to catch up, each answered once the device has.
    settle: Mutex<Vec<oneshot::Sender<()>>>,
    end: CancellationToken,
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

    /// The user of the device.
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

    /// Cuts the present connection without closing it properly; the device reconnects.
    pub fn cut(&self) {
        if let Some(connection) = self.connection() {
            connection.client.kill();
        }
    }

    /// Waits until the device has caught up with all its chats.
    pub(super) async fn settle(&self) {
        let (sender, receiver) = oneshot::channel();
        self.0.settle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
        // A dropped sender counts as an answer: the device has ended and sees nothing more.
        let _ = receiver.await;
    }

    /// Stops the device, and returns what it saw.
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
    let mut streams: Streams = device.chats.iter().map(|chat| (chat.clone(), StreamState::new())).collect();
    for turn in first.. {
        let gateway = &device.gateways[turn % device.gateways.len()];
        if let Ok((client, events)) = connect(&device, gateway, &streams).await {
            let number = NUMBERS.fetch_add(1, Ordering::Relaxed);
            device.seen().connections += 1;
            let connection = Connection { client: Arc::new(client), number, gateway: gateway.clone() };
            device.connection.send_replace(Some(connection.clone()));
            streams.values_mut().for_each(|stream| stream.stale |= stream.epoch.is_none());
            stay(&device, &connection, events, &mut streams).await;
            device.connection.send_replace(None);
            streams.values_mut().for_each(|stream| stream.stale = true);
        }
        sleep(Duration::from_millis(rng.u64(50..500))).await;
    }
}

async fn connect(device: &Inner, gateway: &str, streams: &Streams) -> Result<(Client, Events), ConnectError> {
    let mut auth = json!({ "token": device.token });
    let offsets = offsets(streams, streams.keys());
    if !offsets.is_empty() {
        auth["offsets"] = offsets.into();
    }
    Client::connect_with(gateway, &auth).await
}

/// Handles events and catches up until the connection ends.
async fn stay(device: &Inner, connection: &Connection, mut events: Events, streams: &mut Streams) {
    let mut tick = interval(Duration::from_millis(200));
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // With offsets in the handshake, `resumed` comes by itself; should it not, the tick after next asks.
    let mut awaited = streams.values().any(|stream| stream.epoch.is_some()).then(|| Instant::now() + PATIENCE);
    let mut not_before = Instant::now();
    loop {
        tokio::select! {
            event = events.next() => match event {
                None => return,
                Some(event) => {
                    if event.name == "resumed" {
                        awaited = None;
                    }
                    take(device, connection.number, streams, &event);
                }
            },
            _ = tick.tick() => {
                let gap = |stream: &StreamState| stream.gap_since.is_some_and(|since| since.elapsed() > GAP);
                let gaps = streams.values().filter(|stream| gap(stream)).count() as u32;
                device.seen().gaps += gaps;
                let asked: Vec<_> = std::mem::take(&mut *device.settle.lock().unwrap_or_else(PoisonError::into_inner));
                let waiting = awaited.is_some_and(|until| Instant::now() < until);
                let behind = |stream: &StreamState| !asked.is_empty() || gap(stream) || (stream.stale && !waiting);
                let chats: Vec<_> =
                    streams.iter().filter(|(_, stream)| behind(stream)).map(|(chat, _)| chat.clone()).collect();
                if !chats.is_empty() && Instant::now() >= not_before {
                    awaited = None;
                    let wait = catch_up(device, &connection.client, streams, &chats).await.err().unwrap_or_default();
                    not_before = Instant::now() + PAUSE.max(wait);
                    caught_up(device, streams, asked);
                } else {
                    device.settle.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
                    streams.values_mut().for_each(StreamState::note_if_good);
                }
            }
        }
    }
}

/// Answers the pending requests to settle, if nothing is missing in any chat.
fn caught_up(device: &Inner, streams: &mut Streams, asked: Vec<oneshot::Sender<()>>) {
    if streams.values().any(|stream| stream.stale) {
        device.settle.lock().unwrap_or_else(PoisonError::into_inner).extend(asked);
    } else {
        for asked in asked {
            // Whoever asked may be gone.
            let _ = asked.send(());
        }
    }
    streams.values_mut().for_each(StreamState::note_if_good);
}

fn take(device: &Inner, connection: u64, streams: &mut Streams, event: &Event) {
    let data = &event.data;
    match &*event.name {
        "newMessage" => {
            let Some(id) = data["messageId"].as_str() else { return };
            device.check(data);
            let position = data["epoch"].as_str().zip(data["seq"].as_u64());
            let live = Live { connection, position: position.map(|(epoch, seq)| (epoch.to_owned(), seq)) };
            device.seen().live.entry(id.to_owned()).or_default().push(live);
            if let Some((epoch, seq)) = position
                && let Some(stream) = data["chatId"].as_str().and_then(|chat| streams.get_mut(chat))
            {
                stream.advance(epoch, seq);
            }
        }
        "messagePositioned" => {
            let Some(id) = data["messageId"].as_str() else { return };
            // Of a message that it does not have, the seq stays missing: that is a gap.
            if device.seen().has(id)
                && let Some((epoch, seq)) = data["epoch"].as_str().zip(data["seq"].as_u64())
                && let Some(stream) = data["chatId"].as_str().and_then(|chat| streams.get_mut(chat))
            {
                stream.advance(epoch, seq);
            }
        }
        "messageFailed" => {
            if let Some(id) = data["messageId"].as_str() {
                device.seen().retract(id);
            }
        }
        "resync" => {
            device.seen().resyncs += 1;
            streams.values_mut().for_each(|stream| stream.stale = true);
        }
        "resumed" => {
            // What is not recovered stays stale: the next tick asks and refetches.
            for (chat, stream) in streams {
                resumed(device, stream, &data["chats"][chat]);
            }
        }
        _ => {}
    }
}

/// Takes one chat's part of an answer to `resume`. Returns whether everything was recovered.
fn resumed(device: &Inner, stream: &mut StreamState, answer: &Value) -> bool {
    if answer["recovered"] != true {
        return false;
    }
    for message in answer["messages"].as_array().into_iter().flatten() {
        device.check(message);
        let Some(id) = message["messageId"].as_str() else { continue };
        device.seen().resumed.insert(id.to_owned());
    }
    stream.set(&answer["epoch"], &answer["seq"]);
    stream.stale = false;
    true
}

/// Resumes, and reads the history of chats of which that recovers nothing. Streams that can't be caught up now stay stale; the error is
/// how long the gateway asks to wait.
async fn catch_up(device: &Inner, client: &Client, streams: &mut Streams, chats: &[String]) -> Result<(), Duration> {
    let offsets = offsets(streams, chats.iter());
    streams.iter_mut().filter(|(chat, _)| chats.contains(chat)).for_each(|(_, stream)| stream.stale = true);
    if !offsets.is_empty() {
        let answer = ask(client, "resume", &json!({ "offsets": offsets })).await?;
        for (chat, stream) in streams.iter_mut().filter(|(chat, _)| offsets.contains_key(*chat)) {
            resumed(device, stream, &answer["chats"][chat]);
        }
    }
    for chat in chats {
        if let Some(stream) = streams.get_mut(chat).filter(|stream| stream.stale) {
            refetch(device, client, chat, stream).await?;
        }
    }
    Ok(())
}

/// Returns a positive answer; the error is how long to wait before the next attempt.
async fn ask(client: &Client, event: &str, request: &Value) -> Result<Value, Duration> {
    let answer = timeout(PATIENCE, client.emit_with_ack(event, request)).await;
    let answer = answer.ok().and_then(Result::ok).ok_or(Duration::ZERO)?;
    match answer["ok"] == true {
        true => Ok(answer),
        false => Err(Duration::from_millis(answer["error"]["retryAfterMs"].as_u64().unwrap_or_default())),
    }
}

/// Reads history back to a while before the last good moment.
async fn refetch(device: &Inner, client: &Client, chat: &str, stream: &mut StreamState) -> Result<(), Duration> {
    let until = stream.good_ms - BACK_MS;
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
    stream.set(&epoch, &seq);
    // Without a stream to follow nothing announces what comes.
    stream.stale = stream.epoch.is_none();
    Ok(())
}
