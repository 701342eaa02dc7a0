//! Permissions and limits, before anybody sees a message.
//!
//! Takes stamped messages from the pipeline; gives each a verdict. Who belongs to a chat is known from its id or from the store, whose
//! last word is kept for a while ([`crate::members`]): a send whose chat is known waits for nobody. The limit is counted in the cache
//! for all gateways together; while the cache is away, a limiter of the same size in this process stands in.

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cache::Breaker;
use holdfast_cache::rate_limit::{Decision, LocalLimiter, RateLimiter};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, UserId};

use crate::error::{Code, Refusal};
use crate::members::{Membership, no_such_chat};
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
    limits: Option<Arc<Limits>>,
}

/// What the store said of a chat: enough for a verdict about any of its members.
#[derive(Debug, Clone)]
pub enum Standing {
    /// What is between the two users; `None`: it could not say.
    Direct(Option<Relation>),
    /// Who belongs to the group, sorted.
    Group(Result<Arc<[UserId]>, Refusal>),
}

/// The limit of sends per user, in the cache and beside it.
pub struct Limits {
    /// For all gateways together.
    pub shared: RateLimiter,
    /// While the cache is away.
    pub local: LocalLimiter,
    /// In front of the cache.
    pub breaker: Breaker,
    /// What the cache has for a batch.
    pub budget: Duration,
}

impl Admission {
    /// Without `limits`, users may send as much as they like.
    pub fn new(membership: Membership, relations: Relations, limits: Option<Limits>) -> Self {
        Self { membership, relations, limits: limits.map(Arc::new) }
    }

    /// Whether a user may do this in a chat, as of now.
    pub async fn permit(&self, user: &UserId, chat: &ChatId, act: Act) -> Result<(), Refusal> {
        match self.known(user, chat, act) {
            Some(verdict) => verdict,
            None => self.verdict(&self.standing(chat).await, user),
        }
    }

    /// The same, if it is known without asking anybody.
    pub fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
        let standing = match chat.members() {
            Members::Direct(first, second) if first != *user && second != *user => {
                return Some(Err(Refusal::new(Code::Forbidden, "not a member of this chat")));
            }
            // What was written stays readable for both, whatever is between them now.
            Members::Direct(..) if act == Act::Read => return Some(Ok(())),
            Members::Direct(..) => Standing::Direct(Some(self.relations.known(chat)?)),
            Members::Group => Standing::Group(self.membership.known(chat)?),
        };
        Some(self.verdict(&standing, user))
    }

    /// What the store says of a chat.
    pub async fn standing(&self, chat: &ChatId) -> Standing {
        if chat.is_group() {
            return Standing::Group(self.membership.of(chat).await);
        }
        Standing::Direct(self.relations.between(chat).await)
    }

    /// Whether a user may write in a chat of which this is known. Who does not belong to a group does not learn that there is one.
    pub fn verdict(&self, standing: &Standing, user: &UserId) -> Result<(), Refusal> {
        match standing {
            Standing::Direct(relation) => self.relations.permits(*relation),
            Standing::Group(members) => {
                let members = members.as_ref().map_err(Clone::clone)?;
                members.binary_search(user).map(drop).map_err(|_| no_such_chat())
            }
        }
    }

    /// Whether each of these users may send now as far as the limit is concerned. What passes is counted.
    pub async fn limit(&self, users: &[&UserId]) -> Vec<Result<(), Refusal>> {
        let Some(limits) = &self.limits else { return users.iter().map(|_| Ok(())).collect() };
        let verdict = |decision| match decision {
            Decision::Allowed => Ok(()),
            Decision::Limited { retry_after } => Err(Refusal::rate_limited(retry_after)),
        };
        limits.decide(users).await.into_iter().map(verdict).collect()
    }
}

impl Limits {
    async fn decide(&self, users: &[&UserId]) -> Vec<Decision> {
        if users.is_empty() {
            return Vec::new();
        }
        let Ok(permit) = self.breaker.acquire(Instant::now()) else {
            return users.iter().map(|user| self.local.check(user, Instant::now())).collect();
        };
        let decisions = self.shared.check_batch(users, self.budget).await;
        if decisions.iter().any(|decision| matches!(decision, Err(error) if error.is_unavailable())) {
            permit.failure(Instant::now());
        } else {
            permit.success();
        }
        let local = |user: &&UserId| self.local.check(user, Instant::now());
        users.iter().zip(decisions).map(|(user, decision)| decision.unwrap_or_else(|_| local(user))).collect()
    }
}
