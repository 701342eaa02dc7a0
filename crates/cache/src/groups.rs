//! Telling the other gateways that a group has changed.
//!
//! Published on the group's channel, for everybody who hears it, and on the channel of each user who joined or left: whoever joins
//! does not hear the group's channel yet, and whoever leaves may be about to.

use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_message::{ChatId, UserId};
use holdfast_redis::{Call, Connection, RedisError};

use crate::event::{self, Origin};

/// Publications in one round trip.
const BATCH: usize = 100;

/// A change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// The group.
    pub chat: ChatId,
    /// Who became a member.
    pub joined: Vec<UserId>,
    /// Who ceased to be one.
    pub left: Vec<UserId>,
}

/// Publishes changes of groups. Cheap to clone.
#[derive(Clone)]
pub struct GroupChanges {
    connection: Connection,
    keys: Keys,
    origin: Origin,
}

impl GroupChanges {
    /// Publishes on the cache server, under this process's origin.
    pub fn new(connection: Connection, keys: Keys, origin: Origin) -> Self {
        Self { connection, keys, origin }
    }

    /// Publishes a change, with so much time for each round trip. After an error part of it may have been told; telling it once
    /// more does no harm.
    pub async fn publish(&self, change: &GroupChange, budget: Duration) -> Result<(), RedisError> {
        let tell = |channel: Channel, left: Option<&UserId>| {
            let payload = event::group(self.origin, &change.chat, left);
            Call::new("PUBLISH").arg(self.keys.channel(&channel)).arg(payload)
        };
        let left = change.left.iter().map(|user| tell(Channel::User(user.clone()), Some(user)));
        let joined = change.joined.iter().map(|user| tell(Channel::User(user.clone()), None));
        let mut calls: Vec<_> = left.chain(joined).collect();
        let one = change.left.first().filter(|_| change.left.len() == 1);
        calls.push(tell(Channel::Group(change.chat.clone()), one));
        let mut calls = calls.into_iter().peekable();
        while calls.peek().is_some() {
            let batch = calls.by_ref().take(BATCH).collect();
            for published in self.connection.run("group", batch, budget).await? {
                published?;
            }
        }
        Ok(())
    }
}
