//! What is asked of many lists at once: where they stand, what of them is unread, and their newest messages.

use std::sync::LazyLock;
use std::time::Duration;

use holdfast_message::id::Members;
use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};
use holdfast_redis::{Call, RedisError, Script, parse, script};

use super::{RecentList, place};
use crate::entry::{self, Listed};
use crate::event::Position;

static UNREAD: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_unread.lua");
static NEWEST: LazyLock<Script> = script!("#!lua flags=allow-oom", "recent_state.lua", "recent_newest.lua");

/// Where a list stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    /// The position of the newest message of the stream.
    pub position: Position,
    /// The newest place in history that is listed, a tombstone's included; none: it has to be looked for, or nothing is listed.
    pub newest: Option<HistoryKey>,
}

/// What of a list is unread.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedUnread {
    /// Everything that was ever listed up to here has been considered.
    pub position: Position,
    /// Messages.
    pub ids: Vec<MessageId>,
    /// When the newest message was sent, whoever sent it, of those that do not lie ahead; 0 without one.
    pub newest_timestamp: i64,
}

impl RecentList {
    /// Where lists stand, as one pipeline under one deadline; none: there is no list. It makes no lists and looks at no entries.
    pub async fn standing_batch(
        &self,
        chats: &[&ChatId],
        budget: Duration,
    ) -> Vec<Result<Option<Standing>, RedisError>> {
        type Answer = (Option<String>, Option<u64>, Option<String>, Option<Vec<u8>>);
        let call = |chat: &&ChatId| {
            Call::new("HMGET").key(&self.keys.recent_head(chat)).arg(&["epoch", "seq", "top_ts", "top_id"])
        };
        self.batch("recent_standing", chats.iter().map(call).collect(), budget, |_, value| {
            let (epoch, seq, top_ts, top_id) = parse::<Answer>(value)?;
            let newest = top_ts.and_then(|text| place(text.parse().ok()?, &top_id.unwrap_or_default()));
            let standing =
                |(epoch, seq): (String, u64)| Standing { position: Position { epoch: epoch.into(), seq }, newest };
            Ok(epoch.zip(seq).map(standing))
        })
        .await
    }

    /// What others than `user` sent above a place of each list, as one pipeline under one deadline; the results are in the order of
    /// `lists`. Messages later than `latest` lie ahead.
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
