//! One flight for each key that memory does not answer: asks Redis, loads what has to be loaded, and tells all who wait.
//!
//! Flights run in tasks of their own, so that a reader who gives up spoils nothing for the others. Those begun together make one
//! batch: one round trip to Redis, one load. A flight stays known until what it loaded is in Redis (or refused), so that who comes
//! meanwhile joins it; an invalidation makes it unknown, and who comes after that begins another.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{sleep, timeout, timeout_at};

use super::backend::{Backend, Listener};
use super::lease::{Fill, Held, Read, Token, Wish};
use super::memory::{Hit, Known, Memory};
use super::metrics::{By, KindMetrics};
use super::{Answer, AsideError, Found, Freshness, LOAD, LOADS, Policy, REFRESHES, RETRY, Source, Warmed};
use crate::codec::Codec;

/// Pauses between the readings of those who wait for another process's load.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(5);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(50);
/// Failures that are remembered; of more, some sources are asked earlier.
const MAX_FAILURES: u64 = 10_000;

/// Where a flight's answer is waited for.
pub(super) type Landing<S> = watch::Receiver<Option<Landed<S>>>;

/// A flight's answer.
pub(super) struct Landed<S: Source> {
    pub(super) by: By,
    pub(super) answer: Answer<S>,
    /// It was loaded, and Redis does not have it. Known when the flight has ended.
    unfilled: bool,
}

pub(super) struct Flights<S: Source> {
    backend: Backend,
    source: S,
    policy: Policy,
    memory: Memory<S::Value>,
    under_way: Mutex<HashMap<Arc<str>, Landing<S>>>,
    /// Sources that failed less than [`RETRY`] ago.
    failures: moka::sync::Cache<Arc<str>, AsideError<S::Error>>,
    refreshes: Arc<Semaphore>,
    loads: Semaphore,
    codec: Codec<S::Value>,
    metrics: KindMetrics,
}

/// One key's. Unknown again when dropped, by whatever end of its task.
struct Flight<S: Source> {
    flights: Arc<Flights<S>>,
    key: S::Key,
    name: Arc<str>,
    /// The key's generation in memory before anything was read.
    generation: u64,
    landing: watch::Sender<Option<Landed<S>>>,
}

/// A flight that has to load, with the lease if it has one.
type Loading<S> = (Flight<S>, Option<Token>);

impl<S: Source> Flights<S> {
    pub(super) fn new(backend: Backend, source: S, policy: Policy) -> Self {
        Self {
            memory: Memory::new(policy.memory_bytes, policy.ttl),
            under_way: Mutex::default(),
            failures: moka::sync::Cache::builder().max_capacity(MAX_FAILURES).time_to_live(RETRY).build(),
            refreshes: Arc::new(Semaphore::new(REFRESHES)),
            loads: Semaphore::new(LOADS),
            codec: Codec::new(S::NAME, S::SHAPE, backend.cache_metrics()),
            metrics: backend.metrics().of(S::NAME),
            backend,
            source,
            policy,
        }
    }

    pub(super) fn backend(&self) -> &Backend {
        &self.backend
    }

    pub(super) fn name(&self, key: &S::Key) -> Arc<str> {
        self.backend.name(&self.source.cached(key)).into()
    }

    /// What memory has for a key. A stale entry is an answer, after which one reader of many looks for a newer one.
    pub(super) fn remembered(self: &Arc<Self>, key: &S::Key) -> Option<Found<S::Value>> {
        let now = Instant::now();
        if self.policy.unheard.is_zero() && !self.backend.hears_at(now) {
            return None;
        }
        let name = self.backend.name(&self.source.cached(key));
        let hit = self.memory.get(&name, now).filter(|hit| self.may_use(hit, now))?;
        if hit.due {
            drop(self.begin([(key.clone(), name.into())]));
        }
        self.count(By::Memory);
        Some(hit.found)
    }

    /// Whether no invalidation of what memory has may have gone unheard for too long.
    pub(super) fn may_use(&self, hit: &Hit<S::Value>, now: Instant) -> bool {
        hit.age < self.policy.unheard || self.backend.hears_at(now)
    }

    pub(super) fn memory(&self) -> &Memory<S::Value> {
        &self.memory
    }

    /// Whether the source failed for this key a moment ago.
    pub(super) fn failed(&self, name: &Arc<str>) -> bool {
        self.failures.contains_key(name)
    }

    pub(super) fn count(&self, by: By) {
        self.metrics.read(by);
        self.backend.cache_metrics().lookup(!matches!(by, By::Source | By::Nothing));
    }

    /// The answers to keys that memory has nothing for, in their order.
    pub(super) async fn fetch(self: Arc<Self>, keys: &[S::Key]) -> Vec<Answer<S>> {
        let landings = self.begin(keys.iter().map(|key| (key.clone(), self.name(key))));
        let mut answers = Vec::with_capacity(landings.len());
        for mut landing in landings {
            // A task that ended without an answer had a source that panicked.
            let landed = landing.wait_for(Option::is_some).await.ok();
            let landed = landed.and_then(|landed| landed.as_ref().map(|landed| (landed.by, landed.answer.clone())));
            let (by, answer) = landed.unwrap_or((By::Nothing, Err(AsideError::Unanswered)));
            self.count(by);
            answers.push(answer);
        }
        answers
    }

    /// Has these keys in Redis, those that are stale loaded anew, and says what became of them. Memory is not asked.
    pub(super) async fn settle(self: Arc<Self>, keys: &[S::Key]) -> Warmed {
        let landings = self.begin(keys.iter().map(|key| (key.clone(), self.name(key))));
        let mut settled = Warmed::default();
        for mut landing in landings {
            // It ends once what it has loaded was filled, or was refused.
            while landing.changed().await.is_ok() {}
            let landed = landing.borrow();
            *match &*landed {
                Some(Landed { unfilled: true, .. }) => &mut settled.unfilled,
                Some(Landed { answer: Ok(found), .. }) if found.value.is_none() => &mut settled.absent,
                Some(Landed { answer: Ok(_), .. }) => &mut settled.warm,
                Some(Landed { answer: Err(_), .. }) | None => &mut settled.failed,
            } += 1;
        }
        settled
    }

    /// Joins the flights of these keys, and begins those that there are not.
    pub(super) fn begin(self: &Arc<Self>, keys: impl IntoIterator<Item = (S::Key, Arc<str>)>) -> Vec<Landing<S>> {
        let mut begun = Vec::new();
        let mut landings = Vec::new();
        let mut under_way = self.under_way();
        for (key, name) in keys {
            landings.push(match under_way.entry(name.clone()) {
                Entry::Occupied(known) => known.get().clone(),
                Entry::Vacant(unknown) => {
                    let (landing, answer) = watch::channel(None);
                    let generation = self.memory.generation(&name);
                    begun.push(Flight { flights: self.clone(), key, name, generation, landing });
                    unknown.insert(answer).clone()
                }
            });
        }
        drop(under_way);
        if !begun.is_empty() {
            tokio::spawn(self.clone().fly(begun));
        }
        landings
    }

    async fn fly(self: Arc<Self>, flights: Vec<Flight<S>>) {
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
                        flight.land(if fresh { By::Redis } else { By::Stale }, Ok(known.found(fresh, now)));
                        self.memory.put(&flight.name, flight.generation, known, now);
                        if lease.is_some() {
                            stale.push((flight, lease));
                        }
                    }
                    Asked::Leased(lease) => loading.push((flight, Some(lease))),
                    Asked::Elsewhere | Asked::Strange => waiting.push(flight),
                    Asked::Nobody => loading.push((flight, None)),
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

    /// Loads anew in the background what was answered as it is. When that fails, nobody tries for a while.
    async fn refresh(self: Arc<Self>, stale: Vec<Loading<S>>, slot: OwnedSemaphorePermit) {
        self.load(stale, RETRY).await;
        drop(slot);
    }

    /// What Redis says of each, and so what is to be done.
    async fn ask(&self, flights: Vec<Flight<S>>, refresh: bool, until: Instant) -> Vec<(Flight<S>, Asked<S>)> {
        let wish = |flight: &Flight<S>| match (self.failures.contains_key(&flight.name), refresh) {
            (true, _) => Wish::Nothing,
            (false, true) => Wish::Stale,
            (false, false) => Wish::Missing,
        };
        let wishes: Vec<_> = flights.iter().map(|flight| (&*flight.name, wish(flight))).collect();
        let mut asked = self.read(&wishes, until).await;
        // What another version wrote is loaded as if it were missing.
        let strange: Vec<_> = (0..asked.len()).filter(|&index| matches!(asked[index], Asked::Strange)).collect();
        if !strange.is_empty() {
            let anew: Vec<_> = strange.iter().map(|&index| (wishes[index].0, Wish::Anew)).collect();
            for (index, again) in strange.into_iter().zip(self.read(&anew, until).await) {
                asked[index] = again;
            }
        }
        flights.into_iter().zip(asked).collect()
    }

    async fn read(&self, wishes: &[(&str, Wish)], until: Instant) -> Vec<Asked<S>> {
        let reads = timeout_at(until.into(), self.backend.read(wishes)).await;
        // Too slow to be waited for: as if it were away.
        let reads = reads.unwrap_or_else(|_| wishes.iter().map(|_| None).collect());
        let now = Instant::now();
        reads.into_iter().zip(wishes).map(|(read, (_, wish))| self.judge(read, *wish, now)).collect()
    }

    fn judge(&self, read: Option<Read>, wish: Wish, now: Instant) -> Asked<S> {
        let Some(Read { held, lease }) = read else { return Asked::Nobody };
        match (held.map(|held| self.known(held, now)), lease) {
            (Some(Some(known)), lease) => Asked::Held { known, lease },
            (Some(None) | None, Some(lease)) => Asked::Leased(lease),
            (Some(None), None) => Asked::Strange,
            (None, None) if wish == Wish::Nothing => Asked::Nobody,
            (None, None) => Asked::Elsewhere,
        }
    }

    /// An entry as memory keeps it; `None` if it can't be decoded.
    fn known(&self, held: Held, now: Instant) -> Option<Known<S::Value>> {
        let (value, bytes) = match held.payload {
            Some(payload) => (Some(Arc::new(self.codec.decode(&payload)?)), payload.len()),
            None => (None, 0),
        };
        let filled = now.checked_sub(held.age).unwrap_or(now);
        // Stale since some time before now: a reader that took the time a moment ago must not find it fresh.
        let fresh_until = if held.fresh_for.is_zero() { filled } else { now + held.fresh_for };
        Some(Known { value, bytes, filled, fresh_until, kept_until: now + held.kept_for })
    }

    /// Loads, all at once; `rest` is how long nobody gets the leases when that fails.
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
                    let unkept = self.land(&loading, values, began).await;
                    given_back.extend(unkept);
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

    /// Answers all who wait, and fills both levels. Gives the leases of what is not to be cached.
    async fn land<'a>(
        &self,
        loaded: &'a [Loading<S>],
        mut values: HashMap<S::Key, S::Value>,
        began: Instant,
    ) -> Vec<(&'a str, Token)> {
        let (mut fills, mut filling, mut unkept) = (Vec::new(), Vec::new(), Vec::new());
        // Lives are counted from before the source was asked.
        let (now, took) = (Instant::now(), began.elapsed());
        for (flight, lease) in loaded {
            let value = values.remove(&flight.key).map(Arc::new);
            let payload = value.as_ref().map(|value| self.codec.encode(value)).transpose();
            flight.land(By::Source, Ok(Found { value: value.clone(), freshness: Freshness::Fresh }));
            let (Ok(payload), Some((fresh, kept))) = (payload, self.policy.life(value.is_none())) else {
                // Too large, or nothing that is kept.
                unkept.extend(lease.map(|lease| (&*flight.name, lease)));
                if value.is_some() {
                    flight.unfilled();
                }
                continue;
            };
            let bytes = payload.as_ref().map_or(0, Vec::len);
            let known = Known { value, bytes, filled: began, fresh_until: began + fresh, kept_until: began + kept };
            self.memory.put(&flight.name, flight.generation, known, now);
            match *lease {
                Some(token) => {
                    filling.push(flight);
                    fills.push(Fill {
                        name: flight.name.to_string(),
                        token,
                        payload: payload.map(Into::into),
                        fresh: fresh.saturating_sub(took),
                        kept: kept.saturating_sub(took),
                    });
                }
                None => self.unfilled(flight),
            }
        }
        let filled = self.backend.fill(&fills).await;
        let refused = filling.into_iter().zip(filled).filter(|(_, filled)| !filled);
        refused.for_each(|(flight, _)| self.unfilled(flight));
        unkept
    }

    fn unfilled(&self, flight: &Flight<S>) {
        self.metrics.unfilled.inc();
        flight.unfilled();
    }

    fn under_way(&self) -> MutexGuard<'_, HashMap<Arc<str>, Landing<S>>> {
        self.under_way.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is to be done about a key.
enum Asked<S: Source> {
    /// It is answered; who has the lease loads it anew, too.
    Held { known: Known<S::Value>, lease: Option<Token> },
    /// This one is to load it.
    Leased(Token),
    /// Somebody else loads it.
    Elsewhere,
    /// Redis can't say, or the source failed a moment ago: there is no lease.
    Nobody,
    /// It can't be decoded, and somebody else has the lease, or it was not wished for.
    Strange,
}

impl<S: Source> Flight<S> {
    fn land(&self, by: By, answer: Answer<S>) {
        self.landing.send_replace(Some(Landed { by, answer, unfilled: false }));
    }

    /// Redis has not got what was loaded. Those who wait for the answer have it, so they are not woken.
    fn unfilled(&self) {
        self.landing.send_if_modified(|landed| {
            if let Some(landed) = landed {
                landed.unfilled = true;
            }
            false
        });
    }

    /// Without an answer so far there is none; a stale one stands.
    fn fail(&self, error: AsideError<S::Error>) {
        self.landing.send_if_modified(|landed| {
            let nothing = landed.is_none();
            if nothing {
                *landed = Some(Landed { by: By::Nothing, answer: Err(error), unfilled: false });
            }
            nothing
        });
    }
}

impl<S: Source> Drop for Flight<S> {
    fn drop(&mut self) {
        if let Entry::Occupied(known) = self.flights.under_way().entry(self.name.clone())
            && known.get().same_channel(&self.landing.subscribe())
        {
            known.remove();
        }
    }
}

impl<S: Source> Listener for Flights<S> {
    fn forget(&self, name: &str) {
        self.memory.forget(name);
        // Who comes from now on does not join what began before.
        self.under_way().remove(name);
    }

    fn forget_all(&self) {
        self.memory.forget_all();
        self.under_way().clear();
    }

    fn measure(&self) {
        self.metrics.memory.set(self.memory.size().1 as i64);
    }
}
