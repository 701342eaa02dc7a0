//! After an outage that touched many chats each chat's message is replayed once, beside live traffic.
//!
//! With `HOLDFAST_REPLAY_CHATS=20000` and `--nocapture` it measures.

use std::time::{Duration, Instant};

use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_testkit::unique;

use crate::support::{Gateway, failed_queue, queue_failed, send, settings};

/// Queues one message in each of so many chats.
async fn fill(settings: &[(String, String)], chats: usize) {
    let queue = failed_queue(settings);
    let sender = UserId::parse("alice").unwrap();
    for number in 0..chats {
        let receiver = UserId::parse(&format!("u{number}")).unwrap();
        let chat = ChatId::direct(&sender, &receiver).unwrap();
        let mut id = [7; 16];
        id[..8].copy_from_slice(&(number as u64).to_be_bytes());
        let message = Message {
            id: MessageId::from_bytes(id),
            temp_id: None,
            receiver: Some(receiver),
            chat,
            sender: sender.clone(),
            content: format!("kept {number}"),
            image_url: None,
            public_id: None,
            timestamp: 1_700_000_000_000,
        };
        queue_failed(&queue, &message).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn many_chats_are_replayed_once_each_beside_live_traffic() {
    let chats = std::env::var("HOLDFAST_REPLAY_CHATS").map_or(600, |chats| chats.parse().unwrap());
    let settings = settings(&[("FAILED_QUEUE_REPLAY_RATE", "1000")]).await;
    fill(&settings, chats).await;
    let gateway = Gateway::start(settings).await;
    let (client, _events) = gateway.connect(&unique("carol")).await;
    let (started, friend) = (Instant::now(), unique("dave"));
    let mut took = Vec::new();
    while gateway.metric("holdfast_failed_queue_replayed_total").await < chats as f64 {
        assert!(started.elapsed() < Duration::from_secs(900), "not replayed");
        let sent = Instant::now();
        send(&client, &friend, "live").await;
        took.push(sent.elapsed());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    took.sort();
    println!(
        "{chats} chats in {:?}; {} live sends meanwhile, answered in {:?} (median), {:?} (99 %)",
        started.elapsed(),
        took.len(),
        took[took.len() / 2],
        took[took.len() * 99 / 100],
    );
    assert_eq!(gateway.metric("holdfast_failed_queue_replayed_total").await, chats as f64, "none of them twice");
}
