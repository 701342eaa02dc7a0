//! The development profile's login. Never part of another profile.

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use holdfast_message::UserId;
use holdfast_service::clock::unix_ms;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde::Deserialize;
use serde_json::json;

use crate::config::GatewaySettings;

/// How long a development token is valid.
const TOKEN_SECS: i64 = 24 * 3600;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    user_id: String,
}

/// `POST /api/dev/token` `{ userId }`: a token for whoever asks, if tokens are HS256.
pub(super) fn router(settings: &GatewaySettings) -> Router {
    let Some(secret) = settings.jwt_secret.clone() else { return Router::new() };
    let (audience, issuer) = (settings.jwt_audience.clone(), settings.jwt_issuer.clone());
    let login = post(move |Json(login): Json<Login>| async move {
        if UserId::parse(&login.user_id).is_err() {
            return StatusCode::BAD_REQUEST.into_response();
        }
        let mut claims = json!({ "sub": login.user_id, "exp": unix_ms() / 1000 + TOKEN_SECS });
        for (claim, value) in [("aud", &audience), ("iss", &issuer)] {
            if let Some(value) = value {
                claims[claim] = json!(value);
            }
        }
        token(&claims, secret.reveal())
    });
    Router::new().route("/api/dev/token", login)
}

fn token(claims: &serde_json::Value, secret: &str) -> Response {
    match encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes())) {
        Ok(token) => ([(header::CACHE_CONTROL, "no-store")], Json(json!({ "token": token }))).into_response(),
        Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
    }
}
