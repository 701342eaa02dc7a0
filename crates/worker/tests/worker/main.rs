//! The worker against librdkafka's mock cluster, for what a good broker does not do on demand; and against real servers, as a
//! library and as a process.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod faults;
mod group;
mod heal;
mod journeys;
mod processes;
mod rig;
mod rights;
mod stack;
mod transactions;
