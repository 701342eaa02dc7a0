//! The caches against real Redis servers.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod aside;
mod aside_model;
mod channels;
mod client;
mod cluster;
mod cluster_loss;
mod cluster_move;
mod connection;
mod failed;
mod failed_durability;
mod failed_model;
mod failed_rewrite;
mod inbox_model;
mod lock;
mod presence;
mod rate_limit;
mod recent;
mod recent_epoch;
mod recent_model;
mod recent_repair;
mod recent_standing;
mod support;
mod sweep;
