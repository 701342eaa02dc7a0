//! Sockets that are connected and do nothing: what one takes of a gateway's memory, and its pings of the CPU.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use futures_util::{StreamExt, TryStreamExt, stream};
use holdfast_socketio_client::Client;
use holdfast_testkit::{token, unique};
use serde_json::json;

use crate::load::TOKENS;
use crate::services::Needs;
use crate::subject::Subject;
use crate::target::{Bench, Target};
use crate::usage::{Meter, memory};
use crate::values::Values;

/// Sockets that connect first and do not count: they make the process allocate what it needs anyway.
const FIRST: usize = 100;
/// How long the process has after the last connection to return what connecting took.
const SETTLE: Duration = Duration::from_secs(5);
/// As long as from one ping to the next: less may see none.
const PING: Duration = Duration::from_secs(25);
/// How many connect at once.
const CONNECTING: usize = 32;

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    let target = bench.target(subject, Needs { gateways: 1, worker: false }).await?;
    let first = connect(bench, &target, FIRST).await?;
    tokio::time::sleep(SETTLE).await;
    let before = held(&target)?;
    let (started, meter) = (Instant::now(), Meter::start(target.processes()));
    let sockets = connect(bench, &target, bench.options.idle).await?;
    let (seconds, connecting) = (started.elapsed().as_secs_f64(), meter.spent());
    tokio::time::sleep(SETTLE).await;
    let after = held(&target)?;

    let meter = Meter::start(target.processes());
    let idle = if bench.options.quick { SETTLE } else { PING };
    tokio::time::sleep(idle).await;
    let spent = meter.spent();
    let count = sockets.len() as f64;
    let gateway =
        |spent: &BTreeMap<String, Duration>| spent.get("gateway").copied().unwrap_or_default().as_secs_f64() * 1e6;
    let mut values = Values::default();
    values.add("memory, bytes a socket", (after - before) / count);
    values.add("connections/s", count / seconds);
    values.add("CPU gateway, µs a connection", gateway(&connecting) / count);
    values.add("CPU gateway, µs a socket and second", gateway(&spent) / count / idle.as_secs_f64());
    values.add("memory before the first socket of these, MiB", before / f64::from(1 << 20));
    drop((first, sockets));
    target.end().await?;
    Ok(values)
}

fn held(target: &Target<'_>) -> Result<f64> {
    Ok(*memory(&target.processes()).get("gateway").context("no gateway")? as f64)
}

async fn connect(bench: &Bench, target: &Target<'_>, count: usize) -> Result<Vec<Client>> {
    let name = unique("idle");
    let url = target.urls().into_iter().next().context("no gateway")?;
    stream::iter(0..count)
        .map(|number| {
            let auth = json!({ "token": token(&format!("{name}-{number}"), &bench.secret, TOKENS) });
            let url = url.clone();
            async move { Client::connect_to(&url, &auth, |_| {}).await.with_context(|| format!("socket {number}")) }
        })
        .buffered(CONNECTING)
        .try_collect()
        .await
}
