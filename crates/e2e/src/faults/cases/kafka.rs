//! Kafka, as gateways see it.

use anyhow::{Result, ensure};
use holdfast_testkit::{Operation, Proxy, Resource};

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

/// The cluster, as rules call it.
const CLUSTER: &str = "kafka-cluster";

pub(super) async fn right_withdrawn(scene: &mut Scene) -> Result<()> {
    let kafka = &scene.rig.kafka;
    // For all topics: the right to write to any of them includes a producer id.
    kafka.deny(Resource::Topic, "*", Operation::Write).await?;
    kafka.deny(Resource::Cluster, CLUSTER, Operation::IdempotentWrite).await?;
    felt(scene, 3.0).await?;
    // One that starts now asks for a producer id, and gets none: it must live, with the failed queue and the history that it can read.
    let gateway = &scene.rig.stack.gateways[0];
    scene.rig.terminate(gateway).await?;
    scene.rig.start_again(gateway).await?;
    felt(scene, 5.0).await?;
    let gateway = &scene.rig.stack.gateways[0];
    ensure!(gateway.program.is_running(), "a gateway without the right has ended:\n{}", gateway.program.log_tail(5));
    let kafka = &scene.rig.kafka;
    kafka.allow(Resource::Cluster, CLUSTER).await?;
    kafka.allow(Resource::Topic, "*").await?;
    scene.rest(5.0).await;
    ensure!(gateway.program.is_running(), "a gateway has ended:\n{}", gateway.program.log_tail(5));
    Ok(())
}
