//! Permissions and limits, before anybody sees a message.
//!
//! Takes stamped messages from the pipeline; gives each a verdict. Who belongs to a chat is known from its id or from the store, whose
//! last word is kept for a while ([`crate::members`]): a send whose chat is known waits for nobody.

use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

use crate::error::{Code, Refusal};
use crate::limit::UserLimit;
use crate::members::{Membership, no_such_chat};
use crate::metrics::{Limited, Metrics};
use crate::relations::{Relation, Relations};

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
    /// What is between the two users; `None`: it could not say.
    Direct(Option<Relation>),
    /// Who belongs to the group, sorted.
    Group(Result<Arc<[UserId]>, Refusal>),
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

    /// The same, if it is known without asking anybody.
    pub fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
        let standing = match chat.members() {
            // A verdict on a stranger, and what was written stays readable for both, whatever is between them now.
            Members::Direct(..) if act == Act::Read || chat.other(user).is_none() => {
                return Some(chat.other(user).map(drop).ok_or_else(stranger));
            }
            Members::Direct(..) => Standing::Direct(Some(self.relations.known(chat)?)),
            Members::Group => Standing::Group(self.membership.known(chat)?),
        };
        Some(self.verdict(&standing, user, chat))
    }

    /// What the store says of a chat.
    pub async fn standing(&self, chat: &ChatId) -> Standing {
        if chat.is_group() {
            return Standing::Group(self.membership.of(chat).await);
        }
        Standing::Direct(self.relations.between(chat).await)
    }

    /// Whether a user may write in a chat of which this is known. Who does not belong to a group does not learn that there is one.
    pub fn verdict(&self, standing: &Standing, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match standing {
            Standing::Direct(_) if chat.other(user).is_none() => Err(stranger()),
            Standing::Direct(relation) => self.relations.permits(*relation),
            Standing::Group(members) => {
                let members = members.as_ref().map_err(Clone::clone)?;
                members.binary_search(user).map(drop).map_err(|_| no_such_chat())
            }
        }
    }

    /// Whether each of these users may send now as far as the limit is concerned. What passes is counted.
    pub async fn limit(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
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
