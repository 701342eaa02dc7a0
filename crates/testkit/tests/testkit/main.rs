//! The test kit against real servers.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod proxy;
mod servers;
