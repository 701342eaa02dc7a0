//! `markRead`: moves a watermark, forward only.
//!
//! Takes a message that its reader saw; answers how much of the chat is unread once the watermark is durable. A message at or before
//! it changes nothing. The other members are told how far one has read, unless a block stands between two of them, and one's own devices
//! what is left.

use holdfast_cache::keys::Channel;
use holdfast_message::{ChatId, MessageId, UserId};
use holdfast_store::unread::MAX_UNREAD;
use serde_json::json;

use super::{ATTEMPTS, BUDGET, Inbox, Unread, unavailable};
use crate::error::Refusal;
use crate::live::LiveEvent;

/// What is left after a reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Left {
    /// In the chat.
    pub count: usize,
    /// In all chats.
    pub total: usize,
}

impl Inbox {
    /// Everything in the chat up to this message is read by the user, who may read it. Answers how much of the chat is not.
    pub async fn mark_read(&self, user: &UserId, chat: &ChatId, up_to: MessageId) -> Result<usize, Refusal> {
        let place = self.parts.history.find(chat, up_to).await?;
        let state = self.parts.store.ask(async |store| store.mark_read(user, chat, place).await).await;
        let state = state.map_err(unavailable)?;
        if state.moved && self.is_seen(user, chat).await {
            let payload = json!({ "chatId": chat.as_str(), "userId": user.as_str(), "upTo": state.up_to.id });
            self.parts.live.tell(Channel::audience(chat), Some(user), LiveEvent::MessagesRead, &payload);
        }
        let left = self.recount(user, chat).await?;
        if state.moved {
            let payload = json!({ "chatId": chat.as_str(), "count": left.count, "total": left.total });
            self.parts.live.tell([Channel::User(user.clone())], None, LiveEvent::UnreadCount, &payload);
        }
        Ok(left.count)
    }

    /// Whether the other members may know what a user does in a chat: not across a block, nor while that can't be told.
    async fn is_seen(&self, user: &UserId, chat: &ChatId) -> bool {
        let Some(other) = chat.other(user) else { return true };
        self.parts.relations.hidden_from(user, &[other]).await.is_ok_and(|hidden| hidden.is_empty())
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
