//! What clients send and get: the shapes of requests, responses and events, their cursors, and their description.
//!
//! The types here know nothing of how a request is carried out; the modules that do so take and give them.

pub mod asyncapi;
pub mod cursor;
pub mod events;
pub(crate) mod integer;
pub mod requests;
pub mod responses;
