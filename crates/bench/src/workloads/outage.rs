//! Kafka fails under load: what the first senders wait, and what becomes of their messages.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use holdfast_socketio_client::Client;
use holdfast_testkit::{token, unique};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use crate::load::{TOKENS, content, micros, record};
use crate::services::Needs;
use crate::subject::Subject;
use crate::target::{Bench, Target};
use crate::values::Values;

const SOCKETS: usize = 20;
/// From one send to the next.
const PACE: Duration = Duration::from_millis(5);
/// How long everything works, how long Kafka is away, and how long the load goes on afterwards.
const BEFORE: Duration = Duration::from_secs(3);
const AWAY: Duration = Duration::from_secs(12);
const AFTER: Duration = Duration::from_secs(3);
/// The sends after the failure whose latency is that of the first ones.
const FIRST: usize = 100;
/// From then on a breaker should spare senders the wait.
const SETTLED: Duration = Duration::from_secs(6);
/// Without an answer by then a send counts as unanswered.
const PATIENCE: Duration = Duration::from_secs(10);

/// How Kafka fails.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Break {
    /// It keeps its connections and answers nothing.
    Freeze,
    /// Its port refuses connections.
    Kill,
}

/// What became of a send.
#[derive(Debug)]
struct Sent {
    due: Instant,
    latency: Duration,
    /// The durability, or the error's code.
    outcome: String,
    message_id: Option<String>,
}

pub(super) async fn run(bench: &Bench, subject: Subject, how: Break) -> Result<Values> {
    let target = bench.target(subject, Needs::default()).await?;
    let clients = connect(bench, &target).await?;
    let sent = Arc::new(Mutex::new(Vec::new()));
    let kafka = &bench.servers.kafka;
    let outage = async {
        tokio::time::sleep(BEFORE).await;
        let broken = Instant::now();
        match how {
            Break::Freeze => kafka.freeze()?,
            Break::Kill => kafka.kill9().await?,
        }
        tokio::time::sleep(AWAY).await;
        let mended = Instant::now();
        match how {
            Break::Freeze => kafka.thaw()?,
            Break::Kill => kafka.start_again().await?,
        }
        anyhow::Ok((broken, mended, Instant::now()))
    };
    let load = load(clients, sent.clone(), BEFORE + AWAY + AFTER);
    let ((), (broken, mended, back)) = tokio::try_join!(load, outage)?;
    let mut sent = std::mem::take(&mut *sent.lock().unwrap_or_else(PoisonError::into_inner));
    sent.sort_unstable_by_key(|one| one.due);

    let mut values = Values::default();
    latencies(&mut values, "before: answer", sent.iter().filter(|one| one.due < broken))?;
    let away = || sent.iter().filter(|one| one.due >= broken && one.due < mended);
    let first = away().next().context("no send while Kafka was away")?;
    values.add("first send after the failure, ms", first.latency.as_secs_f64() * 1e3);
    latencies(&mut values, &format!("first {FIRST} sends: answer"), away().take(FIRST))?;
    latencies(&mut values, "6 s later: answer", away().filter(|one| one.due >= broken + SETTLED))?;
    let mut outcomes = BTreeMap::<&str, usize>::new();
    away().for_each(|one| *outcomes.entry(&one.outcome).or_default() += 1);
    let total = away().count().max(1) as f64;
    let share = |outcome| outcomes.get(outcome).copied().unwrap_or_default() as f64 / total * 100.0;
    values.add("accepted by the failed queue, %", share("failed-queue"));
    values.add("refused or unanswered, %", 100.0 - share("failed-queue") - share("kafka"));
    let acknowledged: Vec<String> = sent.iter().filter_map(|one| one.message_id.clone()).collect();
    stored(bench, &target, &acknowledged, back, &mut values).await?;
    target.end().await?;
    Ok(values)
}

fn latencies<'a>(values: &mut Values, name: &str, some: impl Iterator<Item = &'a Sent>) -> Result<()> {
    let mut latencies = Histogram::<u64>::new(3)?;
    some.for_each(|one| record(&mut latencies, micros(one.latency)));
    values.histogram(name, &latencies);
    Ok(())
}

/// Waits until everything is stored that was acknowledged.
async fn stored(
    bench: &Bench,
    target: &Target<'_>,
    acknowledged: &[String],
    back: Instant,
    values: &mut Values,
) -> Result<()> {
    let messages = target.messages().context("no store")?;
    let limit = Duration::from_secs_f64(bench.options.drain_limit);
    let drained = messages.drained(acknowledged.len(), limit).await?;
    values.drained("Kafka is back", drained.map(|_| back.elapsed()));
    values.stored(&messages.verify(acknowledged, "outage.", limit).await?);
    Ok(())
}

async fn connect(bench: &Bench, target: &Target<'_>) -> Result<Vec<(Arc<Client>, String)>> {
    let name = unique("outage");
    let url = target.urls().into_iter().next().context("no gateway")?;
    stream::iter(0..SOCKETS)
        .map(|number| {
            let auth = json!({ "token": token(&format!("{name}-{number}"), &bench.secret, TOKENS) });
            let (url, friend) = (url.clone(), format!("{name}-{}", number ^ 1));
            async move { anyhow::Ok((Arc::new(Client::connect_to(&url, &auth, |_| {}).await?), friend)) }
        })
        .buffered(8)
        .try_collect()
        .await
}

/// A send every [`PACE`], whether or not those before it are answered.
async fn load(clients: Vec<(Arc<Client>, String)>, sent: Arc<Mutex<Vec<Sent>>>, lasting: Duration) -> Result<()> {
    let (mut ticks, until) = (interval(PACE), Instant::now() + lasting);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut sends = JoinSet::new();
    for number in 0.. {
        let due = ticks.tick().await.into_std();
        if due >= until {
            break;
        }
        let ((client, friend), sent) = (clients[number % clients.len()].clone(), sent.clone());
        sends.spawn(async move {
            let payload = json!({ "tempId": format!("outage.{number}"), "friendId": friend, "content": content(100) });
            let answer = timeout(PATIENCE, client.emit_with_ack("sendMessage", &payload)).await;
            let one = outcome(due, answer.ok().and_then(Result::ok));
            sent.lock().unwrap_or_else(PoisonError::into_inner).push(one);
        });
        while sends.try_join_next().is_some() {}
    }
    while sends.join_next().await.is_some() {}
    Ok(())
}

fn outcome(due: Instant, answer: Option<Value>) -> Sent {
    let answer = answer.unwrap_or_default();
    let positive = answer["ok"] == true;
    let outcome = if positive { &answer["durability"] } else { &answer["error"]["code"] };
    let message_id = answer["message"]["messageId"].as_str().filter(|_| positive).map(str::to_owned);
    Sent { due, latency: due.elapsed(), outcome: outcome.as_str().unwrap_or("UNANSWERED").to_owned(), message_id }
}
