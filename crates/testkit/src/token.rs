//! Users' tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde::Serialize;

#[derive(Serialize)]
struct Claims<'a> {
    sub: &'a str,
    iat: u64,
    exp: u64,
}

/// A token for `user` that is valid for `ttl` from now, signed with HS256.
///
/// # Panics
/// The clock is before 1970.
pub fn token(user: &str, secret: &str, ttl: Duration) -> String {
    let now = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(now) => now.as_secs(),
        Err(_) => panic!("the clock is before 1970"),
    };
    let claims = Claims { sub: user, iat: now, exp: now.saturating_add(ttl.as_secs()) };
    match encode(&Header::new(Algorithm::HS256), &claims, &EncodingKey::from_secret(secret.as_bytes())) {
        Ok(token) => token,
        Err(error) => panic!("a token can't be signed: {error}"),
    }
}
