//! Who is online: from the sockets of all gateways to presence events.
//!
//! 1. What sockets do waits in a bounded queue for the [`PresenceWriter`], which alone writes it to the cache ([`holdfast_cache::presence`]), in order,
//!    so that no handshake waits for the cache. The writer renews this gateway's devices by a heartbeat three times in their life, in batches, and at once
//!    when the gateway had lost its connection or the cache a device; and sweeps what has expired, of any gateway.
//! 2. When a user comes online or goes, the [`PresenceNotifier`] notifies the users who share a chat with them: the partners of their newest direct chats,
//!    then the members of their groups, [`MAX_AUDIENCE`](audience::MAX_AUDIENCE) at most. It sends what the cache says at that moment, so a late
//!    notification, of whichever gateway, never contradicts the present state. After a call to the cache that was not answered it notifies of every user
//!    whom the call may have changed.
//! 3. A look-up reads the cache alone, once for all users. While the cache is away it is refused as unavailable, because one gateway knows only
//!    its own sockets and would show most users as gone. It is refused, too, while blocks can't be read.
//!
//! What finds a queue full is dropped and counted; while store or cache are away, a bounded number of users waits to be notified of. Heartbeats and
//! expiry repair what the cache missed; a client that missed a notification learns the state when it asks.
//!
//! See `docs/decisions/presence-storage.md`.

pub(crate) mod audience;
pub(crate) mod notifier;
pub(crate) mod typing;
pub(crate) mod writer;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::Origin;
use holdfast_cache::presence::{Device, Online, Seen, Step};
use holdfast_message::UserId;
use holdfast_message::draft::Invalid;
use socketioxide::socket::Sid;
use tokio::sync::{Notify, mpsc};

use self::audience::PresenceAudience;
use self::notifier::PresenceNotifier;
use self::writer::PresenceWriter;
use crate::access::relationships::Relations;
use crate::deliver::ephemeral::EphemeralEvents;
use crate::deliver::sockets::Sockets;
use crate::metrics::{Dropped, Metrics};
use crate::refusal::Refusal;
use crate::wire::requests::PresenceRequest;
use crate::wire::responses::Presences;

/// Users of one look-up.
pub(crate) const MAX_USERS: usize = 100;
/// How often expired devices are swept, and failed calls repeated.
pub(crate) const SWEEP: Duration = Duration::from_secs(1);
/// A user who reconnects within this time was never gone.
pub(crate) const GRACE: Duration = Duration::from_secs(5);
/// Connections, and notifications, that may wait.
const CAPACITY: usize = 10_000;
/// The time that the cache has for a round trip in the background.
const BUDGET: Duration = Duration::from_secs(1);

/// Presence, as requests and sockets use it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Presence {
    online: Online,
    relations: Relations,
    breaker: Breaker,
    budget: Duration,
    origin: Origin,
    steps: mpsc::Sender<Step>,
    renew: Arc<Notify>,
    metrics: Metrics,
}

impl Presence {
    /// Presence of this gateway's sockets, and of everybody's. A request's call to the cache has the budget.
    pub(crate) fn new(
        online: Online,
        (breaker, budget): (Breaker, Duration),
        origin: Origin,
        sockets: Sockets,
        (audience, ephemeral): (PresenceAudience, EphemeralEvents),
        metrics: Metrics,
    ) -> (Self, PresenceWriter, PresenceNotifier) {
        let (steps, taken) = mpsc::channel(CAPACITY);
        let (changes, seen) = mpsc::channel(CAPACITY);
        let renew = Arc::new(Notify::new());
        let writer = PresenceWriter {
            online: online.clone(),
            sockets,
            origin,
            steps: taken,
            renew: renew.clone(),
            unsure: HashSet::new(),
            changes,
            metrics: metrics.clone(),
        };
        let relations = audience.relations.clone();
        let notifier = PresenceNotifier::new(seen, online.clone(), audience, ephemeral, metrics.clone());
        (Self { online, relations, breaker, budget, origin, steps, renew, metrics }, writer, notifier)
    }

    /// A socket is there. Never waits.
    pub(crate) fn joined(&self, user: &UserId, socket: Sid) {
        self.queue(Step::Joined(Device::new(user.clone(), self.origin, &socket)));
    }

    /// A socket has gone. May be called more than once.
    pub(crate) fn left(&self, user: &UserId, socket: Sid) {
        self.queue(Step::Left(Device::new(user.clone(), self.origin, &socket)));
    }

    /// The cache may have lost everything: renews all devices.
    pub(crate) fn renew(&self) {
        self.renew.notify_one();
    }

    /// The answer to a look-up, by any user of any other.
    pub(crate) async fn answer(&self, asker: &UserId, request: &PresenceRequest) -> Result<Presences, Refusal> {
        let wanted: HashSet<_> = request.user_ids.iter().collect();
        if wanted.len() > MAX_USERS {
            return Err(Invalid::new("userIds", format!("at most {MAX_USERS} users")).into());
        }
        let users = wanted.into_iter().map(|text| UserId::parse(text));
        let users: Vec<_> =
            users.collect::<Result<_, _>>().map_err(|error| Invalid::new("userIds", error.to_string()))?;
        let mut presences = Presences::default();
        for (user, seen) in users.iter().zip(self.of(asker, &users).await?) {
            presences.online.insert(user.as_str().to_owned(), seen.online);
            presences.last_seen.extend(seen.last_seen.map(|at| (user.as_str().to_owned(), at)));
        }
        Ok(presences)
    }

    /// What is known of each of these users, in their order; the cache is asked once. Nothing is known of whom the asker blocks or
    /// is blocked by.
    pub(crate) async fn of(&self, asker: &UserId, users: &[UserId]) -> Result<Vec<Seen>, Refusal> {
        let others: Vec<_> = users.iter().filter(|user| *user != asker).cloned().collect();
        let (hidden, seen) = tokio::join!(self.relations.hidden_from(asker, &others), self.look(users));
        let hidden = hidden?;
        let seen = users.iter().zip(seen?);
        Ok(seen.map(|(user, seen)| if hidden.contains(user) { Seen::default() } else { seen }).collect())
    }

    async fn look(&self, users: &[UserId]) -> Result<Vec<Seen>, Refusal> {
        self.breaker.call(self.online.look(users, self.budget)).await.map_err(|error| {
            tracing::debug!(%error, "presence can't be read");
            Refusal::unavailable("who is online can't be read now")
        })
    }

    fn queue(&self, step: Step) {
        match self.steps.try_send(step) {
            Ok(()) => self.metrics.presence_waiting.inc(),
            Err(_) => self.metrics.presence_dropped(Dropped::Full),
        }
    }
}
