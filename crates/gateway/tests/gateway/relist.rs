//! What a gateway that ends still owes the recent lists.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::breaker::BreakerSettings;
use holdfast_cache::entry::Listed;
use holdfast_cache::recent::{Attempt, RecentSettings};
use holdfast_cache::{Breaker, CacheMetrics, Connection, Keys, Origin, RecentList};
use holdfast_gateway::deliver::Sockets;
use holdfast_gateway::inbox::arrivals::Arrivals;
use holdfast_gateway::kept::Kept;
use holdfast_gateway::metrics::Metrics;
use holdfast_gateway::relist::{Lists, Relist};
use holdfast_gateway::stored::Stored;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Proxy, Redis};
use prometheus::Registry;
use tokio_util::sync::CancellationToken;

const BUDGET: Duration = Duration::from_secs(5);

fn message() -> Message {
    let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
    Message {
        id: MessageId::from_bytes([1; 16]),
        temp_id: None,
        chat: ChatId::direct(&alice, &bob).unwrap(),
        sender: alice,
        receiver: Some(bob),
        content: "refused".into(),
        image_url: None,
        public_id: None,
        timestamp: 1,
    }
}

/// A list that holds a refused message, the line to its server, which is cut, and the queue in which its taking back waits.
async fn ghost() -> (Redis, Proxy, RecentList, Relist, Metrics) {
    let server = Redis::cache().await.unwrap();
    let line = Proxy::start(server.port()).await.unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let cache_metrics = CacheMetrics::register(&Registry::new()).unwrap();
    let cache = Connection::open("cache", &server.url_at(line.port()), cache_metrics).unwrap();
    let recent = RecentList::new(cache.clone(), Keys::default(), RecentSettings::default(), Origin::random());
    let (message, attempt) = (Arc::new(message()), Attempt::random());
    recent.add(&message, attempt, BUDGET).await.unwrap();
    line.cut().await;
    let relist = Relist::new(metrics.clone());
    relist.take_back(message, attempt);
    let breaker = Breaker::new("redis", BreakerSettings::default(), None);
    let stored =
        Stored::new(Store::new(StoreSettings::new("mongodb://127.0.0.1:1", "chat")).await.unwrap(), breaker.clone());
    let kept = Kept::new(Sockets::new(metrics.clone()), stored);
    let (arrivals, _) = Arrivals::new(metrics.clone());
    let lists = Lists { take_back: recent.clone(), add: recent.clone(), arrivals, kept };
    tokio::spawn(relist.clone().run(lists, cache, breaker, CancellationToken::new()));
    (server, line, recent, relist, metrics)
}

#[tokio::test]
async fn a_gateway_that_ends_waits_for_the_cache_to_take_back_what_was_refused() {
    let (_server, line, recent, relist, metrics) = ghost().await;
    let waited = tokio::time::timeout(Duration::from_secs(1), relist.emptied()).await;
    assert!(waited.is_err(), "what is under way is not done");
    line.heal().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), relist.emptied()).await.expect("the cache is back");
    let page = recent.read(&message().chat, BUDGET).await.unwrap();
    assert!(matches!(page.entries[0].item, Listed::Tombstone(_)), "{:?}", page.entries);
    relist.give_up();
    assert_eq!(metrics.relist_dropped.get(), 0);
}

#[tokio::test]
async fn what_it_could_not_take_back_in_time_is_counted() {
    let (_server, _line, _recent, relist, metrics) = ghost().await;
    assert!(tokio::time::timeout(Duration::from_millis(300), relist.emptied()).await.is_err());
    relist.give_up();
    assert_eq!((metrics.relist_dropped.get(), metrics.relist_waiting.get()), (1, 0));
}
