//! The failed queue, which matters while Kafka is away.

use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::Instant;

use super::wait_for;
use crate::faults::{RigOptions, Scene};
use crate::ledger::now_ms;

const REPLAYED: &str = "holdfast_failed_queue_replayed_total";

pub(super) async fn killed(scene: &mut Scene) -> Result<()> {
    scene.rig.queue.kill9().await?;
    scene.rest(4.0).await;
    Ok(())
}

pub(super) fn fsync_always(options: &mut RigOptions) {
    options.queue_args = ["--appendfsync", "always"].map(str::to_owned).into();
}

pub(super) async fn killed_full(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.cut_kafka().await;
    scene.rest(6.0).await;
    ensure!(scene.rig.failed_chats().await? > 0, "the failed queue is empty");
    scene.rig.queue.kill9().await?;
    scene.rest(2.0).await;
    scene.rig.queue.start_again().await?;
    scene.rest(2.0).await;
    Ok(())
}

pub(super) fn small(options: &mut RigOptions) {
    options.unlimited();
    options.queue_args = ["--maxmemory", "3mb"].map(str::to_owned).into();
}

pub(super) async fn out_of_memory(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.cut_kafka().await;
    scene.load.speed(6.0);
    wait_for(
        "the queue is full and sends are refused",
        Duration::from_secs(60),
        &scene.rig.stack.gateways[0],
        r#"holdfast_gateway_messages_total{outcome="refused"}"#,
        |refused| refused > 50.0,
    )
    .await?;
    scene.load.speed(1.0 / 6.0);
    Ok(())
}

/// Gateways start although the queue's server would lose what it is given.
fn not_required(options: &mut RigOptions) {
    options.set("FAILED_QUEUE_REQUIRED", "false");
}

pub(super) fn evicting(options: &mut RigOptions) {
    not_required(options);
    options.queue_args = ["--maxmemory-policy", "allkeys-lru"].map(str::to_owned).into();
}

pub(super) fn without_aof(options: &mut RigOptions) {
    not_required(options);
    options.queue_args = ["--appendonly", "no"].map(str::to_owned).into();
}

/// In a file, so that a restart finds what was switched on.
pub(super) fn settings_without_aof(options: &mut RigOptions) {
    without_aof(options);
    options.queue_settings_in_a_file = true;
}

/// Until its first rewrite has finished, an append-only file that says `yes` keeps nothing.
pub(super) async fn aof_switched_on(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.cut_kafka().await;
    let set = |name: &'static str, value: &'static str| {
        let mut command = redis::cmd("CONFIG");
        command.arg("SET").arg(name).arg(value);
        command
    };
    let queue = &scene.rig.queue;
    // One key that takes ten seconds to write, as a large data set would.
    scene.rig.ask::<()>(queue, redis::cmd("SET").arg("filler").arg("x")).await?;
    scene.rig.ask::<()>(queue, &set("rdb-key-save-delay", "10000000")).await?;
    scene.rig.ask::<()>(queue, &set("appendonly", "yes")).await?;
    scene.rig.ask::<()>(queue, redis::cmd("CONFIG").arg("REWRITE")).await?;
    // The gateways look at the settings again when they connect.
    for line in &scene.rig.lines.queue {
        line.reset();
    }
    scene.rest(6.0).await;
    let state: String = scene.rig.ask(queue, redis::cmd("INFO").arg("persistence")).await?;
    ensure!(state.contains("aof_rewrite_in_progress:1"), "the first rewrite has ended already: {state}");
    queue.kill9().await?;
    scene.rest(1.0).await;
    queue.start_again().await?;
    // What is whole from its first record on is trusted.
    let before = scene.load.accepted("failed-queue");
    scene.rest(8.0).await;
    ensure!(scene.load.accepted("failed-queue") > before, "an append-only file that is whole is refused");
    Ok(())
}

/// A queue that can't be trusted takes nothing.
pub(super) async fn refuses(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.cut_kafka().await;
    scene.rest(6.0).await;
    ensure!(scene.load.accepted("failed-queue") == 0, "a queue that may lose messages took some");
    ensure!(scene.rig.failed_chats().await? == 0, "a queue that may lose messages holds some");
    Ok(())
}

/// Making one takes a privilege; without it the case says so and fails.
pub(super) fn on_small_disk(options: &mut RigOptions) {
    options.small_queue_disk = true;
}

pub(super) async fn disk_full(scene: &mut Scene) -> Result<()> {
    let folder = scene.rig.queue.folder().path().to_owned();
    scene.rig.lines.cut_kafka().await;
    scene.rest(3.0).await;
    ensure!(scene.rig.failed_chats().await? > 0, "the failed queue is empty");
    let filler = folder.join("filler");
    // As much as there is room for; that the last write fails is the point.
    let _ = std::fs::write(&filler, vec![0_u8; 8 << 20]);
    let gateway = &scene.rig.stack.gateways[0];
    let refused = r#"holdfast_gateway_messages_total{outcome="refused"}"#;
    wait_for("sends are refused", Duration::from_secs(30), gateway, refused, |refused| refused > 0.0).await?;
    std::fs::remove_file(&filler)?;
    scene.rest(3.0).await;
    Ok(())
}

pub(super) async fn everything_down(scene: &mut Scene) -> Result<()> {
    scene.rig.note(|circumstances| circumstances.cache_was_away = true);
    scene.rig.lines.cut_kafka().await;
    scene.rig.queue.kill9().await?;
    scene.rig.cache.kill9().await?;
    scene.rest(1.0).await;
    let since = now_ms();
    scene.rest(8.0).await;
    let accepted = scene.load.accepted_since(since);
    ensure!(accepted.is_empty(), "accepted while nothing durable was there: {accepted:?}");
    Ok(())
}

pub(super) fn slow_replay(options: &mut RigOptions) {
    options.set("FAILED_QUEUE_REPLAY_RATE", "20");
}

/// Lets the failed queue fill and the replays begin; returns a gateway that is at it.
async fn replaying(scene: &mut Scene) -> Result<usize> {
    scene.rig.lines.cut_kafka().await;
    scene.rest(6.0).await;
    ensure!(scene.rig.failed_chats().await? > 0, "the failed queue is empty");
    scene.rig.lines.heal_kafka().await?;
    let until = Instant::now() + Duration::from_secs(60);
    loop {
        for (number, gateway) in scene.rig.stack.gateways.iter().enumerate() {
            if gateway.metric(REPLAYED).await? > 10.0 {
                return Ok(number);
            }
        }
        ensure!(Instant::now() < until, "no gateway replays");
        scene.rest(0.1).await;
    }
}

pub(super) async fn retry_killed(scene: &mut Scene) -> Result<()> {
    replaying(scene).await?;
    // Replays reach Kafka, and their removals never reach the queue.
    for line in &scene.rig.lines.queue {
        line.blackhole();
    }
    scene.rest(1.5).await;
    for number in 0..scene.rig.stack.gateways.len() {
        scene.rig.kill_gateway(number).await?;
    }
    ensure!(scene.rig.failed_chats().await? > 0, "the failed queue is empty: nothing was left to be removed");
    for line in &scene.rig.lines.queue {
        line.reset();
    }
    Ok(())
}

pub(super) async fn retry_frozen(scene: &mut Scene) -> Result<()> {
    let number = replaying(scene).await?;
    ensure!(scene.rig.failed_chats().await? > 0, "the replays are over already");
    // Longer than the lease of 30 s.
    scene.freeze_gateway(number, 33.0).await
}
