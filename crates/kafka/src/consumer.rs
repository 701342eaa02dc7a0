//! Reads the log as a member of a group. Gives records and [`Event`]s, one at a time, from [`GroupConsumer::poll`].
//!
//! # A rebalance takes place when the caller says so
//!
//! rust-rdkafka's default is to assign and unassign inside the callback, that is inside `poll`: whatever must happen in between
//! (flush, commit) would have to block there. librdkafka itself does not ask for that. With rebalance *events* enabled, as
//! rust-rdkafka has them, it goes into the state `WAIT_ASSIGN_CALL` or `WAIT_UNASSIGN_CALL` (`rd_kafka_rebalance_op` in
//! `rdkafka_cgrp.c`), pauses what is assigned, keeps up the heartbeats, and stays there until `assign` or `unassign` is called,
//! whenever that is; while it waits, further rebalances are held back and commits go through under the old generation. Its own
//! bound is the broker's rebalance timeout, `max.poll.interval.ms`, after which the member is thrown out and its commits refused.
//! So the callback here only records what is asked for, and the caller acts: [`Event::Assigned`] must be answered by
//! [`GroupConsumer::assign`], [`Event::Revoked`] by [`GroupConsumer::unassign`], late but always.
//!
//! # Pausing is not taking
//!
//! librdkafka's own pause throws away what was fetched ahead, and its resume wakes no thread: the broker's thread sleeps on for up to
//! a second (`rd_kafka_broker_consumer_serve`). A worker that catches up pauses dozens of times a minute, and so spent most of
//! its time waiting and fetched most records twice. Here each partition has a queue of its own, apart from the one for events,
//! and a paused partition's is just not read: fetching ahead stops by itself at [`ConsumerSettings::fetch_ahead_kbytes`], polling
//! the events goes on, and a partition that comes back is never paused by an earlier life. The queues are split off *before* the
//! assignment, which then leaves them alone (`RD_KAFKA_Q_F_FWD_APP` in `rd_kafka_toppar_op_fetch_start`).
//!
//! # A commit is what the broker answered
//!
//! librdkafka's asynchronous commit passes no reply queue (`rd_kafka_commit` in `rdkafka_offset.c`), and rust-rdkafka registers no
//! `offset_commit_cb`: `ConsumerContext::commit_callback` is never called for it, and a refusal shows in the log alone. The
//! synchronous one returns the broker's answer, an error if any of its partitions failed, and blocks. So commits run on a thread
//! of their own, one after the other, and their answers come back as [`Event::Committed`].
//!
//! # Closing
//!
//! The exception is the drop, during which the caller no longer polls: from then on the callback unassigns by itself.
//!
//! See `docs/decisions/paused-partitions.md` and `docs/decisions/commits.md`.

use std::cell::Cell;
use std::sync::atomic::Ordering;
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer, RebalanceProtocol};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Offset, TopicPartitionList};

use crate::commits::{Commit, Committed, list_at, list_of, read_commits};
use crate::membership::{Event, GroupContext};
use crate::position::Position;
use crate::{ClientError, KafkaSettings, Trouble};

/// Records read before events are polled, and before the next partition is read.
const BURST: usize = 64;

/// The settings of a group member.
#[derive(Debug, Clone)]
pub struct ConsumerSettings {
    /// The group (`KAFKA_GROUP`).
    pub group: String,
    /// The time without a heartbeat after which the coordinator reassigns the member's partitions.
    pub session_timeout: Duration,
    /// The time without a poll after which the member leaves the group. Also the broker's limit for a rebalance.
    pub max_poll_interval: Duration,
    /// The broker answers a fetch once it has this many bytes (`KAFKA_FETCH_MIN_BYTES`), or after [`Self::fetch_wait`]: an
    /// answer with few records costs it more than the records do.
    pub fetch_min_bytes: usize,
    /// How long the broker waits for so many bytes (`KAFKA_FETCH_WAIT_MS`): how much later a record may come under little load.
    pub fetch_wait: Duration,
    /// How much librdkafka fetches ahead, in kibibytes, for each partition.
    pub fetch_ahead_kbytes: usize,
    /// The interval of [`Event::Statistics`].
    pub statistics_interval: Duration,
}

impl Default for ConsumerSettings {
    fn default() -> Self {
        Self {
            group: "chat-persist-worker".into(),
            session_timeout: Duration::from_secs(45),
            max_poll_interval: Duration::from_secs(300),
            fetch_min_bytes: 65_536,
            fetch_wait: Duration::from_millis(100),
            fetch_ahead_kbytes: 2048,
            statistics_interval: Duration::from_secs(5),
        }
    }
}

/// The result of a poll.
#[derive(Debug)]
pub enum Polled<'a> {
    /// The next record.
    Record(BorrowedMessage<'a>),
    /// A rebalance, a commit's result, statistics or an error.
    Event(Event),
    /// There is nothing to return now.
    Idle,
}

/// A member of a group that reads one topic.
pub struct GroupConsumer {
    consumer: Arc<BaseConsumer<GroupContext>>,
    topic: String,
    wake: Arc<dyn Fn() + Send + Sync>,
    queues: Vec<Queue>,
    /// The partition queue that is read now.
    at: Cell<usize>,
    /// Records read since events were polled.
    burst: Cell<usize>,
    commits: Option<mpsc::Sender<Vec<Commit>>>,
    committer: Option<JoinHandle<()>>,
}

/// One partition's records.
struct Queue {
    partition: i32,
    records: PartitionQueue<GroupContext>,
    paused: bool,
    position: Position,
}

impl std::fmt::Debug for GroupConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupConsumer").field("topic", &self.topic).finish_non_exhaustive()
    }
}

impl GroupConsumer {
    /// Subscribes to the main topic. `wake` is called from librdkafka's threads whenever [`Self::poll`] has something again
    /// after it was [`Polled::Idle`]; it must not block.
    pub fn subscribe(
        settings: &KafkaSettings,
        group: &ConsumerSettings,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Result<Self, ClientError> {
        let tuning = [
            ("partition.assignment.strategy", "cooperative-sticky".to_owned()),
            ("session.timeout.ms", group.session_timeout.as_millis().to_string()),
            ("heartbeat.interval.ms", (group.session_timeout.as_millis() / 10).clamp(100, 3000).to_string()),
            ("max.poll.interval.ms", group.max_poll_interval.as_millis().to_string()),
            ("queued.max.messages.kbytes", group.fetch_ahead_kbytes.to_string()),
            // How soon a partition is fetched again once its queue has room.
            ("fetch.queue.backoff.ms", "20".to_owned()),
            ("statistics.interval.ms", group.statistics_interval.as_millis().to_string()),
            ("topic.metadata.refresh.interval.ms", "30000".to_owned()),
            ("fetch.min.bytes", group.fetch_min_bytes.to_string()),
            ("fetch.wait.max.ms", group.fetch_wait.as_millis().to_string()),
            ("fetch.error.backoff.ms", "200".to_owned()),
        ];
        let context = GroupContext::new(settings.topic.clone());
        let doing = "building the kafka consumer";
        let mut consumer: BaseConsumer<GroupContext> = settings
            .consumer(Some(&group.group), &tuning)
            .create_with_context(context)
            .map_err(ClientError::new(doing))?;
        let wake: Arc<dyn Fn() + Send + Sync> = Arc::new(wake);
        let nonempty = Arc::clone(&wake);
        consumer.set_nonempty_callback(move || nonempty());
        let consumer = Arc::new(consumer);
        let (commits, to_commit) = mpsc::channel();
        let committer = {
            let (consumer, topic, wake) = (Arc::clone(&consumer), settings.topic.clone(), Arc::clone(&wake));
            std::thread::Builder::new()
                .name("kafka-commit".into())
                .spawn(move || commit_each(&consumer, &topic, &to_commit, &*wake))
                .map_err(|error| ClientError { doing, reason: error.to_string() })?
        };
        consumer.subscribe(&[&settings.topic]).map_err(ClientError::new(doing))?;
        Ok(Self {
            consumer,
            topic: settings.topic.clone(),
            wake,
            queues: Vec::new(),
            at: Cell::new(0),
            burst: Cell::new(0),
            commits: Some(commits),
            committer: Some(committer),
        })
    }

    /// Returns the next record or event, without waiting. The caller must poll at least every [`ConsumerSettings::max_poll_interval`].
    pub fn poll(&self) -> Polled<'_> {
        if self.burst.get() < BURST
            && let Some(polled) = self.next_record()
        {
            self.burst.set(self.burst.get() + 1);
            return polled;
        }
        self.burst.set(0);
        self.at.set(self.at.get() + 1);
        let context = self.consumer.context();
        loop {
            if let Some(event) = context.events().pop_front() {
                return Polled::Event(event);
            }
            let served = context.served.load(Ordering::Relaxed);
            match self.consumer.poll(Duration::ZERO) {
                Some(Ok(record)) => return Polled::Record(record),
                Some(Err(error)) => return Polled::Event(self.classify(&error, None)),
                None if context.served.load(Ordering::Relaxed) != served => {}
                None => return self.next_record().unwrap_or(Polled::Idle),
            }
        }
    }

    /// The next record of a partition that is not paused. A partition is read until it has no more, so that the records of one chat come
    /// together; [`BURST`] limits how long the others wait.
    fn next_record(&self) -> Option<Polled<'_>> {
        for _ in 0..self.queues.len() {
            let at = self.at.get() % self.queues.len();
            let queue = &self.queues[at];
            if !queue.paused {
                match queue.records.poll(Duration::ZERO) {
                    Some(Ok(record)) => return Some(Polled::Record(record)),
                    Some(Err(error)) => return Some(Polled::Event(self.classify(&error, Some(queue.partition)))),
                    None => {}
                }
            }
            self.at.set(at + 1);
        }
        None
    }

    /// Errors are logged by the callbacks; what is left is what the caller must know.
    fn classify(&self, error: &KafkaError, partition: Option<i32>) -> Event {
        if let Some((code, reason)) = self.consumer.client().fatal_error() {
            return Event::Fatal(format!("{code}: {reason}"));
        }
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::PollExceeded) => Event::PollIntervalExceeded,
            code => Event::Trouble { kind: code.map_or(Trouble::Other, Trouble::of), partition },
        }
    }

    fn list(&self, partitions: &[i32]) -> TopicPartitionList {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for partition in partitions {
            list.add_partition(&self.topic, *partition);
        }
        list
    }

    /// Answers [`Event::Assigned`]: fetching starts at each partition's offset, or at the beginning where there is none. None of
    /// them is paused.
    pub fn assign(&mut self, from: &[(i32, Option<i64>)]) -> Result<(), ClientError> {
        *self.consumer.context().unanswered() = None;
        for (partition, _) in from {
            self.queues.retain(|queue| queue.partition != *partition);
            let split = self.consumer.split_partition_queue(&self.topic, *partition);
            let Some(mut records) = split else { continue };
            let wake = Arc::clone(&self.wake);
            records.set_nonempty_callback(move || wake());
            self.queues.push(Queue { partition: *partition, records, paused: false, position: Position::Old(None) });
        }
        let start = |offset: Option<i64>| offset.map_or(Offset::Beginning, Offset::Offset);
        list_at(&self.topic, from.iter().map(|(partition, offset)| (*partition, start(*offset))))
            .and_then(|list| match self.consumer.rebalance_protocol() {
                RebalanceProtocol::Cooperative => self.consumer.incremental_assign(&list),
                _ => self.consumer.assign(&list),
            })
            .map_err(ClientError::new("assigning partitions"))?;
        // Nothing of this assignment has been polled: whatever position there is belongs to the one before.
        for (partition, offset) in self.librdkafkas_positions() {
            let queue = self.queues.iter_mut().find(|queue| queue.partition == partition);
            if let Some(queue) = queue.filter(|queue| from.iter().any(|(new, _)| *new == queue.partition)) {
                queue.position = match offset {
                    Offset::Offset(offset) => Position::Old(Some(offset)),
                    _ => Position::Current,
                };
            }
        }
        Ok(())
    }

    fn librdkafkas_positions(&self) -> Vec<(i32, Offset)> {
        let positions = self.consumer.position();
        let elements = positions.iter().flat_map(TopicPartitionList::elements);
        elements.map(|element| (element.partition(), element.offset())).collect()
    }

    /// How far polling has come in each partition that something was polled of since it was assigned: one past the last record, or past
    /// what is no record behind it (a transaction's marker, the records of an aborted one). Must be called on the thread that polls.
    pub fn positions(&mut self) -> Vec<(i32, i64)> {
        let found = self.librdkafkas_positions();
        let queues = &mut self.queues;
        let known = |(partition, offset): (i32, Offset)| {
            let queue = queues.iter_mut().find(|queue| queue.partition == partition)?;
            Some((partition, queue.position.look(offset)?))
        };
        found.into_iter().filter_map(known).collect()
    }

    /// Answers [`Event::Revoked`]: gives the partitions up, and drops what was fetched ahead.
    pub fn unassign(&mut self, partitions: &[i32]) -> Result<(), ClientError> {
        *self.consumer.context().unanswered() = None;
        self.queues.retain(|queue| !partitions.contains(&queue.partition));
        match self.consumer.rebalance_protocol() {
            RebalanceProtocol::Cooperative => self.consumer.incremental_unassign(&self.list(partitions)),
            _ => self.consumer.unassign(),
        }
        .map_err(ClientError::new("giving up partitions"))
    }

    /// Whether the assignment was lost involuntarily: other members may have it already.
    pub fn assignment_lost(&self) -> bool {
        self.consumer.assignment_lost()
    }

    /// The offsets that the group has committed. Blocks up to `timeout`.
    pub fn committed(&self, partitions: &[i32], timeout: Duration) -> Result<Vec<Committed>, ClientError> {
        self.consumer
            .committed_offsets(self.list(partitions), timeout)
            .and_then(|list| read_commits(&list))
            .map_err(ClientError::new("reading the committed offsets"))
    }

    /// Sends a commit. [`Event::Committed`] reports the broker's answer later.
    pub fn commit(&self, offsets: Vec<Commit>) {
        if let Some(commits) = &self.commits {
            // Fails only if the thread is gone; then no answer comes, as from a broker that is.
            let _ = commits.send(offsets);
        }
    }

    /// Stops reading these partitions; they stay assigned as long as polling goes on.
    pub fn pause(&mut self, partitions: &[i32]) {
        self.set_paused(partitions, true);
    }

    /// Continues to read these partitions where it stopped.
    pub fn resume(&mut self, partitions: &[i32]) {
        self.set_paused(partitions, false);
    }

    fn set_paused(&mut self, partitions: &[i32], paused: bool) {
        for queue in self.queues.iter_mut().filter(|queue| partitions.contains(&queue.partition)) {
            queue.paused = paused;
        }
    }

    /// Whether the brokers let us see the topic. Blocks up to `timeout`; without an answer it is not known.
    pub fn sees_topic(&self, timeout: Duration) -> Result<bool, ClientError> {
        let metadata = self.consumer.fetch_metadata(Some(&self.topic), timeout);
        let metadata = metadata.map_err(ClientError::new("asking for the topic"))?;
        Ok(metadata.topics().iter().any(|topic| topic.error().is_none()))
    }

    /// The offsets of the partition's first record and of its next one. Blocks up to `timeout`.
    pub fn watermarks(&self, partition: i32, timeout: Duration) -> Result<(i64, i64), ClientError> {
        self.consumer
            .fetch_watermarks(&self.topic, partition, timeout)
            .map_err(ClientError::new("asking for the watermarks"))
    }
}

fn commit_each(
    consumer: &BaseConsumer<GroupContext>,
    topic: &str,
    to_commit: &mpsc::Receiver<Vec<Commit>>,
    wake: &dyn Fn(),
) {
    for commits in to_commit {
        let result = list_of(topic, &commits)
            .and_then(|list| consumer.commit(&list, CommitMode::Sync))
            .map_err(|error| error.to_string());
        let offsets = commits.iter().map(|commit| (commit.partition, commit.offset)).collect();
        consumer.context().push(Event::Committed { offsets, result });
        wake();
    }
}

/// Leaves the group. Blocks until the broker has answered, which librdkafka does not bound: drop it on a thread that the process
/// need not wait for. Nothing more is committed.
impl Drop for GroupConsumer {
    fn drop(&mut self) {
        drop(self.commits.take());
        if let Some(committer) = self.committer.take() {
            let _ = committer.join();
        }
        let context = self.consumer.context();
        context.closing.store(true, Ordering::Release);
        // librdkafka would wait for ever for the answer to a rebalance.
        let unanswered = context.unanswered().take();
        let answered = match unanswered {
            Some((true, partitions)) => {
                self.assign(&partitions.into_iter().map(|partition| (partition, None)).collect::<Vec<_>>())
            }
            Some((false, partitions)) => self.unassign(&partitions),
            None => Ok(()),
        };
        // Each keeps the client alive.
        self.queues.clear();
        if let Err(error) = answered {
            tracing::warn!(%error, "answering a rebalance while closing");
        }
    }
}
