//! The state of chats in the cache: what other gateways need to know at once, and what is too expensive to read from MongoDB each time.
//! All of it may be lost at any moment; each module says what happens then.
//!
//! In the order in which a message meets them:
//!
//! 1. [`rate_limit`]: how many events a user may send.
//! 2. [`recent`]: the recent list. One script adds a message if it is absent, gives it a position in the live stream, and announces it to
//!    the other gateways.
//! 3. [`channels`]: the subscription to what other gateways announce, which notices when events may have been missed.
//! 4. [`announce`] publishes ephemeral events, [`groups`] changes of groups, [`control`] commands of operators.
//! 5. [`presence`]: who is online. [`inbox`]: each user's chats with their unread counts.
//!
//! [`entry`] alone knows the bytes of list entries, and [`event`] those of publications. Names of keys and channels come from
//! `holdfast-keys`. Every script touches keys of one cluster slot only.

pub mod announce;
pub mod channels;
pub mod control;
pub mod entry;
pub mod event;
pub mod groups;
pub mod inbox;
pub mod presence;
pub mod rate_limit;
pub mod recent;

pub use announce::Announcer;
pub use channels::{ChannelEvent, Channels};
pub use event::{Event, LiveEvent, Origin};
pub use inbox::Inboxes;
pub use recent::RecentList;
