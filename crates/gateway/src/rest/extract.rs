//! What handlers take from a request. Each refuses with a problem document.

use std::sync::Arc;

use axum::RequestExt as _;
use axum::body::Bytes;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use holdfast_message::UserId;
use serde::de::DeserializeOwned;

use crate::gateway::Gateway;
use crate::refusal::Problem;
use crate::refusal::{Code, Refusal};

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xEF\xBB\xBF";

/// The user of a valid bearer token. Their requests are counted together against `EVENT_LIMIT`.
pub(super) struct User(pub(super) UserId);

/// The same for what counts by itself: sends, which have a limit of their own, and what clients also ask for as an event.
pub(super) struct Caller(pub(super) UserId);

/// The path's parameters.
pub(super) struct Path<T>(pub(super) T);

/// The query's parameters.
pub(super) struct Query<T>(pub(super) T);

/// The body, JSON. The last of a handler's arguments.
pub(super) struct Payload<T>(pub(super) T);

impl FromRequestParts<Arc<Gateway>> for User {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let Caller(user) = Caller::from_request_parts(parts, gateway).await?;
        gateway.limits.pass(&user, "rest").await?;
        Ok(Self(user))
    }
}

impl FromRequestParts<Arc<Gateway>> for Caller {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = bearer.and_then(|text| text.split_once(' ')).unwrap_or_default();
        let token = if scheme.eq_ignore_ascii_case("bearer") { token } else { "" };
        Ok(Self(gateway.tokens.verify(token.trim())?.user))
    }
}

impl<T: DeserializeOwned + Send> FromRequestParts<Arc<Gateway>> for Path<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        match axum::extract::Path::from_request_parts(parts, gateway).await {
            Ok(axum::extract::Path(values)) => Ok(Self(values)),
            Err(rejection) => Err(Refusal::new(Code::Validation, rejection.body_text()).into()),
        }
    }
}

impl<T: DeserializeOwned> FromRequestParts<Arc<Gateway>> for Query<T> {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        match axum::extract::Query::from_request_parts(parts, gateway).await {
            Ok(axum::extract::Query(values)) => Ok(Self(values)),
            Err(rejection) => Err(Refusal::new(Code::Validation, rejection.body_text()).into()),
        }
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<Gateway>> for Payload<T> {
    type Rejection = Problem;
    async fn from_request(request: Request, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        if !is_json(request.headers()) {
            let refusal = Refusal::new(Code::Validation, "the body must be application/json");
            return Err(Problem::with_status(StatusCode::UNSUPPORTED_MEDIA_TYPE, refusal));
        }
        let body: Bytes = request.extract_with_state(gateway).await.map_err(unreadable)?;
        // A parser may ignore a byte order mark (RFC 8259, section 8.1), and some tools write one.
        let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(&body);
        // No body is an object without fields.
        let payload = serde_json::from_slice(if text.is_empty() { b"{}" } else { text });
        Ok(Self(
            payload
                .map_err(|error| Refusal::new(Code::Validation, format!("the body is not as described: {error}")))?,
        ))
    }
}

fn unreadable(rejection: axum::extract::rejection::BytesRejection) -> Refusal {
    match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(Code::TooLarge, "the body is too large"),
        _ => Refusal::new(Code::Validation, "the body can't be read"),
    }
}

/// Whether the body is said to be JSON, or not said to be anything.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(kind) = headers.get(header::CONTENT_TYPE) else { return true };
    let essence = kind.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    essence == "application/json" || (essence.starts_with("application/") && essence.ends_with("+json"))
}
