//! What librdkafka says through its callbacks: log lines and errors go to `tracing`, a fatal error to whoever watches for it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use tokio::sync::watch;

use crate::Trouble;

/// librdkafka repeats an error for each broker and attempt; one line in this time says as much.
const SAME_ERROR: Duration = Duration::from_secs(10);

/// The callbacks of every client here.
#[derive(Debug)]
pub struct Callbacks {
    client: &'static str,
    fatal: watch::Sender<Option<String>>,
    told: Mutex<Vec<(RDKafkaErrorCode, Instant)>>,
}

impl Callbacks {
    /// `client` is what its log lines are called by.
    pub(crate) fn new(client: &'static str) -> Self {
        Self { client, fatal: watch::Sender::new(None), told: Mutex::default() }
    }

    /// The first fatal error, once there is one.
    pub(crate) fn fatal(&self) -> watch::Receiver<Option<String>> {
        self.fatal.subscribe()
    }

    /// Records a fatal error. The client is dead from here on.
    pub(crate) fn raise(&self, reason: &str) {
        // Looked at first, as sending waits for everyone who is looking.
        if self.fatal.borrow().is_some() {
            return;
        }
        self.fatal.send_if_modified(|fatal| {
            let first = fatal.is_none();
            if first {
                tracing::error!(client = self.client, reason, "fatal kafka client error");
                *fatal = Some(reason.to_owned());
            }
            first
        });
    }

    fn is_news(&self, code: RDKafkaErrorCode) -> bool {
        let Ok(mut told) = self.told.lock() else { return true };
        let now = Instant::now();
        told.retain(|(_, last)| now.duration_since(*last) < SAME_ERROR);
        let news = told.iter().all(|(known, _)| *known != code);
        if news {
            told.push((code, now));
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
            // A broker that can't be reached is an "error" to librdkafka, told again by the error callback.
            RDKafkaLogLevel::Error if facility == "FAIL" => tracing::debug!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Error | RDKafkaLogLevel::Warning => tracing::warn!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Notice => tracing::info!(client, facility, "librdkafka: {line}"),
            RDKafkaLogLevel::Info | RDKafkaLogLevel::Debug => tracing::debug!(client, facility, "librdkafka: {line}"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        match error.rdkafka_error_code() {
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
