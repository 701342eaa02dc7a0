//! The write path: from a stamped message to its answer, and what is left to do after it.
//!
//! [`timestamps`] stamps a message, [`pipeline`] takes it through its stages ([`stages`]), [`publish`] makes it durable, [`outcome`] is what
//! its sender gets. [`acked`] remembers what became durable here, so that a repeat keeps its time. [`recent_retry`] repeats what the
//! recent list missed; [`reinstate`] shows a message again that was refused here and is durable all the same.

pub(crate) mod acked;
pub(crate) mod outcome;
mod pace;
pub(crate) mod pipeline;
pub(crate) mod publish;
pub mod recent_retry;
pub mod reinstate;
pub(crate) mod stages;
pub(crate) mod timestamps;
