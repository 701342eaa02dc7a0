//! Gateways that die, leave or hang.

use std::time::Duration;

use anyhow::Result;

use crate::faults::Scene;

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
    scene.rig.lines.kafka_gateways.latency(Duration::from_millis(300));
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
