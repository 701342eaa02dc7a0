//! Slots that move from one node to another while calls go on.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use holdfast_cache::recent::{Added, Attempt};
use holdfast_failed_queue::{PushOutcome, QueueEntry};
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_redis::RedisError;
use holdfast_testkit::{LIVENESS, RedisCluster, Role};

use crate::cluster::{entry, queue_on};
use crate::support::{BUDGET, chat, cluster, connect_cluster, list_on, message, read};

/// By the specification, bit by bit.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(
            crc ^ u16::from(*byte) << 8,
            |crc: u16, _| {
                if crc & 0x8000 == 0 { crc << 1 } else { crc << 1 ^ 0x1021 }
            },
        )
    })
}

fn slot(chat: &ChatId) -> u16 {
    crc16(chat.as_str().as_bytes()) % 16_384
}

/// Another chat of the same slot.
fn neighbour(of: &ChatId) -> ChatId {
    std::iter::repeat_with(chat).find(|other| slot(other) == slot(of)).unwrap()
}

/// Where else a slot may go.
async fn elsewhere(cluster: &RedisCluster, slot: u16) -> usize {
    (cluster.owner_of(slot).await.unwrap() + 1) % 3
}

#[tokio::test]
async fn a_key_is_asked_for_where_its_slot_goes_and_a_move_is_followed_once() {
    let cluster = cluster(Role::Queue).await;
    let queue = queue_on(&cluster);
    let here = chat();
    let new = neighbour(&here);
    let slot = slot(&here);
    assert_eq!(cluster.slot_of(&Keys::default().failed(&here)).await.unwrap(), slot);
    assert_eq!(queue.push(&here, &entry(1)).await, PushOutcome::Accepted);

    let to = elsewhere(&cluster, slot).await;
    let from = cluster.owner_of(slot).await.unwrap();
    let under_way = cluster.begin_move(slot, to).await.unwrap();
    // What is here stays here until it is moved; what is nowhere is made there.
    assert_eq!(queue.push(&here, &entry(2)).await, PushOutcome::Accepted);
    assert_eq!(queue.push(&new, &entry(3)).await, PushOutcome::Accepted);
    assert_eq!(queue.heads(&new, 10, BUDGET).await.unwrap().len(), 1);
    while under_way.keys(1).await.unwrap() > 0 {}
    assert_eq!(queue.push(&here, &entry(4)).await, PushOutcome::Accepted);
    assert_eq!(queue.heads(&here, 10, BUDGET).await.unwrap().len(), 3);
    under_way.finish().await.unwrap();

    for number in 5..100 {
        assert_eq!(queue.push(&here, &entry(number)).await, PushOutcome::Accepted);
        assert_eq!(queue.push(&new, &entry(number)).await, PushOutcome::Accepted);
    }
    assert_eq!(queue.heads(&here, 1000, BUDGET).await.unwrap().len(), 98);
    let errors: String = cluster.ask(from, &["INFO", "errorstats"]).await.unwrap();
    let moved = errors.lines().find_map(|line| line.strip_prefix("errorstat_MOVED:count=")).unwrap();
    assert!(moved.parse::<u32>().unwrap() <= 5, "calls go straight to the new node: {errors}");
}

#[tokio::test]
async fn a_list_whose_keys_lie_apart_is_unavailable_for_that_long_and_nothing_was_applied() {
    let cluster = cluster(Role::Cache).await;
    let list = list_on(connect_cluster(&cluster), 100, 1000);
    let here = chat();
    let new = neighbour(&here);
    let slot = slot(&here);
    list.add(&message(&here, 1, 5), Attempt(1), BUDGET).await.unwrap();
    let epoch = read(&list, &here).await.position.epoch;

    let to = elsewhere(&cluster, slot).await;
    let under_way = cluster.begin_move(slot, to).await.unwrap();
    list.add(&message(&here, 2, 6), Attempt(1), BUDGET).await.unwrap();
    under_way.keys(1).await.unwrap();
    let short = Duration::from_millis(50);
    for (chat, number) in [(&here, 3), (&new, 1)] {
        // The move goes on until after this has returned: only the caller's deadline can have ended the call.
        let error = list.add(&message(chat, number, 7), Attempt(1), short).await.unwrap_err();
        assert!(matches!(error, RedisError::NodeUnavailable { maybe_applied: false, .. }), "{error}");
    }
    // Whoever has the time waits for the end of the move.
    let third = message(&here, 3, 7);
    let (added, ()) = tokio::join!(list.add(&third, Attempt(1), BUDGET), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        while under_way.keys(1).await.unwrap() > 0 {}
        under_way.finish().await.unwrap();
    });
    assert!(matches!(added, Ok(Added::New(_))), "{added:?}");
    assert!(matches!(list.add(&message(&new, 1, 7), Attempt(1), BUDGET).await, Ok(Added::New(_))));
    assert_ne!(read(&list, &here).await.position.epoch, epoch, "the stream is another server's now");
}

#[tokio::test]
async fn a_slot_that_moves_in_the_midst_of_traffic_loses_nothing_and_keeps_nobody_waiting() {
    let cluster = cluster(Role::Queue).await;
    let (queue, list) = (queue_on(&cluster), list_on(connect_cluster(&cluster), 100, 1000));
    let chats = {
        let first = chat();
        [first.clone(), neighbour(&first), neighbour(&first)]
    };
    let moving = slot(&chats[0]);
    let done = AtomicBool::new(false);
    let push = async |chat: &ChatId| {
        let (mut accepted, mut longest) = (Vec::new(), Duration::ZERO);
        for number in 0_u32.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let entry = QueueEntry { queued_at: 5, traceparent: None, record: Bytes::from(format!("{number:06}")) };
            let started = Instant::now();
            match queue.push(chat, &entry).await {
                PushOutcome::Accepted => accepted.push(entry.encode()),
                other => panic!("{other:?}"),
            }
            longest = longest.max(started.elapsed());
            tokio::task::yield_now().await;
        }
        (accepted, longest)
    };
    let send = async |chat: &ChatId| {
        let (mut longest, mut sent) = (Duration::ZERO, 0);
        for number in 1_u32.. {
            if done.load(Ordering::Relaxed) {
                break;
            }
            let message = message(chat, number, i64::from(number));
            let started = Instant::now();
            // As the gateway does, in small budgets and again.
            loop {
                match list.add(&message, Attempt(number), Duration::from_millis(50)).await {
                    Ok(Added::New(_) | Added::Own(_)) => break,
                    Ok(repeat) => panic!("{repeat:?}"),
                    Err(error) => assert!(error.is_transient() && started.elapsed() < LIVENESS, "{error}"),
                }
            }
            longest = longest.max(started.elapsed());
            sent += 1;
        }
        (longest, sent)
    };
    let moves = async {
        for _ in 0..6 {
            tokio::time::sleep(Duration::from_millis(200)).await;
            let to = elsewhere(&cluster, moving).await;
            let under_way = cluster.begin_move(moving, to).await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
            while under_way.keys(2).await.unwrap() > 0 {}
            under_way.finish().await.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
        done.store(true, Ordering::Relaxed);
    };
    let (one, two, sent, ()) = tokio::join!(push(&chats[0]), push(&chats[1]), send(&chats[2]), moves);
    for (chat, (accepted, longest)) in chats.iter().zip([one, two]) {
        let mut held = Vec::new();
        for head in queue.heads(chat, 1_000_000, BUDGET).await.unwrap() {
            held.push(head.bytes);
        }
        assert!(accepted.len() > 100, "there was traffic: {}", accepted.len());
        assert_eq!(held, accepted, "each once, in order");
        assert!(longest < Duration::from_secs(2), "{longest:?}");
    }
    let (longest, count) = sent;
    assert!(count > 100 && longest < Duration::from_secs(2), "{count} {longest:?}");
    let leased: BTreeSet<_> = queue.indexed_chats(BUDGET).await.unwrap().into_iter().collect();
    assert!(leased.contains(&chats[0]) && leased.contains(&chats[1]));
}
