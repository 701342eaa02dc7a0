//! The way back: from the recent list, the failed queue and MongoDB to a client.
//!
//! [`history`] reads pages of a chat, [`resume`] what a client missed while it was away for a moment, [`lookup`] one message by its id.
//! [`locate`] finds where in a chat's history a message lies.

pub(crate) mod history;
pub(crate) mod locate;
pub(crate) mod lookup;
mod merge;
pub(crate) mod resume;
