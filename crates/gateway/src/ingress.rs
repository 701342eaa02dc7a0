//! Socket.IO: from an event to its acknowledgement.
//!
//! Takes what clients emit; gives the pipeline stamped messages in the order of arrival. socketioxide calls handlers in that order
//! but spawns what they return, so a send is checked, stamped and queued before the handler's first `await`.
//!
//! Every event is answered within the deadline. A refusal never ends the connection.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cache::keys::Channel;
use holdfast_message::draft::target;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Draft, HistoryKey, UserId};
use holdfast_service::trace::TraceParent;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use socketioxide::adapter::LocalAdapter;
use socketioxide::extract::{AckSender, Event, SocketRef, TryData};
use socketioxide::handler::{FromMessageParts, Value as Packet};
use socketioxide::socket::{DisconnectReason, Socket};
use socketioxide::{ParserError, SendError, SocketError};
use tokio::sync::oneshot;

use crate::Gateway;
use crate::admit::Act;
use crate::auth::Identity;
use crate::deliver::Holding;
use crate::error::{Code, Refusal};
use crate::history::{Page, read_cursor, read_limit, write_cursor};
use crate::metrics::Outcome;
use crate::pipeline::{Accepted, Answer};
use crate::resume::{Resume, ResumeRequest};

/// How long a socket's subscription and the reading may take before `resume` recovers nothing.
const RESUME_WITHIN: Duration = Duration::from_secs(3);
/// Between attempts to give an answer to a socket whose buffer is full.
const ANSWER_AGAIN: Duration = Duration::from_millis(20);

/// What clients say in the handshake. Unknown fields are ignored everywhere.
#[derive(Debug, Default, Deserialize)]
pub struct Handshake {
    token: Option<String>,
    /// As `resume`'s; the answer is the event `resumed`.
    offsets: Option<Value>,
}

/// `sendMessage`, and the body of its REST form.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SendRequest {
    /// The client's id for the send.
    pub temp_id: Option<String>,
    /// The other user.
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The text.
    #[serde(default)]
    pub content: String,
    /// An https address.
    pub image_url: Option<String>,
    /// The image's id at its host.
    pub public_id: Option<String>,
}

/// `history`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HistoryRequest {
    /// The other user.
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The most messages.
    pub limit: Option<usize>,
    /// A `nextCursor`.
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

/// What a `connect_error` carries.
#[derive(Debug)]
pub struct Unauthenticated;

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Code::Unauthenticated.as_str())
    }
}

/// The acknowledgement that the client waits for, if it does.
struct Ack {
    socket: Arc<Socket<LocalAdapter>>,
    id: Option<i64>,
}

impl FromMessageParts<LocalAdapter> for Ack {
    type Error = Infallible;
    fn from_message_parts(
        socket: &Arc<Socket<LocalAdapter>>,
        _: &mut Packet,
        id: &Option<i64>,
    ) -> Result<Self, Infallible> {
        Ok(Self { socket: socket.clone(), id: *id })
    }
}

impl Ack {
    /// The request, unless nobody waits for its answer.
    fn wanted(&self) -> Result<(), Refusal> {
        if self.id.is_some() { Ok(()) } else { Err(ack_missing()) }
    }

    fn send(&self, answer: &impl Serialize) -> Result<(), SendError> {
        let Ok(sender) =
            AckSender::from_message_parts(&self.socket, &mut Packet::Str(Default::default(), None), &self.id);
        sender.send(answer)
    }
}

/// Lets in who has a valid token, and sets up what answers their events: this runs before the client learns that it is connected.
pub async fn authenticate(
    gateway: Arc<Gateway>,
    socket: SocketRef,
    handshake: Result<Handshake, ParserError>,
) -> Result<(), Unauthenticated> {
    let (token, offsets) = handshake.unwrap_or_default().into_parts();
    match gateway.tokens.verify(&token) {
        Ok(identity) => {
            listen(&gateway, &socket, identity.user.clone());
            socket.extensions.insert(identity);
            if let Some(offsets) = offsets {
                socket.extensions.insert(Offsets(offsets));
            }
            Ok(())
        }
        Err(refusal) => {
            gateway.metrics.refused(refusal.code);
            tracing::debug!(message = refusal.message, "a handshake was refused");
            Err(Unauthenticated)
        }
    }
}

fn listen(gateway: &Arc<Gateway>, socket: &SocketRef, user: UserId) {
    let on_send = gateway.clone();
    socket.on("sendMessage", move |socket: SocketRef, ack: Ack, TryData(request): TryData<SendRequest>| {
        // Nothing before the submission may wait: this part runs in the order of arrival.
        let submitted = ack.wanted().and_then(|()| on_send.submit(&identify(&socket)?, request.map_err(malformed)?));
        let gateway = on_send.clone();
        async move {
            let answer = match submitted {
                Ok(answered) => gateway.answer_of(answered).await,
                Err(refusal) => {
                    gateway.metrics.ended(Outcome::Rejected);
                    Err(refusal)
                }
            };
            gateway.acknowledge(&ack, answer.as_ref()).await;
        }
    });
    let on_history = gateway.clone();
    socket.on("history", async move |socket: SocketRef, ack: Ack, TryData(request): TryData<HistoryRequest>| {
        let request = ack.wanted().and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        let page = match request {
            Ok((user, request)) => on_history.history(&user, request).await,
            Err(refusal) => Err(refusal),
        };
        on_history.acknowledge(&ack, page.as_ref()).await;
    });
    let on_resume = gateway.clone();
    socket.on("resume", async move |socket: SocketRef, ack: Ack, TryData(request): TryData<ResumeRequest>| {
        let request = ack.wanted().and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        match request {
            Ok((user, request)) => {
                let (answer, _holding) = on_resume.resume_socket(&user, &socket, &request.offsets).await;
                on_resume.acknowledge(&ack, Ok(&answer)).await;
            }
            Err(refusal) => on_resume.acknowledge::<()>(&ack, Err(&refusal)).await,
        }
    });
    let on_other = gateway.clone();
    socket.on_fallback(async move |Event(event): Event, ack: Ack| {
        tracing::debug!(event = event.chars().take(64).collect::<String>(), "an unknown event");
        on_other.acknowledge::<()>(&ack, Err(&Refusal::new(Code::Validation, "no such event"))).await;
    });
    let on_disconnect = gateway.clone();
    socket.on_disconnect(async move |socket: SocketRef, _: DisconnectReason| {
        on_disconnect.sockets.remove(&user, socket.id);
    });
}

/// Lets a connection hear what is for its user.
pub async fn connected(gateway: Arc<Gateway>, socket: SocketRef) {
    let Some(identity) = socket.extensions.get::<Identity>() else { return };
    let user = identity.user;
    // Until the server has confirmed it, what other gateways announce passes this socket by.
    let subscription = gateway.channels.subscribe(Channel::User(user.clone()));
    let confirmed = subscription.confirmation();
    gateway.sockets.add(&user, socket.clone(), subscription);
    gateway.rooms.connected(&user, confirmed);
    // It may have disconnected before it was added.
    if !socket.connected() {
        gateway.sockets.remove(&user, socket.id);
        return;
    }
    if let Some(Offsets(offsets)) = socket.extensions.remove::<Offsets>() {
        let (answer, _holding) = gateway.resume_socket(&user, &socket, &offsets).await;
        if socket.emit("resumed", &Body(&answer)).is_err() {
            tracing::debug!(%user, "the answer to the handshake's offsets could not be given");
        }
    }
}

/// The handshake's `offsets`, until they are answered.
#[derive(Clone)]
struct Offsets(BTreeMap<String, Value>);

/// Whose socket it is, if their token is still valid.
fn identify(socket: &SocketRef) -> Result<UserId, Refusal> {
    let identity = socket.extensions.get::<Identity>().ok_or_else(no_identity)?;
    identity.still_valid().cloned()
}

impl Gateway {
    /// What a socket has missed. Its live events wait until the caller has given the answer and drops what comes with it.
    async fn resume_socket(
        &self,
        user: &UserId,
        socket: &SocketRef,
        offsets: &BTreeMap<String, Value>,
    ) -> (ResumeAnswer, Option<Holding>) {
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
        (ResumeAnswer(chats), holding)
    }

    /// Checks and stamps a send, and puts it in line. Never waits.
    pub fn submit(&self, user: &UserId, request: SendRequest) -> Result<oneshot::Receiver<Answer>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::unavailable("this gateway is shutting down"));
        }
        let draft = request.draft(user)?;
        let stamp = self.stamps.next(user, draft.chat());
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

    /// A page of a chat's history, for one of its members.
    pub async fn history(&self, user: &UserId, request: HistoryRequest) -> Result<Page, Refusal> {
        let (chat, before, limit) = request.read(user, self.history_default_limit)?;
        self.admission.permit(user, &chat, Act::Read).await?;
        match tokio::time::timeout(self.send_deadline, self.history.page(&chat, before, limit)).await {
            Ok(page) => page,
            Err(_) => Err(Refusal::unavailable("history can't be read now")),
        }
    }

    /// Answers an event: `{ ok: true, … }` or `{ ok: false, error }`, which is counted. A full buffer is waited for, within the
    /// deadline: a client that reads slowly still gets its answers.
    async fn acknowledge<T: WireAnswer>(&self, ack: &Ack, answer: Result<&T, &Refusal>) {
        if let Err(refusal) = answer {
            self.metrics.refused(refusal.code);
        }
        let deadline = Instant::now() + self.send_deadline;
        loop {
            let sent = match answer {
                Ok(answer) => ack.send(&Positive(answer)),
                Err(refusal) => ack.send(&json!({ "ok": false, "error": refusal })),
            };
            match sent {
                Err(SendError::Socket(SocketError::InternalChannelFull)) if Instant::now() < deadline => {
                    tokio::time::sleep(ANSWER_AGAIN).await;
                }
                Err(error) => return tracing::debug!(%error, "an answer could not be given"),
                Ok(()) => return,
            }
        }
    }
}

/// An answer's fields.
pub trait WireAnswer {
    /// Writes them.
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error>;
}

impl WireAnswer for () {
    fn fields<M: SerializeMap>(&self, _: &mut M) -> Result<(), M::Error> {
        Ok(())
    }
}

/// `resume`'s answer, and `resumed`.
struct ResumeAnswer(Map<String, Value>);

impl WireAnswer for ResumeAnswer {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        map.serialize_entry("chats", &self.0)
    }
}

impl WireAnswer for Accepted {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let position = match &self.position {
            Some(position) => Position::At { epoch: &position.epoch, seq: position.seq },
            None => Position::Unknown,
        };
        map.serialize_entry("message", &MessageJson { message: &self.message, position })?;
        map.serialize_entry("durability", self.durability.as_str())?;
        if self.duplicate {
            map.serialize_entry("duplicate", &true)?;
        }
        Ok(())
    }
}

impl WireAnswer for Page {
    fn fields<M: SerializeMap>(&self, map: &mut M) -> Result<(), M::Error> {
        let shown = |shown: &'_ crate::history::Shown| -> serde_json::Value {
            let position = match (&self.position, shown.seq) {
                (Some(position), Some(seq)) => Position::At { epoch: &position.epoch, seq },
                _ => Position::Absent,
            };
            // A message has no map with keys that are not text, so it always becomes a value.
            serde_json::to_value(MessageJson { message: &shown.message, position }).unwrap_or_default()
        };
        map.serialize_entry("messages", &self.messages.iter().map(shown).collect::<Vec<_>>())?;
        if let Some(next) = &self.next {
            map.serialize_entry("nextCursor", &write_cursor(next))?;
        }
        map.serialize_entry("source", self.source.as_str())?;
        map.serialize_entry("complete", &self.complete)?;
        map.serialize_entry("epoch", &self.position.as_ref().map(|position| &*position.epoch))?;
        map.serialize_entry("seq", &self.position.as_ref().map(|position| position.seq))
    }
}

/// A positive answer over Socket.IO.
struct Positive<'a, T>(&'a T);

impl<T: WireAnswer> Serialize for Positive<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("ok", &true)?;
        self.0.fields(&mut map)?;
        map.end()
    }
}

/// A positive answer over REST.
pub struct Body<'a, T>(pub &'a T);

impl<T: WireAnswer> Serialize for Body<'_, T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        self.0.fields(&mut map)?;
        map.end()
    }
}

fn malformed(error: ParserError) -> Refusal {
    Refusal::new(Code::Validation, format!("the payload is not as described: {error}"))
}

fn ack_missing() -> Refusal {
    Refusal::new(Code::Validation, "every event needs an acknowledgement callback")
}

fn no_identity() -> Refusal {
    Refusal::new(Code::Unauthenticated, "no valid token")
}
