//! `messagesRead`: at once, and then at most once a second for each reader and chat.
//!
//! Takes how far somebody has read; tells the other members, by [`Live`]. Of what follows within the second only the furthest is told,
//! at its end. So much for one gateway: a reader's devices on another one have a second of their own. In a group of more than
//! [`MAX_MEMBERS`] nobody is told, for each message would be read by each member to all others.
//!
//! Readers are remembered for a second or two. The memory is bounded: a reading that finds it full is not told, and counted.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_cache::keys::Channel;
use holdfast_message::{ChatId, HistoryKey, UserId};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::deliver::ephemeral::{Live, LiveEvent};
use crate::metrics::{Dropped, Metrics};

/// The largest group in which readings are told.
pub(crate) const MAX_MEMBERS: usize = 100;
/// At most one event in this time.
const EVERY: Duration = Duration::from_secs(1);
/// How often it is looked what is due.
const TICK: Duration = Duration::from_millis(100);
/// Readers of chats who are remembered.
const CAPACITY: usize = 10_000;

/// Who has read what. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Receipts {
    pace: Arc<Mutex<Pace>>,
    live: Live,
    metrics: Metrics,
}

impl Receipts {
    /// Nobody has read anything yet.
    pub(crate) fn new(live: Live, metrics: Metrics) -> Self {
        Self { pace: Arc::default(), live, metrics }
    }

    /// A member has read a chat up to here. Never waits.
    pub(crate) fn read(&self, user: &UserId, chat: &ChatId, up_to: HistoryKey) {
        let said = self.pace().say((chat.clone(), user.clone()), up_to, Instant::now());
        match said {
            Said::Now => self.tell(user, chat, up_to),
            Said::Later => {}
            Said::Full => self.metrics.live_dropped(Dropped::Full, 1),
        }
    }

    /// Tells what is due until the token is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let due = self.pace().due(Instant::now());
            for ((chat, user), up_to) in due {
                self.live.room().await;
                self.tell(&user, &chat, up_to);
            }
        }
    }

    fn tell(&self, user: &UserId, chat: &ChatId, up_to: HistoryKey) {
        let payload = json!({ "chatId": chat.as_str(), "userId": user.as_str(), "upTo": up_to.id });
        self.live.tell(Channel::audience(chat), Some(user), LiveEvent::MessagesRead, &payload);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reader = (ChatId, UserId);

/// What becomes of a reading.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Now,
    Later,
    Full,
}

/// When each reader's next reading may be told, and what waits for that.
#[derive(Default)]
struct Pace(HashMap<Reader, (Instant, Option<HistoryKey>)>);

impl Pace {
    fn say(&mut self, reader: Reader, up_to: HistoryKey, now: Instant) -> Said {
        if let Some((_, waiting)) = self.0.get_mut(&reader) {
            *waiting = (*waiting).max(Some(up_to));
            return Said::Later;
        }
        if self.0.len() >= CAPACITY {
            return Said::Full;
        }
        self.0.insert(reader, (now + EVERY, None));
        Said::Now
    }

    /// What waits and may be told. Readers with nothing more to tell are forgotten.
    fn due(&mut self, now: Instant) -> Vec<(Reader, HistoryKey)> {
        let mut due = Vec::new();
        self.0.retain(|reader, (at, waiting)| {
            if *at > now {
                return true;
            }
            let Some(up_to) = waiting.take() else { return false };
            *at = now + EVERY;
            due.push((reader.clone(), up_to));
            true
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use holdfast_message::MessageId;

    use super::*;

    fn reader(name: &str) -> Reader {
        let (user, other) = (UserId::parse(name).unwrap(), UserId::parse("zoe").unwrap());
        (ChatId::direct(&user, &other).unwrap(), user)
    }

    fn place(timestamp: i64) -> HistoryKey {
        HistoryKey { timestamp, id: MessageId::from_bytes([1; 16]) }
    }

    #[test]
    fn the_first_reading_is_told_at_once_and_of_the_others_the_furthest_a_second_later() {
        let (mut pace, start) = (Pace::default(), Instant::now());
        let after = |ms| start + Duration::from_millis(ms);
        assert_eq!(pace.say(reader("alice"), place(1), start), Said::Now);
        assert_eq!(pace.say(reader("bob"), place(1), after(500)), Said::Now);
        for timestamp in [2, 9, 3] {
            assert_eq!(pace.say(reader("alice"), place(timestamp), after(600)), Said::Later);
        }
        assert_eq!(pace.due(after(999)), []);
        assert_eq!(pace.due(after(1000)), [(reader("alice"), place(9))]);
        // That was the first of the next second.
        assert_eq!(pace.say(reader("alice"), place(10), after(1100)), Said::Later);
        assert_eq!(pace.due(after(1999)), []);
        assert_eq!(pace.due(after(2000)), [(reader("alice"), place(10))]);
        assert_eq!(pace.due(after(3000)), []);
        assert!(pace.0.is_empty(), "nobody is remembered for longer than there is something to tell");
        assert_eq!(pace.say(reader("alice"), place(11), after(3000)), Said::Now);
    }

    #[test]
    fn so_many_readers_are_remembered_and_no_more() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for number in 0..CAPACITY {
            assert_eq!(pace.say(reader(&format!("user{number}")), place(1), now), Said::Now);
        }
        assert_eq!(pace.say(reader("one-more"), place(1), now), Said::Full);
        assert_eq!(pace.say(reader("user1"), place(2), now), Said::Later);
        assert_eq!(pace.due(now + EVERY).len(), 1);
        assert_eq!(pace.say(reader("one-more"), place(1), now + EVERY), Said::Now);
    }
}
