//! Kafka: its brokers and both topics.

use holdfast_kafka::{Admin, AdminError, BrokerReport, KafkaSettings};

use super::unreachable;
use crate::check::{Check, Status, known};
use crate::topics;

/// A group's offsets must outlive its records: seven days, in minutes.
const OFFSETS_RETENTION_MINUTES: i64 = 7 * 24 * 60;

/// Checks the brokers, then the topics.
pub async fn check(admin: &Admin, kafka: &KafkaSettings) -> Vec<Check> {
    let mut checks = Vec::new();
    match admin.brokers().await {
        Ok(brokers) => {
            checks.push(Check::ok("kafka: brokers", brokers.len().to_string(), "3").unless(
                brokers.len() >= 3,
                Status::Warning,
                "with fewer than three brokers the loss of one loses messages or stops publishing",
            ));
            checks.extend(brokers.iter().flat_map(judge));
        }
        Err(error) => return vec![in_vain(&error)],
    }
    match topics::judge(admin, kafka).await {
        Ok(topics) => checks.extend(topics),
        Err(error) => checks.push(in_vain(&error)),
    }
    checks
}

fn in_vain(error: &AdminError) -> Check {
    match error {
        AdminError::Unavailable(error) => unreachable("kafka", error, "start Kafka, or correct KAFKA_BROKERS"),
        AdminError::Refused { .. } => Check::ok("kafka", error.to_string(), "answers")
            .with(Status::Unknown, "allow holdfastctl to describe brokers and topics"),
    }
}

fn judge(broker: &BrokerReport) -> [Check; 2] {
    let name = |what: &str| format!("kafka broker {}: {what}", broker.id);
    [
        known(name("auto.create.topics.enable"), broker.auto_create_topics, "false", |on, check| {
            check.unless(!on, Status::Warning, "set it to false: a misspelt topic must fail, not appear")
        }),
        known(
            name("offsets.retention.minutes"),
            broker.offsets_retention_minutes,
            "10080 or more",
            |minutes, check| {
                let mend = "raise it: after a longer outage the workers would read everything again";
                check.unless(minutes >= OFFSETS_RETENTION_MINUTES, Status::Warning, mend)
            },
        ),
    ]
}
