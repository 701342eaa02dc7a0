//! The caches against real Redis servers.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod channels;
mod cluster;
mod cluster_loss;
mod cluster_move;
mod deadline;
mod inbox_model;
mod presence;
mod rate_limit;
mod recent;
mod recent_batch;
mod recent_epoch;
mod recent_model;
mod recent_repair;
mod recent_stream_tip;
mod support;
