//! `cache`: what lies in the cache, by kind; profiles loaded ahead; cached values forgotten, in Redis and in every gateway's memory.
//!
//! Only values that a store has are ever forgotten here: neither recent lists, which mend themselves, nor a failed queue. Whatever
//! ends a command early, what it did until then is said, and noted in the audit log, before the error is.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::Result;
use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_gateway::guarded_store::GuardedStore;
use holdfast_gateway::profiles::Profiles;
use holdfast_keys::{Keys, Kind};
use holdfast_redis::aside::{Backend, Entries, LEASE, Warmed};
use holdfast_redis::{Client, ClientSettings, Connection, RedisError, Scan};
use holdfast_store::Store;
use serde::Serialize;
use serde_json::json;

use crate::args::{CacheInvalidate, CacheWarm};
use crate::exit::{Usage, Verdict};
use crate::output::{Output, Progress, confirm, count, legible};
use crate::{BUDGET, audit};

/// Keys examined in one step of a scan.
const PAGE: usize = 1000;
/// Profiles that are warmed in one step.
const CHUNK: usize = 100;

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    keys: u64,
}

/// Counts keys by kind, up to a limit.
pub async fn stats(cache: &Connection, keys: &Keys, limit: u64, output: &mut Output<'_>) -> Result<Verdict> {
    let mut walk = Scan::start(cache, "*", BUDGET).await?;
    let (mut counts, mut counted, mut more) = (BTreeMap::new(), 0, false);
    let mut progress = Progress::new("counted", 0);
    while !more && let Some(page) = walk.next(PAGE, BUDGET).await? {
        let (met, room) = (page.len() as u64, limit - counted);
        more = met > room;
        let kinds = page.names.iter().map(|name| kind(keys, name)).chain(std::iter::repeat_n("other", page.foreign));
        for kind in kinds.take(usize::try_from(room).unwrap_or(usize::MAX)) {
            *counts.entry(kind).or_default() += 1;
        }
        counted += met.min(room);
        progress.add(met.min(room));
    }
    drop(progress);
    let rows: Vec<_> = counts.into_iter().map(|(kind, keys)| Row { kind, keys }).collect();
    output.rows(["kind", "keys"], &rows, |row| [row.kind.to_owned(), row.keys.to_string()])?;
    let counted_keys = count(counted, "key", "keys");
    let said = if more { format!("{counted_keys} counted, and there are more") } else { counted_keys };
    output.say(&json!({ "counted": counted, "more": more }), said)?;
    Ok(Verdict::Fine)
}

/// Loads profiles into the cache, so that no request has to wait for them. `ttl` is their time to live.
pub async fn warm(
    cache: &Connection,
    keys: &Keys,
    store: Store,
    ttl: Duration,
    args: &CacheWarm,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    answers(cache).await?;
    let mut users = args.users.clone();
    if let Some(messages) = args.active {
        users.extend(store.last_senders(messages).await?);
    }
    users.sort_unstable();
    users.dedup();
    let all = users.len() as u64;
    if args.dry_run {
        let said = format!("{} would be loaded; nothing was done", count(all, "profile", "profiles"));
        output.say(&json!({ "users": all, "dryRun": true }), said)?;
        return Ok(Verdict::Fine);
    }
    let stored = GuardedStore::new(store.clone(), Breaker::new("mongodb", BreakerSettings::default(), None));
    let profiles = Profiles::new(&Backend::start(client(cache), keys.clone(), LEASE), stored, ttl);
    let mut progress = Progress::new("warmed", all);
    let (mut warmed, mut ended) = (Warmed::default(), Ok(()));
    for chunk in users.chunks(CHUNK) {
        let these = profiles.warm(chunk).await;
        warmed += these;
        progress.add(chunk.len() as u64);
        // Stop: the rest would wait for a server that is away, or be loaded in vain.
        ended = both_answer(cache, &store, these).await;
        if ended.is_err() {
            break;
        }
    }
    drop(progress);
    let Warmed { warm, absent, unfilled, failed } = warmed;
    let object = json!({
        "users": all, "warm": warm, "absent": absent, "unfilled": unfilled, "failed": failed, "dryRun": false,
    });
    output.say(&object, summary(warmed, users.len()))?;
    ended?;
    Ok(if unfilled + failed == 0 { Verdict::Fine } else { Verdict::Wrong })
}

/// If a server is away, which explains what was left undone, returns its error.
async fn both_answer(cache: &Connection, store: &Store, warmed: Warmed) -> Result<()> {
    if warmed.unfilled > 0 {
        answers(cache).await?;
    }
    if warmed.failed > 0 {
        store.ping(BUDGET).await?;
    }
    Ok(())
}

/// A sentence on the outcome for this many users' profiles.
fn summary(Warmed { warm, absent, unfilled, failed }: Warmed, users: usize) -> String {
    let mut text = format!("{} cached", count(warm as u64, "profile is", "profiles are"));
    let untried = users - (warm + absent + unfilled + failed);
    for (number, one, more) in [
        (absent, "user has none", "users have none"),
        (unfilled, "was loaded, but is not in redis", "were loaded, but are not in redis"),
        (failed, "could not be loaded", "could not be loaded"),
        (untried, "was not tried", "were not tried"),
    ] {
        if number > 0 {
            text = format!("{text}; {}", count(number as u64, one, more));
        }
    }
    if unfilled > 0 { text + " (--verbose says why)" } else { text }
}

/// Invalidates the cached values that the arguments name.
pub async fn invalidate(
    cache: &Connection,
    keys: &Keys,
    args: &CacheInvalidate,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    if let Some(name) = args.keys.iter().find(|name| !is_value(keys, name)) {
        return Err(Usage(format!("\"{}\" is no cached value's key", legible(name))).into());
    }
    if let (Some(pattern), false) = (&args.pattern, args.dry_run) {
        confirm(&format!("Forget every cached value that matches \"{}\"?", legible(pattern)), args.yes)?;
    }
    answers(cache).await?;
    let entries = Entries::new(client(cache), keys.clone());
    let mut done = Done::default();
    let ended = match &args.pattern {
        Some(pattern) => {
            let walked = forget_matching(cache, keys, &entries, pattern, args, &mut done).await;
            if args.dry_run {
                walked
            } else {
                audit::invalidated(pattern, done.forgotten);
                // Gateways may hold values in memory that Redis has evicted.
                walked.and(entries.forget_all_in_memory().await)
            }
        }
        None => forget_named(&entries, args, &mut done).await,
    };
    let Done { forgotten, absent, passed_over, more } = done;
    let complete = ended.is_ok() && !more;
    let object = json!({
        "forgotten": forgotten, "absent": absent, "passedOver": passed_over, "more": more, "complete": complete,
        "dryRun": args.dry_run,
    });
    let nothing = args.pattern.is_some() && complete && forgotten + absent + passed_over == 0;
    let hint = if nothing { format!("; cached values match {}", keys.pattern_of_version()) } else { String::new() };
    output.say(&object, done.summary(args) + &hint)?;
    ended?;
    Ok(if more { Verdict::Wrong } else { Verdict::Fine })
}

/// Invalidates the cached values that match, up to the limit. With `dry_run` it only counts them.
async fn forget_matching(
    cache: &Connection,
    keys: &Keys,
    entries: &Entries<Keys>,
    pattern: &str,
    args: &CacheInvalidate,
    done: &mut Done,
) -> Result<(), RedisError> {
    let mut walk = Scan::start(cache, pattern, BUDGET).await?;
    let mut progress = Progress::new("looked at", 0);
    while !done.more
        && let Some(page) = walk.next(PAGE, BUDGET).await?
    {
        progress.add(page.len() as u64);
        let (values, others): (Vec<_>, Vec<_>) = page.names.into_iter().partition(|name| is_value(keys, name));
        let others = others.iter().filter(|name| kind(keys, name) != "lease").count() + page.foreign;
        done.passed_over += others as u64;
        let room = usize::try_from(args.limit - done.forgotten).unwrap_or(usize::MAX);
        done.more = values.len() > room;
        let values = &values[..values.len().min(room)];
        if args.dry_run {
            done.forgotten += values.len() as u64;
        } else {
            done.add(entries.drop(values.iter().map(String::as_str)).await)?;
        }
    }
    Ok(())
}

/// Invalidates the named values. With `dry_run` it only checks which exist.
async fn forget_named(entries: &Entries<Keys>, args: &CacheInvalidate, done: &mut Done) -> Result<(), RedisError> {
    let names: BTreeSet<_> = args.keys.iter().map(String::as_str).collect();
    if args.dry_run {
        return done.add(entries.exist(names).await);
    }
    let dropped = entries.drop(names.iter().copied()).await;
    for (name, dropped) in names.into_iter().zip(&dropped) {
        if let Ok(dropped) = dropped {
            audit::invalidated(name, u64::from(*dropped));
        }
    }
    done.add(dropped)
}

/// The progress of an invalidation.
#[derive(Default)]
struct Done {
    forgotten: u64,
    /// Keys that did not exist.
    absent: u64,
    /// Keys that match and hold no cached value.
    passed_over: u64,
    /// The limit was reached.
    more: bool,
}

impl Done {
    /// Counts those that were there and those that were not; an error is given when all are counted.
    fn add(&mut self, were_there: Vec<Result<bool, RedisError>>) -> Result<(), RedisError> {
        let mut result = Ok(());
        for was_there in were_there {
            match was_there {
                Ok(true) => self.forgotten += 1,
                Ok(false) => self.absent += 1,
                Err(error) => result = Err(error),
            }
        }
        result
    }

    fn summary(&self, args: &CacheInvalidate) -> String {
        let [one, more] = if args.dry_run {
            ["cached value would be", "cached values would be"]
        } else {
            ["cached value was", "cached values were"]
        };
        let mut text = format!("{} forgotten", count(self.forgotten, one, more));
        if self.absent > 0 {
            text = format!("{text}; {} not there", count(self.absent, "key was", "keys were"));
        }
        if self.passed_over > 0 {
            text = format!(
                "{text}; {}",
                count(self.passed_over, "other key matches and stays", "other keys match and stay")
            );
        }
        if self.more {
            text = format!("{text}; there are more than the limit of {}", args.limit);
        }
        if args.dry_run { text + "; nothing was done" } else { text }
    }
}

fn kind(keys: &Keys, name: &str) -> &'static str {
    keys.parse(name).and_then(|kind| kind.family()).map_or("other", |family| family.as_str())
}

fn is_value(keys: &Keys, name: &str) -> bool {
    matches!(keys.parse(name), Some(Kind::Value(_)))
}

/// Whether every cache server answers; a server that refuses the command counts as answering.
async fn answers(cache: &Connection) -> Result<(), RedisError> {
    match cache.ping_all(BUDGET).await {
        Err(error) if error.is_transient() => Err(error),
        _ => Ok(()),
    }
}

/// With time for each call, and without a breaker that would open.
fn client(cache: &Connection) -> Client {
    let patient = BreakerSettings { failure_threshold: usize::MAX, ..BreakerSettings::default() };
    let settings = ClientSettings { budget: BUDGET, max_latency: BUDGET, ..ClientSettings::default() };
    Client::new(cache.clone(), Breaker::new("redis", patient, None), settings)
}
