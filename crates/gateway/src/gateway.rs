//! What a request needs, and what requests over Socket.IO and REST have in common.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::Channels;
use holdfast_message::UserId;
use holdfast_service::trace::TraceParent;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::access::authorize::{Act, Admission};
use crate::access::relationships::Relations;
use crate::auth::Verifier;
use crate::deliver::rooms::Rooms;
use crate::deliver::sockets::Sockets;
use crate::groups::Groups;
use crate::inbox::{Inbox, Unread, list};
use crate::limits::Limits;
use crate::metrics::Metrics;
use crate::presence::Presence;
use crate::presence::typing::Typing;
use crate::profiles::Profiles;
use crate::read::history::{History, Page};
use crate::read::lookup::Lookup;
use crate::read::resume::Resume;
use crate::refusal::{Code, Refusal};
use crate::send::outcome::Answer;
use crate::send::pipeline::Pipeline;
use crate::send::timestamps::TimestampAllocator;
use crate::wire::events::{ClientEvent, Deadline, EventLimit};
use crate::wire::requests::{ConversationsRequest, HistoryRequest, PresenceRequest, ReadRequest, SendRequest};
use crate::wire::responses::{Presences, Read};

/// What a request needs.
pub(crate) struct Gateway {
    pub(crate) tokens: Verifier,
    pub(crate) timestamps: TimestampAllocator,
    pub(crate) admission: Admission,
    /// Every limit but that of messages.
    pub(crate) limits: Arc<Limits>,
    pub(crate) pipeline: Pipeline,
    pub(crate) history: History,
    pub(crate) lookup: Lookup,
    pub(crate) profiles: Profiles,
    pub(crate) inbox: Inbox,
    pub(crate) resume: Resume,
    pub(crate) groups: Groups,
    pub(crate) relations: Relations,
    /// This gateway's sockets.
    pub(crate) sockets: Sockets,
    /// Which of them get the events of which groups.
    pub(crate) rooms: Rooms,
    pub(crate) presence: Presence,
    pub(crate) typing: Typing,
    /// The subscriptions to what other gateways publish.
    pub(crate) channels: Channels,
    pub(crate) metrics: Metrics,
    /// Every client event is answered within this time.
    pub(crate) send_deadline: Duration,
    /// Messages of a history page, and conversations of a page of them, without `limit`.
    pub(crate) history_default_limit: usize,
    /// Cancelled when the gateway shuts down: sends are refused from then on.
    pub(crate) draining: CancellationToken,
}

impl Gateway {
    /// Carries out what a client asked for, as the event's row in the table says: counts it against the user's limit, as `weight` events,
    /// and answers within the deadline.
    pub(crate) async fn serve<E: ClientEvent, T>(
        &self,
        user: &UserId,
        weight: usize,
        work: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let counted = async {
            match E::LIMIT {
                EventLimit::Events => self.limits.pass_many(user, E::NAME, weight).await?,
                EventLimit::Messages => {}
            }
            work.await
        };
        match E::DEADLINE {
            Deadline::Event => self.within_deadline(counted).await,
            Deadline::Own => counted.await,
        }
    }

    /// An answer, no later than the deadline.
    pub(crate) async fn within_deadline<T>(
        &self,
        answer: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let late = |_| Err(Refusal::unavailable("no answer within the deadline"));
        tokio::time::timeout(self.send_deadline, answer).await.unwrap_or_else(late)
    }

    /// Checks and stamps a send, and puts it in line. Never waits.
    pub(crate) fn submit(&self, user: &UserId, request: SendRequest) -> Result<oneshot::Receiver<Answer>, Refusal> {
        if self.draining.is_cancelled() {
            return Err(Refusal::unavailable("this gateway is shutting down"));
        }
        let draft = request.draft(user)?;
        // The id of a direct chat names its members, so this needs no look-up.
        if !draft.chat().is_group() && draft.chat().other(user).is_none() {
            return Err(Refusal::new(Code::Forbidden, "not a member of this chat"));
        }
        let stamp = self.timestamps.next(user, draft.chat()).map_err(|far| Refusal::rate_limited(far.retry_after))?;
        let message = draft.stamp(stamp);
        self.pipeline.submit(message, TraceParent::random(fastrand::u128(..), fastrand::u64(..)))
    }

    /// Waits for a send's answer, no longer than the deadline.
    pub(crate) async fn answer_of(&self, answered: oneshot::Receiver<Answer>) -> Answer {
        match tokio::time::timeout(self.send_deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Refusal::unavailable("this gateway is shutting down")),
            Err(_) => Err(Refusal::unavailable("no answer within the deadline; send it again")),
        }
    }

    /// A page of a chat's history, for one of its members.
    pub(crate) async fn history(&self, user: &UserId, request: &HistoryRequest) -> Result<Page, Refusal> {
        let (chat, before, limit) = request.read(user, self.history_default_limit)?;
        self.admission.permit(user, &chat, Act::Read).await?;
        self.rooms.belongs(user, &chat);
        if before.is_some() {
            return self.history.page(&chat, before, limit).await;
        }
        let (page, typing) = tokio::join!(self.history.page(&chat, None, limit), self.typing.who(user, &chat));
        Ok(Page { typing, ..page? })
    }

    /// Moves how far a member has read a chat.
    pub(crate) async fn mark_read(&self, user: &UserId, request: &ReadRequest) -> Result<Read, Refusal> {
        let (chat, up_to) = request.read(user)?;
        self.admission.permit(user, &chat, Act::Read).await?;
        Ok(Read { unread: self.inbox.mark_read(user, &chat, up_to).await? })
    }

    /// How many messages a user has not read.
    pub(crate) async fn unread(&self, user: &UserId) -> Result<Unread, Refusal> {
        self.inbox.unread(user).await
    }

    /// A page of a user's chats.
    pub(crate) async fn conversations(
        &self,
        user: &UserId,
        request: &ConversationsRequest,
    ) -> Result<list::Page, Refusal> {
        let (before, limit) = request.read(self.history_default_limit)?;
        self.inbox.conversations(user, before.as_ref(), limit).await
    }

    /// Which of the named users are online.
    pub(crate) async fn presences(&self, user: &UserId, request: &PresenceRequest) -> Result<Presences, Refusal> {
        self.presence.answer(user, request).await
    }
}
