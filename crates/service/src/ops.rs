//! The operators' port: `/metrics`, `/health/live`, `/health/ready` and `/health`, `POST /breakers/{dependency}/{open|close|auto}`, and a
//! worker's `POST /losses/acknowledge`.
//!
//! Operators switch a breaker here, process by process, and not through Redis: Redis may be the server that the breaker protects. Anyone who
//! reaches this port can do so, which is one more reason to listen on the loopback interface by default. Requests that a web page makes
//! through a browser are refused.
//!
//! See `docs/decisions/breakers.md`.

mod signals;

use std::io;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use prometheus::process_collector::ProcessCollector;
use prometheus::{IntGauge, Opts, Registry, TextEncoder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::serve::{self, ConnectionLimits, ConnectionMetrics};
pub use signals::{SignalMetrics, Signals};

/// A service's health, as the operators' port reports it.
pub trait Health: Send + Sync + 'static {
    /// Whether its own loops make progress. Never asks another server.
    fn live(&self) -> bool;
    /// Why it can't be given work; `None`: it can. The body of `/health/ready`.
    fn unready(&self) -> Option<String>;
    /// Whether it can be given work.
    fn ready(&self) -> bool {
        self.unready().is_none()
    }
    /// The document at `/health`, as its service describes it. Refreshed by the service, so that asking costs nothing.
    fn report(&self) -> serde_json::Value;
    /// What `/metrics` says of its state.
    fn signals(&self) -> Signals;
    /// An operator knows that records were lost; `false`: this service would not know of it.
    fn acknowledge_losses(&self) -> bool {
        false
    }
    /// Turns the circuit breaker in front of a dependency; `false`: it has none.
    fn turn(&self, _dependency: &str, _to: Turn) -> bool {
        false
    }
}

/// What an operator wants of a circuit breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Reject every call until it is switched again.
    Open,
    /// Let every call through until it is switched again.
    Close,
    /// Open and close by the outcomes of the calls.
    Auto,
}

impl Turn {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "open" => Some(Self::Open),
            "close" => Some(Self::Close),
            "auto" => Some(Self::Auto),
            _ => None,
        }
    }
}

/// A registry that says which build this is, and what the process uses.
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
    registry.register(Box::new(ProcessCollector::for_self()))?;
    Ok(registry)
}

/// Serves the operators' port until the token is cancelled.
///
/// # Errors
/// The registry has a metric of [`SignalMetrics`] already, or the listener fails.
pub async fn serve<H: Health>(
    listener: TcpListener,
    registry: Registry,
    health: Arc<H>,
    (limits, metrics): (ConnectionLimits, ConnectionMetrics),
    stop: CancellationToken,
) -> io::Result<()> {
    let signals = SignalMetrics::register(&registry).map_err(io::Error::other)?;
    serve::serve(listener, router(registry, signals, health), limits, metrics, stop).await
}

fn router<H: Health>(registry: Registry, signals: SignalMetrics, health: Arc<H>) -> Router {
    let status = |good: bool| if good { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Router::new()
        .route("/health/live", get(move |State(health): State<Arc<H>>| async move { status(health.live()) }))
        .route("/health/ready", get(|State(health): State<Arc<H>>| async move { ready(health.unready()) }))
        .route("/health", get(|State(health): State<Arc<H>>| async move { axum::Json(health.report()) }))
        .route("/breakers/{dependency}/{to}", post(turn::<H>))
        .route("/losses/acknowledge", post(acknowledge::<H>))
        .route(
            "/metrics",
            get(move |State(health): State<Arc<H>>| async move {
                signals.set(&health.signals());
                metrics(&registry)
            }),
        )
        .with_state(health)
}

fn ready(unready: Option<String>) -> (StatusCode, String) {
    match unready {
        None => (StatusCode::OK, String::new()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, why + "\n"),
    }
}

async fn turn<H: Health>(
    State(health): State<Arc<H>>,
    Path((dependency, to)): Path<(String, String)>,
    headers: HeaderMap,
) -> (StatusCode, &'static str) {
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "not from a web page\n");
    }
    match Turn::parse(&to) {
        Some(to) if health.turn(&dependency, to) => (StatusCode::NO_CONTENT, ""),
        Some(_) => (StatusCode::NOT_FOUND, "no breaker of this name\n"),
        None => (StatusCode::NOT_FOUND, "a breaker is turned to 'open', 'close' or 'auto'\n"),
    }
}

async fn acknowledge<H: Health>(State(health): State<Arc<H>>, headers: HeaderMap) -> (StatusCode, &'static str) {
    if headers.contains_key(header::ORIGIN) {
        return (StatusCode::FORBIDDEN, "not from a web page\n");
    }
    match health.acknowledge_losses() {
        true => (StatusCode::NO_CONTENT, ""),
        false => (StatusCode::NOT_FOUND, "losses are a worker's to know of\n"),
    }
}

fn metrics(registry: &Registry) -> Response {
    match TextEncoder::new().encode_to_string(&registry.gather()) {
        Ok(text) => ([(header::CONTENT_TYPE, prometheus::TEXT_FORMAT)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;
    use crate::serve::ConnectionSettings;
    use crate::settings::Source;

    #[derive(Default)]
    struct Turned(Mutex<Vec<Turn>>);

    impl Health for Turned {
        fn live(&self) -> bool {
            true
        }
        fn unready(&self) -> Option<String> {
            Some("starting".into())
        }
        fn report(&self) -> serde_json::Value {
            serde_json::json!({})
        }
        fn signals(&self) -> Signals {
            Signals { dependencies: vec![("redis", true)], degraded: vec![("mongodb", false)], ..Signals::default() }
        }
        fn turn(&self, dependency: &str, to: Turn) -> bool {
            if dependency == "redis" {
                self.0.lock().unwrap().push(to);
            }
            dependency == "redis"
        }
    }

    #[tokio::test]
    async fn a_breaker_is_turned_by_name_and_nothing_else_is() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, health) = (listener.local_addr().unwrap(), Arc::new(Turned::default()));
        let stop = CancellationToken::new();
        let registry = Registry::new();
        let [metrics] = ConnectionMetrics::register(&registry, ["operators"]).unwrap();
        let limits = ConnectionSettings::read(&mut Source::default()).unwrap().operators();
        tokio::spawn(serve(listener, registry, Arc::clone(&health), (limits, metrics), stop.clone()));
        let answer = async |method: &str, path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let (path, headers) = path.split_once(' ').unwrap_or((path, "accept: */*"));
            let request = format!("{method} {path} HTTP/1.1\r\nhost: x\r\n{headers}\r\nconnection: close\r\n\r\n");
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let ask = async |method: &str, path: &str| answer(method, path).await.split(' ').nth(1).unwrap().to_owned();
        for to in ["open", "close", "auto"] {
            assert_eq!(ask("POST", &format!("/breakers/redis/{to}")).await, "204");
        }
        assert_eq!(*health.0.lock().unwrap(), [Turn::Open, Turn::Close, Turn::Auto]);
        assert_eq!(ask("POST", "/breakers/redis/ajar").await, "404");
        assert_eq!(ask("POST", "/breakers/queue/open").await, "404");
        assert_eq!(ask("GET", "/breakers/redis/open").await, "405");
        assert_eq!(ask("POST", "/breakers/redis/open origin: http://evil.example").await, "403");
        assert_eq!(ask("POST", "/losses/acknowledge origin: http://evil.example").await, "403");
        assert_eq!(ask("GET", "/losses/acknowledge").await, "405");
        assert_eq!(ask("POST", "/losses/acknowledge").await, "404", "this service has none");
        assert_eq!(health.0.lock().unwrap().len(), 3);
        let metrics = answer("GET", "/metrics").await;
        for line in [
            "holdfast_ready 0",
            "holdfast_draining 0",
            "holdfast_dependency_up{dependency=\"redis\"} 1",
            "holdfast_degraded{reason=\"mongodb\"} 0",
        ] {
            assert!(metrics.lines().any(|found| found == line), "{line} is not in {metrics}");
        }
        stop.cancel();
    }
}
