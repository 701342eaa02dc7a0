//! The producer behind a [`Publisher`](crate::Publisher), and its replacement after it has failed for good.
//!
//! See `docs/decisions/kafka-producer.md`.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer};
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep};

use crate::context::Callbacks;
use crate::delivery::{Acknowledged, Report, classify};

/// The shortest and the longest wait before the next producer is built.
const WAIT: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// A producer that took the place of a dead one and has lived for this long may be taken for one that works.
const SOUND_AFTER: Duration = Duration::from_secs(3);

pub(crate) type Producer = ThreadedProducer<Context>;

/// Receives the delivery reports of one producer.
pub(crate) struct Context {
    callbacks: Callbacks,
    /// Enqueued and not yet reported on. librdkafka's own count includes its log lines and errors.
    in_flight: AtomicUsize,
    born: Instant,
    /// Kafka has acknowledged a record of this producer.
    proven: AtomicBool,
    /// When it did so last, in milliseconds since `born`.
    acknowledged_at: AtomicU64,
    /// No broker was connected, and none has acknowledged a record since.
    brokers_down: AtomicBool,
}

impl Context {
    fn new(callbacks: Callbacks) -> Self {
        Self {
            callbacks,
            in_flight: AtomicUsize::new(0),
            born: Instant::now(),
            proven: AtomicBool::new(false),
            acknowledged_at: AtomicU64::new(0),
            brokers_down: AtomicBool::new(false),
        }
    }

    /// Counts a record that is about to be enqueued.
    pub(crate) fn enqueued(&self) {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
    }

    /// Uncounts a record that could not be enqueued.
    pub(crate) fn refused(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// Records that the producer has failed for good.
    pub(crate) fn died(&self, code: RDKafkaErrorCode, reason: &str) {
        self.callbacks.raise(&format!("{code}: {reason}"));
    }

    /// Whether no broker was connected, and none has acknowledged a record since.
    pub(crate) fn brokers_are_down(&self) -> bool {
        self.brokers_down.load(Ordering::Relaxed)
    }

    /// For how long Kafka has acknowledged nothing; zero until it has acknowledged something, which may take long on a new connection.
    pub(crate) fn silence(&self) -> Duration {
        match self.is_proven() {
            true => {
                self.born.elapsed().saturating_sub(Duration::from_millis(self.acknowledged_at.load(Ordering::Relaxed)))
            }
            false => Duration::ZERO,
        }
    }

    fn acknowledged(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.acknowledged_at.store(now, Ordering::Relaxed);
        if self.brokers_are_down() {
            self.brokers_down.store(false, Ordering::Relaxed);
        }
        if !self.proven.swap(true, Ordering::Relaxed) {
            self.callbacks.recovered();
        }
    }

    fn is_proven(&self) -> bool {
        self.proven.load(Ordering::Relaxed)
    }
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.callbacks.log(level, facility, line);
    }
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::AllBrokersDown) {
            self.brokers_down.store(true, Ordering::Relaxed);
        }
        self.callbacks.error(error, reason);
    }
    fn stats_raw(&self, _: &[u8]) {}
}

impl ProducerContext<NoCustomPartitioner> for Context {
    type DeliveryOpaque = Box<oneshot::Sender<Report>>;

    fn delivery(&self, result: &DeliveryResult<'_>, report: Self::DeliveryOpaque) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
        // The caller may have stopped waiting.
        let _ = report.send(match result {
            Ok(record) => {
                self.acknowledged();
                Ok(Acknowledged { partition: record.partition(), offset: record.offset() })
            }
            Err((error, record)) => {
                let size = record.payload_len() + record.key_len();
                Err(classify(error, size, true))
            }
        });
    }
}

/// One producer at a time; none between a fatal error and the replacement.
pub(crate) struct Slot {
    config: ClientConfig,
    state: RwLock<State>,
}

struct State {
    current: Option<Arc<Producer>>,
    /// Why the previous producer failed.
    died_of: Option<String>,
}

impl Slot {
    /// With a producer. `client` is what its log lines are called by.
    pub(crate) fn new(config: ClientConfig, client: &'static str) -> KafkaResult<Self> {
        let producer = build(&config, Callbacks::new(client))?;
        let state = State { current: Some(producer), died_of: None };
        Ok(Self { config, state: RwLock::new(state) })
    }

    /// The producer; or, between two of them, why the last one died.
    pub(crate) fn current(&self) -> Result<Arc<Producer>, String> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.current.clone().ok_or_else(|| state.reason())
    }

    /// The producer, if there is no reason to think that it is dead or about to die as the one before it.
    pub(crate) fn sound(&self) -> Result<Arc<Producer>, String> {
        let producer = self.current()?;
        if let Some((code, reason)) = producer.client().fatal_error() {
            return Err(format!("{code}: {reason}"));
        }
        let context = producer.client().context();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        match &state.died_of {
            Some(_) if !context.is_proven() && context.born.elapsed() < SOUND_AFTER => Err(state.reason()),
            _ => Ok(Arc::clone(&producer)),
        }
    }

    /// Records enqueued and not yet reported on.
    pub(crate) fn in_flight(&self) -> usize {
        self.current().map_or(0, |producer| producer.client().context().in_flight.load(Ordering::Relaxed))
    }

    /// Replaces the producer whenever it has died.
    pub(crate) async fn keep_alive(&self, rebuilt: impl Fn() + Send) {
        let mut wait = WAIT.0;
        while let Ok(producer) = self.current() {
            let context = producer.client().context();
            let mut fatal = context.callbacks.fatal();
            let reason = match fatal.wait_for(Option::is_some).await {
                Ok(reason) => reason.clone().unwrap_or_default(),
                // The sender lives in the context.
                Err(_) => return,
            };
            if context.is_proven() || context.born.elapsed() > 2 * WAIT.1 {
                wait = WAIT.0;
            }
            let callbacks = context.callbacks.succeeded();
            self.retire(producer, reason);
            tracing::debug!(?wait, "kafka's producer is built anew");
            sleep(wait).await;
            wait = (wait * 2).min(WAIT.1);
            self.replace(callbacks).await;
            rebuilt();
        }
    }

    /// Removes a dead producer. Dropping it makes librdkafka report on all its records at once, so that no caller waits longer.
    fn retire(&self, dead: Arc<Producer>, reason: String) {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        *state = State { current: None, died_of: Some(reason) };
        drop(state);
        // On a thread of its own, for it waits for librdkafka's threads; and it must be the last to hold it, for the same reason.
        let mut held = Some(dead);
        let drop_it = move || {
            while let Some(Err(shared)) = held.take().map(Arc::try_unwrap) {
                held = Some(shared);
                std::thread::sleep(Duration::from_millis(5));
            }
        };
        if let Err(error) = std::thread::Builder::new().name("dead producer".into()).spawn(drop_it) {
            tracing::warn!(%error, "a dead producer could not be taken away on a thread of its own");
        }
    }

    /// Builds the next producer, however often that takes.
    async fn replace(&self, callbacks: Callbacks) {
        loop {
            let (config, callbacks) = (self.config.clone(), callbacks.succeeded());
            match tokio::task::spawn_blocking(move || build(&config, callbacks)).await {
                Ok(Ok(producer)) => {
                    self.state.write().unwrap_or_else(PoisonError::into_inner).current = Some(producer);
                    return;
                }
                // As when a certificate's file is being replaced.
                Ok(Err(error)) => tracing::warn!(%error, "kafka's producer can't be built anew, trying on"),
                Err(error) => tracing::error!(%error, "kafka's producer can't be built anew, trying on"),
            }
            sleep(WAIT.1).await;
        }
    }
}

impl State {
    fn reason(&self) -> String {
        let reason = self.died_of.as_deref().unwrap_or("unknown");
        format!("kafka's producer died and is built anew: {reason}")
    }
}

fn build(config: &ClientConfig, callbacks: Callbacks) -> KafkaResult<Arc<Producer>> {
    config.create_with_context(Context::new(callbacks)).map(Arc::new)
}
