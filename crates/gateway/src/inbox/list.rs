//! Conversations: a user's chats, newest first, each with its last message and how much of it is unread.
//!
//! The cached list says which chats there are and in which order; the recent lists, which are ahead of the store, say their last
//! messages, or the store where a list does not know. What the list's order missed is repaired by the way. While the store is away a page
//! is what the caches have, and says that it is not complete.
//!
//! See `docs/decisions/conversation-lists.md` and `docs/decisions/messages-ahead.md`.

use std::cmp::Reverse;
use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use holdfast_cache::inbox::Arrival;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Message, UserId, recency};
use holdfast_service::clock::unix_ms;

use super::count::Counted;
use super::{BUDGET, Inbox, Unread, unavailable};
use crate::refusal::{Code, Refusal};
use crate::wire::cursor::{self, ConversationCursor};
use crate::wire::responses::{ConversationShape, Conversations};

/// Members of a group that an answer lists.
pub(crate) const MAX_MEMBERS_SHOWN: usize = 100;
/// Members of a page's chats whose presence is asked for, in all and in one round trip.
const LOOKED_AT: usize = 500;
const LOOKS_AT_ONCE: usize = 100;
/// Chats whose views may be mended by one reading.
const MENDED: usize = 100;

/// A chat of a page.
#[derive(Debug, Clone)]
pub(crate) struct Conversation {
    /// The chat.
    pub(crate) chat: ChatId,
    /// Who belongs to it; of a large group, some.
    pub(crate) members: Vec<UserId>,
    /// Its last message, if it has one.
    pub(crate) last: Option<Message>,
    /// Unread messages in it; `None`: not known now.
    pub(crate) unread: Option<usize>,
    /// The other members who are online; `None`: not known now.
    pub(crate) online: Option<Vec<UserId>>,
}

/// A part of a user's list.
#[derive(Debug, Clone)]
pub(crate) struct Page {
    /// Newest first.
    pub(crate) conversations: Vec<Conversation>,
    /// Where the next page begins; none at the end.
    pub(crate) next: Option<ConversationCursor>,
    /// False: the store could not be asked, and something may be absent.
    pub(crate) complete: bool,
}

impl<'a> From<&'a Page> for Conversations<'a> {
    fn from(page: &'a Page) -> Self {
        let shape = |conversation: &'a Conversation| ConversationShape {
            chat_id: conversation.chat.as_str(),
            members: conversation.members.iter().map(UserId::as_str).collect(),
            last_message: conversation.last.as_ref().map(|message| MessageJson { message, position: Position::Absent }),
            unread: conversation.unread,
            online: conversation.online.as_ref().map(|online| online.iter().map(UserId::as_str).collect()),
        };
        Self {
            conversations: page.conversations.iter().map(shape).collect(),
            next_cursor: page.next.as_ref().map(cursor::write),
            complete: page.complete,
        }
    }
}

/// Which chats a page has, before anything is known of them.
struct Outline {
    chats: Vec<(ChatId, i64)>,
    more: bool,
    unread: Option<Unread>,
}

impl Inbox {
    /// The newest `limit` conversations before a place, or the newest of all.
    pub(crate) async fn conversations(
        &self,
        user: &UserId,
        before: Option<&ConversationCursor>,
        limit: usize,
    ) -> Result<Page, Refusal> {
        let outline = self.outline(user, before, limit).await?;
        let next = outline.chats.last().filter(|_| outline.more);
        let next = next.map(|(chat, timestamp)| ConversationCursor { timestamp: *timestamp, chat: chat.clone() });
        let mut complete = outline.unread.is_some();
        let last = self.last_messages(user, &outline.chats, &mut complete).await;
        let mut conversations = Vec::with_capacity(outline.chats.len());
        let named: Vec<_> = outline.chats.iter().map(|(chat, _)| chat.clone()).collect();
        let rosters = self.parts.membership.rosters(&named).await;
        let latest = recency::latest(unix_ms());
        for (((chat, timestamp), last), roster) in outline.chats.into_iter().zip(last).zip(rosters) {
            let members = match roster.map(|roster| roster.members) {
                Ok(members) if members.binary_search(user).is_ok() => shown(&members, user),
                // Gone since the list was made.
                Ok(_) => continue,
                Err(refusal) if refusal.code == Code::NotFound => continue,
                Err(_) => {
                    complete = false;
                    vec![user.clone()]
                }
            };
            let unread = outline.unread.as_ref().map(|unread| unread.of_chat(&chat));
            let newest = last.as_ref().filter(|last| last.timestamp <= latest).map_or(timestamp, |last| last.timestamp);
            conversations.push((newest, Conversation { chat, members, last, unread, online: None }));
        }
        // What the list's order missed a moment ago.
        conversations
            .sort_by(|(a, one), (b, other)| (Reverse(a), Reverse(&one.chat)).cmp(&(Reverse(b), Reverse(&other.chat))));
        let mut conversations: Vec<_> = conversations.into_iter().map(|(_, conversation)| conversation).collect();
        self.look(user, &mut conversations).await;
        Ok(Page { conversations, next, complete })
    }

    /// Adds which members are online. If that is not known, the page is answered without it.
    async fn look(&self, user: &UserId, conversations: &mut [Conversation]) {
        // Those of small chats first.
        let mut sizes: Vec<_> = conversations.iter().collect();
        sizes.sort_by_key(|conversation| conversation.members.len());
        let (mut asked, mut known) = (Vec::new(), HashSet::from([user]));
        for member in sizes.iter().flat_map(|conversation| &conversation.members) {
            if asked.len() < LOOKED_AT && known.insert(member) {
                asked.push(member.clone());
            }
        }
        let (mut online, mut unknown) = (HashSet::new(), HashSet::new());
        for (index, users) in asked.chunks(LOOKS_AT_ONCE).enumerate() {
            match self.parts.presence.of(user, users).await {
                Ok(seen) => {
                    online.extend(users.iter().zip(seen).filter(|(_, seen)| seen.online).map(|(user, _)| user.clone()))
                }
                Err(refusal) => {
                    tracing::debug!(message = refusal.message, "conversations without who is online");
                    unknown.extend(&asked[index * LOOKS_AT_ONCE..]);
                    break;
                }
            }
        }
        for conversation in conversations {
            let members = &conversation.members;
            if members.iter().all(|member| !unknown.contains(member)) {
                conversation.online = Some(members.iter().filter(|member| online.contains(*member)).cloned().collect());
            }
        }
    }

    async fn outline(
        &self,
        user: &UserId,
        before: Option<&ConversationCursor>,
        limit: usize,
    ) -> Result<Outline, Refusal> {
        let place = before.map(|place| (place.timestamp, &place.chat));
        // One more than requested shows whether there are more.
        let wanted = limit + 1;
        let cached = self.cache(self.parts.cached.page(user, place, wanted, BUDGET)).await.flatten();
        let unread = self.cache(self.parts.cached.unread(user, BUDGET)).await.flatten();
        let (mut chats, older_stored, mut unread) = match (cached, unread) {
            (Some(page), Some(unread)) => (page.chats, page.older_stored, Some(Unread::from(&unread))),
            (cached, _) => match (self.count_all_once(user).await, cached) {
                (Ok(counted), _) => {
                    let unread = Unread::from(&counted);
                    (counted.page(place, wanted), counted.older_stored, Some(unread))
                }
                (Err(refusal), Some(page)) if refusal.retryable => (page.chats, false, None),
                (Err(refusal), _) => return Err(refusal),
            },
        };
        if chats.len() <= limit && older_stored {
            let (older, count) = self.older(user, chats.last().cloned(), before, limit + 1 - chats.len()).await?;
            chats.extend(older);
            if let Some(unread) = &mut unread {
                unread.counts.extend(count);
            }
        }
        let more = chats.len() > limit;
        chats.truncate(limit);
        Ok(Outline { chats, more, unread })
    }

    /// Counts and caches the counts, unless another request just has.
    async fn count_all_once(&self, user: &UserId) -> Result<Counted, Refusal> {
        match self.count_anew(user).await? {
            Some(counted) => Ok(counted),
            None => self.count_all(user).await,
        }
    }

    /// Chats beyond those that are cached.
    async fn older(
        &self,
        user: &UserId,
        last: Option<(ChatId, i64)>,
        before: Option<&ConversationCursor>,
        limit: usize,
    ) -> Result<(Vec<(ChatId, i64)>, Vec<(ChatId, usize)>), Refusal> {
        let last = last.or_else(|| before.map(|place| (place.chat.clone(), place.timestamp)));
        let place = last.as_ref().map(|(chat, timestamp)| (*timestamp, chat));
        let older = self.parts.store.call(async |store| store.conversations(user, place, limit).await).await;
        let older: Vec<_> =
            older.map_err(unavailable)?.into_iter().map(|older| (older.chat, older.last_timestamp)).collect();
        let counted = self.count(user, &older).await?;
        Ok((older, counted.into_iter().map(|chat| (chat.chat, chat.count.unread)).collect()))
    }

    /// The last message of each chat, in their order.
    async fn last_messages(&self, user: &UserId, chats: &[(ChatId, i64)], complete: &mut bool) -> Vec<Option<Message>> {
        let names: Vec<_> = chats.iter().map(|(chat, _)| chat).collect();
        let mut listed = self.cache_batch(self.parts.recent.newest_batch(&names, BUDGET)).await.into_iter();
        let mut last: Vec<_> = chats.iter().map(|_| listed.next().flatten().flatten()).collect();
        self.last_as_stored(chats, &mut last).await;
        // A list that is behind the order was lost, or had let the message go.
        let behind = |((chat, timestamp), last): (&(ChatId, i64), &Option<Message>)| {
            last.as_ref().is_none_or(|last| last.timestamp < *timestamp).then(|| chat.clone())
        };
        let asked: Vec<_> = chats.iter().zip(&last).filter_map(behind).collect();
        let mut stored = HashMap::new();
        if !asked.is_empty() {
            match self.parts.store.call(async |store| store.newest_of(&asked).await).await {
                Ok(found) => stored = found,
                Err(error) => {
                    tracing::debug!(%error, "conversations without what is stored");
                    *complete = false;
                }
            }
        }
        let (mut late, latest) = (Vec::new(), recency::latest(unix_ms()));
        for ((chat, timestamp), last) in chats.iter().zip(&mut last) {
            if let Some(stored) = stored.remove(chat)
                && last.as_ref().is_none_or(|last| last.key() < stored.key())
            {
                if stored.timestamp > *timestamp && stored.timestamp <= latest {
                    late.push(stored.clone());
                }
                *last = Some(stored);
            }
        }
        self.mend(user, chats, &last, late);
        last
    }

    /// Forgets last messages that are stored as of another time than they are listed: these are not the last. Without the store, what
    /// the lists say holds.
    async fn last_as_stored(&self, chats: &[(ChatId, i64)], last: &mut [Option<Message>]) {
        let ids: Vec<_> = last.iter().flatten().map(|message| message.id).collect();
        let stored = match self.parts.store.call(async |store| store.timestamps(&ids).await).await {
            Ok(stored) => stored,
            Err(error) => return tracing::debug!(%error, "last messages as they are listed"),
        };
        for ((chat, _), last) in chats.iter().zip(last) {
            let differs = |message: &mut Message| stored.get(&message.id).is_some_and(|at| *at != message.timestamp);
            if last.take_if(differs).is_some() {
                self.correct(chat);
            }
        }
    }

    /// Brings the cached order, and the store's view, up to what was found, in the background.
    fn mend(&self, user: &UserId, chats: &[(ChatId, i64)], last: &[Option<Message>], late: Vec<Message>) {
        // What lies ahead was put where it belongs when it arrived.
        let latest = recency::latest(unix_ms());
        let moved = chats.iter().zip(last).filter_map(|((chat, timestamp), last)| {
            let newest = last.as_ref().map(|last| last.timestamp);
            let newest = newest.filter(|newest| newest > timestamp && *newest <= latest)?;
            Some(Arrival { chat: chat.clone(), timestamp: newest, unread: None })
        });
        let moved: Vec<_> = moved.take(MENDED).collect();
        if moved.is_empty() {
            return;
        }
        let (inbox, user) = (self.clone(), user.clone());
        tokio::spawn(async move {
            inbox.cache_batch(inbox.parts.cached.arrived(&[(user, moved)], BUDGET)).await;
            if !late.is_empty() {
                // An error is logged where it was met; the next reader tries again.
                let _ = inbox.parts.store.call(async |store| store.touch_conversations(&late).await).await;
            }
        });
    }
}

impl Counted {
    /// The newest `limit` chats before a place, and when their last messages were sent.
    fn page(&self, before: Option<(i64, &ChatId)>, limit: usize) -> Vec<(ChatId, i64)> {
        let keys = self.chats.iter().map(|chat| (chat.last_timestamp, &chat.chat));
        let mut keys: Vec<_> = keys.filter(|key| before.is_none_or(|before| *key < before)).collect();
        keys.sort_unstable_by(|one, other| other.cmp(one));
        keys.into_iter().take(limit).map(|(timestamp, chat)| (chat.clone(), timestamp)).collect()
    }
}

fn shown(members: &Arc<[UserId]>, user: &UserId) -> Vec<UserId> {
    let mut shown: Vec<_> = members.iter().take(MAX_MEMBERS_SHOWN).cloned().collect();
    if !shown.contains(user) {
        shown.pop();
        shown.push(user.clone());
    }
    shown
}
