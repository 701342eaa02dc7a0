//! Who is online: from the sockets of all gateways to what clients are told.
//!
//! 1. What sockets do waits in a bounded queue for the [`Keeper`], which alone writes it to the cache
//!    ([`holdfast_cache::presence`]), in order: no handshake waits for that. It renews this gateway's devices by a heartbeat thrice in
//!    their life, in batches, at once when the gateway had lost its connection; and sweeps what has expired, whoever's it was.
//! 2. A user who came online, or has gone, is told of by the [`Teller`] to those who share a chat with them: the partners of their
//!    newest direct chats, then the members of their groups, [`MAX_TOLD`] at most.
//! 3. A look-up asks the cache alone, once for all users, and is refused as unavailable while the cache is away: what one gateway
//!    knows by itself would show most users as gone. So it is while nobody knows who blocks whom.
//!
//! What finds a queue full, or nobody to tell because the store is away, is dropped and counted. Heartbeats and expiry make good for
//! what the cache did not hear; who was not told learns it by asking.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_cache::keys::Channel;
use holdfast_cache::presence::{Change, Device, Online, Seen, Step};
use holdfast_cache::{Breaker, Origin};
use holdfast_message::UserId;
use holdfast_message::draft::Invalid;
use serde::{Deserialize, Serialize};
use socketioxide::socket::Sid;
use tokio::sync::{Notify, mpsc};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::deliver::Sockets;
use crate::error::Refusal;
use crate::live::{Dropped, Live, LiveEvent};
use crate::members::Membership;
use crate::metrics::Metrics;
use crate::relations::Relations;
use crate::stored::Stored;

/// Users of one look-up.
pub const MAX_USERS: usize = 100;
/// Users who are told of one user's coming or going.
pub const MAX_TOLD: usize = 500;
/// Groups whose members are told.
const MAX_GROUPS: usize = 50;
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

/// Whether somebody is online.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = PresenceTold)]
pub(crate) struct Told<'a> {
    /// Who.
    user_id: &'a str,
    /// Whether any of their devices is connected.
    online: bool,
    /// When they were last there, in Unix epoch milliseconds.
    last_seen: i64,
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
    changes: mpsc::Sender<Change>,
    metrics: Metrics,
}

/// Tells those who share a chat with a user.
pub struct Teller {
    changes: mpsc::Receiver<Change>,
    company: Company,
    live: Live,
    metrics: Metrics,
}

/// Who shares a chat with whom, and may see them there.
pub struct Company {
    /// The store, which knows of direct chats.
    pub stored: Stored,
    /// The members of groups.
    pub membership: Membership,
    /// Who blocks whom.
    pub relations: Relations,
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
            changes,
            metrics: metrics.clone(),
        };
        let relations = company.relations.clone();
        let teller = Teller { changes: seen, company, live, metrics: metrics.clone() };
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
                    self.sweep().await;
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
    async fn apply(&self, steps: &mut Vec<Step>) {
        if steps.is_empty() {
            return;
        }
        match self.online.apply(steps, BUDGET).await {
            Ok(came) => {
                self.metrics.presence_waiting.sub(steps.len() as i64);
                steps.clear();
                self.changed(came);
            }
            Err(error) => tracing::debug!(%error, "presence can't be kept, trying on"),
        }
    }

    /// Renews every device here; false if the cache did not take all of them.
    async fn beat(&self) -> bool {
        let devices = self.sockets.all().into_iter().map(|(user, socket)| Device::new(user, self.origin, &socket));
        let devices: Vec<_> = devices.collect();
        for batch in devices.chunks(BATCH) {
            match self.online.refresh(batch, BUDGET).await {
                Ok(came) => self.changed(came),
                Err(error) => {
                    tracing::debug!(%error, "a heartbeat of presence did not get through");
                    return false;
                }
            }
        }
        true
    }

    async fn sweep(&self) {
        for _ in 0..SWEEPS {
            match self.online.sweep(BATCH, BUDGET).await {
                Ok(Some(gone)) => self.changed(gone),
                Ok(None) => return,
                Err(error) => return tracing::debug!(%error, "presence can't be swept"),
            }
        }
    }

    fn changed(&self, changes: Vec<Change>) {
        for change in changes {
            match self.changes.try_send(change) {
                Ok(()) => self.metrics.presence_waiting.inc(),
                Err(_) => self.metrics.presence_dropped(Dropped::Full),
            }
        }
    }
}

impl Teller {
    /// Tells of one user after the other, until the token is cancelled. It leaves room in the queue of live events for others.
    pub async fn run(mut self, stop: CancellationToken) {
        while let Some(Some(change)) = stop.run_until_cancelled(self.changes.recv()).await {
            self.metrics.presence_waiting.dec();
            self.live.room().await;
            match self.company.of(&change.user).await {
                Ok(company) => {
                    let Change { user, online, last_seen } = &change;
                    let told = Told { user_id: user.as_str(), online: *online, last_seen: *last_seen };
                    self.live.tell(company.into_iter().map(Channel::User), None, LiveEvent::Presence, &told);
                }
                Err(refusal) => {
                    tracing::debug!(user = %change.user, reason = refusal.message, "nobody is told of a user's presence");
                    self.metrics.presence_dropped(Dropped::Unavailable);
                }
            }
        }
    }
}

impl Company {
    /// Those who share a chat with this user, [`MAX_TOLD`] at most: the partners of the newest direct chats first. Where one blocks
    /// the other, neither sees the other.
    async fn of(&self, user: &UserId) -> Result<HashSet<UserId>, Refusal> {
        let partners = self.stored.ask(async |store| store.partners(user, MAX_TOLD).await).await;
        let partners = partners.map_err(|error| Refusal::unavailable(error.to_string()))?;
        let mut company: HashSet<_> = partners.into_iter().collect();
        for group in self.membership.groups_of(user).await?.iter().take(MAX_GROUPS) {
            if company.len() >= MAX_TOLD {
                break;
            }
            let room = MAX_TOLD - company.len();
            let members = self.membership.of(group).await?;
            let others: Vec<_> =
                members.iter().filter(|member| *member != user && !company.contains(*member)).collect();
            company.extend(others.into_iter().take(room).cloned());
        }
        let others: Vec<_> = company.iter().cloned().collect();
        for hidden in self.relations.hidden_from(user, &others).await? {
            company.remove(&hidden);
        }
        Ok(company)
    }
}
