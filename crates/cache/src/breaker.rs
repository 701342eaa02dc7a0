//! A circuit breaker: not asking again and again what does not answer.
//!
//! CLOSED lets everything through and keeps a score: a failure adds one, a success takes the oldest one back, and one older than
//! the monitoring period is forgotten. When the score reaches the threshold the breaker is OPEN and rejects everything for the
//! recovery time. Then it is HALF_OPEN: a few real calls are let through; when all of them succeed it closes, when one fails it
//! opens again. So a dependency that mostly works never opens it, however many calls an hour fail; one that mostly fails opens it
//! within a few calls. The window slides: it is the monitoring period before each failure, and what is remembered of it are at most as
//! many failures as open the breaker.
//!
//! Operators may hold it open or closed whatever the calls say ([`Breaker::hold`]), until they leave it to itself again.
//!
//! It takes the time as an argument and knows nothing of what it guards. The failed queue is never behind one.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::{IntCounterVec, IntGauge};

use crate::metrics::CacheMetrics;

/// When a breaker opens, and how it comes back.
#[derive(Debug, Clone, Copy)]
pub struct BreakerSettings {
    /// How many failures, not made good by successes, open it.
    pub failure_threshold: usize,
    /// How long it stays open.
    pub recovery_timeout: Duration,
    /// How long a failure is held against the dependency.
    pub monitoring_period: Duration,
    /// How many calls are let through when half-open; all of them have to succeed.
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

/// What a breaker does with calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Lets them through.
    Closed,
    /// Rejects them.
    Open,
    /// Lets a few through.
    HalfOpen,
}

impl BreakerState {
    /// Its value in the metric.
    pub fn as_metric(self) -> i64 {
        match self {
            Self::Closed => 0,
            Self::Open => 1,
            Self::HalfOpen => 2,
        }
    }

    /// Its name in health reports.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Open => "open",
            Self::HalfOpen => "half_open",
        }
    }
}

/// What an operator wants of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// To reject every call.
    Open,
    /// To let every call through.
    Closed,
}

/// The breaker is open, or its probes are under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the circuit breaker is open")]
pub struct Rejected {
    /// When asking again may help.
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
    /// Counts the changes of state: a verdict on a call from before the last one says nothing.
    era: u64,
}

enum State {
    Closed {
        failures: VecDeque<Instant>,
    },
    /// Without an end: until the operator who holds it lets go.
    Open {
        until: Option<Instant>,
    },
    /// Closed whatever the calls say.
    HeldClosed,
    HalfOpen {
        under_way: usize,
        succeeded: usize,
    },
}

/// Leave to make one call. Dropped without a verdict it counts as not made.
#[must_use]
pub struct Permit {
    breaker: Breaker,
    era: u64,
    judged: bool,
}

impl Breaker {
    /// A closed breaker, shown in the metric under this name.
    pub fn new(dependency: &'static str, settings: BreakerSettings, metrics: Option<&CacheMetrics>) -> Self {
        let gauge = metrics.map(|metrics| metrics.breaker_state.with_label_values(&[dependency]));
        let transitions = metrics.map(|metrics| metrics.breaker_transitions.clone());
        if let Some(transitions) = &transitions {
            for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
                transitions.with_label_values(&[dependency, state.as_str()]);
            }
        }
        let core = Mutex::new(Core { state: State::Closed { failures: VecDeque::new() }, era: 0 });
        Self { shared: Arc::new(Shared { settings, dependency, gauge, transitions, core }) }
    }

    /// Asks leave to make a call.
    pub fn acquire(&self, now: Instant) -> Result<Permit, Rejected> {
        let settings = &self.shared.settings;
        let mut core = self.lock();
        if let State::Open { until } = core.state {
            if until.is_none_or(|until| now < until) {
                let retry_after = until.map_or(settings.recovery_timeout, |until| until - now);
                return Err(Rejected { retry_after });
            }
            self.enter(&mut core, State::HalfOpen { under_way: 0, succeeded: 0 });
        }
        if let State::HalfOpen { under_way, succeeded } = &mut core.state {
            if *under_way + *succeeded >= settings.half_open_max_calls.max(1) {
                return Err(Rejected { retry_after: Duration::from_millis(100).min(settings.recovery_timeout) });
            }
            *under_way += 1;
        }
        Ok(Permit { breaker: self.clone(), era: core.era, judged: false })
    }

    /// The dependency was found to answer by a call that did not ask leave: an open breaker lets its probes through at once.
    pub fn answered(&self) {
        let mut core = self.lock();
        if matches!(core.state, State::Open { until: Some(_) }) {
            self.enter(&mut core, State::HalfOpen { under_way: 0, succeeded: 0 });
        }
    }

    /// Does what an operator wants, until told otherwise; `None` leaves it to itself again, closed and with nothing held against the
    /// dependency.
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

    /// What it does with calls now. An open one becomes half-open with the first call after the recovery time.
    pub fn state(&self) -> BreakerState {
        self.lock().state.kind()
    }

    fn judge(&self, era: u64, verdict: Option<bool>, now: Option<Instant>) {
        let settings = &self.shared.settings;
        let mut core = self.lock();
        if core.era != era {
            return;
        }
        let next = match (&mut core.state, verdict, now) {
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
            (State::HalfOpen { under_way, .. }, None, _) => {
                *under_way = under_way.saturating_sub(1);
                None
            }
            (State::HalfOpen { under_way, succeeded }, Some(true), _) => {
                *under_way = under_way.saturating_sub(1);
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
    /// The dependency did its work; a refusal that it made on good grounds is a success too.
    pub fn success(mut self) {
        self.judged = true;
        self.breaker.judge(self.era, Some(true), None);
    }

    /// The dependency failed, or did not answer in time.
    pub fn failure(mut self, now: Instant) {
        self.judged = true;
        self.breaker.judge(self.era, Some(false), Some(now));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if !self.judged {
            self.breaker.judge(self.era, None, None);
        }
    }
}

#[cfg(test)]
mod tests;
