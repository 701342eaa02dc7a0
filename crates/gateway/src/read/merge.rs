//! A page of history is merged from several sources.

use std::collections::{HashMap, HashSet};

use holdfast_cache::recent::RecentPage;
use holdfast_message::{HistoryKey, Message, MessageId};

/// A message of a page, with its place in the live stream if it has one.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) message: Message,
    /// Its seq within the page's epoch.
    pub(crate) seq: Option<u64>,
}

/// Messages from several sources, once each.
#[derive(Default)]
pub(super) struct Merge {
    by_id: HashMap<MessageId, Shown>,
}

impl Merge {
    pub(super) fn is_empty(&self) -> bool {
        self.by_id.is_empty()
    }

    pub(super) fn of(listed: &RecentPage) -> Self {
        let shown = |(seq, message): (_, &Message)| (message.id, Shown { message: message.clone(), seq });
        Self { by_id: listed.messages().map(shown).collect() }
    }

    pub(super) fn add(&mut self, messages: &[Message]) {
        for message in messages {
            self.by_id.entry(message.id).or_insert_with(|| Shown { message: message.clone(), seq: None });
        }
    }

    /// What is said to lie where this page of the store has nothing.
    pub(super) fn not_in(&self, page: &holdfast_store::Page, before: Option<HistoryKey>) -> Vec<MessageId> {
        if before.is_none() && !page.more {
            return Vec::new();
        }
        let end = page.messages.last().filter(|_| page.more).map(Message::key);
        let stored: HashSet<_> = page.messages.iter().map(|message| message.id).collect();
        let within = |key: HistoryKey| before.is_none_or(|before| key < before) && end.is_none_or(|end| key > end);
        let others = self.by_id.values().map(|shown| &shown.message);
        others
            .filter(|message| within(message.key()) && !stored.contains(&message.id))
            .map(|message| message.id)
            .collect()
    }

    /// Whether a page may reach down to this place.
    pub(super) fn reaches(&self, place: HistoryKey, before: Option<HistoryKey>, limit: usize) -> bool {
        let keys = self.by_id.values().map(|shown| shown.message.key());
        keys.filter(|key| *key > place && before.is_none_or(|before| *key < before)).count() < limit
    }

    /// The stored copy replaces any other, whose place in the stream it keeps.
    pub(super) fn stored_wins(&mut self, messages: &[Message]) {
        for message in messages {
            let seq = self.by_id.get(&message.id).and_then(|shown| shown.seq);
            self.by_id.insert(message.id, Shown { message: message.clone(), seq });
        }
    }

    /// The newest before the cursor, newest first, and whether there are older ones.
    pub(super) fn newest(self, before: Option<HistoryKey>, limit: usize) -> (Vec<Shown>, bool) {
        let in_page = |shown: &Shown| before.is_none_or(|before| shown.message.key() < before);
        let mut messages: Vec<_> = self.by_id.into_values().filter(in_page).collect();
        messages.sort_unstable_by_key(|shown| std::cmp::Reverse(shown.message.key()));
        let more = messages.len() > limit;
        messages.truncate(limit);
        (messages, more)
    }
}
