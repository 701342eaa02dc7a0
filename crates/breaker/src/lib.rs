//! A circuit breaker: stops calling a dependency that does not answer.
//!
//! A breaker is in one of three states:
//!
//! * `CLOSED` lets every call through and keeps a score. A failure adds one point, a success removes the oldest point, and a point that
//!   is older than the monitoring period is dropped. When the score reaches the threshold, the breaker opens.
//! * `OPEN` rejects every call for the recovery timeout, then becomes half-open.
//! * `HALF_OPEN` lets a few real calls through. When all of them succeed the breaker closes; when one fails it opens again.
//!
//! A dependency that mostly works therefore never opens its breaker, however many calls fail in an hour; one that mostly fails opens it
//! within a few calls. The breaker remembers at most as many failures as open it.
//!
//! [`Breaker::call`] makes a guarded call; [`Outage`] says which errors count against the dependency. Operators can hold a breaker open
//! or closed ([`Breaker::hold`]) until they release it.
//!
//! The state machine takes the time as an argument and does not know what it guards. The failed queue is never behind a breaker.
//!
//! See `docs/decisions/breakers.md`, and `docs/decisions/breaker-library.md` for libraries that were compared with it.

mod call;
mod metrics;

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, IntGauge};

pub use call::{CallError, Outage};
pub use metrics::{BREAKER_STATE, BREAKER_TRANSITIONS, BreakerMetrics};

/// When a breaker opens, and how it closes again.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// The score at which the breaker opens: failures that no later success has cancelled.
    pub failure_threshold: usize,
    /// How long the breaker stays open before it lets probes through.
    pub recovery_timeout: Duration,
    /// How long a failure counts.
    pub monitoring_period: Duration,
    /// How many probes the half-open breaker lets through; all of them have to succeed.
    pub half_open_max_calls: usize,
}

impl Default for BreakerSettings {
    fn default() -> Self {
        Self {
            failure_threshold: 5,
            recovery_timeout: Duration::from_secs(60),
            monitoring_period: Duration::from_secs(300),
            half_open_max_calls: 3,
        }
    }
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Every call is let through.
    Closed,
    /// Every call is rejected.
    Open,
    /// A few calls are let through as probes.
    HalfOpen,
}

impl BreakerState {
    /// The value of [`BREAKER_STATE`].
    pub fn as_metric(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
        }
    }

    /// The name in health reports and in [`BREAKER_TRANSITIONS`].
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// A state that an operator holds a breaker in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// Reject every call.
    Open,
    /// Let every call through.
    Closed,
}

/// The breaker rejected the call: it is open, or half-open with all probes in flight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open")]
pub struct Rejected {
    /// How long to wait before the next attempt can succeed.
    pub retry_after: Duration,
}

/// One dependency's breaker. Cheap to clone; clones are the same breaker.
#[derive(Clone)]
pub struct Breaker {
    shared: Arc<Shared>,
}

struct Shared {
    settings: BreakerSettings,
    dependency: &'static str,
    gauge: Option<IntGauge>,
    transitions: Option<IntCounterVec>,
    core: Mutex<Core>,
}

struct Core {
    state: State,
    /// Counts the state changes. The result of a call from before the last change is ignored.
    era: u64,
}

enum State {
    Closed {
        failures: VecDeque<Instant>,
    },
    /// `None`: an operator holds it open.
    Open {
        until: Option<Instant>,
    },
    /// An operator holds it closed: results are ignored.
    HeldClosed,
    HalfOpen {
        in_flight: usize,
        succeeded: usize,
    },
}

/// The permission to make one call. A permit that is dropped unreported counts as a call that was not made.
#[must_use]
pub struct Permit {
    breaker: Breaker,
    era: u64,
    reported: bool,
}

impl Breaker {
    /// Creates a closed breaker. `dependency` labels its metrics.
    pub fn new(dependency: &'static str, settings: BreakerSettings, metrics: Option<&BreakerMetrics>) -> Self {
        let gauge = metrics.map(|metrics| metrics.state.with_label_values(&[dependency]));
        let transitions = metrics.map(|metrics| metrics.transitions.clone());
        if let Some(transitions) = &transitions {
            for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
                transitions.with_label_values(&[dependency, state.as_str()]);
            }
        }
        let core = Mutex::new(Core { state: State::Closed { failures: VecDeque::new() }, era: 0 });
        Self { shared: Arc::new(Shared { settings, dependency, gauge, transitions, core }) }
    }

    /// Asks for the permission to make a call; [`Breaker::call`] does this for most callers.
    ///
    /// # Errors
    /// The breaker is open, or half-open with all probes in flight.
    pub fn acquire(&self, now: Instant) -> Result<Permit, Rejected> {
        let settings = &self.shared.settings;
        let mut core = self.lock();
        if let State::Open { until } = core.state {
            if until.is_none_or(|until| now < until) {
                let retry_after = until.map_or(settings.recovery_timeout, |until| until - now);
                return Err(Rejected { retry_after });
            }
            self.enter(&mut core, State::HalfOpen { in_flight: 0, succeeded: 0 });
        }
        if let State::HalfOpen { in_flight, succeeded } = &mut core.state {
            if *in_flight + *succeeded >= settings.half_open_max_calls.max(1) {
                return Err(Rejected { retry_after: Duration::from_millis(100).min(settings.recovery_timeout) });
            }
            *in_flight += 1;
        }
        Ok(Permit { breaker: self.clone(), era: core.era, reported: false })
    }

    /// Reports that the dependency answered a call that was not made through this breaker: an open breaker becomes half-open at once.
    pub fn answered(&self) {
        let mut core = self.lock();
        if matches!(core.state, State::Open { until: Some(_) }) {
            self.enter(&mut core, State::HalfOpen { in_flight: 0, succeeded: 0 });
        }
    }

    /// Holds the breaker in a state until the next call of this function; `None` releases it, closed and with a score of zero.
    pub fn hold(&self, hold: Option<Hold>) {
        let mut core = self.lock();
        let next = match hold {
            Some(Hold::Open) => State::Open { until: None },
            Some(Hold::Closed) => State::HeldClosed,
            None => State::Closed { failures: VecDeque::new() },
        };
        tracing::warn!(dependency = self.shared.dependency, ?hold, "an operator turned the circuit breaker");
        self.enter(&mut core, next);
    }

    /// The current state. An open breaker becomes half-open with the first call after the recovery timeout.
    pub fn state(&self) -> BreakerState {
        self.lock().state.kind()
    }

    fn record(&self, era: u64, success: Option<bool>, now: Option<Instant>) {
        let settings = &self.shared.settings;
        let mut core = self.lock();
        if core.era != era {
            return;
        }
        let next = match (&mut core.state, success, now) {
            (State::Closed { failures }, Some(true), _) => {
                failures.pop_front();
                None
            }
            (State::Closed { failures }, Some(false), Some(now)) => {
                failures.push_back(now);
                while failures.front().is_some_and(|at| now.duration_since(*at) > settings.monitoring_period) {
                    failures.pop_front();
                }
                (failures.len() >= settings.failure_threshold.max(1))
                    .then(|| State::Open { until: Some(now + settings.recovery_timeout) })
            }
            (State::HalfOpen { in_flight, .. }, None, _) => {
                *in_flight = in_flight.saturating_sub(1);
                None
            }
            (State::HalfOpen { in_flight, succeeded }, Some(true), _) => {
                *in_flight = in_flight.saturating_sub(1);
                *succeeded += 1;
                (*succeeded >= settings.half_open_max_calls).then(|| State::Closed { failures: VecDeque::new() })
            }
            (State::HalfOpen { .. }, Some(false), Some(now)) => {
                Some(State::Open { until: Some(now + settings.recovery_timeout) })
            }
            _ => None,
        };
        if let Some(next) = next {
            self.enter(&mut core, next);
        }
    }

    fn enter(&self, core: &mut Core, state: State) {
        let before = core.state.kind();
        core.era += 1;
        core.state = state;
        let kind = core.state.kind();
        if kind == before {
            return;
        }
        if let Some(gauge) = &self.shared.gauge {
            gauge.set(kind.as_metric());
        }
        if let Some(transitions) = &self.shared.transitions {
            transitions.with_label_values(&[self.shared.dependency, kind.as_str()]).inc();
        }
        tracing::warn!(dependency = self.shared.dependency, state = kind.as_str(), "circuit breaker changed");
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Core> {
        self.shared.core.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn kind(&self) -> BreakerState {
        match self {
            Self::Closed { .. } | Self::HeldClosed => BreakerState::Closed,
            Self::Open { .. } => BreakerState::Open,
            Self::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

impl Permit {
    /// Reports that the dependency answered. An error that is no outage is an answer, too.
    pub fn success(mut self) {
        self.reported = true;
        self.breaker.record(self.era, Some(true), None);
    }

    /// Reports that the dependency failed or did not answer in time.
    pub fn failure(mut self, now: Instant) {
        self.reported = true;
        self.breaker.record(self.era, Some(false), Some(now));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.reported {
            self.breaker.record(self.era, None, None);
        }
    }
}

/// The README's example.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

#[cfg(test)]
mod tests;
