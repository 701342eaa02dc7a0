//! Where in a chat's history a message lies.

use holdfast_message::{ChatId, HistoryKey, MessageId};

use super::history::{BUDGET, History};
use crate::refusal::{Code, Refusal};

impl History {
    /// The place of a message of this chat: as it was listed, or else as it is durable. What is nowhere yet may turn up.
    pub(crate) async fn find(&self, chat: &ChatId, id: MessageId) -> Result<HistoryKey, Refusal> {
        let sources = &self.sources;
        match sources.cache_breaker.call(sources.recent.original_timestamp(chat, id, BUDGET)).await {
            Ok(Some(timestamp)) => return Ok(HistoryKey { timestamp, id }),
            Ok(None) => {}
            Err(error) => tracing::debug!(chat_id = %chat, %error, "a message is looked for without the recent list"),
        }
        if let Some(waiting) = sources.failed(chat).await.messages.iter().find(|message| message.id == id) {
            return Ok(waiting.key());
        }
        match sources.store.call(async |store| store.get(&[id]).await).await {
            Ok(mut found) => match found.remove(&id) {
                Some(stored) if stored.chat == *chat => Ok(stored.key()),
                _ => Err(Refusal { retryable: true, ..Refusal::new(Code::NotFound, "no such message in this chat") }),
            },
            Err(error) => {
                tracing::debug!(chat_id = %chat, %error, "a message is looked for without the store");
                Err(Refusal::unavailable("the store can't be read now"))
            }
        }
    }
}
