//! The promise under faults: each case starts the whole system on servers of its own, loads it, breaks one thing, mends it, and lets
//! [`crate::ledger`] judge the answers that clients got, what MongoDB holds and what history shows.
//!
//! * [`cases`]: what breaks.
//! * [`rig`]: the system, with a line that can be cut in front of every server.
//! * [`run`]: one case from start to verdict. [`soak`]: one random fault after another, under one load.
//! * [`table`]: what is printed.

pub mod cases;
mod disk;
mod lines;
mod questions;
pub mod rig;
pub mod table;

use std::time::Duration;

use anyhow::{Context, Result};
use fastrand::Rng;
use tokio::time::{Instant, sleep};

use crate::SECRET;
use crate::ledger::{Held, History, Reading, Span, Verdict, judge, now_ms};
use crate::load::{Load, LoadOptions};
pub use cases::{Act, CASES, Case};
pub use lines::Lines;
pub use rig::{Rig, RigOptions};
pub use table::Row;

/// How long the load runs before the fault.
const BEFORE: Duration = Duration::from_secs(2);
/// How long the load runs after the fault.
const AFTER: Duration = Duration::from_secs(3);
/// How long clients repeat sends that were not accepted.
const REPEAT: Duration = Duration::from_secs(60);
/// How long the failed queue, the topic and the buffers have to run empty. A retry service's lease is a part of it.
const DRAIN: Duration = Duration::from_secs(120);
/// How long until history shows everything: verification (2 s here) and flush intervals, on a machine that may be busy.
const SHOW: Duration = Duration::from_secs(60);
/// For how long newest pages are read then, longer than a verification holds.
const PAGES: Duration = Duration::from_secs(3);
/// The time limit for devices to catch up.
const SETTLE: Duration = Duration::from_secs(90);

/// A running system under load, as a case sees it.
pub struct Scene {
    /// The services and their servers.
    pub rig: Rig,
    /// The load on it.
    pub load: Load,
    /// The source of random choices.
    pub rng: Rng,
}

impl Scene {
    async fn start(options: RigOptions, seed: u64) -> Result<Self> {
        let load = options.load.clone();
        let rig = Rig::start(options).await?;
        let load = Load::start(&LoadOptions {
            gateways: rig.client_urls(),
            secret: SECRET.to_owned(),
            pairs: load.pairs,
            groups: load.groups,
            mesh: load.mesh,
            rate: load.rate,
            length: load.length,
            seed,
        })
        .await?;
        Ok(Self { rig, load, rng: Rng::with_seed(seed) })
    }

    /// Waits for this many seconds.
    pub async fn rest(&self, seconds: f64) {
        sleep(Duration::from_secs_f64(seconds)).await;
    }

    /// Freezes a gateway for this many seconds.
    ///
    /// # Errors
    /// The system refuses.
    pub async fn freeze_gateway(&self, number: usize, seconds: f64) -> Result<()> {
        let from_ms = now_ms();
        let gateway = &self.rig.stack.gateways[number].program;
        gateway.freeze()?;
        self.rest(seconds).await;
        gateway.thaw()?;
        self.rig.note(|circumstances| circumstances.answers_were_held.push(Span { from_ms, to_ms: now_ms() }));
        Ok(())
    }

    /// Ends the load, waits until everything is stored and shown, and judges.
    async fn judge(self) -> Result<(Verdict, History, Rig)> {
        let Self { rig, load, .. } = self;
        load.finish(REPEAT).await;
        rig.drained(DRAIN).await?;
        let chats = load.chats();
        let held = || Held::read(rig.mongo_url(), &rig.stack.key_prefix);
        // What history lacks is judged, not waited for without end: the last answer counts.
        let until = Instant::now() + SHOW;
        let mut shown = loop {
            let (held, shown) = (held().await?, rig.histories(&chats).await?);
            let stored = held.chats();
            let as_stored = |reading: &Reading| stored.get(&*reading.chat).is_none_or(|ids| reading.ids == *ids);
            if shown.iter().all(as_stored) || Instant::now() > until {
                break shown;
            }
            sleep(Duration::from_millis(500)).await;
        };
        shown.extend(rig.newest_pages(&chats, PAGES, SHOW).await?);
        let history = load.settle(SETTLE).await?;
        rig.watch_memory();
        let verdict = judge(&history, &held().await?, &shown, &rig.circumstances());
        Ok((verdict, history, rig))
    }
}

/// Runs one case from start to verdict.
///
/// # Errors
/// The system can't be started, the case does not do what it is meant to do, or the system never drains.
pub async fn run(case: &Case, seed: u64) -> Result<(Row, History)> {
    let mut options = RigOptions::default();
    (case.options)(&mut options);
    let mut scene = Scene::start(options, seed).await?;
    scene.rest(BEFORE.as_secs_f64()).await;
    (case.act)(&mut scene).await.with_context(|| format!("{}: {}", case.name, scene.rig.logs()))?;
    let ended = Instant::now();
    scene.rig.heal().await?;
    // Under load, which goes on for a while.
    let (healed, ()) = tokio::join!(scene.rig.caught_up(DRAIN), scene.rest(AFTER.as_secs_f64()));
    let healing = healed.with_context(|| scene.rig.logs())?.duration_since(ended);
    finish(case.name, scene, healing).await
}

/// Runs random cases one after the other under one load, for this long.
///
/// # Errors
/// As [`run`].
pub async fn soak(
    cases: &[&Case],
    length: Duration,
    seed: u64,
    mut report: impl FnMut(&str),
) -> Result<(Row, History)> {
    let options = RigOptions { workers: 2, ..RigOptions::default() };
    let mut scene = Scene::start(options, seed).await?;
    let started = Instant::now();
    let mut slowest = Duration::ZERO;
    while started.elapsed() < length {
        let calm = 1.0 + 2.0 * scene.rng.f64();
        scene.rest(calm).await;
        let case = cases[scene.rng.usize(..cases.len())];
        (case.act)(&mut scene).await.with_context(|| format!("{}: {}", case.name, scene.rig.logs()))?;
        scene.rig.heal().await?;
        let ended = Instant::now();
        let healing = scene.rig.caught_up(DRAIN).await.with_context(|| scene.rig.logs())?.duration_since(ended);
        slowest = slowest.max(healing);
        let (minutes, accepted) = (started.elapsed().as_secs_f64() / 60.0, scene.load.accepted_in_all());
        report(&format!(
            "{minutes:5.1} min  {:<32} healed in {:>5.1} s, {accepted} accepted so far",
            case.name,
            healing.as_secs_f64()
        ));
    }
    scene.rest(AFTER.as_secs_f64()).await;
    finish("soak", scene, slowest).await
}

async fn finish(name: &str, scene: Scene, healing: Duration) -> Result<(Row, History)> {
    let logs = scene.rig.logs();
    let (verdict, history, rig) = scene.judge().await.context(logs)?;
    let row = Row { case: name.to_owned(), verdict, healing, peak_memory: rig.peak_memory() };
    Ok((row, history))
}
