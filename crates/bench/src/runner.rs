//! A run: rounds in which the subjects of each workload take turns.

use anyhow::{Context, Result, ensure};

use crate::machine::{MOST_FOREIGN, Machine, calibrate};
use crate::options::Options;
use crate::report::{Measurement, Report};
use crate::servers::Servers;
use crate::subject::{Subject, Workload};
use crate::target::Bench;
use crate::usage::Others;
use crate::workloads;

/// How often a measurement that others have disturbed is repeated before it counts as failed.
const AGAIN: usize = 2;

/// Measures everything that the options name.
///
/// # Errors
/// The machine is busy, or the servers can't be started. A measurement that fails is named in the report, and the others go on.
pub async fn run(options: Options) -> Result<Report> {
    let options = options.completed()?;
    let machine = Machine::look(options.force).await?;
    eprintln!("starting the servers");
    let secret = format!("{:032x}", fastrand::u128(..));
    let bench = Bench { servers: Servers::start().await?, secret, options };
    // A broker that has just started is slow.
    workloads::warm_up(&bench).await.context("warming up Kafka")?;
    let (mut measurements, mut failures) = (Vec::new(), Vec::new());
    'rounds: for round in 0..bench.options.rounds {
        for workload in bench.options.workloads.clone() {
            for subject in turn(workload, &bench.options, round) {
                let what = format!("round {} of {}: {}: {subject}", round + 1, bench.options.rounds, workload.title());
                match measure(&bench, workload, subject, round).await {
                    Ok(measurement) => {
                        eprintln!(
                            "{what}: {}",
                            measurement
                                .values
                                .list
                                .first()
                                .map_or(String::new(), |first| { format!("{} {:.1}", first.name, first.value) })
                        );
                        measurements.push(measurement);
                    }
                    Err(error) => {
                        eprintln!("{what} failed: {error:#}");
                        failures.push(format!("{what}: {error:#}"));
                    }
                }
                if let Err(error) = ready_again(&bench, workload).await {
                    failures.push(format!("after {what}: {error:#}"));
                    // What has been measured counts.
                    break 'rounds;
                }
            }
        }
    }
    Ok(Report::new(machine, bench.options, measurements, failures))
}

/// Starts what a measurement has left frozen or ended.
async fn ready_again(bench: &Bench, workload: Workload) -> Result<()> {
    bench.servers.mend().await.context("the servers")?;
    // A broker that has just started is slow.
    if matches!(workload, Workload::OutageRefused | Workload::Replay) {
        workloads::warm_up(bench).await.context("warming up Kafka")?;
    }
    Ok(())
}

/// The subjects in the order of this round: every second one is reversed, so that what drifts meets all of them.
fn turn(workload: Workload, options: &Options, round: usize) -> Vec<Subject> {
    let chosen = workload.subjects().iter().copied().filter(|subject| options.subjects.contains(subject));
    if round.is_multiple_of(2) { chosen.collect() } else { chosen.rev().collect() }
}

/// Measures, and once more if others were busy meanwhile.
async fn measure(bench: &Bench, workload: Workload, subject: Subject, round: usize) -> Result<Measurement> {
    let mut again = AGAIN;
    loop {
        let speed = calibrate().await?;
        let others = Others::watch();
        let values = workloads::run(workload, bench, subject).await?;
        let foreign = others.percent();
        if foreign <= MOST_FOREIGN || bench.options.force {
            return Ok(Measurement { workload, subject, round, speed, foreign, values });
        }
        let names = others.names().into_iter().take(3).collect::<Vec<_>>().join(", ");
        ensure!(again > 0, "others used {foreign:.0} % of the processors meanwhile: {names}");
        eprintln!("once more: others used {foreign:.0} % of the processors meanwhile: {names}");
        again -= 1;
    }
}
