//! The settings of both topics, and what in them weakens the delivery promise.

use rdkafka::admin::ConfigResource;

use super::RETENTION;
use crate::settings::{BATCH_BYTES, DLQ_HEADROOM};

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

impl TopicsReport {
    pub(super) fn new(main: TopicReport, dlq: TopicReport) -> Self {
        let warnings = judge(&main, &dlq);
        Self { main, dlq, warnings }
    }
}

impl TopicReport {
    /// Whether records are deleted by age or by size.
    pub fn deletes_records(&self) -> bool {
        self.retention_ms.is_some_and(|ms| ms >= 0) || self.retention_bytes.is_some_and(|bytes| bytes >= 0)
    }

    pub(super) fn configure(&mut self, resource: &ConfigResource) {
        self.min_insync_replicas = setting(resource, "min.insync.replicas");
        self.retention_ms = setting(resource, "retention.ms");
        self.retention_bytes = setting(resource, "retention.bytes");
        self.max_message_bytes = setting(resource, "max.message.bytes");
        self.cleanup_policy = setting(resource, "cleanup.policy");
        self.unclean_leader_election = setting(resource, "unclean.leader.election.enable");
        self.timestamp_type = setting(resource, "message.timestamp.type");
    }
}

pub(super) fn setting<T: std::str::FromStr>(resource: &ConfigResource, name: &str) -> Option<T> {
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
