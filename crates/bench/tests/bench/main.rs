//! The client and the load against bare servers; what is stored against a real `mongod`.

#![allow(clippy::expect_used, clippy::unwrap_used)]

mod client;
mod load;
mod stored;
