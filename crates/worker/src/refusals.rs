//! What Kafka refuses us: a lost right to the topic or to the group. Takes what the consumer complains of; gives readiness its answer.
//!
//! librdkafka complains once and then tries on in silence, so the end of a refusal has to be seen elsewhere. A partition that may not be
//! fetched has no end of its log in the statistics, as the broker tells none with its refusal; one that may be has. The topic as a whole is
//! asked for. A member that is given partitions has its group, and so has one whose commit is taken.

use std::collections::BTreeMap;

use holdfast_kafka::Trouble;

/// What is refused now.
#[derive(Debug, Default)]
pub struct Refusals {
    group: bool,
    topic: bool,
    /// Partitions that were refused once, and whether they are.
    partitions: BTreeMap<i32, bool>,
}

impl Refusals {
    /// The consumer complains.
    pub fn tell(&mut self, kind: Trouble, partition: Option<i32>) {
        match (kind, partition) {
            (Trouble::TopicAuthorization, Some(partition)) => {
                self.partitions.insert(partition, true);
            }
            (Trouble::TopicAuthorization, None) => self.topic = true,
            (Trouble::GroupAuthorization, _) => self.group = true,
            _ => {}
        }
    }

    /// The ends of those partitions' logs that could be fetched.
    pub fn fetched(&mut self, high_watermarks: &[(i32, i64)]) {
        for (partition, refused) in &mut self.partitions {
            // Statistics may be older than the complaint: the next ones will say so.
            *refused = high_watermarks.iter().all(|(fetched, _)| fetched != partition);
        }
    }

    /// The group has given us partitions.
    pub fn assigned(&mut self, partitions: &[i32]) {
        self.group = false;
        // Nobody is given partitions of a topic that it does not see.
        self.topic &= partitions.is_empty();
    }

    /// A commit was taken.
    pub fn committed(&mut self) {
        self.group = false;
    }

    /// A partition belongs to an assignment that is over.
    pub fn forget(&mut self, partition: i32) {
        self.partitions.remove(&partition);
    }

    /// Whether the topic has to be asked for.
    pub fn is_topic_hidden(&self) -> bool {
        self.topic
    }

    /// The topic was asked for, and is there.
    pub fn topic_is_seen(&mut self) {
        self.topic = false;
    }

    /// Whether anything is.
    pub fn any(&self) -> bool {
        self.group || self.topic || self.partitions.values().any(|refused| *refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_partition_is_refused_until_the_end_of_its_log_is_told_again() {
        let mut refusals = Refusals::default();
        refusals.tell(Trouble::Unreachable, Some(3));
        assert!(!refusals.any(), "that passes by itself");
        refusals.tell(Trouble::TopicAuthorization, Some(3));
        assert!(refusals.any());
        refusals.fetched(&[(2, 10), (3, 10)]);
        assert!(!refusals.any(), "as statistics have it that are older");
        refusals.fetched(&[(2, 10)]);
        assert!(refusals.any(), "the next ones know better");
        refusals.fetched(&[(2, 10), (3, 12)]);
        assert!(!refusals.any());
        refusals.fetched(&[]);
        refusals.forget(3);
        assert!(!refusals.any(), "it is another worker's");
    }

    #[test]
    fn a_topic_that_is_hidden_has_to_be_seen_and_a_group_has_to_take_us() {
        let mut refusals = Refusals::default();
        refusals.tell(Trouble::TopicAuthorization, None);
        refusals.assigned(&[]);
        refusals.committed();
        assert!(refusals.any() && refusals.is_topic_hidden(), "an empty assignment is what follows from it");
        refusals.topic_is_seen();
        assert!(!refusals.any());
        refusals.tell(Trouble::TopicAuthorization, None);
        refusals.assigned(&[0]);
        assert!(!refusals.any());

        for end in [Refusals::committed, |refusals: &mut Refusals| refusals.assigned(&[])] {
            refusals.tell(Trouble::GroupAuthorization, None);
            assert!(refusals.any());
            end(&mut refusals);
            assert!(!refusals.any());
        }
    }
}
