//! The operators' port: `/metrics`, `/health/live`, `/health/ready` and `/health`.

use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// What a service says of itself.
pub trait Health: Send + Sync + 'static {
    /// Whether its own loops make progress. Never asks another server.
    fn live(&self) -> bool;
    /// Whether it can do its work.
    fn ready(&self) -> bool;
    /// The document at `/health`, as its service describes it. Refreshed by the service, so that asking costs nothing.
    fn report(&self) -> serde_json::Value;
}

/// A registry that says which build this is.
///
/// The error names the metric that could not be registered.
pub fn registry(service: &str) -> Result<Registry, prometheus::Error> {
    let registry = Registry::new();
    let info = IntGauge::with_opts(
        Opts::new("holdfast_build_info", "1, with the build's version and the service's name.")
            .const_label("version", env!("CARGO_PKG_VERSION"))
            .const_label("service", service),
    )?;
    info.set(1);
    registry.register(Box::new(info))?;
    Ok(registry)
}

/// Serves the operators' port until the token is cancelled.
pub async fn serve<H: Health>(
    listener: TcpListener,
    registry: Registry,
    health: Arc<H>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    axum::serve(listener, router(registry, health)).with_graceful_shutdown(stop.cancelled_owned()).await
}

fn router<H: Health>(registry: Registry, health: Arc<H>) -> Router {
    let status = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Router::new()
        .route("/health/live", get(move |State(health): State<Arc<H>>| async move { status(health.live()) }))
        .route("/health/ready", get(move |State(health): State<Arc<H>>| async move { status(health.ready()) }))
        .route("/health", get(|State(health): State<Arc<H>>| async move { axum::Json(health.report()) }))
        .with_state(health)
        .route("/metrics", get(move || async move { metrics(&registry) }))
}

fn metrics(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}
