//! `markRead`, `unread` and `conversations`, as clients ask for them.

use std::sync::Arc;

use holdfast_message::draft::target;
use holdfast_message::{ChatId, Invalid, MessageId, UserId};
use serde::Deserialize;
use socketioxide::extract::{SocketRef, TryData};
use utoipa::ToSchema;

use super::{Ack, identify, malformed};
use crate::Gateway;
use crate::admit::Act;
use crate::answer::{Conversations, Read, UnreadMessages};
use crate::error::Refusal;
use crate::event::client;
use crate::history::read_limit;
use crate::inbox::Unread;
use crate::inbox::list::{Page, Place};
use crate::integer;

/// Everything up to a message of the chat with `friendId`, or of `chatId`, is read.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ReadRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// The last message that was read.
    #[schema(format = "uuid", required, nullable = false)]
    pub up_to: Option<String>,
}

/// A page of the user's chats.
#[derive(Debug, Default, Deserialize, ToSchema)]
pub struct ConversationsRequest {
    /// The most conversations.
    #[serde(default, deserialize_with = "integer::optional")]
    #[schema(minimum = 1, maximum = 100)]
    pub limit: Option<usize>,
    /// A `nextCursor`.
    pub before: Option<String>,
}

impl ReadRequest {
    /// The chat, and up to where it is read.
    pub fn read(&self, user: &UserId) -> Result<(ChatId, MessageId), Refusal> {
        let chat = target(user, self.friend_id.as_deref(), self.chat_id.as_deref())?;
        let up_to = self.up_to.as_deref().and_then(MessageId::parse);
        Ok((chat, up_to.ok_or_else(|| Invalid::new("upTo", "must be a messageId"))?))
    }
}

impl ConversationsRequest {
    /// Where the page begins, and how long it is at most.
    pub fn read(&self, default_limit: usize) -> Result<(Option<Place>, usize), Refusal> {
        let limit = read_limit(self.limit, default_limit)?;
        Ok((self.before.as_deref().map(Place::read).transpose()?, limit))
    }
}

pub(super) fn listen(gateway: &Arc<Gateway>, socket: &SocketRef) {
    let on_read = gateway.clone();
    socket.on(client::MARK_READ, async move |socket: SocketRef, ack: Ack, TryData(request): TryData<ReadRequest>| {
        let request = ack.passes(&on_read).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
        let answer = match request {
            Ok((user, request)) => on_read.mark_read(&user, &request).await,
            Err(refusal) => Err(refusal),
        };
        on_read.acknowledge(&ack, answer.as_ref()).await;
    });
    let on_unread = gateway.clone();
    socket.on(client::UNREAD, async move |socket: SocketRef, ack: Ack| {
        let unread = match ack.wanted(&on_unread).and_then(|()| identify(&socket)) {
            Ok(user) => on_unread.unread(&user).await,
            Err(refusal) => Err(refusal),
        };
        on_unread
            .acknowledge(&ack, unread.as_ref().map(UnreadMessages::from).as_ref().map_err(|refusal| *refusal))
            .await;
    });
    let on_list = gateway.clone();
    socket.on(
        client::CONVERSATIONS,
        async move |socket: SocketRef, ack: Ack, TryData(request): TryData<ConversationsRequest>| {
            let request = ack.wanted(&on_list).and_then(|()| Ok((identify(&socket)?, request.map_err(malformed)?)));
            let page = match request {
                Ok((user, request)) => match on_list.reading(&socket).await {
                    Ok(reading) => on_list.conversations(&user, &request).await.map(|page| (page, reading)),
                    Err(refusal) => Err(refusal),
                },
                Err(refusal) => Err(refusal),
            };
            let page = page.as_ref().map(|(page, _reading)| Conversations::from(page));
            on_list.acknowledge(&ack, page.as_ref().map_err(|refusal| *refusal)).await;
        },
    );
}

impl Gateway {
    /// Moves how far a member has read a chat.
    pub async fn mark_read(&self, user: &UserId, request: &ReadRequest) -> Result<Read, Refusal> {
        self.limits.pass(user, client::MARK_READ).await?;
        let (chat, up_to) = request.read(user)?;
        self.admission.permit(user, &chat, Act::Read).await?;
        let unread = self.within_deadline(self.inbox.mark_read(user, &chat, up_to)).await?;
        Ok(Read { unread })
    }

    /// How much a user has not read.
    pub async fn unread(&self, user: &UserId) -> Result<Unread, Refusal> {
        self.limits.pass(user, client::UNREAD).await?;
        self.within_deadline(self.inbox.unread(user)).await
    }

    /// A page of a user's chats.
    pub async fn conversations(&self, user: &UserId, request: &ConversationsRequest) -> Result<Page, Refusal> {
        self.limits.pass(user, client::CONVERSATIONS).await?;
        let (before, limit) = request.read(self.history_default_limit)?;
        self.within_deadline(self.inbox.conversations(user, before.as_ref(), limit)).await
    }
}
