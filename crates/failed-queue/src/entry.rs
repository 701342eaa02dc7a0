//! The bytes of an entry of a failed queue, and of an entry of a dead list: positional msgpack.
//!
//! A queued entry holds the version, the time at which it was queued (Unix epoch milliseconds), the `traceparent` or nil, and the protobuf
//! bytes of the record. A dead entry holds the version, the time at which it was given up, the reason, and the bytes of the queued entry.

use bytes::Bytes;
use holdfast_message::{Message, record};
use holdfast_redis::msgpack::{Reader, Writer};

const VERSION: u64 = 1;

/// A message in a failed queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// When it was queued, in Unix epoch milliseconds by the gateway's clock.
    pub queued_at: i64,
    /// The trace that the send belongs to, as a W3C `traceparent`.
    pub traceparent: Option<String>,
    /// The value of the record, as it will be published to Kafka.
    pub record: Bytes,
}

/// Why bytes can't be decoded as an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// They have no known shape: the entry belongs in the dead list.
    #[error("not an entry of a failed queue")]
    Malformed,
    /// A newer build has written them: the entry is left for one that can read it.
    #[error("an entry of a newer version")]
    Newer,
}

impl QueueEntry {
    /// Encodes the entry.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::with_capacity(self.record.len() + 80).array(4).uint(VERSION).int(self.queued_at);
        writer.maybe_str(self.traceparent.as_deref()).bin(&self.record).0.into()
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The bytes are malformed, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut reader = Reader(bytes);
        version(&mut reader)?;
        let mut fields = || {
            let queued_at = reader.int()?;
            let traceparent = reader.maybe_str()?.map(str::to_owned);
            let record = Bytes::copy_from_slice(reader.bin()?);
            reader.0.is_empty().then_some(Self { queued_at, traceparent, record })
        };
        fields().ok_or(EntryError::Malformed)
    }
}

/// The message that an entry holds, if this build can read it.
pub(crate) fn message_of(bytes: &[u8]) -> Option<Message> {
    record::decode(&QueueEntry::decode(bytes).ok()?.record).ok()
}

/// An entry of a dead list: one that can never be published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEntry {
    /// When it was given up, in Unix epoch milliseconds by the gateway's clock.
    pub buried_at: i64,
    /// Why it was given up.
    pub reason: String,
    /// The bytes of the queued entry.
    pub entry: Bytes,
}

impl DeadEntry {
    /// Encodes the entry.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::with_capacity(self.entry.len() + 80).array(4).uint(VERSION).int(self.buried_at);
        writer.str(&self.reason).bin(&self.entry).0.into()
    }

    /// Decodes an entry.
    ///
    /// # Errors
    /// The bytes are malformed, or of a newer version.
    pub fn decode(bytes: &[u8]) -> Result<Self, EntryError> {
        let mut reader = Reader(bytes);
        version(&mut reader)?;
        let mut fields = || {
            let (buried_at, reason) = (reader.int()?, reader.str()?.to_owned());
            Some(Self { buried_at, reason, entry: Bytes::copy_from_slice(reader.bin()?) })
        };
        fields().ok_or(EntryError::Malformed)
    }
}

fn version(reader: &mut Reader<'_>) -> Result<(), EntryError> {
    reader.array().ok_or(EntryError::Malformed)?;
    match reader.uint() {
        Some(VERSION) => Ok(()),
        Some(newer) if newer > VERSION => Err(EntryError::Newer),
        _ => Err(EntryError::Malformed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_whole_and_nothing_else_does() {
        let entry = QueueEntry {
            queued_at: 1_700_000_000_000,
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            record: Bytes::from_static(b"record"),
        };
        let bytes = entry.encode();
        assert_eq!(QueueEntry::decode(&bytes), Ok(entry.clone()));
        for end in 0..bytes.len() {
            assert_eq!(QueueEntry::decode(&bytes[..end]), Err(EntryError::Malformed));
        }
        assert_eq!(QueueEntry::decode(b"garbage"), Err(EntryError::Malformed));
        let untraced = QueueEntry { traceparent: None, ..entry };
        assert_eq!(QueueEntry::decode(&untraced.encode()), Ok(untraced));

        let dead = DeadEntry { buried_at: 7, reason: "malformed".into(), entry: bytes };
        assert_eq!(DeadEntry::decode(&dead.encode()), Ok(dead));
    }

    #[test]
    fn a_newer_version_is_told_from_garbage() {
        assert_eq!(QueueEntry::decode(&[0x92, 2, 0xc0]), Err(EntryError::Newer));
    }
}
