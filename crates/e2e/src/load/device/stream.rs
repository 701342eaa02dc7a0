//! What a device knows of a chat's live stream: its offset, and gaps above it.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};
use tokio::time::Instant;

use crate::ledger::now_ms;

/// The state of each chat's live stream.
pub(super) type Streams = BTreeMap<String, StreamState>;

/// What the device knows of a chat's live stream.
#[derive(Debug, Default)]
pub(super) struct StreamState {
    pub(super) epoch: Option<String>,
    /// The offset: everything up to this seq is known.
    pub(super) upto: u64,
    /// Known seqs above a gap.
    above: BTreeSet<u64>,
    pub(super) gap_since: Option<Instant>,
    /// Something may have been missed.
    pub(super) stale: bool,
    /// When everything was known last, in epoch milliseconds.
    pub(super) good_ms: i64,
}

impl StreamState {
    /// A stream of which nothing is known yet.
    pub(super) fn new() -> Self {
        Self { good_ms: now_ms(), stale: true, ..Self::default() }
    }

    pub(super) fn advance(&mut self, epoch: &str, seq: u64) {
        if self.epoch.as_deref() != Some(epoch) {
            self.stale = true;
        } else if seq > self.upto {
            self.above.insert(seq);
            self.close_gap();
        }
    }

    /// Notes that everything is known now, if it is.
    pub(super) fn note_if_good(&mut self) {
        if !self.stale && self.gap_since.is_none() {
            self.good_ms = now_ms();
        }
    }

    fn close_gap(&mut self) {
        while self.above.remove(&(self.upto + 1)) {
            self.upto += 1;
        }
        self.above.retain(|seq| *seq > self.upto);
        if self.above.is_empty() {
            self.gap_since = None;
        } else {
            self.gap_since.get_or_insert_with(Instant::now);
        }
    }

    pub(super) fn set(&mut self, epoch: &Value, seq: &Value) {
        let epoch = epoch.as_str().map(str::to_owned);
        if epoch != self.epoch {
            self.above.clear();
        }
        self.epoch = epoch;
        self.upto = seq.as_u64().unwrap_or_default();
        self.gap_since = None;
        self.close_gap();
    }
}

/// The offsets of the chats that are asked for, as far as there are any.
pub(super) fn offsets<'a>(streams: &Streams, chats: impl Iterator<Item = &'a String>) -> Map<String, Value> {
    let known = chats.filter_map(|chat| {
        let stream = &streams[chat];
        Some((chat.clone(), json!({ "epoch": stream.epoch.as_ref()?, "seq": stream.upto })))
    });
    known.collect()
}
