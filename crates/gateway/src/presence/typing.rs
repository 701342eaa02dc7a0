//! Who types: from a client's word to the other members' devices, on every gateway.
//!
//! A client says that its user types, and says so again every few seconds while it lasts. The first word is told at once, a repeat only
//! after a while; so is the end of it, which comes by the client's own word, by its message, by its disconnect, or by silence. A gateway
//! that dies says nothing: clients forget who was said to type after [`Typing`]'s life, too, unless it is said again.
//!
//! A chat may have a thousand members, so of one socket it is told something once in half a second at most: a word that comes
//! sooner waits, and what it says by then is told. What sockets' users type in is kept here, `MAX_CHATS` chats for each at most: one
//! more displaces the oldest, in silence, unless that one was told of in this half second, too; then nobody is told of the new one. The
//! cache holds a mark for others to look at; nothing waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_cache::keys::Channel;
use holdfast_cache::{Client, Keys};
use holdfast_message::draft::target;
use holdfast_message::{ChatId, UserId};
use socketioxide::socket::Sid;
use tokio_util::sync::CancellationToken;

use crate::access::authorize::{Act, Admission};
use crate::deliver::ephemeral::{Live, LiveEvent};
use crate::refusal::Refusal;
use crate::wire::events::TypingEvent;
use crate::wire::requests::TypingRequest;

/// Chats in which one socket's user types at once.
const MAX_CHATS: usize = 8;
/// How often a socket's chat is told something at most, and silence is looked for.
const TICK: Duration = Duration::from_millis(500);

/// Tells who types. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Typing {
    live: Live,
    admission: Admission,
    cache: Client,
    keys: Keys,
    life: Duration,
    writers: Arc<Mutex<Writers>>,
}

impl Typing {
    /// A user counts as typing for `life` after their last word.
    pub(crate) fn new(live: Live, admission: Admission, (cache, keys): (Client, Keys), life: Duration) -> Self {
        Self { live, admission, cache, keys, life, writers: Arc::new(Mutex::new(Writers::new(life))) }
    }

    /// Takes a client's word, and tells the others if they are to be told.
    pub(crate) async fn hear(&self, socket: Sid, user: &UserId, request: &TypingRequest) -> Result<(), Refusal> {
        let chat = target(user, request.friend_id.as_deref(), request.chat_id.as_deref())?;
        self.admission.permit(user, &chat, Act::Type).await?;
        if self.note(socket, user, &chat, request.typing) {
            self.mark(&chat, user, request.typing).await;
        }
        Ok(())
    }

    /// A socket's user sends to a chat, and so types there no more. What is to be done about it later, if anything.
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
            self.tell(&user, chat, false);
        }
        for chat in &chats {
            self.mark(chat, &user, false).await;
        }
    }

    /// Tells of those who fell silent, and what had to wait, until the token is cancelled.
    pub(crate) async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let due = self.writers().due(Instant::now());
            // The marks expire by themselves, and are set by the next word.
            due.iter().for_each(|(user, chat, typing)| self.tell(user, chat, *typing));
        }
    }

    /// Takes note and tells the others, if it is news to them.
    fn note(&self, socket: Sid, user: &UserId, chat: &ChatId, typing: bool) -> bool {
        let news = match typing {
            true => self.writers().types(socket, user, chat, Instant::now()),
            false => self.writers().ceases(socket, chat, Instant::now()),
        };
        if news {
            self.tell(user, chat, typing);
        }
        news
    }

    fn tell(&self, user: &UserId, chat: &ChatId, typing: bool) {
        let event = TypingEvent { chat_id: chat.as_str(), user_id: user.as_str(), typing };
        self.live.tell(Channel::audience(chat), Some(user), LiveEvent::Typing, &event);
    }

    async fn mark(&self, chat: &ChatId, user: &UserId, typing: bool) {
        let key = self.keys.typing(chat, user);
        let marked = match typing {
            true => self.cache.set(&key, b"1", self.life).await,
            false => self.cache.delete(&key).await.map(drop),
        };
        if let Err(error) = marked {
            tracing::debug!(chat_id = %chat, %error, "that a user types is not marked");
        }
    }

    fn writers(&self) -> MutexGuard<'_, Writers> {
        self.writers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Who types where, by socket.
struct Writers {
    life: Duration,
    sockets: HashMap<Sid, (UserId, Vec<Written>)>,
}

/// A chat that somebody types in, or did a moment ago.
struct Written {
    chat: ChatId,
    typing: bool,
    /// What the others were told last, and when.
    shown: bool,
    told: Instant,
    heard: Instant,
}

impl Written {
    /// Whether the others may be told something again.
    fn rested(&self, now: Instant) -> bool {
        now.duration_since(self.told) >= TICK
    }

    /// Whether the others are to be told what is so now: it is news to them, and they may be told.
    fn tells(&mut self, now: Instant) -> bool {
        let tells = self.typing != self.shown && self.rested(now);
        if tells {
            (self.shown, self.told) = (self.typing, now);
        }
        tells
    }
}

impl Writers {
    fn new(life: Duration) -> Self {
        Self { life, sockets: HashMap::new() }
    }

    fn knows(&self, socket: Sid) -> bool {
        self.sockets.contains_key(&socket)
    }

    /// Whether the others are to be told now: for the first time, or again.
    fn types(&mut self, socket: Sid, user: &UserId, chat: &ChatId, now: Instant) -> bool {
        let (_, chats) = self.sockets.entry(socket).or_insert_with(|| (user.clone(), Vec::new()));
        if let Some(written) = chats.iter_mut().find(|written| written.chat == *chat) {
            (written.typing, written.heard) = (true, now);
            // Two fifths of a life: a client that repeats itself within half of one is never forgotten by the others.
            if written.shown && now.duration_since(written.told) >= self.life * 2 / 5 {
                written.told = now;
                return true;
            }
            return written.tells(now);
        }
        if chats.len() >= MAX_CHATS {
            let Some(oldest) = chats.iter().position(|written| written.rested(now)) else { return false };
            chats.remove(oldest);
        }
        chats.push(Written { chat: chat.clone(), typing: true, shown: true, told: now, heard: now });
        true
    }

    /// Whether the others are to be told now.
    fn ceases(&mut self, socket: Sid, chat: &ChatId, now: Instant) -> bool {
        let chats = self.sockets.get_mut(&socket).map(|(_, chats)| chats);
        let Some(written) = chats.and_then(|chats| chats.iter_mut().find(|written| written.chat == *chat)) else {
            return false;
        };
        written.typing = false;
        written.tells(now)
    }

    /// A socket has gone: where others believe its user to type.
    fn left(&mut self, socket: Sid) -> Option<(UserId, Vec<ChatId>)> {
        let (user, chats) = self.sockets.remove(&socket)?;
        Some((user, chats.into_iter().filter(|written| written.shown).map(|written| written.chat).collect()))
    }

    /// What the others are to be told by now: of those who have not said anything for a life, and what had to wait.
    fn due(&mut self, now: Instant) -> Vec<(UserId, ChatId, bool)> {
        let (life, mut due) = (self.life, Vec::new());
        self.sockets.retain(|_, (user, chats)| {
            chats.retain_mut(|written| {
                written.typing &= now.duration_since(written.heard) < life;
                if written.tells(now) {
                    due.push((user.clone(), written.chat.clone(), written.typing));
                }
                // Remembered for as long as nothing may be told.
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
        let told: Vec<_> = (0..50)
            .filter(|tenth| writers.types(socket, &alice, &bob, now + Duration::from_millis(tenth * 100)))
            .collect();
        assert_eq!(told, [0, 20, 40]);
        assert!(writers.types(Sid::new(), &alice, &bob, now), "another device is another word");
        assert!(writers.types(socket, &alice, &chat("carol"), now));

        let later = now + LIFE;
        assert!(writers.ceases(socket, &bob, later));
        assert!(!writers.ceases(socket, &bob, later), "that is told once");
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
            // More chats than are kept, each begun and left again.
            let chat = chat(&format!("b{}", milli / 2 % (MAX_CHATS as u64 + 3)));
            let tells = match milli % 2 {
                0 => writers.types(socket, &alice, &chat, at),
                _ => writers.ceases(socket, &chat, at),
            };
            if tells {
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
        let told: usize = chats.values().map(Vec::len).sum();
        assert!(told <= MAX_CHATS * 21, "told {told} times");

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
        assert_eq!(writers.due(at + TICK * 4), [], "it is as it was told");
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
        assert_eq!(others.len(), MAX_CHATS - 1, "who was told of something a moment ago is not displaced");
        let (_, chats) = writers.left(socket).unwrap();
        assert_eq!(chats.len(), MAX_CHATS);
        assert_eq!(chats.first(), Some(&chat("b99")));
    }
}
