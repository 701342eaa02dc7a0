//! `token`: a user's token, for development and for looking into a user's trouble.

use std::time::Duration;

use anyhow::Result;
use holdfast_message::UserId;
use holdfast_service::clock::unix_ms;
use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::json;

use crate::exit::{Usage, Verdict};
use crate::output::Output;
use crate::settings::Settings;

/// Signs a token with `JWT_SECRET` that says what the gateways ask for.
pub fn run(settings: &Settings, user: &UserId, expires: Duration, output: &mut Output<'_>) -> Result<Verdict> {
    let own = &settings.gateway;
    let Some(secret) = &own.jwt_secret else {
        return Err(Usage("JWT_SECRET is not set; tokens of another issuer can't be signed here".into()).into());
    };
    let now = unix_ms() / 1000;
    let mut claims = json!({ "sub": user.as_str(), "iat": now, "exp": now.saturating_add_unsigned(expires.as_secs()) });
    for (claim, value) in [("aud", &own.jwt_audience), ("iss", &own.jwt_issuer)] {
        if let Some(value) = value {
            claims[claim] = json!(value);
        }
    }
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(secret.reveal().as_bytes()))?;
    output.say(&json!({ "token": &token, "userId": user.as_str(), "expiresAt": claims["exp"] }), &token)?;
    Ok(Verdict::Fine)
}
