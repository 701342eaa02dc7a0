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
    limits: Option<Arc<Limits>>,
}

/// What the store said of a chat: enough for a verdict about anybody.
#[derive(Debug, Clone)]
pub struct Standing(Result<Arc<[UserId]>, Refusal>);

impl Standing {
    /// Whether a user may do this. Who does not belong to a group does not learn that there is one.
    pub fn permits(&self, user: &UserId, _: Act) -> Result<(), Refusal> {
        let members = self.0.as_ref().map_err(Clone::clone)?;
        members.binary_search(user).map(drop).map_err(|_| no_such_chat())
    }
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
    pub fn new(membership: Membership, limits: Option<Limits>) -> Self {
        Self { membership, limits: limits.map(Arc::new) }
    }

    /// Whether a user may do this in a chat, as of now.
    pub async fn permit(&self, user: &UserId, chat: &ChatId, act: Act) -> Result<(), Refusal> {
        match self.known(user, chat, act) {
            Some(verdict) => verdict,
            None => self.standing(chat).await.permits(user, act),
        }
    }

    /// The same, if it is known without asking anybody.
    pub fn known(&self, user: &UserId, chat: &ChatId, act: Act) -> Option<Result<(), Refusal>> {
        match chat.members() {
            Members::Direct(first, second) if first == *user || second == *user => Some(Ok(())),
            Members::Direct(..) => Some(Err(Refusal::new(Code::Forbidden, "not a member of this chat"))),
            Members::Group => self.membership.known(chat).map(|members| Standing(members).permits(user, act)),
        }
    }

    /// What the store says of a chat.
    pub async fn standing(&self, chat: &ChatId) -> Standing {
        Standing(self.membership.of(chat).await)
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
