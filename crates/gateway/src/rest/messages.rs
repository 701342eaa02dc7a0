//! Messages: sending, and history.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{UserId, draft};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Path, Payload, Query, User};
use super::idempotency::{IdempotencyKey, IdempotencyKeyHeader};
use super::path::MessagePath;
use super::{Routes, Shared, also_at};
use crate::gateway::Gateway;
use crate::metrics::Outcome;
use crate::refusal::{Code, Problem, Problems, ProblemsOfBody, ProblemsOfChat, Refusal};
use crate::wire::events;
use crate::wire::integer;
use crate::wire::requests::{HistoryRequest, SendRequest};
use crate::wire::responses::{HistoryPage, MessageShape, Sent};

pub(super) fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(send))
        .routes(also_at("/api/messages/send", routes!(send)))
        .routes(routes!(history_with_friend))
        .routes(also_at("/api/messages/{friendId}", routes!(history_with_friend)))
        .routes(also_at("/messages/{friendId}", routes!(history_with_friend)))
        .routes(routes!(history_of_chat, send_to_chat))
        .routes(routes!(read_message))
}

/// A send to a chat that the path or the body names.
#[derive(Default, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SendBody {
    #[serde(flatten)]
    request: SendRequest,
    /// Another name of `friendId`.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    receiver_id: Option<String>,
}

/// Which part of the history.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct PageQuery {
    /// The most messages; 20 unless configured.
    #[serde(default, deserialize_with = "integer::optional_in_query")]
    #[param(minimum = 1, maximum = 100, nullable = false)]
    limit: Option<usize>,
    /// The `nextCursor` of a page: the page after it.
    #[param(min_length = 1, nullable = false)]
    before: Option<String>,
}

/// The chat in which a message is looked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct LookupQuery {
    /// The other user of the message's chat. With a chat, a message is found that is not stored yet.
    #[param(nullable = false)]
    friend_id: Option<String>,
    /// The message's chat.
    #[param(nullable = false)]
    chat_id: Option<String>,
}

/// Send a message.
///
/// Answered once the message is durable. Repeat what is refused as retryable, or not answered within 6 s, with the same `tempId`:
/// every copy of one send is one message.
#[utoipa::path(
    post, path = "/api/chat/messages", operation_id = "sendMessage", tag = "messages",
    params(IdempotencyKeyHeader),
    request_body(content = SendBody, example = json!({ "friendId": "bob", "content": "hello", "tempId": "9b0f2c61-5a7e-4a5c-8f0e-6f4f3a1d2c77" })),
    responses(
        (status = 201, description = "The message is durable", body = Sent<'static>),
        (status = 200, description = "It was already: a repeat", body = Sent<'static>),
        Problems, ProblemsOfChat, ProblemsOfBody,
    ),
)]
async fn send(
    State(gateway): Shared,
    Caller(user): Caller,
    headers: HeaderMap,
    body: Result<Payload<SendBody>, Problem>,
) -> Result<Response, Problem> {
    let request = body.and_then(|Payload(body)| Ok(body.request(&headers)?));
    submit(&gateway, &user, request).await
}

/// Send a message to a chat.
#[utoipa::path(
    post, path = "/api/chats/{chatId}/messages", operation_id = "sendToChat", tag = "messages",
    params(("chatId" = String, Path, description = "Two user ids in byte order joined by `:`, or a group's id", pattern = "^([A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.-]{1,64}|g_[0-9a-f-]{36})$"), IdempotencyKeyHeader),
    request_body(content = SendBody, example = json!({ "content": "hello", "tempId": "9b0f2c61-5a7e-4a5c-8f0e-6f4f3a1d2c77" })),
    responses(
        (status = 201, description = "The message is durable", body = Sent<'static>),
        (status = 200, description = "It was already: a repeat", body = Sent<'static>),
        Problems, ProblemsOfChat, ProblemsOfBody,
    ),
)]
async fn send_to_chat(
    State(gateway): Shared,
    Caller(user): Caller,
    Path(chat): Path<String>,
    headers: HeaderMap,
    body: Result<Payload<SendBody>, Problem>,
) -> Result<Response, Problem> {
    let request = body.and_then(|Payload(body)| {
        let mut request = body.request(&headers)?;
        match request.chat_id.replace(chat.clone()) {
            Some(other) if other != chat => Err(Refusal::new(Code::Validation, "chatId: differs from the path").into()),
            _ => Ok(request),
        }
    });
    submit(&gateway, &user, request).await
}

async fn submit(gateway: &Gateway, user: &UserId, request: Result<SendRequest, Problem>) -> Result<Response, Problem> {
    let answered = match request.and_then(|request| Ok(gateway.submit(user, request)?)) {
        Ok(answered) => answered,
        Err(problem) => {
            gateway.metrics.ended(Outcome::Rejected);
            return Err(problem);
        }
    };
    let accepted = gateway.answer_of(answered).await?;
    let status = if accepted.duplicate { StatusCode::OK } else { StatusCode::CREATED };
    Ok((status, Json(Sent::from(&accepted))).into_response())
}

/// The history of a direct chat, newest first.
#[utoipa::path(
    get, path = "/api/chat/messages/{friendId}", operation_id = "historyWithFriend", tag = "messages",
    params(("friendId" = String, Path, description = "The other user", pattern = "^[A-Za-z0-9_.-]{1,64}$"), PageQuery),
    responses((status = 200, description = "A page", body = HistoryPage<'static>), Problems, ProblemsOfChat),
)]
async fn history_with_friend(
    State(gateway): Shared,
    Caller(user): Caller,
    Path(friend): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    history(&gateway, &user, HistoryRequest { friend_id: Some(friend), ..query.into() }).await
}

/// The history of a chat, newest first.
#[utoipa::path(
    get, path = "/api/chats/{chatId}/messages", operation_id = "historyOfChat", tag = "messages",
    params(("chatId" = String, Path, description = "Two user ids in byte order joined by `:`, or a group's id", pattern = "^([A-Za-z0-9_.-]{1,64}:[A-Za-z0-9_.-]{1,64}|g_[0-9a-f-]{36})$"), PageQuery),
    responses((status = 200, description = "A page", body = HistoryPage<'static>), Problems, ProblemsOfChat),
)]
async fn history_of_chat(
    State(gateway): Shared,
    Caller(user): Caller,
    Path(chat): Path<String>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    history(&gateway, &user, HistoryRequest { chat_id: Some(chat), ..query.into() }).await
}

/// A message.
///
/// To whoever does not belong to its chat there is no such message. A message that was sent moments ago may not be stored yet; it is found
/// at once by those who name its chat.
#[utoipa::path(
    get, path = "/api/chat/message/{messageId}", operation_id = "readMessage", tag = "messages",
    params(MessagePath, LookupQuery),
    responses((status = 200, description = "The message", body = MessageShape), Problems, ProblemsOfChat),
)]
async fn read_message(
    State(gateway): Shared,
    User(user): User,
    MessagePath { id }: MessagePath,
    Query(query): Query<LookupQuery>,
) -> Result<Response, Problem> {
    let chat = match query {
        LookupQuery { friend_id: None, chat_id: None } => None,
        LookupQuery { friend_id, chat_id } => {
            let chat = draft::target(&user, friend_id.as_deref(), chat_id.as_deref());
            Some(chat.map_err(Refusal::from)?)
        }
    };
    let message = gateway.lookup.message(&user, id, chat.as_ref()).await?;
    Ok(Json(MessageJson { message: &message, position: Position::Absent }).into_response())
}

async fn history(gateway: &Gateway, user: &UserId, request: HistoryRequest) -> Result<Response, Problem> {
    let page = gateway.serve::<events::History, _>(user, 1, gateway.history(user, &request)).await?;
    Ok(Json(HistoryPage::from(&page)).into_response())
}

impl From<PageQuery> for HistoryRequest {
    fn from(PageQuery { limit, before }: PageQuery) -> Self {
        Self { limit, before, ..Self::default() }
    }
}

impl SendBody {
    /// `Idempotency-Key` is the `tempId`, `receiverId` another name of `friendId`.
    fn request(self, headers: &HeaderMap) -> Result<SendRequest, Refusal> {
        let Self { mut request, receiver_id } = self;
        if let Some(IdempotencyKey(key)) = IdempotencyKey::read(headers)? {
            if request.temp_id.as_ref().is_some_and(|temp_id| *temp_id != key) {
                return Err(Refusal::new(Code::Validation, "tempId: differs from Idempotency-Key"));
            }
            request.temp_id = Some(key);
        }
        if let Some(receiver) = receiver_id {
            if request.friend_id.as_deref().is_some_and(|friend| friend != receiver) {
                return Err(Refusal::new(Code::Validation, "receiverId: differs from friendId"));
            }
            request.friend_id = Some(receiver);
        }
        Ok(request)
    }
}
