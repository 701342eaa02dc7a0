//! The recent lists, as the worker mends them.

use std::time::Duration;

use holdfast_cache::recent::{Attempt, RecentSettings, Retraction};
use holdfast_cache::{Origin, RecentList};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{shared, unique};
use holdfast_worker::heal::{CachedLists, Recent as _};
use prometheus::Registry;

const BUDGET: Duration = Duration::from_secs(10);

#[tokio::test]
async fn what_reached_the_log_is_listed_and_stays_listed_when_the_attempt_that_listed_it_fails() {
    let metrics = RedisMetrics::register(&Registry::new()).unwrap();
    let connection = Connection::open("cache", &shared().await.redis_cache_url, metrics).unwrap();
    let recent = RecentList::new(connection, Keys::default(), RecentSettings::default(), Origin::random());
    let lists = CachedLists(recent.clone());
    let (alice, bob) = (UserId::parse(&unique("a")).unwrap(), UserId::parse(&unique("b")).unwrap());
    let chat = ChatId::direct(&alice, &bob).unwrap();
    let message = |number: u8| Message {
        id: MessageId::from_bytes([number; 16]),
        temp_id: Some("t".into()),
        chat: chat.clone(),
        sender: alice.clone(),
        receiver: Some(bob.clone()),
        content: "hello".into(),
        image_url: None,
        public_id: None,
        timestamp: i64::from(number),
    };
    recent.add(&message(1), Attempt(1), BUDGET).await.unwrap();
    assert_eq!(lists.add(&[message(1), message(2)]).await, [Ok(false), Ok(true)]);
    assert_eq!(lists.add(&[message(1), message(2)]).await, [Ok(false), Ok(false)]);
    assert_eq!(recent.tombstone(&message(1), Attempt(1), BUDGET).await.map(|it| it == Retraction::Done), Ok(false));
    assert_eq!(recent.read(&chat, BUDGET).await.unwrap().messages().count(), 2);
}
