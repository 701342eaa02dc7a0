//! librdkafka's callbacks to a member of a group, recorded as [`Event`]s that [`GroupConsumer::poll`] returns.
//!
//! [`GroupConsumer::poll`]: crate::GroupConsumer::poll

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rdkafka::TopicPartitionList;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext, RebalanceProtocol};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::types::RDKafkaRespErr;

use crate::context::Callbacks;
use crate::trouble::Trouble;

/// What a poll returns other than a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The coordinator assigns partitions. No record of theirs arrives until [`GroupConsumer::assign`](crate::GroupConsumer::assign).
    Assigned(Vec<i32>),
    /// The coordinator revokes partitions. No record arrives at all until [`GroupConsumer::unassign`](crate::GroupConsumer::unassign).
    Revoked {
        /// The revoked partitions.
        partitions: Vec<i32>,
        /// They may belong to another member already: a commit would be refused, or worse, taken.
        lost: bool,
    },
    /// The broker's answer to a commit.
    Committed {
        /// The offsets of the commit, by partition.
        offsets: Vec<(i32, i64)>,
        /// Whether the broker accepted all of them.
        result: Result<(), String>,
    },
    /// librdkafka's periodic statistics.
    Statistics {
        /// The offset of the next record, for each partition that is fetched.
        high_watermarks: Vec<(i32, i64)>,
        /// Whether a broker is connected.
        broker_up: bool,
    },
    /// An error that librdkafka retries after. It is logged already.
    Trouble {
        /// The kind of error.
        kind: Trouble,
        /// The partition that can't be fetched, if it is one. librdkafka says so once, until it could be fetched again.
        partition: Option<i32>,
    },
    /// `max.poll.interval.ms` passed without a poll: the member has left the group, and rejoins at the next one.
    PollIntervalExceeded,
    /// The client has failed for good and returns nothing any more: end the process, or build another client.
    Fatal(String),
}

pub(crate) struct GroupContext {
    callbacks: Callbacks,
    topic: String,
    pub(crate) closing: AtomicBool,
    /// Counts callbacks, so that a poll that only served a callback can be distinguished from a poll that found nothing.
    pub(crate) served: AtomicU64,
    events: Mutex<VecDeque<Event>>,
    /// The rebalance that was asked for and not answered: whether it is an assignment, and of what.
    unanswered: Mutex<Option<(bool, Vec<i32>)>>,
}

impl GroupContext {
    pub(crate) fn new(topic: String) -> Self {
        Self {
            callbacks: Callbacks::new("consumer"),
            topic,
            closing: AtomicBool::new(false),
            served: AtomicU64::new(0),
            events: Mutex::default(),
            unanswered: Mutex::default(),
        }
    }

    pub(crate) fn unanswered(&self) -> MutexGuard<'_, Option<(bool, Vec<i32>)>> {
        self.unanswered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn events(&self) -> MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn push(&self, event: Event) {
        self.events().push_back(event);
    }

    fn serve(&self) {
        self.served.fetch_add(1, Ordering::Relaxed);
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        self.serve();
        self.callbacks.log(level, facility, line);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.serve();
        self.callbacks.error(error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.serve();
        let partitions = statistics.topics.get(&self.topic).map(|topic| &topic.partitions);
        let high_watermarks = partitions
            .into_iter()
            .flatten()
            .filter(|(partition, state)| **partition >= 0 && state.hi_offset >= 0)
            .map(|(partition, state)| (*partition, state.hi_offset))
            .collect();
        let broker_up = statistics.brokers.values().any(|broker| broker.state == "UP");
        self.push(Event::Statistics { high_watermarks, broker_up });
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(&self, consumer: &BaseConsumer<Self>, kind: RDKafkaRespErr, list: &mut TopicPartitionList) {
        self.serve();
        let assigned = matches!(kind, RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS);
        if self.closing.load(Ordering::Acquire) {
            let done = match (consumer.rebalance_protocol(), assigned) {
                (RebalanceProtocol::Cooperative, false) => consumer.incremental_unassign(list),
                (RebalanceProtocol::Cooperative, true) => consumer.incremental_assign(list),
                _ => consumer.unassign(),
            };
            if let Err(error) = done {
                tracing::warn!(%error, "giving up partitions while closing");
            }
            return;
        }
        let partitions: Vec<i32> = list.elements().iter().map(|element| element.partition()).collect();
        *self.unanswered() = Some((assigned, partitions.clone()));
        self.push(match assigned {
            true => Event::Assigned(partitions),
            false => Event::Revoked { partitions, lost: consumer.assignment_lost() },
        });
    }
}
