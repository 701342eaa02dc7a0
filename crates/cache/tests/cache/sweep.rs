//! Walks over a server's keys, whatever somebody else has put there.

use holdfast_cache::failed::{FailedQueueSettings, PushOutcome, QueueEntry};
use holdfast_cache::sweep::{Page, Sweep};
use holdfast_cache::{FailedQueue, Keys};
use holdfast_message::record;
use holdfast_testkit::Role;

use crate::support::{BUDGET, chat, connect, message, raw, server};

/// Everything that a walk meets, each key once.
async fn met(url: &str, pattern: &str) -> Page {
    let mut walk = Sweep::start(&connect(url), pattern, BUDGET).await.unwrap();
    let mut met = Page::default();
    while let Some(page) = walk.next(10, BUDGET).await.unwrap() {
        met.names.extend(page.names);
        met.foreign += page.foreign;
    }
    met.names.sort();
    met.names.dedup();
    met
}

async fn set(url: &str, key: &[u8]) {
    let _: () = redis::cmd("SET").arg(key).arg("x").query_async(&mut raw(url).await).await.unwrap();
}

#[tokio::test]
async fn keys_that_are_no_utf_8_are_counted_and_passed_over() {
    let server = server(Role::Cache, &[]).await;
    for key in [&b"a session \xc3\x28"[..], b"\xff", "ä".as_bytes(), b"chat:v1:online", b"line\nbreak"] {
        set(&server.url(), key).await;
    }
    let all = met(&server.url(), "*").await;
    assert_eq!((all.names, all.foreign), (vec!["chat:v1:online".into(), "line\nbreak".into(), "ä".into()], 2));
    assert_eq!(met(&server.url(), "chat:*").await, Page { names: vec!["chat:v1:online".into()], foreign: 0 });
    assert!(met(&server.url(), "nobody:*").await.is_empty());
}

#[tokio::test]
async fn a_failed_queue_is_found_beside_keys_that_are_no_utf_8() {
    let server = server(Role::Queue, &[]).await;
    set(&server.url(), b"chat:failed:{\xff}").await;
    let queue = FailedQueue::new(connect(&server.url()), Keys::default(), FailedQueueSettings::default());
    let chat = chat();
    let entry = QueueEntry { queued_at: 5, traceparent: None, record: record::encode(&message(&chat, 1, 1)).into() };
    assert_eq!(queue.push(&chat, &entry).await, PushOutcome::Accepted);
    let (mut cursors, mut chats) = (queue.cursors(BUDGET).await.unwrap(), Vec::new());
    while let Some(cursor) = cursors.pop() {
        let found = queue.find_chats(cursor, 10, BUDGET).await.unwrap();
        cursors.extend(found.next);
        chats.extend(found.chats);
    }
    chats.dedup();
    assert_eq!(chats, [chat]);
}
