//! Workers that die, leave, hang and join; and records that can't be stored.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use holdfast_kafka::{KafkaSettings, Publisher};
use holdfast_testkit::unique;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, ResourceSpecifier};
use rdkafka::client::DefaultClientContext;

use super::wait_for;
use crate::eventually;
use crate::faults::{RigOptions, Scene};

const BUFFERED: &str = "holdfast_worker_buffer_messages";
const SOON: Duration = Duration::from_secs(20);

/// Waits until messages wait in a worker's buffer; returns which. Another one's partitions may get none.
async fn holding(scene: &Scene) -> Result<usize> {
    eventually("messages wait in a buffer", SOON, async || {
        for (number, worker) in scene.rig.stack.workers.iter().enumerate() {
            if worker.metric(BUFFERED).await? > 20.0 {
                return Ok(number);
            }
        }
        bail!("no worker holds more than 20")
    })
    .await
}

pub(super) async fn killed_before_write(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.mongo_workers.blackhole();
    let number = holding(scene).await?;
    scene.rig.kill_worker(number).await?;
    scene.rig.lines.mongo_workers.heal().await?;
    scene.rig.start_again(&scene.rig.stack.workers[number]).await
}

pub(super) async fn killed_before_commit(scene: &mut Scene) -> Result<()> {
    // First the worker gathers records, then it may store them and can't commit them any more.
    scene.rig.lines.mongo_workers.blackhole();
    holding(scene).await?;
    scene.rig.lines.kafka_workers.blackhole();
    let (stored, lag) = (scene.rig.stack.stored.count().await?, scene.rig.lag().await?);
    scene.rig.lines.mongo_workers.heal().await?;
    eventually("a flush is stored", SOON, async || {
        let now = scene.rig.stack.stored.count().await?;
        // How much of it is a flush of its own is the worker's affair.
        ensure!(now > stored, "nothing more than before");
        Ok(())
    })
    .await?;
    ensure!(scene.rig.lag().await? >= lag, "it was committed, too");
    for number in 0..scene.rig.stack.workers.len() {
        scene.rig.kill_worker(number).await?;
    }
    scene.rig.lines.kafka_workers.heal().await?;
    for worker in &scene.rig.stack.workers {
        worker.program.start_again()?;
    }
    scene.rig.stack.ready().await
}

/// A buffer that is flushed only when its worker leaves.
pub(super) fn lazy(options: &mut RigOptions) {
    options.set("FLUSH_INTERVAL_MS", "8000");
    options.set("BULK_THRESHOLD", "100000");
    options.set("MAX_BUFFER_SIZE", "200000");
}

pub(super) async fn terminated_with_full_buffer(scene: &mut Scene) -> Result<()> {
    let worker = &scene.rig.stack.workers[0];
    wait_for("the buffer fills", SOON, worker, BUFFERED, |held| held > 300.0).await?;
    let held = worker.metric(BUFFERED).await?;
    let stored = scene.rig.stack.stored.count().await?;
    scene.rig.terminate(worker).await?;
    let now = scene.rig.stack.stored.count().await?;
    ensure!((now - stored) as f64 >= held, "{held} were held, {} were stored", now - stored);
    Ok(())
}

pub(super) async fn frozen(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.mongo_workers.latency(Duration::from_millis(300));
    let worker = &scene.rig.stack.workers[0].program;
    worker.freeze()?;
    // Sessions last 6 s here.
    scene.rest(9.0).await;
    worker.thaw()?;
    scene.rest(2.0).await;
    Ok(())
}

/// A group that soon gives up a worker that does not poll.
pub(super) fn impatient(options: &mut RigOptions) {
    options.set("KAFKA_MAX_POLL_INTERVAL_MS", "7000");
    options.set("REBALANCE_FLUSH_MS", "4000");
}

pub(super) async fn slow_flush(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.mongo_workers.blackhole();
    scene.rest(12.0).await;
    scene.rig.lines.mongo_workers.heal().await?;
    let log = std::fs::read_to_string(scene.rig.stack.workers[0].program.log_path())?;
    ensure!(!log.contains("MAXPOLL") && !log.contains("max.poll.interval"), "the worker left its group");
    Ok(())
}

pub(super) async fn scaled(scene: &mut Scene) -> Result<()> {
    scene.rig.add_worker(&[]).await?;
    scene.rig.add_worker(&[]).await?;
    scene.rest(4.0).await;
    for number in [0, 1] {
        scene.rig.terminate(&scene.rig.stack.workers[number]).await?;
        scene.rest(2.0).await;
    }
    Ok(())
}

pub(super) fn small_buffer(options: &mut RigOptions) {
    options.set("MAX_BUFFER_SIZE", "100");
    options.set("BULK_THRESHOLD", "50");
}

pub(super) async fn rebalanced_while_paused(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.mongo_workers.blackhole();
    let worker = &scene.rig.stack.workers[0];
    wait_for("the worker is paused", SOON, worker, "holdfast_worker_paused", |paused| paused == 1.0).await?;
    scene.rig.add_worker(&[]).await?;
    scene.rest(4.0).await;
    Ok(())
}

/// Every record is read by two groups, so every message is stored by two workers at about the same time.
pub(super) async fn two_groups(scene: &mut Scene) -> Result<()> {
    scene.rig.add_worker(&[("KAFKA_GROUP", unique("another-group"))]).await?;
    scene.rest(8.0).await;
    let duplicates = r#"holdfast_worker_flush_messages_total{result="duplicate"}"#;
    let mut found = 0.0;
    for worker in &scene.rig.stack.workers {
        found += worker.metric(duplicates).await?;
    }
    ensure!(found > 0.0, "no message was stored twice");
    Ok(())
}

/// What no worker can store: no protobuf, a field that no gateway writes, and a text that is longer than any gateway takes.
const POISON: usize = 30;

async fn put_poison(scene: &Scene) -> Result<()> {
    let settings = KafkaSettings {
        brokers: scene.rig.kafka.brokers(),
        topic: scene.rig.stack.topic.clone(),
        ..KafkaSettings::default()
    };
    let publisher = Publisher::new(&settings)?;
    for number in 0..POISON {
        // Field 1, a string of 3 bytes, is no message id; a length beyond the end is no protobuf at all.
        let value: Vec<u8> = match number % 3 {
            0 => b"\xff\xff\xff\xff".to_vec(),
            1 => b"\x0a\x03abc".to_vec(),
            _ => vec![b'x'; 900_000],
        };
        let chat = format!("poison-{number}");
        let record = holdfast_kafka::PublishRecord { chat: &chat, value: &value, traceparent: None, uncached: false };
        publisher.publish(record).await.map_err(|error| anyhow::anyhow!("{error:?}"))?;
    }
    Ok(())
}

async fn all_dead(scene: &Scene) -> Result<()> {
    eventually("every poisoned record is a dead letter", Duration::from_secs(60), async || {
        let found = scene.rig.dead_letters().await?;
        // A worker that was stopped in between may have written one twice; none may be missing.
        ensure!(found >= POISON as i64, "{found} of {POISON}");
        Ok(())
    })
    .await
}

pub(super) async fn poison(scene: &mut Scene) -> Result<()> {
    put_poison(scene).await?;
    all_dead(scene).await
}

pub(super) async fn poison_refused(scene: &mut Scene) -> Result<()> {
    limit_dead_letters(scene, "100").await?;
    put_poison(scene).await?;
    scene.rest(6.0).await;
    let found = scene.rig.dead_letters().await?;
    ensure!(found == 0, "{found} dead letters were taken by a topic that takes none");
    ensure!(scene.rig.lag().await? > 0, "records were passed over");
    limit_dead_letters(scene, "2000000").await?;
    all_dead(scene).await
}

async fn limit_dead_letters(scene: &Scene, bytes: &str) -> Result<()> {
    let mut config = ClientConfig::new();
    config.set("bootstrap.servers", scene.rig.kafka.brokers());
    let admin: AdminClient<DefaultClientContext> = config.create()?;
    let change = AlterConfig::new(ResourceSpecifier::Topic(&scene.rig.stack.dlq_topic)).set("max.message.bytes", bytes);
    let changed = admin.alter_configs([&change], &AdminOptions::new()).await?;
    changed.into_iter().next().context("the broker said nothing")?.map_err(|(_, code)| code)?;
    Ok(())
}
