//! That a user types in a chat, for as long as nobody says otherwise: a mark that expires by itself.
//!
//! The mark is what others may look at; clients are told by live events.

use std::time::Duration;

use holdfast_message::{ChatId, UserId};

use crate::CacheError;
use crate::connection::Connection;
use crate::keys::Keys;
use crate::script::Call;

/// The marks. Cheap to clone.
#[derive(Clone)]
pub struct TypingMarks {
    connection: Connection,
    keys: Keys,
    life: Duration,
}

impl TypingMarks {
    /// Marks on the cache server that live for so long.
    pub fn new(connection: Connection, keys: Keys, life: Duration) -> Self {
        Self { connection, keys, life }
    }

    /// Sets the mark anew, or removes it.
    pub async fn mark(&self, chat: &ChatId, user: &UserId, typing: bool, budget: Duration) -> Result<(), CacheError> {
        let key = self.keys.typing(chat, user);
        let call = match typing {
            true => Call::new("SET").arg(key).arg(1).arg("PX").arg(millis(self.life)),
            false => Call::new("DEL").arg(key),
        };
        self.connection.run_one("typing", call, budget).await.map(drop)
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
