//! Socket.IO: from an event to its acknowledgement.
//!
//! Takes what clients emit; gives the pipeline stamped messages in the order of arrival. socketioxide calls handlers in that order
//! but spawns what they return, so a send is checked, stamped and queued before the handler's first `await`.
//!
//! Every event is answered within the deadline. A refusal never ends the connection, but of a client that takes no notice of many
//! ([`crate::limit::meter`]).

mod ack;
pub mod inbox;

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use holdfast_keys::Channel;
use holdfast_message::draft::target;
use holdfast_message::{ChatId, Draft, HistoryKey, UserId};
use holdfast_service::trace::TraceParent;
use serde::{Deserialize, Serialize};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use socketioxide::ParserError;
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{Event, SocketRef, TryData};
use socketioxide::socket::{DisconnectReason, Sid, Socket};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use self::ack::Ack;
use crate::Gateway;
use crate::admit::Act;
use crate::answer::{Done, HistoryPage, Missed, Positive, Sent};
use crate::auth::Identity;
use crate::deliver::{Holding, emit};
use crate::error::{Code, Refusal};
use crate::event::{client, server};
use crate::history::{Page, read_cursor, read_limit};
use crate::integer;
use crate::limit::address::ClientAddress;
use crate::limit::places::Place;
use crate::metrics::{Limited, Outcome};
use crate::outgoing::Packet;
use crate::pipeline::Answer;
use crate::presence::PresenceRequest;
use crate::resume::{self, Resume, ResumeRequest};
use crate::sessions::Session;
use crate::typing::TypingRequest;

/// How long a socket's subscription and the reading may take before `resume` recovers nothing.
const RESUME_WITHIN: Duration = Duration::from_secs(3);
/// How long the newest page of history waits for the socket to hear what comes after it.
const READY_WITHIN: Duration = Duration::from_secs(1);
/// Beyond this the subscription counts as broken, and everybody is told to `resync` once it is mended.
const READY_LATE: Duration = Duration::from_secs(60);

/// An answer from this size on may find no room where a refusal does. No answer to a send is so large.
const LARGE: usize = 64 * 1024;

/// What clients say in the handshake's `auth`. Unknown fields are ignored everywhere.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct Handshake {
    /// A JWT.
    #[schema(required, nullable = false)]
    token: Option<String>,
    /// As `resume`'s; the answer is the event `resumed`.
    #[schema(value_type = Option<BTreeMap<String, crate::resume::Offset>>, nullable = false)]
    offsets: Option<Value>,
}

/// A send: to one of `friendId` and `chatId`; both must agree.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SendRequest {
    /// The client's id for the send; a UUID is advised. Every repeat with the same `tempId` and body is the same message.
    #[schema(min_length = 1, max_length = 128)]
    pub temp_id: Option<String>,
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The text. It may be empty beside an image.
    #[serde(default)]
    #[schema(max_length = 4096)]
    pub content: String,
    /// An https address, never fetched by the server.
    #[schema(max_length = 2048)]
    pub image_url: Option<String>,
    /// The image's id at its host.
    #[schema(max_length = 256)]
    pub public_id: Option<String>,
}

/// A page of the chat with `friendId`, or of `chatId`.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The most messages.
    #[serde(default, deserialize_with = "integer::optional")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// The `nextCursor` of a page: the page after it.
    pub before: Option<String>,
}

impl Handshake {
    /// The token, and `offsets` if they can be read.
    pub fn into_parts(self) -> (String, Option<BTreeMap<String, Value>>) {
        let offsets = self.offsets.and_then(|offsets| serde_json::from_value(offsets).ok());
        (self.token.unwrap_or_default(), offsets)
    }
}

impl SendRequest {
    /// What the user asks to send, within every limit.
    pub fn draft(self, user: &UserId) -> Result<Draft, Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        Ok(Draft::new(user.clone(), chat, self.temp_id, self.content, self.image_url, self.public_id)?)
    }
}

impl HistoryRequest {
    /// The chat, where the page begins, and how long it is at most.
    pub fn read(&self, user: &UserId, default_limit: usize) -> Result<(ChatId, Option<HistoryKey>, usize), Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        let limit = read_limit(self.limit, default_limit)?;
        let before = self.before.as_deref().map(read_cursor).transpose()?;
        Ok((chat, before, limit))
    }
}

/// What a `connect_error` carries: the code.
#[derive(Debug)]
pub struct NotLetIn(Code);

impl fmt::Display for NotLetIn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.as_str())
    }
}

/// Lets in who has a valid token, and sets up what answers their events: this runs before the client learns that it is connected.
pub async fn authenticate(
    gateway: Arc<Gateway>,
    socket: SocketRef,
    handshake: Result<Handshake, ParserError>,
) -> Result<(), NotLetIn> {
    let (token, offsets) = handshake.unwrap_or_default().into_parts();
    // A connection may leave and come in again as often as it likes: each time counts as an event.
    let measured = ack::measured(&gateway, &socket);
    let identity = measured.and_then(|()| gateway.tokens.verify(&token)).and_then(|identity| {
        let places = gateway.places(&socket, &identity.user)?;
        socket.extensions.insert(places);
        if let Some(session) = session_of(&socket) {
            session.taken_by(&identity.user, socket.id);
        }
        Ok(identity)
    });
    match identity {
        Ok(identity) => {
            listen(&gateway, &socket, identity.user.clone());
            socket.extensions.insert(identity);
            socket.extensions.insert(Arc::new(Arrival::default()));
            if let Some(offsets) = offsets {
                socket.extensions.insert(Offsets(offsets));
            }
            Ok(())
        }
        Err(refusal) => {
            gateway.metrics.refused(refusal.code);
            tracing::debug!(message = refusal.message, "a handshake was refused");
            Err(NotLetIn(refusal.code))
        }
    }
}

fn listen(gateway: &Arc<Gateway>, socket: &SocketRef, user: UserId) {
    let on_send = gateway.clone();
    socket.on(client::SEND_MESSAGE, move |socket: SocketRef, ack: Ack, TryData(request): TryData<SendRequest>| {
        // Nothing before the submission may wait: this part runs in the order of arrival.
        let ceased = request.as_ref().ok().and_then(|SendRequest { friend_id, chat_id, .. }| {
            on_send.typing.sends(socket.id, &identify(&socket).ok()?, friend_id.as_deref(), chat_id.as_deref())
        });
        let submitted =
            ack.wanted(&on_send).and_then(|()| on_send.submit(&identify(&socket)?, request.map_err(malformed)?));
        let gateway = on_send.clone();
        async move {
            let answer = match submitted {
                Ok(answered) => gateway.answer_of(answered).await,
                Err(refusal) => {
                    gateway.metrics.ended(Outcome::Rejected);
                    Err(refusal)
                }
            };
            gateway.acknowledge(&ack, answer.as_ref().map(Sent::from).as_ref().map_err(|refusal| *refusal)).await;
            if let Some(ceased) = ceased {
                ceased.await;
            }
        }
    });
    let on_history = gateway.clone();
    socket.on(client::HISTORY, async move |socket: SocketRef, ack: Ack, TryData(request): TryData<HistoryRequest>| {
        let request = ack.wanted(&on_history).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        let page = match request {
            Ok((user, request)) => on_history.page_for(&user, &socket, request).await,
            Err(refusal) => Err(refusal),
        };
        let page = page.as_ref().map(|(page, _reading)| HistoryPage::from(page));
        on_history.acknowledge(&ack, page.as_ref().map_err(|refusal| *refusal)).await;
    });
    let on_resume = gateway.clone();
    socket.on(client::RESUME, async move |socket: SocketRef, ack: Ack, TryData(request): TryData<ResumeRequest>| {
        let request = ack.wanted(&on_resume).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        let request = match request {
            Ok((user, request)) => {
                let within = on_resume.limits.pass_many(&user, client::RESUME, resume::weight(&request.offsets)).await;
                within.map(|()| (user, request))
            }
            Err(refusal) => Err(refusal),
        };
        let request = match request {
            Ok((user, request)) => on_resume.reading(&socket).await.map(|reading| (user, request, reading)),
            Err(refusal) => Err(refusal),
        };
        match request {
            Ok((user, request, _reading)) => {
                let (answer, holding) = on_resume.resume_socket(&user, &socket, &request.offsets).await;
                if on_resume.acknowledge(&ack, Ok(&answer)).await
                    && let Some(holding) = holding
                {
                    holding.answered(answer.messages());
                }
            }
            Err(refusal) => {
                on_resume.acknowledge::<()>(&ack, Err(&refusal)).await;
            }
        }
    });
    inbox::listen(gateway, socket);
    let on_typing = gateway.clone();
    socket.on(client::TYPING, async move |socket: SocketRef, ack: Ack, TryData(request): TryData<TypingRequest>| {
        // It tells, and asks nothing: whoever does not wait for an answer is heard, too.
        let request = ack.passes(&on_typing).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        let told = match request {
            Ok((user, request)) => {
                let told = async {
                    on_typing.limits.pass(&user, client::TYPING).await?;
                    on_typing.typing.hear(socket.id, &user, &request).await
                };
                on_typing.within_deadline(told).await
            }
            Err(refusal) => Err(refusal),
        };
        on_typing.acknowledge(&ack, told.as_ref().map(|()| &Done {})).await;
    });
    let on_presence = gateway.clone();
    socket.on(
        client::PRESENCE,
        async move |socket: SocketRef, ack: Ack, TryData(request): TryData<PresenceRequest>| {
            let request = ack.wanted(&on_presence).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
            let answer = match request {
                Ok((user, request)) => {
                    let answer = async {
                        on_presence.limits.pass(&user, client::PRESENCE).await?;
                        on_presence.presence.answer(&user, &request).await
                    };
                    on_presence.within_deadline(answer).await
                }
                Err(refusal) => Err(refusal),
            };
            on_presence.acknowledge(&ack, answer.as_ref()).await;
        },
    );
    let on_other = gateway.clone();
    socket.on_fallback(async move |Event(event): Event, ack: Ack| {
        tracing::debug!(event = event.chars().take(64).collect::<String>(), "an unknown event");
        let no_such_event = || Refusal::new(Code::Validation, "no such event");
        let refusal = ack.wanted(&on_other).err().unwrap_or_else(no_such_event);
        on_other.acknowledge::<()>(&ack, Err(&refusal)).await;
    });
    let on_disconnect = gateway.clone();
    socket.on_disconnect(async move |socket: SocketRef, _: DisconnectReason| {
        socket.extensions.remove::<Taken>();
        if let Some(session) = session_of(&socket) {
            session.left();
        }
        on_disconnect.gone(&user, socket.id);
        // socketioxide ignores whoever enters again before this handler has ended.
        tokio::spawn(async move { on_disconnect.typing.left(socket.id).await });
    });
}

/// Lets a connection hear what is for its user.
pub async fn connected(gateway: Arc<Gateway>, socket: SocketRef) {
    let Some(identity) = socket.extensions.get::<Identity>() else { return };
    let user = identity.user.clone();
    // Until the server has confirmed it, what other gateways announce passes this socket by.
    let subscription = gateway.channels.subscribe(Channel::User(user.clone()));
    let confirmed = subscription.confirmation();
    gateway.sockets.add(&identity, socket.clone(), subscription);
    gateway.rooms.connected(&user, confirmed);
    gateway.presence.joined(&user, socket.id);
    if let Some(arrival) = socket.extensions.get::<Arc<Arrival>>() {
        arrival.added.cancel();
    }
    // It may have disconnected before it was added.
    if !socket.connected() {
        gateway.gone(&user, socket.id);
        return;
    }
    if let Some(Offsets(offsets)) = socket.extensions.remove::<Offsets>() {
        let within = gateway.limits.pass_many(&user, client::RESUME, resume::weight(&offsets)).await;
        let (answer, holding) = match within {
            Ok(()) => gateway.resume_socket(&user, &socket, &offsets).await,
            // Nobody waits for a refusal: nothing is recovered, and the client reads history.
            Err(refusal) => {
                gateway.metrics.refused(refusal.code);
                (Missed { chats: Resume::nothing_for_nothing(&offsets) }, None)
            }
        };
        let given = to_raw_value(&answer).is_ok_and(|answer| emit::response(&socket, server::RESUMED, &answer));
        if !given {
            gateway.metrics.outgoing_dropped(Packet::Response);
            tracing::debug!(%user, "the answer to the handshake's offsets could not be given");
        } else if let Some(holding) = holding {
            holding.answered(answer.messages());
        }
    }
}

/// The handshake's `offsets`, until they are answered.
#[derive(Clone)]
struct Offsets(BTreeMap<String, Value>);

/// What becomes of a new connection: its first events may be here before it is added, for clients don't wait.
#[derive(Default)]
struct Arrival {
    /// Cancelled once it is.
    added: CancellationToken,
    /// It was not ready in time, and is told when it is.
    late: AtomicBool,
}

/// The places that a connection takes, given back at its end.
type Taken = (Place<UserId>, Option<Place<IpAddr>>);

type Reading<'a> = tokio::sync::SemaphorePermit<'a>;

/// The session beneath a socket.
fn session_of(socket: &Socket<LocalAdapter>) -> Option<&Arc<Session>> {
    socket.req_parts().extensions.get()
}

/// Whose socket it is, if their token is still valid.
fn identify(socket: &SocketRef) -> Result<UserId, Refusal> {
    let identity = socket.extensions.get::<Identity>().ok_or_else(no_identity)?;
    identity.still_valid().cloned()
}

impl Gateway {
    /// A place for one more connection of this user, from this address.
    fn places(&self, socket: &SocketRef, user: &UserId) -> Result<Taken, Refusal> {
        let too_many = |limit| {
            self.metrics.limited(limit);
            Refusal::new(Code::RateLimited, "too many connections")
        };
        let of_user = self.limits.users.take(user).ok_or_else(|| too_many(Limited::UserSockets))?;
        let Some(ClientAddress(address)) = socket.req_parts().extensions.get() else { return Ok((of_user, None)) };
        let of_address = self.limits.addresses.take(address).ok_or_else(|| too_many(Limited::AddressSockets))?;
        Ok((of_user, Some(of_address)))
    }

    /// Ends what a user holds by a socket whose transport has failed, before its session's end is noticed.
    pub(crate) fn release(&self, user: &UserId, socket: Sid) {
        if let Some(socket) = self.sockets.socket(user, socket) {
            socket.extensions.remove::<Taken>();
        }
        self.gone(user, socket);
    }

    /// A socket has gone. May be said more than once.
    fn gone(&self, user: &UserId, socket: Sid) {
        self.sockets.remove(user, socket);
        self.presence.left(user, socket);
    }

    /// An answer, no later than the deadline.
    async fn within_deadline<T>(&self, answer: impl Future<Output = Result<T, Refusal>>) -> Result<T, Refusal> {
        let late = |_| Err(Refusal::unavailable("no answer within the deadline"));
        tokio::time::timeout(self.send_deadline, answer).await.unwrap_or_else(late)
    }

    /// What a socket has missed. Its live events wait until the caller has given the answer and drops what comes with it.
    async fn resume_socket(
        &self,
        user: &UserId,
        socket: &SocketRef,
        offsets: &BTreeMap<String, Value>,
    ) -> (Missed, Option<Holding>) {
        if let Some(arrival) = socket.extensions.get::<Arc<Arrival>>() {
            arrival.added.cancelled().await;
        }
        let holding = self.sockets.hold(user, socket.id);
        let read = async {
            match &holding {
                Some(holding) => {
                    holding.subscribed().await;
                    self.rooms.ready(user).await;
                }
                // Nothing reaches a socket that is not there.
                None => return Resume::nothing(offsets),
            }
            self.resume.read(user, offsets).await
        };
        let chats = tokio::time::timeout(RESUME_WITHIN, read).await.unwrap_or_else(|_| Resume::nothing(offsets));
        (Missed { chats }, holding)
    }

    /// Waits until what is announced to the user and to their groups reaches a socket, so that nothing falls between what it reads
    /// next and what it hears. If that takes long it is told to `resync` later.
    async fn ready(&self, user: &UserId, socket: &SocketRef) {
        let Some(arrival) = socket.extensions.get::<Arc<Arrival>>() else { return };
        arrival.added.cancelled().await;
        if !self.channels.is_healthy() {
            // Whoever hears nothing now is told when that is over.
            return;
        }
        let (sockets, rooms, user, id) = (self.sockets.clone(), self.rooms.clone(), user.clone(), socket.id);
        let mut ready = Box::pin(async move {
            sockets.subscribed(&user, id).await;
            rooms.ready(&user).await;
            (sockets, user)
        });
        let late = tokio::time::timeout(READY_WITHIN, ready.as_mut()).await.is_err();
        if late && !arrival.late.swap(true, Ordering::Relaxed) {
            tokio::spawn(async move {
                if let Ok((sockets, user)) = tokio::time::timeout(READY_LATE, ready).await {
                    sockets.resync(&user);
                }
                arrival.late.store(false, Ordering::Relaxed);
            });
        }
    }

    /// Checks and stamps a send, and puts it in line. Never waits.
    pub fn submit(&self, user: &UserId, request: SendRequest) -> Result<oneshot::Receiver<Answer>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::unavailable("this gateway is shutting down"));
        }
        let draft = request.draft(user)?;
        // Whatever is not known yet of a direct chat, who its members are is.
        if !draft.chat().is_group() && draft.chat().other(user).is_none() {
            return Err(Refusal::new(Code::Forbidden, "not a member of this chat"));
        }
        let stamp = self.stamps.next(user, draft.chat()).map_err(|far| Refusal::rate_limited(far.retry_after))?;
        let message = draft.stamp(stamp);
        self.pipeline.submit(message, TraceParent::random(fastrand::u128(..), fastrand::u64(..)))
    }

    /// Waits for a send's answer, no longer than the deadline.
    pub async fn answer_of(&self, answered: oneshot::Receiver<Answer>) -> Answer {
        match tokio::time::timeout(self.send_deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refusal::unavailable("this gateway is shutting down")),
            Err(_) => Err(Refusal::unavailable("no answer within the deadline; send it again")),
        }
    }

    /// A page of history for a socket, and what is held while the answer is made of it.
    async fn page_for<'a>(
        &self,
        user: &UserId,
        socket: &'a SocketRef,
        request: HistoryRequest,
    ) -> Result<(Page, Option<Reading<'a>>), Refusal> {
        let reading = self.reading(socket).await?;
        if request.before.is_none() {
            self.ready(user, socket).await;
        }
        Ok((self.history(user, request).await?, reading))
    }

    /// A place among the socket's requests whose answers may be large. Refused at once, before anything is read, while such an answer
    /// would find no room.
    async fn reading<'a>(&self, socket: &'a SocketRef) -> Result<Option<Reading<'a>>, Refusal> {
        let Some(session) = session_of(socket) else { return Ok(None) };
        let reading = tokio::time::timeout(self.send_deadline, session.reads.acquire()).await;
        let Ok(Ok(reading)) = reading else { return Err(Refusal::unavailable("no answer within the deadline")) };
        if !session.account.takes_any() {
            return Err(Refusal::unavailable("too much waits for this connection"));
        }
        Ok(Some(reading))
    }

    /// A page of a chat's history, for one of its members.
    pub async fn history(&self, user: &UserId, request: HistoryRequest) -> Result<Page, Refusal> {
        self.limits.pass(user, client::HISTORY).await?;
        let (chat, before, limit) = request.read(user, self.history_default_limit)?;
        self.admission.permit(user, &chat, Act::Read).await?;
        self.rooms.belongs(user, &chat);
        match tokio::time::timeout(self.send_deadline, self.history.page(&chat, before, limit)).await {
            Ok(page) => page,
            Err(_) => Err(Refusal::unavailable("history can't be read now")),
        }
    }

    /// Answers an event: `{ ok: true, … }` or `{ ok: false, error }`, which is counted. An answer that finds no room among what waits
    /// for the client is dropped and counted: the client asks or sends again. In place of a large one a refusal is tried.
    /// False if the answer could not be given.
    async fn acknowledge<T: Serialize>(&self, ack: &Ack, answer: Result<&T, &Refusal>) -> bool {
        if let Ok(answer) = answer {
            let answer = to_raw_value(&Positive::new(answer));
            if answer.as_ref().is_ok_and(|answer| ack.send(answer)) {
                return true;
            }
            self.metrics.outgoing_dropped(Packet::Response);
            // A send that is durable is not said to be refused.
            if answer.is_ok_and(|answer| answer.get().len() <= LARGE) {
                return false;
            }
        }
        let no_room = Refusal::unavailable("too much waits for this connection");
        let refusal = answer.err().unwrap_or(&no_room);
        self.metrics.refused(refusal.code);
        let refusal = to_raw_value(&json!({ "ok": false, "error": refusal }));
        if !refusal.is_ok_and(|refusal| ack.send(&refusal)) {
            self.metrics.outgoing_dropped(Packet::Response);
        }
        false
    }
}

fn malformed(error: ParserError) -> Refusal {
    Refusal::new(Code::Validation, format!("the payload is not as described: {error}"))
}

fn no_identity() -> Refusal {
    Refusal::new(Code::Unauthenticated, "no valid token")
}
