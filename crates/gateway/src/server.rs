//! From settings to a running gateway, and its end.
//!
//! [`connect`] opens the clients of the other servers, [`build`] makes the parts of the gateway from them, [`spawn`] runs background tasks and
//! listeners under a [`supervisor`], [`drain`] ends them all in order.

mod app;
mod build;
mod connect;
mod dev;
mod drain;
mod origins;
mod spawn;
mod supervisor;
mod web;

use anyhow::{Context, Result, anyhow};
use holdfast_service::ops;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use self::connect::Servers;
use self::supervisor::Supervisor;
use crate::config::Config;
use crate::metrics::Metrics;

/// Runs a gateway until the token is cancelled, then drains it.
///
/// The other servers may be away: the gateway starts without them and waits.
pub async fn run(config: Config, clients: TcpListener, operators: TcpListener, stop: CancellationToken) -> Result<()> {
    let registry = ops::registry("gateway").context("metrics")?;
    let metrics = Metrics::register(&registry).context("metrics")?;
    let servers = Servers::connect(&config, &registry, &metrics).await?;
    let draining = CancellationToken::new();
    let built = build::build(&config, &servers, &metrics, &draining)?;
    let supervisor = Supervisor::default();
    let ending = drain::Ending {
        draining,
        pipeline: built.pipeline.clone(),
        recent_retry: built.recent_retry.clone(),
        publisher: servers.publisher.clone(),
        max_sends_in_flight: config.own.max_sends_in_flight,
        grace: config.servers.shutdown_grace.0,
    };
    let serving = spawn::spawn(&config, servers, built, &supervisor, registry, (clients, operators));

    // Without one of its parts a gateway would miss something for good: it ends, and another process starts with all of them.
    let failure = tokio::select! {
        () = stop.cancelled() => None,
        () = supervisor.failed() => Some("a part of the gateway ended unexpectedly"),
    };
    ending.drain(serving, supervisor).await;
    match failure {
        Some(reason) => Err(anyhow!(reason)),
        None => Ok(()),
    }
}
