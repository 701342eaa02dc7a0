//! Whether Kafka still authorizes this worker to read the topic and to use its consumer group. Takes the consumer's authorization errors;
//! readiness depends on the result.
//!
//! librdkafka reports an authorization error once and then retries silently, so its end has to be observed in other ways. The statistics
//! contain a high watermark for each partition that may be fetched, and none for a partition whose fetches the broker denies. For the topic
//! as a whole the worker requests metadata. An assignment of partitions or an accepted commit shows that the group is authorized.

use std::collections::BTreeMap;

use holdfast_kafka::Trouble;

/// The authorization errors that have not ended yet.
#[derive(Debug, Default)]
pub struct Authorization {
    group: bool,
    topic: bool,
    /// Partitions whose fetches were denied at least once, and whether they are denied now.
    partitions: BTreeMap<i32, bool>,
}

impl Authorization {
    /// Records an error that the consumer reported; errors of other kinds are ignored.
    pub fn denied(&mut self, kind: Trouble, partition: Option<i32>) {
        match (kind, partition) {
            (Trouble::TopicAuthorization, Some(partition)) => {
                self.partitions.insert(partition, true);
            }
            (Trouble::TopicAuthorization, None) => self.topic = true,
            (Trouble::GroupAuthorization, _) => self.group = true,
            _ => {}
        }
    }

    /// Takes the high watermarks of the partitions that could be fetched, from the statistics.
    pub fn fetched(&mut self, high_watermarks: &[(i32, i64)]) {
        for (partition, refused) in &mut self.partitions {
            // These statistics may be older than the error; then the next ones correct this.
            *refused = high_watermarks.iter().all(|(fetched, _)| fetched != partition);
        }
    }

    /// The group coordinator has assigned partitions to this worker.
    pub fn assigned(&mut self, partitions: &[i32]) {
        self.group = false;
        // The partitions of a hidden topic are never assigned.
        self.topic &= partitions.is_empty();
    }

    /// The broker has accepted a commit.
    pub fn committed(&mut self) {
        self.group = false;
    }

    /// Discards what is known of a revoked partition.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Whether the broker hides the topic, so that its metadata has to be requested.
    pub fn is_topic_hidden(&self) -> bool {
        self.topic
    }

    /// A metadata request has found the topic.
    pub fn topic_is_seen(&mut self) {
        self.topic = false;
    }

    /// Whether the topic, the group or a partition is denied now.
    pub fn is_denied(&self) -> bool {
        self.group || self.topic || self.partitions.values().any(|refused| *refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_denied_until_the_statistics_contain_its_high_watermark_again() {
        let mut authorization = Authorization::default();
        authorization.denied(Trouble::Unreachable, Some(3));
        assert!(!authorization.is_denied(), "an outage is no authorization error");
        authorization.denied(Trouble::TopicAuthorization, Some(3));
        assert!(authorization.is_denied());
        authorization.fetched(&[(2, 10), (3, 10)]);
        assert!(!authorization.is_denied(), "these statistics are older than the error");
        authorization.fetched(&[(2, 10)]);
        assert!(authorization.is_denied(), "the next statistics correct that");
        authorization.fetched(&[(2, 10), (3, 12)]);
        assert!(!authorization.is_denied());
        authorization.fetched(&[]);
        authorization.forget(3);
        assert!(!authorization.is_denied(), "the partition was revoked");
    }

    #[test]
    fn a_topic_that_is_hidden_has_to_be_seen_and_a_group_has_to_take_us() {
        let mut authorization = Authorization::default();
        authorization.denied(Trouble::TopicAuthorization, None);
        authorization.assigned(&[]);
        authorization.committed();
        assert!(
            authorization.is_denied() && authorization.is_topic_hidden(),
            "an empty assignment is what follows from it"
        );
        authorization.topic_is_seen();
        assert!(!authorization.is_denied());
        authorization.denied(Trouble::TopicAuthorization, None);
        authorization.assigned(&[0]);
        assert!(!authorization.is_denied());

        for end in [Authorization::committed, |authorization: &mut Authorization| authorization.assigned(&[])] {
            authorization.denied(Trouble::GroupAuthorization, None);
            assert!(authorization.is_denied());
            end(&mut authorization);
            assert!(!authorization.is_denied());
        }
    }
}
