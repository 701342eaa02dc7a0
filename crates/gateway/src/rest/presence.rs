//! Presence: who is online.

use axum::Json;
use axum::extract::State;
use serde::Deserialize;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::extract::{Query, User};
use super::{Routes, Shared};
use crate::refusal::{Problem, Problems};
use crate::wire::requests::PresenceRequest;
use crate::wire::responses::Presences;

pub(super) fn routes() -> Routes {
    OpenApiRouter::new().routes(routes!(presence))
}

/// The users whose presence is asked for.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(rename_all = "camelCase")]
struct PresenceQuery {
    /// At most 100 users, separated by commas.
    #[param(pattern = "^[A-Za-z0-9_.-]{1,64}(,[A-Za-z0-9_.-]{1,64})*$")]
    user_ids: String,
}

/// Who is online, and when the others were last seen.
#[utoipa::path(
    get, path = "/api/presence", operation_id = "presence", tag = "presence",
    params(PresenceQuery),
    responses((status = 200, description = "Of each user who was named", body = Presences), Problems),
)]
async fn presence(
    State(gateway): Shared,
    User(user): User,
    Query(query): Query<PresenceQuery>,
) -> Result<Json<Presences>, Problem> {
    let user_ids = query.user_ids.split(',').map(str::to_owned).collect();
    let request = PresenceRequest { user_ids };
    Ok(Json(gateway.within_deadline(gateway.presences(&user, &request)).await?))
}
