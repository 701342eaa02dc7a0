//! One message by its id, for the members of its chat.
//!
//! Takes the asking user, the id and perhaps the chat; gives the message, or says that there is no such message: the same to a user who does
//! not belong to its chat, so that nobody learns which messages there are.
//!
//! What is stored is cached for some seconds: a message that is shown to many is asked for by many at once. A message that is durable
//! but not stored yet lies in its chat's recent list or failed queue, and the id alone does not say which chat that is; so it is found
//! only for those who name the chat. Without it, a message is found once the worker has stored it. It is not found either, with
//! the chat or without, while Kafka alone has it and the list had to let it go, or never had it.
//!
//! See `docs/decisions/message-lookup.md`.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_keys::{Cached, Keys};
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::aside::{Aside, Backend, PATIENCE, Policy, Source};
use holdfast_store::StoreError;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::access::authorize::{Act, Admission};
use crate::guarded_store::GuardedStore;
use crate::read::history::History;
use crate::refusal::{Code, Refusal};

/// What messages may take in a gateway's memory.
const MEMORY: u64 = 8 << 20;

/// Messages by id. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lookup {
    stored: Aside<StoredMessages>,
    history: History,
    admission: Admission,
}

/// Where they come from.
pub(crate) struct StoredMessages(GuardedStore);

/// A message as it is cached: as the record that Kafka has of it.
pub(crate) struct Recorded(Message);

impl Source for StoredMessages {
    type Key = MessageId;
    type Value = Recorded;
    type Error = StoreError;
    type Names = Keys;
    const NAME: &'static str = "message";
    const SHAPE: u8 = 1;

    fn cached(&self, id: &MessageId) -> Cached {
        Cached::Message(*id)
    }

    async fn load(&self, ids: &[MessageId]) -> Result<HashMap<MessageId, Recorded>, StoreError> {
        let found = self.0.call(async |store| store.get(ids).await).await?;
        Ok(found.into_iter().map(|(id, message)| (id, Recorded(message))).collect())
    }
}

impl Lookup {
    /// Looks in the store, whose answers are cached for `ttl`, and where history looks.
    pub(crate) fn new(
        backend: &Backend<Keys>,
        stored: GuardedStore,
        history: History,
        admission: Admission,
        ttl: Duration,
    ) -> Self {
        // A message never changes, so it is fresh for as long as it is cached; a missing one may be stored at any moment.
        let policy = Policy {
            fresh: ttl,
            ttl,
            negative: Duration::ZERO,
            jitter: 0.0,
            memory_bytes: MEMORY,
            patience: PATIENCE,
            unsubscribed_ttl: Duration::ZERO,
        };
        Self { stored: Aside::new(backend, StoredMessages(stored), policy), history, admission }
    }

    /// The message with this id; of this chat, if one is named.
    pub(crate) async fn message(
        &self,
        user: &UserId,
        id: MessageId,
        chat: Option<&ChatId>,
    ) -> Result<Message, Refusal> {
        if let Some(chat) = chat {
            self.permit(user, chat).await?;
        }
        let stored = self.stored(id).await;
        let found = match (stored, chat) {
            (Ok(Some(message)), _) => Some(message),
            (Ok(None), Some(chat)) => match self.history.unstored(chat, id).await {
                Some(message) => Some(message),
                // It may have been stored while the others were asked.
                None => self.stored(id).await?,
            },
            (Err(refusal), Some(chat)) => Some(self.history.unstored(chat, id).await.ok_or(refusal)?),
            (other, None) => other?,
        };
        let message =
            found.filter(|message| chat.is_none_or(|chat| message.chat == *chat)).ok_or_else(no_such_message)?;
        if chat.is_none() {
            self.permit(user, &message.chat).await?;
        }
        Ok(message)
    }

    async fn stored(&self, id: MessageId) -> Result<Option<Message>, Refusal> {
        match self.stored.get(&id).await {
            Ok(found) => Ok(found.value.map(|recorded| recorded.0.clone())),
            Err(error) => {
                tracing::debug!(message_id = %id, %error, "a message can't be looked up");
                Err(Refusal::unavailable("the store can't be read now"))
            }
        }
    }

    async fn permit(&self, user: &UserId, chat: &ChatId) -> Result<(), Refusal> {
        self.admission.permit(user, chat, Act::Read).await.map_err(|refusal| match refusal.code {
            Code::Forbidden | Code::NotFound => no_such_message(),
            _ => refusal,
        })
    }
}

fn no_such_message() -> Refusal {
    Refusal::new(Code::NotFound, "no such message")
}

impl Serialize for Recorded {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&holdfast_message::record::encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Recorded {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl de::Visitor<'_> for Bytes {
            type Value = Recorded;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a message's record")
            }

            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Recorded, E> {
                holdfast_message::record::decode(bytes).map(Recorded).map_err(|error| E::custom(error.reason()))
            }
        }
        deserializer.deserialize_bytes(Bytes)
    }
}
