//! The settings that both services share.

use std::time::Duration;

use crate::settings::properties::{Properties, PropertiesFile, Property};
use crate::settings::{List, Millis, MongoUrl, RedisUrl, Seconds, Secret, Source};

crate::settings! {
    /// Where the other servers are, and how this process is run.
    pub struct ServerSettings {
        /// Kafka's bootstrap addresses, separated by commas.
        kafka_brokers: String = "KAFKA_BROKERS", "127.0.0.1:9092";
        /// The topic of messages to be stored.
        kafka_topic: String = "KAFKA_TOPIC", "chat-messages-persist";
        /// The topic of records that can't be stored.
        kafka_dlq_topic: String = "KAFKA_DLQ_TOPIC", "chat-messages-dlq";
        /// Partitions of a topic that we create.
        kafka_partitions: i32 = "KAFKA_PARTITIONS", "8";
        /// Replicas of a topic that we create. One replica survives a crash of the broker's process, not the loss of its disk.
        kafka_replication_factor: i32 = "KAFKA_REPLICATION_FACTOR", "3", development "1";
        /// Further librdkafka properties, `name=value` separated by commas, as `security.protocol=SASL_SSL`. Never printed. A value with a comma in
        /// it belongs into `KAFKA_PROPERTIES_FILE`.
        kafka_properties: Option<Properties> = "KAFKA_PROPERTIES", "";
        /// A file of further librdkafka properties, one `name=value` a line, written as a secret is in `CONFIG_FILE`. `KAFKA_PROPERTIES` wins
        /// over it.
        kafka_properties_file: Option<PropertiesFile> = "KAFKA_PROPERTIES_FILE", "";
        /// The cache's Redis: `redis://` or `rediss://`, with user and password if needed. Unset: from `REDIS_HOST`, `REDIS_PORT` and `REDIS_PASSWORD`.
        redis_url: Option<RedisUrl> = "REDIS_URL", "";
        /// The cache's host, without `REDIS_URL`.
        redis_host: String = "REDIS_HOST", "127.0.0.1";
        /// The cache's port, without `REDIS_URL`.
        redis_port: u16 = "REDIS_PORT", "6379";
        /// The cache's password, without `REDIS_URL`.
        redis_password: Option<Secret> = "REDIS_PASSWORD", "";
        /// The cache is a Redis Cluster. User, password and TLS are those of `REDIS_URL`, which has no database then but 0.
        redis_cluster_enabled: bool = "REDIS_CLUSTER_ENABLED", "false";
        /// Some of the cluster's nodes, `host:port` separated by commas; the client learns the others from them. Unset: the host of `REDIS_URL`.
        redis_cluster_nodes: List = "REDIS_CLUSTER_NODES", "";
        /// MongoDB's connection string. Its options take precedence over Holdfast's defaults (`maxPoolSize`, `connectTimeoutMS`,
        /// `serverSelectionTimeoutMS`, `retryReads`, `retryWrites`, `wtimeoutMS`, `appName` and every other); refused are those that would break the promise: `w` other
        /// than `majority`, `journal` other than `true`, `readConcernLevel` other than `local`, `readPreference` other than `primary`.
        mongo_url: MongoUrl = "MONGO_URL", "mongodb://127.0.0.1:27017/?replicaSet=rs0";
        /// MongoDB's database.
        mongo_db: String = "MONGO_DB", "chat";
        /// `error`, `warn`, `info`, `debug`, `trace`, or a `tracing` filter.
        log_level: String = "LOG_LEVEL", "info";
        /// `json` or `text`.
        log_format: String = "LOG_FORMAT", "json", development "text";
        /// Threads that run a service's tasks. 0: as many as the cores that the process may use, which a container's CPU limit bounds. Where
        /// there is no such limit and the process has a share of a large machine, set it to that share.
        worker_threads: usize = "WORKER_THREADS", "0";
        /// Milliseconds from SIGTERM to the end of the process at the latest.
        shutdown_grace: Millis = "SHUTDOWN_GRACE_MS", "25000";
    }
}

crate::settings! {
    /// How the cache is laid out: the same for all services that share it.
    pub struct CacheSettings {
        /// Messages that a chat's recent list holds; up to 31 more until they are trimmed.
        recent_max_messages: usize = "RECENT_MAX_MESSAGES", "100";
        /// Messages of a chat within which a repeat is recognised as one, and not delivered again.
        resend_window_messages: usize = "RESEND_WINDOW_MESSAGES", "1000";
        /// Seconds that a chat's recent list lives after its last message.
        recent_ttl: Seconds = "RECENT_TTL_SECS", "604800";
        /// The first part of every key in Redis.
        cache_key_prefix: String = "CACHE_KEY_PREFIX", "chat";
        /// The second part of keys whose form may change.
        cache_key_version: String = "CACHE_KEY_VERSION", "v1";
        /// What separates the parts of a key.
        cache_key_separator: String = "CACHE_KEY_SEPARATOR", ":";
        /// The longest key, in bytes.
        cache_max_key_length: usize = "CACHE_MAX_KEY_LENGTH", "250";
        /// Commands that are sent to the cache as one pipeline.
        cache_batch_size: usize = "CACHE_BATCH_SIZE", "100";
        /// Milliseconds above which a call to the cache counts against its breaker although it succeeded.
        cache_max_latency: Millis = "CACHE_MAX_LATENCY_MS", "100";
        /// Whether each call to the cache is counted and timed.
        cache_metrics_enabled: bool = "CACHE_METRICS_ENABLED", "true";
        /// Whether the caches are filled at start with what is asked for most.
        cache_warmup_enabled: bool = "CACHE_WARMUP_ENABLED", "false";
        /// Seconds that a cached profile lives.
        cache_profile_ttl: Seconds = "CACHE_PROFILE_TTL", "86400";
        /// Seconds that a connection counts as online without a heartbeat, of which its gateway sends three in that time.
        cache_presence_ttl: Seconds = "CACHE_PRESENCE_TTL", "90";
        /// Seconds that a user counts as typing without saying so again.
        cache_typing_ttl: Seconds = "CACHE_TYPING_TTL", "5";
        /// Seconds that a user's count for the rate limit lives at least; 0 for as long as `WINDOW_SECONDS` needs it.
        cache_rate_limit_ttl: Seconds = "CACHE_RATE_LIMIT_TTL", "0";
        /// Seconds that whoever loads a stale or missing value has to fill the cache with it, before another may.
        cache_stale_marker_ttl: Seconds = "CACHE_STALE_MARKER_TTL", "5";
        /// Seconds that a lock outlives an owner that says nothing any more.
        cache_lock_default_ttl: Seconds = "CACHE_LOCK_DEFAULT_TTL", "30";
        /// Milliseconds before a lock that somebody holds is tried again, give or take half of it.
        cache_lock_retry_delay: Millis = "CACHE_LOCK_RETRY_DELAY", "100";
        /// How often a lock that somebody holds is tried again.
        cache_lock_max_retries: u32 = "CACHE_LOCK_MAX_RETRIES", "3";
    }
}

impl CacheSettings {
    /// States what must hold between them.
    pub fn check(&self, source: &mut Source) {
        source.require((1..=10_000).contains(&self.recent_max_messages), "RECENT_MAX_MESSAGES must be from 1 to 10000");
        source.require(
            self.resend_window_messages >= self.recent_max_messages,
            "RESEND_WINDOW_MESSAGES must be at least RECENT_MAX_MESSAGES",
        );
        source.require((1..=10_000).contains(&self.cache_batch_size), "CACHE_BATCH_SIZE must be from 1 to 10000");
        let presence = self.cache_presence_ttl.0;
        source.require(presence >= Duration::from_secs(5), "CACHE_PRESENCE_TTL must be at least 5");
        for (name, life) in [
            ("CACHE_PROFILE_TTL", self.cache_profile_ttl),
            ("CACHE_TYPING_TTL", self.cache_typing_ttl),
            ("CACHE_STALE_MARKER_TTL", self.cache_stale_marker_ttl),
            ("CACHE_LOCK_DEFAULT_TTL", self.cache_lock_default_ttl),
        ] {
            source.require(!life.0.is_zero(), format!("{name} must be at least 1"));
        }
    }
}

impl ServerSettings {
    /// The cache's address.
    pub fn redis_url(&self) -> String {
        match (&self.redis_url, &self.redis_password) {
            (Some(url), _) => url.reveal().to_owned(),
            (None, Some(password)) => {
                format!("redis://:{}@{}:{}", percent_encoded(password.reveal()), self.redis_host, self.redis_port)
            }
            (None, None) => format!("redis://{}:{}", self.redis_host, self.redis_port),
        }
    }

    /// The cache's cluster, if it is one: nodes to find it by.
    pub fn redis_cluster(&self) -> Option<&[String]> {
        self.redis_cluster_enabled.then_some(&*self.redis_cluster_nodes.0)
    }

    /// The further librdkafka properties, later ones over earlier ones, each with the setting that it comes from.
    pub fn kafka_properties(&self) -> impl Iterator<Item = (&'static str, &Property)> {
        let file = self.kafka_properties_file.iter().flat_map(|file| &file.properties.0);
        let own = self.kafka_properties.iter().flat_map(|properties| &properties.0);
        file.map(|property| ("KAFKA_PROPERTIES_FILE", property))
            .chain(own.map(|property| ("KAFKA_PROPERTIES", property)))
    }

    /// States what must hold of the number of threads; and of addresses that are printed, and hence can't be a place for a password.
    pub fn check(&self, source: &mut Source) {
        source.require(self.worker_threads <= 1024, "WORKER_THREADS must be at most 1024");
        const USER: &str = "must not hold a user or a password";
        for (name, values) in [
            ("KAFKA_BROKERS", std::slice::from_ref(&self.kafka_brokers)),
            ("REDIS_HOST", std::slice::from_ref(&self.redis_host)),
            ("REDIS_CLUSTER_NODES", &*self.redis_cluster_nodes.0),
        ] {
            if values.iter().any(|value| value.contains('@')) {
                source.refuse(name, USER);
            }
        }
    }
}

fn percent_encoded(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redis_is_named_by_its_url_or_by_its_parts() {
        let url = |pairs: &[(&str, &str)]| {
            let mut source = Source::new(pairs.iter().map(|(name, value)| ((*name).into(), (*value).into())));
            ServerSettings::read(&mut source).unwrap().redis_url()
        };
        assert_eq!(url(&[]), "redis://127.0.0.1:6379");
        assert_eq!(url(&[("REDIS_HOST", "cache"), ("REDIS_PASSWORD", "a@b")]), "redis://:a%40b@cache:6379");
        assert_eq!(url(&[("REDIS_URL", "rediss://c"), ("REDIS_HOST", "x")]), "rediss://c");
    }
}
