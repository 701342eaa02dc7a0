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

/// Creates those that are missing. Of those that are there it changes one thing: a dead-letter topic with limited
/// retention is set to unlimited. Wrong: it still deletes records afterwards.
pub async fn create(admin: &Admin, kafka: &KafkaSettings, dry_run: bool, output: &mut Output<'_>) -> Result<Verdict> {
    let mut missing = Vec::new();
    let mut deletes = false;
    for topic in [&kafka.topic, &kafka.dlq_topic] {
        let found = admin.describe(topic).await?;
        if found.partitions == 0 {
            missing.push(topic);
        } else if *topic == kafka.dlq_topic && found.deletes_records() {
            deletes = true;
        } else {
            output.say(&json!({ "topic": topic, "outcome": "there" }), format!("{topic} is there already"))?;
        }
    }
    if !dry_run && (deletes || !missing.is_empty()) {
        admin.ensure_topics().await?;
    }
    let mut verdict = Verdict::Fine;
    if deletes {
        let topic = &kafka.dlq_topic;
        let (outcome, said) = if dry_run {
            ("deletes", "is there already, and would be set to keep its records for ever")
        } else if admin.describe(topic).await?.deletes_records() {
            verdict = Verdict::Wrong;
            ("deletes", "is there already, and still deletes its records: the broker does not let us change that")
        } else {
            ("corrected", "is there already, and keeps its records for ever from now on")
        };
        output.say(&json!({ "topic": topic, "outcome": outcome }), format!("{topic} {said}"))?;
    }
    for topic in missing {
        let (outcome, said) = if dry_run { ("missing", "would be created") } else { ("created", "created") };
        let (partitions, replicas) = (kafka.partitions, kafka.replication_factor);
        output.say(
            &json!({ "topic": topic, "outcome": outcome }),
            format!("{topic} {said}: {partitions} partitions, {replicas} replicas"),
        )?;
    }
    Ok(verdict)
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
    let mut checks = judge_one(&main, kafka, false);
    if main.partitions > 0 {
        checks.push(main_takes(&main));
    }
    checks.extend(judge_one(&dlq, kafka, true));
    if dlq.partitions > 0 && main.partitions > 0 {
        checks.push(dlq_takes(&dlq, &main));
    }
    Ok(checks)
}

/// `forever`: records must not be deleted at all, as dead letters.
fn judge_one(topic: &TopicReport, kafka: &KafkaSettings, forever: bool) -> Vec<Check> {
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
        retention(topic, name("retention"), forever, set),
        known(name("retention.bytes"), topic.retention_bytes, "-1", |bytes, check| {
            let status = if forever { Status::Wrong } else { Status::Warning };
            check.unless(bytes < 0, status, set("retention.bytes=-1"))
        }),
        known(name("message.timestamp.type"), topic.timestamp_type.clone(), "LogAppendTime", |kind, check| {
            // With the producers' stamps, one wrong clock deletes records early, or keeps them from being deleted.
            check.unless(kind == "LogAppendTime", Status::Warning, set("message.timestamp.type=LogAppendTime"))
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

fn retention(topic: &TopicReport, name: String, forever: bool, set: impl Fn(&str) -> String) -> Check {
    let least = if forever { i64::MAX } else { i64::try_from(RETENTION.as_millis()).unwrap_or(i64::MAX) };
    let (wanted, mend) =
        if forever { ("for ever", set("retention.ms=-1")) } else { ("7days or more", set("retention.ms=604800000")) };
    let mut check =
        known(name, topic.retention_ms, wanted, |ms, check| check.unless(ms < 0 || ms >= least, Status::Wrong, mend));
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
            timestamp_type: Some("LogAppendTime".into()),
        }
    }

    fn worst(topic: TopicReport) -> Option<Status> {
        judge_one(&topic, &KafkaSettings::default(), false).iter().map(|check| check.status).max()
    }

    #[test]
    fn a_dead_letter_topic_may_delete_nothing() {
        let dead = || TopicReport { retention_ms: Some(-1), ..sound() };
        for (topic, status) in [
            (dead(), Status::Ok),
            (TopicReport { retention_ms: Some(604_800_000), ..dead() }, Status::Wrong),
            (TopicReport { retention_ms: Some(i64::MAX - 1), ..dead() }, Status::Wrong),
            (TopicReport { retention_bytes: Some(1 << 40), ..dead() }, Status::Wrong),
            (TopicReport { retention_ms: None, ..dead() }, Status::Unknown),
        ] {
            let worst = judge_one(&topic, &KafkaSettings::default(), true).iter().map(|check| check.status).max();
            assert_eq!(worst, Some(status), "{topic:?}");
        }
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
            (TopicReport { timestamp_type: Some("CreateTime".into()), ..sound() }, Status::Warning),
            (TopicReport { timestamp_type: None, ..sound() }, Status::Unknown),
            (TopicReport { partitions: 4, ..sound() }, Status::Warning),
            (TopicReport { partitions: 0, ..sound() }, Status::Wrong),
        ] {
            assert_eq!(worst(weak.clone()), Some(status), "{weak:?}");
        }
        let small = TopicReport { max_message_bytes: Some(1_048_588), ..sound() };
        assert_eq!(dlq_takes(&small, &sound()).status, Status::Wrong);
    }
}
