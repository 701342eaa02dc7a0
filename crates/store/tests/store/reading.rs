//! How far users have read, what they have not, and their lists of chats.

use std::collections::HashMap;

use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};
use holdfast_store::unread::MAX_UNREAD;
use holdfast_store::{Conversation, Unread};
use mongodb::bson::{Document, doc};
use tokio::task::JoinSet;

use crate::{Fixture, batch, fixture, id, message};

fn user(name: &str) -> UserId {
    UserId::parse(name).unwrap()
}

fn chat() -> ChatId {
    message(0).chat
}

impl Fixture {
    async fn unread(&self, name: &str, above: Option<HistoryKey>, except: &[MessageId]) -> usize {
        let asked = [Unread { chat: &chat(), above, before: None, except }];
        self.store.count_unread(&user(name), &asked).await.unwrap().get(&chat()).copied().unwrap_or_default()
    }
}

#[tokio::test]
async fn a_watermark_moves_forward_only() {
    let t = fixture().await;
    let bob = user("bob");
    assert_eq!(t.store.read_states(&bob, &[chat()]).await.unwrap(), HashMap::new());
    for (place, moved, reached) in [(5, true, 5), (3, false, 5), (5, false, 5), (8, true, 8)] {
        let state = t.store.mark_read(&bob, &chat(), message(place).key()).await.unwrap();
        assert_eq!((state.moved, state.up_to), (moved, message(reached).key()));
    }
    // Of two messages of one time the greater id is the later one.
    let tie = HistoryKey { id: id(9), ..message(8).key() };
    assert!(t.store.mark_read(&bob, &chat(), tie).await.unwrap().moved);
    assert!(!t.store.mark_read(&bob, &chat(), message(8).key()).await.unwrap().moved);
    let elsewhere = ChatId::direct(&bob, &user("carol")).unwrap();
    let states = t.store.read_states(&bob, &[elsewhere, chat()]).await.unwrap();
    assert_eq!(states, HashMap::from([(chat(), tie)]));
    assert_eq!(t.store.read_states(&user("alice"), &[chat()]).await.unwrap(), HashMap::new());
}

#[tokio::test]
async fn devices_that_race_leave_the_farthest_watermark() {
    let t = fixture().await;
    for round in 0..20 {
        let reader = user(&format!("reader{round}"));
        let mut devices = JoinSet::new();
        for n in 0..8 {
            let (store, reader) = (t.store.clone(), reader.clone());
            devices.spawn(async move { store.mark_read(&reader, &chat(), message(n).key()).await.unwrap() });
        }
        devices.join_all().await;
        assert_eq!(t.store.read_states(&reader, &[chat()]).await.unwrap()[&chat()], message(7).key());
    }
}

#[tokio::test]
async fn what_is_unread_is_what_others_wrote_above_the_watermark() {
    let t = fixture().await;
    t.store.insert(&batch(0..10)).await.unwrap();
    let of_bob = |n| Message { sender: user("bob"), receiver: Some(user("alice")), ..message(n) };
    t.store.insert(&[of_bob(20), of_bob(21)]).await.unwrap();
    assert_eq!(t.unread("bob", None, &[]).await, 10);
    assert_eq!(t.unread("bob", Some(message(3).key()), &[]).await, 6);
    assert_eq!(t.unread("bob", Some(message(3).key()), &[id(4), id(9), id(100)]).await, 4);
    assert_eq!(t.unread("bob", Some(message(9).key()), &[]).await, 0);
    assert_eq!(t.unread("alice", None, &[]).await, 2);
    let (chat, above) = (chat(), Some(message(3).key()));
    let asked = [Unread { chat: &chat, above, before: Some(message(7).timestamp), except: &[id(5)] }];
    assert_eq!(t.store.count_unread(&user("bob"), &asked).await.unwrap()[&chat], 2, "4 and 6");
    let tie = HistoryKey { id: id(2), ..message(3).key() };
    assert_eq!(t.unread("bob", Some(tie), &[]).await, 7, "a message of the watermark's time with a greater id");
}

#[tokio::test]
async fn many_chats_are_counted_at_once_and_none_beyond_the_cap() {
    let t = fixture().await;
    t.store.insert(&batch(0..MAX_UNREAD as u64 + 50)).await.unwrap();
    assert_eq!(t.unread("bob", None, &[]).await, MAX_UNREAD);
    let alice = user("alice");
    let chats: Vec<_> = (0..250).map(|n| ChatId::direct(&alice, &user(&format!("u{n}"))).unwrap()).collect();
    let messages: Vec<_> = chats
        .iter()
        .enumerate()
        .flat_map(|(n, chat)| (0..n % 4).map(move |m| (chat.clone(), 10_000 + n * 10 + m)))
        .map(|(chat, n)| {
            let sender = chat.other(&user("alice")).unwrap();
            Message { chat, sender, receiver: Some(user("alice")), ..message(n as u64) }
        })
        .collect();
    t.store.insert(&messages).await.unwrap();
    let asked: Vec<_> = chats.iter().map(|chat| Unread { chat, above: None, before: None, except: &[] }).collect();
    let counts = t.store.count_unread(&alice, &asked).await.unwrap();
    for (n, chat) in chats.iter().enumerate() {
        assert_eq!(counts.get(chat).copied().unwrap_or_default(), n % 4);
    }
    let newest = t.store.newest_of(&chats).await.unwrap();
    for (n, chat) in chats.iter().enumerate() {
        let last = (n % 4).checked_sub(1).map(|m| id((10_000 + n * 10 + m) as u64));
        assert_eq!(newest.get(chat).map(|message| message.id), last);
    }
}

#[tokio::test]
async fn a_list_of_chats_is_newest_first_and_its_pages_meet() {
    let t = fixture().await;
    let alice = user("alice");
    // Three chats share each time.
    let messages: Vec<_> = (0..30)
        .map(|n| {
            let friend = user(&format!("friend{n:02}"));
            let chat = ChatId::direct(&alice, &friend).unwrap();
            Message { chat, receiver: Some(friend), timestamp: message(n / 3).timestamp, ..message(n) }
        })
        .collect();
    t.store.touch_conversations(&messages).await.unwrap();
    let group = ChatId::parse("g_00000000-0000-0000-0000-0000000000ab").unwrap();
    let made = doc! { "_id": group.as_str(), "members": ["alice", "bob"], "lastTimestamp": message(100).timestamp };
    t.db.collection::<Document>("conversations").insert_one(made).await.unwrap();

    let mut expected: Vec<_> = messages
        .iter()
        .map(|message| Conversation { chat: message.chat.clone(), last_timestamp: message.timestamp })
        .chain([Conversation { chat: group.clone(), last_timestamp: message(100).timestamp }])
        .collect();
    expected.sort_by(|a, b| (b.last_timestamp, &b.chat).cmp(&(a.last_timestamp, &a.chat)));
    let mut listed: Vec<Conversation> = Vec::new();
    loop {
        let before = listed.last().map(|last| (last.last_timestamp, &last.chat));
        let page = t.store.conversations(&alice, before, 4).await.unwrap();
        listed.extend_from_slice(&page);
        if page.len() < 4 {
            break;
        }
    }
    assert_eq!(listed, expected);
    assert_eq!(t.store.conversations(&user("bob"), None, 10).await.unwrap().len(), 1);

    // A group's own time is not its first message's.
    let first = Message { chat: group.clone(), receiver: None, ..message(50) };
    t.store.touch_conversations(std::slice::from_ref(&first)).await.unwrap();
    let shown = t.db.collection::<Document>("conversations").find_one(doc! { "_id": group.as_str() }).await.unwrap();
    let shown = shown.unwrap();
    assert_eq!(shown.get_document("lastMessage").unwrap().get_str("_id"), Ok(id(50).to_string().as_str()));
    assert_eq!(shown.get_array("members").unwrap().len(), 2);
}

#[tokio::test]
async fn counting_and_listing_walk_an_index() {
    let t = fixture().await;
    t.store.insert(&batch(0..200)).await.unwrap();
    t.store.touch_conversations(&batch(0..1)).await.unwrap();
    let level = |level: i32| doc! { "profile": level };
    t.db.run_command(level(2)).await.unwrap();
    assert_eq!(t.unread("bob", Some(message(150).key()), &[id(199)]).await, 48);
    t.store.newest_of(&[chat()]).await.unwrap();
    t.store.conversations(&user("bob"), Some((message(100).timestamp, &chat())), 10).await.unwrap();
    t.db.run_command(level(0)).await.unwrap();
    let profile = t.db.collection::<Document>("system.profile");
    for (op, examined) in [("count", 50), ("newest", 2), ("list", 2)] {
        let filter = match op {
            "count" => doc! { "command.pipeline.5": { "$exists": true } },
            "newest" => doc! { "command.pipeline": { "$size": 3 } },
            _ => doc! { "command.find": "conversations" },
        };
        let seen = profile.find_one(filter).await.unwrap().unwrap_or_else(|| panic!("{op} was not seen"));
        assert!(seen.get_str("planSummary").unwrap().starts_with("IXSCAN"), "{seen}");
        assert!(!seen.contains_key("hasSortStage"), "{seen}");
        assert!(i64::from(seen.get_i32("docsExamined").unwrap()) <= examined, "{seen}");
    }
}
