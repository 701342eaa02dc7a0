//! One connection: what is known of it, and what drives it.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::body::{Answering, TimedBody};
use super::stream::ClientStream;
use super::{ConnectionLimits, ConnectionMetrics, Reason, connect_info};

/// Hears of every write to a connection.
pub trait WriteObserver: Send + Sync {
    /// So many bytes left this process.
    fn wrote(&self, bytes: usize);
}

/// A connection, as the extensions of its requests carry it. It outlives its stream.
pub struct Connection {
    peer: SocketAddr,
    opened: Instant,
    closed: CancellationToken,
    /// Milliseconds after `opened`.
    read_at: AtomicU64,
    wrote_at: AtomicU64,
    /// The first byte of a request's head, or [`NEVER`].
    head_at: AtomicU64,
    /// The end of the last response, or [`NEVER`] before the first request.
    answered_at: AtomicU64,
    requests: AtomicUsize,
    observer: RwLock<Option<Arc<dyn WriteObserver>>>,
    metrics: ConnectionMetrics,
}

const NEVER: u64 = u64::MAX;

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection").field("peer", &self.peer).finish_non_exhaustive()
    }
}

impl Connection {
    pub(super) fn new(peer: SocketAddr, metrics: ConnectionMetrics) -> Arc<Self> {
        metrics.open.inc();
        Arc::new(Self {
            peer,
            opened: Instant::now(),
            closed: CancellationToken::new(),
            read_at: AtomicU64::new(0),
            wrote_at: AtomicU64::new(0),
            head_at: AtomicU64::new(NEVER),
            answered_at: AtomicU64::new(NEVER),
            requests: AtomicUsize::new(0),
            observer: RwLock::default(),
            metrics,
        })
    }

    /// Closes it at once: every read and write fails, and what the kernel still holds for it is discarded.
    pub fn close(&self, reason: Reason) {
        if !self.closed.is_cancelled() {
            self.closed.cancel();
            self.metrics.closed(reason);
            tracing::debug!(peer = %self.peer, reason = reason.as_str(), "a connection was closed");
        }
    }

    /// Whether [`Connection::close`] was called.
    pub fn is_closed(&self) -> bool {
        self.closed.is_cancelled()
    }

    /// How long ago its peer last sent anything.
    pub fn silent_for(&self) -> Duration {
        self.opened.elapsed().saturating_sub(Duration::from_millis(self.read_at.load(Ordering::Relaxed)))
    }

    /// Tells the observer, and no other, of writes from here on.
    pub fn observe(&self, observer: Arc<dyn WriteObserver>) {
        *self.observer.write().unwrap_or_else(PoisonError::into_inner) = Some(observer);
    }

    pub(super) fn token(&self) -> CancellationToken {
        self.closed.clone()
    }

    pub(super) fn timed_out_body(&self) {
        self.metrics.closed(Reason::Body);
    }

    pub(super) fn read(&self) {
        let now = self.now();
        self.read_at.store(now, Ordering::Relaxed);
        if self.requests.load(Ordering::Relaxed) == 0 && self.head_at.load(Ordering::Relaxed) == NEVER {
            self.head_at.store(now, Ordering::Relaxed);
        }
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.wrote_at.store(self.now(), Ordering::Relaxed);
        if let Some(observer) = &*self.observer.read().unwrap_or_else(PoisonError::into_inner) {
            observer.wrote(bytes);
        }
    }

    /// The stream has ended: drops its observer.
    pub(super) fn ended(&self) {
        self.closed.cancel();
        self.observer.write().unwrap_or_else(PoisonError::into_inner).take();
        self.metrics.open.dec();
    }

    fn begin(&self) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.head_at.store(NEVER, Ordering::Relaxed);
    }

    pub(super) fn answered(&self) {
        self.answered_at.store(self.now(), Ordering::Relaxed);
        self.requests.fetch_sub(1, Ordering::Relaxed);
    }

    /// Until when it may stay as it is, and what it lacks then; `None` while a request is answered.
    fn deadline(&self, limits: &ConnectionLimits) -> Option<(Instant, Reason)> {
        let at = |millis: u64, limit| self.opened + Duration::from_millis(millis) + limit;
        if self.requests.load(Ordering::Relaxed) > 0 {
            return None;
        }
        let head = self.head_at.load(Ordering::Relaxed);
        match self.answered_at.load(Ordering::Relaxed) {
            NEVER => Some((at(0, limits.header), Reason::Header)),
            _ if head != NEVER => Some((at(head, limits.header), Reason::Header)),
            // The response may still be leaving.
            answered => Some((at(answered.max(self.wrote_at.load(Ordering::Relaxed)), limits.idle), Reason::Idle)),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }
}

/// Drives a connection to its end, or until it is upgraded.
pub(super) async fn drive(
    stream: ClientStream,
    connection: Arc<Connection>,
    router: Router,
    limits: ConnectionLimits,
    stop: CancellationToken,
) {
    let service = service_fn({
        let (connection, router) = (Arc::clone(&connection), TowerToHyperService::new(router));
        move |request| answer(Arc::clone(&connection), router.clone(), limits.body, request)
    });
    let mut builder = http1::Builder::new();
    // Its own timer would count idle time as a head's, so the time of a head is taken here.
    builder.timer(TokioTimer::new()).header_read_timeout(None::<Duration>);
    let mut http = pin!(builder.serve_connection(TokioIo::new(stream), service).with_upgrades());
    let mut ending = false;
    loop {
        let now = Instant::now();
        // An ending connection has a last moment to do so by itself.
        let wait = match connection.deadline(&limits) {
            Some((at, _)) if !ending => at,
            _ => now + limits.header.min(limits.idle),
        };
        tokio::select! {
            ended = http.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %connection.peer, %error, "a connection ended with an error");
                }
                return;
            }
            () = stop.cancelled(), if !ending => {
                ending = true;
                http.as_mut().graceful_shutdown();
            }
            () = tokio::time::sleep_until(wait) => match connection.deadline(&limits) {
                Some((at, _)) if at > Instant::now() => {}
                Some((_, Reason::Idle)) if !ending => {
                    // A request that arrives right now is still answered.
                    connection.metrics.closed(Reason::Idle);
                    ending = true;
                    http.as_mut().graceful_shutdown();
                }
                Some((_, reason)) => return connection.close(reason),
                None => {}
            },
        }
    }
}

async fn answer(
    connection: Arc<Connection>,
    router: TowerToHyperService<Router>,
    body_timeout: Duration,
    mut request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    connection.begin();
    let answering = Answering(Arc::clone(&connection));
    request.extensions_mut().insert(connect_info(connection.peer));
    request.extensions_mut().insert(Arc::clone(&connection));
    let request = request.map(|body| Body::new(TimedBody::new(body, body_timeout, Arc::clone(&connection))));
    let response = router.call(request).await?;
    Ok(response.map(|body| Body::new(answering.with(body))))
}
