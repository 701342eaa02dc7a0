//! What clients did and saw, written down, so that the promise can be judged afterwards.
//!
//! * [`History`]: every send with all its attempts ([`Sent`]), and what every device saw ([`Seen`]). One JSON document a line in a
//!   file, so that a run can be judged again.
//! * [`Held`]: what MongoDB holds, asked of the database itself; [`whole_history`]: what a client is shown.
//! * [`judge`](mod@judge): the two compared.
//!
//! [`Moment`]s order the events of a run: numbers that rise by one with each event, across all tasks, so that two events with equal
//! clock times still have an order.

pub mod held;
pub mod judge;
pub mod shown;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{BufRead, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use holdfast_message::{ChatId, Draft, Message, UserId};
use serde::{Deserialize, Serialize};

pub use held::{Document, Held};
pub use judge::{Circumstances, Kill, Span, Verdict, judge};
pub use shown::{Reading, newest_page, whole_history};

/// A position in the order of a run's events.
pub type Moment = u64;

/// Gives out [`Moment`]s. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Order(Arc<AtomicU64>);

impl Order {
    /// The next moment.
    pub fn next(&self) -> Moment {
        self.0.fetch_add(1, Ordering::SeqCst)
    }
}

/// Unix epoch milliseconds.
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// How an attempt ended, as its client saw it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "outcome", rename_all = "snake_case")]
pub enum Outcome {
    /// A positive answer.
    Accepted {
        /// The message's id, by the server.
        message_id: String,
        /// Its time, by the server.
        timestamp: i64,
        /// `kafka` or `failed-queue`.
        durability: String,
        /// Whether the server knew it already.
        duplicate: bool,
    },
    /// A negative answer.
    Refused {
        /// The code of the error.
        code: String,
        /// Whether the same send may succeed later.
        retryable: bool,
    },
    /// No answer within the client's deadline, on a connection that stayed open.
    TimedOut,
    /// The connection ended first.
    Disconnected,
}

/// One attempt to send a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The gateway's address.
    pub gateway: String,
    /// The number of the connection.
    pub connection: u64,
    /// The moment when it was passed to the connection.
    pub began: Moment,
    /// The same by the clock, in epoch milliseconds.
    pub began_ms: i64,
    /// The moment when it ended.
    pub ended: Moment,
    /// The same by the clock, in epoch milliseconds.
    pub ended_ms: i64,
    /// The outcome.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// A message that a client sent, under one `tempId`, in one or more attempts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sent {
    /// The client's id for it.
    pub temp_id: String,
    /// The sender's user id.
    pub sender: String,
    /// The receiver's user id; empty for a group.
    pub receiver: String,
    /// The group that it was sent to. Absent for a chat of two.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// The content.
    pub content: String,
    /// Its attempts, in their order.
    pub attempts: Vec<Attempt>,
}

impl Sent {
    /// The message that this send is, whichever gateway takes it; without a time. `None` if no gateway would take it.
    pub fn message(&self) -> Option<Message> {
        let sender = UserId::parse(&self.sender).ok()?;
        let chat = match &self.group {
            Some(group) => ChatId::parse(group).ok()?,
            None => ChatId::direct(&sender, &UserId::parse(&self.receiver).ok()?).ok()?,
        };
        let draft = Draft::new(sender, chat, Some(self.temp_id.clone()), self.content.clone(), None, None).ok()?;
        Some(draft.stamp(0))
    }

    /// The moment of the first positive answer.
    pub fn accepted(&self) -> Option<Moment> {
        self.attempts.iter().filter(|attempt| attempt.is_accepted()).map(|attempt| attempt.ended).min()
    }
}

impl Attempt {
    /// Whether its answer was positive.
    pub fn is_accepted(&self) -> bool {
        matches!(self.outcome, Outcome::Accepted { .. })
    }
}

/// What one device saw of its user's chats.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    /// The device's user.
    pub user: String,
    /// The name of the device, unique among the user's.
    pub device: String,
    /// The chats that it takes part in.
    #[serde(default)]
    pub chats: BTreeSet<String>,
    /// Every `newMessage` since the last `messageFailed` for it, by message.
    pub live: BTreeMap<String, Vec<Live>>,
    /// Messages that `resume` or `resumed` brought.
    pub resumed: BTreeSet<String>,
    /// Messages that came only by history, after `recovered: false`.
    pub refetched: BTreeSet<String>,
    /// `messageFailed`. What was seen before it does not count any more.
    pub taken_back: BTreeSet<String>,
    /// Messages whose id is not that of their sender, chat, `tempId` and content, or that are none of this device's business.
    pub mutated: BTreeSet<String>,
    /// How many `resync` events it received.
    pub resyncs: u32,
    /// How often it connected.
    pub connections: u32,
    /// How often a seq was missing for a second.
    pub gaps: u32,
}

/// A `newMessage`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Live {
    /// The number of the connection that received it.
    pub connection: u64,
    /// The stream's epoch and the message's seq; none while the gateway's cache was away or too slow.
    pub position: Option<(String, u64)>,
}

impl Seen {
    /// Handles `messageFailed`: forgets that the message was seen.
    pub fn retract(&mut self, message_id: &str) {
        self.live.remove(message_id);
        for ids in [&mut self.resumed, &mut self.refetched] {
            ids.remove(message_id);
        }
        self.taken_back.insert(message_id.to_owned());
    }

    /// Whether it saw this message, in whichever way.
    pub fn has(&self, message_id: &str) -> bool {
        self.live.contains_key(message_id)
            || [&self.resumed, &self.refetched].iter().any(|ids| ids.contains(message_id))
    }
}

/// Whether a message that a client was shown is what its id says: the id is made of sender, chat, `tempId` and content.
pub fn is_genuine(message: &serde_json::Value) -> bool {
    let text = |name: &str| message[name].as_str().unwrap_or_default();
    let sent = Sent {
        temp_id: text("tempId").to_owned(),
        sender: text("senderId").to_owned(),
        receiver: text("receiverId").to_owned(),
        group: message["receiverId"].is_null().then(|| text("chatId").to_owned()),
        content: text("content").to_owned(),
        attempts: Vec::new(),
    };
    let same = |wanted: Message| wanted.id.to_string() == text("messageId") && wanted.chat.as_str() == text("chatId");
    sent.message().is_some_and(same)
}

/// All that clients did and saw.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct History {
    /// Every send with its attempts.
    pub sent: Vec<Sent>,
    /// What each device saw.
    pub seen: Vec<Seen>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Sent(Sent),
    Seen(Seen),
}

impl History {
    /// Writes it, one JSON document a line.
    ///
    /// # Errors
    /// The writer's.
    pub fn write(&self, mut to: impl Write) -> Result<()> {
        let sent = self.sent.iter().cloned().map(Line::Sent);
        for line in sent.chain(self.seen.iter().cloned().map(Line::Seen)) {
            serde_json::to_writer(&mut to, &line)?;
            to.write_all(b"\n")?;
        }
        Ok(to.flush()?)
    }

    /// Reads what [`History::write`] wrote.
    ///
    /// # Errors
    /// The reader's, or a line that is none of ours.
    pub fn read(from: impl BufRead) -> Result<Self> {
        let mut history = Self::default();
        for (number, line) in from.lines().enumerate() {
            let line = serde_json::from_str(&line?).with_context(|| format!("line {}", number + 1))?;
            match line {
                Line::Sent(sent) => history.sent.push(sent),
                Line::Seen(seen) => history.seen.push(seen),
            }
        }
        Ok(history)
    }
}
