//! The metrics of all circuit breakers of a process, one series for each dependency.

use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};

/// State of a circuit breaker, by dependency: 0 closed, 1 open, 2 half-open.
pub const BREAKER_STATE: &str = "cache_circuit_breaker_state";
/// Changes of a circuit breaker's state, by dependency and new state.
pub const BREAKER_TRANSITIONS: &str = "cache_circuit_breaker_transitions_total";

/// Handles to the metrics; register them once for each process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct BreakerMetrics {
    pub(crate) state: IntGaugeVec,
    pub(crate) transitions: IntCounterVec,
}

impl BreakerMetrics {
    /// Registers the metrics. A dependency's series appear when its breaker is made.
    ///
    /// # Errors
    /// The registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let state = IntGaugeVec::new(Opts::new(BREAKER_STATE, "0 closed, 1 open, 2 half-open"), &["dependency"])?;
        let transitions = Opts::new(BREAKER_TRANSITIONS, "Changes of a circuit breaker's state");
        let transitions = IntCounterVec::new(transitions, &["dependency", "to"])?;
        registry.register(Box::new(state.clone()))?;
        registry.register(Box::new(transitions.clone()))?;
        Ok(Self { state, transitions })
    }
}
