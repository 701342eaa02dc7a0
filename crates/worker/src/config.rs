//! The worker's settings.

use std::time::Duration;

use holdfast_cache::recent::RecentSettings;
use holdfast_kafka::{ConsumerSettings, KafkaSettings};
use holdfast_service::serve::ConnectionSettings;
use holdfast_service::servers::{CacheSettings, ServerSettings};
use holdfast_service::settings::{
    CONFIG_FILE, Effective, List, Millis, PROFILE, Seconds, Setting, SettingsError, Source, Value,
};
use holdfast_store::StoreSettings;

use crate::backpressure::Capacity;
use crate::cleanup::CleanupSettings;

/// Far below the 60 s after which librdkafka gives a request up.
const MAX_FETCH_WAIT: Duration = Duration::from_secs(10);

/// What deletes records from Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cleanup {
    /// Kafka's retention deletes records by age.
    Retention,
    /// The worker deletes a record once every group has read it and it is old enough.
    DeleteRecords,
}

impl Value for Cleanup {
    fn parse(text: &str) -> Result<Self, String> {
        match text {
            "retention" => Ok(Self::Retention),
            "delete-records" => Ok(Self::DeleteRecords),
            _ => Err("must be retention or delete-records".into()),
        }
    }
}

holdfast_service::settings! {
    /// The settings that only the worker reads.
    pub struct WorkerSettings {
        /// The operators' address: metrics and health.
        ops_addr: std::net::SocketAddr = "OPS_ADDR", "127.0.0.1:9465";
        /// Messages that make a flush due.
        bulk_threshold: usize = "BULK_THRESHOLD", "1000", development "100";
        /// Milliseconds after which the oldest buffered message makes a flush due.
        flush_interval: Millis = "FLUSH_INTERVAL_MS", "300000", development "1000";
        /// Messages held above which fetching is paused, until half of them are stored.
        max_buffer_size: usize = "MAX_BUFFER_SIZE", "5000";
        /// The same in bytes of memory.
        max_buffer_bytes: usize = "MAX_BUFFER_BYTES", "67108864";
        /// The workers' consumer group.
        kafka_group: String = "KAFKA_GROUP", "chat-persist-worker";
        /// Milliseconds without a heartbeat after which a worker's partitions go to others.
        kafka_session_timeout: Millis = "KAFKA_SESSION_TIMEOUT_MS", "10000";
        /// Bytes of records for which Kafka waits before it answers a worker's fetch, so that it answers seldom.
        kafka_fetch_min_bytes: usize = "KAFKA_FETCH_MIN_BYTES", "65536";
        /// Milliseconds for which Kafka waits for so many bytes, and at most `FLUSH_INTERVAL_MS`.
        kafka_fetch_wait: Millis = "KAFKA_FETCH_WAIT_MS", "100";
        /// Milliseconds without a poll after which a worker leaves its group.
        kafka_max_poll_interval: Millis = "KAFKA_MAX_POLL_INTERVAL_MS", "300000";
        /// Milliseconds for which partitions that go to another worker may be flushed before they are given up.
        rebalance_flush: Millis = "REBALANCE_FLUSH_MS", "8000";
        /// `retention`: Kafka deletes records by age. `delete-records`: the worker does, once every group has read them.
        kafka_cleanup: Cleanup = "KAFKA_CLEANUP", "retention";
        /// The groups that must have read a record before it is deleted. Unset: the worker's own.
        kafka_cleanup_groups: List = "KAFKA_CLEANUP_GROUPS", "";
        /// Seconds after which a record may be deleted at the earliest, even if every group has read it.
        kafka_cleanup_margin: Seconds = "KAFKA_CLEANUP_MARGIN_SECS", "86400";
        /// Seconds from one look for deletable records to the next.
        kafka_cleanup_interval: Seconds = "KAFKA_CLEANUP_INTERVAL_SECS", "300";
        /// Whether a record that can't be stored is written to the dead-letter topic. Otherwise it is logged and skipped.
        dlq_enabled: bool = "DLQ_ENABLED", "true";
    }
}

/// The worker's whole configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// The other servers.
    pub servers: ServerSettings,
    /// How the cache is laid out.
    pub cache: CacheSettings,
    /// What connections to the operators' port may take.
    pub connections: ConnectionSettings,
    /// The settings that only the worker has.
    pub worker: WorkerSettings,
}

impl Config {
    /// Every setting of the worker, as documented.
    pub fn settings() -> impl Iterator<Item = &'static Setting> {
        [&PROFILE, &CONFIG_FILE]
            .into_iter()
            .chain(WorkerSettings::SETTINGS)
            .chain(CacheSettings::SETTINGS)
            .chain(ConnectionSettings::SETTINGS)
            .chain(ServerSettings::SETTINGS)
    }

    /// Reads all settings; the error lists everything that is wrong.
    pub fn read(mut source: Source) -> Result<Effective<Self>, SettingsError> {
        let servers = ServerSettings::read(&mut source);
        let cache = CacheSettings::read(&mut source);
        let connections = ConnectionSettings::read(&mut source);
        let worker = WorkerSettings::read(&mut source);
        if let Some(servers) = &servers {
            check_servers(servers, &mut source);
        }
        if let Some(cache) = &cache {
            cache.check(&mut source);
        }
        if let Some(connections) = &connections {
            connections.check(&mut source);
        }
        if let Some(worker) = &worker {
            source.require(worker.bulk_threshold > 0, "BULK_THRESHOLD must be at least 1");
            source.require(
                worker.max_buffer_size >= worker.bulk_threshold,
                "MAX_BUFFER_SIZE must be at least BULK_THRESHOLD, or no flush would ever be due by size",
            );
            source.require(
                worker.kafka_session_timeout <= worker.kafka_max_poll_interval,
                "KAFKA_SESSION_TIMEOUT_MS must not exceed KAFKA_MAX_POLL_INTERVAL_MS",
            );
            source.require(
                (1..=1_048_576).contains(&worker.kafka_fetch_min_bytes),
                "KAFKA_FETCH_MIN_BYTES must be from 1 to 1048576",
            );
            source.require(worker.kafka_fetch_wait.0 <= MAX_FETCH_WAIT, "KAFKA_FETCH_WAIT_MS must be at most 10000");
            source.require(
                worker.rebalance_flush < worker.kafka_max_poll_interval,
                "REBALANCE_FLUSH_MS must be below KAFKA_MAX_POLL_INTERVAL_MS, after which the group goes on without us",
            );
        }
        let all = servers.zip(cache).zip(connections).zip(worker);
        source.finish(all.map(|(((servers, cache), connections), worker)| Self { servers, cache, connections, worker }))
    }

    /// The settings of Kafka's clients.
    pub fn kafka(&self) -> KafkaSettings {
        // No client waits for a dead letter.
        let delivery_timeout = Duration::from_secs(10);
        KafkaSettings { delivery_timeout, ..KafkaSettings::of(&self.servers, "holdfast-worker") }
    }

    /// The settings of the consumer.
    pub fn consumer(&self) -> ConsumerSettings {
        ConsumerSettings {
            group: self.worker.kafka_group.clone(),
            session_timeout: self.worker.kafka_session_timeout.0,
            max_poll_interval: self.worker.kafka_max_poll_interval.0,
            fetch_min_bytes: self.worker.kafka_fetch_min_bytes,
            fetch_wait: self.worker.kafka_fetch_wait.0.min(self.worker.flush_interval.0),
            ..ConsumerSettings::default()
        }
    }

    /// The settings of MongoDB's client.
    pub fn store(&self) -> StoreSettings {
        StoreSettings {
            max_connections: 8,
            ..StoreSettings::new(self.servers.mongo_url.reveal(), &self.servers.mongo_db)
        }
    }

    /// The sizes of recent lists.
    pub fn recent(&self) -> RecentSettings {
        let cache = &self.cache;
        RecentSettings {
            max: cache.recent_max_messages,
            window: cache.resend_window_messages,
            ttl: cache.recent_ttl.0,
            ..RecentSettings::default()
        }
    }

    /// The buffer's capacity.
    pub fn capacity(&self) -> Capacity {
        Capacity { messages: self.worker.max_buffer_size, bytes: self.worker.max_buffer_bytes }
    }

    /// The conditions for deleting records; `None`: never.
    pub fn cleanup(&self) -> Option<CleanupSettings> {
        let worker = &self.worker;
        let groups = match &worker.kafka_cleanup_groups.0[..] {
            [] => vec![worker.kafka_group.clone()],
            // The worker's own group counts even if it is not listed.
            named => named.iter().chain([&worker.kafka_group]).cloned().collect(),
        };
        (worker.kafka_cleanup == Cleanup::DeleteRecords).then(|| CleanupSettings {
            topic: self.servers.kafka_topic.clone(),
            groups,
            margin: worker.kafka_cleanup_margin.0,
            interval: worker.kafka_cleanup_interval.0,
        })
    }

    /// How the time from SIGTERM to the end is spent: the greater part on storing, the rest on leaving the group.
    pub fn drain_within(&self) -> Duration {
        let grace = self.servers.shutdown_grace.0;
        grace.saturating_sub((grace / 4).min(Duration::from_secs(5)))
    }
}

/// What only the servers' own clients can say of their settings.
fn check_servers(servers: &ServerSettings, source: &mut Source) {
    servers.check(source);
    KafkaSettings::check(servers, source);
    if let Err(rule) = holdfast_store::check_url(servers.mongo_url.reveal()) {
        source.refuse("MONGO_URL", &rule);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(pairs: &[(&str, &str)]) -> Result<Effective<Config>, SettingsError> {
        Config::read(Source::new(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))))
    }

    #[test]
    fn relations_between_settings_are_checked_together_with_the_settings() {
        assert!(read(&[]).is_ok());
        let SettingsError(errors) =
            read(&[("BULK_THRESHOLD", "6000"), ("REBALANCE_FLUSH_MS", "300000"), ("KAFKA_CLEANUP", "retention")])
                .unwrap_err();
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert!(read(&[("KAFKA_CLEANUP", "yes")]).is_err());
    }

    #[test]
    fn a_fetch_never_waits_longer_than_the_oldest_message_may() {
        let wait = |pairs: &[(&str, &str)]| read(pairs).unwrap().value.consumer().fetch_wait.as_millis();
        assert_eq!(wait(&[]), 100);
        assert_eq!(wait(&[("FLUSH_INTERVAL_MS", "50")]), 50);
        assert_eq!(wait(&[("KAFKA_FETCH_WAIT_MS", "20"), ("FLUSH_INTERVAL_MS", "50")]), 20);
        assert!(read(&[("KAFKA_FETCH_WAIT_MS", "10001")]).is_err());
        assert!(read(&[("KAFKA_FETCH_MIN_BYTES", "0")]).is_err());
    }

    #[test]
    fn our_own_group_always_counts_before_records_are_deleted() {
        let groups = |pairs: &[(&str, &str)]| read(pairs).unwrap().value.cleanup().map(|cleanup| cleanup.groups);
        assert_eq!(groups(&[]), None);
        let on = ("KAFKA_CLEANUP", "delete-records");
        assert_eq!(groups(&[on]).unwrap(), ["chat-persist-worker"]);
        assert_eq!(groups(&[on, ("KAFKA_CLEANUP_GROUPS", "search")]).unwrap(), ["search", "chat-persist-worker"]);
    }
}
