//! Reads chats' history as a client does.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_socketio_client::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::is_genuine;

/// How long a gateway may answer incompletely: a breaker may still be open.
const PATIENCE: Duration = Duration::from_secs(20);
/// The largest page.
const PAGE: usize = 100;

/// A chat's history as a client read it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reading {
    /// The chat.
    pub chat: String,
    /// The ids of the messages, newest first.
    pub ids: Vec<String>,
    /// Whether this is all of it; else the newest page.
    pub whole: bool,
    /// Whether the recent list answered alone.
    pub cached: bool,
}

/// Reads a chat's whole history, as a member does. Incomplete answers are requested again.
///
/// # Errors
/// The gateway does not answer, answers incompletely for twenty seconds, or shows a message that does not match its id.
pub async fn whole_history(client: &Client, chat: &str) -> Result<Reading> {
    let mut reading = newest_page(client, chat, PAGE / 2).await?;
    while let Some(cursor) = reading.1.take() {
        let (more, next) = page(client, json!({ "chatId": chat, "limit": PAGE, "before": cursor })).await?;
        reading.0.ids.extend(more.ids);
        reading.1 = next;
    }
    Ok(Reading { whole: true, cached: false, ..reading.0 })
}

/// A chat's newest page of so many messages, and the cursor of the next one.
///
/// # Errors
/// As [`whole_history`].
pub async fn newest_page(client: &Client, chat: &str, limit: usize) -> Result<(Reading, Option<String>)> {
    page(client, json!({ "chatId": chat, "limit": limit })).await
}

async fn page(client: &Client, request: Value) -> Result<(Reading, Option<String>)> {
    let mut until = Instant::now() + PATIENCE;
    let chat = request["chatId"].as_str().unwrap_or_default().to_owned();
    let page = loop {
        let page = client.emit_with_ack("history", &request).await?;
        if page["ok"] == true && page["complete"] == true {
            break page;
        }
        ensure!(Instant::now() < until, "history of {chat}: {page}");
        // A refusal by the rate limit says how long to wait.
        let wait = page["error"]["retryAfterMs"].as_u64().map(Duration::from_millis);
        until += wait.unwrap_or_default();
        sleep(wait.unwrap_or(Duration::from_millis(200))).await;
    };
    let mut ids = Vec::new();
    for message in page["messages"].as_array().into_iter().flatten() {
        ensure!(is_genuine(message) && message["chatId"] == *chat, "history of {chat} shows {message}");
        ids.extend(message["messageId"].as_str().map(str::to_owned));
    }
    let next = page["nextCursor"].as_str().map(str::to_owned);
    Ok((Reading { chat, ids, whole: false, cached: page["source"] == "cache" }, next))
}
