//! Permissions and limits, before anybody sees a message.
//!
//! Takes a batch of stamped messages from the pipeline; gives each a verdict. The limit is counted in the cache for all gateways
//! together; while the cache is away, a limiter of the same size in this process stands in.

use std::time::{Duration, Instant};

use holdfast_cache::Breaker;
use holdfast_cache::rate_limit::{Decision, LocalLimiter, RateLimiter};
use holdfast_message::id::Members;
use holdfast_message::{ChatId, Message, UserId};

use crate::error::{Code, Refusal};

/// Checks what may be sent and read.
#[derive(Clone)]
pub struct Admission {
    limits: Option<std::sync::Arc<Limits>>,
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
    pub fn new(limits: Option<Limits>) -> Self {
        Self { limits: limits.map(std::sync::Arc::new) }
    }

    /// Whether a user may see and write in a chat. Groups have no members yet, so they admit nobody.
    pub fn permit(&self, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        match chat.members() {
            Members::Direct(first, second) if first == *user || second == *user => Ok(()),
            Members::Direct(..) => Err(Refusal::new(Code::Forbidden, "not a member of this chat")),
            Members::Group => Err(Refusal::new(Code::NotFound, "no such chat")),
        }
    }

    /// A verdict for each message, in order.
    pub async fn check(&self, messages: impl Iterator<Item = &Message> + Clone) -> Vec<Result<(), Refusal>> {
        let mut verdicts: Vec<_> =
            messages.clone().map(|message| self.permit(&message.sender, &message.chat)).collect();
        let Some(limits) = &self.limits else { return verdicts };
        // Only what is permitted counts against a limit.
        let (places, users): (Vec<_>, Vec<_>) = messages
            .enumerate()
            .filter(|(index, _)| verdicts[*index].is_ok())
            .map(|(index, message)| (index, &message.sender))
            .unzip();
        for (place, decision) in places.into_iter().zip(limits.decide(&users).await) {
            if let Decision::Limited { retry_after } = decision {
                verdicts[place] = Err(Refusal::rate_limited(retry_after));
            }
        }
        verdicts
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
