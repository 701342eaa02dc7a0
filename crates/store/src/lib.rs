//! The only Holdfast crate that knows MongoDB.
//!
//! What is stored, in the order in which the others meet it:
//!
//! 1. [`Store::insert`] ([`insert`]): the worker's flush. One unordered insert keyed by `_id`, and one outcome per message.
//! 2. [`Store::page`], [`Store::get`], [`Store::stored`] ([`history`]): what the read path and verification ask.
//! 3. [`Store::touch_conversations`] ([`conversations`]): a derived view that nothing waits for, and a user's list of chats by it.
//! 4. [`Store::mark_read`] ([`read_states`]), [`Store::count_unread`] ([`unread`]): how far a user has read, and what they have not.
//! 5. Who belongs to a group chat ([`groups`]), changed by compare-and-set; friends and blocks ([`relationships`]); profiles ([`users`]).
//! 6. [`Store::copies`] and its like ([`inspect`]), [`Store::find_unreadable`] ([`unreadable`]): what operators ask.
//!
//! Every call has a time limit of its own and ends within it, whatever the server does. Every error says what the caller must
//! do ([`StoreError`]). No call ever changes or removes a stored message: the first stored copy wins.

mod bson;
pub mod conversations;
mod document;
mod error;
pub mod groups;
pub mod history;
pub mod insert;
pub mod inspect;
mod query;
pub mod read_states;
pub mod relationships;
mod time;
pub mod unread;
pub mod unreadable;
mod uri;
pub mod users;

use std::sync::Arc;
use std::time::Duration;

use mongodb::bson::{Document, RawDocumentBuf, doc};
use mongodb::error::Error;
use mongodb::options::IndexOptions;
use mongodb::{Client, Collection, Database, IndexModel};
use tokio::time::Instant;

pub use conversations::{Conversation, Touched};
pub use error::{StoreError, is_passing};
pub use groups::{Group, Member, Membership, Role};
pub use history::Page;
pub use insert::{BatchFailed, Written};
pub use inspect::{IndexReport, ServerReport, StoredCopy};
pub use read_states::{ReadState, ReadStates};
pub use relationships::Relationship;
pub use unread::Unread;
pub use unreadable::{OnUnreadable, UnreadableDocument};
pub use uri::check_url;
pub use users::Profile;

/// Where the store is and how long its calls may take.
#[derive(Clone)]
pub struct StoreSettings {
    /// A MongoDB connection string. Its options take precedence over the settings below; one that would break the promise is refused
    /// ([`check_url`]).
    pub url: String,
    /// The database.
    pub db: String,
    /// How long a call looks for a primary before it answers [`StoreError::Unavailable`].
    pub server_selection_timeout: Duration,
    /// How long one connection may take to open.
    pub connect_timeout: Duration,
    /// The limit of one writing call, its repeat and its wait for the majority included.
    pub write_timeout: Duration,
    /// The limit of one reading call.
    pub read_timeout: Duration,
    /// The most connections to one server; a call beyond it waits, within its limit.
    pub max_connections: u32,
    /// Called for each stored document that cannot be read, when a reading call meets it for the first time.
    pub on_unreadable: Option<Arc<OnUnreadable>>,
}

impl StoreSettings {
    /// The defaults for a database: 2 s to find a server or to connect, 10 s to write, 2 s to read, 32 connections.
    pub fn new(url: impl Into<String>, db: impl Into<String>) -> Self {
        Self {
            url: url.into(),
            db: db.into(),
            server_selection_timeout: Duration::from_secs(2),
            connect_timeout: Duration::from_secs(2),
            write_timeout: Duration::from_secs(10),
            read_timeout: Duration::from_secs(2),
            max_connections: 32,
            on_unreadable: None,
        }
    }
}

/// The messages and what is derived from them. Cheap to clone; all clones share one pool of connections.
#[derive(Clone)]
pub struct Store {
    db: Database,
    messages: Collection<RawDocumentBuf>,
    conversations: Collection<RawDocumentBuf>,
    read_states: Collection<RawDocumentBuf>,
    write_timeout: Duration,
    read_timeout: Duration,
    unreadable: Arc<unreadable::Met>,
    on_unreadable: Option<Arc<OnUnreadable>>,
}

impl Store {
    /// Takes the settings and begins to look for the servers in the background; must be called within a tokio runtime.
    ///
    /// A server that is away is no error: each call then answers [`StoreError::Unavailable`] until it is back. A connection
    /// string that can't be used is [`StoreError::Rejected`]. Only `mongodb+srv` looks its servers up here; names that don't
    /// resolve yet are [`StoreError::Unavailable`], to be tried again.
    pub async fn new(settings: StoreSettings) -> Result<Self, StoreError> {
        let options = uri::options(&settings).await?;
        let db = Client::with_options(options)?.database(&settings.db);
        Ok(Self {
            messages: db.collection("messages"),
            conversations: db.collection("conversations"),
            read_states: db.collection("readStates"),
            db,
            write_timeout: settings.write_timeout,
            read_timeout: settings.read_timeout,
            unreadable: Arc::default(),
            on_unreadable: settings.on_unreadable,
        })
    }

    /// Whether a primary answers within `limit`.
    pub async fn ping(&self, limit: Duration) -> Result<(), StoreError> {
        within(Instant::now() + limit, self.db.run_command(doc! { "ping": 1 })).await.map(drop)
    }

    /// Makes the indexes that are missing: `{ chatId: 1, timestamp: -1, _id: -1 }` of `messages`, which every page is read
    /// by, and `{ members: 1, lastTimestamp: -1, _id: -1 }` of `conversations`, which a user's chats are listed by, and
    /// `{ members.userId: 1 }` of `groups`. The uniqueness of a message rests on the primary key and needs none.
    ///
    /// Building an index of a large collection takes longer than this call may: the server goes on, and a later call joins.
    pub async fn ensure_indexes(&self) -> Result<(), StoreError> {
        let index = |keys, name: &str| {
            let options = IndexOptions::builder().name(name.to_owned()).build();
            IndexModel::builder().keys(keys).options(options).build()
        };
        let pages = index(doc! { "chatId": 1, "timestamp": -1, "_id": -1 }, history::INDEX);
        let lists = index(doc! { "members": 1, "lastTimestamp": -1, "_id": -1 }, conversations::INDEX);
        let deadline = Instant::now() + self.write_timeout;
        within(deadline, self.messages.create_index(pages)).await?;
        within(deadline, self.conversations.create_index(lists)).await?;
        self.ensure_group_indexes(deadline).await
    }

    /// Runs a command whose reply is to be read by the caller: `ok: 1` says nothing of `writeErrors` or `writeConcernError`.
    async fn run(&self, command: RawDocumentBuf, deadline: Instant) -> Result<Document, StoreError> {
        within(deadline, self.db.run_raw_command(command)).await
    }
}

/// The server's own limit for a call, a little less than the caller's, so that the server's reason arrives when there is one.
fn server_limit(limit: Duration) -> Duration {
    (limit - limit / 10).max(Duration::from_millis(1))
}

async fn within<T>(deadline: Instant, call: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, StoreError> {
    match tokio::time::timeout_at(deadline, call.into_future()).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(StoreError::late()),
    }
}
