//! Stores a batch of messages; each gets an outcome of its own.
//!
//! The command is an unordered `insert` keyed by `_id`. That has upsert semantics, since a duplicate `_id` is a message that is
//! stored already and stays as it is, at less than half of an upsert's cost to the server.
//!
//! It is issued by `run_command` and not by `Collection::insert_many`, for two reasons. Fidelity: the driver's error for an
//! insert drops `keyPattern`, so only the wording of the error would distinguish a duplicate `_id` from a duplicate under another
//! unique index. Cost: `insert_many` passes each document through serde twice and keeps its `_id` in a hash map; here
//! the batch is written once, into the command itself. `examples/insert_cost.rs` measured 1.4 µs of CPU a message in this
//! process instead of 4.1 µs, encoding included.
//!
//! The price is that the driver does not count it as a retryable write. It needs no transaction number: with its ids inside, the
//! whole batch can be repeated, and is once, at once, when the connection broke or the primary stepped down, as the driver
//! would do.
//!
//! See `docs/decisions/inserts.md`.

use holdfast_message::Message;
use mongodb::bson::{Bson, Document, RawDocumentBuf};
use tokio::time::Instant;

use crate::bson::Writer;
use crate::{Store, StoreError, document, error, server_limit};

/// The server takes no larger document.
const MAX_DOCUMENT: usize = 16 * 1024 * 1024;
/// A command without document sequences is itself a document of at most 16 MiB and a little.
const MAX_COMMAND: usize = 12 * 1024 * 1024;
/// The server takes 100,000, but drops the connection when its reply outgrows 16 MiB, as 90,000 duplicates' errors do (6.0).
const MAX_DOCUMENTS: usize = 10_000;

/// Errors of one document that blame the document: `BadValue` (too large, by some servers), `FailedToParse`, `TypeMismatch`,
/// `InvalidBSON`, `DollarPrefixedFieldName`, `InvalidIdField`, `DocumentValidationFailure`, `BSONObjectTooLarge`, `KeyTooLong`.
const DOCUMENT_CODES: [i32; 9] = [2, 9, 14, 22, 52, 53, 121, TOO_LARGE, 17280];
const TOO_LARGE: i32 = 10334;
/// As an answer to a whole command only these are surely about a document in it.
const DOCUMENT_CODES_OF_COMMANDS: [i32; 3] = [22, TOO_LARGE, 17280];
const DUPLICATE_KEY: i32 = 11000;

/// What became of one message of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Written {
    /// Stored by this call.
    Stored,
    /// Its `_id` was stored before, by an earlier call or earlier in this batch; the stored copy is unchanged.
    Duplicate,
    /// MongoDB can never take this document.
    Refused {
        /// The server's error code.
        code: i32,
        /// In the server's words, without values.
        reason: String,
    },
    /// Not stored, or not known to be, for a reason that may pass: repeat this message.
    Retry {
        /// The server's error code.
        code: i32,
        /// In the server's words, without values.
        reason: String,
    },
}

/// Nothing of the batch counts as stored, its duplicates included: a duplicate may be of a copy that is itself not yet known to
/// be durable. Some of it may be stored nevertheless. Repeat the whole batch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("nothing of the batch counts as stored: {0}")]
pub struct BatchFailed(#[from] pub StoreError);

impl Store {
    /// Stores the messages that are not stored yet; the outcomes are in the order of `messages`.
    ///
    /// Returns within the setting `write_timeout`. `Ok` says that everything reported as [`Written::Stored`] or
    /// [`Written::Duplicate`] is in the journals of a majority: when nothing had to be written the server waits for what was
    /// there before. A large batch is split into several commands; if one of them fails, the batch has failed.
    pub async fn insert(&self, messages: &[Message]) -> Result<Vec<Written>, BatchFailed> {
        let deadline = Instant::now() + self.write_timeout;
        let mut written = Vec::with_capacity(messages.len());
        let mut most = MAX_DOCUMENTS;
        while let Some(rest) = messages.get(written.len()..).filter(|rest| !rest.is_empty()) {
            let remaining = deadline.saturating_duration_since(Instant::now());
            let (command, count) = command(rest, most, server_limit(remaining).as_millis())?;
            if count == 0 {
                written.push(Written::Refused { code: TOO_LARGE, reason: "the document is larger than 16 MiB".into() });
                continue;
            }
            match self.run_repeating(command, deadline).await.and_then(|reply| outcomes(&reply, count)) {
                Ok(outcomes) => {
                    written.extend(outcomes);
                    most = most.saturating_mul(2).min(MAX_DOCUMENTS);
                }
                // One document spoils the command: close in on it.
                Err(StoreError::Rejected { code: Some(code), reason })
                    if DOCUMENT_CODES_OF_COMMANDS.contains(&code) =>
                {
                    if count == 1 {
                        written.push(Written::Refused { code, reason: without_values(&reason) });
                    } else {
                        most = count / 2;
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(written)
    }

    async fn run_repeating(&self, command: RawDocumentBuf, deadline: Instant) -> Result<Document, StoreError> {
        let first = self.db.run_raw_command(command.clone()).into_future();
        match tokio::time::timeout_at(deadline, first).await {
            Ok(Err(error)) if error::may_be_repeated_at_once(&error) => self.run(command, deadline).await,
            Ok(answer) => Ok(answer?),
            Err(_) => Err(StoreError::late()),
        }
    }
}

/// The command for as many of the messages as fit, and how many they are: none if the first is too large by itself.
fn command(messages: &[Message], most: usize, max_time_ms: u128) -> Result<(RawDocumentBuf, usize), StoreError> {
    let messages = &messages[..messages.len().min(most)];
    let guess = messages.iter().map(|message| message.size() + 64).sum::<usize>();
    let mut writer = Writer::new(guess.min(MAX_COMMAND) + 1024);
    let max_time_ms = i64::try_from(max_time_ms).unwrap_or(i64::MAX).max(1);
    writer.string("insert", "messages");
    writer.bool("ordered", false);
    writer.begin_document("writeConcern");
    writer.string("w", "majority");
    writer.bool("j", true);
    writer.int64("wtimeout", max_time_ms);
    writer.end();
    writer.int64("maxTimeMS", max_time_ms);
    writer.begin_array("documents");
    let mut count = 0;
    for message in messages {
        let mark = writer.len();
        writer.begin_element(count);
        let start = writer.len();
        document::encode(message, &mut writer);
        writer.end();
        let too_large = writer.len() - start > MAX_DOCUMENT;
        if too_large || (count > 0 && writer.len() > MAX_COMMAND) {
            writer.truncate(mark);
            break;
        }
        count += 1;
    }
    Ok((writer.finish()?, count))
}

/// Reads all that the reply says: `writeConcernError`, `writeErrors`, and whether the numbers add up.
fn outcomes(reply: &Document, count: usize) -> Result<Vec<Written>, StoreError> {
    if let Some(Bson::Document(error)) = reply.get("writeConcernError") {
        return Err(StoreError::Unavailable(format!(
            "the write concern was not met: {} (code {})",
            error.get_str("errmsg").unwrap_or_default(),
            number(error, "code").unwrap_or_default()
        )));
    }
    let mut written = vec![Written::Stored; count];
    for error in reply.get_array("writeErrors").map(Vec::as_slice).unwrap_or_default() {
        let at = error.as_document().and_then(|error| Some((error, usize::try_from(number(error, "index")?).ok()?)));
        let Some((error, slot)) = at.and_then(|(error, index)| Some((error, written.get_mut(index)?))) else {
            return Err(StoreError::Unavailable("the reply names a document that was not sent".into()));
        };
        *slot = outcome(error);
    }
    let stored = written.iter().filter(|written| **written == Written::Stored).count();
    if number(reply, "n").and_then(|n| usize::try_from(n).ok()) != Some(stored) {
        return Err(StoreError::Unavailable("the reply's numbers don't add up".into()));
    }
    Ok(written)
}

fn outcome(error: &Document) -> Written {
    let code = number(error, "code").and_then(|code| i32::try_from(code).ok()).unwrap_or_default();
    let by_id = |pattern: &Document| pattern.len() == 1 && pattern.contains_key("_id");
    if code == DUPLICATE_KEY && error.get_document("keyPattern").is_ok_and(by_id) {
        return Written::Duplicate;
    }
    let reason = without_values(error.get_str("errmsg").unwrap_or_default());
    if DOCUMENT_CODES.contains(&code) { Written::Refused { code, reason } } else { Written::Retry { code, reason } }
}

/// Reasons are logged, and a duplicate's reason ends with the key's value.
fn without_values(reason: &str) -> String {
    reason.split(" dup key: ").next().unwrap_or_default().chars().take(200).collect()
}

pub(crate) fn number(document: &Document, key: &str) -> Option<i64> {
    match document.get(key)? {
        Bson::Int32(number) => Some((*number).into()),
        Bson::Int64(number) => Some(*number),
        Bson::Double(number) if number.fract() == 0.0 => Some(*number as i64),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use holdfast_message::{ChatId, MessageId, UserId};
    use mongodb::bson::doc;

    use super::*;

    fn message(byte: u8, content: usize) -> Message {
        let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
        Message {
            id: MessageId::from_bytes([byte; 16]),
            temp_id: None,
            chat: ChatId::direct(&alice, &bob).unwrap(),
            sender: alice,
            receiver: Some(bob),
            content: "x".repeat(content),
            image_url: None,
            public_id: None,
            timestamp: 1,
        }
    }

    #[test]
    fn a_reply_gives_each_document_its_outcome() {
        let reply = doc! { "n": 1, "ok": 1.0, "writeErrors": [
            { "index": 1, "code": 11000, "keyPattern": { "_id": 1 }, "errmsg": "" },
            { "index": 2, "code": 11000, "keyPattern": { "tempId": 1 }, "errmsg": "E11000 dup key: { tempId: \"secret\" }" },
            { "index": 3, "code": 121, "errmsg": "Document failed validation" },
            { "index": 4, "code": 11000, "errmsg": "index: _id_" },
        ] };
        let written = outcomes(&reply, 5).unwrap();
        assert_eq!(written[0], Written::Stored);
        assert_eq!(written[1], Written::Duplicate);
        assert_eq!(written[2], Written::Retry { code: 11000, reason: "E11000".into() });
        assert_eq!(written[3], Written::Refused { code: 121, reason: "Document failed validation".into() });
        assert!(matches!(written[4], Written::Retry { code: 11000, .. }));
    }

    #[test]
    fn a_reply_that_does_not_account_for_every_document_counts_for_none() {
        let duplicate = |index: i32| doc! { "index": index, "code": 11000, "keyPattern": { "_id": 1 } };
        for reply in [
            doc! { "ok": 1.0 },
            doc! { "n": 1 },
            doc! { "n": 2, "writeErrors": [duplicate(0)] },
            doc! { "n": 1, "writeErrors": [duplicate(2)] },
            doc! { "n": 2, "writeConcernError": { "code": 64, "errmsg": "waiting for replication timed out" } },
            doc! { "n": 0, "writeErrors": [duplicate(0), duplicate(1)], "writeConcernError": { "code": 91 } },
        ] {
            assert!(matches!(outcomes(&reply, 2), Err(StoreError::Unavailable(_))), "{reply}");
        }
    }

    #[test]
    fn a_command_takes_what_fits_and_leaves_out_what_never_will() {
        let batch = [message(1, 8 << 20), message(2, 8 << 20), message(3, 17 << 20)];
        let (bytes, count) = command(&batch, 10, 1).unwrap();
        assert_eq!((count, bytes.get_array("documents").unwrap().into_iter().count()), (1, 1));
        assert_eq!(command(&batch[2..], 10, 1).unwrap().1, 0);
        assert_eq!(command(&[message(1, 1), message(2, 1)], 1, 1).unwrap().1, 1);
        assert_eq!(command(&[message(1, 15 << 20)], 1, 1).unwrap().1, 1);
    }
}
