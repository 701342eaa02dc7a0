//! `holdfast-bench run`: Holdfast, its twin and their limits, measured side by side. `holdfast-bench load`: load on a gateway that runs.

mod running;

use anyhow::{Context, Result};
use clap::Parser;
use holdfast_bench::options::Options;
use holdfast_bench::runner;

/// Measures Holdfast.
#[derive(Parser)]
enum Command {
    /// Starts private servers, measures all subjects in turn, and checks that MongoDB holds what was acknowledged.
    Run(Options),
    /// Loads a gateway that runs, in an open and in a closed loop.
    Load(running::Options),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Load(options) => running::load(&options).await,
        Command::Run(options) => {
            let report = runner::run(options).await?;
            println!("{}", report.markdown());
            if let Some(path) = &report.options.json {
                let text = serde_json::to_string_pretty(&report)?;
                std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
            }
            if let Some(path) = &report.options.docs {
                report.write_into(path)?;
            }
            report.verdict()
        }
    }
}
