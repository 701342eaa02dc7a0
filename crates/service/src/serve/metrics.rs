//! What a listener counts.

use prometheus::{IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Open connections, by listener.
pub const CONNECTIONS: &str = "holdfast_connections";
/// Connections that this side closed, by listener and reason.
pub const CONNECTIONS_CLOSED: &str = "holdfast_connections_closed_total";

/// Why this side closed a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Every slot of the listener was taken.
    Full,
    /// A request's head did not arrive in time.
    Header,
    /// A request's body did not arrive in time.
    Body,
    /// No request came for long.
    Idle,
    /// A write made no progress for long.
    Stalled,
    /// Its queue stayed full.
    Overflow,
    /// What all connections together wait for was too much, and this one's share was among the largest.
    Pressure,
    /// Its session's heartbeats were not answered.
    Silent,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 8] =
        [Self::Full, Self::Header, Self::Body, Self::Idle, Self::Stalled, Self::Overflow, Self::Pressure, Self::Silent];

    /// Its name in metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Header => "header",
            Self::Body => "body",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Overflow => "overflow",
            Self::Pressure => "pressure",
            Self::Silent => "silent",
        }
    }
}

/// One listener's metrics, all there from the start. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConnectionMetrics {
    listener: &'static str,
    /// [`CONNECTIONS`].
    pub(super) open: IntGauge,
    closed: IntCounterVec,
}

impl ConnectionMetrics {
    /// Registers those of a service's listeners.
    pub fn register<const N: usize>(
        registry: &Registry,
        listeners: [&'static str; N],
    ) -> Result<[Self; N], prometheus::Error> {
        let open = IntGaugeVec::new(Opts::new(CONNECTIONS, "Open connections, by listener."), &["listener"])?;
        let help = "Connections that this side closed, by listener and reason.";
        let closed = IntCounterVec::new(Opts::new(CONNECTIONS_CLOSED, help), &["listener", "reason"])?;
        registry.register(Box::new(open.clone()))?;
        registry.register(Box::new(closed.clone()))?;
        Ok(listeners.map(|listener| {
            Reason::ALL.iter().for_each(|reason| drop(closed.with_label_values(&[listener, reason.as_str()])));
            Self { listener, open: open.with_label_values(&[listener]), closed: closed.clone() }
        }))
    }

    /// Counts a connection that this side closed.
    pub(super) fn closed(&self, reason: Reason) {
        self.closed.with_label_values(&[self.listener, reason.as_str()]).inc();
    }
}
