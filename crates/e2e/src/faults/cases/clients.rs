//! Clients that vanish, that stall, that come all at once; and everything restarting under them.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use holdfast_testkit::request;

use super::wait_for;
use crate::eventually;
use crate::faults::rig::{Pace, Store};
use crate::faults::{RigOptions, Scene};
use crate::ledger::Outcome;

/// Answers are held back for a while, so that a cut falls between a send and its answer.
pub(super) async fn cut(scene: &mut Scene) -> Result<()> {
    for line in &scene.rig.lines.clients {
        line.latency(Duration::from_millis(300));
    }
    for _ in 0..16 {
        let devices = scene.load.devices();
        devices[scene.rng.usize(..devices.len())].cut();
        scene.rest(0.4).await;
    }
    Ok(())
}

pub(super) fn heavy(options: &mut RigOptions) {
    options.unlimited();
    options.load = Pace { pairs: 1, groups: 0, mesh: false, rate: 500.0, length: 3500..4000 };
}

/// The buffers of the socket and of the kernel fill; other devices must not be affected, and this device must recover what it missed.
pub(super) async fn slow_reader(scene: &mut Scene) -> Result<()> {
    let device = &scene.load.devices()[1];
    let connection = device.connection().context("not connected")?;
    connection.client.read(false).await?;
    let gateways = &scene.rig.stack.gateways;
    let mut lagging = 0.0;
    for _ in 0..40 {
        scene.rest(0.5).await;
        lagging = 0.0;
        for gateway in gateways {
            lagging += gateway.metric("holdfast_gateway_lagging_sockets_total").await?;
        }
        if lagging > 0.0 {
            break;
        }
    }
    ensure!(lagging > 0.0, "its buffer never filled");
    scene.rest(2.0).await;
    // The gateway may have closed the connection meanwhile, which also makes the device catch up.
    let _ = connection.client.read(true).await;
    Ok(())
}

/// Longer than a heartbeat and its timeout together, which the gateway must notice although it is just writing to that device.
pub(super) async fn silent_reader(scene: &mut Scene) -> Result<()> {
    let device = &scene.load.devices()[1];
    let connection = device.connection().context("not connected")?;
    let sockets = async || {
        let mut sockets = 0.0;
        for gateway in &scene.rig.stack.gateways {
            sockets += gateway.metric("holdfast_gateway_sockets").await?;
        }
        anyhow::Ok(sockets)
    };
    let before = sockets().await?;
    connection.client.read(false).await?;
    scene.rest(3.0).await;
    // Not for a minute and more at this rate.
    scene.load.speed(0.1);
    eventually("the silent device's connection is given up", Duration::from_secs(75), async || {
        let now = sockets().await?;
        ensure!(now < before, "{now} of {before} sockets");
        Ok(())
    })
    .await?;
    // The device notices when it reads again, and comes back.
    let _ = connection.client.read(true).await;
    Ok(())
}

/// Three times the usual for a while, which is more than a user may send.
pub(super) async fn beyond_limits(scene: &mut Scene) -> Result<()> {
    let refused = async || {
        let mut refused = 0.0;
        for gateway in &scene.rig.stack.gateways {
            refused += gateway.metric(r#"holdfast_gateway_rejected_total{code="RATE_LIMITED"}"#).await?;
        }
        anyhow::Ok(refused)
    };
    let before = refused().await?;
    scene.load.speed(3.0);
    scene.rest(8.0).await;
    scene.load.speed(1.0 / 3.0);
    ensure!(refused().await? > before, "nobody was refused");
    Ok(())
}

pub(super) fn crowded(options: &mut RigOptions) {
    options.load = Pace { pairs: 10, groups: 10, mesh: true, rate: 120.0, length: 1..300 };
}

pub(super) async fn many_chats(scene: &mut Scene) -> Result<()> {
    ensure!(scene.load.chats().len() == 200, "{} chats", scene.load.chats().len());
    scene.rig.lines.cut_kafka().await;
    scene.rest(8.0).await;
    let waiting = scene.rig.failed_chats().await?;
    ensure!(waiting > 150, "only {waiting} chats wait in the failed queue");
    scene.rig.lines.heal_kafka().await?;
    scene.rig.note(|circumstances| circumstances.cache_was_away = true);
    scene.rig.cache.kill9().await?;
    scene.rest(4.0).await;
    Ok(())
}

pub(super) fn short_resend_window(options: &mut RigOptions) {
    options.set("RECENT_MAX_MESSAGES", "20");
    options.set("RESEND_WINDOW_MESSAGES", "20");
    options.load = Pace { pairs: 1, groups: 0, mesh: false, rate: 10.0, length: 1..300 };
}

/// Repeats of durable messages are answered as duplicates; their receiver, who has blocked the sender, gets no event.
pub(super) async fn blocked_sender(scene: &mut Scene) -> Result<()> {
    scene.rest(6.0).await;
    let (blocked, by) = {
        let devices = scene.load.devices();
        (devices[0].user().to_owned(), devices[2].user().to_owned())
    };
    let headers = [format!("authorization: Bearer {}", scene.rig.stack.token(&by))];
    let path = format!("/api/blocks/{blocked}");
    let block = request(scene.rig.stack.url(), "PUT", &path, &headers, "").await?;
    ensure!(block.status == 204, "{block:?}");
    // A change holds on every gateway within two seconds.
    scene.rest(2.5).await;
    let answers = scene.load.resend(&blocked, 20).await?;
    ensure!(answers.len() == 20, "{} of 20 were sent again", answers.len());
    for outcome in &answers {
        ensure!(
            matches!(outcome, Outcome::Accepted { duplicate: true, .. }),
            "a durable message's repeat: {outcome:?}"
        );
    }
    let unblock = request(scene.rig.stack.url(), "DELETE", &path, &headers, "").await?;
    ensure!(unblock.status == 204, "{unblock:?}");
    Ok(())
}

pub(super) fn small_producer_queue(options: &mut RigOptions) {
    options.unlimited();
    options.set("KAFKA_PROPERTIES", "queue.buffering.max.messages=100");
}

pub(super) async fn burst(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.kafka.iter().for_each(|line| line.latency(Duration::from_millis(400)));
    scene.load.speed(10.0);
    scene.rest(5.0).await;
    scene.load.speed(0.1);
    scene.rig.lines.heal_kafka().await?;
    let fell_back = scene.load.accepted("failed-queue");
    ensure!(fell_back > 0, "the producer's queue never was full");
    Ok(())
}

pub(super) async fn rolling_restart(scene: &mut Scene) -> Result<()> {
    scene.rig.note(|circumstances| circumstances.cache_was_away = true);
    for service in scene.rig.stack.gateways.iter().chain(&scene.rig.stack.workers) {
        scene.rig.terminate(service).await?;
        scene.rig.start_again(service).await?;
        scene.rest(1.0).await;
    }
    scene.rig.kafka.stop().await?;
    scene.rig.kafka.start_again().await?;
    scene.rest(2.0).await;
    scene.rig.queue.stop().await?;
    scene.rig.queue.start_again().await?;
    scene.rig.cache.stop().await?;
    scene.rig.cache.start_again().await?;
    scene.rest(2.0).await;
    let Store::One(mongo) = &scene.rig.mongo else { bail!("a set") };
    mongo.stop().await?;
    mongo.start_again().await?;
    let gateway = &scene.rig.stack.gateways[0];
    wait_for("a gateway has its sockets back", Duration::from_secs(20), gateway, "holdfast_gateway_sockets", |n| {
        n > 0.0
    })
    .await
}
