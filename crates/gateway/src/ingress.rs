//! Socket.IO: from an event to its acknowledgement.
//!
//! Takes what clients emit; gives the pipeline stamped messages in the order of arrival. socketioxide calls handlers in that order
//! but spawns what they return, so a send is checked, stamped and queued before the handler's first `await`.
//!
//! Every event is answered within the deadline. A refusal never ends the connection.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::keys::Channel;
use holdfast_message::draft::target;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{Draft, UserId};
use holdfast_service::trace::TraceParent;
use serde::ser::SerializeMap;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value, json};
use socketioxide::ParserError;
use socketioxide::adapter::Adapter;
use socketioxide::extract::{AckSender, Event, SocketRef, TryData};
use socketioxide::handler::{FromMessageParts, Value as Packet};
use socketioxide::socket::{DisconnectReason, Socket};
use tokio::sync::oneshot;

use crate::Gateway;
use crate::auth::Identity;
use crate::error::{Code, Refusal};
use crate::history::{Page, read_cursor, read_limit, write_cursor};
use crate::metrics::Outcome;
use crate::pipeline::{Accepted, Answer};
use crate::resume::{Resume, ResumeRequest};

/// How long the server has to confirm a socket's subscription before `resume` recovers nothing.
const SUBSCRIBED_WITHIN: Duration = Duration::from_secs(2);

/// What clients say in the handshake. Unknown fields are ignored everywhere.
#[derive(Debug, Default, Deserialize)]
pub struct Handshake {
    token: Option<String>,
    /// As `resume`'s; the answer is the event `resumed`.
    offsets: Option<BTreeMap<String, Value>>,
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

/// What a `connect_error` carries.
#[derive(Debug)]
pub struct Unauthenticated;

impl fmt::Display for Unauthenticated {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(Code::Unauthenticated.as_str())
    }
}

/// Whether the client waits for an acknowledgement.
struct AckWanted(bool);

impl<A: Adapter> FromMessageParts<A> for AckWanted {
    type Error = std::convert::Infallible;
    fn from_message_parts(_: &Arc<Socket<A>>, _: &mut Packet, ack: &Option<i64>) -> Result<Self, Self::Error> {
        Ok(Self(ack.is_some()))
    }
}

/// Lets in who has a valid token, and nobody while the gateway drains.
pub async fn authenticate(
    gateway: Arc<Gateway>,
    socket: SocketRef,
    handshake: Result<Handshake, ParserError>,
) -> Result<(), Unauthenticated> {
    let Handshake { token, offsets } = handshake.unwrap_or_default();
    match gateway.tokens.verify(&token.unwrap_or_default()) {
        Ok(identity) => {
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

/// Sets up a connection that was let in.
pub async fn connected(gateway: Arc<Gateway>, socket: SocketRef) {
    let Some(identity) = socket.extensions.get::<Identity>() else { return };
    let user = identity.user.clone();
    socket.on("sendMessage", {
        let gateway = gateway.clone();
        move |socket: SocketRef,
              AckWanted(wanted): AckWanted,
              ack: AckSender,
              TryData(request): TryData<SendRequest>| {
            // Nothing before the submission may wait: this part runs in the order of arrival.
            let submitted = if wanted { send(&gateway, &socket, request) } else { Err(ack_missing()) };
            async move {
                let answer = match submitted {
                    Ok(answered) => gateway.answer_of(answered).await,
                    Err(refusal) => {
                        gateway.metrics.ended(Outcome::Rejected);
                        Err(refusal)
                    }
                };
                gateway.acknowledge(ack, answer.as_ref());
            }
        }
    });
    socket.on("history", {
        let gateway = gateway.clone();
        async move |socket: SocketRef,
                    AckWanted(wanted): AckWanted,
                    ack: AckSender,
                    TryData(request): TryData<HistoryRequest>| {
            let page = if wanted { history(&gateway, &socket, request).await } else { Err(ack_missing()) };
            gateway.acknowledge(ack, page.as_ref());
        }
    });
    socket.on("resume", {
        let gateway = gateway.clone();
        async move |socket: SocketRef,
                    AckWanted(wanted): AckWanted,
                    ack: AckSender,
                    TryData(request): TryData<ResumeRequest>| {
            let request = match wanted {
                true => identify(&socket).and_then(|user| Ok((user, request.map_err(malformed)?))),
                false => Err(ack_missing()),
            };
            match request {
                Ok((user, request)) => {
                    let answer = |resumed| gateway.acknowledge(ack, Ok(&resumed));
                    gateway.resume_socket(&user, &socket, &request.offsets, answer).await;
                }
                Err(refusal) => gateway.acknowledge::<()>(ack, Err(&refusal)),
            }
        }
    });
    socket.on_fallback({
        let gateway = gateway.clone();
        async move |Event(event): Event, ack: AckSender| {
            let known = Refusal::new(Code::Validation, "no such event");
            tracing::debug!(event = event.chars().take(64).collect::<String>(), "an unknown event");
            gateway.acknowledge::<()>(ack, Err(&known));
        }
    });
    socket.on_disconnect({
        let gateway = gateway.clone();
        let user = user.clone();
        async move |socket: SocketRef, _: DisconnectReason| {
            gateway.sockets.remove(&user, socket.id);
        }
    });
    // Until the server has confirmed it, what other gateways announce passes this socket by.
    let subscription = gateway.channels.subscribe(Channel::User(user.clone()));
    gateway.sockets.add(&user, socket.clone(), subscription);
    // It may have disconnected before its handler for that was set.
    if !socket.connected() {
        gateway.sockets.remove(&user, socket.id);
        return;
    }
    if let Some(Offsets(offsets)) = socket.extensions.remove::<Offsets>() {
        gateway
            .resume_socket(&user, &socket, &offsets, |resumed| {
                if socket.emit("resumed", &Body(&resumed)).is_err() {
                    tracing::debug!(%user, "the answer to the handshake's offsets could not be given");
                }
            })
            .await;
    }
}

/// The handshake's `offsets`, until they are answered.
#[derive(Clone)]
struct Offsets(BTreeMap<String, Value>);

fn send(
    gateway: &Gateway,
    socket: &SocketRef,
    request: Result<SendRequest, ParserError>,
) -> Result<oneshot::Receiver<Answer>, Refusal> {
    gateway.submit(&identify(socket)?, request.map_err(malformed)?)
}

async fn history(
    gateway: &Gateway,
    socket: &SocketRef,
    request: Result<HistoryRequest, ParserError>,
) -> Result<Page, Refusal> {
    gateway.history(&identify(socket)?, request.map_err(malformed)?).await
}

/// Whose socket it is, if their token is still valid.
fn identify(socket: &SocketRef) -> Result<UserId, Refusal> {
    let identity = socket.extensions.get::<Identity>().ok_or_else(no_identity)?;
    identity.still_valid().cloned()
}

impl Gateway {
    /// Answers what a socket has missed; its live events wait behind the answer.
    async fn resume_socket(
        &self,
        user: &UserId,
        socket: &SocketRef,
        offsets: &BTreeMap<String, Value>,
        answer: impl FnOnce(ResumeAnswer),
    ) {
        self.sockets.hold(user, socket.id);
        let chats = if self.sockets.subscribed(user, socket.id, SUBSCRIBED_WITHIN).await {
            self.resume.read(user, offsets).await
        } else {
            Resume::nothing(offsets)
        };
        self.sockets.release(user, socket.id, || answer(ResumeAnswer(chats)));
    }

    /// Checks and stamps a send, and puts it in line. Never waits.
    pub fn submit(&self, user: &UserId, request: SendRequest) -> Result<oneshot::Receiver<Answer>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::unavailable("this gateway is shutting down"));
        }
        let chat = target(user, request.friend_id.as_deref(), request.chat_id.as_deref())?;
        let SendRequest { temp_id, content, image_url, public_id, .. } = request;
        let draft = Draft::new(user.clone(), chat, temp_id, content, image_url, public_id)?;
        let message = draft.stamp(self.stamps.next(user));
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
        let chat = target(user, request.friend_id.as_deref(), request.chat_id.as_deref())?;
        self.admission.permit(user, &chat)?;
        let limit = read_limit(request.limit, self.history_default_limit)?;
        let before = request.before.as_deref().map(read_cursor).transpose()?;
        match tokio::time::timeout(self.send_deadline, self.history.page(&chat, before, limit)).await {
            Ok(page) => page,
            Err(_) => Err(Refusal::unavailable("history can't be read now")),
        }
    }

    /// Answers an event: `{ ok: true, … }` or `{ ok: false, error }`, which is counted.
    fn acknowledge<T: WireAnswer>(&self, ack: AckSender, answer: Result<&T, &Refusal>) {
        let sent = match answer {
            Ok(answer) => ack.send(&Positive(answer)),
            Err(refusal) => {
                self.metrics.refused(refusal.code);
                ack.send(&json!({ "ok": false, "error": refusal }))
            }
        };
        if let Err(error) = sent {
            // The client's own deadline makes it repeat what it got no answer to.
            tracing::debug!(%error, "an answer could not be given");
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
