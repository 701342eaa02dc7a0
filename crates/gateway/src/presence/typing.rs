//! Who types: from a client's event to the other members' devices, on every gateway.
//!
//! A client says that its user types, and repeats it every few seconds while it lasts. The first time is sent at once, a repeat only after a
//! while; so is the end, which is the client's own event, its message, its disconnect, or silence. A gateway that dies sends no end: clients
//! forget a typing user after five seconds, too, unless the event is repeated.
//!
//! A chat may have a thousand members, so for one socket and chat an event is sent at most twice a second: what comes sooner waits, and the state at the
//! end of that time is sent. `MAX_CHATS` chats are remembered for each socket: one more displaces the oldest, without an event, unless an event of
//! that one was sent within this half second, too; then the new one is ignored. The cache holds a marker for each typing user: the first page of a chat's
//! history says who types now. No event waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::{StreamExt, stream};
use holdfast_keys::{Channel, Keys};
use holdfast_message::draft::target;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::Client;
use socketioxide::socket::Sid;
use tokio_util::sync::CancellationToken;

use crate::access::authorize::{Act, Admission};
use crate::deliver::ephemeral::{EphemeralEvents, LiveEvent};
use crate::refusal::Refusal;
use crate::wire::events::TypingEvent;
use crate::wire::requests::TypingRequest;

/// Chats in which one socket's user types at once.
const MAX_CHATS: usize = 8;
/// The shortest time between two events of one socket and chat, and between two looks for silence.
const TICK: Duration = Duration::from_millis(500);

/// Members of a group up to which its markers are read: one read each, on the connection that sends use.
const MAX_MARKERS: usize = 100;
/// Markers that are written at once.
const MARKS_AT_ONCE: usize = 64;

/// Sends who types. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Typing {
    ephemeral: EphemeralEvents,
    admission: Admission,
    cache: Client,
    keys: Keys,
    life: Duration,
    writers: Arc<Mutex<Writers>>,
}

impl Typing {
    /// A user counts as typing for `life` after their last event (`CACHE_TYPING_TTL`). Clients rely on five seconds: see `docs/api.md`.
    pub(crate) fn new(
        ephemeral: EphemeralEvents,
        admission: Admission,
        (cache, keys): (Client, Keys),
        life: Duration,
    ) -> Self {
        Self { ephemeral, admission, cache, keys, life, writers: Arc::new(Mutex::new(Writers::new(life))) }
    }

    /// Takes a client's event, and sends it to the other members if that is due.
    pub(crate) async fn hear(&self, socket: Sid, user: &UserId, request: &TypingRequest) -> Result<(), Refusal> {
        let chat = target(user, request.friend_id.as_deref(), request.chat_id.as_deref())?;
        self.admission.permit(user, &chat, Act::Type).await?;
        if self.note(socket, user, &chat, request.typing) {
            self.mark(&chat, user, request.typing).await;
        }
        Ok(())
    }

    /// A socket's user sends a message, and so no longer types in its chat. Returns what is left to do later, if anything.
    pub(crate) fn sends(
        &self,
        socket: Sid,
        user: &UserId,
        friend_id: Option<&str>,
        chat_id: Option<&str>,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        if !self.writers().knows(socket) {
            return None;
        }
        let chat = target(user, friend_id, chat_id).ok()?;
        let (this, user) = (self.clone(), user.clone());
        self.note(socket, &user, &chat, false).then_some(async move { this.mark(&chat, &user, false).await })
    }

    /// A socket has gone.
    pub(crate) async fn left(&self, socket: Sid) {
        let Some((user, chats)) = self.writers().left(socket) else { return };
        for chat in &chats {
            self.send(&user, chat, false);
        }
        for chat in &chats {
            self.mark(chat, &user, false).await;
        }
    }

    /// The other members who type in a chat now, in order; `None` if the cache or the store can't say, or the group is large.
    pub(crate) async fn who(&self, reader: &UserId, chat: &ChatId) -> Option<Vec<UserId>> {
        let members = self.admission.members(chat).await.ok().filter(|members| members.len() <= MAX_MARKERS)?;
        let others: Vec<_> = members.iter().filter(|member| *member != reader).collect();
        let markers: Vec<_> = others.iter().map(|member| self.keys.typing(chat, member)).collect();
        let marked: Result<Vec<_>, _> = self.cache.get_many(&markers).await.into_iter().collect();
        let marked = marked.inspect_err(|error| tracing::debug!(chat_id = %chat, %error, "who types can't be read"));
        let typing = others.into_iter().zip(marked.ok()?).filter(|(_, marker)| marker.is_some());
        Some(typing.map(|(member, _)| member.clone()).collect())
    }

    /// Sends the end of users who fell silent, and what had to wait, until the token is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let due = self.writers().due(Instant::now());
            due.iter().for_each(|(user, chat, typing)| self.send(user, chat, *typing));
            let mark = |(user, chat, typing)| {
                let this = &self;
                async move { this.mark(&chat, &user, typing).await }
            };
            stream::iter(due).for_each_concurrent(MARKS_AT_ONCE, mark).await;
        }
    }

    /// Records whether a user types, and sends it to the other members if that is due.
    fn note(&self, socket: Sid, user: &UserId, chat: &ChatId, typing: bool) -> bool {
        let news = match typing {
            true => self.writers().types(socket, user, chat, Instant::now()),
            false => self.writers().ceases(socket, chat, Instant::now()),
        };
        if news {
            self.send(user, chat, typing);
        }
        news
    }

    fn send(&self, user: &UserId, chat: &ChatId, typing: bool) {
        let event = TypingEvent { chat_id: chat.as_str(), user_id: user.as_str(), typing };
        self.ephemeral.send(Channel::audience(chat), Some(user), LiveEvent::Typing, &event);
    }

    async fn mark(&self, chat: &ChatId, user: &UserId, typing: bool) {
        let key = self.keys.typing(chat, user);
        let marked = match typing {
            true => self.cache.set(&key, b"1", self.life).await,
            false => self.cache.delete(&key).await.map(drop),
        };
        if let Err(error) = marked {
            tracing::debug!(chat_id = %chat, %error, "the marker of a typing user was not written");
        }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who types in which chats, by socket.
struct Writers {
    life: Duration,
    sockets: HashMap<Sid, (UserId, Vec<Written>)>,
}

/// A chat in which a socket's user types, or did a moment ago.
struct Written {
    chat: ChatId,
    typing: bool,
    /// What was sent last, and when.
    shown: bool,
    sent: Instant,
    heard: Instant,
}

impl Written {
    /// Whether an event may be sent again.
    fn rested(&self, now: Instant) -> bool {
        now.duration_since(self.sent) >= TICK
    }

    /// Whether the present state is to be sent: it differs from what was sent last, and an event may be sent again.
    fn is_due(&mut self, now: Instant) -> bool {
        let is_due = self.typing != self.shown && self.rested(now);
        if is_due {
            (self.shown, self.sent) = (self.typing, now);
        }
        is_due
    }
}

impl Writers {
    fn new(life: Duration) -> Self {
        Self { life, sockets: HashMap::new() }
    }

    fn knows(&self, socket: Sid) -> bool {
        self.sockets.contains_key(&socket)
    }

    /// Whether an event is to be sent now: the first, or a repeat.
    fn types(&mut self, socket: Sid, user: &UserId, chat: &ChatId, now: Instant) -> bool {
        let (_, chats) = self.sockets.entry(socket).or_insert_with(|| (user.clone(), Vec::new()));
        if let Some(written) = chats.iter_mut().find(|written| written.chat == *chat) {
            (written.typing, written.heard) = (true, now);
            // Two fifths of a life: a client that repeats itself within half of one is never forgotten by the others.
            if written.shown && now.duration_since(written.sent) >= self.life * 2 / 5 {
                written.sent = now;
                return true;
            }
            return written.is_due(now);
        }
        if chats.len() >= MAX_CHATS {
            let Some(oldest) = chats.iter().position(|written| written.rested(now)) else { return false };
            chats.remove(oldest);
        }
        chats.push(Written { chat: chat.clone(), typing: true, shown: true, sent: now, heard: now });
        true
    }

    /// Whether an event is to be sent now.
    fn ceases(&mut self, socket: Sid, chat: &ChatId, now: Instant) -> bool {
        let chats = self.sockets.get_mut(&socket).map(|(_, chats)| chats);
        let Some(written) = chats.and_then(|chats| chats.iter_mut().find(|written| written.chat == *chat)) else {
            return false;
        };
        written.typing = false;
        written.is_due(now)
    }

    /// A socket has gone: where others believe its user to type.
    fn left(&mut self, socket: Sid) -> Option<(UserId, Vec<ChatId>)> {
        let (user, chats) = self.sockets.remove(&socket)?;
        Some((user, chats.into_iter().filter(|written| written.shown).map(|written| written.chat).collect()))
    }

    /// The events that are due: the end of users who were silent for a life, and what had to wait.
    fn due(&mut self, now: Instant) -> Vec<(UserId, ChatId, bool)> {
        let (life, mut due) = (self.life, Vec::new());
        self.sockets.retain(|_, (user, chats)| {
            chats.retain_mut(|written| {
                written.typing &= now.duration_since(written.heard) < life;
                if written.is_due(now) {
                    due.push((user.clone(), written.chat.clone(), written.typing));
                }
                // Remembered for as long as no event may be sent.
                written.typing || written.shown || !written.rested(now)
            });
            !chats.is_empty()
        });
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(5);

    fn chat(other: &str) -> ChatId {
        ChatId::parse(&format!("alice:{other}")).unwrap()
    }

    #[test]
    fn a_word_is_told_at_once_and_its_repeats_now_and_then() {
        let (mut writers, now) = (Writers::new(LIFE), Instant::now());
        let (socket, alice, bob) = (Sid::new(), UserId::parse("alice").unwrap(), chat("bob"));
        let sent: Vec<_> = (0..50)
            .filter(|tenth| writers.types(socket, &alice, &bob, now + Duration::from_millis(tenth * 100)))
            .collect();
        assert_eq!(sent, [0, 20, 40]);
        assert!(writers.types(Sid::new(), &alice, &bob, now), "another device is counted for itself");
        assert!(writers.types(socket, &alice, &chat("carol"), now));

        let later = now + LIFE;
        assert!(writers.ceases(socket, &bob, later));
        assert!(!writers.ceases(socket, &bob, later), "that is sent once");
        assert_eq!(writers.left(socket), Some((alice, vec![chat("carol")])));
        assert_eq!(writers.left(socket), None);
    }

    #[test]
    fn silence_ends_it_a_life_after_the_last_word_and_nothing_is_kept() {
        let (mut writers, now) = (Writers::new(LIFE), Instant::now());
        let (socket, alice) = (Sid::new(), UserId::parse("alice").unwrap());
        writers.types(socket, &alice, &chat("bob"), now);
        writers.types(socket, &alice, &chat("bob"), now + Duration::from_secs(1));
        writers.types(socket, &alice, &chat("carol"), now);
        assert_eq!(writers.due(now + LIFE), [(alice.clone(), chat("carol"), false)]);
        assert_eq!(writers.due(now + LIFE + Duration::from_secs(1)), [(alice, chat("bob"), false)]);
        assert!(writers.knows(socket));
        assert_eq!(writers.due(now + LIFE + Duration::from_secs(1) + TICK), []);
        assert!(!writers.knows(socket));
    }

    #[test]
    fn whatever_a_socket_says_each_chat_is_told_once_in_a_while_and_in_the_end_what_is_so() {
        let (mut writers, now) = (Writers::new(LIFE), Instant::now());
        let (socket, alice) = (Sid::new(), UserId::parse("alice").unwrap());
        let mut chats = HashMap::<_, Vec<Instant>>::new();
        for milli in 0..10_000 {
            let at = now + Duration::from_millis(milli);
            // More chats than are remembered, each begun and left again.
            let chat = chat(&format!("b{}", milli / 2 % (MAX_CHATS as u64 + 3)));
            let is_due = match milli % 2 {
                0 => writers.types(socket, &alice, &chat, at),
                _ => writers.ceases(socket, &chat, at),
            };
            if is_due {
                chats.entry(chat).or_default().push(at);
            }
            if milli % 500 == 0 {
                for (_, chat, _) in writers.due(at) {
                    chats.entry(chat).or_default().push(at);
                }
            }
        }
        for times in chats.values() {
            assert!(times.windows(2).all(|two| two[1] - two[0] >= TICK), "{times:?}");
        }
        let sent: usize = chats.values().map(Vec::len).sum();
        assert!(sent <= MAX_CHATS * 21, "sent {sent} times");

        let (bob, at) = (chat("bob"), now + Duration::from_secs(20));
        writers.due(at);
        writers.due(at + TICK);
        assert!(writers.types(socket, &alice, &bob, at + TICK));
        assert!(!writers.ceases(socket, &bob, at + TICK), "not yet");
        assert_eq!(writers.due(at + TICK * 2), [(alice.clone(), bob.clone(), false)]);
        assert!(!writers.types(socket, &alice, &bob, at + TICK * 2), "not yet");
        assert_eq!(writers.due(at + TICK * 3), [(alice.clone(), bob.clone(), true)]);
        assert!(!writers.ceases(socket, &bob, at + TICK * 3));
        assert!(!writers.types(socket, &alice, &bob, at + TICK * 3));
        assert_eq!(writers.due(at + TICK * 4), [], "it is as it was sent");
    }

    #[test]
    fn a_socket_types_in_so_many_chats_at_most() {
        let (mut writers, now) = (Writers::new(LIFE), Instant::now());
        let (socket, alice) = (Sid::new(), UserId::parse("alice").unwrap());
        for number in 0..100 {
            let at = now + TICK * number;
            assert!(writers.types(socket, &alice, &chat(&format!("b{number:02}")), at));
        }
        let at = now + TICK * 99;
        let others: Vec<_> = (0..100).filter(|n| writers.types(socket, &alice, &chat(&format!("c{n}")), at)).collect();
        assert_eq!(others.len(), MAX_CHATS - 1, "a chat with an event a moment ago is not displaced");
        let (_, chats) = writers.left(socket).unwrap();
        assert_eq!(chats.len(), MAX_CHATS);
        assert_eq!(chats.first(), Some(&chat("b99")));
    }
}
