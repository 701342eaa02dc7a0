//! What a service says of its own state, as metrics: the same that `/health` says.

use prometheus::{IntGauge, IntGaugeVec, Opts, Registry};

/// Whether the service can be given work.
const READY: &str = "holdfast_ready";
/// Whether it was asked to stop.
const DRAINING: &str = "holdfast_draining";
/// Whether each of the other servers answers.
const DEPENDENCY_UP: &str = "holdfast_dependency_up";
/// Why it is degraded.
const DEGRADED: &str = "holdfast_degraded";

/// A service's state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signals {
    /// Whether it can be given work.
    pub ready: bool,
    /// Whether it was asked to stop.
    pub draining: bool,
    /// Each of the other servers by name, and whether it answers.
    pub dependencies: Vec<(&'static str, bool)>,
    /// Each reason for which it can be degraded, and whether it is.
    pub degraded: Vec<(&'static str, bool)>,
}

/// The metrics of [`Signals`].
#[derive(Debug, Clone)]
pub struct SignalMetrics {
    ready: IntGauge,
    draining: IntGauge,
    up: IntGaugeVec,
    degraded: IntGaugeVec,
}

impl SignalMetrics {
    /// Registers the metrics.
    ///
    /// # Errors
    /// One of them is registered already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let labelled = |name, help, label| IntGaugeVec::new(Opts::new(name, help), &[label]);
        let metrics = Self {
            ready: IntGauge::new(READY, "1 while the service can be given work.")?,
            draining: IntGauge::new(DRAINING, "1 since the service was asked to stop.")?,
            up: labelled(DEPENDENCY_UP, "1 while this process gets answers from a server.", "dependency")?,
            degraded: labelled(DEGRADED, "1 while the service is degraded for a reason.", "reason")?,
        };
        registry.register(Box::new(metrics.ready.clone()))?;
        registry.register(Box::new(metrics.draining.clone()))?;
        registry.register(Box::new(metrics.up.clone()))?;
        registry.register(Box::new(metrics.degraded.clone()))?;
        Ok(metrics)
    }

    /// Sets the metrics, before they are read.
    pub fn set(&self, signals: &Signals) {
        self.ready.set(signals.ready.into());
        self.draining.set(signals.draining.into());
        for (name, up) in &signals.dependencies {
            self.up.with_label_values(&[name]).set((*up).into());
        }
        for (reason, is) in &signals.degraded {
            self.degraded.with_label_values(&[reason]).set((*is).into());
        }
    }
}
