//! Socket.IO sessions, from the transport's side: how much waits for each of them, and which are to be ended.
//!
//! engineioxide ends a session by itself when a heartbeat is not answered, but only once the session's writer lets go of its queue, which
//! a peer that does not read can delay for ever. So each session is known here with its transport:
//!
//! 1. [`Sessions::guard`], a middleware, gives each handshake its [`Session`], which socketioxide keeps with the socket for as long as it keeps
//!    the queue; and notes a session's requests: those of long polling, and the one that upgrades it.
//! 2. What is emitted is charged to the session's [`Account`]. WebSockets credit it with what their connection has written, polls with the
//!    packets that their response takes.
//! 3. [`Sessions::supervise`] ends a session that is silent for longer than its heartbeats allow, whose queue stays full, that stays without a valid
//!    token, or that is one of those for which most waits while all together wait for too much. Ending closes the transport underneath,
//!    at once, and releases what the user holds by it.
//!
//! See `docs/decisions/closing-stalled-connections.md`.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::{Method, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use dashmap::DashMap;
use holdfast_message::UserId;
use holdfast_service::serve::{self, Connection, Reason};
use socketioxide::socket::Sid;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::deliver::outgoing::response::{BodySize, HeldBody};
use crate::deliver::outgoing::{Account, Outgoing, framed};
use crate::metrics::{Metrics, Packet};
use crate::refusal::{Problem, Refusal};

/// How often sessions are looked at.
const LOOK: Duration = Duration::from_millis(500);
/// Requests of one session whose responses may be made at once.
const READS: usize = 2;
/// For how long something waits before its connection counts as one that does not take it.
const TAKES_NOTHING: Duration = Duration::from_secs(1);
/// A response body from this size on is accounted for.
const WORTH_COUNTING: u64 = 64 * 1024;

/// For how long a session may be what it should not.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SessionLimits {
    /// Between two heartbeats.
    pub(crate) ping_interval: Duration,
    /// From a heartbeat to its answer.
    pub(crate) ping_timeout: Duration,
    /// Without a valid token.
    pub(crate) connect: Duration,
    /// Without room.
    pub(crate) overflow: Duration,
}

impl SessionLimits {
    /// For how long a client that answers its heartbeats may say nothing. A little less than engineioxide grants, for
    /// what is left to do then takes time as well.
    fn silence(&self) -> Duration {
        (self.ping_interval + self.ping_timeout).saturating_sub(Duration::from_secs(1).min(self.ping_timeout / 4))
    }
}

/// Ends what a user holds by a socket: its presence, its slots, and its place among the sockets.
pub(crate) type Release = Box<dyn Fn(&UserId, Sid) + Send + Sync>;

/// The sessions of this gateway. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Sessions(Arc<Inner>);

struct Inner {
    sessions: DashMap<u64, Weak<Session>>,
    polling: DashMap<String, Weak<Session>>,
    next: AtomicU64,
    outgoing: Outgoing,
    limits: SessionLimits,
    /// Where a session that has no connection of its own is ended.
    app: Mutex<Option<Router>>,
    metrics: Metrics,
}

/// One session. socketioxide holds it, in the extensions of the request that opened it.
pub(crate) struct Session {
    number: u64,
    sessions: Weak<Inner>,
    /// What waits for it.
    pub(crate) account: Arc<Account>,
    /// Its requests whose responses are being made.
    pub(crate) reads: Arc<Semaphore>,
    opened: Instant,
    of: Mutex<Of>,
}

#[derive(Default)]
struct Of {
    /// engineioxide's id, of long polling alone.
    id: Option<String>,
    /// A WebSocket's connection; of long polling, the one that wants to become one.
    transport: Option<Arc<Connection>>,
    upgrading: bool,
    /// Its user and socket, once a token was valid.
    user: Option<(UserId, Sid)>,
    /// When its last request came, of long polling.
    heard: Option<Instant>,
    /// Since when it has had no user.
    nobodys: Option<Instant>,
    ended: bool,
}

impl Session {
    /// A user has entered the namespace by it.
    pub(crate) fn taken_by(&self, user: &UserId, socket: Sid) {
        let mut of = self.of();
        (of.user, of.nobodys) = (Some((user.clone(), socket)), None);
    }

    /// Its user has left the namespace.
    pub(crate) fn left(&self) {
        let mut of = self.of();
        (of.user, of.nobodys) = (None, Some(Instant::now()));
    }

    fn of(&self) -> MutexGuard<'_, Of> {
        self.of.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn heard(&self) {
        self.of().heard = Some(Instant::now());
    }

    /// A session whose way to a WebSocket ended is one of long polling still, or is ended by engineioxide.
    fn forget_failed_upgrade(&self) {
        let mut of = self.of();
        if of.upgrading && of.transport.as_ref().is_some_and(|transport| transport.is_closed()) {
            (of.transport, of.upgrading) = (None, false);
        }
    }

    /// Why it is to be ended, if it is.
    fn verdict(&self, limits: &SessionLimits) -> Option<Reason> {
        let of = self.of();
        let heard = of.heard.unwrap_or(self.opened).elapsed();
        let silent = match &of.transport {
            Some(transport) if of.upgrading => heard.min(transport.silent_for()),
            Some(transport) => transport.silent_for(),
            None => heard,
        };
        if of.ended {
            None
        } else if of.transport.as_ref().is_some_and(|transport| transport.is_closed()) {
            // engineioxide may notice it later.
            Some(Reason::Stalled)
        } else if silent > limits.silence() {
            Some(Reason::Silent)
        } else if of.user.is_none() && of.nobodys.unwrap_or(self.opened).elapsed() > limits.connect {
            Some(Reason::Idle)
        } else if self.account.full_for() > limits.overflow {
            Some(Reason::Overflow)
        } else {
            None
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if let Some(sessions) = self.sessions.upgrade() {
            sessions.sessions.remove(&self.number);
            sessions.metrics.sessions.dec();
            if let Some(id) = self.of.get_mut().unwrap_or_else(PoisonError::into_inner).id.take() {
                sessions.polling.remove(&id);
            }
        }
    }
}

impl Sessions {
    /// No sessions yet.
    pub(crate) fn new(outgoing: Outgoing, limits: SessionLimits, metrics: Metrics) -> Self {
        let (sessions, polling, next) = (DashMap::new(), DashMap::new(), AtomicU64::new(0));
        Self(Arc::new(Inner { sessions, polling, next, outgoing, limits, app: Mutex::default(), metrics }))
    }

    /// Where sessions are served.
    pub(crate) fn served_by(&self, app: Router) {
        *self.0.app.lock().unwrap_or_else(PoisonError::into_inner) = Some(app);
    }

    fn open(&self) -> Arc<Session> {
        let number = self.0.next.fetch_add(1, Ordering::Relaxed);
        let session = Arc::new(Session {
            number,
            sessions: Arc::downgrade(&self.0),
            account: self.0.outgoing.account(),
            reads: Arc::new(Semaphore::new(READS)),
            opened: Instant::now(),
            of: Mutex::default(),
        });
        self.0.sessions.insert(number, Arc::downgrade(&session));
        self.0.metrics.sessions.inc();
        session
    }

    /// Gives handshakes their session, follows a session's requests, and accounts for large responses.
    pub(crate) async fn guard(State(this): State<Self>, mut request: Request, next: Next) -> Response {
        let connection = request.extensions().get::<Arc<Connection>>().cloned();
        if !request.uri().path().starts_with("/socket.io") {
            return this.accounted(next.run(request).await, connection.as_deref());
        }
        let query = request.uri().query().unwrap_or_default();
        let id = query.split('&').find_map(|pair| pair.strip_prefix("sid="));
        let websocket = query.split('&').any(|pair| pair == "transport=websocket");
        let known = id.and_then(|id| this.0.polling.get(id)?.upgrade());
        let (opened, polls) = (id.is_none(), !websocket && request.method() == Method::GET);
        let session = match known {
            Some(session) => session,
            None if opened => this.open(),
            None => return next.run(request).await,
        };
        session.heard();
        match &connection {
            Some(connection) if websocket && !session.of().ended => {
                let mut of = session.of();
                (of.transport, of.upgrading) = (Some(Arc::clone(connection)), !opened);
                connection.observe(Arc::clone(&session.account) as _);
            }
            _ => {}
        }
        if opened {
            request.extensions_mut().insert(Arc::clone(&session));
        }
        let response = next.run(request).await;
        if !polls {
            return response;
        }
        let (parts, body) = response.into_parts();
        // It is in memory as it is.
        let Ok(body) = to_bytes(body, usize::MAX).await else { return Response::from_parts(parts, Body::empty()) };
        if opened {
            this.named(&session, &body);
        } else {
            session.account.credit(taken(&body));
        }
        if let (Some(connection), true) = (connection, body.len() as u64 >= WORTH_COUNTING) {
            // It is not refused: what it carries was accepted when it was queued.
            let account = this.0.outgoing.account();
            account.charge(Packet::Response, body.len());
            connection.observe(account);
        }
        Response::from_parts(parts, Body::from(body))
    }

    /// Remembers a session of long polling by the id that its first response says.
    fn named(&self, session: &Arc<Session>, body: &[u8]) {
        #[derive(serde::Deserialize)]
        struct Open {
            sid: String,
        }
        if let Some(Ok(Open { sid })) = body.strip_prefix(b"0").map(serde_json::from_slice::<Open>) {
            session.of().id = Some(sid.clone());
            self.0.polling.insert(sid, Arc::downgrade(session));
        }
    }

    /// A large response counts as what waits for its connection; when there is no room for it, another says so.
    fn accounted(&self, response: Response, connection: Option<&Connection>) -> Response {
        use http_body::Body as _;
        let exact = response.body().size_hint().exact();
        let bytes = exact.or_else(|| response.extensions().get().map(|BodySize(bytes)| *bytes)).unwrap_or(0);
        let Some(connection) = connection.filter(|_| bytes >= WORTH_COUNTING) else { return response };
        let account = self.0.outgoing.account();
        if !account.charge(Packet::Response, usize::try_from(bytes).unwrap_or(usize::MAX)) {
            self.0.metrics.outgoing_dropped(Packet::Response);
            let refusal = Refusal::unavailable("too much waits for slow clients");
            self.0.metrics.refused(refusal.code);
            return Problem::from(refusal).into_response();
        }
        if exact.is_none() {
            return response.map(|body| Body::new(HeldBody::new(body, account)));
        }
        connection.observe(account);
        response
    }

    /// Looks at every session, twice a second, until the token is cancelled. `release` ends what a user holds by a socket.
    pub(crate) async fn supervise(self, release: Release, stop: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let sessions: Vec<_> = self.0.sessions.iter().filter_map(|session| session.value().upgrade()).collect();
            for session in &sessions {
                session.forget_failed_upgrade();
                if let Some(reason) = session.verdict(&self.0.limits) {
                    self.end(session, reason, &release);
                }
            }
            self.relieve(sessions, &release);
        }
        // It holds these sessions, too.
        self.0.app.lock().unwrap_or_else(PoisonError::into_inner).take();
    }

    /// Ends those sessions for which most waits, until enough is free, if all together wait for too much. One that takes what it
    /// gets is spared.
    fn relieve(&self, mut sessions: Vec<Arc<Session>>, release: &Release) {
        let mut excess = self.0.outgoing.excess();
        if excess == 0 {
            return;
        }
        sessions.retain(|session| session.account.waiting_for() > TAKES_NOTHING);
        sessions.sort_by_cached_key(|session| std::cmp::Reverse(session.account.waiting()));
        for session in sessions {
            let waiting = session.account.waiting();
            self.end(&session, Reason::Pressure, release);
            excess = excess.saturating_sub(waiting);
            if excess == 0 {
                break;
            }
        }
    }

    fn end(&self, session: &Session, reason: Reason, release: &Release) {
        let (transport, user, id) = {
            let mut of = session.of();
            if std::mem::replace(&mut of.ended, true) {
                return;
            }
            (of.transport.clone(), of.user.clone(), of.id.clone())
        };
        tracing::debug!(
            reason = reason.as_str(),
            user = user.as_ref().map(|(user, _)| user.as_str()),
            waiting = session.account.waiting(),
            "a session is ended"
        );
        if let Some(transport) = transport {
            transport.close(reason);
        }
        if let Some((user, socket)) = user {
            release(&user, socket);
        }
        if let (Some(id), Some(app)) = (id, self.0.app.lock().unwrap_or_else(PoisonError::into_inner).clone()) {
            tokio::spawn(async move { close_polling(app, &id).await });
        }
    }
}

/// Ends a session of long polling as its client would: engineioxide has no other way that is open to us. One that has been upgraded
/// is ended by its transport, and answers this with an error.
async fn close_polling(app: Router, id: &str) {
    let request = Request::builder()
        .method(Method::POST)
        .uri(format!("/socket.io/?EIO=4&transport=polling&sid={id}"))
        .header(header::CONTENT_TYPE, "text/plain;charset=UTF-8")
        .body(Body::from("1"));
    if let Ok(request) = request {
        let status = serve::call(&app, request).await.status();
        tracing::debug!(%status, "a session of long polling was closed");
    }
}

/// How much of what was charged a poll's response takes: events and acknowledgements are; handshakes and heartbeats never were.
fn taken(body: &[u8]) -> usize {
    let packets = body.split(|byte| *byte == 0x1e);
    packets.filter(|packet| packet.starts_with(b"42") || packet.starts_with(b"43")).map(|p| framed(p.len())).sum()
}
