//! What a group commits: offsets, and the records that it has lost, in the metadata of the offset. One commit both passes the hole and says
//! that there was one.
//!
//! See `docs/decisions/lost-records.md`.

use rdkafka::error::KafkaResult;
use rdkafka::topic_partition_list::TopicPartitionListElem;
use rdkafka::{Offset, TopicPartitionList};

/// What a group has lost in one partition and no operator has acknowledged. Nothing, by default.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Loss {
    /// The number of lost records.
    pub records: u64,
    /// When the first of them was missed, in Unix epoch milliseconds.
    pub since: i64,
}

impl Loss {
    /// Whether nothing is lost.
    pub fn is_none(&self) -> bool {
        self.records == 0
    }

    /// The sum of both losses.
    pub fn and(self, other: Self) -> Self {
        match (self.is_none(), other.is_none()) {
            (true, _) => other,
            (_, true) => self,
            _ => Self { records: self.records.saturating_add(other.records), since: self.since.min(other.since) },
        }
    }

    /// The commit's metadata; empty if nothing is lost.
    pub(crate) fn metadata(&self) -> String {
        if self.is_none() { String::new() } else { format!("lost={} since={}", self.records, self.since) }
    }

    /// Parses a commit's metadata. Metadata in any other form means that nothing is lost.
    pub(crate) fn parse(metadata: &str) -> Self {
        let value =
            |name: &str| metadata.split(' ').find_map(|part| part.strip_prefix(name)?.strip_prefix('=')?.parse().ok());
        let records: Option<i64> = value("lost");
        let records = records.and_then(|records| u64::try_from(records).ok()).unwrap_or_default();
        Self { records, since: if records == 0 { 0 } else { value("since").unwrap_or_default() } }
    }
}

/// A commit of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// The partition's number.
    pub partition: i32,
    /// The next offset to be read.
    pub offset: i64,
    /// The loss below it.
    pub loss: Loss,
}

impl Commit {
    /// An offset below which nothing was lost.
    pub fn at(partition: i32, offset: i64) -> Self {
        Self { partition, offset, loss: Loss::default() }
    }
}

/// The offset that a group has committed in one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The partition.
    pub partition: i32,
    /// The next offset to be read. `None`: nothing is committed.
    pub offset: Option<i64>,
    /// The unacknowledged loss below it.
    pub loss: Loss,
}

/// What a list of committed offsets says.
pub(crate) fn read_commits(list: &TopicPartitionList) -> KafkaResult<Vec<Committed>> {
    let of = |element: TopicPartitionListElem<'_>| {
        element.error()?;
        let offset = match element.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok(Committed { partition: element.partition(), offset, loss: Loss::parse(element.metadata()) })
    };
    list.elements().into_iter().map(of).collect()
}

/// The list that commits these.
pub(crate) fn list_of(topic: &str, commits: &[Commit]) -> KafkaResult<TopicPartitionList> {
    let list = list_at(topic, commits.iter().map(|commit| (commit.partition, Offset::Offset(commit.offset))))?;
    for commit in commits.iter().filter(|commit| !commit.loss.is_none()) {
        if let Some(mut element) = list.find_partition(topic, commit.partition) {
            element.set_metadata(commit.loss.metadata());
        }
    }
    Ok(list)
}

/// Partitions of a topic with their offsets.
pub(crate) fn list_at(
    topic: &str,
    offsets: impl IntoIterator<Item = (i32, Offset)>,
) -> KafkaResult<TopicPartitionList> {
    let mut list = TopicPartitionList::new();
    for (partition, offset) in offsets {
        list.add_partition_offset(topic, partition, offset)?;
    }
    Ok(list)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_survives_its_commit_and_other_metadata_is_none() {
        let loss = Loss { records: 7, since: 1_700_000_000_000 };
        assert_eq!(Loss::parse(&loss.metadata()), loss);
        assert_eq!(Loss::default().metadata(), "");
        for strange in ["", "offset=3", "lost", "lost=", "lost=-7 since=1", "lost=many", "nothing lost=", "\u{0}"] {
            assert!(Loss::parse(strange).is_none(), "{strange}");
        }
        assert_eq!(Loss::parse("by=tool lost=3"), Loss { records: 3, since: 0 });
        assert_eq!(loss.and(Loss { records: 2, since: 5 }), Loss { records: 9, since: 5 });
        assert_eq!(loss.and(Loss::default()), loss);
    }
}
