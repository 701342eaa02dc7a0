//! What each long-running Holdfast process needs, and nothing about messages.
//!
//! * [`mod@settings`]: the environment, parsed once into typed values, all errors at once.
//! * [`servers`]: the settings that both services share.
//! * [`telemetry`] sets up the log, and [`log_limit`] keeps anybody from flooding it.
//! * [`trace`]: the W3C trace context that a message carries.
//! * [`ops`]: the operators' port: metrics and health.
//! * [`serve`]: connections over HTTP/1.1, within limits that hold whatever the peer does.
//! * [`runtime`]: as many threads as the process may use cores.
//! * [`lifecycle`]: from a signal to a token that everything watches.
//! * [`sabotage`]: ways to break the promise on purpose, in debug builds with the feature `sabotage` alone.
//! * [`clock`]: wall-clock milliseconds.

pub mod clock;
pub mod lifecycle;
pub mod log_limit;
pub mod ops;
pub mod runtime;
pub mod sabotage;
pub mod serve;
pub mod servers;
pub mod settings;
pub mod telemetry;
pub mod trace;

/// The exit code of a process whose settings are wrong (`EX_USAGE`).
pub const EXIT_USAGE: u8 = 64;
