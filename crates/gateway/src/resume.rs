//! `resume`: what a client missed of the live streams while it was away.
//!
//! Takes the client's offsets; gives, for each chat, exactly the messages after its offset in seq order, or says that they are not
//! known any more, which sends the client to `history`. It is read only after the socket's channel is confirmed as subscribed, while
//! the socket's live events wait behind the answer ([`crate::deliver::Sockets::hold`]): so nothing falls between the two.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::event::Position as StreamPosition;
use holdfast_cache::recent::Resumed;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, UserId};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::ToSchema;

use crate::admit::Admission;
use crate::integer;

/// Chats that one request may name; the rest are not recovered.
pub const MAX_CHATS: usize = 1000;
/// Messages that one answer holds.
const MAX_MESSAGES: usize = 500;
/// About how many bytes of messages one answer holds.
const MAX_BYTES: usize = 1 << 20;
/// Chats per round trip.
const BATCH: usize = 50;
/// What the cache has for one round trip.
const BUDGET: Duration = Duration::from_millis(250);

/// What a client has of the live streams. At most 1,000 chats are recovered.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ResumeRequest {
    /// By chat, the highest seq up to which the client has everything.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Offset>)]
    pub offsets: BTreeMap<String, Value>,
}

// Describes what `offset_of` reads.
/// A position in a chat's live stream.
#[derive(ToSchema)]
#[expect(dead_code, reason = "a description")]
pub(crate) struct Offset {
    /// The stream's epoch.
    epoch: String,
    /// The highest seq up to which the client has everything.
    seq: u64,
}

/// Reads what was missed. Cheap to clone.
#[derive(Clone)]
pub struct Resume {
    /// The live streams.
    pub recent: RecentList,
    /// In front of them.
    pub breaker: Breaker,
    /// Who may read what.
    pub admission: Admission,
}

/// As how many events a request counts: one for each round trip to the cache, and one more. Chats that are named beyond those that are read
/// are echoed, and so count alike.
pub fn weight(offsets: &BTreeMap<String, Value>) -> usize {
    1 + offsets.len() / BATCH
}

/// The offsets that can be read, of no more chats than one request may name.
pub fn wanted(offsets: &BTreeMap<String, Value>) -> impl Iterator<Item = (ChatId, StreamPosition)> {
    offsets.iter().take(MAX_CHATS).filter_map(|(chat, offset)| Some((ChatId::parse(chat).ok()?, offset_of(offset)?)))
}

/// What is left to give in one answer.
struct Room {
    messages: usize,
    bytes: usize,
}

impl Resume {
    /// `{ chatId: { recovered, messages?, epoch, seq } }` for every chat that was named.
    pub async fn read(&self, user: &UserId, offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        let mut chats = Self::nothing(offsets);
        let wanted: Vec<_> = wanted(offsets).collect();
        let named: Vec<_> = wanted.iter().map(|(chat, _)| chat.clone()).collect();
        let permitted = self.admission.permit_reading(user, &named).await;
        let wanted: Vec<_> =
            wanted.into_iter().zip(permitted).filter_map(|(chat, permitted)| permitted.ok().map(|()| chat)).collect();
        let mut room = Room { messages: MAX_MESSAGES, bytes: MAX_BYTES };
        for batch in wanted.chunks(BATCH) {
            let Ok(permit) = self.breaker.acquire(Instant::now()) else { break };
            let resumed = self.recent.resume_batch(batch, BUDGET).await;
            if resumed.iter().any(|resumed| matches!(resumed, Err(error) if error.is_unavailable())) {
                permit.failure(Instant::now());
            } else {
                permit.success();
            }
            for ((chat, _), resumed) in batch.iter().zip(resumed) {
                if let Ok(Some(resumed)) = resumed {
                    chats.insert(chat.to_string(), room.answer(&resumed));
                }
            }
        }
        chats
    }
}

impl Resume {
    /// The answer when the streams can't be asked.
    pub fn nothing(offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        Self::nothing_of(offsets, offsets.len())
    }

    /// The answer to a request that was refused, and so counted as nothing: it names no more chats than any request may recover.
    pub fn nothing_for_nothing(offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        Self::nothing_of(offsets, MAX_CHATS)
    }

    fn nothing_of(offsets: &BTreeMap<String, Value>, most: usize) -> Map<String, Value> {
        let unknown = json!({ "recovered": false, "epoch": null, "seq": null });
        offsets.keys().take(most).map(|chat| (chat.clone(), unknown.clone())).collect()
    }
}

impl Room {
    fn answer(&mut self, resumed: &Resumed) -> Value {
        let StreamPosition { epoch, seq } = &resumed.position;
        let missed = resumed.missed.as_deref().filter(|missed| self.take(missed));
        let Some(missed) = missed else { return json!({ "recovered": false, "epoch": &**epoch, "seq": seq }) };
        let shown = |(seq, message)| MessageJson { message, position: Position::At { epoch, seq } };
        let messages: Vec<_> = missed.iter().map(|(seq, message)| shown((*seq, message))).collect();
        json!({ "recovered": true, "messages": messages, "epoch": &**epoch, "seq": seq })
    }

    fn take(&mut self, missed: &[(u64, holdfast_message::Message)]) -> bool {
        let bytes: usize = missed.iter().map(|(_, message)| message.size()).sum();
        let fits = missed.len() <= self.messages && bytes <= self.bytes;
        if fits {
            self.messages -= missed.len();
            self.bytes -= bytes;
        }
        fits
    }
}

fn offset_of(offset: &Value) -> Option<StreamPosition> {
    Some(StreamPosition { epoch: offset["epoch"].as_str()?.into(), seq: integer::of(&offset["seq"])? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_for_every_chat_that_is_echoed_and_a_refused_one_echoes_few() {
        let offsets: BTreeMap<_, _> = (0..20_000).map(|number| (format!("a:{number}"), json!({}))).collect();
        assert!(Resume::nothing(&offsets).len() <= weight(&offsets) * BATCH);
        assert_eq!(Resume::nothing_for_nothing(&offsets).len(), MAX_CHATS);
    }
}
