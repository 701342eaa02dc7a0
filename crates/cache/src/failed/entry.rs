//! The bytes of one entry of a failed queue, and of its dead list.
//!
//! Positional msgpack. Queued: version, when (Unix epoch ms), `traceparent` or nil, the record's protobuf bytes. Dead: version,
//! when it was buried, why, the queued entry's bytes as they were.

use bytes::Bytes;

use crate::msgpack::{Reader, Writer};

const VERSION: u64 = 1;

/// What a failed queue holds of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueEntry {
    /// When it was queued, in Unix epoch milliseconds, by the gateway's clock.
    pub queued_at: i64,
    /// The trace that the send belongs to, as W3C text.
    pub traceparent: Option<String>,
    /// The record's value, as Kafka will get it.
    pub record: Bytes,
}

/// Why bytes are no entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not of any known shape: for the dead list.
    #[error("not an entry of a failed queue")]
    Malformed,
    /// Written by a newer build: left for one that can read it.
    #[error("an entry of a newer version")]
    Newer,
}

impl QueueEntry {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::with_capacity(self.record.len() + 80).array(4).uint(VERSION).int(self.queued_at);
        writer.maybe_str(self.traceparent.as_deref()).bin(&self.record).0.into()
    }

    /// The entry that these bytes are.
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

/// What a dead list holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadEntry {
    /// When it was given up, in Unix epoch milliseconds, by the gateway's clock.
    pub buried_at: i64,
    /// Why.
    pub reason: String,
    /// The bytes that lay in the queue.
    pub entry: Bytes,
}

impl DeadEntry {
    /// Its bytes.
    pub fn encode(&self) -> Bytes {
        let writer = Writer::with_capacity(self.entry.len() + 80).array(4).uint(VERSION).int(self.buried_at);
        writer.str(&self.reason).bin(&self.entry).0.into()
    }

    /// The entry that these bytes are.
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
