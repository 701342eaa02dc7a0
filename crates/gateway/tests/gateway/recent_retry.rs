//! What a gateway owes the recent lists: while a part of a cluster is away, and when it ends.

use std::sync::Arc;
use std::time::Duration;

use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_cache::entry::Listed;
use holdfast_cache::recent::{Attempt, RecentSettings};
use holdfast_cache::{Origin, RecentList};
use holdfast_gateway::deliver::sockets::Sockets;
use holdfast_gateway::guarded_store::GuardedStore;
use holdfast_gateway::inbox::updates::InboxUpdates;
use holdfast_gateway::metrics::Metrics;
use holdfast_gateway::send::recent_retry::{RecentLists, RecentRetryQueue};
use holdfast_gateway::send::reinstate::Reinstater;
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_store::{Store, StoreSettings};
use holdfast_testkit::{Proxy, Redis, RedisCluster, Role, unique, until};
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

fn connect(url: &str, cluster: Option<&[String]>) -> Connection {
    Connection::open_at("cache", url, cluster, RedisMetrics::register(&Registry::new()).unwrap()).unwrap()
}

fn recent_on(cache: &Connection) -> RecentList {
    RecentList::new(cache.clone(), Keys::default(), RecentSettings::default(), Origin::random())
}

/// Works a queue off.
async fn work_off(recent_retry: &RecentRetryQueue, recent: &RecentList, cache: Connection, metrics: &Metrics) {
    let breaker = Breaker::new("redis", BreakerSettings::default(), None);
    let stored = GuardedStore::new(
        Store::new(StoreSettings::new("mongodb://127.0.0.1:1", "chat")).await.unwrap(),
        breaker.clone(),
    );
    let sockets = Sockets::new(metrics.clone());
    let reinstater = Reinstater::new(sockets.clone(), stored);
    let (updates, _) = InboxUpdates::new(metrics.clone());
    let lists = RecentLists { retract: recent.clone(), add: recent.clone(), updates, reinstater, sockets };
    tokio::spawn(recent_retry.clone().run(lists, cache, breaker, CancellationToken::new()));
}

/// A list that holds a refused message, the line to its server, which is cut, and the queue in which its taking back waits.
async fn ghost() -> (Redis, Proxy, RecentList, RecentRetryQueue, Metrics) {
    let server = Redis::cache().await.unwrap();
    let line = Proxy::start(server.port()).await.unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let cache = connect(&server.url_at(line.port()), None);
    let recent = recent_on(&cache);
    let (message, attempt) = (Arc::new(message()), Attempt::random());
    recent.add(&message, attempt, BUDGET).await.unwrap();
    line.cut().await;
    let recent_retry = RecentRetryQueue::new(metrics.clone());
    recent_retry.retract(message, attempt);
    work_off(&recent_retry, &recent, cache, &metrics).await;
    (server, line, recent, recent_retry, metrics)
}

/// A chat on each of the masters.
async fn chats_on_each(cluster: &RedisCluster) -> Vec<ChatId> {
    let mut chats: Vec<Option<ChatId>> = vec![None; 3];
    while chats.contains(&None) {
        let user = |name| UserId::parse(&unique(name)).unwrap();
        let chat = ChatId::direct(&user("a"), &user("b")).unwrap();
        let slot = cluster.slot_of(&format!("{{{}}}", chat.as_str())).await.unwrap();
        chats[cluster.owner_of(slot).await.unwrap()] = Some(chat);
    }
    chats.into_iter().flatten().collect()
}

#[tokio::test]
async fn a_master_that_is_away_holds_up_no_other_masters_chats() {
    let cluster = RedisCluster::of(Role::Cache).await.unwrap();
    let cache = connect(&cluster.url(), Some(&cluster.addresses()));
    let recent = recent_on(&cache);
    let chats = chats_on_each(&cluster).await;
    cluster.node(0).kill9().await.unwrap();
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let recent_retry = RecentRetryQueue::new(metrics.clone());
    let numbered = |chat: &ChatId, number: u16| {
        let mut id = [1; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        Arc::new(Message { id: MessageId::from_bytes(id), chat: chat.clone(), timestamp: number.into(), ..message() })
    };
    // More than one round trip takes, all in front of the others.
    let many = 300;
    (0..many).for_each(|number| recent_retry.add(numbered(&chats[0], number)));
    (0..many).for_each(|number| chats[1..].iter().for_each(|chat| recent_retry.add(numbered(chat, number))));
    work_off(&recent_retry, &recent, cache, &metrics).await;
    for chat in &chats[1..] {
        until("the others' chats are told", async || {
            let listed = recent.read(chat, BUDGET).await.map(|page| page.entries).unwrap_or_default();
            listed.last().is_some_and(|entry| entry.item.key().timestamp == i64::from(many) - 1)
        })
        .await;
    }
    until("only the first chat waits", async || metrics.relist_waiting.get() == i64::from(many)).await;

    cluster.node(0).start_again().await.unwrap();
    tokio::time::timeout(Duration::from_secs(60), recent_retry.emptied()).await.expect("the master is back");
    let page = recent.read(&chats[0], BUDGET).await.unwrap();
    let listed: Vec<_> = page.messages().map(|(_, message)| message.timestamp).collect();
    let newest = RecentSettings::default().max;
    assert_eq!(listed[listed.len() - newest..], (200..300).collect::<Vec<_>>(), "in their order");
    assert_eq!(metrics.relist_dropped.get(), 0);
}

#[tokio::test]
async fn a_gateway_that_ends_waits_for_the_cache_to_take_back_what_was_refused() {
    let (_server, line, recent, recent_retry, metrics) = ghost().await;
    let waited = tokio::time::timeout(Duration::from_secs(1), recent_retry.emptied()).await;
    assert!(waited.is_err(), "what is under way is not done");
    line.heal().await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), recent_retry.emptied()).await.expect("the cache is back");
    let page = recent.read(&message().chat, BUDGET).await.unwrap();
    assert!(matches!(page.entries[0].item, Listed::Tombstone(_)), "{:?}", page.entries);
    recent_retry.give_up();
    assert_eq!(metrics.relist_dropped.get(), 0);
}

#[tokio::test]
async fn what_it_could_not_take_back_in_time_is_counted() {
    let (_server, _line, _recent, recent_retry, metrics) = ghost().await;
    assert!(tokio::time::timeout(Duration::from_millis(300), recent_retry.emptied()).await.is_err());
    recent_retry.give_up();
    assert_eq!((metrics.relist_dropped.get(), metrics.relist_waiting.get()), (1, 0));
}
