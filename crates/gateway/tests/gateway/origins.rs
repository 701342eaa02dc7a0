//! Pages of other origins: what a browser is told before it asks, and what it can't be told.

use holdfast_gateway::Config;
use holdfast_service::settings::{SettingsError, Source};
use holdfast_testkit::{Response, request};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::support::{Gateway, SECRET, settings};

const NAMED: &str = "https://chat.example";

async fn preflight(gateway: &Gateway, origin: &str, path: &str, method: &str, headers: &str) -> Response {
    let headers = [
        format!("origin: {origin}"),
        format!("access-control-request-method: {method}"),
        format!("access-control-request-headers: {headers}"),
    ];
    request(&gateway.url, "OPTIONS", path, &headers, "").await.unwrap()
}

/// The status that a handshake is answered with.
async fn handshake(gateway: &Gateway, transport: &str, headers: &[String]) -> u16 {
    let host = gateway.url.strip_prefix("http://").unwrap();
    let mut stream = TcpStream::connect(host).await.unwrap();
    let mut head = format!("GET /socket.io/?EIO=4&transport={transport} HTTP/1.1\r\n");
    if !headers.iter().any(|header| header.to_lowercase().starts_with("host:")) {
        head += &format!("host: {host}\r\n");
    }
    if transport == "websocket" {
        head += "connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    }
    head.extend(headers.iter().map(|header| format!("{header}\r\n")));
    stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
    let mut status = [0; 12];
    stream.read_exact(&mut status).await.unwrap();
    std::str::from_utf8(&status[9..]).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_page_of_a_named_origin_may_send_what_tracing_adds_and_its_cookies() {
    let gateway =
        Gateway::start(settings(&[("CORS_ORIGINS", "https://other.example, https://chat.example")]).await).await;
    let wanted = "authorization,content-type,idempotency-key,traceparent,tracestate,baggage,sentry-trace,x-request-id";
    for (path, method) in [
        ("/api/chat/messages", "POST"),
        ("/api/chats/a/members/b", "DELETE"),
        ("/socket.io/", "GET"),
        ("/api/users/a/profile", "PUT"),
        ("/api/chats/a", "PATCH"),
    ] {
        let answer = preflight(&gateway, NAMED, path, method, wanted).await;
        assert_eq!(answer.status, 200, "{path}");
        assert_eq!(answer.header("access-control-allow-origin"), Some(NAMED), "{path}");
        assert_eq!(answer.header("access-control-allow-credentials"), Some("true"), "{path}");
        let methods = answer.header("access-control-allow-methods").unwrap_or_default();
        assert!(methods.split(',').any(|allowed| allowed.trim().eq_ignore_ascii_case(method)), "{path}: {methods}");
        let allowed = answer.header("access-control-allow-headers").unwrap_or_default();
        for header in wanted.split(',') {
            assert!(allowed.split(',').any(|allowed| allowed.trim() == header), "{path}: {header} is not in {allowed}");
        }
    }
    let polled = request(&gateway.url, "GET", "/socket.io/?EIO=4&transport=polling", &[format!("origin: {NAMED}")], "")
        .await
        .unwrap();
    assert_eq!((polled.status, polled.header("access-control-allow-credentials")), (200, Some("true")), "{polled:?}");
    let foreign = preflight(&gateway, "https://evil.example", "/api/chat/messages", "POST", wanted).await;
    assert_eq!(foreign.header("access-control-allow-origin"), None, "{foreign:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_origin_never_comes_with_credentials() {
    let gateway = Gateway::start(settings(&[("CORS_ORIGINS", "*")]).await).await;
    let answer = preflight(&gateway, NAMED, "/api/chat/messages", "POST", "authorization,traceparent").await;
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("*")));
    assert_eq!(answer.header("access-control-allow-credentials"), None, "{answer:?}");
    for transport in ["polling", "websocket"] {
        let status = handshake(&gateway, transport, &["origin: https://anywhere.example".into()]).await;
        assert_eq!(status, if transport == "polling" { 200 } else { 101 }, "{transport}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_is_opened_for_named_origins_and_for_what_is_no_page() {
    let gateway = Gateway::start(settings(&[("CORS_ORIGINS", NAMED)]).await).await;
    let host = gateway.url.strip_prefix("http://").unwrap();
    for (allowed, headers) in [
        (true, vec![]),
        (true, vec![format!("origin: {NAMED}")]),
        (true, vec![format!("Origin: http://{host}")]),
        (true, vec!["host: gateway.example".into(), "origin: https://gateway.example".into()]),
        (false, vec!["origin: https://evil.example".into()]),
        (false, vec![format!("origin: {NAMED}.evil.example")]),
        (false, vec!["origin: http://chat.example".into()]),
        (false, vec!["origin: https://chat.example:8443".into()]),
        (false, vec!["origin: null".into()]),
        (false, vec!["origin: ".into()]),
        (false, vec![format!("origin: {NAMED}"), "origin: https://evil.example".into()]),
    ] {
        for (transport, opened) in [("polling", 200), ("websocket", 101)] {
            let status = handshake(&gateway, transport, &headers).await;
            assert_eq!(status, if allowed { opened } else { 403 }, "{transport} {headers:?}");
        }
    }
    let refused = request(
        &gateway.url,
        "GET",
        "/socket.io/?EIO=4&transport=polling",
        &["origin: https://evil.example".into()],
        "",
    )
    .await
    .unwrap();
    assert_eq!(refused.body["code"], "FORBIDDEN", "{refused:?}");
    assert!(refused.body["detail"].as_str().unwrap().contains("CORS_ORIGINS"), "{refused:?}");
    assert!(gateway.metric("holdfast_gateway_rejected_total{code=\"FORBIDDEN\"}").await >= 1.0);
}

#[test]
fn an_origin_that_cannot_be_parsed_is_an_error_at_start() {
    for (wrong, entry) in [
        ("chat.example", 1),
        ("https://chat.example,https://*.chat.example", 2),
        ("https://a.example, https://b.example/app", 2),
        ("null", 1),
    ] {
        let pairs = [("JWT_SECRET", SECRET), ("PROFILE", "production"), ("CORS_ORIGINS", wrong)];
        let read = Config::read(Source::new(pairs.map(|(name, value)| (name.to_owned(), value.to_owned()))));
        let SettingsError(errors) = read.map(drop).expect_err(wrong);
        let named =
            errors.iter().any(|error| error.contains("CORS_ORIGINS") && error.contains(&format!("entry {entry}")));
        assert!(named, "{wrong}: {errors:?}");
    }
}
