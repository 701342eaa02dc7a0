//! What one connection may send: so many events and so many bytes a second.
//!
//! Each is an allowance of a second's worth that refills evenly, and holds two seconds' worth at most. What does not fit is refused, with
//! the time after which it would. What is refused counts too, at the same rate: a client that sends more than twice what it may, for ten
//! seconds, is disconnected.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::metrics::Limited;

/// How much may come at once after a silence, in seconds' worth.
const BURST: f64 = 2.0;
/// How much may be refused at once, in seconds' worth.
const PATIENCE: f64 = 10.0;

/// What a connection may send a second; 0 for no limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rates {
    /// Events a second.
    pub(crate) events: u32,
    /// Bytes of payload a second.
    pub(crate) bytes: u32,
}

/// What becomes of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It passes.
    Pass,
    /// It is refused.
    Refuse {
        /// What it is too much of.
        limit: Limited,
        /// When it would have passed.
        retry_after: Duration,
    },
    /// It is refused, and so many before it that the connection is to be closed.
    Disconnect {
        /// What it is too much of.
        limit: Limited,
    },
}

/// One connection's meter.
#[derive(Debug)]
pub(crate) struct Meter {
    start: Instant,
    events: Option<Mutex<Allowance>>,
    bytes: Option<Mutex<Allowance>>,
}

/// Seconds from the start at which all that was taken will have refilled (the "theoretical arrival time" of the generic cell rate
/// algorithm).
#[derive(Debug, Default)]
struct Allowance {
    per_second: f64,
    taken_until: f64,
    refused_until: f64,
}

impl Meter {
    /// A meter that has seen nothing yet.
    pub(crate) fn new(rates: Rates, now: Instant) -> Self {
        let allowance =
            |rate: u32| (rate > 0).then(|| Mutex::new(Allowance { per_second: rate.into(), ..Allowance::default() }));
        Self { start: now, events: allowance(rates.events), bytes: allowance(rates.bytes) }
    }

    /// Counts an event of so many bytes.
    pub(crate) fn count(&self, bytes: usize, now: Instant) -> Verdict {
        let now = now.saturating_duration_since(self.start).as_secs_f64();
        for (allowance, amount, limit) in
            [(&self.events, 1.0, Limited::SocketEvents), (&self.bytes, bytes as f64, Limited::SocketBytes)]
        {
            let Some(allowance) = allowance else { continue };
            let verdict = allowance.lock().unwrap_or_else(PoisonError::into_inner).take(amount, now, limit);
            if verdict != Verdict::Pass {
                return verdict;
            }
        }
        Verdict::Pass
    }
}

impl Allowance {
    /// Takes an amount if anything is left, though it be more than that: what was never allowed at once could never pass.
    fn take(&mut self, amount: f64, now: f64, limit: Limited) -> Verdict {
        let seconds = amount / self.per_second;
        let full_in = self.taken_until - now;
        // Sums of fractions are a little off.
        if full_in + seconds.min(BURST) <= BURST + 1e-6 {
            self.taken_until = self.taken_until.max(now) + seconds;
            return Verdict::Pass;
        }
        self.refused_until = self.refused_until.max(now) + seconds;
        if self.refused_until - now > PATIENCE {
            return Verdict::Disconnect { limit };
        }
        let wait = full_in + seconds.min(BURST) - BURST;
        Verdict::Refuse { limit, retry_after: Duration::from_secs_f64(wait.max(0.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn at(start: Instant, millis: u64) -> Instant {
        start + Duration::from_millis(millis)
    }

    #[test]
    fn a_steady_client_within_its_rate_is_never_refused() {
        let start = Instant::now();
        let meter = Meter::new(Rates { events: 10, bytes: 1000 }, start);
        assert!((0..1000).all(|n| meter.count(100, at(start, n * 100)) == Verdict::Pass));
    }

    #[test]
    fn a_burst_is_two_seconds_worth_and_then_waits_as_told() {
        let start = Instant::now();
        let meter = Meter::new(Rates { events: 10, bytes: 0 }, start);
        assert!((0..20).all(|_| meter.count(1_000_000, start) == Verdict::Pass));
        let Verdict::Refuse { limit: Limited::SocketEvents, retry_after } = meter.count(1, start) else { panic!() };
        assert!((95..=105).contains(&retry_after.as_millis()), "{retry_after:?}");
        assert_eq!(meter.count(1, start + retry_after + Duration::from_millis(1)), Verdict::Pass);
    }

    #[test]
    fn a_payload_larger_than_a_burst_passes_after_a_silence_and_is_paid_for() {
        let start = Instant::now();
        let meter = Meter::new(Rates { events: 0, bytes: 1000 }, start);
        assert_eq!(meter.count(5000, start), Verdict::Pass);
        let Verdict::Refuse { limit: Limited::SocketBytes, retry_after } = meter.count(1, start) else { panic!() };
        assert!((2990..=3010).contains(&retry_after.as_millis()), "{retry_after:?}");
        assert_eq!(meter.count(1, at(start, 3100)), Verdict::Pass);
    }

    #[test]
    fn who_goes_on_at_three_times_the_rate_is_disconnected_and_who_slows_down_is_not() {
        let start = Instant::now();
        let rates = Rates { events: 10, bytes: 0 };
        let fast = Meter::new(rates, start);
        let ends = (0..1000).find(|n| matches!(fast.count(1, at(start, n * 33)), Verdict::Disconnect { .. })).unwrap();
        assert!((8_000..15_000).contains(&(ends * 33)), "after {} ms", ends * 33);
        let slow = Meter::new(rates, start);
        assert!((0..10_000).all(|n| !matches!(slow.count(1, at(start, n * 51)), Verdict::Disconnect { .. })));
    }

    proptest! {
        #[test]
        fn no_stretch_of_time_sees_more_than_its_worth_and_a_burst(
            steps in prop::collection::vec(0_u64..300, 1..300), rate in 1_u32..50,
        ) {
            let start = Instant::now();
            let (meter, mut now, mut passed) = (Meter::new(Rates { events: rate, bytes: 0 }, start), 0, Vec::new());
            for step in steps {
                now += step;
                if meter.count(1, at(start, now)) == Verdict::Pass {
                    passed.push(now);
                }
            }
            for (index, first) in passed.iter().enumerate() {
                for (further, last) in passed[index..].iter().enumerate() {
                    let worth = ((last - first) as f64 / 1000.0 + BURST) * f64::from(rate);
                    prop_assert!((further + 1) as f64 <= worth + 1.0, "{} in {} ms", further + 1, last - first);
                }
            }
        }
    }
}
