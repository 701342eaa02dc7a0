//! Gateways in this process, between real servers, with real sockets.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod ahead;
mod asyncapi;
mod behind;
mod breakers;
mod cluster;
mod connections;
mod described;
mod groups;
mod hogs;
mod inbox;
mod inputs;
mod kafka_away;
mod limits;
mod origins;
mod outsiders;
mod people;
mod permissions;
mod presence;
mod profiles;
mod queue_away;
mod queue_required;
mod recent_retry;
mod refused_resends;
mod relations;
mod repeats;
mod replay;
mod rest;
mod resync;
mod rights;
mod sent_once;
mod slow_cache;
mod store_away;
mod stored_times;
mod support;
mod typing;
mod web;
