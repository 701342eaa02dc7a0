//! Conversations whose last message lies far ahead of the clock.

use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_message::{ChatId, Message, UserId, recency};
use holdfast_store::Conversation;
use mongodb::bson::{Document, doc};

use super::{Fixture, fixture, id, message};

const YEAR_MS: i64 = 365 * 24 * 3600 * 1000;

fn now() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

fn with(friend: &str) -> ChatId {
    ChatId::direct(&UserId::parse("alice").unwrap(), &UserId::parse(friend).unwrap()).unwrap()
}

fn said(friend: &str, number: u64, timestamp: i64) -> Message {
    let (chat, friend) = (with(friend), UserId::parse(friend).unwrap());
    Message { chat, sender: friend, receiver: UserId::parse("alice").ok(), timestamp, ..message(number) }
}

impl Fixture {
    async fn of_alice(&self) -> Vec<Conversation> {
        self.store.conversations(&UserId::parse("alice").unwrap(), None, 10).await.unwrap()
    }

    async fn order(&self) -> Vec<ChatId> {
        self.of_alice().await.into_iter().map(|conversation| conversation.chat).collect()
    }

    async fn view(&self, chat: &ChatId) -> Document {
        let conversations = self.db.collection::<Document>("conversations");
        conversations.find_one(doc! { "_id": chat.as_str() }).await.unwrap().unwrap()
    }
}

#[tokio::test]
async fn a_message_that_lies_ahead_counts_as_of_when_the_view_hears_of_it_and_moves_its_chat_once() {
    for timestamp in [now() + 10 * YEAR_MS, i64::MAX] {
        let t = fixture().await;
        let (ahead, before) = (said("bob", 1, timestamp), now());
        t.store.touch_conversations(&[said("carol", 2, before - 5), ahead.clone()]).await.unwrap();
        let first = t.view(&ahead.chat).await;
        let listed_at = first.get_i64("lastTimestamp").unwrap();
        assert!((before..=now()).contains(&listed_at), "{first}");
        assert_eq!(first.get_document("lastMessage").unwrap().get_i64("timestamp"), Ok(timestamp));
        assert_eq!(t.order().await, [with("bob"), with("carol")]);

        t.store.touch_conversations(&[said("carol", 3, listed_at + 1)]).await.unwrap();
        assert_eq!(t.order().await, [with("carol"), with("bob")]);
        let again = t.store.touch_conversations(std::slice::from_ref(&ahead)).await.unwrap();
        assert_eq!((again.moved, again.later, again.failed), (0, 1, 0));
        assert_eq!(t.view(&ahead.chat).await, first, "repeating it changes nothing");
        t.store.touch_conversations(&[said("bob", 4, listed_at + 2)]).await.unwrap();
        assert_eq!(t.order().await, [with("bob"), with("carol")]);
    }
}

#[tokio::test]
async fn conversations_that_were_written_as_of_a_time_ahead_are_brought_back_by_who_reads_them() {
    let t = fixture().await;
    let far = now() + YEAR_MS;
    let conversations = t.db.collection::<Document>("conversations");
    let view = |friend: &str| {
        doc! { "_id": with(friend).as_str(), "members": ["alice", friend], "lastTimestamp": far + friend.len() as i64 }
    };
    // Of the first the store has other messages; of the second only one that lies ahead; the third is a group without any.
    let stored = [said("bob", 1, 1000), said("bob", 2, far), said("carol", 3, far)];
    t.store.insert(&stored).await.unwrap();
    let group = ChatId::parse("g_00000000-0000-0000-0000-0000000000ab").unwrap();
    let made = doc! { "_id": group.as_str(), "members": ["alice"], "lastTimestamp": i64::MAX };
    conversations.insert_many([view("bob"), view("carol"), made]).await.unwrap();
    t.store.touch_conversations(&[said("dave", 4, 2000)]).await.unwrap();

    let before = now();
    let listed = t.of_alice().await;
    let times: Vec<_> = listed.iter().map(|conversation| conversation.last_timestamp).collect();
    assert!(times.iter().all(|time| !recency::is_ahead(*time, now())), "{listed:?}");
    assert_eq!(
        listed[2..],
        [("dave", 2000), ("bob", 1000)]
            .map(|(friend, last_timestamp)| Conversation { chat: with(friend), last_timestamp })
    );
    assert!(times[..2].iter().all(|time| (before..=now()).contains(time)), "{listed:?}");
    assert_eq!(t.of_alice().await, listed, "for good, in the store");
    let found = t.store.conversations_of(std::slice::from_ref(&group)).await.unwrap();
    assert_eq!(found, listed.iter().filter(|one| one.chat == group).cloned().collect::<Vec<_>>());
    t.store.touch_conversations(&[said("dave", 5, now() + 1)]).await.unwrap();
    assert_eq!(t.order().await[0], with("dave"));
}

#[tokio::test]
async fn a_view_of_a_time_ahead_gives_way_to_the_next_message() {
    let t = fixture().await;
    let written = doc! { "_id": with("bob").as_str(), "members": ["alice", "bob"], "lastTimestamp": i64::MAX, "lastMessage": { "_id": id(9).to_string() } };
    t.db.collection::<Document>("conversations").insert_one(written).await.unwrap();
    let touched = t.store.touch_conversations(&[said("bob", 1, 5000)]).await.unwrap();
    assert_eq!((touched.moved, touched.later), (1, 0));
    assert_eq!(t.view(&with("bob")).await.get_i64("lastTimestamp"), Ok(5000));
}

#[tokio::test]
async fn the_last_message_is_what_the_view_shows_while_the_messages_are_not_stored() {
    let t = fixture().await;
    let begun = said("bob", 1, 1000);
    t.store.begin_conversations(std::slice::from_ref(&begun)).await.unwrap();
    assert_eq!(t.store.newest_of(std::slice::from_ref(&begun.chat)).await.unwrap()[&begun.chat], begun);
    t.store.insert(&[said("bob", 2, 500)]).await.unwrap();
    assert_eq!(
        t.store.newest_of(std::slice::from_ref(&begun.chat)).await.unwrap()[&begun.chat].id,
        id(2),
        "what is stored comes first"
    );
}
