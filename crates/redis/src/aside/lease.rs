//! Entries in Redis, and the leases that decide which reader loads them.
//!
//! A reader that finds an entry missing (or stale) gets a *lease* on it, unless another reader holds one. Only the holder may fill the
//! entry, once. An invalidation deletes the entry and the lease, so a value that was loaded before the invalidation can't be filled after
//! it; neither can a value that took so long to load that its lease has expired. Lua scripts decide all of this, in one cluster slot.
//!
//! A lease is an optimisation that also keeps fills in order. A reader that gets none may still load by itself, but does not fill.
//!
//! See `docs/decisions/cache-leases.md`.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;

use super::names::Names;
use super::publication;
use crate::RedisError;
use crate::client::{Client, millis};
use crate::script::{Call, Script};

static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_read.lua")));
static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_fill.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_release.lua")));
static DROP: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/aside_drop.lua")));

/// The owner of a lease: a random number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Token(u64);

/// When a reader wants the lease, to load and fill the entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FillIntent {
    /// Never: it only reads.
    ReadOnly,
    /// If the entry is missing.
    IfMissing,
    /// If the entry is missing or stale.
    IfStale,
    /// In any case: the reader can't decode the entry.
    Always,
}

/// The result of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The entry; `None` if it is missing.
    pub held: Option<Held>,
    /// The lease, if the reader wanted it and got it.
    pub lease: Option<Token>,
}

/// An entry as Redis holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// The encoded value; `None`: the source is known to have none.
    pub payload: Option<Bytes>,
    /// The time until it is stale; zero if it is stale already.
    pub fresh_for: Duration,
    /// The time until it expires.
    pub expires_in: Duration,
    /// The time since it was filled.
    pub age: Duration,
}

/// An entry that is to be filled.
#[derive(Debug, Clone)]
pub struct Fill {
    /// The entry's key in Redis.
    pub name: String,
    /// The lease that allows it.
    pub token: Token,
    /// The encoded value; `None`: the source has none.
    pub payload: Option<Bytes>,
    /// How long it is fresh, from now.
    pub fresh: Duration,
    /// How long until it expires, from now.
    pub ttl: Duration,
}

/// The entries on one server or cluster. Cheap to clone.
#[derive(Clone)]
pub struct Entries<N> {
    client: Client,
    names: N,
}

/// The answer of `aside_read.lua`.
type Answer = (String, i64, i64, i64, Vec<u8>, u8);

impl<N: Names> Entries<N> {
    /// The entries that this client reads and writes.
    pub fn new(client: Client, names: N) -> Self {
        Self { client, names }
    }

    /// The same entries, with another time limit for each call.
    #[must_use]
    pub fn within(&self, budget: Duration) -> Self {
        Self { client: self.client.within(budget), names: self.names.clone() }
    }

    /// Reads entries, and takes a lease of this length where the intent asks for it; the results are in the order of `reads`.
    pub async fn read(&self, reads: &[(&str, FillIntent)], lease: Duration) -> Vec<Result<Read, RedisError>> {
        let tokens: Vec<_> = reads.iter().map(|_| Token(fastrand::u64(..))).collect();
        let call = |((name, intent), token): (&(&str, FillIntent), &Token)| {
            let flag = |on| if on { "1" } else { "" };
            let token = if *intent == FillIntent::ReadOnly { String::new() } else { token.text() };
            let call = READ.call(&[name, &self.names.lease(name)]).arg(token).arg(millis(lease));
            call.arg(flag(*intent == FillIntent::IfStale)).arg(flag(*intent == FillIntent::Always))
        };
        let calls = reads.iter().zip(&tokens).map(call).collect();
        let answers = self.client.each::<Answer>("aside_read", calls).await;
        answers.into_iter().zip(tokens).map(|(answer, token)| Ok(Read::of(answer?, token))).collect()
    }

    /// Fills entries. `false`: the caller no longer holds the lease, and nothing was changed.
    pub async fn fill(&self, fills: &[Fill]) -> Vec<Result<bool, RedisError>> {
        let call = |fill: &Fill| {
            let call = FILL.call(&[&fill.name, &self.names.lease(&fill.name)]).arg(fill.token.text());
            let call = call.arg(if fill.payload.is_some() { "V" } else { "A" });
            let call = call.arg(fill.payload.as_deref().unwrap_or_default());
            // Zero is allowed here: such an entry is stale from the start.
            call.arg(fill.fresh.as_millis() as u64).arg(millis(fill.ttl))
        };
        self.client.each("aside_fill", fills.iter().map(call).collect()).await
    }

    /// Returns for each key whether there is an entry.
    pub async fn exist(&self, keys: impl IntoIterator<Item = &str>) -> Vec<Result<bool, RedisError>> {
        let calls = keys.into_iter().map(|name| Call::new("EXISTS").key(name)).collect();
        self.client.each("exists", calls).await
    }

    /// Releases leases without a fill; no process gets them for the time `rest`. `false`: the caller no longer held the lease.
    pub async fn release(&self, leases: &[(&str, Token)], rest: Duration) -> Vec<Result<bool, RedisError>> {
        let call = |(name, token): &(&str, Token)| {
            RELEASE.call(&[name, &self.names.lease(name)]).arg(token.text()).arg(rest.as_millis() as u64)
        };
        self.client.each("aside_release", leases.iter().map(call).collect()).await
    }

    /// Makes every process empty its memory.
    pub async fn forget_all_in_memory(&self) -> Result<(), RedisError> {
        let call = Call::new("PUBLISH").arg(self.names.invalidations()).arg(publication::encode(None));
        self.client.one::<u64>("aside_forget", call).await.map(drop)
    }

    /// Deletes entries with their leases and publishes this to every process. `true`: there was an entry.
    pub async fn drop<'a>(&self, keys: impl IntoIterator<Item = &'a str>) -> Vec<Result<bool, RedisError>> {
        let channel = self.names.invalidations();
        let call =
            |name: &str| DROP.call(&[name, &self.names.lease(name)]).arg(&channel).arg(publication::encode(Some(name)));
        self.client.each("aside_drop", keys.into_iter().map(call).collect()).await
    }
}

impl Token {
    fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Read {
    fn of((kind, fresh, ttl, age, payload, leased): Answer, token: Token) -> Self {
        let length = |millis| Duration::from_millis(u64::try_from(millis).unwrap_or_default());
        let held = (!kind.is_empty()).then(|| Held {
            payload: (kind == "V").then(|| payload.into()),
            fresh_for: length(fresh),
            expires_in: length(ttl),
            age: length(age),
        });
        Self { held, lease: (leased > 0).then_some(token) }
    }
}
