//! Builds that break the promise, on purpose: the judge must find what they lose. A checker that is always content proves nothing.

use anyhow::{Result, ensure};
use holdfast_e2e::eventually;
use holdfast_e2e::faults::{Case, RigOptions, Scene};
use holdfast_e2e::ledger::judge::Fault;
use holdfast_testkit::Proxy;
use std::time::Duration;

use crate::faults::run_alone;

const BUFFERED: &str = "holdfast_worker_buffer_messages";

async fn must_lose(name: &'static str, options: fn(&mut RigOptions), act: holdfast_e2e::faults::Act) -> Result<()> {
    let case = Case { name, about: "", quick: false, soak: false, options, act };
    let row = run_alone(&case).await?;
    ensure!(row.verdict.count(Fault::Lost) > 0 && !row.is_clean(), "nothing was lost: {}", row.verdict);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_producer_that_does_not_wait_for_acknowledgements_is_found_out() -> Result<()> {
    async fn records_vanish_on_their_way(scene: &mut Scene) -> Result<()> {
        let lines = &scene.rig.lines;
        lines.kafka.iter().for_each(Proxy::blackhole);
        scene.rest(2.0).await;
        lines.cut_kafka().await;
        lines.heal_kafka().await
    }
    let options = |options: &mut RigOptions| {
        options.set("HOLDFAST_SABOTAGE", "kafka");
        options.set("KAFKA_PROPERTIES", "enable.idempotence=false,acks=0");
    };
    must_lose("acks=0", options, |scene| Box::pin(records_vanish_on_their_way(scene))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_commits_before_it_writes_is_found_out() -> Result<()> {
    async fn killed_with_a_full_buffer(scene: &mut Scene) -> Result<()> {
        scene.rig.lines.mongo_workers.blackhole();
        eventually("messages wait in the buffer", Duration::from_secs(20), async || {
            let held = scene.rig.stack.workers[0].metric(BUFFERED).await?;
            ensure!(held > 50.0, "{held}");
            Ok(())
        })
        .await?;
        // Automatic commits happen meanwhile.
        scene.rest(1.0).await;
        scene.rig.kill_worker(0).await?;
        scene.rig.lines.mongo_workers.heal().await
    }
    let options = |options: &mut RigOptions| {
        options.set("HOLDFAST_SABOTAGE", "kafka");
        let properties = "enable.auto.commit=true,enable.auto.offset.store=true,auto.commit.interval.ms=100";
        options.set("KAFKA_PROPERTIES", properties);
    };
    must_lose("commit first", options, |scene| Box::pin(killed_with_a_full_buffer(scene))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_service_that_pops_before_it_publishes_is_found_out() -> Result<()> {
    async fn kafka_stays_away(scene: &mut Scene) -> Result<()> {
        scene.rig.lines.cut_kafka().await;
        scene.rest(10.0).await;
        Ok(())
    }
    let options = |options: &mut RigOptions| options.set("HOLDFAST_SABOTAGE", "pop-first");
    must_lose("pop first", options, |scene| Box::pin(kafka_stays_away(scene))).await
}
