//! One handler an event.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_message::UserId;
use serde_json::Value;
use socketioxide::extract::{SocketRef, TryData};
use tokio::sync::OwnedSemaphorePermit;

use super::ack::Ack;
use super::connect::Arrival;
use super::{Answer, Call, identify, session_of};
use crate::deliver::sockets::Holding;
use crate::gateway::Gateway;
use crate::inbox::{Unread, list};
use crate::metrics::Outcome;
use crate::read::history::Page;
use crate::read::resume::Resume;
use crate::refusal::Refusal;
use crate::wire::events::{self, ClientEvent};
use crate::wire::requests::{
    ConversationsRequest, HistoryRequest, Nothing, PresenceRequest, ReadRequest, ResumeRequest, SendRequest,
    TypingRequest,
};
use crate::wire::responses::{Conversations, Done, HistoryPage, Missed, Presences, Read, Sent, UnreadMessages};

/// The time that a socket's subscription and the reading have before `resume` recovers nothing.
const RESUME_TIMEOUT: Duration = Duration::from_secs(3);
/// The time that the newest page of history waits for the socket's subscriptions.
const READY_TIMEOUT: Duration = Duration::from_secs(1);
/// The time after which the subscriptions count as broken: every socket gets `resync` once they are made again.
const READY_LATE: Duration = Duration::from_secs(60);

/// A slot among a socket's requests whose answers may be large.
type ReadSlot = Option<OwnedSemaphorePermit>;

/// A large answer, with the slot that it holds until it is given.
pub(super) struct Slotted<T>(T, #[expect(dead_code, reason = "held for its drop")] ReadSlot);

/// `sendMessage`. socketioxide calls handlers in the order of arrival but spawns what they return, so a send is checked, stamped and queued
/// before the handler's first `await`.
pub(super) fn on_send(gateway: &Arc<Gateway>, socket: &SocketRef) {
    let gateway = gateway.clone();
    let name = events::SendMessage::NAME;
    socket.on(name, move |socket: SocketRef, ack: Ack, TryData(payload): TryData<SendRequest>| {
        let typing_ends = payload.as_ref().ok().and_then(|SendRequest { friend_id, chat_id, .. }| {
            gateway.typing.sends(socket.id, &identify(&socket).ok()?, friend_id.as_deref(), chat_id.as_deref())
        });
        let submitted = ack
            .passes(&gateway.metrics, events::SendMessage::ACK)
            .and_then(|()| gateway.submit(&identify(&socket)?, events::SendMessage::request(payload)?));
        let gateway = gateway.clone();
        async move {
            let answer = match submitted {
                Ok(answered) => gateway.answer_of(answered).await,
                Err(refusal) => {
                    gateway.metrics.ended(Outcome::Rejected);
                    Err(refusal)
                }
            };
            match &answer {
                Ok(accepted) => drop(ack.answer(&gateway.metrics, &Sent::from(accepted))),
                Err(refusal) => ack.refuse(&gateway.metrics, refusal),
            }
            if let Some(typing_ends) = typing_ends {
                typing_ends.await;
            }
        }
    });
}

/// `history`. The newest page waits until the socket gets what comes after it, so that nothing falls between the two.
pub(super) async fn history(call: Call<HistoryRequest>) -> Result<Slotted<Page>, Refusal> {
    let Call { gateway, socket, user, request } = call;
    let slot = read_slot(&socket).await?;
    if request.before.is_none() {
        ready(&gateway, &user, &socket).await;
    }
    Ok(Slotted(gateway.history(&user, &request).await?, slot))
}

impl Answer<events::History> for Slotted<Page> {
    fn give<T>(&self, give: impl FnOnce(&HistoryPage<'_>) -> T) -> T {
        give(&HistoryPage::from(&self.0))
    }
}

/// `resume`.
pub(super) async fn resume(call: Call<ResumeRequest>) -> Result<Slotted<Resumed>, Refusal> {
    let Call { gateway, socket, user, request } = call;
    let slot = gateway.within_deadline(read_slot(&socket)).await?;
    Ok(Slotted(Resumed::of(&gateway, &user, &socket, &request.offsets).await, slot))
}

impl Answer<events::Resume> for Slotted<Resumed> {
    fn give<T>(&self, give: impl FnOnce(&Missed) -> T) -> T {
        give(&self.0.missed)
    }

    fn given(&self) {
        self.0.given();
    }
}

/// What a socket has missed. Its live events wait until the answer is given and this is dropped.
pub(super) struct Resumed {
    pub(super) missed: Missed,
    holding: Option<Holding>,
}

impl Resumed {
    /// Reads what came after these offsets, once the socket's subscriptions are confirmed.
    pub(super) async fn of(
        gateway: &Gateway,
        user: &UserId,
        socket: &SocketRef,
        offsets: &BTreeMap<String, Value>,
    ) -> Self {
        arrived(socket).await;
        let holding = gateway.sockets.hold(user, socket.id);
        let read = async {
            match &holding {
                Some(holding) => {
                    holding.subscribed().await;
                    gateway.rooms.ready(user).await;
                }
                // The socket is gone, and gets no live events.
                None => return Resume::nothing(offsets),
            }
            gateway.resume.read(user, offsets).await
        };
        let chats = tokio::time::timeout(RESUME_TIMEOUT, read).await.unwrap_or_else(|_| Resume::nothing(offsets));
        Self { missed: Missed { chats }, holding }
    }

    /// The answer to a request that is refused: nothing is recovered, and the client reads history.
    pub(super) fn refused(offsets: &BTreeMap<String, Value>) -> Self {
        Self { missed: Missed { chats: Resume::nothing_for_nothing(offsets) }, holding: None }
    }

    /// The answer was queued: the connection has received its messages.
    pub(super) fn given(&self) {
        if let Some(holding) = &self.holding {
            holding.answered(self.missed.messages());
        }
    }
}

/// `markRead`.
pub(super) async fn mark_read(call: Call<ReadRequest>) -> Result<Read, Refusal> {
    call.gateway.mark_read(&call.user, &call.request).await
}

impl Answer<events::MarkRead> for Read {
    fn give<T>(&self, give: impl FnOnce(&Read) -> T) -> T {
        give(self)
    }
}

/// `unread`.
pub(super) async fn unread(call: Call<Nothing>) -> Result<Unread, Refusal> {
    call.gateway.unread(&call.user).await
}

impl Answer<events::Unread> for Unread {
    fn give<T>(&self, give: impl FnOnce(&UnreadMessages<'_>) -> T) -> T {
        give(&UnreadMessages::from(self))
    }
}

/// `conversations`.
pub(super) async fn conversations(call: Call<ConversationsRequest>) -> Result<Slotted<list::Page>, Refusal> {
    let Call { gateway, socket, user, request } = call;
    let slot = read_slot(&socket).await?;
    Ok(Slotted(gateway.conversations(&user, &request).await?, slot))
}

impl Answer<events::Conversations> for Slotted<list::Page> {
    fn give<T>(&self, give: impl FnOnce(&Conversations<'_>) -> T) -> T {
        give(&Conversations::from(&self.0))
    }
}

/// `typing`.
pub(super) async fn typing(call: Call<TypingRequest>) -> Result<Done, Refusal> {
    call.gateway.typing.hear(call.socket.id, &call.user, &call.request).await?;
    Ok(Done {})
}

impl Answer<events::Typing> for Done {
    fn give<T>(&self, give: impl FnOnce(&Done) -> T) -> T {
        give(self)
    }
}

/// `presence`.
pub(super) async fn presence(call: Call<PresenceRequest>) -> Result<Presences, Refusal> {
    call.gateway.presences(&call.user, &call.request).await
}

impl Answer<events::Presence> for Presences {
    fn give<T>(&self, give: impl FnOnce(&Presences) -> T) -> T {
        give(self)
    }
}

/// Waits for a slot among the socket's requests whose answers may be large. Refuses at once, before anything is read, while such an
/// answer would find no room.
async fn read_slot(socket: &SocketRef) -> Result<ReadSlot, Refusal> {
    let Some(session) = session_of(socket) else { return Ok(None) };
    // It is never closed.
    let Ok(slot) = session.reads.clone().acquire_owned().await else { return Ok(None) };
    if !session.account.takes_any() {
        return Err(Refusal::unavailable("too much waits for this connection"));
    }
    Ok(Some(slot))
}

/// Waits until a socket is counted among its user's: its first events may come before. `None`: it was never admitted.
async fn arrived(socket: &SocketRef) -> Option<Arc<Arrival>> {
    let arrival = socket.extensions.get::<Arc<Arrival>>()?;
    arrival.added.cancelled().await;
    Some(arrival)
}

/// Waits until what is announced to the user and to their groups reaches a socket, so that nothing falls between what it reads next and
/// its live events. If that takes long, the socket gets `resync` later.
async fn ready(gateway: &Gateway, user: &UserId, socket: &SocketRef) {
    let Some(arrival) = arrived(socket).await else { return };
    if !gateway.channels.is_healthy() {
        // Every socket gets `resync` when the subscriptions are made again.
        return;
    }
    let (sockets, rooms, user, id) = (gateway.sockets.clone(), gateway.rooms.clone(), user.clone(), socket.id);
    let mut ready = Box::pin(async move {
        sockets.subscribed(&user, id).await;
        rooms.ready(&user).await;
        (sockets, user)
    });
    let late = tokio::time::timeout(READY_TIMEOUT, ready.as_mut()).await.is_err();
    if late && !arrival.late.swap(true, Ordering::Relaxed) {
        tokio::spawn(async move {
            if let Ok((sockets, user)) = tokio::time::timeout(READY_LATE, ready).await {
                sockets.resync(&user);
            }
            arrival.late.store(false, Ordering::Relaxed);
        });
    }
}
