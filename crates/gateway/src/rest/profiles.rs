//! Profiles.

use axum::Json;
use axum::extract::State;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Payload, User};
use super::path::UserPath;
use super::{Routes, Shared};
use crate::profiles::Profile;
use crate::refusal::{Problem, Problems, ProblemsOfBody, ProblemsOfChat};

pub(super) fn routes() -> Routes {
    OpenApiRouter::new().routes(routes!(read_profile, put_profile))
}

/// A user's profile.
///
/// Any user may read it. For some seconds after a change, another gateway may still show the profile before.
#[utoipa::path(
    get, path = "/api/users/{userId}/profile", operation_id = "readProfile", tag = "profiles",
    params(UserPath),
    responses((status = 200, description = "The profile", body = Profile), Problems, ProblemsOfChat),
)]
async fn read_profile(
    State(gateway): Shared,
    User(_): User,
    UserPath { user }: UserPath,
) -> Result<Json<Profile>, Problem> {
    Ok(Json(gateway.profiles.get(&user).await?))
}

/// Write your profile, in the place of the one before.
#[utoipa::path(
    put, path = "/api/users/{userId}/profile", operation_id = "putProfile", tag = "profiles",
    params(UserPath),
    request_body(content = Profile, example = json!({ "displayName": "Alice", "avatarUrl": "https://example.org/alice.png", "about": "On the road" })),
    responses((status = 200, description = "As it is stored", body = Profile), Problems, ProblemsOfChat, ProblemsOfBody),
)]
async fn put_profile(
    State(gateway): Shared,
    User(asker): User,
    UserPath { user }: UserPath,
    Payload(profile): Payload<Profile>,
) -> Result<Json<Profile>, Problem> {
    Ok(Json(gateway.profiles.put(&asker, &user, profile).await?))
}
