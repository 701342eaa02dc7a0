//! `markRead`: moves a watermark, forward only.
//!
//! Takes a message that its reader saw; answers how much of the chat is unread once the watermark is durable. A message before it
//! changes nothing. The other members are told how far one has read ([`receipts`]), unless a block stands between two of them, and one's own
//! devices what is left: as often as one says so, for whoever repeats it may not have been answered, nor the others told.

use holdfast_cache::keys::Channel;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::unread::MAX_UNREAD;
use serde_json::json;

use super::{ATTEMPTS, BUDGET, Inbox, Unread, receipts, unavailable};
use crate::deliver::ephemeral::LiveEvent;
use crate::guarded_store;
use crate::refusal::Refusal;

/// What is left after a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Left {
    /// In the chat.
    pub(crate) count: usize,
    /// In all chats.
    pub(crate) total: usize,
}

impl Inbox {
    /// Everything in the chat up to this message is read by the user, who may read it. Answers how much of the chat is not.
    pub(crate) async fn mark_read(&self, user: &UserId, chat: &ChatId, up_to: MessageId) -> Result<usize, Refusal> {
        let (inbox, user, chat) = (self.clone(), user.clone(), chat.clone());
        guarded_store::to_its_end(async move { inbox.move_watermark(&user, &chat, up_to).await }).await
    }

    async fn move_watermark(&self, user: &UserId, chat: &ChatId, up_to: MessageId) -> Result<usize, Refusal> {
        let place = self.parts.history.find(chat, up_to).await?;
        let state = self.parts.store.ask(async |store| store.mark_read(user, chat, place).await).await;
        let reached = state.map_err(unavailable)?.up_to;
        self.parts.acts.note(user, chat);
        if reached == place && self.is_seen(user, chat).await {
            self.parts.receipts.read(user, chat, reached);
        }
        let left = self.recount(user, chat).await?;
        if reached == place {
            let payload = json!({ "chatId": chat.as_str(), "count": left.count, "total": left.total });
            self.parts.live.tell([Channel::User(user.clone())], None, LiveEvent::UnreadCount, &payload);
        }
        Ok(left.count)
    }

    /// A user is about to belong to a group: of what was written there before nothing is unread. Nobody is told of it.
    pub(crate) async fn begin(&self, user: &UserId, group: &ChatId) -> Result<(), Refusal> {
        let listed = self.cache_batch(self.parts.recent.newest_batch(&[group], BUDGET)).await.pop().flatten().flatten();
        let asked = self.parts.store.ask(async |store| {
            let stored = store.newest_of(std::slice::from_ref(group)).await?.remove(group);
            match listed.iter().chain(&stored).map(Message::key).max() {
                Some(newest) => store.mark_read(user, group, newest).await.map(drop),
                None => Ok(()),
            }
        });
        asked.await.map_err(unavailable)
    }

    /// Whether the other members are told how far a user has read: not across a block, in groups only if they are few, and never while
    /// that can't be told.
    async fn is_seen(&self, user: &UserId, chat: &ChatId) -> bool {
        match chat.other(user) {
            Some(other) => {
                let hidden = self.parts.relations.hidden_from(user, &[other]).await;
                hidden.is_ok_and(|hidden| hidden.is_empty())
            }
            None => {
                let members = self.parts.membership.of(chat).await;
                members.is_ok_and(|members| members.len() <= receipts::MAX_MEMBERS)
            }
        }
    }

    /// Brings what is cached up to a watermark that has moved.
    async fn recount(&self, user: &UserId, chat: &ChatId) -> Result<Left, Refusal> {
        let cached = &self.parts.cached;
        for _ in 0..ATTEMPTS {
            let Some(Some(before)) = self.cache(cached.unread(user, BUDGET)).await else { break };
            let Some(counted) = self.count(user, &[(chat.clone(), 0)]).await?.pop() else { break };
            if self.cache(cached.counted(user, chat, &before, &counted.count, BUDGET)).await == Some(true) {
                let all = Unread::from(&before);
                let others =
                    all.counts.iter().filter(|(other, _)| other != chat).map(|(_, count)| count).sum::<usize>();
                let count = counted.count.unread.min(MAX_UNREAD);
                return Ok(Left { count, total: (others + count).min(MAX_UNREAD) });
            }
        }
        // Nothing is cached, or somebody is counting, perhaps with the watermark as it was.
        self.forget(std::slice::from_ref(user)).await;
        let all = self.unread(user).await?;
        Ok(Left { count: all.of_chat(chat), total: all.total })
    }
}
