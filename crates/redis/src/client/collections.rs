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
