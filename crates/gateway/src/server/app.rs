//! What clients reach: Socket.IO and REST behind one address, and the layers around them.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::Entry;
use axum::http::{HeaderValue, Method, header};
use axum::middleware::{Next, from_fn_with_state, map_request, map_response};
use axum::response::{IntoResponse, Response};
use holdfast_service::settings::Profile;
use socketioxide::SocketIo;
use socketioxide::extract::{SocketRef, TryData};
use socketioxide::handler::ConnectHandler;
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::compression::CompressionLayer;
use tower_http::compression::predicate::{DefaultPredicate, Predicate, SizeAbove};
use tower_http::cors::{AllowHeaders, AllowOrigin, Any, CorsLayer};

use super::{dev, origins, web};
use crate::config::{Config, Origins};
use crate::deliver::outgoing::response::note_size;
use crate::deliver::sessions::Sessions;
use crate::gateway::Gateway;
use crate::limits::connection::Rates;
use crate::limits::handshake::Handshakes;
use crate::metrics::Metrics;
use crate::refusal::{Code, Problem, Refusal};
use crate::wire::requests::Handshake;
use crate::{rest, socketio};

/// Packets that wait for a slow client. Their bytes are what is bounded first ([`crate::deliver::outgoing`]).
const SOCKET_BUFFER: usize = 4096;
/// Bytes from which an answer is worth compressing: less fits into a packet anyway.
const COMPRESS_ABOVE: u64 = 1024;

/// The routes and the layers around them.
pub(super) fn app(gateway: Arc<Gateway>, sessions: Sessions, config: &Config) -> (SocketIo, axum::Router) {
    let own = &config.own;
    let (layer, io) = SocketIo::builder()
        .ping_interval(own.ping_interval.0)
        .ping_timeout(own.ping_timeout.0)
        .connect_timeout(own.connect_timeout.0)
        .max_payload(rest::MAX_BODY as u64)
        .max_buffer_size(SOCKET_BUFFER)
        .ws_max_message_size(rest::MAX_BODY)
        .ws_max_frame_size(rest::MAX_BODY)
        .build_layer();
    let (guard, guarded) = (gateway.clone(), gateway.clone());
    let connected = move |socket: SocketRef| socketio::connected(guarded.clone(), socket);
    io.ns(
        "/",
        connected.with(move |socket: SocketRef, TryData(handshake): TryData<Handshake>| {
            socketio::authenticate(guard.clone(), socket, handshake)
        }),
    );
    let rates = Rates { events: own.socket_events_per_second, bytes: own.socket_bytes_per_second };
    let per_second = own.handshakes_per_second_per_address;
    let handshakes = Handshakes::new(per_second, &own.trusted_proxies.0, rates, gateway.metrics.clone());
    let metrics = gateway.metrics.clone();
    let pages = origins::Guard { origins: Arc::new(own.cors_origins.clone()), metrics: gateway.metrics.clone() };
    let mut routes = rest::router(gateway);
    let development = config.profile == Profile::Development;
    if development {
        routes = dev::router(own).merge(routes);
    }
    if own.web_ui {
        routes = web::router(development && own.jwt_secret.is_some()).merge(routes);
    }
    let app = routes
        .layer(map_response(note_size))
        // Inside: polling clients would pay for it with every packet.
        .layer(CompressionLayer::new().compress_when(DefaultPredicate::new().and(SizeAbove::new(COMPRESS_ABOVE))))
        .layer(map_request(as_is_if_need_be))
        .layer(layer)
        .layer(from_fn_with_state(sessions, Sessions::guard))
        .layer(from_fn_with_state(handshakes, Handshakes::guard))
        .layer(from_fn_with_state(pages, origins::guard))
        .layer(from_fn_with_state(metrics, within_size))
        .layer(cors(&config.own.cors_origins))
        .layer(CatchPanicLayer::new());
    (io, app)
}

/// Refuses a body that is too large by its own account, before anything is read of it or asked for (`Expect: 100-continue`).
async fn within_size(State(metrics): State<Metrics>, request: Request, next: Next) -> Response {
    let length = request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if length.is_some_and(|length: u64| length > rest::MAX_BODY as u64) {
        metrics.refused(Code::TooLarge);
        return Problem::from(Refusal::new(Code::TooLarge, "the body is too large")).into_response();
    }
    next.run(request).await
}

/// Who accepts no encoding that there is gets the answer as it is: a request that was carried out is not answered with a 406.
async fn as_is_if_need_be(mut request: Request) -> Request {
    if let Entry::Occupied(accepted) = request.headers_mut().entry(header::ACCEPT_ENCODING) {
        let refuses_plain = |value: &HeaderValue| {
            let listed = value.to_str().unwrap_or_default().split(',');
            listed.filter_map(|coding| coding.split_once(';')).any(|(coding, weight)| {
                let weight = weight.trim().strip_prefix("q=").and_then(|weight| weight.parse::<f32>().ok());
                ["identity", "*"].contains(&coding.trim()) && weight == Some(0.0)
            })
        };
        if accepted.iter().any(refuses_plain) {
            accepted.remove_entry_mult();
        }
    }
    request
}

/// Which pages may call. Named ones with credentials: without, a browser drops the cookie by which a balancer sends all requests of one
/// long-polling connection to one gateway. `*` never has credentials.
fn cors(origins: &Origins) -> CorsLayer {
    let methods = [Method::GET, Method::POST, Method::PUT, Method::PATCH, Method::DELETE];
    // Whatever is asked for: tracing and error reporting add headers of their own to a page's requests.
    let layer = CorsLayer::new().allow_methods(methods).allow_headers(AllowHeaders::mirror_request());
    let layer = layer.expose_headers([header::RETRY_AFTER]);
    match origins.named() {
        Some(named) => layer.allow_origin(AllowOrigin::list(named.to_vec())).allow_credentials(true),
        None => layer.allow_origin(Any),
    }
}
