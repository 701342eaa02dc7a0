//! Control events and replays as clients see them.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use holdfast_message::{ChatId, UserId};
use holdfast_testkit::{token, unique, until};
use serde_json::json;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message as Frame;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use crate::support::{SECRET, World, message, user};

/// A Socket.IO client over a bare WebSocket.
struct Client(WebSocketStream<MaybeTlsStream<TcpStream>>);

impl Client {
    async fn connect(address: SocketAddr, user: &UserId) -> Self {
        let url = format!("ws://{address}/socket.io/?EIO=4&transport=websocket");
        let mut client = Self(connect_async(url).await.unwrap().0);
        assert!(client.next().await.starts_with('0'));
        let auth = json!({ "token": token(user.as_str(), SECRET, Duration::from_secs(600)) });
        client.send(format!("40{auth}")).await;
        let answer = client.next().await;
        assert!(answer.starts_with("40"), "{answer}");
        client
    }

    async fn send(&mut self, packet: String) {
        self.0.send(Frame::text(packet)).await.unwrap();
    }

    /// The next packet, heartbeats aside.
    async fn next(&mut self) -> String {
        loop {
            let frame = tokio::time::timeout(Duration::from_secs(30), self.0.next()).await.expect("a packet");
            match frame.expect("an open connection").unwrap() {
                Frame::Text(text) if text == "2" => self.send("3".into()).await,
                Frame::Text(text) => return text.to_string(),
                _ => {}
            }
        }
    }

    /// The next of these events.
    async fn event(&mut self, name: &str) -> serde_json::Value {
        loop {
            let packet = self.next().await;
            if let Some(event) = packet.strip_prefix("42") {
                let event: serde_json::Value = serde_json::from_str(event).unwrap();
                if event[0] == name {
                    return event[1].clone();
                }
            }
        }
    }
}

#[tokio::test]
async fn a_user_is_disconnected_everywhere_and_others_are_not() {
    let world = World::with_topics().await;
    let ((one, at_one), (other, at_other)) = tokio::join!(world.gateway(), world.gateway());
    let (alice, bob) = (user(&unique("alice")), user(&unique("bob")));
    let mut first = Client::connect(at_one, &alice).await;
    let mut second = Client::connect(at_other, &alice).await;
    let mut bystander = Client::connect(at_one, &bob).await;
    // Subscriptions follow connections by a moment.
    until("both gateways hear of alice", async || {
        world.ctl(&["--json", "disconnect", alice.as_str(), "--dry-run"]).await.expect(0).json()[0]["gateways"] == 2
    })
    .await;
    let ran = world.ctl(&["disconnect", alice.as_str()]).await.expect(0);
    assert!(ran.stdout.contains("2 gateway(s)"), "{}", ran.stdout);
    assert_eq!(ran.audit()[0]["userId"], alice.as_str());
    // A Socket.IO DISCONNECT of the namespace.
    assert_eq!((first.next().await.as_str(), second.next().await.as_str()), ("41", "41"));
    bystander.send(format!(r#"421["sendMessage",{{"friendId":"{alice}","content":"still here"}}]"#)).await;
    assert_eq!(bystander.event("newMessage").await["content"], "still here");
    let ran = world.ctl(&["disconnect", unique("nobody").as_str()]).await.expect(0);
    assert!(ran.stdout.contains("no gateway"), "{}", ran.stdout);
    one.stop().await;
    other.stop().await;
}

#[tokio::test]
async fn a_replay_raises_no_second_new_message() {
    let world = World::with_topics().await;
    // The gateway's own retry service is to find nothing.
    let (gateway, address) = world.clone().set("REDIS_QUEUE_URL", world.name("REDIS_URL")).gateway().await;
    let worker = world.worker();
    let (alice, bob) = (user(&unique("alice")), user(&unique("bob")));
    let chat = ChatId::direct(&alice, &bob).unwrap();
    let (seen, unseen) = (message(&chat, 1), message(&chat, 2));
    let mut sender = Client::connect(address, &alice).await;
    let mut receiver = Client::connect(address, &bob).await;
    let body = json!({ "friendId": bob.as_str(), "tempId": seen.temp_id, "content": seen.content });
    sender.send(format!(r#"421["sendMessage",{body}]"#)).await;
    assert_eq!(receiver.event("newMessage").await["messageId"], seen.id.to_string());
    // As if Kafka's answer had been lost; behind it one that nobody was shown.
    world.push(&seen).await;
    world.push(&unseen).await;
    let rows = world.ctl(&["failed", "replay", chat.as_str(), "--yes", "--json"]).await.expect(0).json();
    assert_eq!((&rows[0]["replayed"], &rows[0]["left"]), (&2.into(), &0.into()));
    assert_eq!(receiver.event("newMessage").await["messageId"], unseen.id.to_string());
    worker.stop().await;
    gateway.stop().await;
}
