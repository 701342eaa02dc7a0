//! Reads brokers' own settings.

use std::sync::Arc;

use rdkafka::admin::ResourceSpecifier;

use super::report::setting;
use super::{Admin, AdminError, blocking};
use crate::ClientError;

/// The settings of a broker that the delivery promise rests on. `None`: the broker does not report it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BrokerReport {
    /// The broker's id.
    pub id: i32,
    /// `auto.create.topics.enable`.
    pub auto_create_topics: Option<bool>,
    /// `offsets.retention.minutes`: how long a group's offsets outlive its last member.
    pub offsets_retention_minutes: Option<i64>,
}

impl Admin {
    /// Every broker's settings.
    pub async fn brokers(&self) -> Result<Vec<BrokerReport>, AdminError> {
        let (client, timeout) = (Arc::clone(&self.client), self.timeout);
        let metadata = blocking("listing the brokers", move || client.inner().fetch_metadata(None, timeout)).await?;
        let mut reports = Vec::new();
        for broker in metadata.brokers() {
            let mut report = BrokerReport { id: broker.id(), ..BrokerReport::default() };
            let described =
                self.client.describe_configs([&ResourceSpecifier::Broker(report.id)], &self.options()).await;
            match described.map_err(ClientError::new("reading a broker's settings"))?.into_iter().next() {
                Some(Ok(resource)) => {
                    report.auto_create_topics = setting(&resource, "auto.create.topics.enable");
                    report.offsets_retention_minutes = setting(&resource, "offsets.retention.minutes");
                }
                Some(Err(code)) => {
                    tracing::debug!(broker = report.id, %code, "the broker does not report its settings")
                }
                None => {}
            }
            reports.push(report);
        }
        reports.sort_by_key(|report| report.id);
        Ok(reports)
    }
}
