//! Pages of history: each chat's first after its cache is empty; then those of few chats again and again; then pages of long chats, further
//! back than any cache reaches.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use holdfast_socketio_client::Client;
use holdfast_testkit::{token, unique};
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use crate::load::{TOKENS, content, micros, record};
use crate::services::Needs;
use crate::subject::Subject;
use crate::target::{Bench, Target};
use crate::usage::Meter;
use crate::values::Values;

/// The sockets that read, and the pages that each waits for.
const SOCKETS: usize = 32;
const IN_FLIGHT: usize = 2;
/// The chats that are read, those of them that are read again and again, and each one's messages.
const CHATS: usize = 4000;
const HOT: usize = 200;
const MESSAGES: usize = 40;
const LIMIT: usize = 20;
/// The long chats, each one's messages, and the page of them that is read.
const LONG_CHATS: usize = 100;
const LONG: usize = 400;
const DEEP_PAGE: usize = 10;
/// How long it may take until the cache answers for all hot chats.
const WARM: Duration = Duration::from_secs(30);
/// How many chats one insert fills.
const BATCH: usize = 50;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Answer<'a> {
    ok: bool,
    source: Option<&'a str>,
    messages: Option<Vec<serde::de::IgnoredAny>>,
    next_cursor: Option<String>,
}

/// The reader, and what it asks for.
type Request = (usize, String);

/// What a pass over chats came to.
#[derive(Debug)]
struct Pass {
    latencies: Histogram<u64>,
    sources: BTreeMap<String, u64>,
    seconds: f64,
}

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs::default()).await?;
    let name = unique("reader");
    seed(&target, &name, 0..CHATS, MESSAGES).await?;
    seed(&target, &name, CHATS..CHATS + LONG_CHATS, LONG).await?;
    let clients = connect(bench, &target, &name).await?;
    let mut values = Values::default();

    let first_pages = |chats: Range<usize>| chats.map(|chat| request(&name, chat, None)).collect::<Vec<_>>();
    let meter = Meter::start(target.processes());
    let pass = read(&clients, first_pages(0..CHATS), |number| number < CHATS).await?;
    report(&mut values, "cold", &pass, &meter);

    let hot = first_pages(0..HOT);
    let warm_by = Instant::now() + WARM;
    while read(&clients, hot.clone(), |number| number < HOT).await?.sources.keys().any(|source| source != "cache") {
        ensure!(Instant::now() < warm_by, "the cache does not answer for chats that were read\n{}", target.logs());
    }
    let until = Instant::now() + Duration::from_secs_f64(bench.options.seconds);
    let meter = Meter::start(target.processes());
    let pass = read(&clients, hot, move |_| Instant::now() < until).await?;
    report(&mut values, "hot", &pass, &meter);

    let deep = stream::iter(CHATS..CHATS + LONG_CHATS).map(|chat| deep(&clients, &name, chat)).buffered(SOCKETS);
    let deep: Vec<Request> = deep.try_collect().await?;
    let until = Instant::now() + Duration::from_secs_f64(bench.options.seconds);
    let meter = Meter::start(target.processes());
    let pass = read(&clients, deep, move |_| Instant::now() < until).await?;
    report(&mut values, "deep", &pass, &meter);
    drop(clients);
    target.end().await?;
    Ok(values)
}

fn request(name: &str, chat: usize, before: Option<&str>) -> Request {
    let before = before.map_or(String::new(), |before| format!(r#","before":"{before}""#));
    (chat % SOCKETS, format!(r#"{{"friendId":"{name}-f{chat}","limit":{LIMIT}{before}}}"#))
}

/// Goes back in a chat up to the page before [`DEEP_PAGE`].
async fn deep(clients: &[Arc<Client>], name: &str, chat: usize) -> Result<Request> {
    let mut next = request(name, chat, None);
    for _ in 1..DEEP_PAGE {
        let answer = clients[next.0].call("history", &next.1).await.context("the connection ended")?;
        let (page,): (Answer<'_>,) = serde_json::from_str(&answer).context("a page")?;
        next =
            request(name, chat, Some(&page.next_cursor.with_context(|| format!("no further page in {answer:.200}"))?));
    }
    Ok(next)
}

fn report(values: &mut Values, what: &str, pass: &Pass, meter: &Meter) {
    let spent = meter.spent();
    let pages = pass.latencies.len();
    values.add(format!("{what}: pages/s"), pages as f64 / pass.seconds);
    values.histogram(&format!("{what}: page"), &pass.latencies);
    let cached = pass.sources.get("cache").copied().unwrap_or_default();
    values.add(format!("{what}: from the cache alone, %"), cached as f64 / pages as f64 * 100.0);
    values.spent(&spent, pages, &format!("a {what} page"));
}

/// Reads these pages in turn, as long as `more` says so of the next one's number.
async fn read(
    clients: &[Arc<Client>],
    requests: Vec<Request>,
    more: impl Fn(usize) -> bool + Clone + Send + 'static,
) -> Result<Pass> {
    let (next, requests) = (Arc::new(AtomicUsize::new(0)), Arc::new(requests));
    let started = Instant::now();
    let mut loops = JoinSet::new();
    for _ in 0..SOCKETS * IN_FLIGHT {
        let (clients, requests, next, more) = (clients.to_vec(), requests.clone(), next.clone(), more.clone());
        loops.spawn(async move {
            let (mut latencies, mut sources) = (Histogram::<u64>::new(3)?, BTreeMap::<String, u64>::new());
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if !more(number) {
                    return anyhow::Ok((latencies, sources));
                }
                let (client, request) = &requests[number % requests.len()];
                let begun = Instant::now();
                let answer = clients[*client].call("history", request).await.context("the connection ended")?;
                record(&mut latencies, micros(begun.elapsed()));
                let (page,): (Answer<'_>,) = serde_json::from_str(&answer).context("a page")?;
                let count = page.messages.map_or(0, |messages| messages.len());
                ensure!(page.ok && count == LIMIT, "{count} messages in {answer:.200}");
                *sources.entry(page.source.unwrap_or("none").to_owned()).or_default() += 1;
            }
        });
    }
    let mut pass = Pass { latencies: Histogram::new(3)?, sources: BTreeMap::new(), seconds: 0.0 };
    while let Some(ended) = loops.join_next().await {
        let (latencies, sources) = ended.context("a loop ended early")??;
        pass.latencies.add(latencies)?;
        for (source, count) in sources {
            *pass.sources.entry(source).or_default() += count;
        }
    }
    pass.seconds = started.elapsed().as_secs_f64();
    Ok(pass)
}

async fn connect(bench: &Bench, target: &Target<'_>, name: &str) -> Result<Vec<Arc<Client>>> {
    let url = target.urls().into_iter().next().context("no gateway")?;
    stream::iter(0..SOCKETS)
        .map(|reader| {
            let auth = json!({ "token": token(&format!("{name}-{reader}"), &bench.secret, TOKENS) });
            let url = url.clone();
            async move { anyhow::Ok(Arc::new(Client::connect_to(&url, &auth, |_| {}).await?)) }
        })
        .buffered(8)
        .try_collect()
        .await
}

/// Stores so many messages of each of these chats, past the services.
async fn seed(target: &Target<'_>, name: &str, chats: Range<usize>, messages: usize) -> Result<()> {
    let collection = target.messages().context("no store")?.collection();
    let text = content(100);
    for first in chats.clone().step_by(BATCH) {
        let documents = (first..chats.end.min(first + BATCH)).flat_map(|chat| {
            let (reader, friend) = (format!("{name}-{}", chat % SOCKETS), format!("{name}-f{chat}"));
            // Digits come before letters.
            let id = format!("{reader}:{friend}");
            let text = &text;
            (0..messages).map(move |number| {
                let (sender, receiver) = if number % 2 == 0 { (&reader, &friend) } else { (&friend, &reader) };
                doc! {
                    "_id": format!("{:08x}-0000-5000-8000-{number:012x}", chat),
                    "tempId": format!("t{number}"),
                    "chatId": &id,
                    "senderId": sender,
                    "receiverId": receiver,
                    "content": text,
                    "timestamp": 1_748_736_000_000_i64 + number as i64 * 1000,
                }
            })
        });
        let documents: Vec<Document> = documents.collect();
        collection.insert_many(documents).await.context("storing the chats")?;
    }
    Ok(())
}
