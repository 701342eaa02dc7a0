//! The operator's commands against real servers, and the real binary where exit codes and the JSON form are what is promised.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod cache;
mod disconnect;
mod dlq;
mod doctor;
mod failed;
mod kafka;
mod program;
mod secrets;
mod support;
mod token;
mod verify;
