//! REST: the same path as over sockets, as resources and status codes.
//!
//! A positive answer has the fields of the socket's answer without `ok`; a refusal is a problem document (RFC 9457) with `code`
//! and `retryable`.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::{HeaderMap, StatusCode, header, request::Parts};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use holdfast_message::UserId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;

use crate::Gateway;
use crate::error::{Code, Refusal};
use crate::ingress::{Body, HistoryRequest, SendRequest};
use crate::metrics::Outcome;

/// The largest body and packet, in bytes. Far more than any message needs, so that one that is too long is answered, not cut off.
pub const MAX_BODY: usize = 1_000_000;

type Shared = State<Arc<Gateway>>;
type BodyBytes = Result<Bytes, BytesRejection>;
type PageQueryResult = Result<Query<PageQuery>, QueryRejection>;

/// The routes.
pub fn router(gateway: Arc<Gateway>) -> Router {
    Router::new()
        .route("/api/chat/messages", post(send))
        .route("/api/messages/send", post(send))
        .route("/api/chat/messages/{friendId}", get(history_with_friend))
        .route("/messages/{friendId}", get(history_with_friend))
        .route("/api/messages/{friendId}", get(history_with_friend))
        .route("/api/chats/{chatId}/messages", get(history_of_chat).post(send_to_chat))
        .method_not_allowed_fallback(|State(gateway): Shared| async move {
            let problem = Problem::of(&gateway, Refusal::new(Code::Validation, "the resource has no such method"));
            (StatusCode::METHOD_NOT_ALLOWED, problem)
        })
        .fallback(|State(gateway): Shared| async move {
            Problem::of(&gateway, Refusal::new(Code::NotFound, "no such resource"))
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(gateway)
}

/// The user of a valid bearer token.
struct User(UserId);

impl FromRequestParts<Arc<Gateway>> for User {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, gateway: &Arc<Gateway>) -> Result<Self, Problem> {
        let bearer = parts.headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let (scheme, token) = bearer.and_then(|text| text.split_once(' ')).unwrap_or_default();
        let token = if scheme.eq_ignore_ascii_case("bearer") { token } else { "" };
        match gateway.tokens.verify(token.trim()) {
            Ok(identity) => Ok(Self(identity.user)),
            Err(refusal) => Err(Problem::of(gateway, refusal)),
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct SendBody {
    #[serde(flatten)]
    request: SendRequest,
    receiver_id: Option<String>,
}

#[derive(Deserialize)]
struct PageQuery {
    limit: Option<usize>,
    before: Option<String>,
}

async fn send(State(gateway): Shared, User(user): User, headers: HeaderMap, body: BodyBytes) -> Response {
    let request = parse(body).and_then(|body| with_idempotency_key(body, &headers));
    submit(gateway, user, request).await
}

async fn send_to_chat(
    State(gateway): Shared,
    User(user): User,
    Path(chat): Path<String>,
    headers: HeaderMap,
    body: BodyBytes,
) -> Response {
    let request =
        parse(body).and_then(|body| with_idempotency_key(body, &headers)).and_then(|mut request| {
            match request.chat_id.replace(chat.clone()) {
                Some(other) if other != chat => Err(Refusal::new(Code::Validation, "chatId: differs from the path")),
                _ => Ok(request),
            }
        });
    submit(gateway, user, request).await
}

async fn submit(gateway: Arc<Gateway>, user: UserId, request: Result<SendRequest, Refusal>) -> Response {
    let answer = match request.and_then(|request| gateway.submit(&user, request)) {
        Ok(answered) => gateway.answer_of(answered).await,
        Err(refusal) => {
            gateway.metrics.ended(Outcome::Rejected);
            Err(refusal)
        }
    };
    match answer {
        Ok(accepted) => {
            let status = if accepted.duplicate { StatusCode::OK } else { StatusCode::CREATED };
            (status, Json(Body(&accepted))).into_response()
        }
        Err(refusal) => Problem::of(&gateway, refusal).into_response(),
    }
}

async fn history_with_friend(
    State(gateway): Shared,
    User(user): User,
    Path(friend): Path<String>,
    query: PageQueryResult,
) -> Response {
    history(gateway, user, HistoryRequest { friend_id: Some(friend), ..Default::default() }, query).await
}

async fn history_of_chat(
    State(gateway): Shared,
    User(user): User,
    Path(chat): Path<String>,
    query: PageQueryResult,
) -> Response {
    history(gateway, user, HistoryRequest { chat_id: Some(chat), ..Default::default() }, query).await
}

async fn history(gateway: Arc<Gateway>, user: UserId, request: HistoryRequest, query: PageQueryResult) -> Response {
    let request = match query {
        Ok(Query(PageQuery { limit, before })) => Ok(HistoryRequest { limit, before, ..request }),
        Err(rejection) => Err(Refusal::new(Code::Validation, rejection.body_text())),
    };
    let page = match request {
        Ok(request) => gateway.history(&user, request).await,
        Err(refusal) => Err(refusal),
    };
    match page {
        Ok(page) => Json(Body(&page)).into_response(),
        Err(refusal) => Problem::of(&gateway, refusal).into_response(),
    }
}

fn parse<T: DeserializeOwned>(body: BodyBytes) -> Result<T, Refusal> {
    let body = body.map_err(|rejection| match rejection.status() {
        StatusCode::PAYLOAD_TOO_LARGE => Refusal::new(Code::TooLarge, "the body is too large"),
        _ => Refusal::new(Code::Validation, "the body can't be read"),
    })?;
    serde_json::from_slice(&body)
        .map_err(|error| Refusal::new(Code::Validation, format!("the body is not as described: {error}")))
}

/// `Idempotency-Key` is the `tempId`, `receiverId` another name of `friendId`.
fn with_idempotency_key(body: SendBody, headers: &HeaderMap) -> Result<SendRequest, Refusal> {
    let SendBody { mut request, receiver_id } = body;
    if let Some(key) = headers.get("idempotency-key") {
        let key = key.to_str().map_err(|_| Refusal::new(Code::Validation, "Idempotency-Key: printable characters"))?;
        if request.temp_id.as_deref().is_some_and(|temp_id| temp_id != key) {
            return Err(Refusal::new(Code::Validation, "tempId: differs from Idempotency-Key"));
        }
        request.temp_id = Some(key.to_owned());
    }
    if let Some(receiver) = receiver_id {
        if request.friend_id.as_deref().is_some_and(|friend| friend != receiver) {
            return Err(Refusal::new(Code::Validation, "receiverId: differs from friendId"));
        }
        request.friend_id = Some(receiver);
    }
    Ok(request)
}

/// A problem document.
#[derive(Debug)]
pub struct Problem(Refusal);

impl Problem {
    /// Counts the refusal and makes it a document.
    fn of(gateway: &Gateway, refusal: Refusal) -> Self {
        gateway.metrics.refused(refusal.code);
        Self(refusal)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self(refusal) = self;
        let (status, title) = match refusal.code {
            Code::Validation => (StatusCode::BAD_REQUEST, "The request breaks a rule"),
            Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "No valid token"),
            Code::Forbidden => (StatusCode::FORBIDDEN, "Not allowed"),
            Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
            Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
            Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
            Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not available now"),
            Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the server"),
        };
        let document = json!({
            "type": "about:blank", "title": title, "status": status.as_u16(), "detail": refusal.message,
            "code": refusal.code, "retryable": refusal.retryable, "retryAfterMs": refusal.retry_after_ms,
        });
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, header::HeaderValue::from_static("Bearer"));
        }
        if let Some(millis) = refusal.retry_after_ms {
            headers.insert(header::RETRY_AFTER, header::HeaderValue::from(millis.div_ceil(1000)));
        }
        response
    }
}
