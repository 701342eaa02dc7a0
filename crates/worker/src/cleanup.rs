//! Deletes records from Kafka to free disk space: those that every group has committed and that are old enough.
//!
//! Off by default: then Kafka's retention deletes records, after 7 days. With `KAFKA_CLEANUP=delete-records` each worker checks every few
//! minutes; several workers doing so is harmless. Offsets are read from the broker, never from this process's memory: only the offset that
//! a new worker would start from is safe.

use std::time::Duration;

use holdfast_kafka::{Admin, AdminError};
use holdfast_service::clock::unix_ms;

/// The conditions under which records may be deleted.
#[derive(Debug, Clone)]
pub struct CleanupSettings {
    /// The topic's name.
    pub topic: String,
    /// The groups that must all have committed past a record.
    pub groups: Vec<String>,
    /// The minimum age of a record.
    pub margin: Duration,
    /// The interval between two checks.
    pub interval: Duration,
}

/// Checks and deletes at each interval, for ever.
pub async fn run(admin: Admin, settings: CleanupSettings) {
    loop {
        tokio::time::sleep(settings.interval).await;
        match once(&admin, &settings).await {
            Ok(deleted) if deleted.is_empty() => {}
            Ok(deleted) => tracing::info!(?deleted, "deleted records that every group has read"),
            Err(error) => tracing::warn!(%error, "records could not be deleted"),
        }
    }
}

/// Checks once. Returns the partitions in which something was deleted, with their new beginnings.
pub async fn once(admin: &Admin, settings: &CleanupSettings) -> Result<Vec<(i32, i64)>, AdminError> {
    let margin = i64::try_from(settings.margin.as_millis()).unwrap_or(i64::MAX);
    // Each is read before what it bounds, so that nothing that came meanwhile counts as old or as read.
    let watermarks = admin.watermarks(&settings.topic).await?;
    let young = admin.offsets_at(&settings.topic, unix_ms() - margin).await?;
    let mut committed = Vec::with_capacity(settings.groups.len());
    for group in &settings.groups {
        committed.push(admin.committed(group, &settings.topic).await?);
    }
    let of =
        |list: &[(i32, Option<i64>)], partition| list.iter().find(|(id, _)| *id == partition).and_then(|(_, at)| *at);
    let below: Vec<(i32, i64)> = watermarks
        .into_iter()
        .filter_map(|(partition, low, high)| {
            let committed: Vec<_> = committed.iter().map(|group| of(group, partition)).collect();
            Some((partition, truncate_below(low, high, &committed, of(&young, partition))?))
        })
        .collect();
    if below.is_empty() { Ok(below) } else { admin.delete_records(&settings.topic, &below).await }
}

/// The offset below which a partition's records may go; `None`: nothing may. `young` is the first record within the margin, if
/// there is one. A group that has committed nothing, or beyond the end of this log, has read nothing that we know of.
fn truncate_below(low: i64, high: i64, committed: &[Option<i64>], young: Option<i64>) -> Option<i64> {
    let mut below = young.unwrap_or(high);
    for offset in committed {
        below = below.min(offset.filter(|offset| *offset <= high)?);
    }
    (!committed.is_empty() && below > low).then_some(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_every_group_has_read_and_is_old_enough_goes() {
        assert_eq!(truncate_below(0, 100, &[Some(60), Some(50)], Some(70)), Some(50));
        assert_eq!(truncate_below(0, 100, &[Some(60), Some(50)], Some(40)), Some(40));
        assert_eq!(truncate_below(0, 100, &[Some(60)], None), Some(60), "everything is old");
        assert_eq!(truncate_below(60, 100, &[Some(60)], None), None, "gone already");
        assert_eq!(truncate_below(0, 100, &[Some(60), None], None), None, "a group that has read nothing");
        assert_eq!(truncate_below(0, 100, &[Some(101)], None), None, "a commit of another log");
        assert_eq!(truncate_below(0, 100, &[], None), None, "no group at all");
    }
}
