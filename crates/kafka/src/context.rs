//! librdkafka's callbacks: log lines and errors go to `tracing`, a fatal error to the tasks that watch for it.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::watch;

use crate::Trouble;

/// librdkafka repeats an error for each broker and attempt; one line in this time says as much.
const SAME_ERROR: Duration = Duration::from_secs(10);

/// The callbacks that all clients share.
#[derive(Debug)]
pub struct Callbacks {
    client: &'static str,
    fatal: watch::Sender<Option<String>>,
    logged: Arc<Logged>,
}

/// The errors that were logged already, by this client or one that it replaces.
#[derive(Debug, Default)]
struct Logged {
    errors: Mutex<Vec<(RDKafkaErrorCode, Instant)>>,
    fatal: Mutex<HashSet<String>>,
}

impl Callbacks {
    /// `client` is what its log lines are called by.
    pub(crate) fn new(client: &'static str) -> Self {
        Self { client, fatal: watch::Sender::new(None), logged: Arc::default() }
    }

    /// For a client that takes this one's place, and does not log the same again.
    pub(crate) fn succeeded(&self) -> Self {
        Self { client: self.client, fatal: watch::Sender::new(None), logged: Arc::clone(&self.logged) }
    }

    /// The client works again: its next error is logged.
    pub(crate) fn recovered(&self) {
        self.logged.fatal.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The first fatal error, once there is one.
    pub(crate) fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// Records a fatal error. The client is dead from here on.
    pub(crate) fn raise(&self, reason: &str) {
        // Checked first, because sending waits for all concurrent readers.
        if self.fatal.borrow().is_some() {
            return;
        }
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                if self.logged.fatal.lock().unwrap_or_else(PoisonError::into_inner).insert(kind(reason).to_owned()) {
                    tracing::error!(client = self.client, reason, "fatal kafka client error");
                } else {
                    tracing::debug!(client = self.client, reason, "fatal kafka client error, again");
                }
                *fatal = Some(reason.to_owned());
            }
            first
        });
    }

    fn is_news(&self, code: RDKafkaErrorCode) -> bool {
        let Ok(mut recent) = self.logged.errors.lock() else { return true };
        let now = Instant::now();
        recent.retain(|(_, last)| now.duration_since(*last) < SAME_ERROR);
        let news = recent.iter().all(|(known, _)| *known != code);
        if news {
            recent.push((code, now));
        }
        news
    }
}

impl ClientContext for Callbacks {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, line: &str) {
        let client = self.client;
        match level {
            // The error event carries the error beneath; that it is fatal shows here alone (`rd_kafka_set_fatal_error0`).
            RDKafkaLogLevel::Emerg if facility == "FATAL" => self.raise(line),
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical => {
                tracing::error!(client, facility, "librdkafka: {line}");
            }
            // A broker that can't be reached is an "error" to librdkafka; the error callback reports it as well.
            RDKafkaLogLevel::Error if facility == "FAIL" => tracing::debug!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Notice => tracing::info!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(client, facility, "librdkafka: {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
            // The line that says why comes through `log`.
            Some(RDKafkaErrorCode::Fatal) => {}
            Some(code) if !self.is_news(code) => {}
            Some(code) if Trouble::of(code).is_refusal() => {
                tracing::error!(client = self.client, %error, reason, "kafka refuses us");
            }
            _ => tracing::warn!(client = self.client, %error, reason, "kafka client error"),
        }
    }

    // Only consumers ask for statistics, and read them in their own context.
    fn stats_raw(&self, _: &[u8]) {}
}

impl rdkafka::consumer::ConsumerContext for Callbacks {}

/// What is the same in every line of one kind: librdkafka's words for the error, without the thread before and the broker after them.
fn kind(line: &str) -> &str {
    let text = line.split_once("Fatal error: ").map_or(line, |(_, text)| text);
    let broker = if text.starts_with("Broker: ") { "Broker: ".len() } else { 0 };
    text[broker..].split(':').next().unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_fatal_error_are_of_one_kind() {
        let logged = "[thrd:main]: Fatal error: Broker: Cluster authorization failed: Failed to acquire idempotence PID from broker 127.0.0.1:9092/1: Broker: Cluster authorization failed";
        assert_eq!(kind(logged), "Cluster authorization failed");
        assert_eq!(kind("Cluster authorization failed: Failed to acquire"), "Cluster authorization failed");
        assert_eq!(kind(""), "");
    }
}
