//! Stores messages from Kafka in MongoDB, each exactly once, and commits only what is stored.
//!
//! # The journey of a record
//!
//! 1. [`consume`]: one loop takes it from the group's consumer. The loop owns everything below and never stops polling.
//! 2. [`decode`]: it is a message, or undecodable, or of a newer schema. The last kind stops its partition until a newer worker
//!    has it.
//! 3. [`buffer`]: the message waits with others. [`backpressure`] stops fetching while too many wait.
//! 4. [`flush`]: a batch is stored while consuming goes on. A message ends as stored, as stored before, or as a dead letter; any
//!    other outcome is tried again for ever.
//! 5. [`ledger`]: says how far each partition is done, and for which assignment. [`gaps`] distinguishes lost records from a
//!    transaction's markers.
//! 6. [`commit`]: commits each partition's offset, one commit at a time; it counts as committed once the broker has confirmed it.
//! 7. [`dead_letter`]: publishes what can't be decoded or stored to the dead-letter topic, with the reason, before it counts as done.
//! 8. [`heal`]: in the background, adds messages that the recent lists may lack; [`conversations`] updates the view of chats by last
//!    message. No record waits for either; each has a [`bounded_queue`]. Shutdown waits for that of the conversations to empty.
//! 9. [`cleanup`]: where it is switched on, records that every group has read are deleted.
//!
//! [`consume::assignment`] handles the assignment and revocation of partitions, [`authorization`] watches whether Kafka lets this worker
//! read, and [`health`] and [`metrics`] report the state to others. [`depths`] reports what waits in Kafka.
//!
//! What a commit does *not* promise: that a record was stored once only. A worker that dies between storing and committing
//! leaves records to be stored again; the primary key absorbs them.

pub mod authorization;
pub mod backoff;
pub mod backpressure;
pub mod bounded_queue;
pub mod buffer;
pub mod cleanup;
pub mod commit;
pub mod config;
pub mod consume;
pub mod conversations;
pub mod dead_letter;
pub mod decode;
pub mod depths;
pub mod flush;
pub mod gaps;
pub mod heal;
pub mod health;
pub mod ledger;
pub mod metrics;
pub mod report;

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::{Origin, RecentList};
use holdfast_kafka::{Admin, AdminError, GroupConsumer, Publisher};
use holdfast_keys::Keys;
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_service::ops;
use holdfast_store::{Store, StoreError};
use prometheus::Registry;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::consume::{Ending, Loop, LoopSettings, Wiring};
use crate::conversations::Conversations;
use crate::dead_letter::{DeadLetterTopic, DeadLetters};
use crate::depths::Depths;
use crate::flush::{Flusher, LONE_REFUSAL};
use crate::heal::{CachedLists, Healer};
use crate::health::State;
use crate::metrics::Metrics;
use crate::report::Waker;

/// Why a worker ended without being asked to.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Failure {
    /// It can't be built from its settings.
    #[error("{0}")]
    Setup(String),
    /// A Kafka client has failed for good, and only a new process can build another.
    #[error("a kafka client is dead: {0}")]
    Client(String),
    /// The loop panicked.
    #[error("the loop ended unexpectedly")]
    Loop,
}

fn setup(error: impl std::fmt::Display) -> Failure {
    Failure::Setup(error.to_string())
}

/// Runs a worker until `stop` is cancelled and everything received is stored, or until the grace has passed.
///
/// Waits for servers that are not available yet. Ends within `SHUTDOWN_GRACE_MS` of the cancellation, although a thread may then
/// still be leaving the group: the caller should end the process.
pub async fn run(config: Config, listener: TcpListener, stop: CancellationToken) -> Result<(), Failure> {
    let registry = ops::registry("worker").map_err(setup)?;
    let metrics = Metrics::register(&registry).map_err(setup)?;
    let state = Arc::new(State::default());
    // The health endpoint answers until the very end.
    let ended = CancellationToken::new();
    let _ends = ended.clone().drop_guard();
    let served = (config.connections.operators(), metrics.connections.clone());
    tokio::spawn(ops::serve(listener, registry.clone(), Arc::clone(&state), served, ended.clone()));

    let started = tokio::select! {
        started = start(&config, &registry, metrics, state, ended, stop.clone()) => started?,
        () = stop.cancelled() => {
            tracing::info!("asked to stop before the servers were there");
            return Ok(());
        }
    };
    let LoopHandles { waker, mut ending, left_group, conversations_done } = started;
    let ending = tokio::select! {
        ending = &mut ending => ending.map_err(|_| Failure::Loop)?,
        () = stop.cancelled() => {
            waker.wake();
            // The loop keeps to its own deadline; this one is for a loop that hangs.
            let grace = config.servers.shutdown_grace.0;
            let deadline = Instant::now() + grace.saturating_sub(Duration::from_millis(500).min(grace / 10));
            let Ok(ending) = tokio::time::timeout_at(deadline, ending).await else {
                tracing::error!("the loop did not end in time: ending without it");
                return Ok(());
            };
            let ending = ending.map_err(|_| Failure::Loop)?;
            let (left_group, conversations_done) = tokio::join!(
                tokio::time::timeout_at(deadline, left_group),
                tokio::time::timeout_at(deadline, conversations_done)
            );
            if left_group.is_err() {
                tracing::warn!("leaving the group takes too long: ending without it");
            }
            if conversations_done.is_err() {
                tracing::warn!("updating the view of conversations takes too long: ending without it");
            }
            ending
        }
    };
    match ending {
        Ending::Fatal(reason) => Err(Failure::Client(reason)),
        Ending::Drained => {
            tracing::info!("everything received is stored and committed");
            Ok(())
        }
        Ending::LeftBehind(messages) => {
            tracing::warn!(messages, "left for the next worker: not stored or not committed in time");
            Ok(())
        }
    }
}

/// The handles of a loop that runs on its thread.
struct LoopHandles {
    waker: Waker,
    ending: oneshot::Receiver<Ending>,
    left_group: oneshot::Receiver<()>,
    conversations_done: JoinHandle<()>,
}

async fn start(
    config: &Config,
    registry: &Registry,
    metrics: Metrics,
    state: Arc<State>,
    ended: CancellationToken,
    stop: CancellationToken,
) -> Result<LoopHandles, Failure> {
    let kafka = config.kafka();
    let admin = Admin::new(&kafka, Duration::from_secs(5)).map_err(setup)?;
    let store = Arc::new(connect(config).await?);
    let healer = healer(config, registry, &metrics, &state, &ended)?;
    tokio::spawn(ended.clone().run_until_cancelled_owned(index_and_ping(Arc::clone(&store), Arc::clone(&state))));
    topics(&admin).await;
    let depths = Depths { kafka: kafka.clone(), group: config.worker.kafka_group.clone() };
    tokio::spawn(ended.clone().run_until_cancelled_owned(depths::run(admin.clone(), depths, metrics.clone())));
    if let Some(cleanup) = config.cleanup() {
        tokio::spawn(ended.clone().run_until_cancelled_owned(cleanup::run(admin, cleanup)));
    }

    let publisher = match config.worker.dlq_enabled {
        true => Some(Publisher::dead_letters(&kafka).map_err(setup)?),
        false => None,
    };
    if let Some(publisher) = publisher.clone() {
        // Only what can't be stored waits for it: everything else goes on.
        let rebuilds = metrics.producer_rebuilds.clone();
        tokio::spawn(ended.run_until_cancelled_owned(async move { publisher.keep_alive(|| rebuilds.inc()).await }));
    }
    let topic = publisher.map(|publisher| DeadLetterTopic {
        publisher,
        topic: kafka.dlq_topic.as_str().into(),
        source: kafka.topic.as_str().into(),
    });
    let waker = Waker::default();
    let wake = waker.clone();
    let consumer = GroupConsumer::subscribe(&kafka, &config.consumer(), move || wake.wake()).map_err(setup)?;
    let (conversations, conversations_done) = Conversations::start(Arc::clone(&store), metrics.clone());
    let wiring = Wiring {
        consumer,
        waker: waker.clone(),
        runtime: Handle::current(),
        conversations,
        sink: store,
        flusher: Flusher::new(config.worker.bulk_threshold, config.worker.flush_interval.0, LONE_REFUSAL),
        letters: DeadLetters::new(topic),
        healer,
        metrics,
        state,
        stop,
        settings: LoopSettings {
            capacity: config.capacity(),
            revoke_within: config.worker.rebalance_flush.0,
            drain_within: config.drain_within(),
        },
    };
    let (ending, left_group) = spawn(Loop::new(wiring)).map_err(setup)?;
    Ok(LoopHandles { waker, ending, left_group, conversations_done })
}

/// Runs a loop on a thread of its own: reports how it ended, and then that it has left the group.
pub fn spawn<S: flush::Sink>(worker: Loop<S>) -> std::io::Result<(oneshot::Receiver<Ending>, oneshot::Receiver<()>)> {
    let (ended, ending) = oneshot::channel();
    let (has_left, left_group) = oneshot::channel();
    std::thread::Builder::new().name("consume".into()).spawn(move || {
        let (how, consumer) = worker.run();
        // The receiver may be gone, which changes nothing here.
        let _ = ended.send(how);
        drop(consumer);
        let _ = has_left.send(());
    })?;
    Ok((ending, left_group))
}

async fn connect(config: &Config) -> Result<Store, Failure> {
    loop {
        match Store::new(config.store()).await {
            Ok(store) => return Ok(store),
            Err(StoreError::Unavailable(reason)) => {
                tracing::warn!(reason, "mongodb's address can't be looked up, trying on")
            }
            Err(error) => return Err(setup(error)),
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

fn healer(
    config: &Config,
    registry: &Registry,
    metrics: &Metrics,
    state: &Arc<State>,
    ended: &CancellationToken,
) -> Result<Healer, Failure> {
    let keys = Keys::of(&config.cache).map_err(setup)?;
    let cache = RedisMetrics::register_with(registry, config.cache.cache_metrics_enabled).map_err(setup)?;
    let servers = &config.servers;
    let connection =
        Connection::open_at("cache", &servers.redis_url(), servers.redis_cluster(), cache).map_err(setup)?;
    let lists = RecentList::new(connection, keys, config.recent(), Origin::random());
    let recent = CachedLists(lists);
    Ok(Healer::start(Arc::new(recent), Arc::clone(state), metrics.clone(), ended.clone()))
}

/// Creates the indexes, which only readers need, and then pings MongoDB from time to time while there is nothing to store.
async fn index_and_ping(store: Arc<Store>, state: Arc<State>) {
    let mut failures = 0_u32;
    while let Err(error) = store.ensure_indexes().await {
        state.mongodb(false);
        failures += 1;
        if failures.is_power_of_two() {
            tracing::warn!(%error, failures, "mongodb's indexes can't be made, trying on");
        }
        tokio::time::sleep(Duration::from_secs(2)).await;
    }
    loop {
        state.mongodb(store.ping(Duration::from_secs(2)).await.is_ok());
        tokio::time::sleep(Duration::from_secs(5)).await;
    }
}

/// Waits until both topics exist, creating them if they are missing, and logs what weakens the delivery promise.
async fn topics(admin: &Admin) {
    let mut failures = 0_u32;
    let report = loop {
        let error = match admin.ensure_topics().await {
            Ok(report) => break report,
            Err(error) => error,
        };
        failures += 1;
        match error {
            AdminError::Refused { .. } => tracing::error!(%error, "a topic is missing and can't be made"),
            AdminError::Unavailable(_) if failures.is_power_of_two() => {
                tracing::warn!(%error, failures, "waiting for kafka")
            }
            AdminError::Unavailable(_) => {}
        }
        tokio::time::sleep(Duration::from_millis(500).saturating_mul(failures.min(20))).await;
    };
    report.warnings.iter().for_each(|warning| tracing::warn!("{warning}"));
}
