//! Refusals over REST: problem documents (RFC 9457) with the contract's code.

use std::collections::BTreeMap;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::json;
use utoipa::openapi::{ContentBuilder, Ref, RefOr, ResponseBuilder, example::ExampleBuilder};
use utoipa::{IntoResponses, ToSchema, openapi};

use super::{Code, Refusal};

/// A refusal on its way to a client. It is counted by the router, by the code that the response carries with it.
#[derive(Debug)]
pub(crate) struct Problem {
    status: StatusCode,
    refusal: Refusal,
}

impl Problem {
    /// A refusal whose status is not its code's usual one.
    pub(crate) fn with_status(status: StatusCode, refusal: Refusal) -> Self {
        Self { status, refusal }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        Self { status: usual(refusal.code).0, refusal }
    }
}

/// Why a request was refused (RFC 9457).
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = Problem)]
pub(crate) struct Document<'a> {
    /// `about:blank`: the code says more.
    r#type: &'static str,
    /// What kind of refusal, for people.
    title: &'static str,
    /// The status of the response.
    #[schema(minimum = 400, maximum = 599)]
    status: u16,
    /// A sentence for the developer of the client.
    detail: &'a str,
    /// What kind of refusal, for programs.
    code: Code,
    /// Whether the same request may succeed later.
    retryable: bool,
    /// When a repeat makes sense, in milliseconds from now.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(nullable = false)]
    retry_after_ms: Option<u64>,
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let Self { status, refusal } = self;
        let document = Document {
            r#type: "about:blank",
            title: usual(refusal.code).1,
            status: status.as_u16(),
            detail: &refusal.message,
            code: refusal.code,
            retryable: refusal.retryable,
            retry_after_ms: refusal.retry_after_ms,
        };
        let mut response = (status, Json(document)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        if let Some(millis) = refusal.retry_after_ms {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(millis.div_ceil(1000)));
        }
        response.extensions_mut().insert(refusal.code);
        response
    }
}

const MEDIA_TYPE: &str = "application/problem+json";

fn usual(code: Code) -> (StatusCode, &'static str) {
    match code {
        Code::Validation => (StatusCode::BAD_REQUEST, "The request breaks a rule"),
        Code::Unauthenticated => (StatusCode::UNAUTHORIZED, "No valid token"),
        Code::Forbidden => (StatusCode::FORBIDDEN, "Not allowed"),
        Code::NotFound => (StatusCode::NOT_FOUND, "Not found"),
        Code::RateLimited => (StatusCode::TOO_MANY_REQUESTS, "Too many requests"),
        Code::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "Too large"),
        Code::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "Not available now"),
        Code::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "A fault of the server"),
    }
}

/// What every route may answer instead: 400, 401, 429, 500, 503.
pub(crate) struct Problems;
/// What a route about a chat or another user may answer besides: 403, 404.
pub(crate) struct ProblemsOfChat;
/// What a route that takes a body may answer besides: 413, 415.
pub(crate) struct ProblemsOfBody;

type Described = BTreeMap<String, RefOr<openapi::Response>>;

impl IntoResponses for Problems {
    fn responses() -> Described {
        const CODES: [Code; 5] =
            [Code::Validation, Code::Unauthenticated, Code::RateLimited, Code::Internal, Code::Unavailable];
        CODES.map(|code| described(usual(code).0, code)).into()
    }
}

impl IntoResponses for ProblemsOfChat {
    fn responses() -> Described {
        [Code::Forbidden, Code::NotFound].map(|code| described(usual(code).0, code)).into()
    }
}

impl IntoResponses for ProblemsOfBody {
    fn responses() -> Described {
        let unsupported = described(StatusCode::UNSUPPORTED_MEDIA_TYPE, Code::Validation);
        [described(usual(Code::TooLarge).0, Code::TooLarge), unsupported].into()
    }
}

fn described(status: StatusCode, code: Code) -> (String, RefOr<openapi::Response>) {
    let retry_after = (code == Code::RateLimited).then_some(1200);
    let retryable = matches!(code, Code::RateLimited | Code::Unavailable);
    let mut example = json!({
        "type": "about:blank", "title": usual(code).1, "status": status.as_u16(), "detail": "a sentence that says more",
        "code": code, "retryable": retryable,
    });
    if let Some(millis) = retry_after {
        example["retryAfterMs"] = json!(millis);
    }
    let example = ExampleBuilder::new().value(Some(example)).build();
    let content = ContentBuilder::new()
        .schema(Some(Ref::from_schema_name("Problem")))
        .examples_from_iter([(code.as_str(), example)])
        .build();
    let response = ResponseBuilder::new().description(usual(code).1).content(MEDIA_TYPE, content).build();
    (status.as_str().to_owned(), response.into())
}
