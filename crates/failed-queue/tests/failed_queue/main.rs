//! The failed queue against real Redis servers.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod durability;
mod index_repair;
mod model;
mod queue;
mod rewrite;
mod scan;
mod support;
