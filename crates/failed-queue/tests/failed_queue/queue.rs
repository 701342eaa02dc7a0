//! Pushing, leasing, popping and finishing, and the races between them.

use std::time::Duration;

use bytes::Bytes;
use holdfast_failed_queue::{
    DeadEntry, EntryError, FURTHEST, FailedQueue, FailedQueueSettings, FinishAs, Lease, PushOutcome, QueueEntry,
    QueueStats, Refusal, Taken,
};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, record};
use holdfast_testkit::{Role, until};

use crate::support::{BUDGET, chat, connect, message, messages, number_of, raw, server};

const LEASE: Duration = Duration::from_secs(30);

/// A queue on a server of its own, for the index is one key.
async fn fresh() -> (holdfast_testkit::Redis, FailedQueue) {
    let server = server(Role::Queue, &[]).await;
    let queue = queue(&server.url());
    (server, queue)
}

fn queue(url: &str) -> FailedQueue {
    let settings = FailedQueueSettings { timeout: BUDGET, ..FailedQueueSettings::default() };
    FailedQueue::new(connect(url), Keys::default(), settings)
}

fn entry(message: &Message) -> QueueEntry {
    let traceparent = Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into());
    QueueEntry { queued_at: message.timestamp, traceparent, record: record::encode(message).into() }
}

async fn push(queue: &FailedQueue, message: &Message) {
    assert_eq!(queue.push(&message.chat, &entry(message)).await, PushOutcome::Accepted);
}

async fn lease(queue: &FailedQueue) -> Vec<Lease> {
    queue.lease(100, LEASE, BUDGET).await.unwrap()
}

/// The one chat that is due, or will be within a millisecond.
async fn due(queue: &FailedQueue, length: Duration) -> Lease {
    let mut leased = None;
    until("a chat is due", async || {
        leased = queue.lease(1, length, BUDGET).await.unwrap().pop();
        leased.is_some()
    })
    .await;
    leased.unwrap()
}

async fn heads(queue: &FailedQueue, chat: &ChatId) -> Vec<Bytes> {
    queue.heads(chat, 100, BUDGET).await.unwrap().into_iter().map(|head| head.bytes).collect()
}

async fn pop(queue: &FailedQueue, chat: &ChatId, published: &[Bytes]) -> Taken {
    queue.pop_published(chat, published, BUDGET).await.unwrap()
}

async fn finish(queue: &FailedQueue, lease: &Lease, how: FinishAs) -> bool {
    queue.finish(lease, how, BUDGET).await.unwrap()
}

#[tokio::test]
async fn what_is_pushed_is_leased_published_and_gone() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    assert!(queue.indexed_chats(BUDGET).await.unwrap().is_empty());
    let sent = messages(&chat, 3);
    for message in &sent {
        push(&queue, message).await;
    }
    assert!(!queue.indexed_chats(BUDGET).await.unwrap().is_empty());
    let taken = due(&queue, LEASE).await;
    assert_eq!(taken.chat, chat);
    assert_eq!(lease(&queue).await, [], "taken");

    let heads = queue.heads(&chat, 2, BUDGET).await.unwrap();
    let decoded: Vec<_> = heads.iter().map(|head| head.entry.clone().unwrap()).collect();
    assert_eq!(decoded, [entry(&sent[0]), entry(&sent[1])]);
    assert_eq!(record::decode(&decoded[0].record).unwrap(), sent[0]);
    let published: Vec<_> = heads.into_iter().map(|head| head.bytes).collect();
    assert_eq!(pop(&queue, &chat, &published).await, Taken { removed: 2, left: 1 });
    let published = self::heads(&queue, &chat).await;
    assert_eq!(pop(&queue, &chat, &published).await, Taken { removed: 1, left: 0 });
    assert!(finish(&queue, &taken, FinishAs::Empty).await);
    assert!(queue.indexed_chats(BUDGET).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_push_between_seen_empty_and_finish_keeps_the_chat_in_the_index() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    let sent = messages(&chat, 2);
    push(&queue, &sent[0]).await;
    let lease = due(&queue, LEASE).await;
    let published = heads(&queue, &chat).await;
    assert_eq!(pop(&queue, &chat, &published).await.left, 0);
    push(&queue, &sent[1]).await;
    assert!(!finish(&queue, &lease, FinishAs::Empty).await);
    assert!(!queue.indexed_chats(BUDGET).await.unwrap().is_empty());
    assert_eq!(heads(&queue, &chat).await.len(), 1);
}

#[tokio::test]
async fn a_score_from_before_the_clock_went_back_is_due() {
    let (server, queue) = fresh().await;
    let (waiting, lost) = (chat(), chat());
    for chat in [&waiting, &lost] {
        push(&queue, &message(chat, 1, 5)).await;
    }
    let mut raw = raw(&server.url()).await;
    let (now, _): (u64, u64) = redis::cmd("TIME").query_async(&mut raw).await.unwrap();
    let furthest = FURTHEST.as_secs();
    for (chat, ahead) in [(&waiting, furthest - 5), (&lost, furthest + 5)] {
        let _: () = redis::cmd("ZADD")
            .arg(Keys::default().failed_index())
            .arg((now + ahead) * 1000)
            .arg(chat.as_str())
            .query_async(&mut raw)
            .await
            .unwrap();
    }
    let leases = queue.lease(100, Duration::MAX, BUDGET).await.unwrap();
    assert_eq!(leases.iter().map(|lease| &lease.chat).collect::<Vec<_>>(), [&lost]);
    assert_eq!(lease(&queue).await, [], "the longest lease is no such score");
}

#[tokio::test]
async fn a_push_whose_gateway_died_before_the_index_is_found_by_repair() {
    let (server, queue) = fresh().await;
    let chat = chat();
    let mut raw = raw(&server.url()).await;
    let key = Keys::default().failed(&chat);
    let _: () =
        redis::cmd("RPUSH").arg(&key).arg(&*entry(&message(&chat, 1, 5)).encode()).query_async(&mut raw).await.unwrap();
    // Neither dead lists nor other keys are taken for queues.
    for key in [Keys::default().failed_dead(&super::support::chat()), "chat:failed:{x}".into()] {
        let _: () = redis::cmd("RPUSH").arg(key).arg("x").query_async(&mut raw).await.unwrap();
    }
    for number in 0..500 {
        let _: () = redis::cmd("SET").arg(format!("other:{number}")).arg("x").query_async(&mut raw).await.unwrap();
    }
    assert_eq!(lease(&queue).await, []);
    let start = queue.cursors(BUDGET).await.unwrap().pop();
    let (mut cursor, mut added, mut steps) = (start.clone(), 0, 0);
    while let Some(from) = cursor {
        let step = queue.repair_index(from, 50, BUDGET).await.unwrap();
        (cursor, added, steps) = (step.next, added + step.added, steps + 1);
    }
    assert_eq!(added, 1);
    assert!(steps > 3, "each step is bounded");
    assert_eq!(lease(&queue).await[0].chat, chat);
    assert_eq!(queue.repair_index(start.unwrap(), 10_000, BUDGET).await.unwrap().added, 0, "a lease is left alone");
}

#[tokio::test]
async fn two_retriers_and_a_thawed_one_remove_nothing_but_what_each_published() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    let sent = messages(&chat, 4);
    for message in &sent[..3] {
        push(&queue, message).await;
    }
    let lease = due(&queue, Duration::from_millis(1)).await;
    let frozen = heads(&queue, &chat).await;
    // Another takes over, publishes two, and a message is pushed.
    tokio::time::sleep(Duration::from_millis(10)).await;
    let second = due(&queue, LEASE).await;
    assert_eq!(pop(&queue, &chat, &frozen[..2]).await, Taken { removed: 2, left: 1 });
    push(&queue, &sent[3]).await;
    // The first one thaws: it has published all three by now.
    assert_eq!(pop(&queue, &chat, &frozen).await, Taken { removed: 0, left: 2 });
    assert!(!finish(&queue, &lease, FinishAs::Empty).await);
    let left = heads(&queue, &chat).await;
    assert_eq!(left, [frozen[2].clone(), entry(&sent[3]).encode()]);
    assert_eq!(pop(&queue, &chat, &left).await, Taken { removed: 2, left: 0 });
    assert!(!finish(&queue, &second, FinishAs::Empty).await, "touched by the push");
    assert!(!queue.indexed_chats(BUDGET).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_failed_attempt_waits_its_turn_and_a_push_does_not_shorten_the_wait() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    push(&queue, &message(&chat, 1, 5)).await;
    let first = due(&queue, LEASE).await;
    assert!(finish(&queue, &first, FinishAs::NextAttempt(Duration::from_secs(20))).await);
    push(&queue, &message(&chat, 2, 6)).await;
    assert_eq!(lease(&queue).await, []);

    // One who no longer holds the lease can bring the next attempt forward, but not put it off.
    assert!(!finish(&queue, &first, FinishAs::NextAttempt(Duration::from_secs(60))).await);
    assert!(!finish(&queue, &first, FinishAs::NextAttempt(Duration::ZERO)).await);
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(lease(&queue).await.len(), 1);
}

#[tokio::test]
async fn a_lease_that_was_touched_can_still_back_off() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    push(&queue, &message(&chat, 1, 5)).await;
    let lease = due(&queue, LEASE).await;
    push(&queue, &message(&chat, 2, 6)).await;
    assert!(!finish(&queue, &lease, FinishAs::NextAttempt(Duration::from_millis(1))).await);
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(self::lease(&queue).await.len(), 1);
}

#[tokio::test]
async fn ten_thousand_pushes_hardly_move_a_lease() {
    let (server, queue) = fresh().await;
    let chat = chat();
    push(&queue, &message(&chat, 1, 5)).await;
    let lease = due(&queue, LEASE).await;
    let entry = entry(&message(&chat, 2, 6));
    let mut last = f64::from(0);
    let mut raw = raw(&server.url()).await;
    for _ in 0..20 {
        let pushes = (0..100).map(|_| queue.push(&chat, &entry));
        let outcomes = futures_util::future::join_all(pushes).await;
        assert!(outcomes.iter().all(|outcome| *outcome == PushOutcome::Accepted));
        let index = Keys::default().failed_index();
        let score: f64 = redis::cmd("ZSCORE").arg(index).arg(chat.as_str()).query_async(&mut raw).await.unwrap();
        assert!(score > last);
        last = score;
    }
    assert!(last > lease.until as f64 && last < lease.until as f64 + 3.0, "{last} {}", lease.until);
}

#[tokio::test]
async fn what_cannot_be_read_is_buried_with_its_reason_and_what_is_newer_waits() {
    let (server, queue) = fresh().await;
    let chat = chat();
    let mut raw = raw(&server.url()).await;
    let key = Keys::default().failed(&chat);
    let newer: &[u8] = &[0x92, 9, 0xc0];
    let _: () = redis::cmd("RPUSH").arg(&key).arg("garbage").arg(newer).query_async(&mut raw).await.unwrap();
    push(&queue, &message(&chat, 1, 5)).await;
    let heads = queue.heads(&chat, 9, BUDGET).await.unwrap();
    let kinds: Vec<_> = heads.iter().map(|head| head.entry.as_ref().err()).collect();
    assert_eq!(kinds, [Some(&EntryError::Malformed), Some(&EntryError::Newer), None]);
    let other = Bytes::from_static(b"other");
    let bury = async |bytes: &Bytes| queue.bury(&chat, bytes, "malformed", 7, BUDGET).await.unwrap();
    assert_eq!(bury(&other).await, Taken { removed: 0, left: 3 });
    assert_eq!(bury(&heads[0].bytes).await, Taken { removed: 1, left: 2 });
    let dead = queue.dead(&chat, 0, 10, BUDGET).await.unwrap();
    let expected = DeadEntry { buried_at: 7, reason: "malformed".into(), entry: Bytes::from_static(b"garbage") };
    assert_eq!(dead, [Ok(expected)]);

    let peeked = queue.peek(&chat, 10, BUDGET).await.unwrap();
    assert_eq!((peeked.messages.len(), peeked.undecodable, peeked.more), (1, 1, false));
}

#[tokio::test]
async fn a_peek_shows_the_newest() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    for message in &messages(&chat, 5) {
        push(&queue, message).await;
    }
    let peeked = queue.peek(&chat, 2, BUDGET).await.unwrap();
    assert_eq!(peeked.messages.iter().map(number_of).collect::<Vec<_>>(), [4, 5]);
    assert!(peeked.more);
    assert!(!queue.peek(&chat, 5, BUDGET).await.unwrap().more);
    assert!(queue.peek(&super::support::chat(), 5, BUDGET).await.unwrap().messages.is_empty());
}

#[tokio::test]
async fn a_peek_shows_what_was_replayed_last() {
    let (_server, queue) = fresh().await;
    let chat = chat();
    let messages = messages(&chat, 3);
    for message in &messages {
        push(&queue, message).await;
    }
    let replayed = async || queue.peek(&chat, 5, BUDGET).await.unwrap().replayed;
    assert_eq!(replayed().await, []);
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    let published = heads(&queue, &chat).await;
    pop(&queue, &chat, &published[..2]).await;
    assert_eq!(replayed().await, ids[..2]);
    pop(&queue, &chat, &published[2..]).await;
    assert_eq!(replayed().await, ids);
    // Of many more the newest are remembered.
    for message in &super::support::messages(&chat, 100) {
        push(&queue, message).await;
    }
    let published = heads(&queue, &chat).await;
    pop(&queue, &chat, &published).await;
    assert_eq!(replayed().await.len(), 64);
}

#[tokio::test]
async fn the_stats_count_every_chat_up_to_the_bound() {
    let (_server, queue) = fresh().await;
    assert_eq!(queue.stats(10, BUDGET).await.unwrap(), QueueStats::default());
    for number in 1..=3_u32 {
        let chat = chat();
        push(&queue, &message(&chat, number, 1000 - i64::from(number))).await;
        push(&queue, &message(&chat, number, 5)).await;
    }
    let stats = queue.stats(10, BUDGET).await.unwrap();
    let expected = QueueStats { chats: 3, messages: 6, oldest_queued_at: Some(997), partial: false };
    assert_eq!(stats, expected);
    assert!(queue.stats(2, BUDGET).await.unwrap().partial);
}

#[tokio::test]
async fn a_full_server_refuses_pushes_and_drains_nevertheless() {
    let (server, queue) = fresh().await;
    let chat = chat();
    let sent = messages(&chat, 4);
    for message in &sent[..3] {
        push(&queue, message).await;
    }
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut raw).await.unwrap();
    let refused = queue.push(&chat, &entry(&sent[3])).await;
    assert!(matches!(&refused, PushOutcome::Refused(Refusal::Server(text)) if text.contains("OOM")), "{refused:?}");

    let lease = due(&queue, LEASE).await;
    let published = heads(&queue, &chat).await;
    assert_eq!(pop(&queue, &chat, &published[..1]).await, Taken { removed: 1, left: 2 });
    let buried = queue.bury(&chat, &published[1], "too large", 7, BUDGET).await.unwrap();
    assert_eq!(buried, Taken { removed: 1, left: 1 });
    assert!(finish(&queue, &lease, FinishAs::NextAttempt(Duration::ZERO)).await);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let lease = due(&queue, LEASE).await;
    assert_eq!(pop(&queue, &chat, &published[2..]).await, Taken { removed: 1, left: 0 });
    assert!(finish(&queue, &lease, FinishAs::Empty).await);
    assert!(queue.indexed_chats(BUDGET).await.unwrap().is_empty());
}
