//! One's chats, what is unread of them, and how far one has read.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Caller, Path, Payload, Query};
use super::{Routes, Shared};
use crate::refusal::{Problem, Problems, ProblemsOfBody, ProblemsOfChat};
use crate::wire::events;
use crate::wire::integer;
use crate::wire::requests::{ConversationsRequest, ReadRequest};
use crate::wire::responses::{Conversations, Read, UnreadMessages};

pub(super) fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(conversations))
        .routes(routes!(unread))
        .routes(routes!(read_with_friend))
        .routes(routes!(read_of_chat))
}

/// Which part of the list.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct ListQuery {
    /// The most conversations; 20 unless configured.
    #[serde(default, deserialize_with = "integer::optional_in_query")]
    #[param(minimum = 1, maximum = 100, nullable = false)]
    limit: Option<usize>,
    /// The `nextCursor` of a page: the page after it.
    #[param(nullable = false)]
    before: Option<String>,
}

/// How far one has read.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ReadBody {
    /// The last message that was read.
    #[schema(format = "uuid", required, nullable = false)]
    up_to: Option<String>,
}

/// Your chats, newest first.
#[utoipa::path(
    get, path = "/api/chat/conversations", operation_id = "conversations", tag = "conversations",
    params(ListQuery),
    responses((status = 200, description = "A page", body = Conversations<'static>), Problems),
)]
async fn conversations(
    State(gateway): Shared,
    Caller(user): Caller,
    Query(ListQuery { limit, before }): Query<ListQuery>,
) -> Result<Response, Problem> {
    let request = ConversationsRequest { limit, before };
    let page = gateway.serve::<events::Conversations, _>(&user, 1, gateway.conversations(&user, &request)).await?;
    Ok(Json(Conversations::from(&page)).into_response())
}

/// How much you have not read.
#[utoipa::path(
    get, path = "/api/chat/unread", operation_id = "unread", tag = "conversations",
    responses((status = 200, description = "The counts", body = UnreadMessages<'static>), Problems),
)]
async fn unread(State(gateway): Shared, Caller(user): Caller) -> Result<Response, Problem> {
    let unread = gateway.serve::<events::Unread, _>(&user, 1, gateway.unread(&user)).await?;
    Ok(Json(UnreadMessages::from(&unread)).into_response())
}

/// Say how far you have read a direct chat.
///
/// Only forward: a message at or before the last one changes nothing.
#[utoipa::path(
    put, path = "/api/chat/messages/{friendId}/read", operation_id = "readWithFriend", tag = "conversations",
    params(("friendId" = String, Path, description = "The other user", pattern = "^[A-Za-z0-9_.-]{1,64}$")),
    request_body(content = ReadBody, example = json!({ "upTo": "0197f0a2-3c58-7cc2-9f0e-6f4f3a1d2c77" })),
    responses((status = 200, description = "It is stored", body = Read), Problems, ProblemsOfChat, ProblemsOfBody),
)]
async fn read_with_friend(
    State(gateway): Shared,
    Caller(user): Caller,
    Path(friend): Path<String>,
    body: Result<Payload<ReadBody>, Problem>,
) -> Result<Json<Read>, Problem> {
    let up_to = body?.0.up_to;
    let request = ReadRequest { friend_id: Some(friend), up_to, ..ReadRequest::default() };
    Ok(Json(gateway.serve::<events::MarkRead, _>(&user, 1, gateway.mark_read(&user, &request)).await?))
}

/// Say how far you have read a chat.
///
/// Only forward: a message at or before the last one changes nothing.
#[utoipa::path(
    put, path = "/api/chats/{chatId}/read", operation_id = "readOfChat", tag = "conversations",
    params(("chatId" = String, Path, description = "Two user ids in byte order joined by `:`, or a group's id")),
    request_body(content = ReadBody, example = json!({ "upTo": "0197f0a2-3c58-7cc2-9f0e-6f4f3a1d2c77" })),
    responses((status = 200, description = "It is stored", body = Read), Problems, ProblemsOfChat, ProblemsOfBody),
)]
async fn read_of_chat(
    State(gateway): Shared,
    Caller(user): Caller,
    Path(chat): Path<String>,
    body: Result<Payload<ReadBody>, Problem>,
) -> Result<Json<Read>, Problem> {
    let up_to = body?.0.up_to;
    let request = ReadRequest { chat_id: Some(chat), up_to, ..ReadRequest::default() };
    Ok(Json(gateway.serve::<events::MarkRead, _>(&user, 1, gateway.mark_read(&user, &request)).await?))
}
