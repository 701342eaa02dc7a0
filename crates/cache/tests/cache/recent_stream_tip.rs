//! What is asked of many lists at once.

use holdfast_cache::recent::{Attempt, Retraction};
use holdfast_message::{ChatId, HistoryKey, Message, MessageId, UserId};

use crate::support::{BUDGET, add, add_all, cache_url, chat, list, message, messages, number_of, user};

fn of_second(message: Message) -> Message {
    let sender = message.receiver.clone().unwrap();
    Message { receiver: message.chat.other(&sender), sender, ..message }
}

fn numbers(ids: &[MessageId]) -> Vec<u32> {
    let mut numbers: Vec<_> = ids.iter().map(|id| u32::from_be_bytes(id.as_bytes()[..4].try_into().unwrap())).collect();
    numbers.sort_unstable();
    numbers
}

#[tokio::test]
async fn what_is_unread_of_a_list_is_what_others_sent_above_the_place() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let all = messages(&chat, 50);
    add_all(&list, &all).await;
    add(&list, &of_second(message(&chat, 60, all[49].timestamp + 10))).await;
    let (first, second) = (all[0].sender.clone(), all[0].receiver.clone().unwrap());
    let unread = async |user: &UserId, above: Option<HistoryKey>| {
        let found = list.unread_batch(user, &[(&chat, above)], i64::MAX, BUDGET).await.pop().unwrap().unwrap();
        (found.position.seq, numbers(&found.ids))
    };
    assert_eq!(unread(&second, Some(all[46].key())).await, (51, vec![48, 49, 50]));
    assert_eq!(unread(&second, None).await, (51, (1..=50).collect()));
    assert_eq!(unread(&first, None).await, (51, vec![60]));
    let late = message(&chat, 55, all[20].timestamp + 1);
    add(&list, &late).await;
    assert_eq!(unread(&second, Some(all[46].key())).await.1, [48, 49, 50], "a late one lies below the place");
    assert_eq!(unread(&second, Some(all[20].key())).await.1.len(), 30);
}

#[tokio::test]
async fn what_was_taken_back_is_neither_unread_nor_the_newest() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let all = messages(&chat, 3);
    add_all(&list, &all[..2]).await;
    let attempt = Attempt::random();
    list.add(&all[2], attempt, BUDGET).await.unwrap();
    let newest = async || list.newest_batch(&[&chat], BUDGET).await.pop().unwrap().unwrap().map(|m| number_of(&m));
    assert_eq!(newest().await, Some(3));
    assert_eq!(list.tombstone(&all[2], attempt, BUDGET).await, Ok(Retraction::Done));
    assert_eq!(newest().await, Some(2));
    let second = all[0].receiver.clone().unwrap();
    let found = list.unread_batch(&second, &[(&chat, None)], i64::MAX, BUDGET).await.pop().unwrap().unwrap();
    assert_eq!(numbers(&found.ids), [1, 2]);
    add(&list, &message(&chat, 9, all[0].timestamp + 1)).await;
    assert_eq!(newest().await, Some(2), "the one that came last is not the newest");
}

#[tokio::test]
async fn the_members_of_a_group_have_unread_what_others_sent() {
    let list = list(&cache_url().await, 100, 1000);
    let group = ChatId::parse(&format!("g_{:08x}-0000-4000-8000-0000000000ab", fastrand::u32(..))).unwrap();
    // One whose name looks like a direct chat's place.
    let (one, other) = (UserId::parse("1").unwrap(), user());
    for (number, sender) in [(1, &one), (2, &other), (3, &one)] {
        let plain = message(&chat(), number, 1000 + i64::from(number));
        add(&list, &Message { chat: group.clone(), sender: sender.clone(), receiver: None, ..plain }).await;
    }
    for (user, expected) in [(&one, vec![2]), (&other, vec![1, 3])] {
        let found = list.unread_batch(user, &[(&group, None)], i64::MAX, BUDGET).await.pop().unwrap().unwrap();
        assert_eq!(numbers(&found.ids), expected);
    }
}

#[tokio::test]
async fn a_standing_is_the_streams_position_and_makes_no_list() {
    let list = list(&cache_url().await, 100, 1000);
    let (quiet, busy) = (chat(), chat());
    let all = messages(&busy, 3);
    add_all(&list, &all[..2]).await;
    let standing = async || {
        let mut both = list.tip_batch(&[&quiet, &busy], BUDGET).await;
        assert_eq!(both.remove(0).unwrap(), None);
        let busy = both.remove(0).unwrap().unwrap();
        (busy.position.seq, busy.newest)
    };
    assert_eq!(standing().await, (2, Some(all[1].key())));
    assert_eq!(standing().await, (2, Some(all[1].key())));
    add(&list, &message(&busy, 9, all[0].timestamp + 1)).await;
    assert_eq!(standing().await, (3, None), "out of history's order, the newest has to be looked for");
}
