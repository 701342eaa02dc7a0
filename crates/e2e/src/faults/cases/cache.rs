//! The cache. Whatever happens to it, nothing durable depends on it.

use anyhow::{Result, ensure};

use crate::faults::Scene;

fn away(scene: &Scene) {
    scene.rig.note(|circumstances| circumstances.cache_was_away = true);
}

/// Sends that the recent list did not take, on all gateways.
async fn skipped(scene: &Scene) -> Result<f64> {
    let mut skipped = 0.0;
    for gateway in &scene.rig.stack.gateways {
        skipped += gateway.metric("holdfast_gateway_recent_skipped_total").await?;
    }
    Ok(skipped)
}

async fn felt(scene: &mut Scene, seconds: f64) -> Result<()> {
    let before = skipped(scene).await?;
    scene.rest(seconds).await;
    ensure!(skipped(scene).await? > before, "the cache's absence went unnoticed");
    Ok(())
}

pub(super) async fn killed(scene: &mut Scene) -> Result<()> {
    away(scene);
    scene.rig.cache.kill9().await?;
    felt(scene, 5.0).await
}

pub(super) async fn frozen(scene: &mut Scene) -> Result<()> {
    away(scene);
    scene.rig.cache.freeze()?;
    felt(scene, 8.0).await
}

pub(super) async fn flushed(scene: &mut Scene) -> Result<()> {
    away(scene);
    for _ in 0..3 {
        scene.rig.ask::<()>(&scene.rig.cache, &redis::cmd("FLUSHALL")).await?;
        scene.rest(1.5).await;
    }
    Ok(())
}

pub(super) async fn key_evicted(scene: &mut Scene) -> Result<()> {
    away(scene);
    let chats = scene.load.chats();
    let mut evicted = 0;
    for _ in 0..12 {
        let chat = &chats[scene.rng.usize(..chats.len())].id;
        let part = ["", ":ids", ":head"][scene.rng.usize(..3)];
        let key = format!("{}:recent:{{{chat}}}{part}", scene.rig.stack.key_prefix);
        evicted += scene.rig.ask::<u32>(&scene.rig.cache, redis::cmd("DEL").arg(key)).await?;
        scene.rest(0.4).await;
    }
    ensure!(evicted > 0, "no key was there to be evicted");
    Ok(())
}

pub(super) async fn link_blinking(scene: &mut Scene) -> Result<()> {
    away(scene);
    for _ in 0..10 {
        scene.rig.lines.cache[0].cut().await;
        scene.rest(0.3).await;
        scene.rig.lines.cache[0].heal().await?;
        scene.rest(0.7).await;
    }
    Ok(())
}
