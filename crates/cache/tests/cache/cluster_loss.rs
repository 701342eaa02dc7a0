//! Masters that die, hang, come back, or are replaced.

use std::time::{Duration, Instant};

use holdfast_cache::recent::{Added, Attempt};
use holdfast_failed_queue::{FailedQueue, FailedQueueSettings, PushOutcome, Refusal};
use holdfast_keys::Keys;
use holdfast_redis::RedisError;
use holdfast_testkit::{RedisCluster, RedisClusterOptions, Role, until};

use crate::cluster::{entry, queue_on};
use crate::support::{BUDGET, chats_on_each, cluster, connect_cluster, list_on, message};

/// What a send has.
const SHORT: Duration = Duration::from_millis(50);

#[tokio::test]
async fn the_chats_of_a_killed_master_are_away_and_all_others_go_on() {
    let cluster = cluster(Role::Queue).await;
    let connection = connect_cluster(&cluster);
    let list = list_on(connection.clone(), 100, 1000);
    let chats = chats_on_each(&cluster, 3).await;
    let add_all = async |number: u32, budget: Duration| {
        let messages: Vec<_> = chats.iter().flatten().map(|chat| message(chat, number, i64::from(number))).collect();
        let adds: Vec<_> = messages.iter().map(|message| (message, Attempt(number))).collect();
        list.add_batch(&adds, budget).await
    };
    assert!(add_all(1, BUDGET).await.iter().all(Result::is_ok));
    cluster.node(1).kill9().await.unwrap();
    // The first calls may still meet the dying connection.
    until("its death is noticed", async || {
        let late = list.add(&message(&chats[1][0], 2, 2), Attempt(2), SHORT).await;
        matches!(late, Err(RedisError::NodeUnavailable { maybe_applied: false, .. }))
    })
    .await;
    for number in 3..50 {
        let started = Instant::now();
        let added = add_all(number, BUDGET).await;
        assert!(started.elapsed() < BUDGET / 2, "a master that is known to be away holds nobody up");
        for (index, added) in added.iter().enumerate() {
            match (index / 3, added) {
                (1, Err(error @ RedisError::NodeUnavailable { maybe_applied: false, .. })) => {
                    assert!(error.is_transient() && !error.is_unavailable(), "no breaker counts it");
                }
                (0 | 2, Ok(Added::New(_))) => {}
                (master, other) => panic!("{master}: {other:?}"),
            }
        }
    }
    assert!(connection.ping(BUDGET).await.is_ok() && connection.ping_all(Duration::from_secs(1)).await.is_err());

    cluster.node(1).start_again().await.unwrap();
    until("it is back", async || list.read(&chats[1][0], SHORT).await.is_ok()).await;
    assert!(add_all(50, BUDGET).await.iter().all(Result::is_ok));
    until("all is well", async || connection.ping_all(BUDGET).await.is_ok()).await;
}

#[tokio::test]
async fn what_a_frozen_master_was_sent_may_have_happened() {
    let cluster = cluster(Role::Cache).await;
    let list = list_on(connect_cluster(&cluster), 100, 1000);
    let chats = chats_on_each(&cluster, 1).await;
    // Every node is connected to and knows the script: what it does not know it does not do.
    for chat in chats.iter().flatten() {
        list.add(&message(chat, 1, 5), Attempt(1), BUDGET).await.unwrap();
    }
    let first = message(&chats[0][0], 2, 6);
    cluster.node(0).freeze().unwrap();
    let other = message(&chats[2][0], 2, 6);
    let added = list.add_batch(&[(&first, Attempt(1)), (&other, Attempt(1))], SHORT).await;
    assert!(matches!(added[0], Err(RedisError::NodeUnavailable { maybe_applied: true, .. })), "{added:?}");
    assert!(matches!(added[1], Ok(Added::New(_))), "{added:?}");
    cluster.node(0).thaw().unwrap();
    let mut again = list.add(&first, Attempt(1), BUDGET).await;
    while again.is_err() {
        again = list.add(&first, Attempt(1), BUDGET).await;
    }
    assert!(matches!(again, Ok(Added::Own(_))), "it had happened: {again:?}");
}

#[tokio::test]
async fn a_queue_keeps_what_it_took_over_a_masters_death_and_refuses_its_chats_meanwhile() {
    let cluster = cluster(Role::Queue).await;
    let chats = chats_on_each(&cluster, 2).await;
    let queue = queue_on(&cluster);
    let settings = FailedQueueSettings { timeout: Duration::from_millis(500), ..FailedQueueSettings::default() };
    let hurried = FailedQueue::new(connect_cluster(&cluster), Keys::default(), settings);
    for chat in chats.iter().flatten() {
        assert_eq!(queue.push(chat, &entry(1)).await, PushOutcome::Accepted);
        assert_eq!(hurried.push(chat, &entry(2)).await, PushOutcome::Accepted);
    }
    // Not the master that has the index, without which nothing is accepted.
    let index = cluster.owner_of(cluster.slot_of(&Keys::default().failed_index()).await.unwrap()).await.unwrap();
    let dead = (index + 1) % 3;
    cluster.node(dead).kill9().await.unwrap();
    let mut outcome = hurried.push(&chats[dead][0], &entry(3)).await;
    // Until the end of the connection is noticed.
    let began = Instant::now();
    while matches!(outcome, PushOutcome::Unknown(_)) {
        assert!(began.elapsed() < 12 * BUDGET, "still {outcome:?}");
        outcome = hurried.push(&chats[dead][0], &entry(3)).await;
    }
    assert!(matches!(outcome, PushOutcome::Refused(Refusal::Unreachable(_))), "{outcome:?}");
    for master in (0..3).filter(|master| *master != dead) {
        assert_eq!(hurried.push(&chats[master][1], &entry(3)).await, PushOutcome::Accepted);
    }
    // A push waits for as long as it may.
    let fourth = entry(4);
    let (pushed, ()) = tokio::join!(queue.push(&chats[dead][0], &fourth), async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.node(dead).start_again().await.unwrap();
    });
    assert_eq!(pushed, PushOutcome::Accepted);
    let held = queue.heads(&chats[dead][0], 10, BUDGET).await.unwrap();
    let times: Vec<_> = held.iter().map(|head| head.entry.as_ref().unwrap().queued_at).collect();
    assert_eq!(times, [1, 2, 4]);
}

#[tokio::test]
async fn a_replica_takes_over_with_all_that_was_accepted() {
    let options = RedisClusterOptions { role: Role::Queue, replicas: true, ..RedisClusterOptions::default() };
    let cluster = RedisCluster::start(options).await.unwrap();
    let chats = chats_on_each(&cluster, 2).await;
    let settings = FailedQueueSettings { timeout: Duration::from_secs(3), ..FailedQueueSettings::default() };
    let connection = connect_cluster(&cluster);
    let queue = FailedQueue::new(connection.clone(), Keys::default(), settings);
    let list = list_on(connection, 100, 1000);
    let mut accepted = [0; 3];
    for number in 0..20 {
        for (master, chats) in chats.iter().enumerate() {
            assert_eq!(queue.push(&chats[0], &entry(number)).await, PushOutcome::Accepted);
            accepted[master] += 1;
        }
    }
    let before = list.add(&message(&chats[1][1], 1, 5), Attempt(1), BUDGET).await.unwrap();
    cluster.node(1).kill9().await.unwrap();
    until("the replica has taken over", async || {
        let outcome = queue.push(&chats[1][0], &entry(99)).await;
        assert_eq!(queue.push(&chats[0][0], &entry(99)).await, PushOutcome::Accepted, "others go on");
        outcome == PushOutcome::Accepted
    })
    .await;
    assert_eq!(
        cluster.owner_of(cluster.slot_of(&Keys::default().failed(&chats[1][0])).await.unwrap()).await.unwrap(),
        4
    );
    let held = queue.heads(&chats[1][0], 100, BUDGET).await.unwrap();
    assert!(held.len() > accepted[1], "what was accepted, and the last");
    let after = list.add(&message(&chats[1][1], 2, 6), Attempt(2), BUDGET).await.unwrap();
    let (Added::New(before), Added::New(after)) = (before, after) else { panic!() };
    assert_ne!(before.epoch, after.epoch, "another server's stream");

    // The old master comes back as a replica, and waits are for it again.
    cluster.node(1).start_again().await.unwrap();
    let slave = async || cluster.ask::<String>(1, &["INFO", "replication"]).await.unwrap().contains("link_status:up");
    until("the old master follows the new one", slave).await;
    assert_eq!(queue.push(&chats[1][0], &entry(100)).await, PushOutcome::Accepted);
}

#[tokio::test]
async fn without_any_node_the_cluster_is_away_and_without_the_first_seed_it_is_not() {
    let cluster = cluster(Role::Cache).await;
    cluster.node(0).kill9().await.unwrap();
    let connection = connect_cluster(&cluster);
    connection.ping(BUDGET).await.unwrap();
    cluster.node(1).kill9().await.unwrap();
    cluster.node(2).kill9().await.unwrap();
    until("the end of the last connection is noticed", async || !connection.is_connected()).await;
    let error = connection.ping(SHORT).await.unwrap_err();
    assert!(matches!(error, RedisError::Unavailable { maybe_applied: false, .. }) && error.is_unavailable(), "{error}");
}
