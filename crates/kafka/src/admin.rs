//! Topic administration: creates missing topics, reads their settings and judges them; also watermarks, committed offsets and deletion, for
//! lag and cleanup.
//!
//! See `docs/decisions/kafka-retention.md`.

mod brokers;
mod dead_letters;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, ConfigResource, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::{Offset, TopicPartitionList};
use tokio::time::Instant;

pub use brokers::BrokerReport;

use crate::commits::{Committed, read_commits};
use crate::context::Callbacks;
use crate::settings::{BATCH_BYTES, DLQ_HEADROOM};
use crate::{ClientError, KafkaSettings};

/// Seven days: longer than any outage to be survived.
pub const RETENTION: Duration = Duration::from_secs(7 * 24 * 3600);
/// The broker's own default for `message.max.bytes`, for brokers that don't report theirs.
const BROKER_MAX_BYTES: usize = 1_048_588;
/// The pause between two requests for a topic that was just created.
const SPREAD_POLL: Duration = Duration::from_millis(100);

/// Why the topics could not be created or read.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AdminError {
    /// No answer, or an error that may pass: try again.
    #[error(transparent)]
    Unavailable(#[from] ClientError),
    /// The broker refuses the request; an operator has to change something.
    #[error("{doing}: {reason}")]
    Refused {
        /// What was being done.
        doing: String,
        /// The broker's reason.
        reason: String,
    },
}

/// The settings that a topic's durability rests on, as the broker reports them. `None`: the broker does not report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TopicReport {
    /// The topic's name.
    pub name: String,
    /// Its number of partitions; 0: it is missing.
    pub partitions: usize,
    /// The replicas of the partition that has fewest.
    pub replication_factor: usize,
    /// How many replicas must have a record before it is acknowledged.
    pub min_insync_replicas: Option<usize>,
    /// `retention.ms`: milliseconds after which records are deleted; negative: never.
    pub retention_ms: Option<i64>,
    /// `retention.bytes`: the size in bytes above which a partition's oldest records are deleted; negative: no limit.
    pub retention_bytes: Option<i64>,
    /// The largest batch of records it takes, in bytes.
    pub max_message_bytes: Option<usize>,
    /// `delete`, `compact` or both.
    pub cleanup_policy: Option<String>,
    /// Whether a replica that misses records may become leader.
    pub unclean_leader_election: Option<bool>,
    /// Whose clock stamps records: `LogAppendTime` (the broker's) or `CreateTime` (the producer's).
    pub timestamp_type: Option<String>,
}

/// Both topics, and what is wrong with them.
#[derive(Debug, Clone)]
pub struct TopicsReport {
    /// The messages' topic.
    pub main: TopicReport,
    /// The dead letters' topic.
    pub dlq: TopicReport,
    /// What weakens the promise, one sentence each.
    pub warnings: Vec<String>,
}

/// Asks and changes the cluster. Blocking calls run on tokio's blocking threads. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    settings: KafkaSettings,
    client: Arc<AdminClient<Callbacks>>,
    timeout: Duration,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Admin {
    /// `timeout` bounds each request. Kafka need not be there yet.
    pub fn new(settings: &KafkaSettings, timeout: Duration) -> Result<Self, ClientError> {
        let client = settings
            .admin()
            .create_with_context(Callbacks::new("admin"))
            .map_err(ClientError::new("building the kafka admin client"))?;
        Ok(Self { settings: settings.clone(), client: Arc::new(client), timeout })
    }

    fn options(&self) -> AdminOptions {
        AdminOptions::new().request_timeout(Some(self.timeout)).operation_timeout(Some(self.timeout))
    }

    /// Creates the two topics where they are missing, and reports both. An existing topic stays as it is, except
    /// that a dead-letter topic with limited retention is set to unlimited.
    ///
    /// A broker acknowledges a new topic before every broker has heard of it. This returns once the topic and its settings can be
    /// read, so a report of a topic that was just created is never that of a missing one.
    pub async fn ensure_topics(&self) -> Result<TopicsReport, AdminError> {
        let main = self.ensure(&self.settings.topic, None).await?;
        let largest = main.max_message_bytes.unwrap_or(BROKER_MAX_BYTES) + DLQ_HEADROOM;
        let mut dlq = self.ensure(&self.settings.dlq_topic, Some(largest)).await?;
        if dlq.deletes_records() {
            self.keep_dead_letters().await?;
            dlq = self.describe(&self.settings.dlq_topic).await?;
        }
        Ok(TopicsReport::new(main, dlq))
    }

    async fn ensure(&self, name: &str, largest: Option<usize>) -> Result<TopicReport, AdminError> {
        let found = self.describe(name).await?;
        if found.partitions > 0 {
            return Ok(found);
        }
        self.create(name, largest).await?;
        known(self.timeout, || self.describe(name)).await
    }

    /// `largest`: the largest record of the dead-letter topic, in bytes; `None` makes the main topic.
    async fn create(&self, name: &str, largest: Option<usize>) -> Result<(), AdminError> {
        let retention = if largest.is_some() { "-1".to_owned() } else { RETENTION.as_millis().to_string() };
        let largest = largest.map(|bytes| bytes.to_string());
        let replication = TopicReplication::Fixed(self.settings.replication_factor);
        let mut topic = NewTopic::new(name, self.settings.partitions, replication)
            .set("retention.ms", &retention)
            // Whatever the broker's default is.
            .set("retention.bytes", "-1")
            // Retention compares with the stamp: a producer's wrong clock must not shorten it.
            .set("message.timestamp.type", "LogAppendTime")
            .set("cleanup.policy", "delete");
        if self.settings.replication_factor >= 3 {
            topic = topic.set("min.insync.replicas", "2");
        }
        if let Some(largest) = &largest {
            topic = topic.set("max.message.bytes", largest);
        }
        let doing = "creating a topic";
        let created = self.client.create_topics([&topic], &self.options()).await.map_err(ClientError::new(doing))?;
        match created.into_iter().next() {
            Some(Ok(_)) => {
                tracing::info!(topic = name, partitions = self.settings.partitions, "created the topic");
                Ok(())
            }
            // Another process of ours was faster.
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Ok(()),
            Some(Err((_, code))) if is_lasting(code) => {
                Err(AdminError::Refused { doing: format!("creating topic {name}"), reason: code.to_string() })
            }
            Some(Err((_, code))) => Err(ClientError { doing, reason: code.to_string() }.into()),
            None => Err(ClientError { doing, reason: "the broker said nothing of it".into() }.into()),
        }
    }

    /// Reads a topic's settings from the broker. A missing topic has no partitions.
    pub async fn describe(&self, name: &str) -> Result<TopicReport, AdminError> {
        // Of all topics: asking for one by name could create it.
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let metadata = blocking("listing the topics", move || client.inner().fetch_metadata(None, timeout)).await?;
        let mut report = TopicReport { name: name.to_owned(), ..TopicReport::default() };
        let Some(topic) = metadata.topics().iter().find(|topic| topic.name() == name) else { return Ok(report) };
        report.partitions = topic.partitions().len();
        report.replication_factor =
            topic.partitions().iter().map(|partition| partition.replicas().len()).min().unwrap_or_default();
        let until = Instant::now() + self.timeout;
        loop {
            let described = self.client.describe_configs([&ResourceSpecifier::Topic(name)], &self.options()).await;
            let described = described.map_err(ClientError::new("reading a topic's settings"))?;
            match described.into_iter().next() {
                Some(Ok(resource)) => report.configure(&resource),
                // A broker may report a new topic's settings later than its partitions. No answer is not the answer "no settings".
                Some(Err(code @ RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                    if Instant::now() >= until {
                        return Err(
                            ClientError { doing: "reading a topic's settings", reason: code.to_string() }.into()
                        );
                    }
                    tokio::time::sleep(SPREAD_POLL).await;
                    continue;
                }
                Some(Err(code)) => {
                    tracing::debug!(topic = name, %code, "the broker does not report the topic's settings");
                }
                None => {}
            }
            break;
        }
        Ok(report)
    }

    /// Reads both topics and says what weakens the promise.
    pub async fn check_topics(&self) -> Result<TopicsReport, AdminError> {
        let main = self.describe(&self.settings.topic).await?;
        let dlq = self.describe(&self.settings.dlq_topic).await?;
        Ok(TopicsReport::new(main, dlq))
    }

    /// For each partition, its number, the offset of its first record, and the end of what can be read: the offset of the next record or,
    /// while a transaction is open, of the transaction's first record (the last stable offset).
    pub async fn watermarks(&self, topic: &str) -> Result<Vec<(i32, i64, i64)>, AdminError> {
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("asking for watermarks", move || {
            let client = client.inner();
            let metadata = client.fetch_metadata(Some(&topic), timeout)?;
            let partitions = metadata.topics().iter().find(|found| found.name() == topic);
            partitions
                .map_or(&[][..], |found| found.partitions())
                .iter()
                .map(|partition| {
                    let (low, high) = client.fetch_watermarks(&topic, partition.id(), timeout)?;
                    Ok((partition.id(), low, high))
                })
                .collect()
        })
        .await
    }

    /// The place of the next record of each partition (the high watermark), open transactions or not.
    pub async fn ends(&self, topic: &str) -> Result<Vec<(i32, i64)>, AdminError> {
        let mut config = self.settings.consumer(None, &[]);
        // It reads nothing. A question for the end is answered with the last stable offset otherwise.
        config.set("isolation.level", "read_uncommitted");
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("asking for the ends of a topic", move || {
            let partitions = partitions_of(&client, &topic, Offset::End, timeout)?;
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            let partitions = partitions.elements().into_iter().map(|element| element.partition());
            partitions
                .map(|partition| Ok((partition, consumer.fetch_watermarks(&topic, partition, timeout)?.1)))
                .collect()
        })
        .await
    }

    /// What `group` has committed in each partition of `topic`, read from the broker. `None`: nothing.
    pub async fn committed(&self, group: &str, topic: &str) -> Result<Vec<(i32, Option<i64>)>, AdminError> {
        let commits = self.commits(group, topic).await?;
        Ok(commits.into_iter().map(|commit| (commit.partition, commit.offset)).collect())
    }

    /// The same, with what was lost below.
    pub async fn commits(&self, group: &str, topic: &str) -> Result<Vec<Committed>, AdminError> {
        let config = self.settings.consumer(Some(group), &[]);
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("reading a group's offsets", move || {
            let asked = partitions_of(&client, &topic, Offset::Invalid, timeout)?;
            // Never subscribes, so it does not join the group.
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            read_commits(&consumer.committed_offsets(asked, timeout)?)
        })
        .await
    }

    /// The first offset of each partition whose record was stamped at `timestamp` (epoch ms) or later. `None`: there is none.
    pub async fn offsets_at(&self, topic: &str, timestamp: i64) -> Result<Vec<(i32, Option<i64>)>, AdminError> {
        let config = self.settings.consumer(None, &[]);
        let (client, timeout, topic) = (Arc::clone(&self.client), self.timeout, topic.to_owned());
        blocking("looking up offsets by time", move || {
            let asked = partitions_of(&client, &topic, Offset::Offset(timestamp), timeout)?;
            let consumer: BaseConsumer<Callbacks> = config.create_with_context(Callbacks::new("offset reader"))?;
            offsets(&consumer.offsets_for_times(asked, timeout)?)
        })
        .await
    }

    /// Deletes every record below the given offset of each partition. Returns the new low watermarks.
    pub async fn delete_records(&self, topic: &str, below: &[(i32, i64)]) -> Result<Vec<(i32, i64)>, AdminError> {
        let doing = "deleting records";
        let mut list = TopicPartitionList::new();
        for (partition, offset) in below {
            list.add_partition_offset(topic, *partition, Offset::Offset(*offset)).map_err(ClientError::new(doing))?;
        }
        let deleted = self.client.delete_records(&list, &self.options()).await.map_err(ClientError::new(doing))?;
        let low = offsets(&deleted).map_err(ClientError::new(doing))?;
        Ok(low.into_iter().filter_map(|(partition, offset)| Some((partition, offset?))).collect())
    }
}

impl TopicsReport {
    fn new(main: TopicReport, dlq: TopicReport) -> Self {
        let warnings = judge(&main, &dlq);
        Self { main, dlq, warnings }
    }
}

/// Describes a topic that was just created until the broker that answers has heard of it.
async fn known<F: Future<Output = Result<TopicReport, AdminError>>>(
    limit: Duration,
    mut describe: impl FnMut() -> F,
) -> Result<TopicReport, AdminError> {
    let until = Instant::now() + limit;
    loop {
        let report = describe().await?;
        if report.partitions > 0 {
            return Ok(report);
        }
        if Instant::now() >= until {
            let reason = format!("{} was created, and the broker does not know it after {limit:?}", report.name);
            return Err(ClientError { doing: "waiting for a new topic", reason }.into());
        }
        tokio::time::sleep(SPREAD_POLL).await;
    }
}

impl TopicReport {
    /// Whether records are deleted by age or by size.
    pub fn deletes_records(&self) -> bool {
        self.retention_ms.is_some_and(|ms| ms >= 0) || self.retention_bytes.is_some_and(|bytes| bytes >= 0)
    }

    fn configure(&mut self, resource: &ConfigResource) {
        self.min_insync_replicas = setting(resource, "min.insync.replicas");
        self.retention_ms = setting(resource, "retention.ms");
        self.retention_bytes = setting(resource, "retention.bytes");
        self.max_message_bytes = setting(resource, "max.message.bytes");
        self.cleanup_policy = setting(resource, "cleanup.policy");
        self.unclean_leader_election = setting(resource, "unclean.leader.election.enable");
        self.timestamp_type = setting(resource, "message.timestamp.type");
    }
}

fn setting<T: std::str::FromStr>(resource: &ConfigResource, name: &str) -> Option<T> {
    resource.get(name)?.value.as_ref()?.parse().ok()
}

/// What weakens the promise, in sentences for the log and for `doctor`.
fn judge(main: &TopicReport, dlq: &TopicReport) -> Vec<String> {
    let mut warnings = Vec::new();
    for topic in [main, dlq] {
        let name = &topic.name;
        if topic.partitions == 0 {
            warnings.push(format!("topic {name} is missing"));
            continue;
        }
        if topic.replication_factor < 3 {
            let replicas = topic.replication_factor;
            warnings
                .push(format!("topic {name} has {replicas} replica(s): losing their disks loses messages (want 3)"));
        }
        if topic.min_insync_replicas.is_some_and(|replicas| replicas < 2) {
            warnings.push(format!("topic {name} has min.insync.replicas below 2: one disk acknowledges alone"));
        }
        if topic.unclean_leader_election == Some(true) {
            warnings.push(format!("topic {name} allows unclean leader election: acknowledged messages may vanish"));
        }
        if topic.cleanup_policy.as_deref().is_some_and(|policy| policy.contains("compact")) {
            warnings.push(format!("topic {name} is compacted: Kafka deletes all but the newest message of each chat"));
        }
        if topic.timestamp_type.as_deref().is_some_and(|kind| kind != "LogAppendTime") {
            warnings.push(format!(
                "topic {name} has no message.timestamp.type=LogAppendTime: a producer's wrong clock changes when records are deleted"
            ));
        }
    }
    if main.retention_ms.is_some_and(|ms| (0..RETENTION.as_millis() as i64).contains(&ms)) {
        let name = &main.name;
        warnings.push(format!("topic {name} keeps records for less than 7 days: a longer outage loses messages"));
    }
    if main.retention_bytes.is_some_and(|bytes| bytes >= 0) {
        let name = &main.name;
        warnings.push(format!("topic {name} is bounded in bytes: a backlog larger than that loses messages"));
    }
    if dlq.deletes_records() {
        let name = &dlq.name;
        warnings.push(format!(
            "topic {name} deletes dead letters before anybody has dealt with them: it wants retention.ms=-1 and retention.bytes=-1"
        ));
    }
    if main.max_message_bytes.is_some_and(|bytes| bytes < BATCH_BYTES) {
        warnings
            .push(format!("topic {} takes less than a batch of {BATCH_BYTES} bytes: publishes will fail", main.name));
    }
    if let (Some(main), Some(dlq_bytes)) = (main.max_message_bytes, dlq.max_message_bytes)
        && dlq_bytes < main + DLQ_HEADROOM
    {
        let name = &dlq.name;
        warnings.push(format!(
            "topic {name} takes less than {DLQ_HEADROOM} bytes above the main topic's: a dead letter may not fit"
        ));
    }
    warnings
}

/// Refusals that asking again won't change. Too few brokers for the replicas is none: a cluster starts broker by broker.
fn is_lasting(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as Code;
    matches!(
        code,
        Code::TopicAuthorizationFailed
            | Code::ClusterAuthorizationFailed
            | Code::PolicyViolation
            | Code::InvalidPartitions
            | Code::InvalidConfig
            | Code::InvalidTopic
            | Code::UnsupportedVersion
    )
}

fn partitions_of(
    client: &AdminClient<Callbacks>,
    topic: &str,
    offset: Offset,
    timeout: Duration,
) -> KafkaResult<TopicPartitionList> {
    let metadata = client.inner().fetch_metadata(Some(topic), timeout)?;
    let mut list = TopicPartitionList::new();
    for found in metadata.topics().iter().filter(|found| found.name() == topic) {
        for partition in found.partitions() {
            list.add_partition_offset(topic, partition.id(), offset)?;
        }
    }
    Ok(list)
}

fn offsets(list: &TopicPartitionList) -> KafkaResult<Vec<(i32, Option<i64>)>> {
    list.elements()
        .into_iter()
        .map(|element| {
            element.error()?;
            let offset = match element.offset() {
                Offset::Offset(offset) => Some(offset),
                _ => None,
            };
            Ok((element.partition(), offset))
        })
        .collect()
}

async fn blocking<T: Send + 'static>(
    doing: &'static str,
    call: impl FnOnce() -> KafkaResult<T> + Send + 'static,
) -> Result<T, AdminError> {
    match tokio::task::spawn_blocking(call).await {
        Ok(result) => Ok(result.map_err(ClientError::new(doing))?),
        Err(panic) => Err(ClientError { doing, reason: panic.to_string() }.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound(name: &str, max_message_bytes: usize) -> TopicReport {
        TopicReport {
            name: name.into(),
            partitions: 8,
            replication_factor: 3,
            min_insync_replicas: Some(2),
            retention_ms: Some(604_800_000),
            retention_bytes: Some(-1),
            max_message_bytes: Some(max_message_bytes),
            cleanup_policy: Some("delete".into()),
            unclean_leader_election: Some(false),
            timestamp_type: Some("LogAppendTime".into()),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_topic_is_waited_for_until_the_broker_that_answers_has_heard_of_it() {
        let mut asked = 0;
        let report = known(Duration::from_secs(10), || {
            asked += 1;
            let missing = || TopicReport { name: "a".into(), ..TopicReport::default() };
            std::future::ready(Ok(if asked < 30 { missing() } else { sound("a", 1) }))
        });
        assert_eq!(report.await.unwrap(), sound("a", 1));
        let never = || std::future::ready(Ok(TopicReport { name: "a".into(), ..TopicReport::default() }));
        let error = known(Duration::from_secs(10), never).await.unwrap_err();
        assert!(matches!(error, AdminError::Unavailable(_)), "{error}: to be tried again, never a report of nothing");
    }

    /// A dead-letter topic that takes what `sound` topics of 1,000,000 bytes may hold.
    fn dead() -> TopicReport {
        TopicReport { retention_ms: Some(-1), ..sound("b", 1_065_536) }
    }

    #[test]
    fn sound_topics_draw_no_warning() {
        assert_eq!(judge(&sound("a", 1_000_000), &dead()), Vec::<String>::new());
    }

    #[test]
    fn a_dead_letter_topic_that_deletes_anything_is_named_whether_by_age_or_by_size() {
        for weak in [
            TopicReport { retention_ms: Some(604_800_000), ..dead() },
            // A hundred years end, too.
            TopicReport { retention_ms: Some(3_153_600_000_000), ..dead() },
            TopicReport { retention_bytes: Some(1 << 40), ..dead() },
        ] {
            let warnings = judge(&sound("a", 1_000_000), &weak);
            assert!(warnings.len() == 1 && warnings[0].contains("deletes dead letters"), "{warnings:?}");
        }
    }

    #[test]
    fn each_weakness_is_named() {
        let weak = TopicReport {
            replication_factor: 1,
            min_insync_replicas: Some(1),
            retention_ms: Some(1000),
            retention_bytes: Some(10),
            cleanup_policy: Some("compact,delete".into()),
            unclean_leader_election: Some(true),
            timestamp_type: Some("CreateTime".into()),
            ..sound("a", 1_000_000)
        };
        assert_eq!(judge(&weak, &dead()).len(), 7);
        assert_eq!(
            judge(&sound("a", 1_000_000), &TopicReport { timestamp_type: weak.timestamp_type, ..dead() }).len(),
            1
        );
        assert_eq!(
            judge(&sound("a", 1_000_000), &TopicReport { max_message_bytes: Some(1_000_000), ..dead() }).len(),
            1
        );
        assert_eq!(judge(&sound("a", 1_000_000), &TopicReport { name: "b".into(), ..TopicReport::default() }).len(), 1);
    }
}
