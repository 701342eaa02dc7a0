//! Journeys end to end, against real servers and with the official Socket.IO client.

mod bad_input;
mod broken;
mod cache;
mod docs;
mod faults;
mod fuzz_api;
mod groups;
mod inbox;
mod journey;
mod modes;
mod presence;
mod repeats;
mod resume;
