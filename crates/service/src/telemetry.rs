//! Logs: JSON for machines or text for people, on standard error, so many lines of one kind a minute ([`LogLimit`]).

use std::io::IsTerminal as _;
use std::time::Instant;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;
use tracing_subscriber::prelude::*;

use crate::log_limit::LogLimit;

/// Sets up the process's log. Called once, before anything is logged; a second call changes nothing.
///
/// The error says what is wrong with the filter or the format.
pub fn init(level: &str, format: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|_| "LOG_LEVEL: must be a level or a tracing filter")?;
    let log = fmt::layer().with_writer(std::io::stderr).with_target(true).with_ansi(std::io::stderr().is_terminal());
    let log = match format {
        "json" => log.json().flatten_event(true).with_current_span(false).boxed(),
        "text" => log.compact().boxed(),
        _ => return Err("LOG_FORMAT: must be json or text".into()),
    };
    let limit = LogLimit::new(Instant::now);
    let log = tracing_subscriber::registry().with(filter).with(log.with_filter(limit.clone()));
    // An error means that a log is set up already, as it is in tests.
    if log.try_init().is_ok() {
        limit.report_for_ever().map_err(|error| format!("the log's thread: {error}"))?;
    }
    Ok(())
}
