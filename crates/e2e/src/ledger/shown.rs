//! What history shows.

use std::time::Duration;

use anyhow::{Result, ensure};
use holdfast_bench::client::Client;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long a gateway may fail to tell all of it: a breaker may still be open.
const PATIENCE: Duration = Duration::from_secs(20);

/// A chat's whole history, newest first, as a member reads it. What is incomplete for a moment is asked for again.
///
/// # Errors
/// The gateway does not answer, or can't tell all of it for [`PATIENCE`].
pub async fn whole_history(client: &Client, chat: &str) -> Result<Vec<String>> {
    let until = Instant::now() + PATIENCE;
    let mut ids = Vec::new();
    let mut cursor = Value::Null;
    loop {
        let mut request = json!({ "chatId": chat, "limit": 100 });
        if cursor.is_string() {
            request["before"] = cursor.clone();
        }
        let page = client.emit_with_ack("history", &request).await?;
        if page["ok"] != true || page["complete"] != true {
            // A gateway's breaker may still be open.
            ensure!(Instant::now() < until, "history of {chat}: {page}");
            sleep(Duration::from_millis(200)).await;
            continue;
        }
        let messages = page["messages"].as_array().into_iter().flatten();
        ids.extend(messages.filter_map(|message| message["messageId"].as_str()).map(str::to_owned));
        cursor = page["nextCursor"].clone();
        if cursor.is_null() {
            return Ok(ids);
        }
    }
}
