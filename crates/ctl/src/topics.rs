//! `topics`: both topics, made where they are missing, and compared with what they should be.

use anyhow::Result;
use holdfast_kafka::admin::RETENTION;
use holdfast_kafka::settings::{BATCH_BYTES, DLQ_HEADROOM};
use holdfast_kafka::{Admin, AdminError, KafkaSettings, TopicReport};
use serde_json::json;

use crate::check::{self, Check, Status, known};
use crate::exit::Verdict;
use crate::output::Output;
use crate::time;

/// Creates those that are missing; changes none that is there.
pub async fn create(admin: &Admin, kafka: &KafkaSettings, dry_run: bool, output: &mut Output<'_>) -> Result<Verdict> {
    let mut missing = Vec::new();
    for topic in [&kafka.topic, &kafka.dlq_topic] {
        if admin.describe(topic).await?.partitions == 0 {
            missing.push(topic);
        } else {
            output.say(&json!({ "topic": topic, "outcome": "there" }), format!("{topic} is there already"))?;
        }
    }
    if !dry_run && !missing.is_empty() {
        admin.ensure_topics().await?;
    }
    for topic in missing {
        let (outcome, said) = if dry_run { ("missing", "would be created") } else { ("created", "created") };
        let (partitions, replicas) = (kafka.partitions, kafka.replication_factor);
        output.say(
            &json!({ "topic": topic, "outcome": outcome }),
            format!("{topic} {said}: {partitions} partitions, {replicas} replicas"),
        )?;
    }
    Ok(Verdict::Fine)
}

/// Lists what differs from what it should be.
pub async fn check(admin: &Admin, kafka: &KafkaSettings, output: &mut Output<'_>) -> Result<Verdict> {
    let mut checks = judge(admin, kafka).await?;
    checks.retain(|check| check.status != Status::Ok);
    if checks.is_empty() {
        output.note(format!("{} and {} are as they should be", kafka.topic, kafka.dlq_topic))?;
    }
    check::report(&checks, output)
}

/// Everything about both topics that the promise rests on.
pub async fn judge(admin: &Admin, kafka: &KafkaSettings) -> Result<Vec<Check>, AdminError> {
    let main = admin.describe(&kafka.topic).await?;
    let dlq = admin.describe(&kafka.dlq_topic).await?;
    let mut checks = judge_one(&main, kafka);
    if main.partitions > 0 {
        checks.push(main_takes(&main));
    }
    checks.extend(judge_one(&dlq, kafka));
    if dlq.partitions > 0 && main.partitions > 0 {
        checks.push(dlq_takes(&dlq, &main));
    }
    Ok(checks)
}

fn judge_one(topic: &TopicReport, kafka: &KafkaSettings) -> Vec<Check> {
    let name = |what: &str| format!("{}: {what}", topic.name);
    let set = |setting: &str| {
        format!("kafka-configs --alter --entity-type topics --entity-name {} --add-config {setting}", topic.name)
    };
    if topic.partitions == 0 {
        let there = Check::ok(name("topic"), "missing", "there");
        return vec![there.with(Status::Wrong, "holdfastctl topics create")];
    }
    let (partitions, replicas) = (topic.partitions, topic.replication_factor);
    let wanted_partitions = usize::try_from(kafka.partitions).unwrap_or_default();
    let mut checks = vec![
        Check::ok(name("partitions"), partitions.to_string(), format!("{wanted_partitions} (KAFKA_PARTITIONS)"))
            .unless(
                partitions == wanted_partitions,
                Status::Warning,
                "set KAFKA_PARTITIONS to what is there; adding partitions moves chats between them",
            ),
        Check::ok(name("replication factor"), replicas.to_string(), "3").unless(
            replicas >= 3,
            if replicas < 2 { Status::Wrong } else { Status::Warning },
            "kafka-reassign-partitions to three brokers; KAFKA_REPLICATION_FACTOR is for new topics alone",
        ),
        known(name("min.insync.replicas"), topic.min_insync_replicas, "2", |in_sync, check| {
            check.unless(in_sync >= 2, Status::Wrong, set("min.insync.replicas=2")).unless(
                in_sync < replicas || replicas < 2,
                Status::Warning,
                "fewer than the replicas, or one broker that is away stops every publish",
            )
        }),
        retention(topic, name("retention"), set("retention.ms=604800000")),
        known(name("retention.bytes"), topic.retention_bytes, "-1", |bytes, check| {
            check.unless(bytes < 0, Status::Warning, set("retention.bytes=-1"))
        }),
        known(name("unclean.leader.election.enable"), topic.unclean_leader_election, "false", |unclean, check| {
            check.unless(!unclean, Status::Wrong, set("unclean.leader.election.enable=false"))
        }),
    ];
    checks.push(known(name("cleanup.policy"), topic.cleanup_policy.clone(), "delete", |policy, check| {
        check.unless(policy == "delete", Status::Wrong, set("cleanup.policy=delete"))
    }));
    checks
}

fn retention(topic: &TopicReport, name: String, mend: String) -> Check {
    let wanted = i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX);
    let mut check = known(name, topic.retention_ms, "7days or more", |ms, check| {
        check.unless(ms < 0 || ms >= wanted, Status::Wrong, mend)
    });
    if let Some(ms) = topic.retention_ms {
        check.found = if ms < 0 { "for ever".into() } else { time::length(ms) };
    }
    check
}

fn main_takes(main: &TopicReport) -> Check {
    known(format!("{}: max.message.bytes", main.name), main.max_message_bytes, &format!("{BATCH_BYTES} or more"), {
        |bytes, check| check.unless(bytes >= BATCH_BYTES, Status::Wrong, format!("raise it to {BATCH_BYTES} at least"))
    })
}

fn dlq_takes(dlq: &TopicReport, main: &TopicReport) -> Check {
    let wanted = main.max_message_bytes.unwrap_or_default() + DLQ_HEADROOM;
    known(
        format!("{}: max.message.bytes", dlq.name),
        dlq.max_message_bytes.filter(|_| main.max_message_bytes.is_some()),
        &format!("{wanted} or more (the main topic's and {DLQ_HEADROOM})"),
        |bytes, check| {
            check.unless(
                bytes >= wanted,
                Status::Wrong,
                "raise it, or a dead letter may not fit and stops its partition",
            )
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sound() -> TopicReport {
        TopicReport {
            name: "t".into(),
            partitions: 8,
            replication_factor: 3,
            min_insync_replicas: Some(2),
            retention_ms: Some(604_800_000),
            retention_bytes: Some(-1),
            max_message_bytes: Some(1_048_588),
            cleanup_policy: Some("delete".into()),
            unclean_leader_election: Some(false),
        }
    }

    fn worst(topic: TopicReport) -> Option<Status> {
        judge_one(&topic, &KafkaSettings::default()).iter().map(|check| check.status).max()
    }

    #[test]
    fn a_sound_topic_draws_no_remark_and_each_weakness_does() {
        assert_eq!(worst(sound()), Some(Status::Ok));
        for (weak, status) in [
            (TopicReport { replication_factor: 1, ..sound() }, Status::Wrong),
            (TopicReport { replication_factor: 2, ..sound() }, Status::Warning),
            (TopicReport { min_insync_replicas: Some(1), ..sound() }, Status::Wrong),
            (TopicReport { min_insync_replicas: Some(3), ..sound() }, Status::Warning),
            (TopicReport { min_insync_replicas: None, ..sound() }, Status::Unknown),
            (TopicReport { retention_ms: Some(604_799_999), ..sound() }, Status::Wrong),
            (TopicReport { retention_ms: Some(-1), ..sound() }, Status::Ok),
            (TopicReport { retention_bytes: Some(1), ..sound() }, Status::Warning),
            (TopicReport { cleanup_policy: Some("compact".into()), ..sound() }, Status::Wrong),
            (TopicReport { unclean_leader_election: Some(true), ..sound() }, Status::Wrong),
            (TopicReport { partitions: 4, ..sound() }, Status::Warning),
            (TopicReport { partitions: 0, ..sound() }, Status::Wrong),
        ] {
            assert_eq!(worst(weak.clone()), Some(status), "{weak:?}");
        }
        let small = TopicReport { max_message_bytes: Some(1_048_588), ..sound() };
        assert_eq!(dlq_takes(&small, &sound()).status, Status::Wrong);
    }
}
