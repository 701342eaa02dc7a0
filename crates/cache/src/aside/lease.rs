//! Entries in Redis, and the leases that decide who loads them.
//!
//! Whoever finds an entry missing (or stale) is handed a *lease* on it, unless somebody holds one. Only the holder may fill the
//! entry, once. An invalidation drops the entry and the lease, so what was loaded before it can't be filled after it; neither can
//! what was loaded by somebody who was so slow that the lease has expired. Everything is decided in Lua, on one cluster slot.
//!
//! A lease is an optimisation that also keeps fills in order; who can't get one may still load for itself, and fills nothing.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use redis::Value;

use crate::CacheError;
use crate::connection::Connection;
use crate::script::{Call, Script, parse};

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_read.lua")));
static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_fill.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_release.lua")));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_drop.lua")));

/// A lease's owner: random, so that no other has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

/// What a reader would load if it were given the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Nothing: it only reads.
    Nothing,
    /// What is missing.
    Missing,
    /// What is missing or stale.
    Stale,
    /// Whatever is there: the reader can't make sense of it.
    Anew,
}

/// What a reader found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The entry; `None` if it is missing.
    pub held: Option<Held>,
    /// The lease, if the reader wished for it and got it.
    pub lease: Option<Token>,
}

/// An entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its bytes; `None`: the source is known to have nothing.
    pub payload: Option<Bytes>,
    /// How much longer it is fresh; zero if it is stale.
    pub fresh_for: Duration,
    /// How much longer it is kept.
    pub kept_for: Duration,
    /// How long ago it was filled.
    pub age: Duration,
}

/// What is to be filled.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The entry's key.
    pub name: String,
    /// The lease.
    pub token: Token,
    /// Its bytes; `None`: the source has nothing.
    pub payload: Option<Bytes>,
    /// How long it is fresh.
    pub fresh: Duration,
    /// How long it is kept.
    pub kept: Duration,
}

/// The entries of one server. Cheap to clone.
#[derive(Clone)]
pub struct Entries {
    connection: Connection,
    channel: String,
}

type Results<T> = Result<Vec<Result<T, CacheError>>, CacheError>;

impl Entries {
    /// Entries on this server; who invalidates one says so on the channel.
    pub fn new(connection: Connection, channel: impl Into<String>) -> Self {
        Self { connection, channel: channel.into() }
    }

    /// Reads entries, and leases for so long what the readers wish for. One round trip.
    pub async fn read(&self, wishes: &[(&str, Wish)], lease: Duration, budget: Duration) -> Results<Read> {
        let tokens: Vec<_> = wishes.iter().map(|_| Token(fastrand::u64(..))).collect();
        let call = |((name, wish), token): (&(&str, Wish), &Token)| {
            let flag = |on| if on { "1" } else { "" };
            let token = if *wish == Wish::Nothing { String::new() } else { token.text() };
            let call = READ.call(&[name, &lease_key(name)]).arg(token).arg(millis(lease));
            call.arg(flag(*wish == Wish::Stale)).arg(flag(*wish == Wish::Anew))
        };
        let calls = wishes.iter().zip(&tokens).map(call).collect();
        let answers = self.connection.run("aside_read", calls, budget).await?;
        Ok(answers.into_iter().zip(tokens).map(|(answer, token)| read(answer?, token)).collect())
    }

    /// Fills entries; `false` where the lease is no longer the caller's, which changes nothing. One round trip.
    pub async fn fill(&self, fills: &[Fill], budget: Duration) -> Results<bool> {
        let call = |fill: &Fill| {
            let call = FILL.call(&[&fill.name, &lease_key(&fill.name)]).arg(fill.token.text());
            let call = call.arg(if fill.payload.is_some() { "V" } else { "A" });
            let call = call.arg(fill.payload.as_deref().unwrap_or_default());
            call.arg(millis(fill.fresh)).arg(millis(fill.kept))
        };
        self.each("aside_fill", fills.iter().map(call).collect(), budget).await
    }

    /// Gives leases back without a fill. Nobody gets them for so long; with zero, the next to ask does. One round trip.
    pub async fn release(&self, leases: &[(&str, Token)], rest: Duration, budget: Duration) -> Results<bool> {
        let rest = if rest.is_zero() { 0 } else { millis(rest) };
        let call = |(name, token): &(&str, Token)| RELEASE.call(&[name, &lease_key(name)]).arg(token.text()).arg(rest);
        self.each("aside_release", leases.iter().map(call).collect(), budget).await
    }

    /// Drops entries with their leases and says so on the channel, as the bytes that `news` gives for each; `true` where there was
    /// an entry. One round trip.
    pub async fn drop<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
        news: impl Fn(&str) -> Vec<u8>,
        budget: Duration,
    ) -> Results<bool> {
        let call = |name: &str| DROP.call(&[name, &lease_key(name)]).arg(&self.channel).arg(news(name));
        self.each("aside_drop", names.into_iter().map(call).collect(), budget).await
    }

    async fn each(&self, op: &'static str, calls: Vec<Call>, budget: Duration) -> Results<bool> {
        let answers = self.connection.run(op, calls, budget).await?;
        Ok(answers.into_iter().map(|answer| parse::<u64>(answer?).map(|done| done > 0)).collect())
    }
}

impl Token {
    fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

/// The key of the lease on an entry. It shares the entry's hash tag, and is none itself.
fn lease_key(name: &str) -> String {
    if name.contains('{') { format!("{name}:lease") } else { format!("{{{name}}}:lease") }
}

fn read(answer: Value, token: Token) -> Result<Read, CacheError> {
    let (kind, fresh, kept, age, payload, leased): (String, i64, i64, i64, Vec<u8>, u8) = parse(answer)?;
    let held = (!kind.is_empty()).then(|| Held {
        payload: (kind == "V").then(|| payload.into()),
        fresh_for: from_millis(fresh),
        kept_for: from_millis(kept),
        age: from_millis(age),
    });
    Ok(Read { held, lease: (leased > 0).then_some(token) })
}

fn from_millis(millis: i64) -> Duration {
    Duration::from_millis(u64::try_from(millis).unwrap_or_default())
}

fn millis(length: Duration) -> u64 {
    u64::try_from(length.as_millis()).unwrap_or(u64::MAX).max(1)
}
