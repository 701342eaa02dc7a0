//! Load on a running gateway, measured, with a peer to compare with.
//!
//! - [`load`]: the two ways of loading, and what they count.
//! - [`stored`]: whether MongoDB holds what was acknowledged.
//! - [`usage`]: what processes cost.
//! - [`stack`]: private servers and our services, for when no URL is given.
//! - [`peer`]: a bare echo server.
//! - [`report`]: the numbers, as text and as JSON.

pub mod load;
pub mod peer;
pub mod report;
pub mod stack;
pub mod stored;
pub mod usage;
