//! `resume`: what a client missed of the live streams while it was away.
//!
//! Takes the client's offsets; gives, for each chat, exactly the messages after its offset in seq order, or says that they are not
//! known any more, which sends the client to `history`. It is read only after the socket's channel is confirmed as subscribed, while
//! the socket's live events wait behind the answer ([`crate::deliver::sockets::Sockets::hold`]): so nothing falls between the two.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_breaker::Breaker;
use holdfast_cache::RecentList;
use holdfast_cache::event::Position as StreamPosition;
use holdfast_cache::recent::Resumed;
use holdfast_message::UserId;
use holdfast_message::json::{MessageJson, Position};
use serde_json::{Map, Value, json};

use crate::access::authorize::Admission;
use crate::wire::requests::{MAX_RESUMED_CHATS, RESUME_BATCH, readable_offsets};

/// Messages that one answer holds.
const MAX_MESSAGES: usize = 500;
/// About how many bytes of messages one answer holds.
const MAX_BYTES: usize = 1 << 20;
/// What the cache has for one round trip.
const BUDGET: Duration = Duration::from_millis(250);

/// Reads what was missed. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Resume {
    /// The live streams.
    pub(crate) recent: RecentList,
    /// In front of them.
    pub(crate) breaker: Breaker,
    /// Who may read what.
    pub(crate) admission: Admission,
}

/// What is left to give in one answer.
struct Room {
    messages: usize,
    bytes: usize,
}

impl Resume {
    /// `{ chatId: { recovered, messages?, epoch, seq } }` for every chat that was named.
    pub(crate) async fn read(&self, user: &UserId, offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        let mut chats = Self::nothing(offsets);
        let wanted: Vec<_> = readable_offsets(offsets).collect();
        let named: Vec<_> = wanted.iter().map(|(chat, _)| chat.clone()).collect();
        let permitted = self.admission.permit_reading(user, &named).await;
        let wanted: Vec<_> =
            wanted.into_iter().zip(permitted).filter_map(|(chat, permitted)| permitted.ok().map(|()| chat)).collect();
        let mut room = Room { messages: MAX_MESSAGES, bytes: MAX_BYTES };
        for batch in wanted.chunks(RESUME_BATCH) {
            let resumed = self.breaker.call_batch(self.recent.resume_batch(batch, BUDGET)).await;
            let Ok(resumed) = resumed else { break };
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
    pub(crate) fn nothing(offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        Self::nothing_of(offsets, offsets.len())
    }

    /// The answer to a request that was refused, and so counted as nothing: it names no more chats than any request may recover.
    pub(crate) fn nothing_for_nothing(offsets: &BTreeMap<String, Value>) -> Map<String, Value> {
        Self::nothing_of(offsets, MAX_RESUMED_CHATS)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::requests::resume_weight;

    #[test]
    fn a_request_counts_for_every_chat_that_is_echoed_and_a_refused_one_echoes_few() {
        let offsets: BTreeMap<_, _> = (0..20_000).map(|number| (format!("a:{number}"), json!({}))).collect();
        assert!(Resume::nothing(&offsets).len() <= resume_weight(&offsets) * RESUME_BATCH);
        assert_eq!(Resume::nothing_for_nothing(&offsets).len(), MAX_RESUMED_CHATS);
    }
}
