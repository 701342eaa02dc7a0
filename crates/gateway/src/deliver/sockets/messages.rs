//! Messages to sockets: one connection receives a given `messageId` once.
//!
//! Takes a message with or without its position, however often it is announced; gives each connection `newMessage` the first time, and
//! `messagePositioned` when the message has a position that the connection has not been given yet ([`crate::deliver::sent_window`]). A connection
//! that was given `messageFailed` may be given the message again.
//!
//! An answer to `resume` counts, too: what it contains is not delivered again by the live events that wait behind it, nor later.
//!
//! See `docs/decisions/one-delivery-per-connection.md`.

use std::collections::{HashMap, HashSet};
use std::time::Instant;

use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Message, MessageId, UserId};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Value, json};
use socketioxide::adapter::LocalAdapter;
use socketioxide::socket::Socket;

use super::{Connected, Held, Holding, Sockets};
use crate::deliver::emit;
use crate::deliver::sent_window::{Delivery, Due};
use crate::wire::events::server::{MESSAGE_FAILED, MESSAGE_POSITIONED, NEW_MESSAGE};

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
    pub(crate) fn message(&self, to: &[UserId], message: &Message, position: Position<'_>) {
        // Written once, however many sockets it goes to. A message always becomes JSON: it has no map with keys that are not text.
        let Ok(payload) = to_raw_value(&MessageJson { message, position }) else { return };
        self.sent.deliver(message.id, position, Instant::now(), |delivery| {
            self.each(to, |connected| {
                let given = match delivery.due(connected.number) {
                    Due::Message => self.give(connected, NEW_MESSAGE, &payload),
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
    pub(crate) fn positioned(&self, message: &Message, position: Position<'_>) {
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
    pub(crate) fn failed(&self, to: &[UserId], id: MessageId, temp_id: Option<&str>, chat: &ChatId) {
        let payload = to_raw_value(&json!({ "messageId": id, "tempId": temp_id, "chatId": chat.as_str() }));
        let Ok(payload) = payload else { return };
        self.sent.retract(id, || {
            let mut informed = Vec::new();
            self.each(to, |connected| {
                if self.give(connected, MESSAGE_FAILED, &payload) {
                    connected.held().retracted(id);
                    informed.push(connected.number);
                }
            });
            informed
        });
    }

    fn give_position(&self, connected: &Connected, message: &Message, position: Position<'_>) -> bool {
        let Position::At { epoch, seq } = position else { return false };
        let payload = Positioned { chat_id: message.chat.as_str(), message_id: message.id, epoch, seq };
        to_raw_value(&payload).is_ok_and(|payload| self.give(connected, MESSAGE_POSITIONED, &payload))
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
    pub(crate) fn answered<'a>(&self, messages: impl IntoIterator<Item = (MessageId, &'a str, u64)>) {
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
}

/// What is to be given in place of an event that waited behind an answer.
#[derive(Debug)]
enum Left {
    /// The event itself.
    Event,
    /// A position that the answer did not contain.
    Position(Box<RawValue>),
    /// Nothing.
    Nothing,
}

impl Answered {
    /// Gives a socket what is left of an event that waited behind answers to it; false if there was no room for that.
    pub(super) fn give(&mut self, socket: &Socket<LocalAdapter>, event: &'static str, payload: &RawValue) -> bool {
        let left = self.left_of(event, payload);
        if let Left::Event = left {
            return emit::held(socket, event, payload);
        }
        emit::forget(socket, event, payload);
        match left {
            Left::Position(position) => emit::event(socket, MESSAGE_POSITIONED, &position),
            Left::Event | Left::Nothing => true,
        }
    }

    fn left_of(&mut self, event: &str, payload: &RawValue) -> Left {
        if self.positions.is_empty() || (event != NEW_MESSAGE && event != MESSAGE_FAILED) {
            return Left::Event;
        }
        let payload: Value = serde_json::from_str(payload.get()).unwrap_or_default();
        let Some(id) = message_id(&payload) else { return Left::Event };
        if event == MESSAGE_FAILED {
            self.positions.remove(&id);
            return Left::Event;
        }
        let Some(known) = self.positions.get_mut(&id) else { return Left::Event };
        let position = payload["epoch"].as_str().zip(payload["seq"].as_u64());
        let Some((epoch, seq)) = position.filter(|(epoch, seq)| (*epoch, *seq) != (&*known.0, known.1)) else {
            return Left::Nothing;
        };
        *known = (epoch.to_owned(), seq);
        let chat = payload["chatId"].as_str().unwrap_or_default();
        let position = to_raw_value(&Positioned { chat_id: chat, message_id: id, epoch, seq });
        position.map_or(Left::Nothing, Left::Position)
    }
}

/// The message that an event would have brought.
pub(super) fn received(event: &str, payload: &RawValue) -> Option<MessageId> {
    if event != NEW_MESSAGE {
        return None;
    }
    message_id(&serde_json::from_str(payload.get()).ok()?)
}

fn message_id(payload: &Value) -> Option<MessageId> {
    MessageId::parse(payload["messageId"].as_str()?)
}

#[cfg(test)]
mod tests;
