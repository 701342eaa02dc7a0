//! Single flight: concurrent readers of a key that is not in memory share one call to Redis and one load.
//!
//! A [`Flight`] is the call in progress for one key. Flights run in tasks of their own, so that a reader that gives up does not end the
//! call for others. Flights that begin together form one batch: one round trip to Redis, one load. A flight stays in flight until Redis
//! has taken or refused its value, so that later readers join it. An invalidation removes it: readers that come afterwards begin another.

mod ask;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout};

use self::ask::Asked;
use super::backend::Backend;
use super::invalidation::Listener;
use super::lease::{Fill, Token};
use super::memory::{Hit, Known, Memory};
use super::source::{Answer, AsideError, Found, Freshness, LOAD, LOADS, Policy, REFRESHES, RETRY, Source, Warmed};
use crate::codec::Codec;
use crate::metrics::{AnsweredBy, KindMetrics};

/// The shortest and the longest pause between reads while another process loads.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(5);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// The most failed keys that are remembered. Above it, some of them are requested from the source again earlier.
const MAX_FAILURES: u64 = 10_000;

/// Waits for the outcome of a flight.
pub(super) type Waiter<S> = watch::Receiver<Option<Outcome<S>>>;

/// The outcome of a flight.
pub(super) struct Outcome<S: Source> {
    pub(super) by: AnsweredBy,
    pub(super) answer: Answer<S>,
    /// Whether the value was loaded and Redis does not have it. Valid once the flight has ended.
    unfilled: bool,
}

/// The flights, the memory and the source of one [`Aside`](super::Aside).
pub(super) struct SingleFlight<S: Source> {
    backend: Backend<S::Names>,
    source: S,
    policy: Policy,
    memory: Memory<S::Value>,
    in_flight: Mutex<HashMap<Arc<str>, Waiter<S>>>,
    /// Keys for which the source failed less than [`RETRY`] ago.
    failures: moka::sync::Cache<Arc<str>, AsideError<S::Error>>,
    refreshes: Arc<Semaphore>,
    loads: Semaphore,
    codec: Codec<S::Value>,
    metrics: KindMetrics,
}

/// The call in progress for one key. Dropping it, however its task ends, takes it out of flight.
struct Flight<S: Source> {
    group: Arc<SingleFlight<S>>,
    key: S::Key,
    name: Arc<str>,
    /// The key's generation in memory before anything was read.
    generation: u64,
    outcome: watch::Sender<Option<Outcome<S>>>,
}

/// A flight that has to load its value, with the lease if it has one.
type Loading<S> = (Flight<S>, Option<Token>);

impl<S: Source> SingleFlight<S> {
    pub(super) fn new(backend: Backend<S::Names>, source: S, policy: Policy) -> Self {
        Self {
            memory: Memory::new(policy.memory_bytes, policy.ttl),
            in_flight: Mutex::default(),
            failures: moka::sync::Cache::builder().max_capacity(MAX_FAILURES).time_to_live(RETRY).build(),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            loads: Semaphore::new(LOADS),
            codec: Codec::new(S::NAME, S::SHAPE, backend.redis_metrics()),
            metrics: backend.metrics().of(S::NAME),
            backend,
            source,
            policy,
        }
    }

    pub(super) fn backend(&self) -> &Backend<S::Names> {
        &self.backend
    }

    pub(super) fn name(&self, key: &S::Key) -> Arc<str> {
        self.backend.name(&self.source.cached(key)).into()
    }

    /// The value in memory. A stale value is an answer, too; one of many readers then looks for a newer one.
    pub(super) fn remembered(self: &Arc<Self>, key: &S::Key) -> Option<Found<S::Value>> {
        let now = Instant::now();
        if self.policy.unsubscribed_ttl.is_zero() && !self.backend.is_live_at(now) {
            return None;
        }
        let name = self.backend.name(&self.source.cached(key));
        let hit = self.memory.get(&name, now).filter(|hit| self.may_use(hit, now))?;
        if hit.due {
            drop(self.begin([(key.clone(), name.into())]));
        }
        self.count(AnsweredBy::Memory);
        Some(hit.found)
    }

    /// Whether a value in memory may be used: this process receives invalidations, or the value is younger than [`Policy::unsubscribed_ttl`].
    pub(super) fn may_use(&self, hit: &Hit<S::Value>, now: Instant) -> bool {
        hit.age < self.policy.unsubscribed_ttl || self.backend.is_live_at(now)
    }

    pub(super) fn memory(&self) -> &Memory<S::Value> {
        &self.memory
    }

    /// Whether the source failed for this key less than [`RETRY`] ago.
    pub(super) fn failed(&self, name: &Arc<str>) -> bool {
        self.failures.contains_key(name)
    }

    pub(super) fn count(&self, by: AnsweredBy) {
        self.metrics.read(by);
        self.backend.redis_metrics().lookup(!matches!(by, AnsweredBy::Source | AnsweredBy::Nothing));
    }

    /// The answers to keys that are not in memory, in their order.
    pub(super) async fn fetch(self: Arc<Self>, keys: &[S::Key]) -> Vec<Answer<S>> {
        let waiters = self.begin(keys.iter().map(|key| (key.clone(), self.name(key))));
        let mut answers = Vec::with_capacity(waiters.len());
        for mut waiter in waiters {
            // Without an outcome the task has panicked, in the source.
            let outcome = waiter.wait_for(Option::is_some).await.ok();
            let outcome =
                outcome.and_then(|outcome| outcome.as_ref().map(|outcome| (outcome.by, outcome.answer.clone())));
            let (by, answer) = outcome.unwrap_or((AnsweredBy::Nothing, Err(AsideError::Unanswered)));
            self.count(by);
            answers.push(answer);
        }
        answers
    }

    /// Loads the keys that are missing or stale in Redis and waits until Redis has taken or refused them. Memory is not read.
    pub(super) async fn settle(self: Arc<Self>, keys: &[S::Key]) -> Warmed {
        let waiters = self.begin(keys.iter().map(|key| (key.clone(), self.name(key))));
        let mut settled = Warmed::default();
        for mut waiter in waiters {
            // The channel closes when Redis has taken or refused the value.
            while waiter.changed().await.is_ok() {}
            let outcome = waiter.borrow();
            *match &*outcome {
                Some(Outcome { unfilled: true, .. }) => &mut settled.unfilled,
                Some(Outcome { answer: Ok(found), .. }) if found.value.is_none() => &mut settled.absent,
                Some(Outcome { answer: Ok(_), .. }) => &mut settled.warm,
                Some(Outcome { answer: Err(_), .. }) | None => &mut settled.failed,
            } += 1;
        }
        settled
    }

    /// Joins the flights of these keys; begins a flight for each key that has none.
    pub(super) fn begin(self: &Arc<Self>, keys: impl IntoIterator<Item = (S::Key, Arc<str>)>) -> Vec<Waiter<S>> {
        let mut begun = Vec::new();
        let mut waiters = Vec::new();
        let mut in_flight = self.in_flight();
        for (key, name) in keys {
            waiters.push(match in_flight.entry(name.clone()) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(unknown) => {
                    let (outcome, waiter) = watch::channel(None);
                    let generation = self.memory.generation(&name);
                    begun.push(Flight { group: self.clone(), key, name, generation, outcome });
                    unknown.insert(waiter).clone()
                }
            });
        }
        drop(in_flight);
        if !begun.is_empty() {
            tokio::spawn(self.clone().run(begun));
        }
        waiters
    }

    async fn run(self: Arc<Self>, flights: Vec<Flight<S>>) {
        let mut refresh = self.refreshes.clone().try_acquire_owned().ok();
        let mut asking = flights;
        let (until, mut pause) = (Instant::now() + self.policy.patience, FIRST_PAUSE);
        loop {
            let (mut loading, mut stale, mut waiting) = (Vec::new(), Vec::new(), Vec::new());
            for (flight, read) in self.ask(asking, refresh.is_some(), until).await {
                match read {
                    Asked::Held { known, lease } => {
                        let now = Instant::now();
                        let fresh = now < known.fresh_until;
                        flight.complete(
                            if fresh { AnsweredBy::Redis } else { AnsweredBy::Stale },
                            Ok(known.found(fresh, now)),
                        );
                        self.memory.put(&flight.name, flight.generation, known, now);
                        if lease.is_some() {
                            stale.push((flight, lease));
                        }
                    }
                    Asked::Leased(lease) => loading.push((flight, Some(lease))),
                    Asked::LeasedElsewhere | Asked::Undecodable => waiting.push(flight),
                    Asked::NoLease => loading.push((flight, None)),
                }
            }
            if let Some(slot) = refresh.take_if(|_| !stale.is_empty()) {
                tokio::spawn(self.clone().refresh(stale, slot));
            }
            refresh = None;
            if Instant::now() >= until {
                loading.extend(waiting.drain(..).map(|flight| (flight, None)));
            }
            self.load(loading, Duration::ZERO).await;
            if waiting.is_empty() {
                return;
            }
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
            asking = waiting;
        }
    }

    /// Refreshes stale values in the background. If that fails, no process gets their leases for [`RETRY`].
    async fn refresh(self: Arc<Self>, stale: Vec<Loading<S>>, slot: OwnedSemaphorePermit) {
        self.load(stale, RETRY).await;
        drop(slot);
    }

    /// Loads values, all in one call. If that fails, no process gets the leases for the time `rest`.
    async fn load(&self, loading: Vec<Loading<S>>, rest: Duration) {
        let (failed, loading): (Vec<_>, Vec<_>) = loading
            .into_iter()
            .map(|loading| (self.failures.get(&loading.0.name), loading))
            .partition(|(failed, _)| failed.is_some());
        for (error, (flight, _)) in &failed {
            flight.fail(error.clone().unwrap_or(AsideError::Unanswered));
        }
        let mut given_back: Vec<_> =
            failed.iter().filter_map(|(_, (flight, lease))| Some((&*flight.name, (*lease)?))).collect();
        let loading: Vec<_> = loading.into_iter().map(|(_, loading)| loading).collect();
        if !loading.is_empty() {
            let keys: Vec<_> = loading.iter().map(|(flight, _)| flight.key.clone()).collect();
            let turn = self.loads.acquire().await;
            let began = Instant::now();
            let loaded = match timeout(LOAD, self.source.load(&keys)).await {
                Ok(Ok(values)) => Ok(values),
                Ok(Err(error)) => Err(AsideError::Source(Arc::new(error))),
                Err(_) => Err(AsideError::Unanswered),
            };
            drop(turn);
            match loaded {
                Ok(values) => {
                    self.metrics.loaded.inc();
                    let uncached = self.fill(&loading, values, began).await;
                    given_back.extend(uncached);
                }
                Err(error) => {
                    self.metrics.load_failed.inc();
                    tracing::debug!(kind = S::NAME, keys = keys.len(), %error, "a source failed");
                    for (flight, lease) in &loading {
                        self.failures.insert(flight.name.clone(), error.clone());
                        flight.fail(error.clone());
                        given_back.extend(lease.map(|lease| (&*flight.name, lease)));
                    }
                }
            }
        }
        self.backend.release(&given_back, rest).await;
    }

    /// Completes the flights with the loaded values and fills both levels. Returns the leases of values that are not cached.
    async fn fill<'a>(
        &self,
        loaded: &'a [Loading<S>],
        mut values: HashMap<S::Key, S::Value>,
        began: Instant,
    ) -> Vec<(&'a str, Token)> {
        let (mut fills, mut filling, mut uncached) = (Vec::new(), Vec::new(), Vec::new());
        // Times to live count from before the source was asked.
        let (now, took) = (Instant::now(), began.elapsed());
        for (flight, lease) in loaded {
            let value = values.remove(&flight.key).map(Arc::new);
            let payload = value.as_ref().map(|value| self.codec.encode(value)).transpose();
            flight.complete(AnsweredBy::Source, Ok(Found { value: value.clone(), freshness: Freshness::Fresh }));
            let (Ok(payload), Some((fresh, ttl))) = (payload, self.policy.life(value.is_none())) else {
                // Too large, or the policy does not cache it.
                uncached.extend(lease.map(|lease| (&*flight.name, lease)));
                if value.is_some() {
                    flight.unfilled();
                }
                continue;
            };
            let bytes = payload.as_ref().map_or(0, Vec::len);
            let known = Known { value, bytes, filled: began, fresh_until: began + fresh, expires_at: began + ttl };
            self.memory.put(&flight.name, flight.generation, known, now);
            match *lease {
                Some(token) => {
                    filling.push(flight);
                    fills.push(Fill {
                        name: flight.name.to_string(),
                        token,
                        payload: payload.map(Into::into),
                        fresh: fresh.saturating_sub(took),
                        ttl: ttl.saturating_sub(took),
                    });
                }
                None => self.unfilled(flight),
            }
        }
        let filled = self.backend.fill(&fills).await;
        let refused = filling.into_iter().zip(filled).filter(|(_, filled)| !filled);
        refused.for_each(|(flight, _)| self.unfilled(flight));
        uncached
    }

    fn unfilled(&self, flight: &Flight<S>) {
        self.metrics.unfilled.inc();
        flight.unfilled();
    }

    fn in_flight(&self) -> MutexGuard<'_, HashMap<Arc<str>, Waiter<S>>> {
        self.in_flight.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S: Source> Flight<S> {
    fn complete(&self, by: AnsweredBy, answer: Answer<S>) {
        self.outcome.send_replace(Some(Outcome { by, answer, unfilled: false }));
    }

    /// Notes that Redis does not have the value. Readers have their answer already, so they are not woken.
    fn unfilled(&self) {
        self.outcome.send_if_modified(|outcome| {
            if let Some(outcome) = outcome {
                outcome.unfilled = true;
            }
            false
        });
    }

    /// Completes the flight with an error, unless it has a stale answer already.
    fn fail(&self, error: AsideError<S::Error>) {
        self.outcome.send_if_modified(|outcome| {
            let nothing = outcome.is_none();
            if nothing {
                *outcome = Some(Outcome { by: AnsweredBy::Nothing, answer: Err(error), unfilled: false });
            }
            nothing
        });
    }
}

impl<S: Source> Drop for Flight<S> {
    fn drop(&mut self) {
        if let Entry::Occupied(known) = self.group.in_flight().entry(self.name.clone())
            && known.get().same_channel(&self.outcome.subscribe())
        {
            known.remove();
        }
    }
}

impl<S: Source> Listener for SingleFlight<S> {
    fn forget(&self, name: &str) {
        self.memory.forget(name);
        // Later readers do not join a flight that began before the invalidation.
        self.in_flight().remove(name);
    }

    fn forget_all(&self) {
        self.memory.forget_all();
        self.in_flight().clear();
    }

    fn measure(&self) {
        self.metrics.memory.set(self.memory.size().1 as i64);
    }
}
