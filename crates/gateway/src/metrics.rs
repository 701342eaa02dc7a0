//! The gateway's metrics: every name, once.

mod labels;

use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, Opts, Registry, core::Collector};

use holdfast_service::serve::ConnectionMetrics;

pub use self::labels::{Dropped, Limited, Outcome, Packet};
use crate::refusal::Code;

/// Sends, by how they ended.
pub const MESSAGES: &str = "holdfast_gateway_messages_total";
/// Requests refused, by code.
pub const REJECTED: &str = "holdfast_gateway_rejected_total";
/// Requests refused by a limit, by the limit.
pub const LIMITED: &str = "holdfast_gateway_limited_total";
/// Clients that were disconnected because they ignored their refusals.
pub const ABUSIVE: &str = "holdfast_gateway_abusive_sockets_total";
/// Seconds from a send's arrival to its answer.
pub const ACK: &str = "holdfast_gateway_ack_seconds";
/// Seconds from a send's arrival to its emission to the sockets of this gateway.
pub const DELIVERY: &str = "holdfast_gateway_delivery_seconds";
/// Seconds from handing a message to Kafka's client to its report.
pub const PUBLISH: &str = "holdfast_gateway_publish_seconds";
/// Times that Kafka's producer failed for good and another took its place.
pub const PRODUCER_REBUILDS: &str = "holdfast_gateway_producer_rebuilds_total";
/// Connected sockets.
pub const SOCKETS: &str = "holdfast_gateway_sockets";
/// Messages in the deduplication window: one connection receives each of them once.
pub const SENT_WINDOW: &str = "holdfast_gateway_sent_window_messages";
/// Socket.IO sessions whose queues are in memory, with or without a connected socket.
pub const SESSIONS: &str = "holdfast_gateway_sessions";
/// Groups with members who have sockets here.
pub const ROOMS: &str = "holdfast_gateway_rooms";
/// Changes of groups that were not published to other gateways because too many waited; they notice them at their next recheck.
pub const GROUP_CHANGES_UNTOLD: &str = "holdfast_gateway_group_changes_untold_total";
/// Requests that were permitted although the store could not say whether one of the two users blocks the other.
pub const PERMITTED_UNKNOWN: &str = "holdfast_gateway_permitted_unknown_total";
/// Sends that the recent list did not take in time.
pub const RECENT_SKIPPED: &str = "holdfast_gateway_recent_skipped_total";
/// Calls to recent lists that failed and were not repeated in the background either, because too many waited or the gateway ended.
pub const RELIST_DROPPED: &str = "holdfast_gateway_relist_dropped_total";
/// Calls to recent lists that wait to be repeated or are under way.
pub const RELIST_WAITING: &str = "holdfast_gateway_relist_waiting";
/// Times that a socket's buffer was full.
pub const LAGGING: &str = "holdfast_gateway_lagging_sockets_total";
/// Bytes that wait to be written to clients.
pub const OUTGOING_BYTES: &str = "holdfast_gateway_outgoing_bytes";
/// Events and responses that found no room among them, by kind.
pub const OUTGOING_DROPPED: &str = "holdfast_gateway_outgoing_dropped_total";
/// Ephemeral events that did not reach other gateways, by reason.
pub const LIVE_DROPPED: &str = "holdfast_gateway_live_dropped_total";
/// Ephemeral events that wait to be published.
pub const LIVE_WAITING: &str = "holdfast_gateway_live_waiting";
/// Connections and notifications that presence dropped, by reason.
pub const PRESENCE_DROPPED: &str = "holdfast_gateway_presence_dropped_total";
/// Connections and notifications that wait in presence's queues.
pub const PRESENCE_WAITING: &str = "holdfast_gateway_presence_waiting";
/// Sends in progress.
pub const IN_FLIGHT: &str = "holdfast_gateway_sends_in_flight";
/// History pages, by source.
pub const HISTORY: &str = "holdfast_gateway_history_pages_total";
/// Messages that a verification found missing in a recent list.
pub const REPAIRED: &str = "holdfast_gateway_recent_repaired_total";
/// Stored documents that cannot be read.
pub const UNREADABLE: &str = "holdfast_gateway_unreadable_documents_total";
/// Updates of cached unread counts and lists of conversations that wait.
pub const INBOX_WAITING: &str = "holdfast_gateway_inbox_waiting";
/// Such updates that were dropped because too many waited: counts and lists are wrong until they expire.
pub const INBOX_DROPPED: &str = "holdfast_gateway_inbox_dropped_total";
/// Times that a user's unread messages were counted from lists and store.
pub const INBOXES_COUNTED: &str = "holdfast_gateway_inboxes_counted_total";
/// Messages that wait in the failed queue.
pub const FAILED_MESSAGES: &str = "holdfast_failed_queue_messages";
/// Age of the oldest of them.
pub const FAILED_AGE: &str = "holdfast_failed_queue_oldest_age_seconds";
/// 1 while the failed queue would take messages, as far as the settings and the state of its server show.
pub const FAILED_USABLE: &str = "holdfast_failed_queue_usable";
/// Messages that Kafka took from the failed queue.
pub const REPLAYED: &str = "holdfast_failed_queue_replayed_total";
/// Entries moved to a dead list.
pub const DEAD: &str = "holdfast_failed_queue_dead_total";

/// The gateway's metrics, all there from the start.
#[derive(Clone)]
pub struct Metrics {
    messages: [IntCounter; 5],
    rejected: IntCounterVec,
    limited: [IntCounter; 7],
    /// [`ABUSIVE`].
    pub abusive: IntCounter,
    /// [`ACK`].
    pub ack: Histogram,
    /// [`DELIVERY`].
    pub delivery: Histogram,
    /// [`PUBLISH`].
    pub publish: Histogram,
    /// [`PRODUCER_REBUILDS`].
    pub producer_rebuilds: IntCounter,
    /// [`SOCKETS`].
    pub sockets: IntGauge,
    /// [`SENT_WINDOW`].
    pub sent_window: IntGauge,
    /// [`SESSIONS`].
    pub sessions: IntGauge,
    /// [`ROOMS`].
    pub rooms: IntGauge,
    /// [`GROUP_CHANGES_UNTOLD`].
    pub group_changes_untold: IntCounter,
    /// [`PERMITTED_UNKNOWN`].
    pub permitted_unknown: IntCounter,
    /// [`RECENT_SKIPPED`].
    pub recent_skipped: IntCounter,
    /// [`RELIST_DROPPED`].
    pub relist_dropped: IntCounter,
    /// [`RELIST_WAITING`].
    pub relist_waiting: IntGauge,
    /// [`LAGGING`].
    pub lagging: IntCounter,
    /// [`OUTGOING_BYTES`].
    pub outgoing_bytes: IntGauge,
    outgoing_dropped: [IntCounter; 2],
    /// Connections to the clients' port.
    pub clients: ConnectionMetrics,
    /// Connections to the operators' port.
    pub operators: ConnectionMetrics,
    live_dropped: IntCounterVec,
    /// [`LIVE_WAITING`].
    pub live_waiting: IntGauge,
    presence_dropped: IntCounterVec,
    /// [`PRESENCE_WAITING`].
    pub presence_waiting: IntGauge,
    /// [`IN_FLIGHT`].
    pub in_flight: IntGauge,
    history: IntCounterVec,
    /// [`UNREADABLE`].
    pub unreadable: IntCounter,
    /// [`REPAIRED`].
    pub repaired: IntCounter,
    /// [`INBOX_WAITING`].
    pub inbox_waiting: IntGauge,
    /// [`INBOX_DROPPED`].
    pub inbox_dropped: IntCounter,
    /// [`INBOXES_COUNTED`].
    pub inboxes_counted: IntCounter,
    /// [`FAILED_MESSAGES`].
    pub failed_messages: IntGauge,
    /// [`FAILED_AGE`].
    pub failed_age: IntGauge,
    /// [`FAILED_USABLE`].
    pub failed_usable: IntGauge,
    /// [`REPLAYED`].
    pub replayed: IntCounter,
    /// [`DEAD`].
    pub dead: IntCounter,
}

impl Metrics {
    /// Registers all of them.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let r = Registrar(registry);
        let [clients, operators] = ConnectionMetrics::register(registry, ["clients", "operators"])?;
        let codes = Code::ALL.map(Code::as_str);
        let reasons = Dropped::ALL.map(Dropped::as_str);
        Ok(Self {
            messages: r.each(MESSAGES, "Sends, by how they ended.", "outcome", Outcome::LABELS)?,
            rejected: r.labelled(REJECTED, "Requests refused, by code.", "code", &codes)?,
            limited: r.each(LIMITED, "Requests refused by a limit, by the limit.", "limit", Limited::LABELS)?,
            abusive: r.counter(ABUSIVE, "Clients disconnected because they ignored their refusals.")?,
            ack: r.seconds(ACK, "From a send's arrival to its answer.")?,
            delivery: r.seconds(DELIVERY, "From a send's arrival to its emission to this gateway's sockets.")?,
            publish: r.seconds(PUBLISH, "From handing a message to Kafka's client to its report.")?,
            producer_rebuilds: r.counter(
                PRODUCER_REBUILDS,
                "Times that Kafka's producer failed for good and another took its place.",
            )?,
            sockets: r.gauge(SOCKETS, "Connected sockets.")?,
            sent_window: r.gauge(
                SENT_WINDOW,
                "Messages in the deduplication window: one connection receives each of them once.",
            )?,
            sessions: r.gauge(SESSIONS, "Socket.IO sessions whose queues are in memory.")?,
            rooms: r.gauge(ROOMS, "Groups with members who have sockets here.")?,
            group_changes_untold: r.counter(
                GROUP_CHANGES_UNTOLD,
                "Changes of groups that were not published to other gateways because too many waited.",
            )?,
            permitted_unknown: r
                .counter(PERMITTED_UNKNOWN, "Requests permitted although the store could not say whether one user blocks the other.")?,
            recent_skipped: r.counter(RECENT_SKIPPED, "Sends that the recent list did not take in time.")?,
            relist_dropped: r.counter(
                RELIST_DROPPED,
                "Calls to recent lists that were not repeated in the background, because too many waited or the gateway ended.",
            )?,
            relist_waiting: r.gauge(RELIST_WAITING, "Calls to recent lists that wait to be repeated or are under way.")?,
            lagging: r.counter(LAGGING, "Times that a socket's buffer was full.")?,
            outgoing_bytes: r.gauge(OUTGOING_BYTES, "Bytes that wait to be written to clients.")?,
            outgoing_dropped: r.each(
                OUTGOING_DROPPED,
                "Events and responses dropped because too many bytes waited, by kind.",
                "kind",
                Packet::LABELS,
            )?,
            clients,
            operators,
            live_dropped: r.labelled(
                LIVE_DROPPED,
                "Ephemeral events that did not reach other gateways, by reason.",
                "reason",
                &reasons,
            )?,
            live_waiting: r.gauge(LIVE_WAITING, "Ephemeral events that wait to be published.")?,
            presence_dropped: r.labelled(
                PRESENCE_DROPPED,
                "Connections and notifications that presence dropped, by reason.",
                "reason",
                &[Dropped::Full.as_str()],
            )?,
            presence_waiting: r
                .gauge(PRESENCE_WAITING, "Connections and notifications that wait in presence's queues.")?,
            in_flight: r.gauge(IN_FLIGHT, "Sends in progress.")?,
            history: r.labelled(HISTORY, "History pages, by source.", "source", &["cache", "store", "merged"])?,
            unreadable: r.counter(
                UNREADABLE,
                "Stored documents that cannot be read and are left out of history, each counted when it is first met.",
            )?,
            repaired: r.counter(REPAIRED, "Messages that a verification found missing in a recent list.")?,
            inbox_waiting: r.gauge(
                INBOX_WAITING,
                "Updates of cached unread counts and lists of conversations that wait.",
            )?,
            inbox_dropped: r.counter(
                INBOX_DROPPED,
                "Updates of cached unread counts and lists of conversations that were dropped because too many waited.",
            )?,
            inboxes_counted: r.counter(INBOXES_COUNTED, "Times that a user's unread messages were counted from lists and store.")?,
            failed_messages: r.gauge(FAILED_MESSAGES, "Messages that wait in the failed queue.")?,
            failed_age: r.gauge(FAILED_AGE, "Age of the failed queue's oldest message.")?,
            failed_usable: r.gauge(
                FAILED_USABLE,
                "1 while the failed queue would take messages, as far as the settings and the state of its server show.",
            )?,
            replayed: r.counter(REPLAYED, "Messages that Kafka took from the failed queue.")?,
            dead: r.counter(DEAD, "Failed-queue entries moved to a dead list.")?,
        })
    }

    /// Counts a send's end.
    pub fn ended(&self, outcome: Outcome) {
        self.messages[outcome as usize].inc();
    }

    /// Counts a refusal.
    pub fn refused(&self, code: Code) {
        self.rejected.with_label_values(&[code.as_str()]).inc();
    }

    /// Counts what a limit refused.
    pub fn limited(&self, limit: Limited) {
        self.limited[limit as usize].inc();
    }

    /// Counts what found no room in what waits for clients.
    pub fn outgoing_dropped(&self, packet: Packet) {
        self.outgoing_dropped[packet as usize].inc();
    }

    /// Counts ephemeral events that did not reach other gateways.
    pub fn live_dropped(&self, reason: Dropped, count: usize) {
        self.live_dropped.with_label_values(&[reason.as_str()]).inc_by(count as u64);
    }

    /// Counts what presence dropped.
    pub fn presence_dropped(&self, reason: Dropped) {
        self.presence_dropped.with_label_values(&[reason.as_str()]).inc();
    }

    /// Counts a history page.
    pub fn page(&self, source: &str) {
        self.history.with_label_values(&[source]).inc();
    }
}

struct Registrar<'a>(&'a Registry);

impl Registrar<'_> {
    fn put<C: Collector + Clone + 'static>(&self, metric: C) -> Result<C, prometheus::Error> {
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.put(IntCounter::new(name, help)?)
    }

    fn counters(&self, name: &str, help: &str, label: &str) -> Result<IntCounterVec, prometheus::Error> {
        self.put(IntCounterVec::new(Opts::new(name, help), &[label])?)
    }

    /// Counters of all values of a label, there from the start, in the order of the values.
    fn each<const N: usize>(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: [&str; N],
    ) -> Result<[IntCounter; N], prometheus::Error> {
        let counters = self.counters(name, help, label)?;
        Ok(values.map(|value| counters.with_label_values(&[value])))
    }

    /// Counters of a label, those of `values` there from the start.
    fn labelled(
        &self,
        name: &str,
        help: &str,
        label: &str,
        values: &[&str],
    ) -> Result<IntCounterVec, prometheus::Error> {
        let counters = self.counters(name, help, label)?;
        values.iter().for_each(|value| drop(counters.with_label_values(&[value])));
        Ok(counters)
    }

    fn gauge(&self, name: &str, help: &str) -> Result<IntGauge, prometheus::Error> {
        self.put(IntGauge::new(name, help)?)
    }

    fn seconds(&self, name: &str, help: &str) -> Result<Histogram, prometheus::Error> {
        let buckets = vec![0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];
        self.put(Histogram::with_opts(HistogramOpts::new(name, help).buckets(buckets))?)
    }
}
