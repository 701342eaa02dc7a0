//! A recent list as it was read, and whether it can answer a page of history alone.

use std::collections::HashSet;
use std::time::Duration;

use holdfast_message::{HistoryKey, Message};

use crate::entry::{Listed, ListedEntry};
use crate::event::Position;

/// The key down to which a list is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// The list was not verified in this epoch.
    Unverified,
    /// The list has every message strictly above this key.
    Above(HistoryKey),
    /// The list has every message of the chat.
    Whole,
}

impl Floor {
    /// Whether the list is complete at this key, as of its last verification.
    pub fn covers(&self, key: &HistoryKey) -> bool {
        match self {
            Self::Unverified => false,
            Self::Above(floor) => key > floor,
            Self::Whole => true,
        }
    }
}

/// A recent list as it was read.
#[derive(Debug, Clone)]
pub struct RecentPage {
    /// The position of the newest message of the stream.
    pub position: Position,
    /// The key down to which the list is complete.
    pub floor: Floor,
    /// The newest key that the list trimmed in this epoch, or had no room for.
    pub trimmed: Option<HistoryKey>,
    /// The time since the read of the store began on which the floor is based; `None`: there was none in this epoch.
    pub verified_age: Option<Duration>,
    /// The server's time of this read, in Unix epoch milliseconds; [`super::Repair`] takes it.
    pub read_at: i64,
    /// All entries in the order of the list, which is that of arrival, not of history.
    pub entries: Vec<ListedEntry>,
    /// The number of entries that this build can't decode. If there are any, a page must be merged with the store, whatever the floor.
    pub undecodable: usize,
}

/// A page of history that a list has answered alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Alone<'a> {
    /// The messages, newest first, each with its seq if it has one.
    pub messages: Vec<(Option<u64>, &'a Message)>,
    /// Whether there are older messages, here or in the store.
    pub more: bool,
}

impl RecentPage {
    /// The messages in the order of the list, each with its seq if it has one.
    pub fn messages(&self) -> impl Iterator<Item = (Option<u64>, &Message)> {
        self.entries.iter().filter_map(|entry| match &entry.item {
            Listed::Message(message) => Some((entry.seq, message)),
            Listed::Tombstone(_) => None,
        })
    }

    /// The newest `limit` messages before the cursor, if the list can answer alone: it was verified within `fresh`, everything
    /// down to the last of them lies above the floor (or it is the whole chat), no tombstone falls among them whose message was
    /// not listed anew, and nothing in the list is unreadable. Otherwise the page has to be merged with the store.
    pub fn alone(&self, before: Option<HistoryKey>, limit: usize, fresh: Duration) -> Option<Alone<'_>> {
        if self.undecodable > 0 || self.verified_age.is_none_or(|age| age > fresh) {
            return None;
        }
        let in_page = |key: &HistoryKey| before.is_none_or(|before| *key < before);
        let mut messages: Vec<_> = self.messages().filter(|(_, message)| in_page(&message.key())).collect();
        messages.sort_unstable_by_key(|(_, message)| std::cmp::Reverse(message.key()));
        let more = messages.len() > limit || self.floor != Floor::Whole;
        messages.truncate(limit);
        // A page that is not full reaches down to the chat's first message.
        let end = messages.last().filter(|_| messages.len() == limit).map(|(_, message)| message.key());
        let complete = end.map_or(self.floor == Floor::Whole, |end| self.floor.covers(&end));
        let listed: HashSet<_> = self.messages().map(|(_, message)| message.id).collect();
        let buried = self.entries.iter().any(|entry| match &entry.item {
            Listed::Tombstone(key) => in_page(key) && Some(*key) > end && !listed.contains(&key.id),
            Listed::Message(_) => false,
        });
        (complete && !buried).then_some(Alone { messages, more })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use holdfast_message::{ChatId, MessageId, UserId};

    const FRESH: Duration = Duration::from_secs(30);

    fn message(number: u8) -> Message {
        let chat = ChatId::parse("alice:bob").unwrap();
        let sender = UserId::parse("bob").unwrap();
        Message {
            id: MessageId::from_bytes([number; 16]),
            temp_id: None,
            receiver: chat.other(&sender),
            chat,
            sender,
            content: "x".into(),
            image_url: None,
            public_id: None,
            timestamp: i64::from(number),
        }
    }

    /// A list with these messages in this order; a negative number is a tombstone.
    fn page(floor: Floor, items: &[i8]) -> RecentPage {
        let entry = |number: &i8| {
            let message = message(number.unsigned_abs());
            let item = if *number > 0 { Listed::Message(message) } else { Listed::Tombstone(message.key()) };
            ListedEntry { seq: None, item }
        };
        RecentPage {
            position: Position { epoch: "e".into(), seq: 0 },
            floor,
            trimmed: None,
            verified_age: Some(Duration::from_secs(1)),
            read_at: 0,
            entries: items.iter().map(entry).collect(),
            undecodable: 0,
        }
    }

    fn alone(page: &RecentPage, limit: usize) -> Option<Vec<i64>> {
        Some(times(&page.alone(None, limit, FRESH)?))
    }

    fn times(page: &Alone<'_>) -> Vec<i64> {
        page.messages.iter().map(|(_, message)| message.timestamp).collect()
    }

    #[test]
    fn a_page_above_the_floor_is_answered_in_historys_order() {
        let page = page(Floor::Above(message(2).key()), &[1, 2, 3, 5, 4]);
        assert_eq!(alone(&page, 2), Some(vec![5, 4]));
        assert_eq!(alone(&page, 3), Some(vec![5, 4, 3]));
        assert_eq!(alone(&page, 4), None, "the floor itself is not above it");
        assert_eq!(alone(&page, 9), None);
    }

    #[test]
    fn a_whole_chat_is_answered_however_short() {
        assert_eq!(alone(&page(Floor::Whole, &[2, 1]), 20), Some(vec![2, 1]));
        assert_eq!(alone(&page(Floor::Whole, &[]), 20), Some(vec![]));
        assert_eq!(alone(&page(Floor::Unverified, &[]), 20), None);
    }

    #[test]
    fn a_page_before_a_cursor_is_judged_by_what_lies_in_it() {
        let before = |page: &RecentPage, cursor: u8, limit: usize| {
            let page = page.alone(Some(message(cursor).key()), limit, FRESH)?;
            Some((times(&page), page.more))
        };
        let above = page(Floor::Above(message(2).key()), &[1, 2, 3, 5, 4]);
        assert_eq!(before(&above, 5, 2), Some((vec![4, 3], true)));
        assert_eq!(before(&above, 5, 3), None);
        let whole = page(Floor::Whole, &[1, 2, 3, -4, 5, -6]);
        assert_eq!(before(&whole, 4, 2), Some((vec![3, 2], true)), "the tombstones lie above the page");
        assert_eq!(before(&whole, 4, 3), Some((vec![3, 2, 1], false)));
        assert_eq!(before(&whole, 5, 2), None);
        assert_eq!(before(&whole, 1, 2), Some((vec![], false)));
    }

    #[test]
    fn what_is_stale_or_unreadable_or_has_a_tombstone_is_merged() {
        let whole = |items| page(Floor::Whole, items);
        assert_eq!(alone(&whole(&[1, -2, 3]), 1), Some(vec![3]), "it falls below the page");
        assert_eq!(alone(&whole(&[1, -2, 3]), 2), None);
        assert_eq!(alone(&whole(&[1, -2, 3, 2]), 3), Some(vec![3, 2, 1]), "listed anew");
        assert_eq!(alone(&whole(&[-1]), 20), None);
        assert_eq!(alone(&RecentPage { undecodable: 1, ..whole(&[1]) }, 1), None);
        for verified_age in [None, Some(FRESH + Duration::from_millis(1))] {
            assert_eq!(alone(&RecentPage { verified_age, ..whole(&[1]) }, 1), None);
        }
    }
}
