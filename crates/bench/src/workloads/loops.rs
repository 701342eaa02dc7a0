//! The closed and the open loop of messages.

use std::time::Duration;

use anyhow::Result;

use crate::services::Needs;
use crate::subject::Subject;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

/// The open loop's rates, in messages a second.
const RATES: [u32; 12] = [100, 250, 500, 1000, 2000, 3000, 4000, 6000, 8000, 12_000, 16_000, 24_000];
/// How long each rate lasts before it counts: as much is stored of what came before as is left to be stored at the end.
const LEAD: Duration = Duration::from_secs(1);
/// A system that answers less of a rate than this has fallen behind.
const BEHIND: f64 = 0.95;
/// So has one whose 99th percentile is above this, in milliseconds.
const SLOW: f64 = 1000.0;

/// Each socket keeps a number of sends unanswered.
pub(super) async fn closed(bench: &Bench, subject: Subject, bytes: usize) -> Result<Values> {
    let options = &bench.options;
    let target = bench.target(subject, Needs::default()).await?;
    let load = target.load(bytes).await?;
    load.closed(options.in_flight, Duration::from_secs_f64(options.warm_up)).await?;
    target.drained(&load).await?;
    let lasting = Duration::from_secs_f64(options.seconds);
    let values = target.measured(&load, load.closed(options.in_flight, lasting)).await?;
    drop(load);
    target.end().await?;
    Ok(values)
}

/// Sends at rising rates until the subject falls behind.
pub(super) async fn open(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs::default()).await?;
    let load = target.load(100).await?;
    let step = Duration::from_secs_f64(bench.options.seconds / 2.0);
    load.open(200.0, Duration::from_secs_f64(bench.options.warm_up)).await?;
    let mut values = Values::default();
    let mut most: f64 = 0.0;
    for rate in RATES {
        load.open(rate.into(), LEAD).await?;
        let meter = Meter::start(target.processes());
        let phase = load.open(rate.into(), step).await?;
        let spent = meter.spent();
        most = most.max(phase.rate);
        values.add(format!("{rate}/s: answer p50, ms"), phase.answer.p50);
        values.add(format!("{rate}/s: answer p99, ms"), phase.answer.p99);
        let sum: Duration = spent.iter().filter(|(name, _)| *name != "client").map(|(_, time)| *time).sum();
        let gateway = spent.get("gateway").copied().unwrap_or_default();
        let each = |time: Duration| time.as_secs_f64() * 1e6 / phase.messages.max(1) as f64;
        values.add(format!("{rate}/s: CPU gateway, µs a message"), each(gateway));
        values.add(format!("{rate}/s: CPU all but the client, µs a message"), each(sum));
        // The last answers come after the last send.
        if phase.rate < f64::from(rate) * BEHIND || phase.answer.p99 > SLOW || !phase.errors.is_empty() {
            values.add("falls behind at, messages/s", rate.into());
            break;
        }
    }
    values.add("most answered, messages/s", most);
    target.drained(&load).await?;
    target.verify(&load, &mut values).await?;
    drop(load);
    target.end().await?;
    Ok(values)
}
