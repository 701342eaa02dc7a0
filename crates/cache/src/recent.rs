//! The recent list: the last messages of each chat, their positions in the live stream, and how far down they are all there.
//!
//! Takes a stamped message from the gateway (or from the worker, which heals) and gives it a position, tells the other gateways,
//! and remembers it, all in one script. The scripts begin with `scripts/recent_state.lua`, which states the invariants.
//!
//! What makes a page trustworthy is `floor`: the list holds everything strictly above it. [`RecentList::repair`] lowers it after
//! the store was read, and notes the time *at which that reading began*, so that a gateway that hung in between can't vouch for what
//! it never saw. Trimming raises it. Whatever may have lost something begins a new epoch, in which nothing is verified.
//!
//! The scripts need `INFO`, `TIME` and `PUBLISH`; an ACL has to allow them.

mod incarnation;
mod page;
mod standing;

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_message::{ChatId, HistoryKey, Message, MessageId};
use holdfast_redis::{Call, Connection, RedisError, Script, Value, parse, script};

use crate::entry::{self, Listed, ListedEntry};
use crate::event::{self, Origin, Position};

pub use page::{Alone, Floor, RecentPage};
pub use standing::{ListedUnread, Standing};

static ADD: LazyLock<Script> = script!("#!lua", "recent_state.lua", "recent_change.lua", "recent_add.lua");
static REPAIR: LazyLock<Script> = script!("#!lua", "recent_state.lua", "recent_change.lua", "recent_repair.lua");
// These make nothing larger, and must work on a full server too.
static TOMBSTONE: LazyLock<Script> =
    script!("#!lua flags=allow-oom", "recent_state.lua", "recent_change.lua", "recent_tombstone.lua");
static READ: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_read.lua");
static RESUME: LazyLock<Script> =
    script!("#!lua flags=allow-oom", "recent_absent.lua", "recent_state.lua", "recent_resume.lua");

/// Attempts per list that are known to have been taken back before they had added anything. One that can still arrive was made
/// within the seconds in which a connection that hangs is not given up yet.
const MAX_VOID: usize = 128;
/// The longest epoch that a client may send; ours have 16 characters.
const MAX_EPOCH: usize = 64;

/// Sizes and life of recent lists.
#[derive(Debug, Clone, Copy)]
pub struct RecentSettings {
    /// How many messages a list holds.
    pub max: usize,
    /// How many ids a list knows, so that a repeat is known as one; never fewer than `max`.
    pub window: usize,
    /// How long a list lives after the last message.
    pub ttl: Duration,
}

impl Default for RecentSettings {
    fn default() -> Self {
        Self { max: 100, window: 1000, ttl: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// One attempt to send a message, so that its own retry is not taken for a repeat by the client. Random.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl Attempt {
    /// No sender's: the message is known to be durable. What is added so, or found listed already, no attempt takes back any more.
    pub const DURABLE: Self = Self(0);

    /// A new attempt.
    pub fn random() -> Self {
        Self(fastrand::u32(1..))
    }
}

/// What [`RecentList::add`] did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Added {
    /// It was absent; it has this position now, and the chat's channels were told.
    New(Position),
    /// An earlier call of this very attempt had added it, and told.
    Own(Position),
    /// Another attempt had added it.
    Repeat {
        /// The timestamp that the first copy had.
        timestamp: i64,
        /// The chat's epoch.
        epoch: Arc<str>,
        /// The first copy's position, if it is still listed with one.
        seq: Option<u64>,
    },
}

/// What the store said, to be added to a list.
#[derive(Debug, Clone)]
pub struct Repair<'a> {
    /// The chat.
    pub chat: &'a ChatId,
    /// The epoch of the page that was read *before* the store.
    pub epoch: &'a str,
    /// That page's [`RecentPage::read_at`].
    pub read_at: i64,
    /// What the store has, in any order: everything from [`Repair::covered`] upwards.
    pub messages: &'a [Message],
    /// The oldest key down to which the store was read; `None`: the store has nothing older, and this is the whole chat.
    pub covered: Option<HistoryKey>,
}

/// What [`RecentList::repair`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The stream has begun a new epoch since; nothing was done.
    Overtaken,
    /// The list holds what the store has, as far as there is room.
    Done {
        /// Messages above the floor that were missing: appended to the stream and announced.
        late: usize,
        /// Messages below it: put in front, unannounced.
        inserted: usize,
        /// Messages that were listed as of another time than they are stored as of: a repeat was stamped anew, and another copy
        /// was stored first. They keep their seq and take their stored time, unannounced.
        corrected: usize,
    },
}

/// What a client missed.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// The position of the newest message of the stream.
    pub position: Position,
    /// Everything after the client's offset, in seq order, without what is a tombstone by now; `None`: not known any more.
    pub missed: Option<Vec<(u64, Message)>>,
}

/// What became of taking a message back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TakenBack {
    /// It is a tombstone, and the chat's channels know.
    Done,
    /// It stays: it is known to be durable.
    Kept {
        /// Its place in the live stream, if it has one.
        position: Option<Position>,
        /// As of when it is listed.
        timestamp: i64,
    },
    /// The list has no entry of it, for it was trimmed or never added; or has one by another attempt, which may yet be taken back.
    Absent,
}

/// The recent lists of all chats. Cheap to clone.
#[derive(Clone)]
pub struct RecentList {
    connection: Connection,
    keys: Keys,
    settings: RecentSettings,
    origin: Origin,
}

impl RecentList {
    /// Recent lists on the cache server, with publications marked as this process's.
    pub fn new(connection: Connection, keys: Keys, mut settings: RecentSettings, origin: Origin) -> Self {
        settings.max = settings.max.max(1);
        settings.window = settings.window.max(settings.max);
        Self { connection, keys, settings, origin }
    }

    /// Adds messages that are absent, as one pipeline under one deadline; the results are in the order of `adds`.
    pub async fn add_batch(&self, adds: &[(&Message, Attempt)], budget: Duration) -> Vec<Result<Added, RedisError>> {
        let calls = adds.iter().map(|(message, attempt)| self.add_call(message, *attempt)).collect();
        self.batch("recent_add", calls, budget, |_, value| added(value)).await
    }

    /// Adds a message if it is absent: gives it the next seq, trims, and tells the chat's channels. With [`Attempt::DURABLE`] it also
    /// keeps one that is present from being taken back.
    pub async fn add(&self, message: &Message, attempt: Attempt, budget: Duration) -> Result<Added, RedisError> {
        added(self.connection.run_one("recent_add", self.add_call(message, attempt), budget).await?)
    }

    /// Turns the entry that `attempt` made into a tombstone, and tells the chat's channels that the message failed; unless another
    /// attempt made the entry or it is durable, or there is none. A message whose entry was trimmed is forgotten, so that it may be
    /// listed anew, and should this attempt's addition arrive yet, it adds nothing.
    pub async fn tombstone(
        &self,
        message: &Message,
        attempt: Attempt,
        budget: Duration,
    ) -> Result<TakenBack, RedisError> {
        tombstoned(self.connection.run_one("recent_tombstone", self.tombstone_call(message, attempt), budget).await?)
    }

    /// As [`RecentList::tombstone`], for several, as one pipeline under one deadline; the results are in their order.
    pub async fn tombstone_batch(
        &self,
        attempts: &[(&Message, Attempt)],
        budget: Duration,
    ) -> Vec<Result<TakenBack, RedisError>> {
        let calls = attempts.iter().map(|(message, attempt)| self.tombstone_call(message, *attempt)).collect();
        self.batch("recent_tombstone", calls, budget, |_, value| tombstoned(value)).await
    }

    /// Reads a list.
    pub async fn read(&self, chat: &ChatId, budget: Duration) -> Result<RecentPage, RedisError> {
        let value = self.connection.run_one("recent_read", self.call(&READ, chat), budget).await?;
        self.page(chat, value)
    }

    /// Reads lists, as one pipeline under one deadline.
    pub async fn read_batch(&self, chats: &[&ChatId], budget: Duration) -> Vec<Result<RecentPage, RedisError>> {
        let calls = chats.iter().map(|chat| self.call(&READ, chat)).collect();
        self.batch("recent_read", calls, budget, |index, value| self.page(chats[index], value)).await
    }

    /// Adds what the store has and the list lacks, corrects times that the store has otherwise, and notes how far down and as of when
    /// the list is complete.
    ///
    /// A message above the floor is a late arrival: next seq, announced; while there is no floor, one above the list's oldest entry. Any
    /// other goes in front without seq. A full list lets its oldest entry go for one that is newer; what is older finds no room. Then
    /// the floor becomes the greatest of what was covered, what was ever trimmed in this epoch, and what found no room, unless a
    /// later reading of the store has already spoken. So after a repair that nothing interfered with the list answers alone, down to
    /// its oldest entry.
    ///
    /// To verify a list, read the store for one message more than the list can hold: then the floor stays as low as it can be.
    pub async fn repair(&self, repair: &Repair<'_>, budget: Duration) -> Result<Repaired, RedisError> {
        let mut call = self.call(&REPAIR, repair.chat).arg(self.settings.max).arg(self.settings.window);
        call = call.arg(repair.epoch).arg(repair.read_at);
        call = match &repair.covered {
            Some(key) => call.arg(key.timestamp).arg(key.id.as_bytes()),
            None => call.arg(0).arg(""),
        };
        let channels = Channel::audience(repair.chat);
        call = call.arg(event::message_prefix(self.origin, repair.chat)).arg(channels.len());
        for channel in &channels {
            call = call.arg(self.keys.channel(channel));
        }
        let mut messages: Vec<&Message> = repair.messages.iter().collect();
        messages.sort_unstable_by_key(|message| message.key());
        for message in messages {
            let rest = entry::rest(message, Attempt::DURABLE.0);
            call = call.arg(message.id.to_string()).arg(message.id.as_bytes()).arg(message.timestamp).arg(rest);
        }
        match parse::<Option<(usize, usize, usize)>>(self.connection.run_one("recent_repair", call, budget).await?)? {
            None => Ok(Repaired::Overtaken),
            Some((late, inserted, corrected)) => Ok(Repaired::Done { late, inserted, corrected }),
        }
    }

    /// What came after each offset, as one pipeline under one deadline; the results are in the order of `offsets`. `None`: there is
    /// no such list, and none is made: who asks after any number of chats fills no memory.
    pub async fn resume_batch(
        &self,
        offsets: &[(ChatId, Position)],
        budget: Duration,
    ) -> Vec<Result<Option<Resumed>, RedisError>> {
        let call = |(chat, offset): &(ChatId, Position)| {
            let epoch = if offset.epoch.len() <= MAX_EPOCH { &*offset.epoch } else { "" };
            self.call(&RESUME, chat).arg(epoch).arg(offset.seq)
        };
        let calls = offsets.iter().map(call).collect();
        self.batch("recent_resume", calls, budget, |index, value| {
            let (chat, offset) = &offsets[index];
            self.resumed(chat, offset.seq, value)
        })
        .await
    }

    /// Ids that the list knows, without adding anything: whether a send is a repeat, and of when.
    pub async fn original_timestamp(
        &self,
        chat: &ChatId,
        id: MessageId,
        budget: Duration,
    ) -> Result<Option<i64>, RedisError> {
        let call = Call::new("ZSCORE").key(&self.keys.recent_ids(chat)).arg(id.to_string());
        let score: Option<f64> = parse(self.connection.run_one("recent_lookup", call, budget).await?)?;
        // Timestamps are whole and far below 2^53.
        Ok(score.map(|score| score as i64))
    }

    fn call(&self, script: &'static Script, chat: &ChatId) -> Call {
        let keys = [self.keys.recent(chat), self.keys.recent_ids(chat), self.keys.recent_head(chat)];
        let epoch = format!("{:016x}", fastrand::u64(..));
        script.call(&[&keys[0], &keys[1], &keys[2]]).arg(epoch).arg(self.settings.ttl.as_secs().max(1))
    }

    fn add_call(&self, message: &Message, attempt: Attempt) -> Call {
        let mut call = self.call(&ADD, &message.chat).arg(self.settings.max).arg(self.settings.window);
        call = call.arg(message.id.to_string()).arg(message.id.as_bytes()).arg(attempt.0).arg(message.timestamp);
        call = call.arg(entry::rest(message, attempt.0)).arg(event::message_prefix(self.origin, &message.chat));
        for channel in Channel::audience(&message.chat) {
            call = call.arg(self.keys.channel(&channel));
        }
        call
    }

    fn tombstone_call(&self, message: &Message, attempt: Attempt) -> Call {
        let mut call = self.call(&TOMBSTONE, &message.chat);
        call = call.arg(message.id.to_string()).arg(message.id.as_bytes()).arg(attempt.0).arg(MAX_VOID);
        call = call.arg(entry::tombstone_rest(&message.key(), attempt.0)).arg(event::failed(self.origin, message));
        for channel in Channel::audience(&message.chat) {
            call = call.arg(self.keys.channel(&channel));
        }
        call
    }

    async fn batch<T>(
        &self,
        op: &'static str,
        calls: Vec<Call>,
        budget: Duration,
        mut read: impl FnMut(usize, Value) -> Result<T, RedisError>,
    ) -> Vec<Result<T, RedisError>> {
        let count = calls.len();
        match self.connection.run(op, calls, budget).await {
            Ok(values) => values.into_iter().enumerate().map(|(index, value)| read(index, value?)).collect(),
            Err(error) => (0..count).map(|_| Err(error.clone())).collect(),
        }
    }

    fn page(&self, chat: &ChatId, value: Value) -> Result<RecentPage, RedisError> {
        type Answer = (String, u64, Option<i64>, Vec<u8>, i64, Vec<u8>, i64, i64, Vec<Vec<u8>>);
        let (epoch, seq, floor_ts, floor_id, trimmed_ts, trimmed_id, verified_at, read_at, entries) =
            parse::<Answer>(value)?;
        let floor = match (floor_ts, place(floor_ts.unwrap_or_default(), &floor_id)) {
            (None, _) => Floor::Unverified,
            (Some(_), Some(key)) => Floor::Above(key),
            (Some(0), None) => Floor::Whole,
            (Some(_), None) => return Err(RedisError::unexpected("a floor without an id")),
        };
        let age = u64::try_from(read_at - verified_at).unwrap_or_default();
        let (entries, undecodable) = self.decode(chat, &entries);
        Ok(RecentPage {
            position: Position { epoch: epoch.into(), seq },
            floor,
            trimmed: place(trimmed_ts, &trimmed_id),
            // A time that has not come yet is one that the server's clock went back from.
            verified_age: (verified_at > 0 && verified_at <= read_at).then_some(Duration::from_millis(age)),
            read_at,
            entries,
            undecodable,
        })
    }

    fn resumed(&self, chat: &ChatId, offset: u64, value: Value) -> Result<Option<Resumed>, RedisError> {
        if value == Value::Nil {
            return Ok(None);
        }
        let known = matches!(&value, Value::Array(items) if items.len() == 3);
        let (epoch, seq, entries) = if known {
            parse::<(String, u64, Vec<Vec<u8>>)>(value).map(|(epoch, seq, entries)| (epoch, seq, Some(entries)))?
        } else {
            parse::<(String, u64)>(value).map(|(epoch, seq)| (epoch, seq, None))?
        };
        let missed = entries.and_then(|entries| {
            let (entries, _) = self.decode(chat, &entries);
            // Exactly the seqs that were missed, each once and in order, or nothing.
            let seqs = entries.iter().map(|entry| entry.seq);
            let exact = entries.len() as u64 == seq - offset && seqs.eq((offset + 1..=seq).map(Some));
            exact.then(|| entries.into_iter().filter_map(live).collect())
        });
        Ok(Some(Resumed { position: Position { epoch: epoch.into(), seq }, missed }))
    }

    fn decode(&self, chat: &ChatId, entries: &[Vec<u8>]) -> (Vec<ListedEntry>, usize) {
        let decoded: Vec<_> = entries.iter().filter_map(|bytes| entry::decode(chat, bytes)).collect();
        let undecodable = entries.len() - decoded.len();
        self.connection.metrics().undecodable("recent", undecodable);
        (decoded, undecodable)
    }
}

fn place(timestamp: i64, id: &[u8]) -> Option<HistoryKey> {
    Some(HistoryKey { timestamp, id: MessageId::from_bytes(id.try_into().ok()?) })
}

fn live(entry: ListedEntry) -> Option<(u64, Message)> {
    match (entry.seq, entry.item) {
        (Some(seq), Listed::Message(message)) => Some((seq, message)),
        _ => None,
    }
}

fn tombstoned(value: Value) -> Result<TakenBack, RedisError> {
    let (verdict, epoch, seq, timestamp): (String, String, Option<u64>, Option<i64>) = parse(value)?;
    let position = seq.map(|seq| Position { epoch: epoch.into(), seq });
    Ok(match (verdict.as_str(), timestamp) {
        ("done", _) => TakenBack::Done,
        ("kept", Some(timestamp)) => TakenBack::Kept { position, timestamp },
        _ => TakenBack::Absent,
    })
}

fn added(value: Value) -> Result<Added, RedisError> {
    let (verdict, epoch, seq, timestamp): (String, String, Option<u64>, i64) = parse(value)?;
    let epoch: Arc<str> = epoch.into();
    match (verdict.as_str(), seq) {
        ("new", Some(seq)) => Ok(Added::New(Position { epoch, seq })),
        ("own", Some(seq)) => Ok(Added::Own(Position { epoch, seq })),
        _ => Ok(Added::Repeat { timestamp, epoch, seq }),
    }
}
