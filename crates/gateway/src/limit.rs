//! What one user, one connection and one address may ask for.
//!
//! | what | counted | beyond it |
//! | --- | --- | --- |
//! | messages, other events by their name, other REST requests together, members added to groups, per user | in the cache, for all gateways ([`UserLimit`]) | `RATE_LIMITED`, with the time to wait |
//! | events and bytes per connection, to come in being one | by the connection ([`meter`]) | the same; who does not slow down is disconnected |
//! | connections per user and per address | in this process ([`places`]) | `connect_error` `RATE_LIMITED` |
//! | handshakes per address | in this process ([`address`]) | 429 |
//!
//! Whatever is refused is counted in [`crate::metrics::LIMITED`]. The memory of each limit is bounded: by a capacity, or by the
//! number of connections.

pub mod address;
pub mod meter;
pub mod places;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_breaker::Breaker;
use holdfast_cache::rate_limit::{Decision, Kind, Limit, LocalLimiter, RateLimiter};
use holdfast_message::UserId;

use self::places::Places;
use crate::config::GatewaySettings;
use crate::error::Refusal;
use crate::metrics::{Limited, Metrics};

/// Users and addresses that a limiter in this process remembers.
const REMEMBERED: usize = 100_000;

/// How often users may do something. It is counted in the cache for all gateways together; while the cache is away, a limiter of the
/// same size in this process stands in.
pub struct UserLimit {
    shared: RateLimiter,
    local: LocalLimiter<(UserId, Kind)>,
    breaker: Breaker,
    budget: Duration,
}

impl UserLimit {
    /// A limit, unless it is of none. `budget` is what the cache has for a batch.
    pub fn new(limit: Limit, shared: RateLimiter, breaker: &Breaker, budget: Duration) -> Option<Self> {
        (limit.events > 0).then(|| Self {
            shared,
            local: LocalLimiter::new(limit, REMEMBERED, Instant::now()),
            breaker: breaker.clone(),
            budget,
        })
    }

    /// Counts so many events of each user; the decisions are in their order.
    pub async fn decide(&self, kind: Kind, count: u32, users: &[&UserId]) -> Vec<Decision> {
        if users.is_empty() {
            return Vec::new();
        }
        let local = |user: &&UserId| self.decide_here(kind, count, user);
        let Ok(permit) = self.breaker.acquire(Instant::now()) else { return users.iter().map(local).collect() };
        let decisions = self.shared.check_many(kind, count, users, self.budget).await;
        if decisions.iter().any(|decision| matches!(decision, Err(error) if error.is_unavailable())) {
            permit.failure(Instant::now());
        } else {
            permit.success();
        }
        users.iter().zip(decisions).map(|(user, decision)| decision.unwrap_or_else(|_| local(user))).collect()
    }

    /// Counts so many events of a user in this process alone, without waiting.
    pub fn decide_here(&self, kind: Kind, count: u32, user: &UserId) -> Decision {
        self.local.check_many(&(user.clone(), kind), count, Instant::now())
    }
}

/// Every limit but that of messages, which the pipeline asks a batch at a time ([`crate::admit`]).
pub struct Limits {
    events: Option<UserLimit>,
    /// Connections per user.
    pub users: Places<UserId>,
    /// Connections per address.
    pub addresses: Places<IpAddr>,
    metrics: Metrics,
}

impl Limits {
    /// The limits that the settings ask for.
    pub fn new(settings: &GatewaySettings, events: Option<UserLimit>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            events,
            users: Places::new(settings.max_sockets_per_user),
            addresses: Places::new(settings.max_sockets_per_address),
            metrics,
        })
    }

    /// Counts an event that is no send, by its name; for whoever is about to do what it asks.
    pub async fn pass(&self, user: &UserId, event: &'static str) -> Result<(), Refusal> {
        self.pass_many(user, event, 1).await
    }

    /// The same for what is as much work as so many events.
    pub async fn pass_many(&self, user: &UserId, event: &'static str, count: usize) -> Result<(), Refusal> {
        let Some(limit) = &self.events else { return Ok(()) };
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        match limit.decide(Kind::Event(event), count, &[user]).await.pop() {
            Some(Decision::Limited { retry_after }) => {
                self.metrics.limited(Limited::Events);
                Err(Refusal::rate_limited(retry_after))
            }
            _ => Ok(()),
        }
    }
}
