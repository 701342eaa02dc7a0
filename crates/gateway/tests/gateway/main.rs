//! Gateways in this process, between real servers, with real sockets.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod behind;
mod described;
mod limits;
mod relist;
mod repeats;
mod rest;
mod resync;
mod store_away;
mod support;
