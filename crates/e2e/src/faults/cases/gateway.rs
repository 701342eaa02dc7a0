//! Gateways that die, leave or hang.

use std::time::Duration;

use anyhow::Result;

use crate::faults::Scene;
use crate::load::Device;

/// Answers are held back on their way to the clients, so that at any moment many sends have Kafka's and not yet the client's.
pub(super) async fn killed_before_answer(scene: &mut Scene) -> Result<()> {
    for number in 0..scene.rig.stack.gateways.len() {
        scene.rig.lines.clients[number].latency(Duration::from_millis(800));
        scene.rest(2.0).await;
        scene.rig.kill_gateway(number).await?;
        scene.rest(0.5).await;
        scene.rig.lines.clients[number].heal().await?;
        scene.rig.start_again(&scene.rig.stack.gateways[number]).await?;
    }
    Ok(())
}

pub(super) async fn terminated(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.kafka.iter().for_each(|line| line.latency(Duration::from_millis(300)));
    for gateway in &scene.rig.stack.gateways {
        scene.rest(1.5).await;
        scene.rig.terminate(gateway).await?;
        scene.rig.start_again(gateway).await?;
    }
    Ok(())
}

pub(super) async fn frozen(scene: &mut Scene) -> Result<()> {
    scene.freeze_gateway(0, 8.0).await
}

/// One gateway is cut off from every server but MongoDB, and its clients from nothing: some wait for it, some go to the other and repeat
/// there what it has not answered.
pub(super) async fn isolated(scene: &mut Scene) -> Result<()> {
    scene.rig.note(|circumstances| circumstances.cache_was_away = true);
    let lines = &scene.rig.lines;
    let of_gateway = [&lines.kafka[0], &lines.cache[0], &lines.queue[0]];
    of_gateway.iter().for_each(|line| line.blackhole());
    let cut_off = scene.rig.client_urls().swap_remove(0);
    for _ in 0..6 {
        scene.rest(1.0).await;
        let there = |device: &&Device| device.connection().is_some_and(|connection| connection.gateway == cut_off);
        let there: Vec<_> = scene.load.devices().iter().filter(there).collect();
        if let Some(device) = scene.rng.choice(there) {
            device.cut();
        }
    }
    for line in of_gateway {
        line.heal().await?;
    }
    scene.rest(4.0).await;
    Ok(())
}
