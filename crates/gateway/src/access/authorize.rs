//! Rate limit and permission, before anybody sees a message.
//!
//! Takes stamped messages from the pipeline; gives each a verdict. A direct chat's id names its members; a group's are read from the store and
//! cached, and every gateway forgets them when they change ([`crate::access::membership`]). So a send whose chat is known waits for nothing.

use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

use crate::access::membership::{Membership, Roster};
use crate::access::relationships::{KnownRelation, Relations};
use crate::limits::user::UserLimit;
use crate::metrics::{Limited, Metrics};
use crate::refusal::{Code, Refusal};

/// What a user asks to do in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Send a message.
    Send,
    /// Read messages, or move how far one has read them.
    Read,
    /// Be seen typing.
    Type,
}

/// Checks what may be sent and read.
#[derive(Clone)]
pub(crate) struct Admission {
    membership: Membership,
    relations: Relations,
    limit: Option<Arc<UserLimit>>,
    metrics: Metrics,
}

/// What is known of a chat: enough for a verdict on any of its members.
#[derive(Debug, Clone)]
pub(crate) enum AccessFacts {
    /// The relationship of the two users.
    Direct(KnownRelation),
    /// The members of the group.
    Group(Result<Roster, Refusal>),
}

impl Admission {
    /// Without `limit`, sends are not limited.
    pub(crate) fn new(
        membership: Membership,
        relations: Relations,
        limit: Option<UserLimit>,
        metrics: Metrics,
    ) -> Self {
        Self { membership, relations, limit: limit.map(Arc::new), metrics }
    }

    /// Whether a user may do this in a chat, as of now.
    pub(crate) async fn permit(&self, user: &UserId, chat: &ChatId, act: Act) -> Result<(), Refusal> {
        match self.known(user, chat, act) {
            Some(verdict) => verdict,
            None => self.verdict(&self.facts(chat).await, user, chat),
        }
    }

    /// [`Admission::permit`] to read, for many chats at once, in their order.
    pub(crate) async fn permit_reading(&self, user: &UserId, chats: &[ChatId]) -> Vec<Result<(), Refusal>> {
        let rosters = self.membership.rosters(chats).await;
        let verdict = |(chat, roster): (&ChatId, Result<Roster, Refusal>)| match chat.members() {
            Members::Direct(..) => chat.other(user).map(drop).ok_or_else(stranger),
            Members::Group => roster?.includes(user),
        };
        chats.iter().zip(rosters).map(verdict).collect()
    }

    /// What [`Admission::permit`] answers, if this process knows it.
    pub(crate) fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
        let facts = match chat.members() {
            // A stranger is refused in any case; and both may read what was written, whatever their relationship is now.
            Members::Direct(..) if act == Act::Read || chat.other(user).is_none() => {
                return Some(chat.other(user).map(drop).ok_or_else(stranger));
            }
            Members::Direct(..) => AccessFacts::Direct(self.relations.known(chat)?),
            Members::Group => AccessFacts::Group(self.membership.known(chat)?),
        };
        Some(self.verdict(&facts, user, chat))
    }

    /// Reads what the store knows of a chat.
    pub(crate) async fn facts(&self, chat: &ChatId) -> AccessFacts {
        if chat.is_group() {
            return AccessFacts::Group(self.membership.roster(chat).await);
        }
        AccessFacts::Direct(self.relations.between(chat).await)
    }

    /// The members of a chat.
    pub(crate) async fn members(&self, chat: &ChatId) -> Result<Arc<[UserId]>, Refusal> {
        self.membership.of(chat).await
    }

    /// Whether a user may write in a chat of which this is known. A user who does not belong to a group does not learn that it exists.
    pub(crate) fn verdict(&self, facts: &AccessFacts, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match facts {
            AccessFacts::Direct(_) if chat.other(user).is_none() => Err(stranger()),
            AccessFacts::Direct(between) => self.relations.permits(*between),
            AccessFacts::Group(roster) => roster.as_ref().map_err(Clone::clone)?.includes(user),
        }
    }

    /// Whether the limit lets each of these users send now. Sends that pass are counted.
    pub(crate) async fn limit(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
        let Some(limit) = &self.limit else { return users.iter().map(|_| Ok(())).collect() };
        limit.decide(Kind::Message, 1, users).await.into_iter().map(|decision| self.within(decision)).collect()
    }

    /// [`Admission::limit`], counted by this process alone: for sends that can't wait for the cache.
    pub(crate) fn limit_here(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
        let Some(limit) = &self.limit else { return users.iter().map(|_| Ok(())).collect() };
        users.iter().map(|user| self.within(limit.decide_here(Kind::Message, 1, user))).collect()
    }

    fn within(&self, decision: Decision) -> Result<(), Refusal> {
        match decision {
            Decision::Allowed => Ok(()),
            Decision::Limited { retry_after } => {
                self.metrics.limited(Limited::Messages);
                Err(Refusal::rate_limited(retry_after))
            }
        }
    }
}

fn stranger() -> Refusal {
    Refusal::new(Code::Forbidden, "not a member of this chat")
}
