//! `readStates`: `{ _id: { chatId, userId }, upTo: { timestamp: int64, messageId }, actedAt: int64 }`, how far a user has read a chat, and when
//! they last did something in a group. Either may be absent.
//!
//! A watermark only moves forward: one atomic update compares and moves it, so that devices and gateways may race. Unread counts are
//! derived from it and from the messages; nothing else says what is read.
//!
//! See `docs/decisions/group-allowance.md`.

use std::collections::HashMap;

use futures_util::TryStreamExt;
use holdfast_message::{ChatId, HistoryKey, MessageId, UserId};
use mongodb::bson::{Bson, Document, RawDocument, doc};
use mongodb::error::{ErrorKind, WriteFailure};
use mongodb::options::ReturnDocument;
use tokio::time::Instant;

use crate::groups::is_duplicate;
use crate::query::batch;
use crate::time::millis_of;
use crate::{Store, StoreError, server_limit, within};

const DUPLICATE_KEY: i32 = 11000;

/// How far a user has read a chat, after a request to move there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadState {
    /// The last message that is read.
    pub up_to: HistoryKey,
    /// Whether this request has moved it.
    pub moved: bool,
}

/// Where clocks may differ, in milliseconds; and in which somebody else's doing may move a watermark, when a user is added to a group.
const ABOUT: i64 = 60_000;

/// What a user has done in a group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Acts {
    acted_at: Option<i64>,
    read_up_to: Option<i64>,
}

impl Acts {
    /// Whether there was something since the user belongs to it. Who is added is given a watermark at the newest message of that moment; one
    /// beyond it has been moved by the user.
    pub(crate) fn since(&self, joined_at: i64) -> bool {
        self.acted_at.is_some_and(|at| at >= joined_at - ABOUT)
            || self.read_up_to.is_some_and(|timestamp| timestamp >= joined_at + ABOUT)
    }
}

/// How far one user has read each of several chats; a chat of which nothing is read is absent.
pub type ReadStates = HashMap<ChatId, HistoryKey>;

impl Store {
    /// Everything up to this place is read. A place at or before the one reached changes nothing; the answer says where that is.
    pub async fn mark_read(&self, user: &UserId, chat: &ChatId, up_to: HistoryKey) -> Result<ReadState, StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let before = match self.move_read_state(user, chat, up_to, deadline).await {
            // Two have begun the same state at once; the other one was first.
            Err(StoreError::Rejected { code: Some(DUPLICATE_KEY), .. }) => {
                self.move_read_state(user, chat, up_to, deadline).await?
            }
            moved => moved?,
        };
        let moved = before.is_none_or(|before| before < up_to);
        Ok(ReadState { up_to: before.map_or(up_to, |before| before.max(up_to)), moved })
    }

    /// A user has done something in a group at this time, in Unix epoch milliseconds: it is not one that they were only added to.
    pub async fn note_act(&self, user: &UserId, group: &ChatId, at: i64) -> Result<(), StoreError> {
        let deadline = Instant::now() + self.write_timeout;
        let states = &self.read_states;
        let note =
            || states.update_one(doc! { "_id": key(user, group) }, doc! { "$max": { "actedAt": at } }).upsert(true);
        within(deadline, async {
            match note().await {
                // Two have begun the same state at once; the other one was first.
                Err(error) if is_duplicate(&error) => note().await,
                noted => noted,
            }
        })
        .await
        .map(drop)
    }

    /// What the user has done in each of these groups.
    pub(crate) async fn acts(
        &self,
        user: &UserId,
        groups: &[ChatId],
        deadline: Instant,
    ) -> Result<HashMap<ChatId, Acts>, StoreError> {
        let keys: Vec<_> = groups.iter().map(|chat| key(user, chat)).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let query = self
            .read_states
            .find(doc! { "_id": { "$in": keys } })
            .batch_size(batch(groups.len()))
            .max_time(server_limit(left));
        within(deadline, async {
            let mut acts = HashMap::new();
            let mut cursor = query.await?;
            while let Some(state) = cursor.try_next().await? {
                let chat = state.get_document("_id").and_then(|id| id.get_str("chatId")).ok();
                let read_up_to = state.get_document("upTo").and_then(|up_to| up_to.get_i64("timestamp")).ok();
                let of_chat = Acts { acted_at: state.get_i64("actedAt").ok(), read_up_to };
                acts.extend(chat.and_then(|text| ChatId::parse(text).ok()).map(|chat| (chat, of_chat)));
            }
            Ok(acts)
        })
        .await
    }

    /// Returns where it was before.
    async fn move_read_state(
        &self,
        user: &UserId,
        chat: &ChatId,
        up_to: HistoryKey,
        deadline: Instant,
    ) -> Result<Option<HistoryKey>, StoreError> {
        let to = doc! { "timestamp": up_to.timestamp, "messageId": up_to.id.to_string() };
        // Whatever another tool made of it. In the order of history; what is absent, or no time, is less than any number.
        let reached = doc! { "$convert": { "input": "$upTo.timestamp", "to": "long", "onError": Bson::Null, "onNull": Bson::Null } };
        let behind = doc! { "$or": [
            { "$lt": [&reached, up_to.timestamp] },
            { "$and": [
                { "$eq": [&reached, up_to.timestamp] },
                { "$lt": ["$upTo.messageId", up_to.id.to_string()] },
            ] },
        ] };
        let step = doc! { "$set": { "upTo": { "$cond": [behind, to, "$upTo"] } } };
        let update = self
            .read_states
            .find_one_and_update(doc! { "_id": key(user, chat) }, vec![step])
            .upsert(true)
            .return_document(ReturnDocument::Before)
            .max_time(server_limit(deadline.saturating_duration_since(Instant::now())));
        let before = tokio::time::timeout_at(deadline, update).await.map_err(|_| StoreError::late())?;
        let before = before.map_err(|error| match error.kind.as_ref() {
            ErrorKind::Write(WriteFailure::WriteError(error)) => StoreError::of_code(error.code, &error.message),
            // Not known to be there for good.
            ErrorKind::Write(_) => StoreError::Unavailable(error.kind.to_string()),
            _ => error.into(),
        })?;
        Ok(before.as_deref().and_then(place))
    }

    /// How far the user has read each of these chats.
    pub async fn read_states(&self, user: &UserId, chats: &[ChatId]) -> Result<ReadStates, StoreError> {
        let deadline = Instant::now() + self.read_timeout;
        let keys: Vec<_> = chats.iter().map(|chat| key(user, chat)).collect();
        let query = self
            .read_states
            .find(doc! { "_id": { "$in": keys } })
            .batch_size(batch(chats.len()))
            .max_time(server_limit(self.read_timeout));
        within(deadline, async {
            let mut states = ReadStates::with_capacity(chats.len());
            let mut cursor = query.await?;
            while let Some(state) = cursor.try_next().await? {
                let chat = state.get_document("_id").and_then(|id| id.get_str("chatId")).ok();
                if let (Some(chat), Some(place)) = (chat.and_then(|text| ChatId::parse(text).ok()), place(&state)) {
                    states.insert(chat, place);
                }
            }
            Ok(states)
        })
        .await
    }
}

/// The fields' order is part of the key.
fn key(user: &UserId, chat: &ChatId) -> Document {
    doc! { "chatId": chat.as_str(), "userId": user.as_str() }
}

fn place(state: &RawDocument) -> Option<HistoryKey> {
    let up_to = state.get_document("upTo").ok()?;
    let id = MessageId::parse(up_to.get_str("messageId").ok()?)?;
    Some(HistoryKey { timestamp: millis_of(up_to, "timestamp")?, id })
}
