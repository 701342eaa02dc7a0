//! Publishes ephemeral events (typing, presence, read receipts, unread counts) to other gateways, on the channels they subscribe to.
//!
//! Publications are not stored or repeated: one that the server does not take is lost.

use std::sync::Arc;
use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_message::UserId;
use holdfast_redis::{Call, Connection, RedisError};

use crate::event::{self, LiveEvent, Origin};

/// The bytes of one live event, for any number of channels.
#[derive(Debug, Clone)]
pub struct Announcement(Arc<[u8]>);

/// Publishes live events for one process. Cheap to clone.
#[derive(Clone)]
pub struct Announcer {
    connection: Connection,
    keys: Keys,
    origin: Origin,
}

impl Announcer {
    /// Publishes on the cache server, as this process.
    pub fn new(connection: Connection, keys: Keys, origin: Origin) -> Self {
        Self { connection, keys, origin }
    }

    /// An event with this JSON, for all users whom its channels reach except `except`.
    pub fn announcement(&self, except: Option<&UserId>, event: LiveEvent, payload: &str) -> Announcement {
        Announcement(event::live(self.origin, except, event, payload).into())
    }

    /// Publishes in this order, as one pipeline under one deadline. Returns how many publications the server refused.
    pub async fn publish(
        &self,
        announcements: &[(Channel, Announcement)],
        budget: Duration,
    ) -> Result<usize, RedisError> {
        let call = |(channel, Announcement(bytes)): &(Channel, Announcement)| {
            Call::new("PUBLISH").arg(self.keys.channel(channel)).arg(&**bytes)
        };
        let answers = self.connection.run("announce", announcements.iter().map(call).collect(), budget).await?;
        Ok(answers.iter().filter(|answer| answer.is_err()).count())
    }
}
