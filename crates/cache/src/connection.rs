//! One multiplexed connection to one server: lazy, reconnecting in the background, and every call within its caller's deadline.
//!
//! redis-rs would answer late after 500 ms on its own. That is switched off here: the caller's deadline is the only clock, and it
//! alone decides what a late answer means. A call that runs into its deadline after it was sent may have happened, or may happen
//! yet, and says so ([`CacheError::Unavailable`]). Nothing is ever sent twice behind the caller's back, but for scripts that the
//! server answered it doesn't know.
//!
//! A connection is replaced when its stream ends (noticed at once, also while idle, because RESP3 clients are told), when the
//! server says that it is a replica now, and when a call that ran late stays unanswered for two seconds more: a peer that vanished
//! without a word would otherwise be waited for until TCP gives up.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, ConnectionAddr, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind, Value};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use crate::CacheError;
use crate::metrics::CacheMetrics;
use crate::script::Call;

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How much longer than its deadline a call may stay unanswered before the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(2);
/// Commands that may wait to be written; more wait in their callers, within their deadlines.
const WRITE_QUEUE: usize = 1024;

/// A connection to one server. Cheap to clone; all clones share the one connection.
#[derive(Clone)]
pub struct Connection {
    shared: Arc<Shared>,
}

struct Shared {
    name: &'static str,
    client: redis::Client,
    metrics: CacheMetrics,
    status: watch::Sender<Status>,
    generation: AtomicU64,
}

enum Status {
    /// Not connected, and nobody is trying.
    Idle,
    Connecting,
    Up(Live),
}

/// One established connection. Calls on it go to this one server process or fail.
#[derive(Clone)]
pub(crate) struct Live {
    raw: MultiplexedConnection,
    /// Counts the connections of one [`Connection`].
    pub(crate) generation: u64,
    shared: Weak<Shared>,
    watched: Arc<AtomicBool>,
}

/// A client for an address, with RESP3 and without Nagle's algorithm. `rediss://` means TLS; user and password lie in the URL.
pub(crate) fn client(url: &str) -> Result<redis::Client, CacheError> {
    // redis-rs repeats the URL's parts in no error, so no password gets into a log.
    let address = |error: redis::RedisError| CacheError::Address(error.to_string());
    let info = url.into_connection_info().map_err(address)?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // An error means that the process has chosen a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    redis::Client::open(info.set_redis_settings(redis).set_tcp_settings(tcp)).map_err(address)
}

/// The settings of every connection: no clock but the caller's.
pub(crate) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_pipeline_buffer_size(WRITE_QUEUE)
}

/// Waits between attempts to connect: doubling, with jitter, from 25..50 ms to 0.5..1 s.
pub(crate) fn connect_backoff(attempt: u32) -> Duration {
    let most = 50_u64.saturating_mul(1 << attempt.min(5)).min(1000);
    Duration::from_millis(fastrand::u64(most / 2..=most))
}

impl Connection {
    /// A connection that is made when it is first needed. `name` is for logs.
    ///
    /// # Errors
    /// [`CacheError::Address`] if the URL is none; never because the server is away.
    pub fn open(name: &'static str, url: &str, metrics: CacheMetrics) -> Result<Self, CacheError> {
        let client = client(url)?;
        let (status, _) = watch::channel(Status::Idle);
        Ok(Self { shared: Arc::new(Shared { name, client, metrics, status, generation: AtomicU64::new(0) }) })
    }

    /// Another connection to the same server, for calls that block theirs.
    #[must_use]
    pub fn another(&self) -> Self {
        let shared = &self.shared;
        let (status, _) = watch::channel(Status::Idle);
        Self {
            shared: Arc::new(Shared {
                name: shared.name,
                client: shared.client.clone(),
                metrics: shared.metrics.clone(),
                status,
                generation: AtomicU64::new(0),
            }),
        }
    }

    /// Asks the server for a sign of life.
    pub async fn ping(&self, budget: Duration) -> Result<(), CacheError> {
        let ping = vec![Call::new("PING")];
        self.run("ping", ping, budget).await?.into_iter().next().unwrap_or(Ok(Value::Nil)).map(drop)
    }

    /// Whether there is a connection now. It may break at the next moment.
    pub fn is_connected(&self) -> bool {
        matches!(*self.shared.status.borrow(), Status::Up(_))
    }

    pub(crate) fn metrics(&self) -> &CacheMetrics {
        &self.shared.metrics
    }

    pub(crate) fn redis_client(&self) -> &redis::Client {
        &self.shared.client
    }

    /// Sends calls as one pipeline; each has a result of its own.
    pub(crate) async fn run(
        &self,
        op: &'static str,
        calls: Vec<Call>,
        budget: Duration,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let deadline = Instant::now() + budget;
        let live = self.live(deadline).await;
        let started = Instant::now();
        let result = match live {
            Ok(live) => live.run(calls, deadline).await,
            Err(error) => Err(error),
        };
        let label = match &result {
            Ok(results) => results.iter().find_map(|result| result.as_ref().err()).map_or("ok", CacheError::label),
            Err(error) => error.label(),
        };
        self.shared.metrics.operation(op, label, started.elapsed());
        result
    }

    /// Sends one call.
    pub(crate) async fn run_one(&self, op: &'static str, call: Call, budget: Duration) -> Result<Value, CacheError> {
        let mut results = self.run(op, vec![call], budget).await?;
        results.pop().unwrap_or_else(|| Err(CacheError::unexpected("no answer")))
    }

    /// The established connection, waited for until the deadline.
    pub(crate) async fn live(&self, deadline: Instant) -> Result<Live, CacheError> {
        let mut status = self.shared.status.subscribe();
        let wait = async {
            loop {
                if let Status::Up(live) = &*status.borrow_and_update() {
                    return Some(live.clone());
                }
                Shared::connect(&self.shared);
                // The sender lives in `self`.
                status.changed().await.ok()?;
            }
        };
        match timeout_at(deadline, wait).await {
            Ok(Some(live)) => Ok(live),
            _ => Err(CacheError::Unavailable { maybe_applied: false, reason: "not connected".into() }),
        }
    }
}

impl Shared {
    /// Starts connecting, unless that is being done or done.
    fn connect(shared: &Arc<Self>) {
        let started = shared.status.send_if_modified(|status| {
            let idle = matches!(status, Status::Idle);
            if idle {
                *status = Status::Connecting;
            }
            idle
        });
        if started {
            tokio::spawn(Self::keep_trying(Arc::downgrade(shared)));
        }
    }

    async fn keep_trying(shared: Weak<Self>) {
        for attempt in 0_u32.. {
            let Some(this) = shared.upgrade() else { return };
            let generation = this.generation.fetch_add(1, Ordering::Relaxed) + 1;
            let (name, client) = (this.name, this.client.clone());
            drop(this);
            let told = shared.clone();
            let config = connection_config().set_push_sender(move |info: PushInfo| {
                if info.kind == PushKind::Disconnection
                    && let Some(shared) = told.upgrade()
                {
                    Self::lost(&shared, generation);
                }
                Ok::<(), redis::aio::SendError>(())
            });
            match client.get_multiplexed_async_connection_with_config(&config).await {
                Ok(raw) => {
                    let Some(this) = shared.upgrade() else { return };
                    let live = Live { raw, generation, shared: shared.clone(), watched: Arc::default() };
                    this.status.send_replace(Status::Up(live));
                    if attempt > 0 {
                        tracing::info!(server = name, "redis is reachable");
                    }
                    return;
                }
                Err(error) => {
                    if attempt == 0 {
                        tracing::warn!(server = name, %error, "redis is not reachable, trying on");
                    }
                    tokio::time::sleep(connect_backoff(attempt)).await;
                }
            }
        }
    }

    /// Gives a connection up and makes another.
    fn lost(shared: &Arc<Self>, generation: u64) {
        let was_up = shared.status.send_if_modified(|status| {
            let this_one = matches!(status, Status::Up(live) if live.generation == generation);
            if this_one {
                *status = Status::Idle;
            }
            this_one
        });
        if was_up {
            Self::connect(shared);
        }
    }
}

impl Live {
    /// Gives this connection up; the next call gets another.
    pub(crate) fn give_up(&self) {
        if let Some(shared) = self.shared.upgrade() {
            Shared::lost(&shared, self.generation);
        }
    }

    /// Sends calls as one pipeline on this connection. Scripts that the server does not know are loaded and called again.
    pub(crate) async fn run(
        &self,
        calls: Vec<Call>,
        deadline: Instant,
    ) -> Result<Vec<Result<Value, CacheError>>, CacheError> {
        let mut pipeline = redis::Pipeline::with_capacity(calls.len());
        for call in &calls {
            pipeline.add_command(call.cmd.clone());
        }
        let mut answers = self.exec(pipeline, deadline).await?;
        if answers.len() != calls.len() {
            return Err(CacheError::unexpected(format!("{} answers to {} calls", answers.len(), calls.len())));
        }
        let unknown: Vec<usize> = (0..calls.len()).filter(|&index| is_no_script(&answers[index])).collect();
        if !unknown.is_empty() {
            // An unknown script did nothing, so its call may be repeated.
            let mut pipeline = redis::Pipeline::new();
            let mut loaded: Vec<&str> = Vec::new();
            for script in unknown.iter().filter_map(|&index| calls[index].script) {
                if !loaded.contains(&script.sha()) {
                    loaded.push(script.sha());
                    pipeline.cmd("SCRIPT").arg("LOAD").arg(script.source());
                }
            }
            let loads = loaded.len();
            for &index in &unknown {
                pipeline.add_command(calls[index].cmd.clone());
            }
            let again = self.exec(pipeline, deadline).await?;
            for (&index, answer) in unknown.iter().zip(again.into_iter().skip(loads)) {
                answers[index] = answer;
            }
        }
        Ok(answers
            .into_iter()
            .map(|answer| match answer {
                Value::ServerError(error) => {
                    if error.code() == "READONLY" {
                        self.give_up();
                    }
                    Err(CacheError::Refused(format!("{} {}", error.code(), error.details().unwrap_or_default())))
                }
                value => Ok(value),
            })
            .collect())
    }

    async fn exec(&self, pipeline: redis::Pipeline, deadline: Instant) -> Result<Vec<Value>, CacheError> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        let mut raw = self.raw.clone();
        let count = pipeline.len();
        let mut answer = Box::pin(async move { raw.send_packed_commands(&pipeline, 0, count).await });
        match timeout_at(deadline, &mut answer).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => {
                self.give_up();
                Err(CacheError::Unavailable { maybe_applied: true, reason: error.to_string() })
            }
            Err(_) => {
                if !self.watched.swap(true, Ordering::Relaxed) {
                    let live = self.clone();
                    tokio::spawn(async move {
                        if timeout(SILENCE, answer).await.is_err() {
                            live.give_up();
                        }
                        live.watched.store(false, Ordering::Relaxed);
                    });
                }
                Err(CacheError::Unavailable { maybe_applied: true, reason: "no answer in time".into() })
            }
        }
    }
}

fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
