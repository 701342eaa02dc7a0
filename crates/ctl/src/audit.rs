//! The command's log, on standard error: warnings as text, and for every replayed message, disconnected user and invalidation a line of
//! JSON with the target `audit`.

use std::io::IsTerminal as _;

use holdfast_message::{ChatId, MessageId};
use tracing_subscriber::filter::{LevelFilter, Targets, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer as _, fmt};

const TARGET: &str = "audit";

/// Sets the log up. `verbose`: more than warnings.
pub fn init(verbose: bool) {
    let level = if verbose { LevelFilter::DEBUG } else { LevelFilter::WARN };
    let log = fmt::layer()
        .compact()
        .with_ansi(std::io::stderr().is_terminal())
        .with_writer(std::io::stderr)
        .with_filter(Targets::new().with_default(level).with_target(TARGET, LevelFilter::OFF));
    let audit = fmt::layer()
        .json()
        .flatten_event(true)
        .with_writer(std::io::stderr)
        .with_filter(filter_fn(|metadata| metadata.target() == TARGET));
    // An error means that a log is set up already, as it is in tests.
    let _ = tracing_subscriber::registry().with(log).with(audit).try_init();
}

/// Notes that Kafka has acknowledged a replayed message. What could not be decoded has no ids.
pub fn replayed(message: Option<MessageId>, chat: Option<&ChatId>, from: &str, to: &str) {
    let message = message.map(|id| id.to_string()).unwrap_or_default();
    let chat = chat.map(ChatId::as_str).unwrap_or_default();
    tracing::info!(target: TARGET, messageId = message, chatId = chat, from, to, who = who(), "replayed");
}

/// Notes that a user was disconnected.
pub fn disconnected(user: &str) {
    tracing::info!(target: TARGET, userId = user, who = who(), "disconnected");
}

/// Notes how many cached values were forgotten: by one key, or by a pattern.
pub fn invalidated(what: &str, count: u64) {
    tracing::info!(target: TARGET, what, count, who = who(), "invalidated");
}

fn who() -> String {
    std::env::var("USER").unwrap_or_else(|_| "unknown".into())
}
