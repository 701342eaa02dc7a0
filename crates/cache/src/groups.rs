//! Publishes changes of groups to the other gateways.
//!
//! A change is published on the channel of the group, and on the channel of each user who joined or left: a gateway whose user joins does not
//! subscribe to the group's channel yet, and one whose user leaves may be about to.

use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_message::{ChatId, UserId};
use holdfast_redis::{Call, Connection, RedisError};

use crate::event::{self, Origin};

/// How many publications one round trip carries.
const BATCH: usize = 100;

/// A change of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupChange {
    /// The group.
    pub chat: ChatId,
    /// The users who became members.
    pub joined: Vec<UserId>,
    /// The users who are no longer members.
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
    /// Publishes on the cache server, with this process's origin.
    pub fn new(connection: Connection, keys: Keys, origin: Origin) -> Self {
        Self { connection, keys, origin }
    }

    /// Publishes a change; `budget` is the time for each round trip. After an error a part may have been published; publishing it again is
    /// harmless.
    pub async fn publish(&self, change: &GroupChange, budget: Duration) -> Result<(), RedisError> {
        let publication = |channel: Channel, left: Option<&UserId>| {
            let payload = event::group(self.origin, &change.chat, left);
            Call::new("PUBLISH").arg(self.keys.channel(&channel)).arg(payload)
        };
        let left = change.left.iter().map(|user| publication(Channel::User(user.clone()), Some(user)));
        let joined = change.joined.iter().map(|user| publication(Channel::User(user.clone()), None));
        let mut calls: Vec<_> = left.chain(joined).collect();
        let one = change.left.first().filter(|_| change.left.len() == 1);
        calls.push(publication(Channel::Group(change.chat.clone()), one));
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
