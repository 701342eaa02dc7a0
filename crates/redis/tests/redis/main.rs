//! Connections, operations, locks and cache-aside against real Redis servers.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod aside;
mod aside_model;
mod client;
mod connection;
mod lock;
mod scan;
mod support;
