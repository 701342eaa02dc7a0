//! The values of the metrics' labels.

/// How a send ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Kafka has it.
    Kafka,
    /// The failed queue has it.
    FailedQueue,
    /// Nothing durable took it.
    Refused,
    /// It repeats a durable message.
    Duplicate,
    /// It violated a rule or a limit.
    Rejected,
}

/// Which limit refused something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limited {
    /// Messages of a user.
    Messages,
    /// Other events of a user.
    Events,
    /// Events of a connection.
    SocketEvents,
    /// Bytes of a connection.
    SocketBytes,
    /// Connections of a user.
    UserSockets,
    /// Connections from an address.
    AddressSockets,
    /// Handshakes from an address.
    Handshakes,
}

impl Outcome {
    /// The metric's values, in the order of the variants.
    pub(super) const LABELS: [&'static str; 5] = ["kafka", "failed_queue", "refused", "duplicate", "rejected"];
}

impl Limited {
    /// The metric's values, in the order of the variants.
    pub(super) const LABELS: [&'static str; 7] =
        ["messages", "events", "socket_events", "socket_bytes", "user_sockets", "address_sockets", "handshakes"];
}

impl Packet {
    /// The metric's values, in the order of the variants.
    pub(super) const LABELS: [&'static str; 2] = ["event", "response"];
}

/// Why an event was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dropped {
    /// Too many waited.
    Full,
    /// The cache did not take it, or is known to be away.
    Unavailable,
    /// Its payload is longer than any may be, or is no JSON.
    Unfit,
}

impl Dropped {
    /// All reasons, for metrics.
    pub const ALL: [Self; 3] = [Self::Full, Self::Unavailable, Self::Unfit];

    /// As in the metric.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Unavailable => "unavailable",
            Self::Unfit => "unfit",
        }
    }
}

/// What is given to a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Packet {
    /// An event, which answers no request.
    Event,
    /// The response to a request.
    Response,
}
