//! The worker against librdkafka's mock cluster, for what a good broker does not do on demand; and against real servers, as a
//! library and as a process.

mod faults;
mod journeys;
mod processes;
mod stack;

mod group;
mod rig;
