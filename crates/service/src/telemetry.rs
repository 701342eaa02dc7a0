//! Logs: JSON for machines or text for people, on standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt;

/// Sets up the process's log. Called once, before anything is logged; a second call changes nothing.
///
/// The error says what is wrong with the filter or the format.
pub fn init(level: &str, format: &str) -> Result<(), String> {
    let filter = EnvFilter::try_new(level).map_err(|_| "LOG_LEVEL: must be a level or a tracing filter")?;
    let log = fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_target(true)
        .with_ansi(std::io::stderr().is_terminal());
    // An error means that a log is set up already, as it is in tests.
    let _ = match format {
        "json" => log.json().flatten_event(true).with_current_span(false).try_init(),
        "text" => log.compact().try_init(),
        _ => return Err("LOG_FORMAT: must be json or text".into()),
    };
    Ok(())
}
