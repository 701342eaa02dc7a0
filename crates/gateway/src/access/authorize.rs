//! Permissions and limits, before anybody sees a message.
//!
//! Takes stamped messages from the pipeline; gives each a verdict. Who belongs to a chat is known from its id or from the store, whose
//! last word is cached, and forgotten everywhere when it changes ([`crate::access::membership`]): a send whose chat is known waits for nobody.

use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

use crate::access::membership::{Membership, Roster};
use crate::access::relationships::{Between, Relations};
use crate::limits::user::UserLimit;
use crate::metrics::{Limited, Metrics};
use crate::refusal::{Code, Refusal};

/// What a user wants to do in a chat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Act {
    /// Send a message.
    Send,
    /// Read messages, or say how far one has read them.
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

/// What the store said of a chat: enough for a verdict about any of its members.
#[derive(Debug, Clone)]
pub(crate) enum Standing {
    /// What is between the two users.
    Direct(Between),
    /// Who belongs to the group.
    Group(Result<Roster, Refusal>),
}

impl Admission {
    /// Without `limit`, users may send as much as they like.
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
            None => self.verdict(&self.standing(chat).await, user, chat),
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

    /// What [`Admission::permit`] answers, if it is known without asking anybody.
    pub(crate) fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
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
    pub(crate) async fn standing(&self, chat: &ChatId) -> Standing {
        if chat.is_group() {
            return Standing::Group(self.membership.roster(chat).await);
        }
        Standing::Direct(self.relations.between(chat).await)
    }

    /// Whether a user may write in a chat of which this is known. Who does not belong to a group does not learn that there is one.
    pub(crate) fn verdict(&self, standing: &Standing, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match standing {
            Standing::Direct(_) if chat.other(user).is_none() => Err(stranger()),
            Standing::Direct(between) => self.relations.permits(*between),
            Standing::Group(roster) => roster.as_ref().map_err(Clone::clone)?.includes(user),
        }
    }

    /// Whether each of these users may send now as far as the limit is concerned. What passes is counted.
    pub(crate) async fn limit(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
        let Some(limit) = &self.limit else { return users.iter().map(|_| Ok(())).collect() };
        let verdict = |decision| match decision {
            Decision::Allowed => Ok(()),
            Decision::Limited { retry_after } => {
                self.metrics.limited(Limited::Messages);
                Err(Refusal::rate_limited(retry_after))
            }
        };
        limit.decide(Kind::Message, 1, users).await.into_iter().map(verdict).collect()
    }
}

fn stranger() -> Refusal {
    Refusal::new(Code::Forbidden, "not a member of this chat")
}
