//! Who is online: from the sockets of all gateways to what clients are told.
//!
//! 1. What sockets do waits in a bounded queue for the [`Keeper`], which alone writes it to the cache
//!    ([`holdfast_cache::presence`]), in order: no handshake waits for that. It renews this gateway's devices by a heartbeat thrice in
//!    their life, in batches, and at once when the gateway had lost its connection, or the cache a device; and sweeps what has
//!    expired, whoever's it was.
//! 2. A user who came online, or has gone, is told of by the [`Teller`] to those who share a chat with them: the partners of their
//!    newest direct chats, then the members of their groups, [`MAX_TOLD`] at most. It tells what the cache says right then, so that
//!    news that were late, whichever gateway had them, do not contradict what is the case. Of a call to the cache that was not
//!    answered, everybody is told of whom it may have moved.
//! 3. A look-up asks the cache alone, once for all users, and is refused as unavailable while the cache is away: what one gateway
//!    knows by itself would show most users as gone. So it is while nobody knows who blocks whom.
//!
//! What finds a queue full is dropped and counted; while store or cache are away, so many users wait until somebody can be told.
//! Heartbeats and expiry make good for what the cache did not hear; who was not told learns it by asking.

mod teller;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_breaker::Breaker;
use holdfast_cache::Origin;
use holdfast_cache::presence::{Change, Device, Expired, Online, Seen, Step};
use holdfast_message::UserId;
use holdfast_message::draft::Invalid;
use holdfast_redis::RedisError;
use serde::{Deserialize, Serialize};
use socketioxide::socket::Sid;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::deliver::Sockets;
use crate::error::Refusal;
use crate::live::{Dropped, Live};
use crate::metrics::Metrics;
use crate::relations::Relations;

pub(crate) use teller::Told;
pub use teller::{Company, MAX_TOLD, Teller};

/// Users of one look-up.
pub const MAX_USERS: usize = 100;
/// How often expired devices are swept, and what the cache owes is tried again.
pub const SWEEP: Duration = Duration::from_secs(1);
/// Batches of one sweep.
const SWEEPS: usize = 10;
/// Within which a user who reconnects was never gone.
pub const GRACE: Duration = Duration::from_secs(5);
/// What sockets did, and what is to be told, that may wait.
const CAPACITY: usize = 10_000;
/// Devices of one round trip.
const BATCH: usize = 100;
/// What the cache has for a round trip in the background.
const BUDGET: Duration = Duration::from_secs(1);

/// Whose presence is asked for.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PresenceRequest {
    /// At most 100 users.
    #[schema(max_items = 100)]
    pub user_ids: Vec<String>,
}

/// Who is online.
#[derive(Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Presences {
    /// By user, for each user who was named: whether any device is connected.
    pub online: BTreeMap<String, bool>,
    /// By user, when they were last there, in Unix epoch milliseconds; now, if they are. Absent if that is not known: it is
    /// remembered for a week.
    pub last_seen: BTreeMap<String, i64>,
}

/// Presence, as requests and sockets use it. Cheap to clone.
#[derive(Clone)]
pub struct Presence {
    online: Online,
    relations: Relations,
    breaker: Breaker,
    budget: Duration,
    origin: Origin,
    steps: mpsc::Sender<Step>,
    renew: Arc<Notify>,
    metrics: Metrics,
}

/// Keeps this gateway's devices in the cache, and the cache free of ghosts.
pub struct Keeper {
    online: Online,
    sockets: Sockets,
    origin: Origin,
    steps: mpsc::Receiver<Step>,
    renew: Arc<Notify>,
    /// Who may have come or gone by a call that was not answered.
    unsure: HashSet<UserId>,
    changes: mpsc::Sender<UserId>,
    metrics: Metrics,
}

impl Presence {
    /// Presence of this gateway's sockets, and of everybody's. A request's call to the cache has the budget.
    pub fn new(
        online: Online,
        (breaker, budget): (Breaker, Duration),
        origin: Origin,
        sockets: Sockets,
        (company, live): (Company, Live),
        metrics: Metrics,
    ) -> (Self, Keeper, Teller) {
        let (steps, taken) = mpsc::channel(CAPACITY);
        let (changes, seen) = mpsc::channel(CAPACITY);
        let renew = Arc::new(Notify::new());
        let keeper = Keeper {
            online: online.clone(),
            sockets,
            origin,
            steps: taken,
            renew: renew.clone(),
            unsure: HashSet::new(),
            changes,
            metrics: metrics.clone(),
        };
        let relations = company.relations.clone();
        let teller = Teller::new(seen, online.clone(), company, live, metrics.clone());
        (Self { online, relations, breaker, budget, origin, steps, renew, metrics }, keeper, teller)
    }

    /// A socket is there. Never waits.
    pub fn joined(&self, user: &UserId, socket: Sid) {
        self.queue(Step::Joined(Device::new(user.clone(), self.origin, &socket)));
    }

    /// A socket has gone. May be said more than once.
    pub fn left(&self, user: &UserId, socket: Sid) {
        self.queue(Step::Left(Device::new(user.clone(), self.origin, &socket)));
    }

    /// The cache may have lost everything: a heartbeat is due.
    pub fn renew(&self) {
        self.renew.notify_one();
    }

    /// The answer to a look-up, by any user of any other.
    pub async fn answer(&self, asker: &UserId, request: &PresenceRequest) -> Result<Presences, Refusal> {
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
    pub async fn of(&self, asker: &UserId, users: &[UserId]) -> Result<Vec<Seen>, Refusal> {
        let others: Vec<_> = users.iter().filter(|user| *user != asker).cloned().collect();
        let (hidden, seen) = tokio::join!(self.relations.hidden_from(asker, &others), self.look(users));
        let hidden = hidden?;
        let seen = users.iter().zip(seen?);
        Ok(seen.map(|(user, seen)| if hidden.contains(user) { Seen::default() } else { seen }).collect())
    }

    async fn look(&self, users: &[UserId]) -> Result<Vec<Seen>, Refusal> {
        let away = || Refusal::unavailable("who is online can't be read now");
        let permit = self.breaker.acquire(Instant::now()).map_err(|_| away())?;
        match self.online.look(users, self.budget).await {
            Ok(seen) => {
                permit.success();
                Ok(seen)
            }
            Err(error) => {
                if error.is_unavailable() {
                    permit.failure(Instant::now());
                }
                tracing::debug!(%error, "presence can't be read");
                Err(away())
            }
        }
    }

    fn queue(&self, step: Step) {
        match self.steps.try_send(step) {
            Ok(()) => self.metrics.presence_waiting.inc(),
            Err(_) => self.metrics.presence_dropped(Dropped::Full),
        }
    }
}

impl Keeper {
    /// Keeps the devices, which live for `life` after a heartbeat, until the token is cancelled; then says that those which have gone
    /// meanwhile have gone.
    pub async fn run(mut self, life: Duration, stop: CancellationToken) {
        let mut beats = interval(life / 3);
        let mut sweeps = interval(SWEEP);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        sweeps.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Not applied yet: the cache is away.
        let mut steps = Vec::with_capacity(BATCH);
        let mut owed = false;
        loop {
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                _ = beats.tick() => owed = !self.beat().await,
                () = self.renew.notified() => owed = !self.beat().await,
                _ = sweeps.tick() => {
                    self.apply(&mut steps).await;
                    if owed {
                        owed = !self.beat().await;
                    }
                    // One whose coming still waits is not known yet.
                    let all_told = steps.is_empty() && self.steps.is_empty() && !owed;
                    let connected = if all_told { self.sockets.any() } else { None };
                    if !self.sweep(connected).await {
                        tracing::info!("the cache has lost who is online; telling it of those who are here");
                        owed = !self.beat().await;
                    }
                }
                _ = self.steps.recv_many(&mut steps, BATCH), if steps.is_empty() => self.apply(&mut steps).await,
            }
        }
        while let Ok(step) = self.steps.try_recv() {
            steps.push(step);
            if steps.len() >= BATCH {
                self.apply(&mut steps).await;
                if !steps.is_empty() {
                    return;
                }
            }
        }
        self.apply(&mut steps).await;
    }

    /// Leaves the steps as they are if the cache is away.
    async fn apply(&mut self, steps: &mut Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        match self.online.apply(steps, BUDGET).await {
            Ok(came) => {
                self.metrics.presence_waiting.sub(steps.len() as i64);
                steps.clear();
                self.changed(came);
            }
            Err(error) => {
                let joined = |step: &Step| match step {
                    Step::Joined(device) => Some(device.user.clone()),
                    Step::Left(_) => None,
                };
                self.unanswered(&error, steps.iter().filter_map(joined));
            }
        }
    }

    /// Renews every device here; false if the cache did not take all of them.
    async fn beat(&mut self) -> bool {
        let devices = self.sockets.all().into_iter().map(|(user, socket)| Device::new(user, self.origin, &socket));
        let devices: Vec<_> = devices.collect();
        for batch in devices.chunks(BATCH) {
            match self.online.refresh(batch, BUDGET).await {
                Ok(came) => self.changed(came),
                Err(error) => {
                    self.unanswered(&error, batch.iter().map(|device| device.user.clone()));
                    return false;
                }
            }
        }
        true
    }

    /// False if the cache has lost a device that is connected here.
    async fn sweep(&mut self, connected: Option<(UserId, Sid)>) -> bool {
        let connected = connected.map(|(user, socket)| Device::new(user, self.origin, &socket));
        let mut kept = true;
        for _ in 0..SWEEPS {
            let Expired { devices, known } = match self.online.expired(BATCH, connected.as_ref(), BUDGET).await {
                Ok(expired) => expired,
                Err(error) => {
                    self.unanswered(&error, std::iter::empty());
                    break;
                }
            };
            // The cache answers again.
            for user in std::mem::take(&mut self.unsure) {
                self.tell_of(user);
            }
            kept &= known;
            if devices.is_empty() {
                break;
            }
            match self.online.sweep(&devices, BUDGET).await {
                Ok(gone) => self.changed(gone),
                Err(error) => {
                    self.unanswered(&error, devices.into_iter().map(|device| device.user));
                    break;
                }
            }
        }
        kept
    }

    /// A call may have been applied although nobody was told what it did: nor would a repeat be.
    fn unanswered(&mut self, error: &RedisError, users: impl Iterator<Item = UserId>) {
        tracing::debug!(%error, "presence can't be kept, trying on");
        if !error.maybe_applied() {
            return;
        }
        for user in users {
            if self.unsure.len() < CAPACITY {
                self.unsure.insert(user);
            } else {
                self.metrics.presence_dropped(Dropped::Full);
            }
        }
    }

    fn changed(&self, changes: Vec<Change>) {
        changes.into_iter().for_each(|change| self.tell_of(change.user));
    }

    fn tell_of(&self, user: UserId) {
        match self.changes.try_send(user) {
            Ok(()) => self.metrics.presence_waiting.inc(),
            Err(_) => self.metrics.presence_dropped(Dropped::Full),
        }
    }
}
