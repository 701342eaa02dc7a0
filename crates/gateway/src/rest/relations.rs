//! Friends and blocks.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::User;
use super::path::UserPath;
use super::{Routes, Shared};
use crate::refusal::{Problem, Problems, ProblemsOfChat};
use crate::wire::responses::FriendshipShape;

pub(super) fn routes() -> Routes {
    OpenApiRouter::new()
        .routes(routes!(read_friend, put_friend, delete_friend))
        .routes(routes!(put_block, delete_block))
}

/// How you stand with a user.
#[utoipa::path(
    get, path = "/api/friends/{userId}", operation_id = "readFriend", tag = "friends",
    params(UserPath),
    responses((status = 200, description = "What is between you", body = FriendshipShape), Problems, ProblemsOfChat),
)]
async fn read_friend(
    State(gateway): Shared,
    User(user): User,
    UserPath { user: other }: UserPath,
) -> Result<Json<FriendshipShape>, Problem> {
    let status = gateway.relations.friendship(&user, &other).await?;
    Ok(Json(FriendshipShape { user_id: other.to_string(), status }))
}

/// Ask a user for friendship, or accept it.
///
/// Two who have both asked are friends.
#[utoipa::path(
    put, path = "/api/friends/{userId}", operation_id = "putFriend", tag = "friends",
    params(UserPath),
    responses((status = 200, description = "What is between you now", body = FriendshipShape), Problems, ProblemsOfChat),
)]
async fn put_friend(
    State(gateway): Shared,
    User(user): User,
    UserPath { user: other }: UserPath,
) -> Result<Json<FriendshipShape>, Problem> {
    let status = gateway.relations.ask(&user, &other).await?;
    Ok(Json(FriendshipShape { user_id: other.to_string(), status }))
}

/// End a friendship, withdraw a request, or decline one.
#[utoipa::path(
    delete, path = "/api/friends/{userId}", operation_id = "deleteFriend", tag = "friends",
    params(UserPath),
    responses((status = 204, description = "There is nothing between you"), Problems, ProblemsOfChat),
)]
async fn delete_friend(
    State(gateway): Shared,
    User(user): User,
    UserPath { user: other }: UserPath,
) -> Result<StatusCode, Problem> {
    gateway.relations.end(&user, &other).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user.
///
/// Neither of you writes to the other, sees the other type or be online, or adds the other to a group. It ends a friendship. In groups
/// that you both belong to it stops nothing.
#[utoipa::path(
    put, path = "/api/blocks/{userId}", operation_id = "putBlock", tag = "friends",
    params(UserPath),
    responses((status = 204, description = "Blocked"), Problems, ProblemsOfChat),
)]
async fn put_block(
    State(gateway): Shared,
    User(user): User,
    UserPath { user: other }: UserPath,
) -> Result<StatusCode, Problem> {
    gateway.relations.block(&user, &other).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Block a user no longer.
#[utoipa::path(
    delete, path = "/api/blocks/{userId}", operation_id = "deleteBlock", tag = "friends",
    params(UserPath),
    responses((status = 204, description = "Not blocked by you"), Problems, ProblemsOfChat),
)]
async fn delete_block(
    State(gateway): Shared,
    User(user): User,
    UserPath { user: other }: UserPath,
) -> Result<StatusCode, Problem> {
    gateway.relations.unblock(&user, &other).await?;
    Ok(StatusCode::NO_CONTENT)
}
