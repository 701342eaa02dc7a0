//! How often a user may do something, on all gateways together.

use std::time::{Duration, Instant};

use holdfast_breaker::Breaker;
use holdfast_cache::rate_limit::{Decision, Kind, Limit, LocalLimiter, RateLimiter};
use holdfast_message::UserId;

use super::REMEMBERED;

/// How often users may do something. It is counted in the cache for all gateways together; while the cache is away, a limiter of the
/// same size in this process stands in.
pub(crate) struct UserLimit {
    shared: RateLimiter,
    local: LocalLimiter<(UserId, Kind)>,
    breaker: Breaker,
    budget: Duration,
}

impl UserLimit {
    /// A limit, unless it is of none. `budget` is what the cache has for a batch.
    pub(crate) fn new(limit: Limit, shared: RateLimiter, breaker: &Breaker, budget: Duration) -> Option<Self> {
        (limit.events > 0).then(|| Self {
            shared,
            local: LocalLimiter::new(limit, REMEMBERED, Instant::now()),
            breaker: breaker.clone(),
            budget,
        })
    }

    /// Counts so many events of each user; the decisions are in their order.
    pub(crate) async fn decide(&self, kind: Kind, count: u32, users: &[&UserId]) -> Vec<Decision> {
        if users.is_empty() {
            return Vec::new();
        }
        let local = |user: &&UserId| self.decide_here(kind, count, user);
        let decisions = self.breaker.call_batch(self.shared.check_many(kind, count, users, self.budget)).await;
        let Ok(decisions) = decisions else { return users.iter().map(local).collect() };
        users.iter().zip(decisions).map(|(user, decision)| decision.unwrap_or_else(|_| local(user))).collect()
    }

    /// Counts so many events of a user in this process alone, without waiting.
    pub(crate) fn decide_here(&self, kind: Kind, count: u32, user: &UserId) -> Decision {
        self.local.check_many(&(user.clone(), kind), count, Instant::now())
    }
}
