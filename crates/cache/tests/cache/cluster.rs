//! Everything that works on one server works on a cluster, over chats and users on all of its masters.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_cache::channels::ChannelSettings;
use holdfast_cache::event::Event;
use holdfast_cache::rate_limit::{Decision, Kind, Limit, RateLimiter};
use holdfast_cache::recent::{Added, Attempt, Floor, Repair, Repaired, Retraction};
use holdfast_cache::{ChannelEvent, Channels, control};
use holdfast_failed_queue::{FailedQueue, FailedQueueSettings, FinishAs, PushOutcome, QueueEntry, Refusal, Taken};
use holdfast_keys::{Channel, Keys};
use holdfast_message::ChatId;
use holdfast_redis::{Connection, RedisError, RedisMetrics, server_info};
use holdfast_testkit::{RedisCluster, Role, unique, until};
use tokio::time::timeout;

use crate::support::{
    BUDGET, chats_on_each, cluster, connect_cluster, list_on, message, messages, number_of, numbers, user,
};

pub(crate) fn queue_on(cluster: &RedisCluster) -> FailedQueue {
    let settings = FailedQueueSettings { timeout: BUDGET, ..FailedQueueSettings::default() };
    FailedQueue::new(connect_cluster(cluster), Keys::default(), settings)
}

pub(crate) fn entry(number: i64) -> QueueEntry {
    QueueEntry { queued_at: number, traceparent: None, record: Bytes::from(number.to_string()) }
}

#[tokio::test]
async fn lists_on_all_masters_are_written_read_resumed_and_repaired_in_batches() {
    let cluster = cluster(Role::Cache).await;
    let chats = chats_on_each(&cluster, 5).await.concat();
    let list = list_on(connect_cluster(&cluster), 100, 1000);
    let sent: Vec<_> = chats.iter().map(|chat| messages(chat, 3)).collect();
    // All first messages, then all second ones, then all third ones, as one pipeline.
    let adds: Vec<_> = (0..3).flat_map(|n| sent.iter().map(move |sent| (&sent[n], Attempt(7)))).collect();
    let mut origins = Vec::new();
    for (index, added) in list.add_batch(&adds, BUDGET).await.into_iter().enumerate() {
        let Ok(Added::New(position)) = added else { panic!("{added:?}") };
        assert_eq!(position.seq as usize, index / chats.len() + 1, "calls for one chat keep their order");
        if index < chats.len() {
            origins.push((chats[index].clone(), position));
        }
    }
    for master in 0..3 {
        assert!(cluster.ask::<u32>(master, &["DBSIZE"]).await.unwrap() >= 15);
    }
    let pages = list.read_batch(&chats.iter().collect::<Vec<_>>(), BUDGET).await;
    for page in &pages {
        assert_eq!(numbers(page.as_ref().unwrap()), [1, 2, 3]);
    }
    for resumed in list.resume_batch(&origins, BUDGET).await {
        let resumed = resumed.unwrap().unwrap();
        let missed: Vec<_> = resumed.missed.unwrap().iter().map(|(_, message)| number_of(message)).collect();
        assert_eq!(missed, [2, 3]);
    }
    let taken_back: Vec<_> = sent.iter().map(|sent| (&sent[2], Attempt(7))).collect();
    assert!(list.tombstone_batch(&taken_back, BUDGET).await.into_iter().all(|done| done == Ok(Retraction::Done)));
    for (chat, page) in chats.iter().zip(pages) {
        let page = page.unwrap();
        let stored = [message(chat, 0, 1), message(chat, 1, 1_700_000_001_000)];
        let (epoch, read_at) = (&*page.position.epoch, page.read_at);
        let repair = Repair { chat, epoch, read_at, messages: &stored, covered: None };
        let repaired = list.repair(&repair, BUDGET).await;
        assert_eq!(repaired, Ok(Repaired::Done { late: 0, inserted: 1, corrected: 0 }));
        let page = list.read(chat, BUDGET).await.unwrap();
        assert_eq!((numbers(&page), page.floor), (vec![0, 1, 2], Floor::Whole));
        assert!(list.original_timestamp(chat, stored[0].id, BUDGET).await.unwrap().is_some());
    }
}

#[tokio::test]
async fn a_limit_holds_for_each_user_wherever_the_count_lies() {
    let cluster = cluster(Role::Cache).await;
    let limit = Limit { events: 3, window: Duration::from_secs(60) };
    let limiters: Vec<_> =
        (0..2).map(|_| RateLimiter::new(connect_cluster(&cluster), Keys::default(), limit)).collect();
    let users: Vec<_> = (0..30).map(|_| user()).collect();
    let users: Vec<_> = users.iter().collect();
    for round in 0..5 {
        let decisions = limiters[round % 2].check_batch(Kind::Message, &users, BUDGET).await;
        assert!(decisions.iter().all(|decision| (*decision == Ok(Decision::Allowed)) == (round < 3)), "{decisions:?}");
    }
    for master in 0..3 {
        assert!(cluster.ask::<u32>(master, &["DBSIZE"]).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn a_queue_over_all_masters_is_leased_replayed_counted_and_mended() {
    let cluster = cluster(Role::Queue).await;
    let queue = queue_on(&cluster);
    let chats = chats_on_each(&cluster, 4).await.concat();
    queue.check(BUDGET).await.unwrap();
    for number in 1..=3 {
        for chat in &chats {
            assert_eq!(queue.push(chat, &entry(number)).await, PushOutcome::Accepted);
        }
    }
    let stats = queue.stats(100, BUDGET).await.unwrap();
    assert_eq!((stats.chats, stats.messages, stats.oldest_queued_at), (12, 36, Some(1)));
    let everyone: HashSet<_> = chats.iter().cloned().collect();
    assert_eq!(found(&queue).await, everyone);
    assert!(
        queue.overview(&chats, BUDGET).await.unwrap().iter().all(|chat| chat.waiting == 3 && chat.due_in.is_some())
    );

    // The index is lost, as after a failing master whose replica had not heard of it.
    let index = Keys::default().failed_index();
    let owner = cluster.owner_of(cluster.slot_of(&index).await.unwrap()).await.unwrap();
    cluster.ask::<()>(owner, &["DEL", &index]).await.unwrap();
    let mut added = 0;
    for start in queue.cursors(BUDGET).await.unwrap() {
        let mut cursor = Some(start);
        while let Some(from) = cursor {
            let step = queue.repair_index(from, 5, BUDGET).await.unwrap();
            (cursor, added) = (step.next, added + step.added);
        }
    }
    assert_eq!(added, chats.len(), "each master's keys were walked through");

    let leases = queue.lease(100, Duration::from_secs(30), BUDGET).await.unwrap();
    assert_eq!(leases.iter().map(|lease| lease.chat.clone()).collect::<HashSet<_>>(), everyone);
    for lease in &leases {
        let chat = &lease.chat;
        let heads: Vec<_> = queue.heads(chat, 10, BUDGET).await.unwrap().into_iter().map(|head| head.bytes).collect();
        assert_eq!(queue.pop_published(chat, &heads[..2], BUDGET).await, Ok(Taken { removed: 2, left: 1 }));
        assert_eq!(queue.bury(chat, &heads[2], "test", 5, BUDGET).await, Ok(Taken { removed: 1, left: 0 }));
        assert_eq!(queue.buried(chat, 0, 10, BUDGET).await.unwrap().len(), 1);
        assert!(queue.finish(lease, FinishAs::Empty, BUDGET).await.unwrap());
    }
    assert!(queue.indexed_chats(BUDGET).await.unwrap().is_empty());
}

async fn found(queue: &FailedQueue) -> HashSet<ChatId> {
    let mut chats = HashSet::new();
    for start in queue.cursors(BUDGET).await.unwrap() {
        let mut cursor = Some(start);
        while let Some(from) = cursor {
            let found = queue.find_chats(from, 5, BUDGET).await.unwrap();
            chats.extend(found.chats);
            cursor = found.next;
        }
    }
    chats
}

#[tokio::test]
async fn one_master_that_would_forget_closes_the_queue_for_all_chats() {
    let cluster = cluster(Role::Queue).await;
    let chats = chats_on_each(&cluster, 1).await;
    cluster.ask::<()>(2, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let queue = queue_on(&cluster);
    let refusal = Refusal::Evicts("allkeys-lru".into());
    assert_eq!(queue.push(&chats[2][0], &entry(1)).await, PushOutcome::Refused(refusal.clone()));
    assert_eq!(queue.push(&chats[0][0], &entry(1)).await, PushOutcome::Refused(refusal.clone()), "its slot may move");
    let another = queue_on(&cluster);
    assert_eq!(another.check(BUDGET).await, Err(refusal.clone()));
    assert_eq!(another.push(&chats[1][0], &entry(1)).await, PushOutcome::Refused(refusal));
    cluster.ask::<()>(2, &["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.unwrap();
    assert_eq!(queue_on(&cluster).check(BUDGET).await, Ok(()));
}

async fn listen(cluster: &RedisCluster) -> (Channels, tokio::sync::mpsc::Receiver<ChannelEvent>) {
    let settings = ChannelSettings {
        beacon_interval: Duration::from_millis(200),
        silence: Duration::from_secs(2),
        ..ChannelSettings::default()
    };
    let started = Channels::start(connect_cluster(cluster), Keys::default(), &unique("gateway"), settings);
    until("the channels are up", async || started.0.is_healthy()).await;
    started
}

/// The chats of the next messages, each heard on both channels.
async fn heard(events: &mut tokio::sync::mpsc::Receiver<ChannelEvent>, count: usize) -> HashSet<ChatId> {
    let mut chats = Vec::new();
    while chats.len() < 2 * count {
        let event = timeout(BUDGET, events.recv()).await.unwrap().unwrap();
        if let ChannelEvent::Heard { event: Event::Message { message, .. }, .. } = event {
            chats.push(message.chat);
        }
    }
    chats.into_iter().collect()
}

#[tokio::test]
async fn what_a_script_publishes_on_any_master_is_heard_whichever_node_is_listened_to() {
    let cluster = cluster(Role::Cache).await;
    let chats = chats_on_each(&cluster, 2).await;
    let (channels, mut events) = listen(&cluster).await;
    let audience = chats.iter().flatten().flat_map(Channel::audience);
    let subscriptions: Vec<_> = audience.map(|channel| channels.subscribe(channel)).collect();
    for subscription in &subscriptions {
        timeout(BUDGET, subscription.confirmed()).await.unwrap();
    }
    let list = list_on(connect_cluster(&cluster), 100, 1000);
    for chat in chats.iter().flatten() {
        list.add(&message(chat, 1, 5), Attempt(1), BUDGET).await.unwrap();
    }
    assert_eq!(heard(&mut events, 6).await, chats.concat().into_iter().collect());

    let user = match subscriptions[0].channel() {
        Channel::User(user) => user.clone(),
        Channel::Group(_) => panic!(),
    };
    let connection = connect_cluster(&cluster);
    assert_eq!(control::listeners(&connection, &Keys::default(), &user, BUDGET).await, Ok(1));
    assert_eq!(control::disconnect(&connection, &Keys::default(), &user, BUDGET).await, Ok(1));

    // The node that is listened to dies.
    let name = Keys::default().channel(subscriptions[0].channel());
    let mut listened = None;
    for node in 0..3 {
        let (_, count): (String, u32) = cluster.ask(node, &["PUBSUB", "NUMSUB", &name]).await.unwrap();
        listened = listened.or((count == 1).then_some(node));
    }
    let listened = listened.unwrap();
    cluster.node(listened).kill9().await.unwrap();
    while timeout(BUDGET, events.recv()).await.unwrap().unwrap() != ChannelEvent::Resubscribed {}
    let others: Vec<_> = (0..3).filter(|node| *node != listened).flat_map(|node| &chats[node]).collect();
    for chat in &others {
        list.add(&message(chat, 2, 6), Attempt(1), BUDGET).await.unwrap();
    }
    assert_eq!(heard(&mut events, 4).await, others.into_iter().cloned().collect());
}

#[tokio::test]
async fn a_node_that_dies_is_news_to_those_who_listen_to_another() {
    let cluster = cluster(Role::Cache).await;
    let (channels, mut events) = listen(&cluster).await;
    let subscription = channels.subscribe(Channel::User(user()));
    timeout(BUDGET, subscription.confirmed()).await.unwrap();
    let name = Keys::default().channel(subscription.channel());
    for node in 0..3 {
        let (_, count): (String, u32) = cluster.ask(node, &["PUBSUB", "NUMSUB", &name]).await.unwrap();
        if count == 0 {
            // Beacons have been taken by then.
            tokio::time::sleep(Duration::from_millis(500)).await;
            cluster.node(node).kill9().await.unwrap();
            cluster.node(node).start_again().await.unwrap();
            while timeout(BUDGET, events.recv()).await.unwrap().unwrap() != ChannelEvent::Resubscribed {}
            assert!(subscription.is_confirmed(), "the subscription itself did not break");
            return;
        }
    }
    panic!("every node is listened to");
}

#[tokio::test]
async fn a_restart_or_flush_of_any_master_and_a_move_are_another_data_generation() {
    let cluster = cluster(Role::Cache).await;
    let list = list_on(connect_cluster(&cluster), 100, 1000);
    let mut known = list.data_generation(BUDGET).await.unwrap();
    for master in 0..3 {
        assert_eq!(list.data_generation(BUDGET).await.unwrap(), known);
        cluster.ask::<()>(master, &["FLUSHALL"]).await.unwrap();
        let flushed = list.data_generation(BUDGET).await.unwrap();
        assert_ne!(flushed, known);
        cluster.node(master).kill9().await.unwrap();
        cluster.node(master).start_again().await.unwrap();
        until("it is served again", async || list.data_generation(BUDGET).await.is_ok()).await;
        let restarted = list.data_generation(BUDGET).await.unwrap();
        assert_ne!(restarted, flushed);
        known = restarted;
    }
    cluster.move_slot(16_000, 0).await.unwrap();
    until("the move is seen", async || list.data_generation(BUDGET).await.unwrap() != known).await;
}

#[tokio::test]
async fn every_node_asks_for_the_same_user_and_password() {
    let cluster = cluster(Role::Queue).await;
    for node in 0..3 {
        cluster.ask::<()>(node, &["ACL", "SETUSER", "chat", "on", ">s3cret", "~*", "&*", "+@all"]).await.unwrap();
    }
    let open = |password: &str| {
        let url = cluster.url().replace("redis://", &format!("redis://chat:{password}@"));
        let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
        Connection::open_at("test", &url, Some(&cluster.addresses()), metrics).unwrap()
    };
    let list = list_on(open("s3cret"), 10, 10);
    for chat in chats_on_each(&cluster, 1).await.concat() {
        assert!(matches!(list.add(&message(&chat, 1, 5), Attempt(1), BUDGET).await, Ok(Added::New(_))));
    }
    let error = open("wrong").ping(Duration::from_millis(500)).await.unwrap_err();
    assert!(error.is_unavailable() && !error.to_string().contains("wrong"), "{error}");
}

#[tokio::test]
async fn operators_see_every_master() {
    let cluster = cluster(Role::Queue).await;
    let connection = connect_cluster(&cluster);
    connection.ping_all(BUDGET).await.unwrap();
    assert_eq!(server_info::covers_every_slot(&connection, BUDGET).await, Ok(true));
    let mut run_ids = HashSet::new();
    let servers = server_info::servers(&connection, BUDGET).await.unwrap();
    for server in &servers {
        assert!(cluster.addresses().contains(&server.address().unwrap()));
        run_ids.insert(server.facts(BUDGET).await.unwrap().run_id);
    }
    assert_eq!(run_ids.len(), 3);
    // Its owner first: what it claims the others learn, and what it no longer claims they don't forget by themselves.
    until("every node has dropped the slot", async || {
        for node in [2, 0, 1] {
            cluster.ask::<()>(node, &["CLUSTER", "DELSLOTS", "16383"]).await.ok();
        }
        let mut dropped = true;
        for node in 0..3 {
            let known: String = cluster.ask(node, &["CLUSTER", "INFO"]).await.unwrap();
            dropped &= known.contains("cluster_slots_assigned:16383\r");
        }
        dropped
    })
    .await;
    until("the gap is seen", async || connection.ping_all(BUDGET).await.is_err()).await;
    assert_eq!(server_info::covers_every_slot(&connection, BUDGET).await, Ok(false));
    assert_eq!(connection.ping(BUDGET).await, Ok(()));
}

#[test]
fn an_address_of_a_cluster_that_is_none_is_said_so() {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    let open = |url: &str, nodes: &[&str]| {
        let nodes: Vec<String> = nodes.iter().map(|node| (*node).into()).collect();
        Connection::open_at("test", url, Some(&nodes), metrics.clone())
    };
    for (url, nodes) in [
        ("redis://host/1", vec![]),
        ("unix:///run/redis.sock", vec![]),
        ("redis://host/", vec!["host"]),
        ("redis://host/", vec!["redis://host:1"]),
    ] {
        assert!(matches!(open(url, &nodes), Err(RedisError::Address(_))), "{url} {nodes:?}");
    }
    assert!(open("rediss://user:password@host/", &["a:1", "b:2"]).is_ok());
}

#[tokio::test]
async fn a_server_that_is_no_cluster_is_unavailable_as_one() {
    let server = crate::support::server(Role::Cache, &[]).await;
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    let connection = Connection::open_at("test", &server.url(), Some(&[]), metrics).unwrap();
    let error = connection.ping(Duration::from_millis(300)).await.unwrap_err();
    assert!(matches!(error, RedisError::Unavailable { maybe_applied: false, .. }), "{error}");
}
