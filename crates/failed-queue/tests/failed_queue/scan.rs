//! Scans over a server's keys, whatever somebody else has put there.

use holdfast_failed_queue::{FailedQueue, FailedQueueSettings, PushOutcome, QueueEntry};
use holdfast_keys::Keys;
use holdfast_message::record;
use holdfast_testkit::Role;

use crate::support::{BUDGET, chat, connect, message, raw, server};

async fn set(url: &str, key: &[u8]) {
    let _: () = redis::cmd("SET").arg(key).arg("x").query_async(&mut raw(url).await).await.unwrap();
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
