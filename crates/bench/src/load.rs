//! Two ways of loading: as fast as answers come, and at a rate of our own.
//!
//! In the closed loop each socket keeps a number of sends unanswered: that finds the throughput, and its latency is mostly the
//! queue that it makes itself. In the open loop each send has its time, and latency is measured from that time, whenever the send
//! really went out: a server that stalls is charged for everything it held up (no coordinated omission).

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use holdfast_socketio_client::{Client, Incoming};

/// A send that has no answer by then counts as unanswered. The contract's clients wait 6 s or more.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long the last deliveries may take to arrive after the last answer.
const DELIVERIES: Duration = Duration::from_secs(3);
/// How many sockets connect at once.
const CONNECTING: usize = 32;
/// How long a load's tokens are valid.
pub(crate) const TOKENS: Duration = Duration::from_secs(24 * 3600);

/// Connected sockets, two by two friends of each other, and what became of every send.
#[derive(Debug)]
pub struct Load {
    clients: Vec<(Client, String)>,
    content: String,
    record: Arc<Record>,
}

#[derive(Debug)]
struct Record {
    /// The beginning of every `tempId`: `{run}.{number}.{microseconds since `begun`}`.
    run: String,
    begun: Instant,
    tally: Mutex<Tally>,
}

/// What is counted of one phase; the sends, of all.
#[derive(Debug)]
struct Tally {
    sends: Vec<Sent>,
    /// The first send of this phase.
    first: usize,
    acknowledged: Vec<String>,
    answers: Histogram<u64>,
    deliveries: Histogram<u64>,
    without_seq: u64,
    errors: BTreeMap<String, u64>,
    durability: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Sent {
    positive: bool,
    delivered: u8,
}

/// The result of one phase of load.
#[derive(Debug, Clone, Serialize)]
pub struct Phase {
    /// The number of positive answers.
    pub messages: u64,
    /// From the first send to the last answer, in seconds.
    pub seconds: f64,
    /// Positive answers a second.
    pub rate: f64,
    /// From the send, or from the time that it was due at, to a positive answer.
    pub answer: Quantiles,
    /// From the same moment to the friend's socket.
    pub delivery: Quantiles,
    /// Messages with a positive answer that the friend's socket had not received 3 s after the last answer.
    pub undelivered: u64,
    /// Deliveries of what had been delivered; clients drop them.
    pub redelivered: u64,
    /// First deliveries without `seq`: the recent list was not asked, or did not answer in its time.
    pub without_seq: u64,
    /// Refused sends by error code; the codes `UNANSWERED` and `DISCONNECTED` are the client's own.
    pub errors: BTreeMap<String, u64>,
    /// Positive answers by `durability`.
    pub durability: BTreeMap<String, u64>,
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, Serialize)]
#[allow(missing_docs)]
pub struct Quantiles {
    pub p50: f64,
    pub p99: f64,
    pub max: f64,
}

impl Quantiles {
    /// The latencies with their names.
    pub fn named(&self) -> [(&'static str, f64); 3] {
        [("p50", self.p50), ("p99", self.p99), ("max", self.max)]
    }
}

#[derive(Deserialize)]
struct Answer<'a> {
    ok: bool,
    #[serde(borrow)]
    message: Option<Stored<'a>>,
    durability: Option<&'a str>,
    #[serde(borrow)]
    error: Option<Refusal<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored<'a> {
    message_id: Option<&'a str>,
}

#[derive(Deserialize)]
struct Refusal<'a> {
    code: &'a str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Delivery<'a> {
    temp_id: Option<&'a str>,
    sender_id: &'a str,
    seq: Option<u64>,
}

impl Load {
    /// Connects `sockets` users, an even number of them, with tokens signed by `secret`. They will send messages with `bytes` of content.
    ///
    /// # Errors
    /// One of them can't connect.
    pub async fn connect(url: &str, secret: &str, sockets: usize, bytes: usize) -> Result<Arc<Self>> {
        ensure!(sockets > 0 && sockets.is_multiple_of(2), "the sockets are friends two by two");
        let run = holdfast_testkit::unique("bench");
        let record = Arc::new(Record { begun: Instant::now(), tally: Mutex::new(Tally::new()?), run });
        let clients = stream::iter(0..sockets)
            .map(|index| {
                let user = format!("{}-{index}", record.run);
                let friend = format!("{}-{}", record.run, index ^ 1);
                let auth = json!({ "token": holdfast_testkit::token(&user, secret, TOKENS) });
                let record = record.clone();
                async move {
                    let on_event = move |event: Incoming<'_>| record.delivered(&user, event);
                    let client = Client::connect_to(url, &auth, on_event).await;
                    anyhow::Ok((client.with_context(|| format!("socket {index} of {sockets}"))?, friend))
                }
            })
            .buffered(CONNECTING)
            .try_collect()
            .await?;
        Ok(Arc::new(Self { clients, content: content(bytes), record }))
    }

    /// The closed loop: each socket keeps `in_flight` sends unanswered for `lasting`.
    ///
    /// # Errors
    /// The phase can't be counted.
    pub async fn closed(self: &Arc<Self>, in_flight: usize, lasting: Duration) -> Result<Phase> {
        self.record.begin()?;
        let started = Instant::now();
        let mut loops = JoinSet::new();
        for index in 0..self.clients.len() * in_flight {
            let load = self.clone();
            loops.spawn(async move { while started.elapsed() < lasting && load.send(index, Instant::now()).await {} });
        }
        while loops.join_next().await.is_some() {}
        self.record.end(started).await
    }

    /// The open loop: `rate` sends a second, evenly, over all sockets in turn, for `lasting`.
    ///
    /// # Errors
    /// The phase can't be counted.
    pub async fn open(self: &Arc<Self>, rate: f64, lasting: Duration) -> Result<Phase> {
        self.record.begin()?;
        let (sender, mut due) = mpsc::unbounded_channel();
        let started = Instant::now();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        // A thread of its own, as the runtime's timers are only good for a millisecond.
        let pacer = std::thread::spawn(move || {
            for number in 0..(rate * lasting.as_secs_f64()) as u64 {
                let at = started + Duration::from_secs_f64(number as f64 / rate);
                std::thread::sleep(at.saturating_duration_since(Instant::now()));
                if stopped.load(Ordering::Relaxed) || sender.send(at).is_err() {
                    return;
                }
            }
        });
        let next = AtomicUsize::new(0);
        let mut sends = JoinSet::new();
        while let Some(at) = due.recv().await {
            let (load, index) = (self.clone(), next.fetch_add(1, Ordering::Relaxed));
            sends.spawn(async move { load.send(index, at).await });
            while sends.try_join_next().is_some() {}
        }
        stop.store(true, Ordering::Relaxed);
        while sends.join_next().await.is_some() {}
        drop(pacer);
        self.record.end(started).await
    }

    /// The ids of all messages with a positive answer, of all phases.
    pub fn acknowledged(&self) -> Vec<String> {
        self.record.tally().acknowledged.clone()
    }

    /// What every `tempId` of this load begins with.
    pub fn prefix(&self) -> String {
        format!("{}.", self.record.run)
    }

    /// Whether the socket still lives.
    async fn send(&self, index: usize, at: Instant) -> bool {
        let (client, friend) = &self.clients[index % self.clients.len()];
        let (number, temp_id) = self.record.sent(at);
        let content = &self.content;
        let sent = format!(r#"{{"tempId":"{temp_id}","friendId":"{friend}","content":"{content}"}}"#);
        match timeout(PATIENCE, client.call("sendMessage", &sent)).await {
            Ok(Ok(answer)) => self.record.answered(number, at, &answer),
            Ok(Err(_)) => {
                self.record.failed("DISCONNECTED");
                return false;
            }
            Err(_) => self.record.failed("UNANSWERED"),
        }
        true
    }
}

impl Record {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self) -> Result<()> {
        let mut tally = self.tally();
        let sends = std::mem::take(&mut tally.sends);
        let acknowledged = std::mem::take(&mut tally.acknowledged);
        *tally = Tally { first: sends.len(), sends, acknowledged, ..Tally::new()? };
        Ok(())
    }

    fn sent(&self, at: Instant) -> (usize, String) {
        let mut tally = self.tally();
        let number = tally.sends.len();
        tally.sends.push(Sent::default());
        let since = at.saturating_duration_since(self.begun).as_micros();
        (number, format!("{}.{number}.{since}", self.run))
    }

    fn answered(&self, number: usize, at: Instant, answer: &str) {
        let latency = micros(at.elapsed());
        let Ok((answer,)) = serde_json::from_str::<(Answer<'_>,)>(answer) else { return self.failed("MALFORMED") };
        if !answer.ok {
            return self.failed(answer.error.map_or("MALFORMED", |error| error.code));
        }
        let mut tally = self.tally();
        record(&mut tally.answers, latency);
        tally.sends[number].positive = true;
        *tally.durability.entry(answer.durability.unwrap_or("none").to_owned()).or_default() += 1;
        let id = answer.message.and_then(|message| message.message_id);
        tally.acknowledged.extend(id.map(str::to_owned));
    }

    fn failed(&self, code: &str) {
        *self.tally().errors.entry(code.to_owned()).or_default() += 1;
    }

    /// A message from the friend; the user's own, which every device of theirs gets too, does not count.
    fn delivered(&self, user: &str, event: Incoming<'_>) {
        if event.name != "newMessage" {
            return;
        }
        let Ok(delivery) = serde_json::from_str::<Delivery<'_>>(event.data) else { return self.failed("MALFORMED") };
        let Some((number, since)) = delivery.temp_id.and_then(|temp_id| self.parse(temp_id)) else { return };
        if delivery.sender_id == user {
            return;
        }
        let latency = micros(self.begun.elapsed()).saturating_sub(since);
        let mut tally = self.tally();
        let first = tally.first;
        let Some(sent) = tally.sends.get_mut(number) else { return };
        sent.delivered = sent.delivered.saturating_add(1);
        if number >= first && sent.delivered == 1 {
            record(&mut tally.deliveries, latency);
            tally.without_seq += u64::from(delivery.seq.is_none());
        }
    }

    fn parse(&self, temp_id: &str) -> Option<(usize, u64)> {
        let (number, since) = temp_id.strip_prefix(&self.run)?.strip_prefix('.')?.split_once('.')?;
        Some((number.parse().ok()?, since.parse().ok()?))
    }

    async fn end(&self, started: Instant) -> Result<Phase> {
        let seconds = started.elapsed().as_secs_f64();
        let undelivered = || {
            let tally = self.tally();
            tally.sends[tally.first..].iter().filter(|sent| sent.positive && sent.delivered == 0).count() as u64
        };
        // A peer that delivers nothing is not waited for.
        let delivers = !self.tally().deliveries.is_empty();
        let waiting = Instant::now();
        while delivers && undelivered() > 0 && waiting.elapsed() < DELIVERIES {
            sleep(Duration::from_millis(50)).await;
        }
        let undelivered = undelivered();
        let tally = self.tally();
        let messages = tally.answers.len();
        Ok(Phase {
            messages,
            seconds,
            rate: messages as f64 / seconds,
            answer: quantiles(&tally.answers),
            delivery: quantiles(&tally.deliveries),
            undelivered,
            redelivered: tally.sends[tally.first..]
                .iter()
                .map(|sent| u64::from(sent.delivered.saturating_sub(1)))
                .sum(),
            errors: tally.errors.clone(),
            without_seq: tally.without_seq,
            durability: tally.durability.clone(),
        })
    }
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            sends: Vec::new(),
            first: 0,
            acknowledged: Vec::new(),
            // Microseconds to three digits; it grows by itself.
            answers: Histogram::new(3)?,
            deliveries: Histogram::new(3)?,
            without_seq: 0,
            errors: BTreeMap::new(),
            durability: BTreeMap::new(),
        })
    }
}

/// Text of so many bytes, as people might write it.
pub(crate) fn content(bytes: usize) -> String {
    const WORDS: &str = "we could meet at the old station at seven, if that is not too early for you; ";
    WORDS.chars().cycle().take(bytes).collect()
}

pub(crate) fn record(histogram: &mut Histogram<u64>, latency: u64) {
    // A histogram that grows refuses no value (`saturating_record` would clamp instead of growing).
    let _ = histogram.record(latency);
}

pub(crate) fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

pub(crate) fn quantiles(histogram: &Histogram<u64>) -> Quantiles {
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
    Quantiles { p50: at(0.5), p99: at(0.99), max: histogram.max() as f64 / 1000.0 }
}
