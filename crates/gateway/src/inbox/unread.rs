//! `unreadCount` on arrival, at most once a second for each user.
//!
//! Takes the messages that are given to the sockets here; a moment later, when the cached count includes them, sends those sockets how many messages are
//! unread. Several chats take turns. Each gateway notifies its own sockets. Only users with sockets here are remembered, with a bounded number of
//! chats each; for more chats, the client asks.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use holdfast_cache::LiveEvent;
use holdfast_message::{ChatId, Message, UserId};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::{BUDGET, Inbox, Unread};
use crate::deliver::sockets::Sockets;

/// At most one event in this time.
const EVERY: Duration = Duration::from_secs(1);
/// How long after a message its users are notified: by then its arrival is counted.
const AFTER: Duration = Duration::from_millis(200);
/// How often users who are due are looked for.
const TICK: Duration = Duration::from_millis(100);
/// Chats of one user that take turns.
const MAX_TURNS: usize = 100;
/// Users in one round trip, and users whose messages are counted at once.
const USERS_AT_ONCE: usize = 100;
const COUNTINGS: usize = 8;

struct Due {
    /// In turn, each with the time of its last message.
    chats: VecDeque<(ChatId, Instant)>,
    at: Instant,
}

/// Notifies users of their unread counts. Cheap to clone.
#[derive(Clone)]
pub(crate) struct UnreadNotifier {
    due: Arc<Mutex<HashMap<UserId, Due>>>,
    sockets: Sockets,
}

impl UnreadNotifier {
    /// Notifies these sockets.
    pub(crate) fn new(sockets: Sockets) -> Self {
        Self { due: Arc::default(), sockets }
    }

    /// A message was given to the sockets of these users. Never waits.
    pub(crate) fn message_given(&self, to: &[UserId], message: &Message) {
        let now = Instant::now();
        let mut due = self.due();
        for user in to.iter().filter(|user| **user != message.sender && self.sockets.has(user)) {
            let due = due.entry(user.clone()).or_insert_with(|| Due { chats: VecDeque::new(), at: now + AFTER });
            if due.chats.is_empty() {
                due.at = due.at.max(now + AFTER);
            }
            if let Some((_, last)) = due.chats.iter_mut().find(|(chat, _)| *chat == message.chat) {
                *last = now;
            } else if due.chats.len() < MAX_TURNS {
                due.chats.push_back((message.chat.clone(), now));
            }
        }
    }

    /// Notifies users who are due until the token is cancelled.
    pub(crate) async fn run(self, inbox: Inbox, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let due = self.take_due(Instant::now());
            for some in due.chunks(USERS_AT_ONCE) {
                self.notify(&inbox, some).await;
            }
        }
    }

    /// One chat of each user who is due. A user with none left is forgotten.
    fn take_due(&self, now: Instant) -> Vec<(UserId, ChatId)> {
        let mut taken = Vec::new();
        self.due().retain(|user, due| {
            if due.at > now {
                return true;
            }
            let Some((chat, last)) = due.chats.pop_front() else { return false };
            due.at = now + EVERY;
            if now < last + AFTER {
                // Its last message may not be counted yet.
                due.chats.push_back((chat.clone(), last));
            }
            taken.push((user.clone(), chat));
            true
        });
        taken
    }

    async fn notify(&self, inbox: &Inbox, due: &[(UserId, ChatId)]) {
        let users: Vec<_> = due.iter().map(|(user, _)| user.clone()).collect();
        let cached = inbox.cache(inbox.parts.cached.unread_batch(&users, BUDGET)).await;
        let mut cached = cached.unwrap_or_default().into_iter();
        let each = due.iter().map(|(user, chat)| {
            let known = cached.next().and_then(Result::ok).flatten();
            async move {
                let unread = match known {
                    Some(counts) => Unread::from(&counts),
                    None => inbox.unread(user).await.ok()?,
                };
                let (count, total) = (unread.of_chat(chat), unread.total);
                let payload = json!({ "chatId": chat.as_str(), "count": count, "total": total });
                self.sockets.emit(user, LiveEvent::UnreadCount.name(), &payload);
                Some(())
            }
        });
        stream::iter(each.collect::<Vec<_>>()).buffer_unordered(COUNTINGS).collect::<Vec<_>>().await;
    }

    fn due(&self) -> MutexGuard<'_, HashMap<UserId, Due>> {
        self.due.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
