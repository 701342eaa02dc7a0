//! Read receipts (`messagesRead`): at once, and then at most one a second for each reader and chat.
//!
//! Takes how far a member has read; sends it to the other members as an ephemeral event. Of what follows within the second only the furthest is sent, at
//! its end. Each gateway counts for itself: a reader's devices on another one have a second of their own. In a group of more than
//! [`MAX_MEMBERS`] no receipts are sent, for each message would make one from each member to all others.
//!
//! Readers are remembered for a second or two. The memory is bounded: a receipt that finds it full is dropped and counted.
//!
//! See `docs/decisions/read-receipts.md`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_keys::Channel;
use holdfast_message::{ChatId, HistoryKey, UserId};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::deliver::ephemeral::{EphemeralEvents, LiveEvent};
use crate::metrics::{Dropped, Metrics};

/// The largest group in which receipts are sent.
pub(crate) const MAX_MEMBERS: usize = 100;
/// At most one event in this time.
const EVERY: Duration = Duration::from_secs(1);
/// How often receipts that are due are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Readers of chats that are remembered.
const CAPACITY: usize = 10_000;

/// Paces read receipts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Receipts {
    pace: Arc<Mutex<Pace>>,
    ephemeral: EphemeralEvents,
    metrics: Metrics,
}

impl Receipts {
    /// No receipts yet.
    pub(crate) fn new(ephemeral: EphemeralEvents, metrics: Metrics) -> Self {
        Self { pace: Arc::default(), ephemeral, metrics }
    }

    /// A member has read a chat up to here. Never waits.
    pub(crate) fn read(&self, user: &UserId, chat: &ChatId, up_to: HistoryKey) {
        let paced = self.pace().say((chat.clone(), user.clone()), up_to, Instant::now());
        match paced {
            Paced::Now => self.send(user, chat, up_to),
            Paced::Later => {}
            Paced::Full => self.metrics.live_dropped(Dropped::Full, 1),
        }
    }

    /// Sends what is due until the token is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let due = self.pace().due(Instant::now());
            for ((chat, user), up_to) in due {
                self.ephemeral.has_room().await;
                self.send(&user, &chat, up_to);
            }
        }
    }

    fn send(&self, user: &UserId, chat: &ChatId, up_to: HistoryKey) {
        let payload = json!({ "chatId": chat.as_str(), "userId": user.as_str(), "upTo": up_to.id });
        self.ephemeral.send(Channel::audience(chat), Some(user), LiveEvent::MessagesRead, &payload);
    }

    fn pace(&self) -> MutexGuard<'_, Pace> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

type Reader = (ChatId, UserId);

/// What becomes of a receipt.
#[derive(Debug, PartialEq, Eq)]
enum Paced {
    Now,
    Later,
    Full,
}

/// When each reader's next receipt may be sent, and what waits for that.
#[derive(Default)]
struct Pace(HashMap<Reader, (Instant, Option<HistoryKey>)>);

impl Pace {
    fn say(&mut self, reader: Reader, up_to: HistoryKey, now: Instant) -> Paced {
        if let Some((_, waiting)) = self.0.get_mut(&reader) {
            *waiting = (*waiting).max(Some(up_to));
            return Paced::Later;
        }
        if self.0.len() >= CAPACITY {
            return Paced::Full;
        }
        self.0.insert(reader, (now + EVERY, None));
        Paced::Now
    }

    /// What waits and may be sent. Readers with nothing more to send are forgotten.
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
        assert_eq!(pace.say(reader("alice"), place(1), start), Paced::Now);
        assert_eq!(pace.say(reader("bob"), place(1), after(500)), Paced::Now);
        for timestamp in [2, 9, 3] {
            assert_eq!(pace.say(reader("alice"), place(timestamp), after(600)), Paced::Later);
        }
        assert_eq!(pace.due(after(999)), []);
        assert_eq!(pace.due(after(1000)), [(reader("alice"), place(9))]);
        // That was the first of the next second.
        assert_eq!(pace.say(reader("alice"), place(10), after(1100)), Paced::Later);
        assert_eq!(pace.due(after(1999)), []);
        assert_eq!(pace.due(after(2000)), [(reader("alice"), place(10))]);
        assert_eq!(pace.due(after(3000)), []);
        assert!(pace.0.is_empty(), "nobody is remembered for longer than there is something to send");
        assert_eq!(pace.say(reader("alice"), place(11), after(3000)), Paced::Now);
    }

    #[test]
    fn so_many_readers_are_remembered_and_no_more() {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for number in 0..CAPACITY {
            assert_eq!(pace.say(reader(&format!("user{number}")), place(1), now), Paced::Now);
        }
        assert_eq!(pace.say(reader("one-more"), place(1), now), Paced::Full);
        assert_eq!(pace.say(reader("user1"), place(2), now), Paced::Later);
        assert_eq!(pace.due(now + EVERY).len(), 1);
        assert_eq!(pace.say(reader("one-more"), place(1), now + EVERY), Paced::Now);
    }
}
