//! Gateways in this process, between real servers, with real sockets.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod ahead;
mod asyncapi;
mod behind;
mod breakers;
mod cluster;
mod described;
mod groups;
mod inbox;
mod limits;
mod outsiders;
mod people;
mod permissions;
mod presence;
mod profiles;
mod queue_away;
mod refused_resends;
mod relations;
mod relist;
mod repair;
mod repeats;
mod rest;
mod resync;
mod sent_once;
mod store_away;
mod support;
mod typing;
