//! An append-only file that does not hold everything yet retains nothing, whatever its server says of it.
//!
//! `rdb-key-save-delay` makes the server's child sleep after each key, so that a rewrite lasts for as long as a test needs it.

use bytes::Bytes;
use holdfast_failed_queue::{Durability, FailedQueue, FailedQueueSettings, PushOutcome, QueueEntry, Refusal, Warning};
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_testkit::{Redis, Role, until};
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, chat, connect, raw, server};

/// Microseconds for each key: with a hundred keys a rewrite outlasts every test.
const SLOW: &str = "1000000";

fn queue(server: &Redis) -> FailedQueue {
    let settings =
        FailedQueueSettings { timeout: BUDGET, durability: Durability::Checked, ..FailedQueueSettings::default() };
    FailedQueue::new(connect(&server.url()), Keys::default(), settings)
}

async fn push(queue: &FailedQueue, chat: &ChatId) -> PushOutcome {
    let entry = QueueEntry { queued_at: 5, traceparent: None, record: Bytes::from_static(b"record") };
    queue.push(chat, &entry).await
}

async fn len(server: &Redis, chat: &ChatId) -> u32 {
    let key = Keys::default().failed(chat);
    redis::cmd("LLEN").arg(key).query_async(&mut raw(&server.url()).await).await.unwrap()
}

async fn set(raw: &mut MultiplexedConnection, name: &str, value: &str) {
    redis::cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(raw).await.unwrap();
}

async fn info(raw: &MultiplexedConnection) -> String {
    redis::cmd("INFO").arg("persistence").query_async(&mut raw.clone()).await.unwrap()
}

async fn rewritten(raw: &MultiplexedConnection) {
    let done = async || {
        let info = info(raw).await;
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    };
    until("the rewrite is done", done).await;
}

/// Makes keys, so that a rewrite has something to do.
async fn fill(raw: &mut MultiplexedConnection) {
    for number in 0..100 {
        redis::cmd("SET").arg(format!("key{number}")).arg("value").exec_async(raw).await.unwrap();
    }
}

#[tokio::test]
async fn a_file_that_is_being_switched_on_takes_nothing_before_it_retains_what_it_takes() {
    let server = server(Role::Queue, &[]).await;
    let mut raw = raw(&server.url()).await;
    set(&mut raw, "appendonly", "no").await;
    fill(&mut raw).await;
    let (old, chat) = (queue(&server), chat());
    assert_eq!(push(&old, &chat).await, PushOutcome::Refused(Refusal::NoAppendOnlyFile));
    set(&mut raw, "rdb-key-save-delay", SLOW).await;
    set(&mut raw, "appendonly", "yes").await;

    let new = queue(&server);
    for queue in [&new, &old] {
        let outcome = push(queue, &chat).await;
        if outcome == PushOutcome::Accepted {
            server.kill9().await.unwrap();
            server.start_again().await.unwrap();
            panic!("accepted, and after a kill the server has {} of it", len(&server, &chat).await);
        }
    }
    until("the one that saw it switched off says so, too", async || {
        push(&old, &chat).await == PushOutcome::Refused(Refusal::FirstRewrite)
    })
    .await;
    assert_eq!(push(&new, &chat).await, PushOutcome::Refused(Refusal::FirstRewrite));
    assert_eq!(new.check(BUDGET).await, Err(Refusal::FirstRewrite));

    // The next first rewrite takes no time.
    set(&mut raw, "appendonly", "no").await;
    set(&mut raw, "rdb-key-save-delay", "0").await;
    set(&mut raw, "appendonly", "yes").await;
    rewritten(&raw).await;
    until("it takes messages", async || push(&new, &chat).await == PushOutcome::Accepted).await;
    let accepted = len(&server, &chat).await;
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(len(&server, &chat).await, accepted);
}

#[tokio::test]
async fn a_file_that_was_off_and_on_again_between_two_pushes_takes_nothing_either() {
    let server = server(Role::Queue, &[]).await;
    let (queue, chat) = (queue(&server), chat());
    let mut raw = raw(&server.url()).await;
    fill(&mut raw).await;
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    set(&mut raw, "rdb-key-save-delay", SLOW).await;
    set(&mut raw, "appendonly", "no").await;
    set(&mut raw, "appendonly", "yes").await;
    assert_eq!(push(&queue, &chat).await, PushOutcome::Refused(Refusal::FirstRewrite));
}

#[tokio::test]
async fn a_file_that_is_switched_off_takes_nothing_from_the_next_push_on() {
    let server = server(Role::Queue, &[]).await;
    let (queue, chat) = (queue(&server), chat());
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    set(&mut raw(&server.url()).await, "appendonly", "no").await;
    assert_eq!(push(&queue, &chat).await, PushOutcome::Refused(Refusal::NoAppendOnlyFile));
    assert_eq!(queue.check(BUDGET).await, Err(Refusal::NoAppendOnlyFile));
}

#[tokio::test]
async fn an_ordinary_rewrite_closes_nothing() {
    let server = server(Role::Queue, &["--rdb-key-save-delay", SLOW]).await;
    let (old, chat) = (queue(&server), chat());
    let mut raw = raw(&server.url()).await;
    fill(&mut raw).await;
    assert_eq!(push(&old, &chat).await, PushOutcome::Accepted);
    redis::cmd("BGREWRITEAOF").exec_async(&mut raw).await.unwrap();
    assert!(info(&raw).await.contains("aof_rewrite_in_progress:1"));
    // One that has seen the file complete, and one that comes now and finds that nobody has changed a setting.
    for queue in [&old, &queue(&server)] {
        assert_eq!(push(queue, &chat).await, PushOutcome::Accepted);
        assert_eq!(queue.check(BUDGET).await, Ok(()));
    }
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(len(&server, &chat).await, 3);
}

#[tokio::test]
async fn a_file_that_is_not_synced_while_it_is_rewritten_takes_nothing_for_so_long() {
    let server = server(Role::Queue, &["--rdb-key-save-delay", SLOW, "--no-appendfsync-on-rewrite", "yes"]).await;
    let (queue, chat) = (queue(&server), chat());
    let mut raw = raw(&server.url()).await;
    fill(&mut raw).await;
    assert_eq!(push(&queue, &chat).await, PushOutcome::Accepted);
    assert!(queue.warnings().contains(&Warning::SyncStopsWhileRewriting));
    redis::cmd("BGREWRITEAOF").exec_async(&mut raw).await.unwrap();
    assert_eq!(push(&queue, &chat).await, PushOutcome::Refused(Refusal::SyncSuspended));
}

#[tokio::test]
async fn settings_that_are_in_no_file_are_pointed_out() {
    let server = server(Role::Queue, &[]).await;
    let (queue, mut raw) = (queue(&server), raw(&server.url()).await);
    let is_pointed_out = |queue: &FailedQueue| {
        queue.warnings().iter().any(|warning| matches!(warning, Warning::NotInItsFile { file: None }))
    };
    assert_eq!(queue.check(BUDGET).await, Ok(()));
    assert!(!is_pointed_out(&queue), "all is as it was started");
    set(&mut raw, "appendonly", "no").await;
    set(&mut raw, "appendonly", "yes").await;
    rewritten(&raw).await;
    until("the queue takes messages", async || queue.check(BUDGET).await.is_ok()).await;
    assert!(is_pointed_out(&queue), "{:?}", queue.warnings());
}
