//! What the modules share: servers, names, messages, and a look behind the API.

use std::time::Duration;

use holdfast_cache::entry::Listed;
use holdfast_cache::event::Position;
use holdfast_cache::recent::{Added, Attempt, RecentPage, RecentSettings};
use holdfast_cache::{Origin, RecentList};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{Redis, RedisCluster, RedisOptions, Role, connect_redis, unique};
use tokio::sync::OnceCell;

/// Far more than any call takes, so that no test rests on speed.
pub(crate) const BUDGET: Duration = Duration::from_secs(10);

pub(crate) async fn cache_url() -> String {
    static CACHE: OnceCell<Redis> = OnceCell::const_new();
    CACHE.get_or_init(|| async { Redis::cache().await.unwrap() }).await.url()
}

pub(crate) async fn server(role: Role, args: &[&str]) -> Redis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Redis::start(RedisOptions { role, args, ..RedisOptions::default() }).await.unwrap()
}

pub(crate) fn connect(url: &str) -> Connection {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    Connection::open("test", url, metrics).unwrap()
}

pub(crate) async fn cluster(role: Role) -> RedisCluster {
    RedisCluster::of(role).await.unwrap()
}

pub(crate) fn connect_cluster(cluster: &RedisCluster) -> Connection {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    Connection::open_at("test", &cluster.url(), Some(&cluster.addresses()), metrics).unwrap()
}

/// As many chats on each of the three masters, master by master.
pub(crate) async fn chats_on_each(cluster: &RedisCluster, count: usize) -> [Vec<ChatId>; 3] {
    let mut chats = [const { Vec::new() }; 3];
    while chats.iter().any(|chats| chats.len() < count) {
        let chat = chat();
        let slot = cluster.slot_of(&Keys::default().failed(&chat)).await.unwrap();
        let owner = &mut chats[cluster.owner_of(slot).await.unwrap()];
        if owner.len() < count {
            owner.push(chat);
        }
    }
    chats
}

/// A connection of the test's own.
pub(crate) async fn raw(url: &str) -> redis::aio::MultiplexedConnection {
    connect_redis(url).await.unwrap()
}

pub(crate) fn user() -> UserId {
    UserId::parse(&unique("u")).unwrap()
}

pub(crate) fn chat() -> ChatId {
    ChatId::direct(&user(), &user()).unwrap()
}

/// A message from the chat's first user with an id that sorts by `number`.
pub(crate) fn message(chat: &ChatId, number: u32, timestamp: i64) -> Message {
    let sender = UserId::parse(chat.as_str().split(':').next().unwrap()).unwrap();
    let mut id = [0; 16];
    id[..4].copy_from_slice(&number.to_be_bytes());
    Message {
        id: MessageId::from_bytes(id),
        temp_id: Some(format!("t{number}")),
        receiver: chat.other(&sender),
        chat: chat.clone(),
        sender,
        content: format!("content {number}"),
        image_url: None,
        public_id: None,
        timestamp,
    }
}

/// Messages 1 to `count`, a second apart.
pub(crate) fn messages(chat: &ChatId, count: u32) -> Vec<Message> {
    (1..=count).map(|number| message(chat, number, 1_700_000_000_000 + i64::from(number) * 1000)).collect()
}

pub(crate) fn list(url: &str, max: usize, window: usize) -> RecentList {
    list_on(connect(url), max, window)
}

pub(crate) fn list_on(connection: Connection, max: usize, window: usize) -> RecentList {
    let settings = RecentSettings { max, window, ..RecentSettings::default() };
    RecentList::new(connection, Keys::default(), settings, Origin(7))
}

pub(crate) async fn add(list: &RecentList, message: &Message) -> Position {
    match list.add(message, Attempt::random(), BUDGET).await.unwrap() {
        Added::New(position) => position,
        other => panic!("{other:?}"),
    }
}

pub(crate) async fn add_all(list: &RecentList, messages: &[Message]) {
    for message in messages {
        add(list, message).await;
    }
}

pub(crate) async fn read(list: &RecentList, chat: &ChatId) -> RecentPage {
    list.read(chat, BUDGET).await.unwrap()
}

/// The numbers of the live messages of a page, in the list's order.
pub(crate) fn numbers(page: &RecentPage) -> Vec<u32> {
    page.entries.iter().filter_map(|entry| number(&entry.item)).collect()
}

fn number(item: &Listed) -> Option<u32> {
    match item {
        Listed::Message(message) => Some(number_of(message)),
        Listed::Tombstone(_) => None,
    }
}

pub(crate) fn number_of(message: &Message) -> u32 {
    u32::from_be_bytes(message.id.as_bytes()[..4].try_into().unwrap())
}
