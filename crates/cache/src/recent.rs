//! The recent list: the last messages of each chat, their positions in the live stream, and the key down to which they are complete.
//!
//! Takes stamped messages from the gateway, or from the worker when it heals lists. One script gives each a position, announces it to the
//! other gateways, and stores it. The scripts begin with `scripts/recent_state.lua`, which states the invariants.
//!
//! A page can be trusted because of the `floor`: the list has every message strictly above it. [`RecentList::repair`] lowers the floor after
//! the store was read, and notes the time *at which that read began*, so that a gateway that was suspended in between can't vouch for what it
//! did not read. Trimming raises the floor. Any possible loss begins a new epoch, in which nothing is verified.
//!
//! The scripts need `INFO`, `TIME` and `PUBLISH`; an ACL has to allow them.
//!
//! See `docs/decisions/recent-list-floor.md` and `docs/decisions/retraction.md`.

mod add;
mod data_generation;
mod page;
mod stream_tip;

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_keys::{Channel, Keys};
use holdfast_message::{ChatId, HistoryKey, Message, MessageId};
use holdfast_redis::{Call, Connection, RedisError, Script, Value, parse, script};

use crate::entry::{self, Listed, ListedEntry};
use crate::event::{self, Origin, Position};

pub use add::Added;
pub use page::{Alone, Floor, RecentPage};
pub use stream_tip::{ListedUnread, StreamTip};

static REPAIR: LazyLock<Script> = script!("#!lua", "recent_state.lua", "recent_change.lua", "recent_repair.lua");
// These make nothing larger, and must work on a full server too.
static TOMBSTONE: LazyLock<Script> =
    script!("#!lua flags=allow-oom", "recent_state.lua", "recent_change.lua", "recent_tombstone.lua");
static READ: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_read.lua");
static RESUME: LazyLock<Script> =
    script!("#!lua flags=allow-oom", "recent_absent.lua", "recent_state.lua", "recent_resume.lua");

/// How many attempts a list remembers that were retracted before they added anything. An addition can still arrive only within the seconds
/// before a hanging connection is closed.
const MAX_VOID: usize = 128;
/// The longest epoch that a client may send, in characters; the server makes epochs of at most 19.
const MAX_EPOCH: usize = 64;

/// The sizes and the time to live of recent lists.
#[derive(Debug, Clone, Copy)]
pub struct RecentSettings {
    /// The number of messages that a list holds at least, once there were so many.
    pub max: usize,
    /// The number of ids that a list knows at least, so that it recognises repeats; at least `max`.
    pub window: usize,
    /// How many entries above `max`, and ids above `window`, are trimmed at a time. A list or window less than twice as long is trimmed
    /// with every message.
    pub trim_step: usize,
    /// The time to live of a list after its last message.
    pub ttl: Duration,
}

impl Default for RecentSettings {
    fn default() -> Self {
        Self { max: 100, window: 1000, trim_step: 32, ttl: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// One attempt to send a message: a random number that distinguishes the attempt's own retry from a repeat by the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt(pub u32);

impl Attempt {
    /// No attempt: the message is known to be durable. A message that is added or found with it is no longer subject to retraction.
    pub const DURABLE: Self = Self(0);

    /// A new attempt.
    pub fn random() -> Self {
        Self(fastrand::u32(1..))
    }
}

/// What the store has of a chat, to repair its list.
#[derive(Debug, Clone)]
pub struct Repair<'a> {
    /// The chat.
    pub chat: &'a ChatId,
    /// The epoch of the page that was read *before* the store.
    pub epoch: &'a str,
    /// The [`RecentPage::read_at`] of that page.
    pub read_at: i64,
    /// The messages in the store, in any order: all of them from [`Repair::covered`] upwards.
    pub messages: &'a [Message],
    /// The oldest key down to which the store was read; `None`: this is the whole chat.
    pub covered: Option<HistoryKey>,
}

/// The result of [`RecentList::repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The stream has begun a new epoch meanwhile; nothing was changed.
    Overtaken,
    /// The list has what the store has, as far as there is room.
    Done {
        /// Missing messages above the floor, which were appended to the stream and announced.
        late: usize,
        /// Missing messages below the floor, which were inserted in front and not announced.
        inserted: usize,
        /// Messages whose timestamp differed from the stored one, because a repeat was stamped again and another copy was stored first.
        /// They keep their seq and take the stored timestamp; this is not announced.
        corrected: usize,
    },
}

/// The messages that a client missed.
#[derive(Debug, Clone)]
pub struct Resumed {
    /// The position of the newest message of the stream.
    pub position: Position,
    /// Every message after the client's offset, in the order of seq, without tombstones; `None`: the list no longer has all of them.
    pub missed: Option<Vec<(u64, Message)>>,
}

/// The result of retracting a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Retraction {
    /// The message is a tombstone now, and this was announced on the chat's channels.
    Done,
    /// The message stays listed: it is known to be durable.
    Durable {
        /// Its position in the live stream, if it has one.
        position: Option<Position>,
        /// The timestamp with which it is listed, in Unix epoch milliseconds.
        timestamp: i64,
    },
    /// The list has no entry of it, because it was trimmed or never added, or has one by another attempt.
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
    /// Recent lists on the cache server; publications carry this process's origin.
    pub fn new(connection: Connection, keys: Keys, mut settings: RecentSettings, origin: Origin) -> Self {
        settings.max = settings.max.max(1);
        settings.window = settings.window.max(settings.max);
        Self { connection, keys, settings, origin }
    }

    /// Retracts a message: turns the entry that `attempt` made into a tombstone, and announces on the chat's channels that the message
    /// failed. Nothing happens if another attempt made the entry, or the message is durable. A message whose entry was trimmed is forgotten,
    /// so that it may be listed again; if the addition of this attempt arrives later, it adds nothing.
    pub async fn tombstone(
        &self,
        message: &Message,
        attempt: Attempt,
        budget: Duration,
    ) -> Result<Retraction, RedisError> {
        tombstoned(self.connection.run_one("recent_tombstone", self.tombstone_call(message, attempt), budget).await?)
    }

    /// As [`RecentList::tombstone`], for several, as one pipeline under one deadline; the results are in their order.
    pub async fn tombstone_batch(
        &self,
        attempts: &[(&Message, Attempt)],
        budget: Duration,
    ) -> Vec<Result<Retraction, RedisError>> {
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

    /// Adds the messages that the store has and the list lacks, corrects timestamps that differ from the stored ones, and sets the key down
    /// to which, and the time as of which, the list is complete.
    ///
    /// A missing message above the floor (without a floor: above the oldest entry of the list) is a late arrival: it gets the next seq and is
    /// announced. Any other message is inserted in front, without seq. A full list drops its oldest entry for a newer message; an older one
    /// finds no room. Then the floor becomes the greatest of the covered key, the keys ever trimmed in this epoch, and the keys that found no
    /// room, unless a later read of the store has set it already. After an undisturbed repair the list therefore answers alone, down to its
    /// oldest entry.
    ///
    /// To verify a list, read one message more from the store than the list can hold: then the floor is as low as possible.
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

    /// The messages after each offset, as one pipeline under one deadline; the results are in the order of `offsets`. `None`: there is no such
    /// list. No list is created, so asking for many chats uses no memory.
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

    /// The timestamp with which a message was first listed, if the list knows its id: then a send is a repeat. Adds nothing.
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
        let keys = self.list_keys(chat);
        script.call(&[&keys[0], &keys[1], &keys[2]]).arg(new_epoch()).arg(self.ttl_secs())
    }

    fn list_keys(&self, chat: &ChatId) -> [String; 3] {
        [self.keys.recent(chat), self.keys.recent_ids(chat), self.keys.recent_head(chat)]
    }

    fn ttl_secs(&self) -> u64 {
        self.settings.ttl.as_secs().max(1)
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
        let floor = match (floor_ts, history_key(floor_ts.unwrap_or_default(), &floor_id)) {
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
            trimmed: history_key(trimmed_ts, &trimmed_id),
            // A time in the future was noted before the server's clock went back.
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
            // Exactly the missed seqs, each once and in order, or nothing.
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

/// The name of an epoch, should one have to begin.
fn new_epoch() -> String {
    format!("{:016x}", fastrand::u64(..))
}

fn history_key(timestamp: i64, id: &[u8]) -> Option<HistoryKey> {
    Some(HistoryKey { timestamp, id: MessageId::from_bytes(id.try_into().ok()?) })
}

fn live(entry: ListedEntry) -> Option<(u64, Message)> {
    match (entry.seq, entry.item) {
        (Some(seq), Listed::Message(message)) => Some((seq, message)),
        _ => None,
    }
}

fn tombstoned(value: Value) -> Result<Retraction, RedisError> {
    let (verdict, epoch, seq, timestamp): (String, String, Option<u64>, Option<i64>) = parse(value)?;
    let position = seq.map(|seq| Position { epoch: epoch.into(), seq });
    Ok(match (verdict.as_str(), timestamp) {
        ("done", _) => Retraction::Done,
        ("durable", Some(timestamp)) => Retraction::Durable { position, timestamp },
        _ => Retraction::Absent,
    })
}
