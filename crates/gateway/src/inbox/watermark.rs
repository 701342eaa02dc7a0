//! `markRead`: moves a watermark, forward only.
//!
//! Takes a message that its reader saw; answers how many messages of the chat are unread once the watermark is durable. A message before the watermark
//! changes nothing. The other members get a read receipt ([`receipts`]), unless one of two users blocks the other, and the reader's own devices the new
//! count: each time, because a client that repeats the request may have got no answer the first time, nor the others a receipt.

use holdfast_keys::Channel;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::unread::MAX_UNREAD;
use serde_json::json;

use super::{ATTEMPTS, BUDGET, Inbox, Unread, receipts, unavailable};
use crate::deliver::ephemeral::LiveEvent;
use crate::guarded_store;
use crate::refusal::Refusal;

/// Unread messages that are left after a `markRead`.
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
        guarded_store::run_detached(async move { inbox.move_watermark(&user, &chat, up_to).await }).await
    }

    async fn move_watermark(&self, user: &UserId, chat: &ChatId, up_to: MessageId) -> Result<usize, Refusal> {
        let place = self.parts.history.find(chat, up_to).await?;
        let state = self.parts.store.call(async |store| store.mark_read(user, chat, place).await).await;
        let reached = state.map_err(unavailable)?.up_to;
        self.parts.activity.record(user, chat);
        if reached == place && self.is_seen(user, chat).await {
            self.parts.receipts.read(user, chat, reached);
        }
        let left = self.recount(user, chat).await?;
        if reached == place {
            let payload = json!({ "chatId": chat.as_str(), "count": left.count, "total": left.total });
            self.parts.ephemeral.send([Channel::User(user.clone())], None, LiveEvent::UnreadCount, &payload);
        }
        Ok(left.count)
    }

    /// A user is about to join a group: marks all that was written there before as read, without a receipt.
    pub(crate) async fn begin(&self, user: &UserId, group: &ChatId) -> Result<(), Refusal> {
        let listed = self.cache_batch(self.parts.recent.newest_batch(&[group], BUDGET)).await.pop().flatten().flatten();
        let asked = self.parts.store.call(async |store| {
            let stored = store.newest_of(std::slice::from_ref(group)).await?.remove(group);
            match listed.iter().chain(&stored).map(Message::key).max() {
                Some(newest) => store.mark_read(user, group, newest).await.map(drop),
                None => Ok(()),
            }
        });
        asked.await.map_err(unavailable)
    }

    /// Whether the other members get a receipt: not across a block, in groups only if they are few, and never while that is not known.
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

    /// Updates the cached count to a watermark that has moved.
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
        // Nothing is cached, or another request is counting, perhaps with the old watermark.
        self.forget(std::slice::from_ref(user)).await;
        let all = self.unread(user).await?;
        Ok(Left { count: all.of_chat(chat), total: all.total })
    }
}
