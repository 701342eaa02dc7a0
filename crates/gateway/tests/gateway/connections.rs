//! Connections that their peers leave half-way, or hold for nothing, are released; and nobody gets more of them than there are.

use std::time::Duration;

use holdfast_testkit::{unique, until};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::support::Process;

/// Far beyond any of the limits that these tests set: what ends only later is held.
const AT_LAST: Duration = Duration::from_secs(40);

const SHORT: [(&str, &str); 3] =
    [("HTTP_HEADER_TIMEOUT_MS", "700"), ("HTTP_BODY_TIMEOUT_MS", "700"), ("HTTP_IDLE_TIMEOUT_MS", "1500")];

/// Sends one part at once and the other byte by byte, until the server ends the connection; what it said.
async fn sent(address: &str, at_once: &str, dripping: &str) -> Option<String> {
    let stream = TcpStream::connect(address).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    writer.write_all(at_once.as_bytes()).await.unwrap();
    let dripping = dripping.to_owned();
    let drip = tokio::spawn(async move {
        for byte in dripping.bytes().cycle().take(if dripping.is_empty() { 0 } else { usize::MAX }) {
            if writer.write_all(&[byte]).await.is_err() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        // The connection is not ended from here.
        std::future::pending::<()>().await;
    });
    let mut said = Vec::new();
    // An end by a reset is one, too.
    let ended = timeout(AT_LAST, reader.read_to_end(&mut said)).await.is_ok();
    drip.abort();
    ended.then(|| String::from_utf8_lossy(&said).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn half_a_request_a_dripping_one_and_silence_are_released_on_every_port() {
    let gateway = Process::start(&SHORT).await;
    let token = gateway.token(&unique("alice"));
    let (clients, operators) = (gateway.url.replace("http://", ""), gateway.ops.clone());
    let body = format!(
        "POST /api/chat/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n{{"
    );
    let polled = "POST /socket.io/?EIO=4&transport=polling HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n4";
    let cases = [
        ("silence", "", ""),
        ("half a head", "GET /health/live HTTP/1.1\r\nho", ""),
        ("a dripping head", "GET /health/live HTTP/1.1\r\nx-long: ", "x"),
        ("half a body", &*body, ""),
        ("a dripping body", &*body, " "),
        ("half a poll", polled, ""),
        ("an idle connection", "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n", ""),
        ("a second head that drips", "GET /health/live HTTP/1.1\r\nhost: x\r\n\r\nGET /", "x"),
    ];
    let mut asked = tokio::task::JoinSet::new();
    for (port, address) in [("clients", clients), ("operators", operators)] {
        for (name, at_once, dripping) in cases {
            let (address, at_once) = (address.clone(), at_once.to_owned());
            asked.spawn(async move { (port, name, sent(&address, &at_once, dripping).await) });
        }
    }
    let held: Vec<_> = asked.join_all().await.into_iter().filter(|(_, _, said)| said.is_none()).collect();
    assert!(held.is_empty(), "still held after {AT_LAST:?}: {held:?}");
    let released = async |reason: &str| {
        let sample = format!("holdfast_connections_closed_total{{listener=\"clients\",reason=\"{reason}\"}}");
        gateway.metric(&sample).await
    };
    assert!(released("header").await >= 3.0 && released("body").await >= 2.0 && released("idle").await >= 1.0);
    until("none is counted as open", async || {
        gateway.metric("holdfast_connections{listener=\"clients\"}").await == 0.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_connection_too_many_is_closed_before_it_is_read_and_the_others_stay() {
    let own = [("MAX_CONNECTIONS", "2"), ("HTTP_HEADER_TIMEOUT_MS", "600000")];
    let gateway = Process::start(&own).await;
    let address = gateway.url.replace("http://", "");
    let ask = async |stream: &mut TcpStream| {
        let mut byte = [0];
        // Whether it was written, read or answered depends on when its end is seen.
        let written = stream.write_all(b"GET /nowhere HTTP/1.1\r\nhost: x\r\n\r\n").await;
        written.is_ok() && timeout(AT_LAST, stream.read(&mut byte)).await.is_ok_and(|read| read.is_ok_and(|n| n > 0))
    };
    let mut first = TcpStream::connect(&address).await.unwrap();
    let mut second = TcpStream::connect(&address).await.unwrap();
    assert!(ask(&mut first).await && ask(&mut second).await);
    let mut third = TcpStream::connect(&address).await.unwrap();
    assert!(!ask(&mut third).await, "it is answered");
    let full = "holdfast_connections_closed_total{listener=\"clients\",reason=\"full\"}";
    assert_eq!(gateway.metric(full).await, 1.0);
    drop(first);
    until("a place is free", async || ask(&mut TcpStream::connect(&address).await.unwrap()).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_says_that_it_is_too_large_is_refused_before_it_is_asked_for() {
    let gateway = Process::start(&SHORT).await;
    let (address, token) = (gateway.url.replace("http://", ""), gateway.token(&unique("alice")));
    for path in ["/api/chat/messages", "/socket.io/?EIO=4&transport=polling&sid=AAAAAAAAAAAAAAHs"] {
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
             content-length: 2000000\r\nexpect: 100-continue\r\n\r\n"
        );
        let said = sent(&address, &head, "").await.unwrap_or_default();
        assert!(said.starts_with("HTTP/1.1 413 "), "{path}: {said}");
        assert!(path.starts_with("/socket.io") || said.contains("TOO_LARGE"), "{said}");
    }
    // What is not too large is asked for.
    let head = format!(
        "POST /api/chat/messages HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\ncontent-type: application/json\r\n\
         content-length: 20\r\nexpect: 100-continue\r\n\r\n"
    );
    let said = sent(&address, &head, "").await.unwrap_or_default();
    assert!(said.starts_with("HTTP/1.1 100 "), "{said}");
}

/// One HTTP request on a connection of its own, whose body must not be chunked.
async fn polled(address: &str, method: &str, query: &str, body: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "{method} /socket.io/?EIO=4&transport=polling{query} HTTP/1.1\r\nhost: x\r\ncontent-type: text/plain\r\nconnection: close\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut said = String::new();
    stream.read_to_string(&mut said).await.unwrap();
    said.split_once("\r\n\r\n").unwrap().1.to_owned()
}

/// A session of long polling as this user; its id.
async fn polling(gateway: &Process, user: &str) -> String {
    let address = gateway.url.replace("http://", "");
    let opened = polled(&address, "GET", "", "").await;
    let sid = serde_json::from_str::<Value>(&opened[1..]).unwrap()["sid"].as_str().unwrap().to_owned();
    let connect = format!("40{}", json!({ "token": gateway.token(user) }));
    assert_eq!(polled(&address, "POST", &format!("&sid={sid}"), &connect).await, "ok");
    let mut said = String::new();
    while !said.contains("40{") {
        said = polled(&address, "GET", &format!("&sid={sid}"), "").await;
    }
    sid
}

const HEARTBEATS: [(&str, &str); 3] =
    [("PING_INTERVAL_MS", "1000"), ("PING_TIMEOUT_MS", "9000"), ("CONNECT_TIMEOUT_MS", "10000")];

#[tokio::test(flavor = "multi_thread")]
async fn sessions_abandoned_while_polling_or_amid_an_upgrade_are_released() {
    let gateway = Process::start(&[&HEARTBEATS[..], &SHORT[..]].concat()).await;
    let address = gateway.url.replace("http://", "");
    let upgrade = |sid: &str| {
        format!(
            "GET /socket.io/?EIO=4&transport=websocket&sid={sid} HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
             sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
    };
    let mut held = Vec::new();
    let mut begin = async |request: String, more: &[u8]| {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        stream.write_all(more).await.unwrap();
        held.push(stream);
    };
    // Between polls; while one waits; with half a packet sent; upgraded by name alone; and after `2probe`.
    polling(&gateway, &unique("between")).await;
    let waiting = polling(&gateway, &unique("waiting")).await;
    begin(format!("GET /socket.io/?EIO=4&transport=polling&sid={waiting} HTTP/1.1\r\nhost: x\r\n\r\n"), b"").await;
    let sending = polling(&gateway, &unique("sending")).await;
    let half = format!(
        "POST /socket.io/?EIO=4&transport=polling&sid={sending} HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n4"
    );
    begin(half, b"").await;
    let named = polling(&gateway, &unique("named")).await;
    begin(upgrade(&named), b"").await;
    let probing = polling(&gateway, &unique("probing")).await;
    let probe: Vec<u8> = [0x81, 0x86, 0, 0, 0, 0].into_iter().chain(*b"2probe").collect();
    begin(upgrade(&probing), &probe).await;
    let upgraded = polling(&gateway, &unique("upgraded")).await;
    let upgrades: Vec<u8> = probe.iter().copied().chain([0x81, 0x81, 0, 0, 0, 0, b'5']).collect();
    begin(upgrade(&upgraded), &upgrades).await;
    // Of a session that never says who it is nothing remains either.
    polled(&address, "GET", "", "").await;
    begin("GET /socket.io/?EIO=4&transport=websocket HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n".into(), b"").await;

    until("no socket is left", async || gateway.metric("holdfast_gateway_sockets").await == 0.0).await;
    until("no session is left", async || gateway.metric("holdfast_gateway_sessions").await == 0.0).await;
    until("no connection is left", async || gateway.metric("holdfast_connections{listener=\"clients\"}").await == 0.0)
        .await;
    for (index, mut stream) in held.into_iter().enumerate() {
        let ended = timeout(AT_LAST, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "connection {index} is held");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_peer_that_stops_reading_goes_offline_and_frees_its_place_and_its_queue() {
    let own = [("MAX_SOCKETS_PER_USER", "1"), ("WRITE_TIMEOUT_MS", "600000"), ("SOCKET_OVERFLOW_MS", "600000")];
    let gateway = Process::start(&[&HEARTBEATS[..], &own[..]].concat()).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (sender, _events) = gateway.connect(&alice).await;
    let (stalled, _unread) = gateway.connect(&bob).await;
    let online = async || {
        let answer = sender.emit_with_ack("presence", &json!({ "userIds": [bob] })).await.unwrap();
        answer["online"][&bob].clone()
    };
    until("online", async || online().await == true).await;
    stalled.read(false).await.unwrap();
    // Enough for the kernel's buffers and more: the writer is stuck in the middle of it.
    let content = "x".repeat(4000);
    for _ in 0..100 {
        let burst = (0..30).map(|_| crate::support::send(&sender, &bob, &content));
        futures_util::future::join_all(burst).await;
        if gateway.metric("holdfast_gateway_lagging_sockets_total").await > 0.0 {
            break;
        }
    }
    until("offline", async || online().await == false).await;
    let _again = gateway.connect(&bob).await;
    until("its queue is gone", async || gateway.metric("holdfast_gateway_outgoing_bytes").await < 10_000.0).await;
    drop(stalled);
}
