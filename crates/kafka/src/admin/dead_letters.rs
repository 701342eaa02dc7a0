//! Sets the dead-letter topic's retention to unlimited: only an operator may decide that a dead letter is no longer needed.

use std::time::Duration;

use rdkafka::admin::{AlterConfig, ConfigResource, ConfigSource, ResourceSpecifier};

use super::report::setting;
use super::{Admin, AdminError};
use crate::ClientError;

/// The settings of a topic with unlimited retention.
const FOR_EVER: [(&str, &str); 2] = [("retention.ms", "-1"), ("retention.bytes", "-1")];
/// How many times the settings are read back: a broker may report the old ones for a moment.
const READ_BACK: u32 = 50;

impl Admin {
    /// Sets an existing dead-letter topic's retention to unlimited. If the broker refuses, this logs a warning and succeeds: the topic takes
    /// dead letters all the same.
    ///
    /// librdkafka's `AlterConfigs`, the only one that rust-rdkafka has, replaces all of a topic's own settings, so they are read
    /// first and sent again. A setting that somebody else changes in between, within milliseconds and once in a topic's life, is
    /// changed back.
    pub(super) async fn keep_dead_letters(&self) -> Result<(), AdminError> {
        let topic = self.settings.dlq_topic.as_str();
        let Some(found) = self.own_settings(topic).await? else { return Ok(()) };
        let own = found.entries.iter().filter(|entry| entry.source == ConfigSource::DynamicTopic);
        let mut changed = AlterConfig::new(ResourceSpecifier::Topic(topic));
        for (name, value) in
            own.filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?))).chain(FOR_EVER)
        {
            changed = changed.set(name, value);
        }
        let doing = "changing a topic's settings";
        let answered = self.client.alter_configs([&changed], &self.options()).await;
        // rust-rdkafka drops the broker's answer for the topic: what the topic says afterwards is what counts.
        answered.map_err(ClientError::new(doing))?;
        for attempt in 0..READ_BACK {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            let settings = self.own_settings(topic).await?;
            if settings.is_some_and(|own| FOR_EVER.iter().all(|(name, _)| setting(&own, name) == Some(-1_i64))) {
                tracing::info!(topic, "the dead-letter topic keeps its records for ever from now on");
                return Ok(());
            }
        }
        tracing::warn!(
            topic,
            "the broker does not let us change the dead-letter topic's retention: an operator has to (`holdfastctl doctor`)"
        );
        Ok(())
    }

    /// Reads a topic's settings; `None`: the broker does not report them.
    async fn own_settings(&self, topic: &str) -> Result<Option<ConfigResource>, AdminError> {
        let described = self.client.describe_configs([&ResourceSpecifier::Topic(topic)], &self.options()).await;
        let described = described.map_err(ClientError::new("reading a topic's settings"))?;
        Ok(described.into_iter().next().and_then(Result::ok))
    }
}
