//! How a send ends for its sender: by an answer that says what made the message durable, or by a refusal.

use std::sync::Arc;

use holdfast_cache::event::Position as StreamPosition;
use holdfast_message::Message;
use holdfast_message::json::{MessageJson, Position};

use crate::refusal::Refusal;
use crate::wire::responses::{Durability, Sent};

/// A positive answer: the message is durable.
#[derive(Debug)]
pub(crate) struct Accepted {
    /// As it is stored: of a repeat, with the first copy's time.
    pub(crate) message: Arc<Message>,
    /// Its place in the live stream, if known.
    pub(crate) position: Option<StreamPosition>,
    /// What made it durable.
    pub(crate) durability: Durability,
    /// Whether an earlier send had it shown already.
    pub(crate) duplicate: bool,
}

impl<'a> From<&'a Accepted> for Sent<'a> {
    fn from(accepted: &'a Accepted) -> Self {
        let position = match &accepted.position {
            Some(position) => Position::At { epoch: &position.epoch, seq: position.seq },
            None => Position::Unknown,
        };
        Self {
            message: MessageJson { message: &accepted.message, position },
            durability: accepted.durability,
            duplicate: accepted.duplicate,
        }
    }
}

/// How a send ends for its sender.
pub(crate) type Answer = Result<Accepted, Refusal>;
