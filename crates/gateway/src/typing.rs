//! Who types: from a client's word to the other members' devices, on every gateway.
//!
//! A client says that its user types, and says so again every few seconds while it lasts. The first word is told at once, a repeat only
//! after a while; so is the end of it, which comes by the client's own word, by its message, by its disconnect, or by silence. A gateway
//! that dies says nothing: clients forget who was said to type after [`Typing`]'s life, too, unless it is said again.
//!
//! What sockets' users type in is kept here, [`MAX_CHATS`] chats for each at most: one more displaces the oldest, in silence. The
//! cache holds a mark for others to look at; nothing waits for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_cache::keys::Channel;
use holdfast_cache::{Client, Keys};
use holdfast_message::draft::target;
use holdfast_message::{ChatId, UserId};
use serde::{Deserialize, Serialize};
use socketioxide::socket::Sid;
use tokio_util::sync::CancellationToken;
use utoipa::ToSchema;

use crate::admit::{Act, Admission};
use crate::error::Refusal;
use crate::live::{Live, LiveEvent};

/// Chats in which one socket's user types at once.
const MAX_CHATS: usize = 8;
/// How often silence is looked for.
const TICK: Duration = Duration::from_millis(500);

/// Whether the user types, to the members of one of `friendId` and `chatId`; both must agree.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct TypingRequest {
    /// The other user.
    #[schema(pattern = "^[A-Za-z0-9_.-]{1,64}$")]
    pub friend_id: Option<String>,
    /// Or the chat.
    pub chat_id: Option<String>,
    /// Whether they do. True again every few seconds while it lasts.
    pub typing: bool,
}

/// Whether somebody types.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = TypingTold)]
pub(crate) struct Told<'a> {
    /// Where.
    chat_id: &'a str,
    /// Who.
    user_id: &'a str,
    /// False: they stopped, or said nothing for a while.
    typing: bool,
}

/// Tells who types. Cheap to clone.
#[derive(Clone)]
pub struct Typing {
    live: Live,
    admission: Admission,
    cache: Client,
    keys: Keys,
    life: Duration,
    writers: Arc<Mutex<Writers>>,
}

impl Typing {
    /// A user counts as typing for `life` after their last word.
    pub fn new(live: Live, admission: Admission, (cache, keys): (Client, Keys), life: Duration) -> Self {
        Self { live, admission, cache, keys, life, writers: Arc::new(Mutex::new(Writers::new(life))) }
    }

    /// Takes a client's word, and tells the others if they are to be told.
    pub async fn hear(&self, socket: Sid, user: &UserId, request: &TypingRequest) -> Result<(), Refusal> {
        let chat = target(user, request.friend_id.as_deref(), request.chat_id.as_deref())?;
        self.admission.permit(user, &chat, Act::Type).await?;
        if self.note(socket, user, &chat, request.typing) {
            self.mark(&chat, user, request.typing).await;
        }
        Ok(())
    }

    /// A socket's user sends to a chat, and so types there no more. What is to be done about it later, if anything.
    pub fn sends(
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
    pub async fn left(&self, socket: Sid) {
        let Some((user, chats)) = self.writers().left(socket) else { return };
        for chat in &chats {
            self.tell(&user, chat, false);
        }
        for chat in &chats {
            self.mark(chat, &user, false).await;
        }
    }

    /// Tells of those who fell silent, until the token is cancelled.
    pub async fn run(self, stop: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        while stop.run_until_cancelled(tick.tick()).await.is_some() {
            let silent = self.writers().silent(Instant::now());
            // The marks expire by themselves.
            silent.iter().for_each(|(user, chat)| self.tell(user, chat, false));
        }
    }

    /// Takes note and tells the others, if it is news to them.
    fn note(&self, socket: Sid, user: &UserId, chat: &ChatId, typing: bool) -> bool {
        let news = match typing {
            true => self.writers().types(socket, user, chat, Instant::now()),
            false => self.writers().ceases(socket, chat),
        };
        if news {
            self.tell(user, chat, typing);
        }
        news
    }

    fn tell(&self, user: &UserId, chat: &ChatId, typing: bool) {
        let told = Told { chat_id: chat.as_str(), user_id: user.as_str(), typing };
        self.live.tell(Channel::audience(chat), Some(user), LiveEvent::Typing, &told);
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

/// A chat that somebody types in.
struct Written {
    chat: ChatId,
    told: Instant,
    heard: Instant,
}

impl Writers {
    fn new(life: Duration) -> Self {
        Self { life, sockets: HashMap::new() }
    }

    fn knows(&self, socket: Sid) -> bool {
        self.sockets.contains_key(&socket)
    }

    /// Whether the others are to be told: for the first time, or again.
    fn types(&mut self, socket: Sid, user: &UserId, chat: &ChatId, now: Instant) -> bool {
        let (_, chats) = self.sockets.entry(socket).or_insert_with(|| (user.clone(), Vec::new()));
        if let Some(written) = chats.iter_mut().find(|written| written.chat == *chat) {
            written.heard = now;
            // Two fifths of a life: a client that repeats itself within half of one is never forgotten by the others.
            let again = now.duration_since(written.told) >= self.life * 2 / 5;
            if again {
                written.told = now;
            }
            return again;
        }
        if chats.len() >= MAX_CHATS {
            chats.remove(0);
        }
        chats.push(Written { chat: chat.clone(), told: now, heard: now });
        true
    }

    /// Whether the others were told.
    fn ceases(&mut self, socket: Sid, chat: &ChatId) -> bool {
        let Some((_, chats)) = self.sockets.get_mut(&socket) else { return false };
        let before = chats.len();
        chats.retain(|written| written.chat != *chat);
        let ceased = chats.len() < before;
        if chats.is_empty() {
            self.sockets.remove(&socket);
        }
        ceased
    }

    fn left(&mut self, socket: Sid) -> Option<(UserId, Vec<ChatId>)> {
        let (user, chats) = self.sockets.remove(&socket)?;
        Some((user, chats.into_iter().map(|written| written.chat).collect()))
    }

    /// Those who have not said anything for a life.
    fn silent(&mut self, now: Instant) -> Vec<(UserId, ChatId)> {
        let (life, mut silent) = (self.life, Vec::new());
        self.sockets.retain(|_, (user, chats)| {
            let gone = chats.extract_if(.., |written| now.duration_since(written.heard) >= life);
            silent.extend(gone.map(|written| (user.clone(), written.chat)));
            !chats.is_empty()
        });
        silent
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

        assert!(writers.ceases(socket, &bob));
        assert!(!writers.ceases(socket, &bob), "that is told once");
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
        assert_eq!(writers.silent(now + LIFE), [(alice.clone(), chat("carol"))]);
        assert_eq!(writers.silent(now + LIFE + Duration::from_secs(1)), [(alice, chat("bob"))]);
        assert!(!writers.knows(socket));
    }

    #[test]
    fn a_socket_types_in_so_many_chats_at_most() {
        let (mut writers, now) = (Writers::new(LIFE), Instant::now());
        let (socket, alice) = (Sid::new(), UserId::parse("alice").unwrap());
        for number in 0..100 {
            assert!(writers.types(socket, &alice, &chat(&format!("b{number:02}")), now));
        }
        let (_, chats) = writers.left(socket).unwrap();
        assert_eq!(chats.len(), MAX_CHATS);
        assert_eq!(chats.last(), Some(&chat("b99")));
    }
}
