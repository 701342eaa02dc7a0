//! Adding messages to their lists: the answers, and how a batch becomes calls of the script.
//!
//! See `docs/decisions/recent-list-batches.md`.

use std::collections::HashMap;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use holdfast_keys::Channel;
use holdfast_message::{ChatId, Message};
use holdfast_redis::{Call, RedisError, Script, Value, parse, script};

use super::{Attempt, RecentList, new_epoch};
use crate::entry;
use crate::event::{self, Position};

static ADD: LazyLock<Script> = script!("#!lua", "recent_state.lua", "recent_change.lua", "recent_add.lua");

/// The most messages of one call. Redis does nothing else while a script runs: so many take it about two milliseconds, and all that a call
/// has once (`INFO`, `TIME`, compiled functions) hardly counts for each.
const MAX_PER_CALL: usize = 64;

/// The result of [`RecentList::add`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// The message was absent. It has this position now, and was announced on the chat's channels.
    New(Position),
    /// An earlier call of the same attempt has added and announced it.
    Own(Position),
    /// Another attempt has added it.
    Repeat {
        /// The timestamp of the first copy, in Unix epoch milliseconds.
        timestamp: i64,
        /// The chat's epoch.
        epoch: Arc<str>,
        /// The position of the first copy, if it is still listed and has one.
        seq: Option<u64>,
    },
}

impl RecentList {
    /// Adds messages that are absent, by few calls under one deadline; the results are in the order of `adds`, and messages of one chat
    /// are added in that order. Each has a result of its own: what is wrong with one, or with the keys of its chat, concerns no other.
    pub async fn add_batch(&self, adds: &[(&Message, Attempt)], budget: Duration) -> Vec<Result<Added, RedisError>> {
        let groups = groups(adds, self.connection.is_cluster());
        let calls = groups.iter().map(|group| self.add_call(adds, group)).collect();
        let answers = self.batch("recent_add", calls, budget, |group, value| added(value, groups[group].len())).await;
        let mut results: Vec<_> = adds.iter().map(|_| Err(RedisError::unexpected("no answer"))).collect();
        for (group, answers) in groups.iter().zip(answers) {
            match answers {
                Ok(added) => group.iter().zip(added).for_each(|(&index, added)| results[index] = added),
                // The call as a whole was refused, or nobody knows what became of it.
                Err(error) => group.iter().for_each(|&index| results[index] = Err(error.clone())),
            }
        }
        results
    }

    /// Adds a message if it is absent: gives it the next seq, trims the list, and announces it on the chat's channels. With
    /// [`Attempt::DURABLE`] a message that is present is no longer subject to retraction.
    pub async fn add(&self, message: &Message, attempt: Attempt, budget: Duration) -> Result<Added, RedisError> {
        let added = self.add_batch(&[(message, attempt)], budget).await.pop();
        added.unwrap_or_else(|| Err(RedisError::unexpected("no answer")))
    }

    /// The call that adds these of the messages.
    fn add_call(&self, adds: &[(&Message, Attempt)], group: &[usize]) -> Call {
        let mut keys = Vec::new();
        // The index of each chat's first key, as Lua counts.
        let mut first_keys: HashMap<&ChatId, usize> = HashMap::new();
        for &index in group {
            let chat = &adds[index].0.chat;
            first_keys.entry(chat).or_insert_with(|| {
                keys.extend(self.list_keys(chat));
                keys.len() - 2
            });
        }
        let (max, window) = (self.settings.max, self.settings.window);
        let mut call = ADD.call_across(&keys).arg(new_epoch()).arg(self.ttl_secs());
        call = call.arg(max).arg(self.trim_at(max)).arg(window).arg(self.trim_at(window));
        for &index in group {
            let (message, attempt) = adds[index];
            call = call.arg(first_keys[&message.chat]).arg(message.id.to_string()).arg(message.id.as_bytes());
            call = call.arg(attempt.0).arg(message.timestamp).arg(entry::rest(message, attempt.0));
            let channels = Channel::audience(&message.chat);
            call = call.arg(event::message_prefix(self.origin, &message.chat)).arg(channels.len());
            for channel in &channels {
                call = call.arg(self.keys.channel(channel));
            }
        }
        call
    }

    /// The length at which a list, or its ids, are trimmed to `max`. Trimming many at a time costs each message less, but short lists would
    /// be much longer than configured.
    fn trim_at(&self, max: usize) -> usize {
        let step = self.settings.trim_step;
        max + if max >= 2 * step { step.max(1) } else { 1 }
    }
}

/// The messages of each call, as indexes into the batch, in its order.
fn groups(adds: &[(&Message, Attempt)], is_cluster: bool) -> Vec<Vec<usize>> {
    let mut groups: Vec<Vec<usize>> = Vec::new();
    // The group that a chat's next message joins. In a cluster the keys of a call must be in one slot, as those of one chat are.
    let mut open: HashMap<Option<&ChatId>, usize> = HashMap::new();
    for (index, (message, _)) in adds.iter().enumerate() {
        let place = open.entry(is_cluster.then_some(&message.chat)).or_insert(usize::MAX);
        if groups.get(*place).is_none_or(|group| group.len() == MAX_PER_CALL) {
            *place = groups.len();
            groups.push(Vec::new());
        }
        groups[*place].push(index);
    }
    groups
}

/// The answers to a call with so many messages.
fn added(value: Value, count: usize) -> Result<Vec<Result<Added, RedisError>>, RedisError> {
    let answers: Vec<Value> = parse(value)?;
    if answers.len() != count {
        return Err(RedisError::unexpected(format!("{} answers to {count} messages", answers.len())));
    }
    Ok(answers.into_iter().map(added_one).collect())
}

fn added_one(value: Value) -> Result<Added, RedisError> {
    let (verdict, epoch, seq, timestamp): (String, String, Option<u64>, i64) = parse(value)?;
    if verdict == "error" {
        return Err(RedisError::Refused(epoch));
    }
    let epoch: Arc<str> = epoch.into();
    match (verdict.as_str(), seq) {
        ("new", Some(seq)) => Ok(Added::New(Position { epoch, seq })),
        ("own", Some(seq)) => Ok(Added::Own(Position { epoch, seq })),
        _ => Ok(Added::Repeat { timestamp, epoch, seq }),
    }
}
