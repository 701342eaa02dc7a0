//! One multiplexed connection to one server. It connects lazily and reconnects in the background.
//!
//! A connection is replaced in three cases: its stream ends (redis-rs reports this at once with RESP3, also while idle); the server
//! answers that it is a replica; or a call stays unanswered for two seconds beyond its deadline. Without the last rule a peer that
//! vanished silently would be waited for until TCP gives up.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, ProtocolVersion, PushInfo, PushKind,
    Value,
};
use tokio::sync::watch;
use tokio::time::{Instant, timeout, timeout_at};

use super::backoff::connect_backoff;
use super::slot::Address;
use crate::RedisError;
use crate::script::{Call, Script};

/// The time for one attempt to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may stay unanswered beyond its deadline before the connection counts as dead.
const SILENCE: Duration = Duration::from_secs(2);
/// The capacity of the write queue, in commands. When it is full, callers wait within their deadlines.
const WRITE_QUEUE: usize = 1024;

/// The next connection's generation: each connection of this process has a number of its own.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// One server. Cheap to clone; all clones share the one connection.
#[derive(Clone)]
pub struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    /// The name for logs: the role, in a cluster with the address.
    name: Arc<str>,
    address: Option<Address>,
    client: redis::Client,
    status: watch::Sender<Status>,
}

enum Status {
    /// Not connected, and no attempt is in progress.
    Idle,
    Connecting {
        /// Why the last attempt failed; `None`: the first attempt since the connection was lost is in progress.
        failed: Option<Arc<str>>,
    },
    Up(Live),
}

/// One established connection. Calls on it reach this one server process, or fail. Cheap to clone.
#[derive(Clone)]
pub struct Live {
    raw: MultiplexedConnection,
    /// The number of this connection; no other connection of this process has the same.
    pub generation: u64,
    shared: Weak<Shared>,
    watched: Arc<AtomicBool>,
}

/// Parses a URL and sets RESP3 and `TCP_NODELAY`. `rediss://` means TLS; user and password are part of the URL.
pub(super) fn settings(url: &str) -> Result<ConnectionInfo, RedisError> {
    let info = url.into_connection_info().map_err(|error| unusable(&error))?;
    if matches!(info.addr(), ConnectionAddr::TcpTls { .. }) {
        // An error means that the process has a provider already.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    let redis = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let tcp = info.tcp_settings().clone().set_nodelay(true);
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp))
}

/// Why an address can't be used, without its password: redis-rs repeats parts of the URL in an error's detail, and only there.
fn unusable(error: &redis::RedisError) -> RedisError {
    RedisError::Address(match error.detail() {
        Some(_) => "an option of the URL can't be used".into(),
        None => error.to_string(),
    })
}

/// The settings of every connection: no timeout for answers, because the caller's deadline is the only one.
pub(crate) fn connection_config() -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_response_timeout(None)
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_pipeline_buffer_size(WRITE_QUEUE)
}

impl Node {
    /// A server; the connection is established with the first call.
    pub(super) fn open(name: &str, info: ConnectionInfo) -> Result<Self, RedisError> {
        let address = Address::of(info.addr());
        let client = redis::Client::open(info).map_err(|error| unusable(&error))?;
        Ok(Self::with(name.into(), address, client))
    }

    fn with(name: Arc<str>, address: Option<Address>, client: redis::Client) -> Self {
        let (status, _) = watch::channel(Status::Idle);
        Self { shared: Arc::new(Shared { name, address, client, status }) }
    }

    /// A second connection to the same server, for calls that block their connection.
    pub fn another(&self) -> Self {
        let shared = &self.shared;
        Self::with(shared.name.clone(), shared.address.clone(), shared.client.clone())
    }

    /// The name in logs and reports.
    pub fn name(&self) -> &Arc<str> {
        &self.shared.name
    }

    /// The address; `None`: a socket file.
    pub(crate) fn address(&self) -> Option<&Address> {
        self.shared.address.as_ref()
    }

    /// The client of redis-rs, from which a subscriber makes its own connection.
    pub(crate) fn client(&self) -> &redis::Client {
        &self.shared.client
    }

    /// Starts to connect, unless a connection is established or an attempt is in progress.
    pub(crate) fn wake(&self) {
        Shared::connect(&self.shared);
    }

    /// Whether a connection is established now. It may break at any moment.
    pub fn is_connected(&self) -> bool {
        self.generation().is_some()
    }

    /// The generation of the connection that is established now.
    pub fn generation(&self) -> Option<u64> {
        match &*self.shared.status.borrow() {
            Status::Up(live) => Some(live.generation),
            _ => None,
        }
    }

    /// The established connection. Waits for it until the deadline.
    ///
    /// # Errors
    /// There is no connection by the deadline.
    pub async fn live(&self, deadline: Instant) -> Result<Live, RedisError> {
        self.live_unless(deadline, |_| false).await
    }

    /// The established connection. Waits for it until the deadline, but fails at once if the last attempt to connect failed: a server
    /// that is known to be away costs its callers no time.
    ///
    /// # Errors
    /// There is no connection.
    pub async fn live_or_away(&self, deadline: Instant) -> Result<Live, RedisError> {
        self.live_unless(deadline, |status| matches!(status, Status::Connecting { failed: Some(_) })).await
    }

    async fn live_unless(&self, deadline: Instant, hopeless: impl Fn(&Status) -> bool) -> Result<Live, RedisError> {
        let mut status = self.shared.status.subscribe();
        let wait = async {
            loop {
                match &*status.borrow_and_update() {
                    Status::Up(live) => return Some(live.clone()),
                    status if hopeless(status) => return None,
                    _ => {}
                }
                Shared::connect(&self.shared);
                // The sender lives in `self`.
                status.changed().await.ok()?;
            }
        };
        match timeout_at(deadline, wait).await {
            Ok(Some(live)) => Ok(live),
            _ => Err(RedisError::Unavailable { maybe_applied: false, reason: self.shared.why_not() }),
        }
    }
}

impl fmt::Debug for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shared.name)
    }
}

impl Shared {
    /// Why there is no connection, if that is known.
    fn why_not(&self) -> String {
        match &*self.status.borrow() {
            Status::Connecting { failed: Some(reason) } => format!("not connected: {reason}"),
            _ => "not connected".into(),
        }
    }

    /// Starts to connect, unless a connection is established or an attempt is in progress.
    fn connect(shared: &Arc<Self>) {
        let started = shared.status.send_if_modified(|status| {
            let idle = matches!(status, Status::Idle);
            if idle {
                *status = Status::Connecting { failed: None };
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
            let generation = GENERATIONS.fetch_add(1, Ordering::Relaxed);
            let (name, client) = (this.name.clone(), this.client.clone());
            drop(this);
            let weak = shared.clone();
            let config = connection_config().set_push_sender(move |info: PushInfo| {
                if info.kind == PushKind::Disconnection
                    && let Some(shared) = weak.upgrade()
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
                        tracing::info!(server = &*name, "redis is reachable");
                    }
                    return;
                }
                Err(error) => {
                    if attempt == 0 {
                        tracing::warn!(server = &*name, %error, "redis is not reachable, trying on");
                    }
                    let Some(this) = shared.upgrade() else { return };
                    this.status.send_replace(Status::Connecting { failed: Some(error.to_string().into()) });
                    drop(this);
                    tokio::time::sleep(connect_backoff(attempt)).await;
                }
            }
        }
    }

    /// Closes a connection and establishes another.
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
    /// Closes this connection; the next call gets another.
    pub fn close(&self) {
        if let Some(shared) = self.shared.upgrade() {
            Shared::lost(&shared, self.generation);
        }
    }

    /// Sends calls as one pipeline on this connection. Scripts that the server does not know are loaded and called again.
    ///
    /// # Errors
    /// No answer arrived by the deadline, or the connection broke; the calls may have been applied.
    pub async fn run(&self, calls: &[Call], deadline: Instant) -> Result<Vec<Result<Value, RedisError>>, RedisError> {
        let calls: Vec<_> = calls.iter().map(Sent::plainly).collect();
        let answers = self.send(&calls, deadline).await?;
        Ok(answers
            .into_iter()
            .map(|answer| {
                if matches!(&answer, Value::ServerError(error) if error.code() == "READONLY") {
                    self.close();
                }
                answered(answer)
            })
            .collect())
    }

    /// As [`Live::run`], but returns error answers of the server as values.
    ///
    /// # Errors
    /// As [`Live::run`].
    pub async fn send(&self, calls: &[Sent<'_>], deadline: Instant) -> Result<Vec<Value>, RedisError> {
        let mut answers = self.exec(calls, &[], deadline).await?;
        let unknown: Vec<usize> = (0..calls.len()).filter(|&index| is_no_script(&answers[index])).collect();
        if !unknown.is_empty() {
            // A call of an unknown script has done nothing, so it may be repeated.
            let again: Vec<_> = unknown.iter().map(|&index| calls[index]).collect();
            let mut scripts: Vec<&Script> = Vec::new();
            for script in again.iter().filter_map(|sent| sent.call.script) {
                if !scripts.iter().any(|loaded| loaded.sha() == script.sha()) {
                    scripts.push(script);
                }
            }
            for (index, answer) in unknown.into_iter().zip(self.exec(&again, &scripts, deadline).await?) {
                answers[index] = answer;
            }
        }
        Ok(answers)
    }

    /// Loads scripts and sends calls in one round trip. Returns the answers to the calls.
    async fn exec(&self, calls: &[Sent<'_>], scripts: &[&Script], deadline: Instant) -> Result<Vec<Value>, RedisError> {
        if calls.is_empty() {
            return Ok(Vec::new());
        }
        let mut pipeline = redis::Pipeline::with_capacity(scripts.len() + calls.len());
        for script in scripts {
            pipeline.cmd("SCRIPT").arg("LOAD").arg(script.source());
        }
        for sent in calls {
            if sent.asking {
                pipeline.cmd("ASKING");
            }
            pipeline.add_command(sent.call.cmd.clone());
        }
        let mut answers = self.exchange(pipeline, deadline).await?.into_iter().skip(scripts.len());
        let own = |sent: &Sent<'_>| {
            if sent.asking {
                answers.next();
            }
            answers.next().ok_or_else(|| RedisError::unexpected("fewer answers than calls"))
        };
        calls.iter().map(own).collect()
    }

    async fn exchange(&self, pipeline: redis::Pipeline, deadline: Instant) -> Result<Vec<Value>, RedisError> {
        let mut raw = self.raw.clone();
        let count = pipeline.len();
        let mut answer = Box::pin(async move { raw.send_packed_commands(&pipeline, 0, count).await });
        match timeout_at(deadline, &mut answer).await {
            Ok(Ok(values)) => Ok(values),
            Ok(Err(error)) => {
                self.close();
                Err(RedisError::Unavailable { maybe_applied: true, reason: error.to_string() })
            }
            Err(_) => {
                if !self.watched.swap(true, Ordering::Relaxed) {
                    let live = self.clone();
                    tokio::spawn(async move {
                        if timeout(SILENCE, answer).await.is_err() {
                            live.close();
                        }
                        live.watched.store(false, Ordering::Relaxed);
                    });
                }
                Err(RedisError::Unavailable { maybe_applied: true, reason: "no answer in time".into() })
            }
        }
    }
}

/// A call as it is sent to a node.
#[derive(Clone, Copy)]
pub struct Sent<'a> {
    /// The call.
    pub call: &'a Call,
    /// Whether `ASKING` goes before it: the node serves the call although its slot is still moving there.
    pub asking: bool,
}

impl<'a> Sent<'a> {
    /// A call without `ASKING`.
    pub fn plainly(call: &'a Call) -> Self {
        Self { call, asking: false }
    }
}

/// Turns an error answer into an error.
pub(super) fn answered(answer: Value) -> Result<Value, RedisError> {
    match answer {
        Value::ServerError(error) => {
            Err(RedisError::Refused(format!("{} {}", error.code(), error.details().unwrap_or_default())))
        }
        value => Ok(value),
    }
}

fn is_no_script(answer: &Value) -> bool {
    matches!(answer, Value::ServerError(error) if error.code() == "NOSCRIPT")
}
