//! Documents that other tools wrote: `timestamp` as int32, double or Date, or as what can't be read.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use holdfast_message::{ChatId, HistoryKey, Message, UserId};
use holdfast_store::{Conversation, Page, Store, Unread};
use mongodb::bson::{Bson, DateTime, Decimal128, Document, doc};

use crate::{Fixture, batch, fixture, id, message};

/// The types that a time is stored in, by turns: as ours, and as other tools'.
fn as_stored(n: u64, time: i64) -> Bson {
    match n % 5 {
        0 => time.into(),
        1 => (time as f64).into(),
        2 => (time as f64 + 0.25).into(),
        3 => (time as f64 + 0.75).into(),
        _ => DateTime::from_millis(time).into(),
    }
}

impl Fixture {
    async fn set_time(&self, message: &Message, timestamp: impl Into<Bson>) {
        let set = doc! { "$set": { "timestamp": timestamp.into() } };
        let by_id = doc! { "_id": message.id.to_string() };
        self.db.collection::<Document>("messages").update_one(by_id, set).await.unwrap();
    }

    /// Stores messages with times of all types.
    async fn restore(&self, messages: &[Message]) {
        self.store.insert(messages).await.unwrap();
        for (n, message) in (0..).zip(messages) {
            self.set_time(message, as_stored(n, message.timestamp)).await;
        }
    }
}

/// The whole of a chat's history by pages of so many.
async fn read(store: &Store, chat: &ChatId, limit: usize) -> Vec<Message> {
    let mut read: Vec<Message> = Vec::new();
    loop {
        let page = store.page(chat, read.last().map(Message::key), limit).await.unwrap();
        read.extend(page.messages);
        if !page.more {
            return read;
        }
    }
}

#[tokio::test]
async fn a_message_stands_at_its_milliseconds_whatever_their_type() {
    let t = fixture().await;
    // Seven share each millisecond, in no order of their ids; one is stored as an int32.
    let mut messages: Vec<_> =
        (0..70).map(|n| Message { timestamp: message(n % 10).timestamp, ..message(n * 37 % 71) }).collect();
    t.restore(&messages).await;
    messages.push(Message { timestamp: 5, ..message(1000) });
    t.store.insert(&messages[70..]).await.unwrap();
    t.set_time(&messages[70], 5_i32).await;
    messages.sort_by_key(|message| std::cmp::Reverse(message.key()));
    for limit in [1, 2, 3, 7, 10, 69, 70, 71, 100] {
        assert_eq!(read(&t.store, &messages[0].chat, limit).await, messages, "by pages of {limit}");
    }
    let between = HistoryKey { id: id(40), ..message(5).key() };
    let expected: Vec<_> = messages.iter().filter(|message| message.key() < between).take(9).cloned().collect();
    let page = t.store.page(&messages[0].chat, Some(between), 9).await.unwrap();
    assert_eq!(page, Page { messages: expected, more: true });
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    let times: HashMap<_, _> = messages.iter().map(|message| (message.id, message.timestamp)).collect();
    assert_eq!(t.store.timestamps(&ids).await.unwrap(), times);
    assert!(t.store.copies(&ids).await.unwrap().iter().all(|copy| copy.timestamp() == Some(times[&copy.id])));
    assert_eq!(t.store.get(&ids).await.unwrap().len(), ids.len());
    assert_eq!(t.store.unreadable_met(), 0);
}

#[tokio::test]
async fn the_newest_message_and_the_unread_ones_are_told_by_their_milliseconds() {
    let t = fixture().await;
    let messages = batch(0..20);
    t.restore(&messages).await;
    let (alice, bob) = (UserId::parse("alice").unwrap(), UserId::parse("bob").unwrap());
    for n in (15..20).rev() {
        let newest = t.store.newest_of(&[message(0).chat]).await.unwrap();
        assert_eq!(newest[&message(0).chat], message(n));
        t.db.collection::<Document>("messages").delete_one(doc! { "_id": id(n).to_string() }).await.unwrap();
    }
    for n in 0..15 {
        let chat = message(0).chat;
        let asked = [Unread { chat: &chat, above: Some(message(n).key()), before: None, except: &[] }];
        let unread = t.store.count_unread(&bob, &asked).await.unwrap().get(&chat).copied().unwrap_or_default();
        assert_eq!(unread as u64, 14 - n, "above {n}");
        let before = Some(message(n).timestamp);
        let asked = [Unread { chat: &chat, above: None, before, except: &[] }];
        let unread = t.store.count_unread(&bob, &asked).await.unwrap().get(&chat).copied().unwrap_or_default();
        assert_eq!(unread as u64, n, "before {n}");
    }
    // How far a user has read moves on from what a restore made of it.
    let states = t.db.collection::<Document>("readStates");
    for stored in [Bson::from(DateTime::from_millis(message(5).timestamp)), (message(5).timestamp as f64).into()] {
        t.store.mark_read(&alice, &message(0).chat, message(5).key()).await.unwrap();
        states.update_many(doc! {}, doc! { "$set": { "upTo.timestamp": stored.clone() } }).await.unwrap();
        assert_eq!(t.store.read_states(&alice, &[message(0).chat]).await.unwrap()[&message(0).chat], message(5).key());
        assert!(!t.store.mark_read(&alice, &message(0).chat, message(4).key()).await.unwrap().moved, "{stored}");
        assert!(!t.store.mark_read(&alice, &message(0).chat, message(5).key()).await.unwrap().moved, "{stored}");
        assert!(t.store.mark_read(&alice, &message(0).chat, message(6).key()).await.unwrap().moved, "{stored}");
        states.delete_many(doc! {}).await.unwrap();
    }
}

#[tokio::test]
async fn a_list_of_chats_is_in_the_order_of_milliseconds_and_moves_on_from_any_type() {
    let t = fixture().await;
    let alice = UserId::parse("alice").unwrap();
    let mut messages: Vec<_> = (0..30)
        .map(|n| {
            let friend = UserId::parse(&format!("friend{:02}", n * 7 % 30)).unwrap();
            let chat = ChatId::direct(&alice, &friend).unwrap();
            Message { chat, receiver: Some(friend), timestamp: message(n / 3).timestamp, ..message(n) }
        })
        .collect();
    t.store.touch_conversations(&messages).await.unwrap();
    let view = t.db.collection::<Document>("conversations");
    let set = async |message: &Message, time: Bson| {
        let by_id = doc! { "_id": message.chat.as_str() };
        view.update_one(by_id, doc! { "$set": { "lastTimestamp": time } }).await.unwrap();
    };
    for (n, message) in (0..).zip(&messages) {
        set(message, as_stored(n, message.timestamp)).await;
    }
    messages.sort_by(|a, b| (b.timestamp, &b.chat).cmp(&(a.timestamp, &a.chat)));
    let expected: Vec<_> = messages
        .iter()
        .map(|message| Conversation { chat: message.chat.clone(), last_timestamp: message.timestamp })
        .collect();
    for limit in [1, 4, 30, 50] {
        let mut listed: Vec<Conversation> = Vec::new();
        loop {
            let before = listed.last().map(|last| (last.last_timestamp, &last.chat));
            let page = t.store.conversations(&alice, before, limit).await.unwrap();
            let last = page.len() < limit;
            listed.extend(page);
            if last {
                break;
            }
        }
        assert_eq!(listed, expected, "by pages of {limit}");
    }
    for time in [Bson::from(DateTime::from_millis(message(50).timestamp)), "yesterday".into(), Bson::Null] {
        set(&messages[0], time.clone()).await;
        let [older, newer] = [49, 51].map(|n| Message { timestamp: message(n).timestamp, ..messages[0].clone() });
        let moved = t.store.touch_conversations(&[older]).await.unwrap().moved;
        assert_eq!(moved == 1, time.as_datetime().is_none(), "{time}");
        assert_eq!(t.store.touch_conversations(&[newer]).await.unwrap().moved, 1, "{time}");
    }
}

#[tokio::test]
async fn what_cannot_be_read_is_counted_once_and_found() {
    let t = fixture().await;
    let told = Arc::new(AtomicU64::new(0));
    let mut settings = t.settings.clone();
    let telling = told.clone();
    settings.on_unreadable = Some(Arc::new(move || {
        telling.fetch_add(1, Ordering::Relaxed);
    }));
    let store = Store::new(settings).await.unwrap();
    let messages = batch(0..12);
    t.restore(&messages).await;
    assert_eq!(store.find_unreadable(10, Duration::from_secs(10)).await.unwrap(), []);
    let odd = [
        Bson::from("2023-11-14"),
        Bson::Null,
        f64::NAN.into(),
        f64::INFINITY.into(),
        true.into(),
        "1700000000000".parse::<Decimal128>().unwrap().into(),
        Bson::Timestamp(mongodb::bson::Timestamp { time: 1, increment: 1 }),
        doc! { "$date": 5 }.into(),
    ];
    for (message, time) in messages.iter().zip(&odd) {
        t.set_time(message, time.clone()).await;
    }
    let found = store.find_unreadable(100, Duration::from_secs(10)).await.unwrap();
    let mut named: Vec<_> = found.iter().map(ToString::to_string).collect();
    named.sort();
    let expected: Vec<_> = messages[..odd.len()].iter().map(|message| format!("{} (timestamp)", message.id)).collect();
    assert_eq!(named, expected);
    assert_eq!(store.find_unreadable(3, Duration::from_secs(10)).await.unwrap().len(), 3);
    for _ in 0..3 {
        let rest: Vec<_> = messages[odd.len()..].iter().rev().cloned().collect();
        assert_eq!(read(&store, &messages[0].chat, 2).await, rest);
        assert_eq!(read(&store, &messages[0].chat, 50).await, rest);
    }
    let ids: Vec<_> = messages.iter().map(|message| message.id).collect();
    assert_eq!(store.get(&ids).await.unwrap().len(), 12 - odd.len());
    assert_eq!((store.unreadable_met(), told.load(Ordering::Relaxed)), (odd.len() as u64, odd.len() as u64));
}

#[tokio::test]
async fn the_search_for_them_walks_the_index_and_fetches_nothing() {
    let t = fixture().await;
    t.store.insert(&batch(0..500)).await.unwrap();
    t.db.run_command(doc! { "profile": 2 }).await.unwrap();
    assert_eq!(t.store.find_unreadable(10, Duration::from_secs(10)).await.unwrap(), []);
    t.db.run_command(doc! { "profile": 0 }).await.unwrap();
    let profile = t.db.collection::<Document>("system.profile");
    let seen = profile.find_one(doc! { "command.aggregate": "messages" }).await.unwrap().unwrap();
    assert!(seen.get_str("planSummary").unwrap().starts_with("IXSCAN"), "{seen}");
    assert_eq!(seen.get_i32("docsExamined"), Ok(0), "{seen}");
}
