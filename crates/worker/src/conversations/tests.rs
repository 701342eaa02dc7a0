use std::sync::Mutex;

use holdfast_message::{MessageId, UserId};
use holdfast_store::{BatchFailed, StoreError, Touched, Written};
use prometheus::Registry;

use super::*;

/// What was written to the view, one entry a write.
#[derive(Default)]
struct View(Mutex<Vec<Vec<Message>>>);

impl Sink for View {
    async fn insert(&self, _: &[Message]) -> Result<Vec<Written>, BatchFailed> {
        unreachable!("only the view is written")
    }
    async fn touch_conversations(&self, messages: &[Message]) -> Result<Touched, StoreError> {
        self.0.lock().unwrap().push(messages.to_vec());
        Ok(Touched::default())
    }
}

fn message(chat: &str, timestamp: i64, content: usize) -> Message {
    let (alice, friend) = (UserId::parse("alice").unwrap(), UserId::parse(chat).unwrap());
    Message {
        id: MessageId::from_bytes([1; 16]),
        temp_id: None,
        chat: ChatId::direct(&alice, &friend).unwrap(),
        sender: alice,
        receiver: Some(friend),
        content: "x".repeat(content),
        image_url: None,
        public_id: None,
        timestamp,
    }
}

#[tokio::test(start_paused = true)]
async fn a_chat_is_written_once_in_five_seconds_with_its_latest_message() {
    let (view, metrics) = (Arc::new(View::default()), Metrics::register(&Registry::new()).unwrap());
    let (conversations, done) = Conversations::start(view.clone(), metrics);
    for timestamp in 1..=40 {
        conversations.offer(vec![message("bob", timestamp, 1), message("carol", 100 - timestamp, 1)]);
        tokio::time::sleep(GATHER / 20).await;
    }
    drop(conversations);
    done.await.unwrap();
    let written = view.0.lock().unwrap();
    assert!((2..=3).contains(&written.len()), "{} writes in ten seconds", written.len());
    let (bob, carol) = (message("bob", 1, 1).chat, message("carol", 1, 1).chat);
    let of = |write: &[Message], chat| {
        write.iter().filter(|found| found.chat == chat).map(|found| found.timestamp).collect()
    };
    let first: (Vec<_>, Vec<_>) = (of(&written[0], bob.clone()), of(&written[0], carol));
    assert!(
        matches!(first, (ref bob, ref carol) if (19..=21).contains(&bob[0]) && bob.len() == 1 && carol == &[99]),
        "{first:?}"
    );
    let last: Vec<_> = of(written.last().unwrap(), bob);
    assert_eq!(last, [40]);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_the_latest_takes_no_room() {
    let (view, metrics) = (Arc::new(View::default()), Metrics::register(&Registry::new()).unwrap());
    let (conversations, done) = Conversations::start(view.clone(), metrics.clone());
    // Many times the room, within one gathering.
    for timestamp in 1..=200 {
        conversations.offer(vec![message("bob", timestamp, WAITING_BYTES / 20)]);
        tokio::time::sleep(GATHER / 400).await;
    }
    drop(conversations);
    done.await.unwrap();
    assert_eq!(metrics.conversations_skipped.get(), 0);
    assert_eq!(view.0.lock().unwrap().last().unwrap()[0].timestamp, 200);
}
