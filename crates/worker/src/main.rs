//! `holdfast-worker`: see the library.

use std::process::ExitCode;

use holdfast_service::settings::Source;
use holdfast_service::{EXIT_USAGE, lifecycle, runtime, telemetry};
use holdfast_worker::config::Config;
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
    let servers = &config.value.servers;
    if let Err(error) = telemetry::init(&servers.log_level, &servers.log_format) {
        eprintln!("{error}");
        return ExitCode::from(EXIT_USAGE);
    }
    tracing::info!(settings = config.line(), "starting");
    let code = match serve(config.value) {
        Ok(()) => 0,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ending");
            1
        }
    };
    // Not by returning: a thread may still be leaving the group, and librdkafka does not bound that.
    std::process::exit(code)
}

fn serve(config: Config) -> anyhow::Result<()> {
    let runtime = runtime::build(config.servers.worker_threads)?;
    let ended = runtime.block_on(async {
        let stop = lifecycle::shutdown_on_signals()?;
        let listener = TcpListener::bind(config.worker.ops_addr).await?;
        anyhow::Ok(holdfast_worker::run(config, listener, stop).await?)
    });
    runtime.shutdown_background();
    ended
}
