//! Inboxes: for each user the unread counts and the list of conversations, cached.
//!
//! A gateway that finds them missing derives both from the store and the recent lists. They live for a fixed time, and new messages update
//! them while they live. They may be dropped at any time ([`Inboxes::forget`]).
//!
//! Counting while messages arrive must neither lose a message nor count it twice. A count therefore first marks its beginning in the cache;
//! from then on arrivals leave their positions there. Each chat is counted together with the position of its live stream, and the committed
//! number is the count plus the arrivals after that position. Later arrivals are compared with the position, too.
//!
//! The scripts begin with `scripts/inbox_state.lua`, which describes the keys.
//!
//! See `docs/decisions/unread-counts.md` and `docs/decisions/conversation-lists.md`.

use std::collections::HashMap;
use std::sync::LazyLock;
use std::time::Duration;

use holdfast_keys::Keys;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::{Call, Connection, RedisError, Script, parse, script};

use crate::event::Position;

static ARRIVED: LazyLock<Script> = script!("#!lua", "inbox_state.lua", "inbox_arrived.lua");
static BEGIN: LazyLock<Script> = script!("#!lua", "inbox_state.lua", "inbox_begin.lua");
static COMMIT: LazyLock<Script> = script!("#!lua", "inbox_state.lua", "inbox_commit.lua");
static COUNTED: LazyLock<Script> = script!("#!lua", "inbox_state.lua", "inbox_counted.lua");
static PAGE: LazyLock<Script> = script!("#!lua flags=no-writes", "inbox_state.lua", "inbox_page.lua");

/// The epoch of a chat that has no list.
const NO_LIST: &str = "-";
/// How long a count may take before its marker expires.
const COUNTING: Duration = Duration::from_secs(10);

/// The time to live of each part, from its creation.
#[derive(Debug, Clone, Copy)]
pub struct InboxLife {
    /// The time to live of unread counts.
    pub unread: Duration,
    /// The time to live of lists of conversations.
    pub list: Duration,
}

impl Default for InboxLife {
    fn default() -> Self {
        Self { unread: Duration::from_secs(60), list: Duration::from_secs(120) }
    }
}

/// The number of unread messages of a chat, as of a position of its live stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Count {
    /// The number of unread messages.
    pub unread: usize,
    /// Every message up to this position was considered; `None`: the chat had no list.
    pub at: Option<Position>,
}

/// A chat as it was counted.
#[derive(Debug, Clone)]
pub struct CountedChat {
    /// The chat.
    pub chat: ChatId,
    /// Its unread messages.
    pub count: Count,
    /// When its last message was sent, in Unix epoch milliseconds.
    pub last_timestamp: i64,
    /// Whether an arrival that the count includes may still be reported: then the position is stored although nothing is unread.
    pub live: bool,
}

/// A message that was added to a recent list, from the point of view of one user who sees it.
#[derive(Debug, Clone)]
pub struct Arrival {
    /// The chat.
    pub chat: ChatId,
    /// When the message was sent, in Unix epoch milliseconds.
    pub timestamp: i64,
    /// Its position, if it is unread for the user; `None` for its sender.
    pub unread: Option<Position>,
}

/// A count that has begun.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counting(String);

/// The result of [`Inboxes::commit`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Committed {
    /// The count is cached.
    Done,
    /// The count was dropped or replaced meanwhile; nothing is cached.
    Overtaken,
    /// Messages have arrived in chats that were not counted, or had no list. Commit again, with the current counts of these chats.
    Unknown(Vec<ChatId>),
}

/// The cached unread counts of a user: every chat with unread messages, and some others.
#[derive(Debug, Clone, Default)]
pub struct UnreadCounts {
    counts: HashMap<ChatId, (usize, String)>,
}

impl UnreadCounts {
    /// The number of unread messages of one chat.
    pub fn of(&self, chat: &ChatId) -> usize {
        self.counts.get(chat).map_or(0, |(count, _)| *count)
    }

    /// The chats with unread messages.
    pub fn iter(&self) -> impl Iterator<Item = (&ChatId, usize)> {
        self.counts.iter().map(|(chat, (count, _))| (chat, *count)).filter(|(_, count)| *count > 0)
    }
}

/// A page of a cached list of conversations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListPage {
    /// The chats, each with the time of its last message in Unix epoch milliseconds, newest first.
    pub chats: Vec<(ChatId, i64)>,
    /// Whether the store has older chats than the whole list.
    pub older_stored: bool,
}

/// The inboxes of all users. Cheap to clone.
#[derive(Clone)]
pub struct Inboxes {
    connection: Connection,
    keys: Keys,
    life: InboxLife,
}

impl Inboxes {
    /// Inboxes on the cache server.
    pub fn new(connection: Connection, keys: Keys, life: InboxLife) -> Self {
        Self { connection, keys, life }
    }

    /// Adds messages to the cached inboxes of these users, as one pipeline; the results are in the order of `arrivals`. Each message must be
    /// reported once.
    pub async fn arrived(&self, arrivals: &[(UserId, Vec<Arrival>)], budget: Duration) -> Vec<Result<(), RedisError>> {
        let call = |(user, arrivals): &(UserId, Vec<Arrival>)| {
            arrivals.iter().fold(self.call(&ARRIVED, user), |call, arrival| {
                let call = call.arg(arrival.chat.as_str()).arg(arrival.timestamp);
                match &arrival.unread {
                    Some(position) => call.arg(&*position.epoch).arg(position.seq),
                    None => call.arg("").arg(""),
                }
            })
        };
        self.done("inbox_arrived", arrivals.iter().map(call).collect(), budget).await
    }

    /// Deletes the inboxes of these users, as one pipeline; the results are in the order of `users`.
    pub async fn forget(&self, users: &[UserId], budget: Duration) -> Vec<Result<(), RedisError>> {
        let call = |user: &UserId| Call::new("DEL").key(&self.keys.unread(user)).key(&self.keys.conversations(user));
        self.done("inbox_forget", users.iter().map(call).collect(), budget).await
    }

    /// Begins a count, or joins one in progress. `None`: a count is cached already.
    pub async fn begin(&self, user: &UserId, budget: Duration) -> Result<Option<Counting>, RedisError> {
        let call = self.call(&BEGIN, user).arg(format!("{:016x}", fastrand::u64(..))).arg(COUNTING.as_millis() as u64);
        let token: Option<String> = parse(self.connection.run_one("inbox_begin", call, budget).await?)?;
        Ok(token.map(Counting))
    }

    /// Caches what was counted since [`Inboxes::begin`]. `older_stored`: the store has older chats than these.
    pub async fn commit(
        &self,
        user: &UserId,
        counting: &Counting,
        chats: &[CountedChat],
        older_stored: bool,
        budget: Duration,
    ) -> Result<Committed, RedisError> {
        let (unread, list) = (millis(self.life.unread), millis(self.life.list));
        let mut call = self.call(&COMMIT, user).arg(&counting.0).arg(unread).arg(list);
        call = call.arg(if older_stored { -2 } else { -1 }).arg(chats.len());
        for CountedChat { chat, count, live, .. } in chats {
            call = call.arg(chat.as_str()).arg(count.unread);
            call = match &count.at {
                Some(position) => call.arg(&*position.epoch).arg(position.seq),
                None => call.arg(NO_LIST).arg(0),
            };
            call = call.arg(i32::from(*live));
        }
        for chat in chats {
            call = call.arg(chat.chat.as_str()).arg(chat.last_timestamp);
        }
        let answer: Vec<String> = parse(self.connection.run_one("inbox_commit", call, budget).await?)?;
        Ok(match answer.split_first() {
            Some((verdict, _)) if verdict == "done" => Committed::Done,
            Some((verdict, chats)) if verdict == "unknown" => {
                Committed::Unknown(chats.iter().filter_map(|text| ChatId::parse(text).ok()).collect())
            }
            _ => Committed::Overtaken,
        })
    }

    /// The unread counts of a user, if they are cached.
    pub async fn unread(&self, user: &UserId, budget: Duration) -> Result<Option<UnreadCounts>, RedisError> {
        let mut results = self.unread_batch(std::slice::from_ref(user), budget).await?;
        results.pop().unwrap_or_else(|| Err(RedisError::unexpected("no answer")))
    }

    /// The unread counts of several users, as one pipeline; the results are in the order of `users`.
    pub async fn unread_batch(
        &self,
        users: &[UserId],
        budget: Duration,
    ) -> Result<Vec<Result<Option<UnreadCounts>, RedisError>>, RedisError> {
        let calls = users.iter().map(|user| Call::new("HGETALL").key(&self.keys.unread(user))).collect();
        let answers = self.connection.run("inbox_unread", calls, budget).await?;
        Ok(answers.into_iter().map(|answer| Ok(unread_counts(parse(answer?)?))).collect())
    }

    /// Corrects the count of one chat, which was read as part of `before`. `false`: a message has arrived meanwhile, or nothing is cached.
    pub async fn counted(
        &self,
        user: &UserId,
        chat: &ChatId,
        before: &UnreadCounts,
        count: &Count,
        budget: Duration,
    ) -> Result<bool, RedisError> {
        let before = before.counts.get(chat).map_or("", |(_, value)| value);
        let now = match &count.at {
            Some(position) => format!("{} {} {}", count.unread, position.epoch, position.seq),
            None => format!("{} {NO_LIST} 0", count.unread),
        };
        let call = self.call(&COUNTED, user).arg(chat.as_str()).arg(before).arg(now);
        Ok(parse::<u8>(self.connection.run_one("inbox_counted", call, budget).await?)? == 1)
    }

    /// The newest `limit` chats of the user's list before a position (timestamp and chat), if the list is cached.
    pub async fn page(
        &self,
        user: &UserId,
        before: Option<(i64, &ChatId)>,
        limit: usize,
        budget: Duration,
    ) -> Result<Option<ListPage>, RedisError> {
        let call = self.call(&PAGE, user).arg(limit);
        let call = match before {
            Some((timestamp, chat)) => call.arg(timestamp).arg(chat.as_str()),
            None => call.arg("").arg(""),
        };
        let answer: Option<Vec<String>> = parse(self.connection.run_one("inbox_page", call, budget).await?)?;
        let Some(answer) = answer else { return Ok(None) };
        let Some((ready, chats)) = answer.split_first() else { return Ok(None) };
        let chat = |pair: &[String]| Some((ChatId::parse(&pair[0]).ok()?, pair[1].parse().ok()?));
        let chats = chats.chunks_exact(2).filter_map(chat).collect();
        Ok(Some(ListPage { chats, older_stored: ready == "-2" }))
    }

    /// Makes calls whose answers do not matter.
    async fn done(&self, op: &'static str, calls: Vec<Call>, budget: Duration) -> Vec<Result<(), RedisError>> {
        let count = calls.len();
        match self.connection.run(op, calls, budget).await {
            Ok(answers) => answers.into_iter().map(|answer| answer.map(drop)).collect(),
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    fn call(&self, script: &'static Script, user: &UserId) -> Call {
        script.call(&[&self.keys.unread(user), &self.keys.conversations(user)])
    }
}

fn millis(life: Duration) -> u64 {
    u64::try_from(life.as_millis()).unwrap_or(u64::MAX).max(1)
}

/// Parses the hash of unread counts; `None`: it is absent, or a count is in progress.
fn unread_counts(mut fields: HashMap<String, String>) -> Option<UnreadCounts> {
    if fields.remove("state")? != "ready" {
        return None;
    }
    let count = |(chat, value): (String, String)| {
        let count = value.split(' ').next()?.parse().ok()?;
        Some((ChatId::parse(&chat).ok()?, (count, value)))
    };
    Some(UnreadCounts { counts: fields.into_iter().filter_map(count).collect() })
}
