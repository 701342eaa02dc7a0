//! Messages to sockets: one connection receives a given `messageId` once.
//!
//! Takes a message with or without its position, however often it is announced; gives each connection `newMessage` the first time, and
//! `messagePositioned` when the message has a position that the connection has not been given yet ([`super::sent_window`]). A connection
//! that was given `messageFailed` may be given the message again.
//!
//! An answer to `resume` counts, too: what it contains is not delivered again by the live events that wait behind it, nor later.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Message, MessageId, UserId};
use serde::Serialize;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};

use super::sent_window::{Delivery, Due};
use super::{Connected, Held, Holding, Sockets};
use crate::event::server::{MESSAGE_FAILED, MESSAGE_POSITIONED, NEW_MESSAGE};

/// What answers to `resume` contained, of which the live events behind them are not to be repetitions.
#[derive(Default)]
pub(super) struct Answered {
    /// The position of each message.
    positions: HashMap<MessageId, (String, u64)>,
    /// Messages whose retraction waits behind the answer.
    retracted: HashSet<MessageId>,
}

/// `messagePositioned`.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Positioned<'a> {
    chat_id: &'a str,
    message_id: MessageId,
    epoch: &'a str,
    seq: u64,
}

impl Sockets {
    /// A message to every connection that these users have here: `newMessage`, or `messagePositioned` if the connection has received it
    /// and has not been given this position. `position` is [`Position::Unknown`] without the cache.
    pub fn message(&self, to: &[UserId], message: &Message, position: Position<'_>) {
        // Written once, however many sockets it goes to. A message always becomes JSON: it has no map with keys that are not text.
        let Ok(payload) = to_raw_value(&MessageJson { message, position }) else { return };
        self.sent.deliver(message.id, position, Instant::now(), |delivery| {
            self.each(to, |connected| {
                let given = match delivery.due(connected.number) {
                    Due::Message => self.give(connected, NEW_MESSAGE, &*payload),
                    Due::Position => self.give_position(connected, message, position),
                    Due::Nothing => return,
                };
                if given {
                    delivery.given(connected.number);
                }
            });
        });
    }

    /// The position of a message has become known: `messagePositioned` to those connections here that have received it and have not been
    /// given this position.
    pub fn positioned(&self, message: &Message, position: Position<'_>) {
        let give = |delivery: &mut Delivery<'_>| {
            self.each(&self.audience(&message.chat), |connected| {
                if delivery.due(connected.number) == Due::Position && self.give_position(connected, message, position) {
                    delivery.given(connected.number);
                }
            });
        };
        self.sent.position(message.id, position, give);
    }

    /// `messageFailed` to users who may have been shown the message.
    pub fn failed(&self, to: &[UserId], id: MessageId, temp_id: Option<&str>, chat: &ChatId) {
        let payload = json!({ "messageId": id, "tempId": temp_id, "chatId": chat.as_str() });
        self.sent.retract(id, || {
            let mut told = Vec::new();
            self.each(to, |connected| {
                if self.give(connected, MESSAGE_FAILED, &payload) {
                    connected.held().retracted(id);
                    told.push(connected.number);
                }
            });
            told
        });
    }

    fn give_position(&self, connected: &Connected, message: &Message, position: Position<'_>) -> bool {
        let Position::At { epoch, seq } = position else { return false };
        let payload = Positioned { chat_id: message.chat.as_str(), message_id: message.id, epoch, seq };
        self.give(connected, MESSAGE_POSITIONED, &payload)
    }

    fn each(&self, users: &[UserId], mut give: impl FnMut(&Connected)) {
        for user in users {
            if let Some(sockets) = self.users.get(user) {
                sockets.iter().for_each(|connected| give(connected));
            }
        }
    }
}

impl Holding {
    /// The answer has been given, with these messages: the connection has received them.
    pub fn answered<'a>(&self, messages: impl IntoIterator<Item = (MessageId, &'a str, u64)>) {
        let number = self.connected.number;
        for (id, epoch, seq) in messages {
            self.sent.deliver(id, Position::At { epoch, seq }, Instant::now(), |delivery| {
                // Within the window's lock, as its counterpart: what is retracted behind the answer has not been received.
                if self.connected.held().contains(id, epoch, seq) {
                    delivery.given(number);
                }
            });
        }
    }
}

impl Held {
    /// Takes note of a message of an answer; false if its retraction waits behind that answer.
    fn contains(&mut self, id: MessageId, epoch: &str, seq: u64) -> bool {
        self.answered.positions.insert(id, (epoch.to_owned(), seq));
        !self.answered.retracted.contains(&id)
    }

    fn retracted(&mut self, id: MessageId) {
        if self.holders > 0 {
            self.answered.retracted.insert(id);
        }
    }

    /// The events that are to be emitted now: of messages that an answer contained, only positions that it did not.
    pub(super) fn release(&mut self) -> Vec<(&'static str, Value)> {
        let Answered { mut positions, .. } = std::mem::take(&mut self.answered);
        let events = std::mem::take(&mut self.events);
        if positions.is_empty() {
            return events;
        }
        events.into_iter().filter_map(|(event, payload)| unanswered(event, payload, &mut positions)).collect()
    }
}

/// What is left of an event that waited behind answers which contained these messages.
fn unanswered(
    event: &'static str,
    payload: Value,
    positions: &mut HashMap<MessageId, (String, u64)>,
) -> Option<(&'static str, Value)> {
    let known = match (event, message_id(&payload)) {
        (NEW_MESSAGE, Some(id)) => positions.get_mut(&id),
        (MESSAGE_FAILED, Some(id)) => {
            positions.remove(&id);
            None
        }
        _ => None,
    };
    let Some(known) = known else { return Some((event, payload)) };
    let (epoch, seq) = payload["epoch"].as_str().zip(payload["seq"].as_u64())?;
    if (epoch, seq) == (&*known.0, known.1) {
        return None;
    }
    *known = (epoch.to_owned(), seq);
    let (chat, id) = (&payload["chatId"], &payload["messageId"]);
    Some((MESSAGE_POSITIONED, json!({ "chatId": chat, "messageId": id, "epoch": epoch, "seq": seq })))
}

/// The message that an event would have brought.
pub(super) fn received(event: &str, payload: &Value) -> Option<MessageId> {
    if event == NEW_MESSAGE { message_id(payload) } else { None }
}

fn message_id(payload: &Value) -> Option<MessageId> {
    MessageId::parse(payload["messageId"].as_str()?)
}

#[cfg(test)]
mod tests;
