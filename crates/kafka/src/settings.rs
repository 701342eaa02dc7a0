//! Where Kafka is and how its clients behave; and the one place where a client's configuration is put together.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use holdfast_service::sabotage;
use holdfast_service::servers::ServerSettings;
use holdfast_service::settings::Source;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// What the dead-letter topic allows above the main one, in bytes: the original record, whole, and its `dlq-` headers.
pub const DLQ_HEADROOM: usize = 64 * 1024;

/// The largest batch that the producer builds, in bytes. A record above it travels alone, so that a broker's "too large" can be
/// laid at its door; below, the batch may be to blame.
pub const BATCH_BYTES: usize = 128 * 1024;

/// What all Kafka clients of a process share.
#[derive(Clone)]
pub struct KafkaSettings {
    /// `host:port`, comma separated (`KAFKA_BROKERS`).
    pub brokers: String,
    /// The messages' topic (`KAFKA_TOPIC`).
    pub topic: String,
    /// The dead letters' topic (`KAFKA_DLQ_TOPIC`).
    pub dlq_topic: String,
    /// Partitions of the topics when we create them (`KAFKA_PARTITIONS`).
    pub partitions: i32,
    /// Replicas of the topics when we create them (`KAFKA_REPLICATION_FACTOR`).
    pub replication_factor: i32,
    /// How long a record may wait for its acknowledgement (`KAFKA_DELIVERY_TIMEOUT_MS`).
    pub delivery_timeout: Duration,
    /// How long a record waits for others to share a batch with (`KAFKA_LINGER_MS`).
    pub linger: Duration,
    /// librdkafka's name for the codec: `lz4`, `zstd`, `gzip`, `snappy` or `none`.
    pub compression: String,
    /// Records that may wait in the producer. Full: the publish fails at once, and the caller falls back.
    pub queue_messages: usize,
    /// The same in kibibytes.
    pub queue_kbytes: usize,
    /// The largest record that the producer takes, in bytes.
    pub max_record_bytes: usize,
    /// What Kafka's logs call this process.
    pub client_id: String,
    /// Further librdkafka properties, `security.protocol` and `sasl.*` among them. They override what is only tuning here, never
    /// what the promise rests on.
    pub properties: BTreeMap<String, String>,
    /// They override that, too. Only for tests that must see the promise broken.
    pub properties_break_the_promise: bool,
}

impl Default for KafkaSettings {
    fn default() -> Self {
        Self {
            brokers: "127.0.0.1:9092".into(),
            topic: "chat-messages-persist".into(),
            dlq_topic: "chat-messages-dlq".into(),
            partitions: 8,
            replication_factor: 1,
            delivery_timeout: Duration::from_millis(2500),
            linger: Duration::from_millis(5),
            compression: "lz4".into(),
            queue_messages: 50_000,
            queue_kbytes: 64 * 1024,
            max_record_bytes: 1_000_000,
            client_id: "holdfast".into(),
            properties: BTreeMap::new(),
            properties_break_the_promise: false,
        }
    }
}

/// The properties' values are left out: passwords are among them.
impl fmt::Debug for KafkaSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KafkaSettings")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("dlq_topic", &self.dlq_topic)
            .field("delivery_timeout", &self.delivery_timeout)
            .field("properties", &self.properties.keys().collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl KafkaSettings {
    /// What the environment says of Kafka, for a process that its logs call `client_id`. The rest is as by default.
    pub fn of(servers: &ServerSettings, client_id: &str) -> Self {
        Self {
            brokers: servers.kafka_brokers.clone(),
            topic: servers.kafka_topic.clone(),
            dlq_topic: servers.kafka_dlq_topic.clone(),
            partitions: servers.kafka_partitions,
            replication_factor: servers.kafka_replication_factor,
            client_id: client_id.to_owned(),
            properties: servers.kafka_properties().map(|(_, own)| (own.name.clone(), own.value.clone())).collect(),
            properties_break_the_promise: sabotage::is(sabotage::KAFKA),
            ..Self::default()
        }
    }

    /// Reports the properties from the environment that librdkafka rejects, by where they are set: librdkafka's own messages repeat the values.
    pub fn check(servers: &ServerSettings, source: &mut Source) {
        for (setting, property) in servers.kafka_properties() {
            let mut alone = ClientConfig::new();
            alone.set(&property.name, &property.value);
            if let Err(error) = alone.create_native_config() {
                source.refuse(setting, &format!("{}: {}", property.place, without_value(&error)));
            }
        }
    }

    /// A client's configuration: what is tuning first, the operator's properties over it, what the promise rests on last.
    fn client(&self, tuning: &[(&str, String)], promise: &[(&str, String)]) -> ClientConfig {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", &self.brokers).set("client.id", &self.client_id);
        config.set("socket.keepalive.enable", "true");
        // A broker that came back is found within a second or so, not after librdkafka's ten.
        config.set("reconnect.backoff.ms", "50").set("reconnect.backoff.max.ms", "1000");
        for (name, value) in tuning {
            config.set(*name, value);
        }
        let properties = || self.properties.iter().map(|(name, value)| (name.clone(), value.clone()));
        config.extend(properties());
        for (name, value) in promise {
            config.set(*name, value);
        }
        if self.properties_break_the_promise {
            config.extend(properties());
        }
        // Without this the level follows the `log` crate's, which is off: librdkafka reports `max.poll.interval.ms` violations in the log only.
        config.set_log_level(RDKafkaLogLevel::Info);
        config
    }

    /// For administration and look-ups.
    pub(crate) fn admin(&self) -> ClientConfig {
        self.client(&[], &[])
    }

    /// For publishing. Records above [`Self::max_record_bytes`] by `headroom` bytes pass.
    pub(crate) fn producer(&self, headroom: usize) -> ClientConfig {
        let tuning = [
            ("linger.ms", self.linger.as_millis().to_string()),
            ("compression.type", self.compression.clone()),
            ("batch.size", BATCH_BYTES.to_string()),
            ("queue.buffering.max.messages", self.queue_messages.to_string()),
            ("queue.buffering.max.kbytes", self.queue_kbytes.to_string()),
            ("message.max.bytes", (self.max_record_bytes + headroom).to_string()),
            // As the Java client and most others place keys.
            ("partitioner", "murmur2_random".to_owned()),
        ];
        let promise = [
            ("enable.idempotence", "true".to_owned()),
            ("acks", "all".to_owned()),
            // A topic that asking for it creates would have the broker's defaults: one partition, one replica.
            ("allow.auto.create.topics", "false".to_owned()),
            ("message.timeout.ms", self.delivery_timeout.as_millis().to_string()),
        ];
        self.client(&tuning, &promise)
    }

    /// For a member of `group`; without one, for reading ranges and looking up offsets.
    pub(crate) fn consumer(&self, group: Option<&str>, tuning: &[(&str, String)]) -> ClientConfig {
        let mut promise = vec![
            ("enable.auto.commit", "false".to_owned()),
            ("enable.auto.offset.store", "false".to_owned()),
            ("auto.offset.reset", "earliest".to_owned()),
            ("isolation.level", "read_committed".to_owned()),
        ];
        if let Some(group) = group {
            promise.push(("group.id", group.to_owned()));
        }
        self.client(tuning, &promise)
    }
}

/// An error of librdkafka's without the value that it repeats. An unknown name isn't repeated either: it may be the rest of a password
/// that a comma has cut.
pub(crate) fn without_value(error: &KafkaError) -> String {
    match error {
        KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..) => "librdkafka has no such property".into(),
        KafkaError::ClientConfig(_, _, name, _) => {
            format!("the value of {name} can't be used, or this build does not have the property")
        }
        error => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use holdfast_service::settings::Source;

    use super::*;

    #[test]
    fn properties_override_tuning_but_not_the_promise() {
        let read_all = ("isolation.level", "read_uncommitted");
        let settings = KafkaSettings {
            properties: [
                ("acks", "1"),
                ("enable.auto.commit", "true"),
                ("linger.ms", "7"),
                ("sasl.username", "u"),
                read_all,
            ]
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
            ..KafkaSettings::default()
        };
        let producer = settings.producer(0);
        assert_eq!(producer.get("acks"), Some("all"));
        assert_eq!(producer.get("linger.ms"), Some("7"));
        assert_eq!(producer.get("sasl.username"), Some("u"));
        assert_eq!(settings.consumer(Some("g"), &[]).get("enable.auto.commit"), Some("false"));
        for group in [Some("g"), None] {
            let level = settings.consumer(group, &[]);
            assert_eq!(level.get("isolation.level"), Some("read_committed"), "an aborted record is nobody's message");
        }
    }

    #[test]
    fn the_environments_settings_reach_the_client() {
        let environment = [
            ("KAFKA_BROKERS", "b1:9092,b2:9092"),
            ("KAFKA_TOPIC", "messages"),
            ("KAFKA_DLQ_TOPIC", "dead"),
            ("KAFKA_PARTITIONS", "3"),
            ("KAFKA_REPLICATION_FACTOR", "2"),
            ("KAFKA_PROPERTIES", "sasl.username=u, linger.ms=7"),
        ];
        let mut source = Source::new(environment.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let settings = KafkaSettings::of(&ServerSettings::read(&mut source).unwrap(), "holdfast-test");
        assert_eq!((&*settings.topic, &*settings.dlq_topic), ("messages", "dead"));
        assert_eq!((settings.partitions, settings.replication_factor), (3, 2));
        assert!(!settings.properties_break_the_promise);
        let producer = settings.producer(0);
        let expected = [
            ("bootstrap.servers", "b1:9092,b2:9092"),
            ("client.id", "holdfast-test"),
            ("sasl.username", "u"),
            ("linger.ms", "7"),
        ];
        for (name, value) in expected {
            assert_eq!(producer.get(name), Some(value), "{name}");
        }
    }

    #[test]
    fn a_property_that_librdkafka_does_not_take_is_named_by_its_place() {
        let check = |properties: &str| {
            let mut source = Source::new([("KAFKA_PROPERTIES".to_owned(), properties.to_owned())]);
            let servers = ServerSettings::read(&mut source).unwrap();
            KafkaSettings::check(&servers, &mut source);
            source.finish(Some(())).map(drop).map_err(|errors| errors.to_string())
        };
        assert_eq!(check("sasl.username=u,sasl.password=p,security.protocol=SASL_SSL,linger.ms=7"), Ok(()));
        for (properties, expected) in [
            ("linger.ms=7,sasl.pasword=CANARY", "KAFKA_PROPERTIES: entry 2: librdkafka has no such property"),
            ("sasl.password=p,CANARY=CANARY", "KAFKA_PROPERTIES: entry 2: librdkafka has no such property"),
            ("linger.ms=CANARY", "KAFKA_PROPERTIES: entry 1: the value of linger.ms can't be used"),
            ("security.protocol=CANARY", "KAFKA_PROPERTIES: entry 1: the value of security.protocol can't be used"),
            ("acks=CANARY", "KAFKA_PROPERTIES: entry 1: the value of acks can't be used"),
        ] {
            let error = check(properties).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("CANARY"), "{properties}: {error}");
        }
    }

    #[test]
    fn debug_output_leaves_values_out() {
        let settings = KafkaSettings {
            properties: [("sasl.password".to_owned(), "hunter2".to_owned())].into(),
            ..KafkaSettings::default()
        };
        assert!(!format!("{settings:?}").contains("hunter2"));
    }
}
