//! `holdfast-bench run`: the two scenarios on a gateway, and on a bare echo server to compare with.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::{Args, Parser};
use holdfast_bench::load::{Load, Phase};
use holdfast_bench::report::{Measured, Report, Scenario};
use holdfast_bench::stack::{DATABASE, Peer, Stack};
use holdfast_bench::stored::Messages;
use holdfast_bench::usage::{self, Watched};

/// Load on a gateway, measured.
#[derive(Parser)]
enum Command {
    /// Runs an open loop and a closed loop, and checks that MongoDB holds what was acknowledged.
    Run(Run),
}

#[derive(Args)]
struct Run {
    /// The gateway, `http://host:port`. Without it private servers and services are started.
    #[arg(long, requires = "secret")]
    url: Option<String>,
    /// What the gateway's tokens are signed with (HS256).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: Option<String>,
    /// The gateway's MongoDB, to check what was stored.
    #[arg(long)]
    mongo_url: Option<String>,
    /// Its database.
    #[arg(long, default_value = DATABASE)]
    mongo_db: String,
    /// A process whose CPU time and memory count, `name=PID`; may be given again.
    #[arg(long = "pid")]
    pids: Vec<Watched>,
    /// How many sockets; they are friends two by two.
    #[arg(long, default_value_t = 200)]
    sockets: usize,
    /// How many sends each socket keeps unanswered in the closed loop.
    #[arg(long, default_value_t = 8)]
    in_flight: usize,
    /// The open loop's sends a second.
    #[arg(long, default_value_t = 500.0)]
    rate: f64,
    /// How many seconds each loop lasts.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How many seconds of either loop come first and do not count.
    #[arg(long, default_value_t = 3.0)]
    warm_up: f64,
    /// How many seconds storing may take after the last answer.
    #[arg(long, default_value_t = 120.0)]
    drain: f64,
    /// Leaves out the echo server.
    #[arg(long)]
    no_peer: bool,
    /// Writes the numbers to this file too, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let Command::Run(options) = Command::parse();
    let report = run(&options).await?;
    println!("{report}");
    if let Some(path) = &options.json {
        let text = serde_json::to_string_pretty(&report)?;
        std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))?;
    }
    if !report.is_exactly_once() {
        bail!("not everything that was acknowledged is stored exactly once");
    }
    Ok(())
}

async fn run(options: &Run) -> Result<Report> {
    let load_before = usage::load_average();
    let secret = options.secret.clone().unwrap_or_else(|| format!("{:032x}", fastrand::u128(..)));
    let (target, stack) = match &options.url {
        Some(url) => {
            let messages = match &options.mongo_url {
                Some(mongo_url) => Some(Messages::of(mongo_url, &options.mongo_db).await?),
                None => None,
            };
            (Target { url: url.clone(), processes: options.pids.clone(), messages }, None)
        }
        None => {
            let stack = Stack::start(&secret).await?;
            let messages = Some(Messages::of(&stack.mongo_url(), DATABASE).await?);
            (Target { url: stack.url(), processes: stack.processes(), messages }, Some(stack))
        }
    };
    let ours = scenarios(options, &target, &secret).await;
    if let (Err(_), Some(stack)) = (&ours, &stack) {
        eprintln!("{}", stack.logs());
    }
    let ours = ours?;
    let mut peak_memory = usage::peak_memory(&target.processes);

    let mut theirs = Vec::new();
    if !options.no_peer {
        // The servers idle meanwhile.
        let peer = Peer::start().await?;
        let target = Target { url: peer.url(), processes: vec![peer.process()], messages: None };
        theirs = scenarios(options, &target, &secret).await?;
        peak_memory.extend(usage::peak_memory(&target.processes));
    }
    peak_memory.extend(usage::peak_memory(&[client()]));

    let mut theirs = theirs.into_iter();
    let scenarios = ours
        .into_iter()
        .map(|(name, gateway)| Scenario { name, gateway, echo: theirs.next().map(|(_, measured)| measured) })
        .collect();
    let peak_memory_mib =
        peak_memory.into_iter().map(|(name, bytes)| (name, bytes as f64 / f64::from(1 << 20))).collect();
    let processors = std::thread::available_parallelism().map_or(1, Into::into);
    Ok(Report { processors, load_before, scenarios, peak_memory_mib })
}

/// What is loaded, and what is known about it.
struct Target {
    url: String,
    processes: Vec<Watched>,
    messages: Option<Messages>,
}

async fn scenarios(options: &Run, target: &Target, secret: &str) -> Result<Vec<(String, Measured)>> {
    let load = Load::connect(&target.url, secret, options.sockets).await?;
    let (warm_up, lasting) = (Duration::from_secs_f64(options.warm_up), Duration::from_secs_f64(options.seconds));
    let drain = Duration::from_secs_f64(options.drain);

    // The open loop first: what an overload leaves behind, such as an open breaker, is no part of ordinary operation.
    load.open(options.rate, warm_up).await?;
    target.drained(&load, drain).await?;
    let open = target.measured(&load, drain, load.open(options.rate, lasting)).await?;

    load.closed(options.in_flight, warm_up).await?;
    target.drained(&load, drain).await?;
    let closed = target.measured(&load, drain, load.closed(options.in_flight, lasting)).await?;
    Ok(vec![
        (format!("open loop, {}/s, {} s", options.rate, options.seconds), open),
        (format!("closed loop, {} x {}, {} s", options.sockets, options.in_flight, options.seconds), closed),
    ])
}

impl Target {
    async fn measured(
        &self,
        load: &Arc<Load>,
        drain: Duration,
        phase: impl Future<Output = Result<Phase>>,
    ) -> Result<Measured> {
        let (before, client_before) = (usage::cpu(&self.processes), usage::cpu(&[client()]));
        let phase = phase.await?;
        let client_after = usage::cpu(&[client()]);
        let drained = self.drained(load, drain).await?;
        let after = usage::cpu(&self.processes);
        let stored = match &self.messages {
            Some(messages) => Some(messages.verify(&load.acknowledged(), &load.prefix(), drained).await?),
            None => None,
        };
        let used = before.iter().chain(&client_before).filter_map(|(name, before)| {
            let after = after.get(name).or_else(|| client_after.get(name))?;
            let micros = after.saturating_sub(*before).as_secs_f64() * 1e6;
            Some((name.clone(), micros / phase.messages as f64))
        });
        Ok(Measured { cpu_micros: used.collect(), stored, phase })
    }

    async fn drained(&self, load: &Load, limit: Duration) -> Result<Option<Duration>> {
        match &self.messages {
            Some(messages) => messages.drained(load.acknowledged().len(), limit).await,
            None => Ok(None),
        }
    }
}

fn client() -> Watched {
    Watched { name: "client".to_owned(), pid: std::process::id() }
}
