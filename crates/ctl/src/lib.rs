//! `holdfastctl`, the operator's command line: looks at what the services hold, moves what got stuck, and checks what the promise rests
//! on.
//!
//! One module a command. Each takes its connections and an [`Output`] as arguments, and ends with a [`Verdict`]:
//!
//! * [`failed`]: the failed queue. [`dlq`]: the dead-letter topic. Both replay what they hold by the services' own way.
//! * [`cache`]: cached values of the store.
//! * [`topics`], [`lag`]: Kafka.
//! * [`verify`]: what Kafka had against what MongoDB has.
//! * [`doctor`]: every setting that the promise rests on.
//! * [`token`], [`disconnect`]: users.
//!
//! Settings are the services' own ([`settings`]). What a program may rely on is the JSON form, one object a line, and the exit code
//! ([`exit`]). Whatever is replayed, disconnected or forgotten leaves a line in the log ([`audit`]).

pub mod args;
pub mod audit;
pub mod cache;
pub mod check;
pub mod disconnect;
pub mod dlq;
pub mod doctor;
pub mod exit;
pub mod failed;
pub mod lag;
pub mod log_range;
pub mod output;
pub mod settings;
pub mod time;
pub mod token;
pub mod topics;
pub mod verify;

use std::time::Duration;

use anyhow::Result;
use args::{CacheCommand, Command, DlqCommand, FailedCommand, TopicsCommand};
use exit::Verdict;
use output::Output;
use settings::Settings;

/// The time limit of one call: only the operator waits for a command.
pub const BUDGET: Duration = Duration::from_secs(10);

/// Does what the command line says.
pub async fn run(command: Command, settings: &Settings, output: &mut Output<'_>) -> Result<Verdict> {
    match command {
        Command::Failed(FailedCommand::List) => failed::list::run(&settings.failed_queue()?, output).await,
        Command::Failed(FailedCommand::Show(args)) => failed::show::run(&settings.failed_queue()?, &args, output).await,
        Command::Failed(FailedCommand::Export(args)) => {
            failed::export::run(&settings.failed_queue()?, &args, output).await
        }
        Command::Failed(FailedCommand::Replay(args)) => {
            let (queue, topics) = (settings.failed_queue()?, settings.topics().await?);
            failed::replay::run(&queue, &topics, &args, output).await
        }
        Command::Dlq(DlqCommand::List(filter)) => {
            dlq::list::run(&settings.admin()?, &settings.kafka(), &filter, output).await
        }
        Command::Dlq(DlqCommand::Show(args)) => {
            dlq::show::run(&settings.admin()?, &settings.kafka(), &args, output).await
        }
        Command::Dlq(DlqCommand::Replay(args)) => {
            let (topics, store) = (settings.topics().await?, settings.store().await?);
            dlq::replay::run(&topics, &store, &args, output).await
        }
        Command::Cache(CacheCommand::Stats { limit }) => {
            cache::stats(&settings.cache()?, &settings.keys()?, limit, output).await
        }
        Command::Cache(CacheCommand::Warm(args)) => {
            let (redis, keys, store) = (settings.cache()?, settings.keys()?, settings.store().await?);
            cache::warm(&redis, &keys, store, settings.layout.cache_profile_ttl.0, &args, output).await
        }
        Command::Cache(CacheCommand::Invalidate(args)) => {
            cache::invalidate(&settings.cache()?, &settings.keys()?, &args, output).await
        }
        Command::Topics(TopicsCommand::Create { dry_run }) => {
            topics::create(&settings.admin()?, &settings.kafka(), dry_run, output).await
        }
        Command::Topics(TopicsCommand::Check) => topics::check(&settings.admin()?, &settings.kafka(), output).await,
        Command::Lag => lag::run(&settings.admin()?, &settings.kafka(), settings.group(), output).await,
        Command::Verify(args) => verify::run(settings, &args, output).await,
        Command::Doctor => doctor::run(settings, output).await,
        Command::Token { user, expires } => token::run(settings, &user, expires, output),
        Command::Disconnect { user, dry_run } => {
            disconnect::run(&settings.cache()?, &settings.keys()?, &user, dry_run, output).await
        }
    }
}
