//! The clients against librdkafka's mock cluster, for what a good broker does not do on demand, and against a real one.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod broker;
mod groups;
mod publishing;

use std::time::Duration;

use holdfast_kafka::KafkaSettings;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;

type Cluster = MockCluster<'static, DefaultProducerContext>;

fn cluster(partitions: i32) -> (Cluster, KafkaSettings) {
    let cluster = MockCluster::new(1).unwrap();
    let settings = KafkaSettings {
        brokers: cluster.bootstrap_servers(),
        topic: "messages".into(),
        dlq_topic: "dead".into(),
        // A new producer may need a second before its first record goes out.
        delivery_timeout: Duration::from_secs(5),
        ..KafkaSettings::default()
    };
    cluster.create_topic(&settings.topic, partitions, 1).unwrap();
    cluster.create_topic(&settings.dlq_topic, 1, 1).unwrap();
    (cluster, settings)
}
