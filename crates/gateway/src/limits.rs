//! What one user, one connection and one address may do.
//!
//! | what | counted | beyond it |
//! | --- | --- | --- |
//! | messages, other events by their name, other REST requests together, members added to groups, per user | in the cache, for all gateways ([`user`]) | `RATE_LIMITED`, with the time to wait |
//! | events and bytes per connection; entering the namespace is an event | by the connection ([`connection`]) | the same; a client that does not slow down is disconnected |
//! | connections per user and per address | in this process ([`slots`]) | `connect_error` `RATE_LIMITED` |
//! | handshakes per address | in this process ([`handshake`]) | 429 |
//!
//! Whatever is refused is counted in [`crate::metrics::LIMITED`]. The memory of each limit is bounded: by a capacity, or by the
//! number of connections.

pub(crate) mod connection;
pub(crate) mod handshake;
pub(crate) mod slots;
pub(crate) mod user;

use std::net::IpAddr;
use std::sync::Arc;

use holdfast_cache::rate_limit::{Decision, Kind};
use holdfast_message::UserId;

use self::slots::ConcurrencyLimit;
use self::user::UserLimit;
use crate::config::GatewaySettings;
use crate::metrics::{Limited, Metrics};
use crate::refusal::Refusal;

/// Users and addresses that a limiter in this process remembers.
const REMEMBERED: usize = 100_000;

/// Every limit but that of messages, which the pipeline checks a batch at a time ([`crate::access::authorize`]).
pub(crate) struct Limits {
    events: Option<UserLimit>,
    /// Connections per user.
    pub(crate) users: ConcurrencyLimit<UserId>,
    /// Connections per address.
    pub(crate) addresses: ConcurrencyLimit<IpAddr>,
    metrics: Metrics,
}

impl Limits {
    /// The limits that the settings ask for.
    pub(crate) fn new(settings: &GatewaySettings, events: Option<UserLimit>, metrics: Metrics) -> Arc<Self> {
        Arc::new(Self {
            events,
            users: ConcurrencyLimit::new(settings.max_sockets_per_user),
            addresses: ConcurrencyLimit::new(settings.max_sockets_per_address),
            metrics,
        })
    }

    /// Counts an event that is no send against its user's limit, by its name.
    pub(crate) async fn pass(&self, user: &UserId, event: &'static str) -> Result<(), Refusal> {
        self.pass_many(user, event, 1).await
    }

    /// The same for a request that counts as several events.
    pub(crate) async fn pass_many(&self, user: &UserId, event: &'static str, count: usize) -> Result<(), Refusal> {
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
