//! Entries in Redis, and the leases that decide who loads them.
//!
//! Whoever finds an entry missing (or stale) is handed a *lease* on it, unless somebody holds one. Only the holder may fill the
//! entry, once. An invalidation drops the entry and the lease, so what was loaded before it can't be filled after it; neither can
//! what was loaded by somebody who was so slow that the lease has expired. Everything is decided in Lua, on one cluster slot.
//!
//! A lease is an optimisation that also keeps fills in order; who can't get one may still load for itself, and fills nothing.

use std::sync::LazyLock;
use std::time::Duration;

use crate::CacheError;
use crate::client::{Client, millis};
use crate::keys::Keys;
use crate::script::{Call, Script};
use bytes::Bytes;

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
    client: Client,
    keys: Keys,
}

/// What `aside_read.lua` answers.
type Answer = (String, i64, i64, i64, Vec<u8>, u8);

impl Entries {
    /// Entries on this server.
    pub fn new(client: Client, keys: Keys) -> Self {
        Self { client, keys }
    }

    /// The same with another deadline for each call.
    #[must_use]
    pub fn within(&self, budget: Duration) -> Self {
        Self { client: self.client.within(budget), keys: self.keys.clone() }
    }

    /// Reads entries, and leases for so long what the readers wish for; results in their order.
    pub async fn read(&self, wishes: &[(&str, Wish)], lease: Duration) -> Vec<Result<Read, CacheError>> {
        let tokens: Vec<_> = wishes.iter().map(|_| Token(fastrand::u64(..))).collect();
        let call = |((name, wish), token): (&(&str, Wish), &Token)| {
            let flag = |on| if on { "1" } else { "" };
            let token = if *wish == Wish::Nothing { String::new() } else { token.text() };
            let call = READ.call(&[name, &self.keys.lease_of(name)]).arg(token).arg(millis(lease));
            call.arg(flag(*wish == Wish::Stale)).arg(flag(*wish == Wish::Anew))
        };
        let calls = wishes.iter().zip(&tokens).map(call).collect();
        let answers = self.client.each::<Answer>("aside_read", calls).await;
        answers.into_iter().zip(tokens).map(|(answer, token)| Ok(Read::of(answer?, token))).collect()
    }

    /// Fills entries; `false` where the lease is no longer the caller's, which changes nothing.
    pub async fn fill(&self, fills: &[Fill]) -> Vec<Result<bool, CacheError>> {
        let call = |fill: &Fill| {
            let call = FILL.call(&[&fill.name, &self.keys.lease_of(&fill.name)]).arg(fill.token.text());
            let call = call.arg(if fill.payload.is_some() { "V" } else { "A" });
            let call = call.arg(fill.payload.as_deref().unwrap_or_default());
            // Nothing may stay fresh for no time: such an entry is stale from the start.
            call.arg(fill.fresh.as_millis() as u64).arg(millis(fill.kept))
        };
        self.client.each("aside_fill", fills.iter().map(call).collect()).await
    }

    /// Says of each of these whether there is an entry.
    pub async fn exist(&self, names: impl IntoIterator<Item = &str>) -> Vec<Result<bool, CacheError>> {
        let calls = names.into_iter().map(|name| Call::new("EXISTS").key(name)).collect();
        self.client.each("exists", calls).await
    }

    /// Gives leases back without a fill; `false` where it was no longer the caller's. Nobody gets them for so long; with zero, the
    /// next to ask does.
    pub async fn release(&self, leases: &[(&str, Token)], rest: Duration) -> Vec<Result<bool, CacheError>> {
        let call = |(name, token): &(&str, Token)| {
            RELEASE.call(&[name, &self.keys.lease_of(name)]).arg(token.text()).arg(rest.as_millis() as u64)
        };
        self.client.each("aside_release", leases.iter().map(call).collect()).await
    }

    /// Has every process forget what it holds in memory.
    pub async fn forget_all_in_memory(&self) -> Result<(), CacheError> {
        let call = Call::new("PUBLISH").arg(self.keys.invalidations()).arg(super::listen::news(None));
        self.client.one::<u64>("aside_forget", call).await.map(drop)
    }

    /// Drops entries with their leases, and tells every process; `true` where there was an entry.
    pub async fn drop<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> Vec<Result<bool, CacheError>> {
        let channel = self.keys.invalidations();
        let call = |name: &str| {
            DROP.call(&[name, &self.keys.lease_of(name)]).arg(&channel).arg(super::listen::news(Some(name)))
        };
        self.client.each("aside_drop", names.into_iter().map(call).collect()).await
    }
}

impl Token {
    fn text(self) -> String {
        format!("{:016x}", self.0)
    }
}

impl Read {
    fn of((kind, fresh, kept, age, payload, leased): Answer, token: Token) -> Self {
        let length = |millis| Duration::from_millis(u64::try_from(millis).unwrap_or_default());
        let held = (!kind.is_empty()).then(|| Held {
            payload: (kind == "V").then(|| payload.into()),
            fresh_for: length(fresh),
            kept_for: length(kept),
            age: length(age),
        });
        Self { held, lease: (leased > 0).then_some(token) }
    }
}
