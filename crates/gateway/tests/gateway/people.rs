//! Users of one gateway or another, over REST and sockets.

use holdfast_socketio_client::{Client, Event, Events};
use holdfast_testkit::{LIVENESS, Response, request, unique};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

use crate::support::Gateway;

pub(crate) const SOON: Duration = Duration::from_secs(20);
const AGAIN: Duration = Duration::from_millis(200);

/// A user with a device on a gateway.
pub(crate) struct Person<'a> {
    pub(crate) name: String,
    pub(crate) gateway: &'a Gateway,
    pub(crate) client: Client,
    pub(crate) events: Events,
}

impl<'a> Person<'a> {
    pub(crate) async fn at(gateway: &'a Gateway, name: &str) -> Self {
        Self::named(gateway, &unique(name)).await
    }

    pub(crate) async fn named(gateway: &'a Gateway, name: &str) -> Self {
        let (client, events) = gateway.connect(name).await;
        Self { name: name.to_owned(), gateway, client, events }
    }

    /// A REST request to the user's own gateway.
    pub(crate) async fn rest(&self, method: &str, path: &str, body: Value) -> Response {
        self.rest_with(method, path, body, &[]).await
    }

    pub(crate) async fn rest_with(&self, method: &str, path: &str, body: Value, more: &[&str]) -> Response {
        ask(self.gateway, &self.name, method, path, body, more).await
    }

    /// Makes a group, and gives its id.
    pub(crate) async fn group(&self, members: &[&str]) -> String {
        let key = format!("idempotency-key: {}", unique("group"));
        let made =
            self.rest_with("POST", "/api/chats", json!({ "name": "a group", "members": members }), &[&key]).await;
        assert!(matches!(made.status, 200 | 201), "{made:?}");
        made.body["chatId"].as_str().unwrap().to_owned()
    }

    pub(crate) async fn emit(&self, event: &str, payload: Value) -> Value {
        self.client.emit_with_ack(event, &payload).await.unwrap()
    }

    /// Sends to a chat once, and gives the answer.
    pub(crate) async fn try_send(&self, chat: &str, content: &str) -> Value {
        self.emit("sendMessage", json!({ "chatId": chat, "content": content })).await
    }

    /// Sends to a chat until it is told that it is to send no more, as clients do, and gives the message.
    pub(crate) async fn send(&self, chat: &str, content: &str) -> Value {
        let message = json!({ "chatId": chat, "content": content, "tempId": unique("send") });
        let (mut answer, begun) = (self.emit("sendMessage", message.clone()).await, Instant::now());
        while answer["error"]["retryable"] == true {
            assert!(begun.elapsed() < LIVENESS, "refused again and again: {answer}");
            tokio::time::sleep(AGAIN).await;
            answer = self.emit("sendMessage", message.clone()).await;
        }
        assert_eq!(answer["ok"], true, "{answer}");
        answer["message"].clone()
    }

    /// The next message, which must be this one; other events are dropped.
    pub(crate) async fn hears(&mut self, content: &str) {
        let heard = self.events.next_named("newMessage", SOON).await;
        let heard = heard.unwrap_or_else(|| panic!("{} does not hear {content:?}", self.name));
        assert_eq!(heard["content"], content, "{} hears something else", self.name);
    }

    /// The next event of one of these names; others are dropped.
    pub(crate) async fn next_of(&mut self, names: &[&str]) -> Event {
        let next = async {
            loop {
                let event = self.events.next().await.expect("connected");
                if names.contains(&event.name.as_str()) {
                    return event;
                }
            }
        };
        let next = tokio::time::timeout(SOON, next).await;
        next.unwrap_or_else(|_| panic!("{} hears none of {names:?}", self.name))
    }

    /// Waits until a chat is said to have changed.
    pub(crate) async fn hears_of(&mut self, chat: &str) {
        let heard = self.events.next_named("chatUpdated", SOON).await;
        assert_eq!(heard, Some(json!({ "chatId": chat })), "{} does not hear of {chat}", self.name);
    }
}

/// Asks until the answer is not to ask again, as clients do: a busy machine may take longer than a request may.
pub(crate) async fn ask(
    gateway: &Gateway,
    user: &str,
    method: &str,
    path: &str,
    body: Value,
    more: &[&str],
) -> Response {
    ask_counting(gateway, user, method, path, body, more).await.0
}

/// The same, and how often it was asked.
pub(crate) async fn ask_counting(
    gateway: &Gateway,
    user: &str,
    method: &str,
    path: &str,
    body: Value,
    more: &[&str],
) -> (Response, u32) {
    let mut headers = vec![format!("authorization: Bearer {}", gateway.token(user))];
    headers.extend(more.iter().map(|header| (*header).to_owned()));
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let (mut times, begun) = (1, Instant::now());
    loop {
        let answer = request(&gateway.url, method, path, &headers, &body).await.unwrap();
        if answer.body["retryable"] != true {
            return (answer, times);
        }
        assert!(begun.elapsed() < LIVENESS, "{method} {path} refused again and again: {answer:?}");
        times += 1;
        tokio::time::sleep(AGAIN).await;
    }
}

pub(crate) fn refused(answer: &Value, code: &str, retryable: bool) {
    assert_eq!(answer["ok"], false, "{answer}");
    assert_eq!(
        (&answer["error"]["code"], &answer["error"]["retryable"]),
        (&json!(code), &json!(retryable)),
        "{answer}"
    );
}
