//! Batch reads of many lists: the tips of their streams, their unread messages, and their newest messages.

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_message::id::Members;
use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};
use holdfast_redis::msgpack::Reader;
use holdfast_redis::{Call, RedisError, Script, parse, script};

use super::{RecentList, history_key};
use crate::entry::{self, Listed};
use crate::event::Position;

static UNREAD: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_unread.lua");
static NEWEST: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_newest.lua");

/// The format of a packed head, as `scripts/recent_state.lua` writes it.
const HEAD_FORMAT: u64 = 1;

/// The tip of a chat's live stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamTip {
    /// The position of the newest message of the stream.
    pub position: Position,
    /// The newest key in the list, tombstones included; `None`: the head does not say, or the list is empty.
    pub newest: Option<HistoryKey>,
}

/// The unread messages of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUnread {
    /// Everything that was ever listed up to this position was considered.
    pub position: Position,
    /// The ids of the unread messages.
    pub ids: Vec<MessageId>,
    /// When the newest message from any sender was sent, in Unix epoch milliseconds, not counting those later than `latest`; 0 if there is
    /// none.
    pub newest_timestamp: i64,
}

impl RecentList {
    /// The tips of these streams, as one pipeline under one deadline; `None`: there is no list. Creates no lists and reads no entries.
    pub async fn tip_batch(&self, chats: &[&ChatId], budget: Duration) -> Vec<Result<Option<StreamTip>, RedisError>> {
        let call = |chat: &&ChatId| Call::new("HGET").key(&self.keys.recent_head(chat)).arg("state");
        self.batch("recent_standing", chats.iter().map(call).collect(), budget, |_, value| {
            Ok(parse::<Option<Vec<u8>>>(value)?.and_then(|state| tip(&state)))
        })
        .await
    }

    /// The messages above a key of each list that were not sent by `user`, as one pipeline under one deadline; the results are in the order
    /// of `lists`. Messages later than `latest` (Unix epoch milliseconds) do not count for [`ListedUnread::newest_timestamp`].
    pub async fn unread_batch(
        &self,
        user: &UserId,
        lists: &[(&ChatId, Option<HistoryKey>)],
        latest: i64,
        budget: Duration,
    ) -> Vec<Result<ListedUnread, RedisError>> {
        let call = |(chat, above): &(&ChatId, Option<HistoryKey>)| {
            let call = self.call(&UNREAD, chat);
            let call = match above {
                Some(key) => call.arg(key.timestamp).arg(key.id.as_bytes()),
                None => call.arg(0).arg(""),
            };
            let call = match chat.members() {
                Members::Direct(first, _) => call.arg(u8::from(first != *user)),
                Members::Group => call.arg(user.as_str()),
            };
            call.arg(latest)
        };
        self.batch("recent_unread", lists.iter().map(call).collect(), budget, |_, value| {
            let (epoch, seq, newest_timestamp, ids) = parse::<(String, u64, i64, Vec<Vec<u8>>)>(value)?;
            let id = |bytes: Vec<u8>| <[u8; 16]>::try_from(bytes).ok().map(MessageId::from_bytes);
            let ids = ids.into_iter().filter_map(id).collect();
            Ok(ListedUnread { position: Position { epoch: epoch.into(), seq }, ids, newest_timestamp })
        })
        .await
    }

    /// The newest message of each list, as one pipeline under one deadline; the results are in the order of `chats`.
    pub async fn newest_batch(&self, chats: &[&ChatId], budget: Duration) -> Vec<Result<Option<Message>, RedisError>> {
        let calls = chats.iter().map(|chat| self.call(&NEWEST, chat)).collect();
        self.batch("recent_newest", calls, budget, |index, value| {
            let bytes: Option<Vec<u8>> = parse(value)?;
            let entry = bytes.and_then(|bytes| entry::decode(chats[index], &bytes));
            Ok(entry.and_then(|entry| match entry.item {
                Listed::Message(message) => Some(message),
                Listed::Tombstone(_) => None,
            }))
        })
        .await
    }
}

/// The tip of a stream by the packed head of its list; `None`: this build can't read it, and whatever asks next begins a new epoch.
fn tip(state: &[u8]) -> Option<StreamTip> {
    let mut reader = Reader(state);
    if reader.uint()? != HEAD_FORMAT {
        return None;
    }
    let (epoch, _run, seq) = (reader.str()?.into(), reader.raw()?, reader.uint()?);
    let newest = reader.int().zip(reader.raw()).and_then(|(timestamp, id)| history_key(timestamp, id));
    Some(StreamTip { position: Position { epoch, seq }, newest })
}
