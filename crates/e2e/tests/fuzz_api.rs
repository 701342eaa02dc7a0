//! schemathesis asks a gateway whatever its description allows, and what it does not; nothing may come back that is not described.

use std::path::PathBuf;
use std::process::Stdio;

use anyhow::{Context, Result, ensure};
use holdfast_e2e::{Backends, Stack, StackOptions};
use holdfast_testkit::{shared, unique};
use tokio::process::Command;

/// As `scripts/servers --tests` installs it.
const VERSION: &str = "4.32.5";
/// How many requests it makes up for each operation, unless `HOLDFAST_FUZZ_API_SECONDS` says how long it asks.
const EXAMPLES: &str = "10";
/// What it asks, so that a change is to blame for what it finds. A run of a given length draws its own.
const SEED: &str = "1";

fn schemathesis() -> Result<PathBuf> {
    let home = || Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache"));
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home).map(|dir| dir.join("holdfast"));
    let cache = std::env::var_os("HOLDFAST_CACHE").map(PathBuf::from).or(cache).context("no cache folder")?;
    let program = cache.join(format!("tools/schemathesis-{VERSION}/bin/schemathesis"));
    ensure!(program.exists(), "{} is missing; scripts/servers --tests installs it", program.display());
    Ok(program)
}

#[tokio::test(flavor = "multi_thread")]
async fn schemathesis_finds_nothing() -> Result<()> {
    let stack = Stack::start(&Backends::from(shared().await), StackOptions::default()).await?;
    let longer = std::env::var("HOLDFAST_FUZZ_API_SECONDS").ok();
    let folder = std::env::temp_dir().join(unique("schemathesis"));
    std::fs::create_dir_all(&folder)?;
    let mut command = Command::new(schemathesis()?);
    command.current_dir(&folder).kill_on_drop(true).stdin(Stdio::null());
    command.args(["run", &format!("{}/api-docs/openapi.json", stack.url())]);
    command.args(["--header", &format!("Authorization: Bearer {}", stack.token("fuzzer"))]);
    // Some rules no schema can state: that cursors come from answers, that two names of one thing agree.
    command.args(["--checks", "all", "--exclude-checks", "positive_data_acceptance"]);
    command.args(["--continue-on-failure", "--no-color"]);
    match &longer {
        Some(seconds) => command.args(["--max-time", seconds]),
        None => command.args(["--seed", SEED, "--max-examples", EXAMPLES]),
    };
    let output = command.output().await?;
    std::fs::remove_dir_all(&folder)?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    // It asked enough to be believed: "  1712 generated, 1712 passed, 42 skipped".
    let cases = text.lines().filter_map(|line| line.trim().split_once(" generated,")?.0.parse::<u32>().ok());
    ensure!(cases.sum::<u32>() >= 100, "asked too little:\n{text}");
    Ok(())
}
