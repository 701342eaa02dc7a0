//! The workloads. Each starts its subject, loads it, and gives figures.

mod drain;
mod fan_out;
mod growth;
mod history;
mod idle;
mod loops;
mod outage;
mod publish;
mod records;
mod replay;
mod script;

use anyhow::Result;

use crate::subject::{Subject, Workload};
use crate::target::Bench;
use crate::values::Values;

/// Measures one subject under one workload.
///
/// # Errors
/// The subject can't be started, does not do what the workload needs, or a server does not answer.
pub async fn run(workload: Workload, bench: &Bench, subject: Subject) -> Result<Values> {
    match workload {
        Workload::Closed100 => loops::closed(bench, subject, 100).await,
        Workload::Closed2k => loops::closed(bench, subject, 2000).await,
        Workload::Open => loops::open(bench, subject).await,
        Workload::History => history::run(bench, subject).await,
        Workload::Idle => idle::run(bench, subject).await,
        Workload::Drain => drain::run(bench, subject).await,
        Workload::Publish => publish::run(bench).await,
        Workload::Script => script::run(bench).await,
        Workload::FanOut => fan_out::run(bench, subject).await,
        Workload::OutageFrozen => outage::run(bench, subject, outage::Break::Freeze).await,
        Workload::OutageRefused => outage::run(bench, subject, outage::Break::Kill).await,
        Workload::Replay => replay::run(bench, subject).await,
        Workload::Growth => growth::run(bench, subject).await,
    }
}

/// Records that Kafka takes before anything is measured.
const WARM_UP: usize = 30_000;

/// Lets the servers do some work that does not count.
///
/// # Errors
/// They don't do it.
pub async fn warm_up(bench: &Bench) -> Result<()> {
    publish::some(bench, WARM_UP).await.map(drop)
}
