//! `cache`: what lies in the cache, by kind; profiles loaded ahead; cached values forgotten, in Redis and in every gateway's memory.
//!
//! Only values that a store has are ever forgotten here: neither recent lists, which mend themselves, nor a failed queue.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::Result;
use holdfast_cache::aside::backend::{Backend, LEASE};
use holdfast_cache::aside::lease::Entries;
use holdfast_cache::keys::Kind;
use holdfast_cache::sweep::Sweep;
use holdfast_cache::{Breaker, BreakerSettings, CacheError, Client, ClientSettings, Connection, Keys};
use holdfast_gateway::profiles::Profiles;
use holdfast_gateway::stored::Stored;
use holdfast_store::Store;
use serde::Serialize;
use serde_json::json;

use crate::args::{CacheInvalidate, CacheWarm};
use crate::exit::{Usage, Verdict};
use crate::output::{Output, Progress, confirm};
use crate::{BUDGET, audit};

/// Keys that are looked at in one step of a walk.
const PAGE: usize = 1000;

#[derive(Serialize)]
struct Row {
    kind: &'static str,
    keys: u64,
}

/// Counts keys by kind, at most so many.
pub async fn stats(cache: &Connection, keys: &Keys, limit: u64, output: &mut Output<'_>) -> Result<Verdict> {
    let mut walk = Sweep::start(cache, "*", BUDGET).await?;
    let (mut counts, mut seen) = (BTreeMap::new(), 0);
    let mut progress = Progress::new("counted", 0);
    let whole = loop {
        if seen >= limit {
            break false;
        }
        let Some(page) = walk.next(PAGE, BUDGET).await? else { break true };
        for name in &page {
            *counts.entry(kind(keys, name)).or_default() += 1;
        }
        seen += page.len() as u64;
        progress.add(page.len() as u64);
    };
    drop(progress);
    let rows: Vec<_> = counts.into_iter().map(|(kind, keys)| Row { kind, keys }).collect();
    output.rows(["kind", "keys"], &rows, |row| [row.kind.to_owned(), row.keys.to_string()])?;
    output.note(if whole {
        format!("{seen} keys")
    } else {
        format!("{seen} keys were counted, and there are more")
    })?;
    Ok(Verdict::Fine)
}

/// Loads profiles, so that nobody waits for them. `ttl` is how long gateways keep them.
pub async fn warm(
    cache: &Connection,
    keys: &Keys,
    store: Store,
    ttl: Duration,
    args: &CacheWarm,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    let mut users = args.users.clone();
    if let Some(messages) = args.active {
        users.extend(store.last_senders(messages).await?);
        users.sort_unstable();
        users.dedup();
    }
    if args.dry_run {
        let said = format!("the profiles of {} users would be loaded; nothing was done", users.len());
        output.say(&json!({ "users": users.len(), "dryRun": true }), said)?;
        return Ok(Verdict::Fine);
    }
    let stored = Stored::new(store, Breaker::new("mongodb", BreakerSettings::default(), None));
    let profiles = Profiles::new(&Backend::start(client(cache), keys.clone(), LEASE), stored, ttl);
    let mut progress = Progress::new("warmed", users.len() as u64);
    let (mut warm, mut failed) = (0, 0);
    for chunk in users.chunks(100) {
        let warmed = profiles.warm(chunk).await;
        warm += warmed.warm;
        failed += warmed.failed;
        progress.add(chunk.len() as u64);
    }
    drop(progress);
    let said = format!("the profiles of {warm} users are cached; {failed} could not be loaded");
    output.say(&json!({ "warm": warm, "failed": failed, "dryRun": false }), said)?;
    Ok(if failed == 0 { Verdict::Fine } else { Verdict::Wrong })
}

/// Forgets what the arguments name.
pub async fn invalidate(
    cache: &Connection,
    keys: &Keys,
    args: &CacheInvalidate,
    output: &mut Output<'_>,
) -> Result<Verdict> {
    if let Some(name) = args.keys.iter().find(|name| !is_value(keys, name)) {
        return Err(Usage(format!("{name} is no cached value's key")).into());
    }
    let entries = Entries::new(client(cache), keys.clone());
    let mut done = Done::default();
    if let Some(pattern) = &args.pattern {
        if !args.dry_run {
            confirm(&format!("Forget every cached value that matches {pattern}?"), args.yes)?;
        }
        let mut walk = Sweep::start(cache, pattern, BUDGET).await?;
        let mut progress = Progress::new("looked at", 0);
        while let Some(page) = walk.next(PAGE, BUDGET).await? {
            let (values, others): (Vec<_>, Vec<_>) = page.into_iter().partition(|name| is_value(keys, name));
            done.passed_over += others.iter().filter(|name| kind(keys, name) != "lease").count() as u64;
            progress.add((values.len() + others.len()) as u64);
            let room = usize::try_from(args.limit - done.forgotten).unwrap_or(usize::MAX);
            done.more = values.len() > room;
            let values = &values[..values.len().min(room)];
            done.forgotten += forget(&entries, values, args.dry_run).await?;
            if done.more {
                break;
            }
        }
        drop(progress);
        if !args.dry_run {
            // Gateways may hold in memory what Redis has let go.
            entries.forget_all_in_memory().await?;
            audit::invalidated(pattern, done.forgotten);
        }
    } else {
        done.forgotten = forget(&entries, &args.keys, args.dry_run).await?;
        if !args.dry_run {
            args.keys.iter().for_each(|name| audit::invalidated(name, 1));
        }
    }
    let Done { forgotten, passed_over, more } = done;
    let did = if args.dry_run { "would be forgotten; nothing was done" } else { "were forgotten" };
    let others = if passed_over > 0 { format!("; {passed_over} other keys match and stay") } else { String::new() };
    let limit = if more { format!("; there are more than the limit of {}", args.limit) } else { String::new() };
    let object = json!({ "forgotten": forgotten, "passedOver": passed_over, "more": more, "dryRun": args.dry_run });
    output.say(&object, format!("{forgotten} cached values {did}{others}{limit}"))?;
    Ok(if more { Verdict::Wrong } else { Verdict::Fine })
}

#[derive(Default)]
struct Done {
    forgotten: u64,
    passed_over: u64,
    /// The limit was reached.
    more: bool,
}

/// Gives how many there were.
async fn forget(entries: &Entries, names: &[String], dry_run: bool) -> Result<u64, CacheError> {
    if dry_run {
        return Ok(names.len() as u64);
    }
    let dropped = entries.drop(names.iter().map(String::as_str)).await;
    dropped.into_iter().try_fold(0, |count, dropped| Ok(count + u64::from(dropped?)))
}

fn kind(keys: &Keys, name: &str) -> &'static str {
    keys.parse(name).and_then(|kind| kind.family()).map_or("other", |family| family.as_str())
}

fn is_value(keys: &Keys, name: &str) -> bool {
    matches!(keys.parse(name), Some(Kind::Value(_)))
}

/// With time for each call, and without a breaker that would open.
fn client(cache: &Connection) -> Client {
    let patient = BreakerSettings { failure_threshold: usize::MAX, ..BreakerSettings::default() };
    let settings = ClientSettings { budget: BUDGET, max_latency: BUDGET, ..ClientSettings::default() };
    Client::new(cache.clone(), Breaker::new("redis", patient, None), settings)
}
