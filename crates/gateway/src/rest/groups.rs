//! Groups: making, changing and ending them, and who belongs to them.

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use holdfast_message::ChatId;
use holdfast_store::Role;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Payload, User};
use super::idempotency::{IdempotencyKey, IdempotencyKeyHeader};
use super::path::{GroupPath, MemberPath, parse_group, parse_user};
use super::{Routes, Shared};
use crate::groups::rules::{self, GroupCommand};
use crate::refusal::{Code, Problem, Problems, ProblemsOfBody, ProblemsOfChat, Refusal};
use crate::wire::responses::{GroupMemberRole, GroupShape};

/// The most groups that one request leaves.
const MAX_LEFT: usize = 100;

pub(super) fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(create))
        .routes(routes!(read, rename, end))
        .routes(routes!(put_member, remove_member))
        .routes(routes!(leave))
}

/// A new group.
#[derive(Deserialize, ToSchema)]
struct NewGroup {
    /// What it is called.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
    /// Who belongs to it besides its creator.
    #[serde(default)]
    #[schema(max_items = 999, required = false)]
    members: Vec<String>,
}

/// What changes of a group.
#[derive(Deserialize, ToSchema)]
struct GroupPatch {
    /// What it is called from now on.
    #[schema(min_length = 1, max_length = 100)]
    name: String,
}

/// Groups to leave.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupsToLeave {
    /// The ids of the groups.
    #[schema(min_items = 1, max_items = 100)]
    chat_ids: Vec<String>,
}

/// Which groups were left, and which not.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupsLeft {
    /// Those that you do not belong to now, whether or not you did.
    left: Vec<String>,
    /// Those that you still belong to.
    remaining: Vec<GroupNotLeft>,
}

/// A group that could not be left.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct GroupNotLeft {
    /// The group's id.
    chat_id: String,
    /// Why it could not be left.
    error: Refusal,
}

/// The role of a member.
#[derive(Default, Deserialize, ToSchema)]
#[serde(default)]
struct MemberBody {
    /// Without one, a new member is a `member`, and one who belongs to the group keeps their role.
    role: Option<GroupMemberRole>,
}

/// Make a group.
///
/// You are its owner. Repeat what is refused as retryable with the same `Idempotency-Key`. The key of a group that has ended, or that you
/// have left, is not free again: 404.
#[utoipa::path(
    post, path = "/api/chats", operation_id = "createGroup", tag = "groups",
    params(IdempotencyKeyHeader), request_body(content = NewGroup, example = json!({ "name": "friends of the sea", "members": ["bob", "carol"] })),
    responses(
        (status = 201, description = "The group", body = GroupShape),
        (status = 200, description = "It was there already: a repeat", body = GroupShape),
        Problems, ProblemsOfChat, ProblemsOfBody,
    ),
)]
async fn create(
    State(gateway): Shared,
    User(user): User,
    headers: HeaderMap,
    Payload(body): Payload<NewGroup>,
) -> Result<Response, Problem> {
    let members = body.members.iter().map(|member| parse_user("members", member)).collect::<Result<Vec<_>, _>>()?;
    let key = IdempotencyKey::read(&headers)?;
    let key = key.as_ref().map(|IdempotencyKey(key)| key.as_str());
    let (group, new) = gateway.groups.create(&user, &body.name, &members, key).await?;
    let status = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(GroupShape::from(&group))).into_response())
}

/// A group, for its members.
#[utoipa::path(
    get, path = "/api/chats/{chatId}", operation_id = "readGroup", tag = "groups",
    params(GroupPath),
    responses((status = 200, description = "The group", body = GroupShape), Problems, ProblemsOfChat),
)]
async fn read(
    State(gateway): Shared,
    User(user): User,
    GroupPath { chat }: GroupPath,
) -> Result<Json<GroupShape>, Problem> {
    let group = gateway.groups.get(&user, &chat).await?;
    Ok(Json(GroupShape::from(&group)))
}

/// Rename a group. For its owner and admins.
#[utoipa::path(
    patch, path = "/api/chats/{chatId}", operation_id = "renameGroup", tag = "groups",
    params(GroupPath),
    request_body(content = GroupPatch, example = json!({ "name": "friends of the river" })),
    responses((status = 200, description = "The group", body = GroupShape), Problems, ProblemsOfChat, ProblemsOfBody),
)]
async fn rename(
    State(gateway): Shared,
    User(user): User,
    GroupPath { chat }: GroupPath,
    Payload(body): Payload<GroupPatch>,
) -> Result<Json<GroupShape>, Problem> {
    let command = GroupCommand::Rename(rules::name(&body.name)?);
    let group = gateway.groups.change(&user, &chat, &command).await?;
    Ok(Json(GroupShape::from(&group.ok_or_else(crate::access::membership::no_such_chat)?)))
}

/// End a group. For its owner. Its messages stay stored, and nobody reads them any more.
#[utoipa::path(
    delete, path = "/api/chats/{chatId}", operation_id = "endGroup", tag = "groups",
    params(GroupPath),
    responses((status = 204, description = "It has ended"), Problems, ProblemsOfChat),
)]
async fn end(State(gateway): Shared, User(user): User, GroupPath { chat }: GroupPath) -> Result<StatusCode, Problem> {
    gateway.groups.change(&user, &chat, &GroupCommand::Delete).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Add a member, or give one another role.
///
/// Admins add members, the owner adds admins too, and gives roles. Who makes a member the owner stays as an admin.
#[utoipa::path(
    put, path = "/api/chats/{chatId}/members/{userId}", operation_id = "putGroupMember", tag = "groups",
    params(MemberPath),
    request_body(content = MemberBody, example = json!({ "role": "admin" })),
    responses((status = 200, description = "The group", body = GroupShape), Problems, ProblemsOfChat, ProblemsOfBody),
)]
async fn put_member(
    State(gateway): Shared,
    User(user): User,
    MemberPath { chat, member }: MemberPath,
    Payload(body): Payload<MemberBody>,
) -> Result<Json<GroupShape>, Problem> {
    let command = GroupCommand::Put(member, body.role.map(Role::from));
    let group = gateway.groups.change(&user, &chat, &command).await?;
    Ok(Json(GroupShape::from(&group.ok_or_else(crate::access::membership::no_such_chat)?)))
}

/// Remove a member, or leave.
///
/// The owner removes everybody, admins remove members. An owner who leaves is followed by the admin, or else the member, who has
/// been there longest; with its last member a group ends.
#[utoipa::path(
    delete, path = "/api/chats/{chatId}/members/{userId}", operation_id = "removeGroupMember", tag = "groups",
    params(MemberPath),
    responses((status = 204, description = "No member any more"), Problems, ProblemsOfChat),
)]
async fn remove_member(
    State(gateway): Shared,
    User(user): User,
    MemberPath { chat, member }: MemberPath,
) -> Result<StatusCode, Problem> {
    let command = GroupCommand::Remove(member);
    gateway.groups.change(&user, &chat, &command).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Leave many groups at once.
///
/// Each is left as by a request of its own, independently of the others, and counts as one, in addition to the request itself. Repeat those in `remaining` whose error is
/// retryable.
#[utoipa::path(
    post, path = "/api/chats/leave", operation_id = "leaveGroups", tag = "groups",
    request_body(content = GroupsToLeave, example = json!({ "chatIds": ["g_9b2c6a52-9f9e-4f0c-8c57-2d1c4a6b7f10"] })),
    responses((status = 200, description = "What became of them", body = GroupsLeft), Problems, ProblemsOfBody),
)]
async fn leave(
    State(gateway): Shared,
    User(user): User,
    Payload(body): Payload<GroupsToLeave>,
) -> Result<Json<GroupsLeft>, Problem> {
    if !(1..=MAX_LEFT).contains(&body.chat_ids.len()) {
        return Err(Refusal::new(Code::Validation, format!("chatIds: 1 to {MAX_LEFT} groups")).into());
    }
    let chats = body.chat_ids.iter().map(|chat| parse_group(chat)).collect::<Result<Vec<_>, _>>()?;
    let (left, remaining) = gateway.groups.leave_many(&user, &chats).await?;
    let not_left = |(chat_id, error): (ChatId, Refusal)| GroupNotLeft { chat_id: chat_id.to_string(), error };
    Ok(Json(GroupsLeft {
        left: left.iter().map(ChatId::to_string).collect(),
        remaining: remaining.into_iter().map(not_left).collect(),
    }))
}
