//! Hashes, lists, sets and sorted sets.

use std::collections::HashMap;
use std::sync::LazyLock;

use super::{Client, Ttl, call, with_ttl, write};
use crate::RedisError;
use crate::script::Script;

static PUSH: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("../scripts/list_push.lua")));

/// An end of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The end with index 0.
    Front,
    /// The end with index -1.
    Back,
}

/// A range of scores, to select members of a sorted set.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// The least score, inclusive.
    pub least: f64,
    /// The greatest score, inclusive.
    pub greatest: f64,
    /// Whether the greatest comes first.
    pub descending: bool,
    /// The largest number of members to return.
    pub limit: usize,
}

/// Hashes.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::Ttl;
///
/// let ttl = Ttl::Refresh(Duration::from_secs(60));
/// assert_eq!(client.hash_set("alice", &[("name", "Alice"), ("city", "Paris")], ttl).await?, 2);
/// assert_eq!(client.hash_get("alice", "name").await?, Some(b"Alice".to_vec()));
/// assert_eq!(client.hash_increment("alice", "visits", 1, ttl).await?, 1);
/// assert_eq!(client.hash_delete("alice", &["city", "street"]).await?, 1);
/// assert_eq!(client.hash_all("alice").await?.len(), 2);
/// # Ok(())
/// # }
/// ```
impl Client {
    /// One field of a hash.
    pub async fn hash_get(&self, key: &str, field: &str) -> Result<Option<Vec<u8>>, RedisError> {
        self.one("hash_read", call("HGET", key).arg(field)).await
    }

    /// Every field of a hash; none if it is absent.
    pub async fn hash_all(&self, key: &str) -> Result<HashMap<String, Vec<u8>>, RedisError> {
        self.one("hash_read", call("HGETALL", key)).await
    }

    /// Sets fields of a hash. Returns how many of them are new.
    pub async fn hash_set(
        &self,
        key: &str,
        fields: &[(impl AsRef<str>, impl AsRef<[u8]>)],
        ttl: Ttl,
    ) -> Result<u64, RedisError> {
        if fields.is_empty() {
            return Ok(0);
        }
        let mut call = write("HSET", key, ttl);
        for (field, value) in fields {
            call = call.arg(field.as_ref()).arg(value.as_ref());
        }
        self.one("hash_write", call).await
    }

    /// Adds to a field that is a number, which is 0 if it is absent, and returns the new value.
    pub async fn hash_increment(&self, key: &str, field: &str, by: i64, ttl: Ttl) -> Result<i64, RedisError> {
        self.one("hash_write", write("HINCRBY", key, ttl).arg(field).arg(by)).await
    }

    /// Deletes fields of a hash. Returns how many were there.
    pub async fn hash_delete(&self, key: &str, fields: &[impl AsRef<str>]) -> Result<u64, RedisError> {
        if fields.is_empty() {
            return Ok(0);
        }
        self.one("hash_write", fields.iter().fold(call("HDEL", key), |call, field| call.arg(field.as_ref()))).await
    }
}

/// Lists.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::{End, Ttl};
///
/// let ttl = Ttl::Refresh(Duration::from_secs(60));
/// // A list of the newest three.
/// assert_eq!(client.list_push("newest", End::Front, &["1", "2", "3", "4"], 3, ttl).await?, 3);
/// assert_eq!(client.list_range("newest", 0, -1).await?, ["4", "3", "2"].map(Vec::from));
/// assert_eq!(client.list_len("newest").await?, 3);
/// # Ok(())
/// # }
/// ```
impl Client {
    /// Pushes values one after the other to one end of a list and trims it at the other end to `keep` values. Returns its new length.
    pub async fn list_push(
        &self,
        key: &str,
        end: End,
        values: &[impl AsRef<[u8]>],
        keep: usize,
        ttl: Ttl,
    ) -> Result<u64, RedisError> {
        let command = if end == End::Front { "LPUSH" } else { "RPUSH" };
        let call = with_ttl(&PUSH, key, ttl).arg(command).arg(keep);
        self.one("list_write", values.iter().fold(call, |call, value| call.arg(value.as_ref()))).await
    }

    /// The values of a list from one index to another, both inclusive. Negative indexes count from the back.
    pub async fn list_range(&self, key: &str, from: i64, to: i64) -> Result<Vec<Vec<u8>>, RedisError> {
        self.one("list_read", call("LRANGE", key).arg(from).arg(to)).await
    }

    /// How many values a list has.
    pub async fn list_len(&self, key: &str) -> Result<u64, RedisError> {
        self.one("list_read", call("LLEN", key)).await
    }
}

/// Sets.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::Ttl;
///
/// let ttl = Ttl::Fixed(Duration::from_secs(60));
/// assert_eq!(client.set_add("tags", &["red", "blue", "red"], ttl).await?, 2);
/// assert!(client.set_has("tags", b"red").await?);
/// assert_eq!(client.set_remove("tags", &["red", "green"]).await?, 1);
/// assert_eq!(client.set_members("tags").await?, [b"blue".to_vec()]);
/// # Ok(())
/// # }
/// ```
impl Client {
    /// Adds members to a set. Returns how many are new.
    pub async fn set_add(&self, key: &str, members: &[impl AsRef<[u8]>], ttl: Ttl) -> Result<u64, RedisError> {
        if members.is_empty() {
            return Ok(0);
        }
        let call = write("SADD", key, ttl);
        self.one("set_write", members.iter().fold(call, |call, member| call.arg(member.as_ref()))).await
    }

    /// Removes members from a set. Returns how many were there.
    pub async fn set_remove(&self, key: &str, members: &[impl AsRef<[u8]>]) -> Result<u64, RedisError> {
        if members.is_empty() {
            return Ok(0);
        }
        let call = members.iter().fold(call("SREM", key), |call, member| call.arg(member.as_ref()));
        self.one("set_write", call).await
    }

    /// Every member of a set, in no order.
    pub async fn set_members(&self, key: &str) -> Result<Vec<Vec<u8>>, RedisError> {
        self.one("set_read", call("SMEMBERS", key)).await
    }

    /// Whether a set has this member.
    pub async fn set_has(&self, key: &str, member: &[u8]) -> Result<bool, RedisError> {
        self.one("set_read", call("SISMEMBER", key).arg(member)).await
    }
}

/// Sorted sets.
///
/// ```
/// # use std::time::Duration;
/// # use holdfast_breaker::{Breaker, BreakerSettings};
/// # use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let server = holdfast_testkit::Redis::cache().await?;
/// # let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
/// # let connection = Connection::open("cache", &server.url(), metrics)?;
/// # let breaker = Breaker::new("redis", BreakerSettings::default(), None);
/// # let settings = ClientSettings { budget: Duration::from_secs(10), max_latency: Duration::from_secs(10), ..Default::default() };
/// # let client = Client::new(connection, breaker, settings);
/// use holdfast_redis::{Scores, Ttl};
///
/// let ttl = Ttl::Refresh(Duration::from_secs(60));
/// let scores = [(1.0, "alice"), (2.0, "bob"), (3.0, "carol"), (4.0, "dave")];
/// assert_eq!(client.sorted_add("scores", &scores, ttl).await?, 4);
/// assert_eq!(client.sorted_score("scores", b"bob").await?, Some(2.0));
/// assert_eq!(client.sorted_count("scores", 2.0, 4.0).await?, 3);
/// assert_eq!(client.sorted_remove("scores", &["dave", "erin"]).await?, 1);
/// assert_eq!(client.sorted_remove_up_to("scores", 1.0).await?, 1);
/// let best = Scores { least: f64::NEG_INFINITY, greatest: f64::INFINITY, descending: true, limit: 1 };
/// assert_eq!(client.sorted_range("scores", best).await?, [(b"carol".to_vec(), 3.0)]);
/// # Ok(())
/// # }
/// ```
impl Client {
    /// Gives members of a sorted set their scores. Returns how many members are new.
    pub async fn sorted_add(
        &self,
        key: &str,
        members: &[(f64, impl AsRef<[u8]>)],
        ttl: Ttl,
    ) -> Result<u64, RedisError> {
        if members.is_empty() {
            return Ok(0);
        }
        let call = write("ZADD", key, ttl);
        let call = members.iter().fold(call, |call, (score, member)| call.arg(*score).arg(member.as_ref()));
        self.one("sorted_write", call).await
    }

    /// Removes members from a sorted set. Returns how many were there.
    pub async fn sorted_remove(&self, key: &str, members: &[impl AsRef<[u8]>]) -> Result<u64, RedisError> {
        if members.is_empty() {
            return Ok(0);
        }
        let call = members.iter().fold(call("ZREM", key), |call, member| call.arg(member.as_ref()));
        self.one("sorted_write", call).await
    }

    /// Removes the members of a sorted set with scores up to this one. Returns how many there were.
    pub async fn sorted_remove_up_to(&self, key: &str, score: f64) -> Result<u64, RedisError> {
        self.one("sorted_write", call("ZREMRANGEBYSCORE", key).arg("-inf").arg(score)).await
    }

    /// Members of a sorted set with their scores.
    pub async fn sorted_range(&self, key: &str, scores: Scores) -> Result<Vec<(Vec<u8>, f64)>, RedisError> {
        let Scores { least, greatest, descending, limit } = scores;
        let call = call("ZRANGE", key);
        let call = if descending { call.arg(greatest).arg(least) } else { call.arg(least).arg(greatest) };
        let call = call.arg("BYSCORE").arg(descending.then_some("REV"));
        self.one("sorted_read", call.arg("LIMIT").arg(0).arg(limit).arg("WITHSCORES")).await
    }

    /// A member's score.
    pub async fn sorted_score(&self, key: &str, member: &[u8]) -> Result<Option<f64>, RedisError> {
        self.one("sorted_read", call("ZSCORE", key).arg(member)).await
    }

    /// How many members have scores between these, both inclusive.
    pub async fn sorted_count(&self, key: &str, least: f64, greatest: f64) -> Result<u64, RedisError> {
        self.one("sorted_read", call("ZCOUNT", key).arg(least).arg(greatest)).await
    }
}
