//! The client against a bare socketioxide server.

use std::time::Duration;

use holdfast_socketio_client::{Client, Closed, ConnectError};
use serde_json::json;
use tokio::net::TcpListener;

/// Between two pings, and until a missing pong ends the connection.
const PING: Duration = Duration::from_millis(500);

async fn server() -> (String, tokio::task::JoinHandle<std::io::Result<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (url, tokio::spawn(holdfast_bench::peer::serve(listener, PING)))
}

#[tokio::test]
async fn answers_find_those_who_wait_for_them() {
    let (url, _server) = server().await;
    let (client, _events) = Client::connect(&url, "t").await.unwrap();
    assert!(!client.sid().is_empty());
    let payloads: Vec<_> = (0..100).map(|n| json!({ "n": n, "text": "a \"quoted\" ] text" })).collect();
    let answers = payloads.iter().map(|payload| client.emit_with_ack("sendMessage", payload));
    for (answer, payload) in futures_util::future::join_all(answers).await.into_iter().zip(&payloads) {
        assert_eq!(answer.unwrap(), json!({ "ok": true, "message": payload }));
    }
}

#[tokio::test]
async fn events_arrive_in_order_and_wait_while_the_client_does_not_read() {
    let (url, _server) = server().await;
    let (client, mut events) = Client::connect(&url, "t").await.unwrap();
    for n in 0..3 {
        client.emit("echo", &json!({ "n": n })).await.unwrap();
        assert_eq!(events.next_named("echoed", Duration::from_secs(5)).await, Some(json!({ "n": n })));
    }
    client.read(false).await.unwrap();
    client.emit("echo", &json!(3)).await.unwrap();
    assert_eq!(events.next_named("echoed", Duration::from_millis(200)).await, None);
    client.read(true).await.unwrap();
    assert_eq!(events.next_named("echoed", Duration::from_secs(5)).await, Some(json!(3)));
    assert!(events.arrived().is_empty());
}

#[tokio::test]
async fn a_refused_handshake_says_why() {
    let (url, _server) = server().await;
    let Err(ConnectError::Refused { message, .. }) = Client::connect(&url, "refuse").await else { panic!() };
    assert_eq!(message, "UNAUTHENTICATED");
    let unreachable = Client::connect("http://127.0.0.1:1", "t").await;
    assert!(matches!(unreachable, Err(ConnectError::Failed(_))));
}

#[tokio::test]
async fn the_end_of_a_connection_reaches_those_who_wait() {
    let (url, _server) = server().await;
    let (client, mut events) = Client::connect(&url, "t").await.unwrap();
    // The server has no such event, so no answer comes.
    let nothing = json!(null);
    let (answer, left) = tokio::join!(client.emit_with_ack("unknown", &nothing), client.emit("leave", &nothing));
    assert_eq!((answer, left), (Err(Closed), Ok(())));
    assert_eq!(events.next().await, None);
    client.closed().await;
    assert_eq!(client.emit_with_ack("sendMessage", &json!(1)).await, Err(Closed));

    let (client, mut events) = Client::connect(&url, "t").await.unwrap();
    client.kill();
    assert_eq!(events.next().await, None);
}

#[tokio::test]
async fn pings_are_answered_unless_the_client_does_not_read() {
    let (url, _server) = server().await;
    let (client, _events) = Client::connect(&url, "t").await.unwrap();
    let left = tokio::time::timeout(5 * PING, client.closed()).await;
    assert!(left.is_err(), "the server gave the client up");
    client.read(false).await.unwrap();
    tokio::time::sleep(3 * PING).await;
    client.read(true).await.unwrap();
    tokio::time::timeout(5 * PING, client.closed()).await.expect("the server keeps a client that does not answer");
}
