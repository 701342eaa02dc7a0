//! `holdfast-faults`: the promise under faults, and the judging of histories.

use std::io::{BufReader, BufWriter};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::{Args, Parser};
use holdfast_e2e::faults::{self, CASES, Case, Row};
use holdfast_e2e::ledger::{Circumstances, Held, History, judge, whole_history};
use holdfast_e2e::load::{Load, LoadOptions};
use holdfast_socketio_client::Client;
use tokio::sync::Semaphore;

/// Breaks a part of Holdfast at a time, under load, and checks that nothing acknowledged is lost.
#[derive(Parser)]
enum Command {
    /// Runs cases, each on servers of its own.
    Run(Run),
    /// Lists the cases.
    List,
    /// Loads a running system, while you break it, and records the answers and events that clients got.
    Load(LoadCommand),
    /// Judges such a history against what the system stores and shows by now.
    Check(Check),
}

#[derive(Args)]
struct Run {
    /// Only these cases; may be given again.
    #[arg(long = "case")]
    cases: Vec<String>,
    /// Only the quick ones, which the tests run, too.
    #[arg(long, conflicts_with = "cases")]
    quick: bool,
    /// What random choices are made from.
    #[arg(long)]
    seed: Option<u64>,
    /// Instead of one case after another: random ones of them back to back under one load, for so many minutes.
    #[arg(long, value_name = "MINUTES", conflicts_with = "quick")]
    soak: Option<f64>,
    /// How many cases run at once.
    #[arg(long, default_value_t = 1)]
    jobs: usize,
    /// Writes each case's history into this folder.
    #[arg(long)]
    histories: Option<PathBuf>,
}

#[derive(Args)]
struct LoadCommand {
    /// A gateway, `http://host:port`; may be given again.
    #[arg(long = "url", required = true)]
    urls: Vec<String>,
    /// What its tokens are signed with (HS256).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// How many pairs of users.
    #[arg(long, default_value_t = 4)]
    pairs: usize,
    /// How many groups of them.
    #[arg(long, default_value_t = 2)]
    groups: usize,
    /// Messages a second, of all of them together.
    #[arg(long, default_value_t = 80.0)]
    rate: f64,
    /// For how many seconds.
    #[arg(long, default_value_t = 60.0)]
    seconds: f64,
    /// Where the history goes.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Args)]
struct Check {
    /// What `load` wrote.
    history: PathBuf,
    /// A gateway, to read history as clients do.
    #[arg(long)]
    url: String,
    /// What its tokens are signed with (HS256).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// MongoDB.
    #[arg(long)]
    mongo_url: String,
    /// Its database. Messages of others in it are left out.
    #[arg(long, default_value = "chat")]
    mongo_db: String,
    /// The cache was away meanwhile: a repeat after its answer may have been stamped anew.
    #[arg(long)]
    cache_was_away: bool,
}

#[tokio::main]
async fn main() -> Result<()> {
    match Command::parse() {
        Command::Run(options) => run(options).await,
        Command::List => {
            for case in CASES {
                println!("{:<32} {}", case.name, case.about);
            }
            Ok(())
        }
        Command::Load(options) => load(options).await,
        Command::Check(options) => check(options).await,
    }
}

async fn run(options: Run) -> Result<()> {
    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..) >> 32);
    if let Some(folder) = &options.histories {
        std::fs::create_dir_all(folder).with_context(|| format!("can't create {}", folder.display()))?;
    }
    println!("seed {seed}\n\n{}", Row::header());
    let cases = chosen(&options)?;
    let outcomes = match options.soak {
        Some(minutes) => {
            let length = Duration::from_secs_f64(minutes * 60.0);
            let outcome = faults::soak(&cases, length, seed, |line| eprintln!("{line}")).await;
            vec![report("soak", outcome, options.histories.as_deref())]
        }
        None => each(&options, cases, seed).await?,
    };
    let broken = outcomes.iter().filter(|clean| !**clean).count();
    println!("\nseed {seed}: {} of {} clean", outcomes.len() - broken, outcomes.len());
    ensure!(broken == 0, "{broken} are not");
    Ok(())
}

/// The cases that were asked for.
fn chosen(options: &Run) -> Result<Vec<&'static Case>> {
    let known = |name: &String| CASES.iter().find(|case| case.name == name);
    if let Some(unknown) = options.cases.iter().find(|name| known(name).is_none()) {
        bail!("there is no case {unknown}; `list` names them");
    }
    if options.soak.is_some()
        && let Some(name) = options.cases.iter().find(|name| known(name).is_some_and(|case| !case.soak))
    {
        bail!("{name} wants a system of its own, so it can't be part of a soak");
    }
    let asked = |case: &&Case| match &options.cases[..] {
        [] if options.soak.is_some() => case.soak,
        [] => case.quick || !options.quick,
        names => names.iter().any(|name| name == case.name),
    };
    Ok(CASES.iter().filter(asked).collect())
}

async fn each(options: &Run, cases: Vec<&'static Case>, seed: u64) -> Result<Vec<bool>> {
    let at_once = Arc::new(Semaphore::new(options.jobs.max(1)));
    let mut tasks = tokio::task::JoinSet::new();
    for case in cases {
        // Taken here, so that they begin in their order.
        let permit = Arc::clone(&at_once).acquire_owned().await?;
        let histories = options.histories.clone();
        tasks.spawn(async move {
            let outcome = faults::run(case, seed).await;
            drop(permit);
            report(case.name, outcome, histories.as_deref())
        });
    }
    Ok(tasks.join_all().await)
}

/// Prints an outcome; returns whether no fault was found.
fn report(name: &str, outcome: Result<(Row, History)>, histories: Option<&std::path::Path>) -> bool {
    match outcome {
        Ok((row, history)) => {
            println!("{}", row.line());
            if let Some(folder) = histories
                && let Err(error) = write(&history, &folder.join(format!("{name}.jsonl")))
            {
                eprintln!("{name}: can't write its history: {error:#}");
            }
            if !row.is_clean() {
                eprintln!("{}", row.complaint());
            }
            row.is_clean()
        }
        Err(error) => {
            println!("| {name} | failed |");
            eprintln!("{name}: {error:#}");
            false
        }
    }
}

fn write(history: &History, path: &std::path::Path) -> Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("can't create {}", path.display()))?;
    history.write(BufWriter::new(file))
}

async fn load(options: LoadCommand) -> Result<()> {
    let load = Load::start(&LoadOptions {
        gateways: options.urls,
        secret: options.secret,
        pairs: options.pairs,
        groups: options.groups,
        mesh: false,
        rate: options.rate,
        length: 1..300,
        seed: fastrand::u64(..),
    })
    .await?;
    tokio::time::sleep(Duration::from_secs_f64(options.seconds)).await;
    load.finish(Duration::from_secs(60)).await;
    let history = load.settle(Duration::from_secs(60)).await?;
    write(&history, &options.out)?;
    println!("{} sends written to {}", history.sent.len(), options.out.display());
    Ok(())
}

async fn check(options: Check) -> Result<()> {
    let file =
        std::fs::File::open(&options.history).with_context(|| format!("can't open {}", options.history.display()))?;
    let history = History::read(BufReader::new(file))?;
    let mut held = Held::read(&options.mongo_url, &options.mongo_db).await?;
    let chats: std::collections::BTreeMap<_, _> =
        history.sent.iter().filter_map(|sent| Some((sent.message()?.chat.to_string(), sent.sender.clone()))).collect();
    held.0.retain(|document| chats.contains_key(&document.chat));
    let mut shown = Vec::new();
    for (chat, user) in chats {
        let token = holdfast_testkit::token(&user, &options.secret, Duration::from_secs(3600));
        let (client, _events) = Client::connect(&options.url, &token).await?;
        shown.push(whole_history(&client, &chat).await?);
    }
    let circumstances = Circumstances { cache_was_away: options.cache_was_away, ..Circumstances::default() };
    let verdict = judge(&history, &held, &shown, &circumstances);
    print!("{verdict}");
    ensure!(verdict.is_clean(), "the verdict has findings");
    Ok(())
}
