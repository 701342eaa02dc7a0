//! Who may do what: permissions of chats, from membership of groups and from relationships of two users.

pub(crate) mod activity;
pub(crate) mod authorize;
pub(crate) mod membership;
pub(crate) mod relationships;
