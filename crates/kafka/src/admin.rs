//! Topic administration: creates missing topics, reads their settings and judges them ([`TopicsReport`]); also watermarks, committed
//! offsets and deletion, for lag and cleanup (`admin/offsets.rs`).
//!
//! See `docs/decisions/kafka-retention.md`.

mod brokers;
mod dead_letters;
mod offsets;
mod report;

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use tokio::time::Instant;

pub use brokers::BrokerReport;
pub use report::{TopicReport, TopicsReport};

use crate::context::Callbacks;
use crate::settings::DLQ_HEADROOM;
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

    #[tokio::test(start_paused = true)]
    async fn a_new_topic_is_waited_for_until_the_broker_that_answers_has_heard_of_it() {
        let found = || TopicReport { name: "a".into(), partitions: 8, ..TopicReport::default() };
        let mut asked = 0;
        let report = known(Duration::from_secs(10), || {
            asked += 1;
            let missing = || TopicReport { name: "a".into(), ..TopicReport::default() };
            std::future::ready(Ok(if asked < 30 { missing() } else { found() }))
        });
        assert_eq!(report.await.unwrap(), found());
        let never = || std::future::ready(Ok(TopicReport { name: "a".into(), ..TopicReport::default() }));
        let error = known(Duration::from_secs(10), never).await.unwrap_err();
        assert!(matches!(error, AdminError::Unavailable(_)), "{error}: to be tried again, never a report of nothing");
    }
}
