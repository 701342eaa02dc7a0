//! Kafka, as gateways see it.

use anyhow::{Result, ensure};
use holdfast_testkit::Proxy;

use crate::faults::Scene;

/// How many sends the failed queue has taken.
fn fell_back(scene: &Scene) -> usize {
    scene.load.accepted("failed-queue")
}

async fn felt(scene: &mut Scene, seconds: f64) -> Result<()> {
    let before = fell_back(scene);
    scene.rest(seconds).await;
    ensure!(fell_back(scene) > before, "kafka's absence went unnoticed");
    Ok(())
}

pub(super) async fn refused(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.cut_kafka().await;
    felt(scene, 8.0).await
}

pub(super) async fn black_holed(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.kafka.iter().for_each(Proxy::blackhole);
    felt(scene, 8.0).await
}

pub(super) async fn answers_lost(scene: &mut Scene) -> Result<()> {
    scene.rig.lines.kafka.iter().for_each(Proxy::drop_answers);
    felt(scene, 6.0).await
}

pub(super) async fn reset(scene: &mut Scene) -> Result<()> {
    for _ in 0..5 {
        scene.rig.lines.kafka.iter().for_each(Proxy::reset);
        scene.rig.lines.kafka_workers.reset();
        scene.rest(2.0).await;
    }
    Ok(())
}

pub(super) async fn killed(scene: &mut Scene) -> Result<()> {
    scene.rig.kafka.kill9().await?;
    felt(scene, 6.0).await
}
