//! A large group whose members are connected to two gateways.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use futures_util::{StreamExt, TryStreamExt, stream};
use hdrhistogram::Histogram;
use holdfast_socketio_client::Client;
use holdfast_testkit::{token, unique};
use mongodb::bson::{Document, doc};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Notify;

use crate::load::{TOKENS, content, micros, record};
use crate::services::Needs;
use crate::subject::Subject;
use crate::target::{Bench, Target};
use crate::usage::Meter;
use crate::values::Values;

/// Sends one after the other, the first of which do not count, and sends at once.
const ONE_BY_ONE: usize = 25;
const WARM_UP: usize = 5;
const AT_ONCE: usize = 20;
/// How long all deliveries of a send may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How many connect at once.
const CONNECTING: usize = 32;
const CHAT: &str = "g_00000000-0000-4000-8000-00000000be7c";

#[derive(Deserialize)]
struct Delivery<'a> {
    #[serde(rename = "tempId")]
    temp_id: Option<&'a str>,
}

/// Counts deliveries.
struct Arrivals {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    begun: Instant,
    count: usize,
    latencies: Histogram<u64>,
}

impl Arrivals {
    fn arrived(&self, data: &str) {
        let ours = serde_json::from_str::<Delivery<'_>>(data).is_ok_and(|delivery| delivery.temp_id.is_some());
        if !ours {
            return;
        }
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.count += 1;
        let latency = micros(state.begun.elapsed());
        record(&mut state.latencies, latency);
        self.changed.notify_one();
    }

    /// Begins to count anew; returns the latencies so far.
    fn begin(&self) -> Result<Histogram<u64>> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        (state.begun, state.count) = (Instant::now(), 0);
        Ok(std::mem::replace(&mut state.latencies, Histogram::new(3)?))
    }

    async fn all(&self, count: usize) -> Result<()> {
        let waited = tokio::time::timeout(PATIENCE, async {
            while self.state.lock().unwrap_or_else(PoisonError::into_inner).count < count {
                self.changed.notified().await;
            }
        });
        waited.await.with_context(|| format!("not all of {count} deliveries arrive"))
    }
}

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs { gateways: 2, worker: true }).await?;
    let members = bench.options.members;
    let name = unique("member");
    make_group(&target, &name, members).await?;
    let state = State { begun: Instant::now(), count: 0, latencies: Histogram::new(3)? };
    let arrivals = Arc::new(Arrivals { state: Mutex::new(state), changed: Notify::new() });
    let clients = connect(bench, &target, &name, &arrivals).await?;

    let mut values = Values::default();
    let (mut answers, mut all, mut last) =
        (Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?, Histogram::<u64>::new(3)?);
    let mut meter = Meter::start(target.processes());
    for number in 0..WARM_UP + ONE_BY_ONE {
        if number == WARM_UP {
            meter = Meter::start(target.processes());
        }
        arrivals.begin()?;
        let begun = Instant::now();
        send(&clients[number % members], &format!("one-{number}")).await?;
        let answered = begun.elapsed();
        arrivals.all(members).await?;
        let arrived = begun.elapsed();
        let latencies = arrivals.begin()?;
        if number >= WARM_UP {
            record(&mut answers, micros(answered));
            record(&mut last, micros(arrived));
            all.add(latencies)?;
        }
    }
    let spent = meter.spent();
    values.histogram("one by one: answer", &answers);
    values.histogram("one by one: delivery to a member", &all);
    values.histogram("one by one: delivery to the last member", &last);
    values.spent(&spent, (ONE_BY_ONE * members) as u64, "a delivery");

    arrivals.begin()?;
    let begun = Instant::now();
    let sends = (0..AT_ONCE).map(|number| {
        let client = &clients[number % members];
        async move { send(client, &format!("many-{number}")).await }
    });
    futures_util::future::try_join_all(sends).await?;
    arrivals.all(AT_ONCE * members).await?;
    values.add(
        format!("{AT_ONCE} sends at once: deliveries/s"),
        (AT_ONCE * members) as f64 / begun.elapsed().as_secs_f64(),
    );
    drop(clients);
    target.end().await?;
    Ok(values)
}

async fn send(client: &Client, temp_id: &str) -> Result<()> {
    let payload = json!({ "chatId": CHAT, "tempId": temp_id, "content": content(100) });
    let answer = client.emit_with_ack("sendMessage", &payload).await.context("an answer")?;
    ensure!(answer["ok"] == true, "{answer}");
    Ok(())
}

/// Stores the group, as the services would have.
async fn make_group(target: &Target<'_>, name: &str, members: usize) -> Result<()> {
    let now = 1_748_736_000_000_i64;
    let members: Vec<Document> = (0..members)
        .map(|number| {
            let role = if number == 0 { "owner" } else { "member" };
            doc! { "userId": format!("{name}-{number}"), "role": role, "joinedAt": now }
        })
        .collect();
    let groups = target.messages().context("no store")?.database().collection::<Document>("groups");
    let group = doc! {
        "_id": CHAT,
        "name": "everybody",
        "members": members,
        "createdBy": format!("{name}-0"),
        "createdAt": now,
        "version": 1_i64,
    };
    groups.insert_one(group).await.context("storing the group")?;
    Ok(())
}

async fn connect(bench: &Bench, target: &Target<'_>, name: &str, arrivals: &Arc<Arrivals>) -> Result<Vec<Client>> {
    let urls = target.urls();
    stream::iter(0..bench.options.members)
        .map(|number| {
            let auth = json!({ "token": token(&format!("{name}-{number}"), &bench.secret, TOKENS) });
            let (url, arrivals) = (urls[number % urls.len()].clone(), arrivals.clone());
            async move {
                let heard = move |event: holdfast_socketio_client::Incoming<'_>| {
                    if event.name == "newMessage" {
                        arrivals.arrived(event.data);
                    }
                };
                let client = Client::connect_to(&url, &auth, heard).await?;
                // Answered once what is for its groups reaches it.
                client.emit_with_ack("resume", &json!({ "offsets": {} })).await.context("the connection ended")?;
                anyhow::Ok(client)
            }
        })
        .buffered(CONNECTING)
        .try_collect()
        .await
}
