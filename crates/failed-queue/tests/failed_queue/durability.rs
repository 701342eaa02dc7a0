//! What the queue takes is kept, or it does not take it.

use std::time::Duration;

use bytes::Bytes;
use holdfast_failed_queue::{Durability, FailedQueue, FailedQueueSettings, PushOutcome, QueueEntry, Refusal};
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_redis::server_info;
use holdfast_testkit::{Proxy, Redis, Role, until};

use crate::support::{BUDGET, chat, connect, raw, server};

fn queue_with(url: &str, timeout: Duration, durability: Durability) -> FailedQueue {
    FailedQueue::new(connect(url), Keys::default(), FailedQueueSettings { timeout, durability, min_replicas: 0 })
}

fn queue(url: &str) -> FailedQueue {
    queue_with(url, BUDGET, Durability::Checked)
}

async fn push(queue: &FailedQueue, chat: &ChatId) -> PushOutcome {
    let entry = QueueEntry { queued_at: 5, traceparent: None, record: Bytes::from_static(b"record") };
    queue.push(chat, &entry).await
}

async fn info(raw: &redis::aio::MultiplexedConnection, section: &str) -> String {
    redis::cmd("INFO").arg(section).query_async(&mut raw.clone()).await.unwrap()
}

async fn len(server: &Redis, chat: &ChatId) -> u32 {
    let key = Keys::default().failed(chat);
    redis::cmd("LLEN").arg(key).query_async(&mut raw(&server.url()).await).await.unwrap()
}

#[tokio::test]
async fn a_server_that_forgets_is_refused_whatever_is_assumed() {
    let chat = chat();
    for (args, expected) in [
        (vec![], Refusal::Evicts("allkeys-lru".into())),
        (vec!["--maxmemory-policy", "noeviction"], Refusal::NoAppendOnlyFile),
        (vec!["--maxmemory-policy", "noeviction", "--appendonly", "yes", "--appendfsync", "no"], Refusal::NeverSynced),
    ] {
        let server = server(Role::Cache, &args).await;
        for durability in [Durability::Checked, Durability::Assumed] {
            let queue = queue_with(&server.url(), BUDGET, durability);
            assert_eq!(push(&queue, &chat).await, PushOutcome::Refused(expected.clone()));
            assert_eq!(queue.check(BUDGET).await, Err(expected.clone()));
        }
        assert_eq!(len(&server, &chat).await, 0);
    }
}

#[tokio::test]
async fn settings_that_cannot_be_read_have_to_be_assumed() {
    let server = server(Role::Queue, &["--rename-command", "CONFIG", "HIDDEN"]).await;
    let chat = chat();
    let refused = push(&queue(&server.url()), &chat).await;
    assert_eq!(refused, PushOutcome::Refused(Refusal::Unreadable("maxmemory-policy")));
    let assuming = queue_with(&server.url(), BUDGET, Durability::Assumed);
    assert_eq!(push(&assuming, &chat).await, PushOutcome::Accepted);
}

#[tokio::test]
async fn what_was_accepted_survives_a_kill() {
    let server = server(Role::Queue, &[]).await;
    let queue = queue(&server.url());
    let chat = chat();
    for _ in 0..20 {
        assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    }
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(len(&server, &chat).await, 20);
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted, "it reconnects by itself");
}

#[tokio::test]
async fn the_settings_are_read_anew_before_the_first_push_on_a_new_connection() {
    let server = server(Role::Queue, &[]).await;
    let queue = queue(&server.url());
    let chat = chat();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("appendonly").arg("no").query_async(&mut raw).await.unwrap();
    let _: () = redis::cmd("CLIENT")
        .arg("KILL")
        .arg("SKIPME")
        .arg("yes")
        .arg("TYPE")
        .arg("normal")
        .query_async(&mut raw)
        .await
        .unwrap();
    // The next push may still meet the dying connection, and then nobody knows; it is never accepted.
    let mut outcome = push(&queue, &chat).await;
    while matches!(outcome, PushOutcome::Unknown(_)) {
        outcome = push(&queue, &chat).await;
    }
    assert_eq!(outcome, PushOutcome::Refused(Refusal::NoAppendOnlyFile));
}

/// A server and its replica, which is online.
async fn replicated() -> (Redis, Redis) {
    let server = server(Role::Queue, &["--repl-diskless-sync-delay", "0"]).await;
    let port = server.port().to_string();
    let replica = self::server(Role::Queue, &["--replicaof", "127.0.0.1", &port]).await;
    let mut raw = raw(&server.url()).await;
    loop {
        let info: String = redis::cmd("INFO").arg("replication").query_async(&mut raw).await.unwrap();
        if info.contains("state=online") {
            return (server, replica);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn while_a_replica_hangs_every_push_is_refused_by_its_own_deadline() {
    let (server, replica) = replicated().await;
    let queue = queue_with(&server.url(), Duration::from_secs(2), Durability::Checked);
    let chat = chat();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    replica.freeze().unwrap();
    // The first is waited for alone; those that come meanwhile share the next wait, with deadlines that lie apart.
    let pushes = (0..9).map(|number| {
        let (queue, chat) = (&queue, &chat);
        async move {
            tokio::time::sleep(Duration::from_millis(200 * number)).await;
            push(queue, chat).await
        }
    });
    for outcome in futures_util::future::join_all(pushes).await {
        assert_eq!(outcome, PushOutcome::Refused(Refusal::Replicas { reached: 0, wanted: 1 }));
    }
    replica.thaw().unwrap();
}

#[tokio::test]
async fn a_replica_is_waited_for_and_one_that_hangs_is_a_refusal() {
    let (server, replica) = replicated().await;
    let queue = queue_with(&server.url(), Duration::from_secs(1), Durability::Checked);
    let patient = queue_with(&server.url(), BUDGET, Durability::Checked);
    let chat = chat();
    let pushes = futures_util::future::join_all((0..50).map(|_| push(&patient, &chat))).await;
    assert!(pushes.iter().all(|outcome| *outcome == PushOutcome::Accepted), "{pushes:?}");
    assert_eq!(len(&replica, &chat).await, 50);

    replica.freeze().unwrap();
    let refused = push(&queue, &chat).await;
    assert_eq!(refused, PushOutcome::Refused(Refusal::Replicas { reached: 0, wanted: 1 }));
    replica.thaw().unwrap();
    assert_eq!(push(&patient, &chat).await, PushOutcome::Accepted);
    assert_eq!(push(&self::queue(&replica.url()), &chat).await, PushOutcome::Refused(Refusal::Replica));
}

#[tokio::test]
async fn a_master_that_has_lost_its_replicas_takes_nothing_if_so_many_are_wanted() {
    let (server, replica) = replicated().await;
    let settings = FailedQueueSettings { timeout: BUDGET, min_replicas: 1, ..FailedQueueSettings::default() };
    let queue = FailedQueue::new(connect(&server.url()), Keys::default(), settings);
    let chat = chat();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);

    replica.kill9().await.unwrap();
    // Until the master has noticed, its replica is waited for in vain.
    let short = FailedQueueSettings { timeout: Duration::from_secs(1), ..settings };
    let short = FailedQueue::new(connect(&server.url()), Keys::default(), short);
    let mut outcome = push(&short, &chat).await;
    while outcome == PushOutcome::Refused(Refusal::Replicas { reached: 0, wanted: 1 }) {
        outcome = push(&short, &chat).await;
    }
    let alone = Refusal::TooFewReplicas { online: 0, wanted: 1 };
    assert_eq!(outcome, PushOutcome::Refused(alone.clone()));
    assert_eq!(short.check(BUDGET).await, Err(alone));
    let queued = len(&server, &chat).await;
    assert!(matches!(push(&short, &chat).await, PushOutcome::Refused(_)));
    assert_eq!(len(&server, &chat).await, queued, "what is refused for that is not queued");
    // Nobody decided on a number: this one machine will do, as before.
    assert_eq!(push(&self::queue(&server.url()), &chat).await, PushOutcome::Accepted);

    replica.start_again().await.unwrap();
    until("it is taken again", async || push(&queue, &chat).await == PushOutcome::Accepted).await;
}

#[tokio::test]
async fn a_replica_that_has_come_since_the_last_push_is_waited_for() {
    let server = server(Role::Queue, &["--repl-diskless-sync-delay", "0"]).await;
    let queue = queue_with(&server.url(), Duration::from_secs(1), Durability::Checked);
    let chat = chat();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted, "there is none");

    let port = server.port().to_string();
    let replica = self::server(Role::Queue, &["--replicaof", "127.0.0.1", &port]).await;
    let raw = raw(&server.url()).await;
    until("the replica is online", async || info(&raw, "replication").await.contains("state=online")).await;
    replica.freeze().unwrap();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Refused(Refusal::Replicas { reached: 0, wanted: 1 }));
    replica.thaw().unwrap();
    let patient = queue_with(&server.url(), BUDGET, Durability::Checked);
    assert_eq!(push(&patient, &chat).await, PushOutcome::Accepted);
}

#[tokio::test]
async fn a_server_tells_whether_it_is_one_of_several() {
    let facts = async |server: &Redis| {
        let servers = server_info::servers(&connect(&server.url()), BUDGET).await.unwrap();
        servers[0].facts(BUDGET).await.unwrap()
    };
    let lone = server(Role::Queue, &[]).await;
    assert!(!facts(&lone).await.has_had_replicas);
    let told = server(Role::Queue, &["--min-replicas-to-write", "1"]).await;
    assert!(facts(&told).await.has_had_replicas);
    let (master, replica) = replicated().await;
    replica.kill9().await.unwrap();
    until("its loss is noticed", async || facts(&master).await.state.replicas == 0).await;
    assert!(facts(&master).await.has_had_replicas);
}

#[tokio::test]
async fn an_answer_that_is_lost_leaves_it_unknown_and_a_line_that_is_cut_refuses() {
    let server = server(Role::Queue, &[]).await;
    let proxy = Proxy::start(server.port()).await.unwrap();
    let queue = queue_with(&server.url_at(proxy.port()), Duration::from_millis(500), Durability::Checked);
    let chat = chat();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    proxy.drop_answers();
    assert!(matches!(push(&queue, &chat).await, PushOutcome::Unknown(_)));
    assert_eq!(len(&server, &chat).await, 2, "it was queued, and nobody knew");
    proxy.cut().await;
    // A connection that was lost a moment ago may not have been noticed yet.
    let mut outcome = push(&queue, &chat).await;
    while matches!(outcome, PushOutcome::Unknown(_)) {
        outcome = push(&queue, &chat).await;
    }
    assert!(matches!(outcome, PushOutcome::Refused(Refusal::Unreachable(_))), "{outcome:?}");
    proxy.heal().await.unwrap();
    let patient = queue_with(&server.url_at(proxy.port()), BUDGET, Durability::Checked);
    assert_eq!(push(&patient, &chat).await, PushOutcome::Accepted);
}
