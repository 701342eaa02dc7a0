//! Rate limits: at most a number of events of one kind for each user in any window of a given length, counted across all gateways.
//!
//! Redis counts atomically. [`LocalLimiter`] counts in this process by the same rules, for times when Redis is away: then a user may send
//! that much through each gateway.
//!
//! A window is divided into twenty cells, and a cell that lies partly in the window counts as a whole. Therefore no window ever exceeds the
//! limit, and an event counts for up to a twentieth of the window longer than necessary.
//!
//! See `docs/decisions/clock-steps.md`.

use std::collections::HashMap;
use std::collections::VecDeque;
use std::hash::Hash;
use std::sync::{LazyLock, Mutex, PoisonError};
use std::time::{Duration, Instant};

use holdfast_keys::Keys;
use holdfast_message::UserId;
use holdfast_redis::{Connection, RedisError, Script, parse};

static CHECK: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/rate_limit.lua")));

/// How many cells a window is divided into.
const CELLS: u64 = 20;

/// A number of events in any window of a given length.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limit {
    /// The number of events; 0 switches the limit off.
    pub events: u32,
    /// The length of the window, in whole milliseconds.
    pub window: Duration,
}

/// The kinds of events; each is counted separately.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// Messages.
    Message,
    /// Other events of this name, which is a word.
    Event(&'static str),
}

/// The decision about an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// The event is allowed, and was counted.
    Allowed,
    /// The event is refused, and was not counted.
    Limited {
        /// How long to wait before the next event can be allowed.
        retry_after: Duration,
    },
}

/// A limit across all gateways. Cheap to clone.
#[derive(Clone)]
pub struct RateLimiter {
    connection: Connection,
    keys: Keys,
    limit: Limit,
    life: Duration,
}

impl RateLimiter {
    /// A limit that is counted on the cache server.
    pub fn new(connection: Connection, keys: Keys, limit: Limit) -> Self {
        Self { connection, keys, limit, life: Duration::ZERO }
    }

    /// The same limit; its counts live at least this long, so that operators can look at them.
    #[must_use]
    pub fn living(self, life: Duration) -> Self {
        Self { life, ..self }
    }

    /// Counts one event.
    pub async fn check(&self, kind: Kind, user: &UserId, budget: Duration) -> Result<Decision, RedisError> {
        self.check_batch(kind, &[user], budget).await.pop().unwrap_or_else(|| Err(RedisError::unexpected("no answer")))
    }

    /// Counts one event of each user, as one pipeline under one deadline; the results are in the order of `users`.
    pub async fn check_batch(
        &self,
        kind: Kind,
        users: &[&UserId],
        budget: Duration,
    ) -> Vec<Result<Decision, RedisError>> {
        self.check_many(kind, 1, users, budget).await
    }

    /// The same for `count` events of each user at once: all of them are allowed, or none. A `count` above the limit is reduced to it.
    pub async fn check_many(
        &self,
        kind: Kind,
        count: u32,
        users: &[&UserId],
        budget: Duration,
    ) -> Vec<Result<Decision, RedisError>> {
        if self.limit.events == 0 {
            return users.iter().map(|_| Ok(Decision::Allowed)).collect();
        }
        let window = self.limit.window.as_millis().max(1) as u64;
        let life = self.life.as_millis() as u64;
        let count = count.min(self.limit.events);
        let call = |user: &&UserId| {
            CHECK.call(&[&self.key(kind, user)]).arg(self.limit.events).arg(window).arg(life).arg(count)
        };
        match self.connection.run("rate_limit", users.iter().map(call).collect(), budget).await {
            Err(error) => users.iter().map(|_| Err(error.clone())).collect(),
            Ok(answers) => answers
                .into_iter()
                .map(|answer| {
                    let answer: (u8, u64) = parse(answer?)?;
                    Ok(match answer {
                        (1, _) => Decision::Allowed,
                        (_, wait) => Decision::Limited { retry_after: Duration::from_millis(wait) },
                    })
                })
                .collect(),
        }
    }
}

impl RateLimiter {
    fn key(&self, kind: Kind, user: &UserId) -> String {
        match kind {
            Kind::Message => self.keys.rate_limit(user),
            Kind::Event(event) => self.keys.rate_limit_of(user, event),
        }
    }
}

/// The same limit within this process, for anything that a `K` identifies. It keeps a bounded number of counts: when more are active at
/// once, those that were quiet longest are dropped and start at zero.
#[derive(Debug)]
pub struct LocalLimiter<K> {
    limit: Limit,
    start: Instant,
    /// Two generations: when the young one is full it replaces the old one, which is dropped.
    known: Mutex<(HashMap<K, Cells>, HashMap<K, Cells>)>,
    capacity: usize,
}

impl<K: Clone + Eq + Hash> LocalLimiter<K> {
    /// A limit that keeps at most this many counts.
    pub fn new(limit: Limit, capacity: usize, now: Instant) -> Self {
        Self { limit, start: now, known: Mutex::default(), capacity: (capacity / 2).max(1) }
    }

    /// Counts one event.
    pub fn check(&self, who: &K, now: Instant) -> Decision {
        self.check_many(who, 1, now)
    }

    /// Counts `count` events at once: all of them are allowed, or none. A `count` above the limit is reduced to it.
    pub fn check_many(&self, who: &K, count: u32, now: Instant) -> Decision {
        if self.limit.events == 0 {
            return Decision::Allowed;
        }
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let (young, old) = &mut *known;
        if !young.contains_key(who) {
            if young.len() >= self.capacity {
                *old = std::mem::take(young);
            }
            let cells = old.remove(who).unwrap_or_default();
            young.insert(who.clone(), cells);
        }
        let now = now.saturating_duration_since(self.start).as_millis() as u64;
        match young.get_mut(who) {
            Some(cells) => cells.check(self.limit, count.min(self.limit.events), now),
            None => Decision::Allowed,
        }
    }
}

/// The counts of one window: the same rules as `scripts/rate_limit.lua`.
#[derive(Debug, Default)]
struct Cells(VecDeque<(u64, u32)>);

impl Cells {
    fn check(&mut self, limit: Limit, amount: u32, now: u64) -> Decision {
        let window = (limit.window.as_millis() as u64).max(1);
        let width = window.div_ceil(CELLS);
        let current = now / width;
        while self.0.front().is_some_and(|(cell, _)| cell + CELLS < current) {
            self.0.pop_front();
        }
        let total: u32 = self.0.iter().map(|(_, count)| count).sum();
        if total + amount > limit.events {
            let mut left = total;
            let frees = self.0.iter().find(|(_, count)| {
                left -= count;
                left + amount <= limit.events
            });
            let wait = frees.map_or(window, |(cell, _)| ((cell + CELLS + 1) * width).saturating_sub(now));
            return Decision::Limited { retry_after: Duration::from_millis(wait.max(1)) };
        }
        match self.0.back_mut() {
            Some((cell, count)) if *cell >= current => *count += amount,
            _ => self.0.push_back((current, amount)),
        }
        Decision::Allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LIMIT: Limit = Limit { events: 5, window: Duration::from_secs(10) };

    fn user(name: &str) -> UserId {
        UserId::parse(name).unwrap()
    }

    #[test]
    fn a_full_window_waits_for_its_oldest_event_to_leave() {
        let start = Instant::now();
        let limiter = LocalLimiter::new(LIMIT, 100, start);
        let alice = user("alice");
        for second in 0..5 {
            assert_eq!(limiter.check(&alice, start + Duration::from_secs(second)), Decision::Allowed);
        }
        let Decision::Limited { retry_after } = limiter.check(&alice, start + Duration::from_secs(5)) else { panic!() };
        assert!((5000..=5500).contains(&retry_after.as_millis()), "{retry_after:?}");
        assert_eq!(limiter.check(&user("bob"), start), Decision::Allowed);
        assert_eq!(limiter.check(&alice, start + Duration::from_secs(5) + retry_after), Decision::Allowed);
    }

    #[test]
    fn its_memory_is_bounded_and_keeps_who_is_active() {
        let start = Instant::now();
        let limiter = LocalLimiter::new(Limit { events: 1, ..LIMIT }, 10, start);
        let alice = user("alice");
        assert_eq!(limiter.check(&alice, start), Decision::Allowed);
        for n in 0..1000 {
            limiter.check(&user(&format!("u{n}")), start);
            assert_ne!(limiter.check(&alice, start), Decision::Allowed);
            let known = limiter.known.lock().unwrap();
            assert!(known.0.len() + known.1.len() <= 10);
        }
    }

    #[test]
    fn a_limit_of_none_lets_everything_through() {
        let limiter: LocalLimiter<UserId> = LocalLimiter::new(Limit { events: 0, ..LIMIT }, 10, Instant::now());
        assert!((0..100).all(|_| limiter.check(&user("alice"), Instant::now()) == Decision::Allowed));
    }

    proptest! {
        #[test]
        fn no_window_sees_more_than_the_limit_and_waiting_as_told_helps(
            steps in prop::collection::vec((0_u64..4000, 1_u32..8), 1..200), events in 1_u32..8, window in 100_u64..12_000,
        ) {
            let limit = Limit { events, window: Duration::from_millis(window) };
            let (mut cells, mut now, mut passed) = (Cells::default(), 0, Vec::new());
            for (step, amount) in steps {
                now += step;
                let amount = amount.min(events);
                if let Decision::Limited { retry_after } = cells.check(limit, amount, now) {
                    prop_assert!(retry_after.as_millis() as u64 <= window + CELLS + window.div_ceil(CELLS));
                    now += retry_after.as_millis() as u64;
                    prop_assert_eq!(cells.check(limit, amount, now), Decision::Allowed);
                }
                passed.extend((0..amount).map(|_| now));
                let within = passed.iter().filter(|at| **at + window > now).count();
                prop_assert!(within <= events as usize, "{} of {}", within, events);
            }
        }
    }
}
