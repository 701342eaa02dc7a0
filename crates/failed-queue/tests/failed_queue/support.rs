//! What the modules share: servers, chats and messages.

use std::time::Duration;

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{Redis, RedisOptions, Role, connect_redis, unique};

/// Far more than any call takes, so that no test rests on speed.
pub(crate) const BUDGET: Duration = Duration::from_secs(10);

pub(crate) async fn server(role: Role, args: &[&str]) -> Redis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Redis::start(RedisOptions { role, args, ..RedisOptions::default() }).await.unwrap()
}

pub(crate) fn connect(url: &str) -> Connection {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    Connection::open("test", url, metrics).unwrap()
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

pub(crate) fn number_of(message: &Message) -> u32 {
    u32::from_be_bytes(message.id.as_bytes()[..4].try_into().unwrap())
}
