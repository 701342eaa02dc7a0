//! Load on a gateway that runs already, wherever it does.

use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use holdfast_bench::load::{Load, Phase};
use holdfast_bench::stored::Messages;
use holdfast_bench::usage::{Meter, Watched};
use holdfast_bench::values::Values;

/// What to load, and how.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// The gateway, `http://host:port`.
    #[arg(long)]
    url: String,
    /// What the gateway's tokens are signed with (HS256).
    #[arg(long, env = "JWT_SECRET", hide_env_values = true)]
    secret: String,
    /// The gateway's MongoDB, to check what was stored.
    #[arg(long)]
    mongo_url: Option<String>,
    /// Its database.
    #[arg(long, default_value = "chat")]
    mongo_db: String,
    /// A process whose CPU time counts, `name=PID`; may be given again.
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
    /// The bytes of a message's content.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    /// How many seconds each loop lasts.
    #[arg(long, default_value_t = 20.0)]
    seconds: f64,
    /// How many seconds storing may take after the last answer.
    #[arg(long, default_value_t = 120.0)]
    drain: f64,
}

pub(crate) async fn load(options: &Options) -> Result<()> {
    let messages = match &options.mongo_url {
        Some(url) => Some(Messages::of(url, &options.mongo_db).await?),
        None => None,
    };
    let load = Load::connect(&options.url, &options.secret, options.sockets, options.bytes).await?;
    let lasting = Duration::from_secs_f64(options.seconds);
    // The open loop first: what an overload leaves behind, such as an open breaker, is no part of ordinary operation.
    for name in ["open loop", "closed loop"] {
        let meter = Meter::start(options.pids.clone());
        let phase: Phase = match name {
            "open loop" => load.open(options.rate, lasting).await?,
            _ => load.closed(options.in_flight, lasting).await?,
        };
        let client = meter.client();
        let mut values = Values::default();
        values.phase(&phase);
        let limit = Duration::from_secs_f64(options.drain);
        let mut drained = None;
        if let Some(messages) = &messages {
            drained = messages.drained(load.acknowledged().len(), limit).await?;
        }
        let mut spent = meter.spent();
        spent.insert("client".to_owned(), client);
        values.spent(&spent, phase.messages, "a message");
        let stored = match &messages {
            Some(messages) => Some(messages.verify(&load.acknowledged(), &load.prefix(), limit).await?),
            None => None,
        };
        println!("{name}");
        if let Some(stored) = &stored {
            values.drained("the last answer", drained);
            values.stored(stored);
        }
        values.list.iter().for_each(|value| println!("  {:<44}{:>12.2}", value.name, value.value));
        let lost = stored.is_some_and(|stored| stored.lost > 0 || stored.duplicated > 0 || drained.is_none());
        ensure!(!lost, "not everything that was acknowledged is stored exactly once");
    }
    Ok(())
}
