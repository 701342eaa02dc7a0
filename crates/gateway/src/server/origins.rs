//! Refuses Socket.IO requests of pages that may not connect ([`Origins`]).
//!
//! See `docs/decisions/origins-of-pages.md`.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::config::Origins;
use crate::metrics::Metrics;
use crate::refusal::{Code, Problem, Refusal};

/// What [`guard`] needs.
#[derive(Clone)]
pub(super) struct Guard {
    pub(super) origins: Arc<Origins>,
    pub(super) metrics: Metrics,
}

/// Refuses Socket.IO's requests, the WebSocket's upgrade among them, of pages that may not call.
pub(super) async fn guard(State(Guard { origins, metrics }): State<Guard>, request: Request, next: Next) -> Response {
    if !request.uri().path().starts_with("/socket.io") || origins.allow(request.headers()) {
        return next.run(request).await;
    }
    let refusal =
        Refusal::new(Code::Forbidden, "pages of this origin may not connect; CORS_ORIGINS names those that may");
    metrics.refused(refusal.code);
    Problem::from(refusal).into_response()
}
