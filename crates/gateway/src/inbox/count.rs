//! Counts unread messages, from the recent lists and the store.
//!
//! A message is unread if another user sent it and it lies above the user's watermark. It is listed first and stored later, and leaves the list
//! only towards the store. So the lists are read first, and then the store counts what they do not hold. A chat whose stream has moved meanwhile is
//! counted again: a message that was listed after its list was read, and is stored already, would be counted here and once more as an arrival. In a chat
//! that never rests the store finally counts only what was sent before the newest listed message: a later message counts as an arrival, and one
//! that never was an arrival is counted the next time.
//!
//! See `docs/decisions/unread-counts.md`.

use std::collections::{HashMap, HashSet};

use holdfast_cache::event::Position;
use holdfast_cache::inbox::{Count, CountedChat};
use holdfast_cache::recent::{ListedUnread, StreamTip};
use holdfast_message::{ChatId, HistoryKey, MessageId, UserId, recency};
use holdfast_service::clock::unix_ms;
use holdfast_store::{ReadStates, Unread};

use super::{ATTEMPTS, BUDGET, Inbox, unavailable};
use crate::refusal::Refusal;

/// A user's chats that are counted: those that were written to last. In older ones nothing counts as unread.
pub(crate) const MAX_CHATS: usize = 1000;
/// Lists in one round trip that reads their tips, and in one that reads what is unread.
const TIPS: usize = 250;
const LISTS: usize = 50;
/// How long after its timestamp a message may still count as an arrival, in milliseconds.
const ARRIVES_WITHIN_MS: i64 = 60_000;

/// All of a user's chats, counted.
#[derive(Debug, Clone)]
pub(crate) struct Counted {
    /// In no particular order.
    pub(crate) chats: Vec<CountedChat>,
    /// Whether the store knows older chats than these.
    pub(crate) older_stored: bool,
}

/// What the lists say of one chat.
#[derive(Default)]
struct Listed {
    /// None: there is no list, or the cache did not answer.
    at: Option<Position>,
    unread: Vec<MessageId>,
    /// Of the messages that do not lie ahead ([`recency`]).
    newest_timestamp: i64,
}

impl Inbox {
    /// Counts all chats that the store knows.
    pub(super) async fn count_all(&self, user: &UserId) -> Result<Counted, Refusal> {
        let mine = self.parts.membership.groups_of(user).await?;
        let asked = self.parts.store.call(async |store| {
            let newest = store.conversations(user, None, MAX_CHATS + 1).await?;
            let known: HashSet<_> = newest.iter().map(|conversation| conversation.chat.clone()).collect();
            // The view may not know yet who has come to a group, or gone.
            let absent: Vec<_> = mine.iter().filter(|group| !known.contains(*group)).cloned().collect();
            let absent = if absent.is_empty() { Vec::new() } else { store.conversations_of(&absent).await? };
            Ok((newest, absent))
        });
        let (mut newest, absent) = asked.await.map_err(unavailable)?;
        let older_stored = newest.len() > MAX_CHATS;
        newest.truncate(MAX_CHATS);
        let mine: HashSet<_> = mine.into_iter().collect();
        newest.retain(|conversation| !conversation.chat.is_group() || mine.contains(&conversation.chat));
        let chats: Vec<_> = newest
            .into_iter()
            .chain(absent)
            .map(|conversation| (conversation.chat, conversation.last_timestamp))
            .collect();
        Ok(Counted { chats: self.count(user, &chats).await?, older_stored })
    }

    /// Counts these chats, each with its last timestamp as far as that is known.
    pub(super) async fn count(&self, user: &UserId, chats: &[(ChatId, i64)]) -> Result<Vec<CountedChat>, Refusal> {
        let mut done = Vec::with_capacity(chats.len());
        let mut left = chats.to_vec();
        for attempt in 1..=ATTEMPTS {
            let names: Vec<_> = left.iter().map(|(chat, _)| chat.clone()).collect();
            let counted = self.count_once(user, &names, attempt == ATTEMPTS).await?;
            let now = self.tips(&names).await;
            let mut moved = Vec::new();
            for (((chat, last_timestamp), (listed, unread)), now) in left.into_iter().zip(counted).zip(now) {
                let still = now.map(|tip| tip.position) == listed.at;
                if !still && attempt < ATTEMPTS {
                    moved.push((chat, last_timestamp));
                    continue;
                }
                let live = listed.newest_timestamp > unix_ms() - ARRIVES_WITHIN_MS;
                let last_timestamp = last_timestamp.max(listed.newest_timestamp);
                done.push(CountedChat { chat, count: Count { unread, at: listed.at }, last_timestamp, live });
            }
            left = moved;
            if left.is_empty() {
                break;
            }
        }
        Ok(done)
    }

    /// What the lists say of each chat, and how much of it is unread, in the order of `chats`; where there is a list, `as_listed`: of
    /// what was sent before its newest message.
    async fn count_once(
        &self,
        user: &UserId,
        chats: &[ChatId],
        as_listed: bool,
    ) -> Result<Vec<(Listed, usize)>, Refusal> {
        let tips = self.tips(chats).await;
        // As of now: a reading is counted if it was stored before.
        let states = self.parts.store.call(async |store| store.read_states(user, chats).await).await;
        let states = states.map_err(unavailable)?;
        let listed = self.listed(user, chats, tips, &states).await;
        let listed = self.as_stored(chats, listed, &states).await?;
        let counts = self.parts.store.call(async |store| {
            let asked = chats.iter().zip(&listed);
            let asked = asked.map(|(chat, listed)| Unread {
                chat,
                above: states.get(chat).copied(),
                before: listed.at.as_ref().filter(|_| as_listed).map(|_| listed.newest_timestamp),
                except: &listed.unread,
            });
            let asked: Vec<_> = asked.collect();
            store.count_unread(user, &asked).await
        });
        let counts: HashMap<_, _> = counts.await.map_err(unavailable)?;
        let count = |(chat, listed): (&ChatId, Listed)| {
            let unread = listed.unread.len() + counts.get(chat).copied().unwrap_or_default();
            (listed, unread)
        };
        Ok(chats.iter().zip(listed).map(count).collect())
    }

    /// Leaves out messages that are read by their stored timestamp: a repeat gets a new timestamp where its first copy is not known, and the
    /// stored copy wins.
    async fn as_stored(
        &self,
        chats: &[ChatId],
        mut listed: Vec<Listed>,
        states: &ReadStates,
    ) -> Result<Vec<Listed>, Refusal> {
        let ids: Vec<MessageId> = listed.iter().flat_map(|listed| listed.unread.iter().copied()).collect();
        if ids.is_empty() {
            return Ok(listed);
        }
        let stored = self.parts.store.call(async |store| store.timestamps(&ids).await).await.map_err(unavailable)?;
        for (chat, listed) in chats.iter().zip(&mut listed) {
            let Some(read) = states.get(chat) else { continue };
            let before = listed.unread.len();
            listed.unread.retain(|id| {
                let place = stored.get(id).map(|timestamp| HistoryKey { timestamp: *timestamp, id: *id });
                place.is_none_or(|place| place > *read)
            });
            if listed.unread.len() < before {
                self.correct(chat);
            }
        }
        Ok(listed)
    }

    /// Verifies a list against the store, in the background.
    pub(super) fn correct(&self, chat: &ChatId) {
        let (history, chat) = (self.parts.history.clone(), chat.clone());
        tokio::spawn(async move { drop(history.page(&chat, None, 1).await) });
    }

    /// Reads the lists that may hold something unread, or something ahead of the clock. Most do not, as their tips show.
    async fn listed(
        &self,
        user: &UserId,
        chats: &[ChatId],
        tips: Vec<Option<StreamTip>>,
        states: &ReadStates,
    ) -> Vec<Listed> {
        let latest = recency::latest(unix_ms());
        let of_tip = |tip: Option<StreamTip>| {
            tip.map_or_else(Listed::default, |tip| Listed {
                at: Some(tip.position),
                unread: Vec::new(),
                newest_timestamp: tip.newest.map_or(0, |key| key.timestamp),
            })
        };
        let is_asked =
            |newest: HistoryKey, chat: &ChatId| newest.timestamp > latest || Some(&newest) > states.get(chat);
        let may_hold = |(_, (chat, tip)): &(usize, (&ChatId, &Option<StreamTip>))| {
            tip.as_ref().is_some_and(|tip| tip.newest.is_none_or(|newest| is_asked(newest, chat)))
        };
        let asked: Vec<_> = chats.iter().zip(&tips).enumerate().filter(may_hold).map(|(index, _)| index).collect();
        let mut listed: Vec<_> = tips.into_iter().map(of_tip).collect();
        for indexes in asked.chunks(LISTS) {
            let watermarks: Vec<_> =
                indexes.iter().map(|index| (&chats[*index], states.get(&chats[*index]).copied())).collect();
            let mut read =
                self.cache_batch(self.parts.recent.unread_batch(user, &watermarks, latest, BUDGET)).await.into_iter();
            for index in indexes {
                listed[*index] = match read.next().flatten() {
                    Some(ListedUnread { position, ids, newest_timestamp }) => {
                        Listed { at: Some(position), unread: ids, newest_timestamp }
                    }
                    // It can't be read: the store alone is counted, and that as of no position.
                    _ => Listed::default(),
                };
            }
        }
        listed
    }

    /// The tips of the chats' lists, in their order; `None` also where the cache does not answer.
    async fn tips(&self, chats: &[ChatId]) -> Vec<Option<StreamTip>> {
        let mut tips = Vec::with_capacity(chats.len());
        for chats in chats.chunks(TIPS) {
            let names: Vec<_> = chats.iter().collect();
            let mut read = self.cache_batch(self.parts.recent.tip_batch(&names, BUDGET)).await.into_iter();
            tips.extend(chats.iter().map(|_| read.next().flatten().flatten()));
        }
        tips
    }
}
