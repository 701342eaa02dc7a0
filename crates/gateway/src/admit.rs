//! Permissions and limits, before anybody sees a message.
//!
//! Takes stamped messages from the pipeline; gives each a verdict. Who belongs to a chat is known from its id or from the store, whose
//! last word is cached, and forgotten everywhere when it changes ([`crate::members`]): a send whose chat is known waits for nobody.

use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

use crate::error::{Code, Refusal};
use crate::limit::UserLimit;
use crate::members::{Membership, Roster};
use crate::metrics::{Limited, Metrics};
use crate::relations::{Between, Relations};

/// What a user wants to do in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Send a message.
    Send,
    /// Read messages, or say how far one has read them.
    Read,
    /// Be seen typing.
    Type,
}

/// Checks what may be sent and read.
#[derive(Clone)]
pub struct Admission {
    membership: Membership,
    relations: Relations,
    limit: Option<Arc<UserLimit>>,
    metrics: Metrics,
}

/// What the store said of a chat: enough for a verdict about any of its members.
#[derive(Debug, Clone)]
pub enum Standing {
    /// What is between the two users.
    Direct(Between),
    /// Who belongs to the group.
    Group(Result<Roster, Refusal>),
}

impl Admission {
    /// Without `limit`, users may send as much as they like.
    pub fn new(membership: Membership, relations: Relations, limit: Option<UserLimit>, metrics: Metrics) -> Self {
        Self { membership, relations, limit: limit.map(Arc::new), metrics }
    }

    /// Whether a user may do this in a chat, as of now.
    pub async fn permit(&self, user: &UserId, chat: &ChatId, act: Act) -> Result<(), Refusal> {
        match self.known(user, chat, act) {
            Some(verdict) => verdict,
            None => self.verdict(&self.standing(chat).await, user, chat),
        }
    }

    /// [`Admission::permit`] to read, for many chats at once, in their order.
    pub async fn permit_reading(&self, user: &UserId, chats: &[ChatId]) -> Vec<Result<(), Refusal>> {
        let rosters = self.membership.rosters(chats).await;
        let verdict = |(chat, roster): (&ChatId, Result<Roster, Refusal>)| match chat.members() {
            Members::Direct(..) => chat.other(user).map(drop).ok_or_else(stranger),
            Members::Group => roster?.includes(user),
        };
        chats.iter().zip(rosters).map(verdict).collect()
    }

    /// What [`Admission::permit`] answers, if it is known without asking anybody.
    pub fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
        let standing = match chat.members() {
            // A verdict on a stranger, and what was written stays readable for both, whatever is between them now.
            Members::Direct(..) if act == Act::Read || chat.other(user).is_none() => {
                return Some(chat.other(user).map(drop).ok_or_else(stranger));
            }
            Members::Direct(..) => Standing::Direct(self.relations.known(chat)?),
            Members::Group => Standing::Group(self.membership.known(chat)?),
        };
        Some(self.verdict(&standing, user, chat))
    }

    /// What the store says of a chat.
    pub async fn standing(&self, chat: &ChatId) -> Standing {
        if chat.is_group() {
            return Standing::Group(self.membership.roster(chat).await);
        }
        Standing::Direct(self.relations.between(chat).await)
    }

    /// Whether a user may write in a chat of which this is known. Who does not belong to a group does not learn that there is one.
    pub fn verdict(&self, standing: &Standing, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match standing {
            Standing::Direct(_) if chat.other(user).is_none() => Err(stranger()),
            Standing::Direct(between) => self.relations.permits(*between),
            Standing::Group(roster) => roster.as_ref().map_err(Clone::clone)?.includes(user),
        }
    }

    /// Whether each of these users may send now as far as the limit is concerned. What passes is counted.
    pub async fn limit(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
        let Some(limit) = &self.limit else { return users.iter().map(|_| Ok(())).collect() };
        limit.decide(Kind::Message, 1, users).await.into_iter().map(|decision| self.within(decision)).collect()
    }

    /// The same, counted by this process alone: for sends that can't wait for the cache.
    pub fn limit_here(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
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
