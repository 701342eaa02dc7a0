//! MongoDB, where everything ends up.

use anyhow::{Result, bail};
use holdfast_testkit::Mongo;

use crate::faults::Scene;
use crate::faults::rig::Store;

fn one(scene: &Scene) -> Result<&Mongo> {
    match &scene.rig.mongo {
        Store::One(mongo) => Ok(mongo),
        Store::Set(_) => bail!("a set"),
    }
}

pub(super) async fn down(scene: &mut Scene) -> Result<()> {
    one(scene)?.stop().await?;
    scene.rest(120.0).await;
    Ok(())
}

pub(super) async fn killed_in_bulk(scene: &mut Scene) -> Result<()> {
    for _ in 0..2 {
        scene.load.speed(4.0);
        scene.rest(1.5).await;
        let mongo = one(scene)?;
        mongo.kill9().await?;
        scene.load.speed(0.25);
        scene.rest(2.0).await;
        mongo.start_again().await?;
    }
    Ok(())
}

pub(super) async fn stepped_down(scene: &mut Scene) -> Result<()> {
    for _ in 0..2 {
        let Store::Set(set) = &scene.rig.mongo else { bail!("no set") };
        set.step_down().await?;
        scene.rest(5.0).await;
    }
    Ok(())
}
