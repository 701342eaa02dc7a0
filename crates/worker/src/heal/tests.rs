use std::collections::HashSet;
use std::sync::Mutex;

use holdfast_message::MessageId;
use prometheus::Registry;

use super::*;
use crate::buffer::tests::message;

#[derive(Default)]
struct Lists {
    data_generation: Mutex<String>,
    away: Mutex<bool>,
    added: Mutex<HashSet<MessageId>>,
}

impl Recent for Lists {
    async fn data_generation(&self) -> Result<String, String> {
        Ok(self.data_generation.lock().unwrap().clone())
    }
    async fn add(&self, messages: &[Message]) -> Vec<Result<bool, String>> {
        if *self.away.lock().unwrap() {
            return messages.iter().map(|_| Err("away".to_owned())).collect();
        }
        let mut added = self.added.lock().unwrap();
        messages.iter().map(|message| Ok(added.insert(message.id))).collect()
    }
}

fn start(lists: &Arc<Lists>) -> (Healer, Metrics) {
    let metrics = Metrics::register(&Registry::new()).unwrap();
    let token = CancellationToken::new();
    (Healer::start(Arc::clone(lists), Arc::default(), metrics.clone(), token), metrics)
}

async fn settled(metrics: &Metrics, count: u64) {
    let all = || metrics.healed.get() + metrics.heal_present.get() + metrics.heal_skipped.get();
    while all() < count {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn only_uncached_messages_and_those_around_a_restart_are_offered() {
    let lists = Arc::new(Lists::default());
    let (healer, metrics) = start(&lists);
    tokio::time::sleep(Duration::from_secs(5)).await;
    let stamped = |number: u8, timestamp: i64| Message { timestamp, ..message(number) };
    healer.offer(&stamped(1, unix_ms()), false);
    healer.offer(&stamped(6, unix_ms() - AROUND_A_CHANGE - 5000), false);
    healer.offer(&stamped(2, 5), true);
    healer.offer(&stamped(2, 5), true);
    settled(&metrics, 2).await;
    assert_eq!((metrics.healed.get(), metrics.heal_present.get()), (1, 1));

    // Of what was received before the change was noticed, the first is within the minute.
    *lists.data_generation.lock().unwrap() = "another".into();
    settled(&metrics, 3).await;
    assert!(lists.added.lock().unwrap().contains(&message(1).id));
    let now = unix_ms();
    healer.offer(&stamped(3, now - AROUND_A_CHANGE - 5000), false);
    healer.offer(&stamped(4, now - AROUND_A_CHANGE + 5000), false);
    healer.offer(&stamped(5, now + AROUND_A_CHANGE - 5000), false);
    settled(&metrics, 5).await;
    let added = lists.added.lock().unwrap().clone();
    assert_eq!(added, [1, 2, 4, 5].map(|number| message(number).id).into());
}

#[tokio::test(start_paused = true)]
async fn what_does_not_fit_is_skipped_and_counted_and_nobody_waits() {
    let lists = Arc::new(Lists::default());
    *lists.away.lock().unwrap() = true;
    let (healer, metrics) = start(&lists);
    for number in 0..WAITING + 7 {
        healer.offer(&message((number % 200) as u8), true);
    }
    assert_eq!(metrics.heal_skipped.get(), 7);
    *lists.away.lock().unwrap() = false;
    settled(&metrics, WAITING as u64 + 7).await;
    assert_eq!(metrics.healed.get(), 200);
}

#[tokio::test(start_paused = true)]
async fn large_messages_are_bounded_in_bytes() {
    let lists = Arc::new(Lists::default());
    *lists.away.lock().unwrap() = true;
    let (healer, metrics) = start(&lists);
    let large = Message { content: "x".repeat(16_000), ..message(1) };
    let fit = WAITING_BYTES / large.size();
    for _ in 0..fit + 3 {
        healer.offer(&large, true);
    }
    assert_eq!(metrics.heal_skipped.get(), 3);
}

#[test]
fn what_is_remembered_is_bounded_in_messages_and_in_bytes() {
    let mut lately = Lately::default();
    for _ in 0..LATELY + 3 {
        lately.remember(message(1));
    }
    assert_eq!((lately.messages.len(), lately.bytes), (LATELY, LATELY * message(1).size()));
    let large = Message { content: "x".repeat(16_000), ..message(2) };
    for _ in 0..LATELY {
        lately.remember(large.clone());
    }
    assert!(lately.bytes <= LATELY_BYTES);
    assert_eq!(lately.bytes, lately.messages.iter().map(Message::size).sum::<usize>());
}
