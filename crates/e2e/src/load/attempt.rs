//! One attempt at a send: from the emitted event to its outcome.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::PATIENCE;
use super::device::Connection;
use crate::ledger::{Attempt, Order, Outcome, Sent, now_ms};

/// An attempt whose answer has not arrived yet.
pub(super) struct Begun {
    attempt: Attempt,
    answer: Option<tokio::sync::oneshot::Receiver<String>>,
}

pub(super) async fn begin(order: &Order, connection: &Connection, sent: &Sent) -> Begun {
    let mut json = json!({ "tempId": sent.temp_id, "content": sent.content });
    match &sent.group {
        Some(group) => json["chatId"] = json!(group),
        None => json["friendId"] = json!(sent.receiver),
    }
    let json = json.to_string();
    let attempt = Attempt {
        gateway: connection.gateway.clone(),
        connection: connection.number,
        began: order.next(),
        began_ms: now_ms(),
        ended: 0,
        ended_ms: 0,
        outcome: Outcome::Disconnected,
    };
    // A client whose packets don't leave waits here, too.
    let answer = timeout(PATIENCE, connection.client.begin("sendMessage", &json)).await;
    Begun { attempt, answer: answer.ok().and_then(Result::ok) }
}

impl Begun {
    /// Waits for its end. Also returns how long the server asks to wait.
    pub(super) async fn end(mut self, order: &Order) -> (Attempt, Option<Duration>) {
        let mut wait = None;
        if let Some(answer) = self.answer {
            self.attempt.outcome = match timeout(PATIENCE, answer).await {
                Err(_) => Outcome::TimedOut,
                Ok(Err(_)) => Outcome::Disconnected,
                Ok(Ok(answer)) => {
                    let answer: Value = serde_json::from_str(&answer).unwrap_or_default();
                    wait = answer[0]["error"]["retryAfterMs"].as_u64().map(Duration::from_millis);
                    outcome(&answer[0])
                }
            };
        }
        self.attempt.ended = order.next();
        self.attempt.ended_ms = now_ms();
        (self.attempt, wait)
    }
}

fn outcome(answer: &Value) -> Outcome {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["ok"] == true {
        let message = &answer["message"];
        Outcome::Accepted {
            message_id: text(&message["messageId"]),
            timestamp: message["timestamp"].as_i64().unwrap_or_default(),
            durability: text(&answer["durability"]),
            duplicate: answer["duplicate"] == true,
        }
    } else {
        let error = &answer["error"];
        Outcome::Refused { code: text(&error["code"]), retryable: error["retryable"] == true }
    }
}
