//! `holdfast-gateway`: reads its settings and runs until a signal stops it.

use std::process::ExitCode;

use anyhow::Context;
use holdfast_gateway::Config;
use holdfast_service::settings::{Effective, Source};
use holdfast_service::{EXIT_USAGE, lifecycle, runtime, telemetry};
use tokio::net::TcpListener;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let config = match Config::read(Source::from_process()) {
        Ok(config) => config,
        Err(errors) => {
            eprintln!("{errors}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    let runtime = runtime::build(config.value.servers.worker_threads).context("starting threads");
    match runtime.and_then(|runtime| runtime.block_on(run(config))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("holdfast-gateway: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: Effective<Config>) -> anyhow::Result<()> {
    let servers = &config.value.servers;
    telemetry::init(&servers.log_level, &servers.log_format).map_err(anyhow::Error::msg)?;
    tracing::info!(settings = config.line(), "starting");
    let stop = lifecycle::shutdown_on_signals()?;
    let own = &config.value.own;
    let clients =
        TcpListener::bind((own.bind, own.port)).await.with_context(|| format!("{}:{}", own.bind, own.port))?;
    let operators = TcpListener::bind(own.ops_addr).await.with_context(|| own.ops_addr.to_string())?;
    holdfast_gateway::run(config.value, clients, operators, stop).await
}
