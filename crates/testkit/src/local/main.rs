//! `holdfast-local`: the whole system on this machine, for trying it out and for development. `scripts/run` builds and starts it.
//!
//! Servers first, then workers and gateways; on Ctrl-C the same in reverse. Everything it starts ends with it, however it ends.

mod env_file;
mod environment;
mod lock;
mod servers;
mod signals;
mod stack;
mod text;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Runs Holdfast on this machine: Redis, MongoDB, Kafka, gateways and workers. Ctrl-C stops everything.
///
/// Settings of the gateways and workers are taken from the environment where it has them. A server that the environment names
/// (REDIS_URL, REDIS_QUEUE_URL, MONGO_URL, KAFKA_BROKERS) is used instead of starting one.
#[derive(Debug, Parser)]
#[command(name = "holdfast-local", version)]
struct Arguments {
    #[command(subcommand)]
    mode: Option<Mode>,
    #[command(flatten)]
    options: Options,
}

#[derive(Debug, clap::Args)]
struct Options {
    /// The first gateway's port; further ones follow it.
    #[arg(long, env = "PORT", default_value_t = 3000)]
    port: u16,
    /// The folder for data and logs.
    #[arg(long, env = "HOLDFAST_DATA", default_value = ".data", value_name = "DIR")]
    data: PathBuf,
    /// How many gateways.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=50))]
    gateways: u16,
    /// How many workers.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=50))]
    workers: u16,
    /// Forget all data of earlier runs first.
    #[arg(long)]
    fresh: bool,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Only the servers, for tests: prints where they are and runs until its standard input ends.
    #[command(hide = true)]
    Servers,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("can't start a runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(async {
        match arguments.mode {
            Some(Mode::Servers) => servers::run().await,
            None => stack::run(arguments.options).await,
        }
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
