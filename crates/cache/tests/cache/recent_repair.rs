//! Repair and verification: what the store has and the list lacks.

use std::time::Duration;

use holdfast_cache::RecentList;
use holdfast_cache::recent::{Added, Attempt, Floor, RecentPage, Repair, Repaired, TakenBack};
use holdfast_message::{ChatId, HistoryKey, Message};

use crate::support::{BUDGET, add, add_all, cache_url, chat, list, message, messages, numbers, read};

async fn repair(list: &RecentList, page: &RecentPage, messages: &[Message], covered: Option<HistoryKey>) -> Repaired {
    let chat = &messages[0].chat;
    let repair = Repair { chat, epoch: &page.position.epoch, read_at: page.read_at, messages, covered };
    list.repair(&repair, BUDGET).await.unwrap()
}

fn done(late: usize, inserted: usize) -> Repaired {
    Repaired::Done { late, inserted, corrected: 0 }
}

async fn fresh(max: usize) -> (RecentList, ChatId) {
    (list(&cache_url().await, max, 1000), chat())
}

#[tokio::test]
async fn a_list_that_starts_amid_a_chat_is_filled_from_the_store() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 6);
    add_all(&list, &all[4..]).await;
    let page = read(&list, &chat).await;
    assert_eq!(repair(&list, &page, &all[1..5], Some(all[1].key())).await, done(0, 3));
    let page = read(&list, &chat).await;
    assert_eq!(numbers(&page), [2, 3, 4, 5, 6]);
    assert_eq!(page.floor, Floor::Above(all[1].key()));
    assert_eq!(page.position.seq, 2, "what was not live gets no seq");
    assert!(page.floor.covers(&all[2].key()) && !page.floor.covers(&all[1].key()));

    assert_eq!(repair(&list, &page, &all, None).await, done(0, 1));
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.floor), (vec![1, 2, 3, 4, 5, 6], Floor::Whole));
}

#[tokio::test]
async fn what_is_missing_above_the_floor_arrives_late_and_is_announced() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 4);
    add_all(&list, &[all[0].clone(), all[1].clone(), all[3].clone()]).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &[all[0].clone(), all[1].clone(), all[3].clone()], None).await;

    let page = read(&list, &chat).await;
    assert_eq!(repair(&list, &page, &all, None).await, done(1, 0));
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.position.seq), (vec![1, 2, 4, 3], 4));
    assert_eq!(repair(&list, &page, &all, None).await, done(0, 0));
}

#[tokio::test]
async fn what_a_repair_put_in_unannounced_is_announced_once_it_is_offered_as_durable() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 4);
    add_all(&list, &all[3..]).await;
    let page = read(&list, &chat).await;
    assert_eq!(repair(&list, &page, &all, None).await, done(0, 3));

    let heal = async || list.add(&all[1], Attempt::DURABLE, BUDGET).await.unwrap();
    let Added::New(position) = heal().await else { panic!("not announced") };
    assert_eq!(position.seq, 2);
    assert!(matches!(heal().await, Added::Repeat { seq: Some(2), .. }));
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.floor), (vec![1, 3, 4, 2], Floor::Whole));
    // What the sender's own attempt finds is left where it is.
    assert!(matches!(list.add(&all[0], Attempt(7), BUDGET).await.unwrap(), Added::Repeat { seq: None, .. }));
}

#[tokio::test]
async fn trimming_raises_the_floor_and_a_later_repair_does_not_lower_it_below_what_was_trimmed() {
    let (list, chat) = fresh(3).await;
    let all = messages(&chat, 6);
    add_all(&list, &all[..2]).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &all[..2], None).await;
    assert_eq!(read(&list, &chat).await.floor, Floor::Whole);
    add_all(&list, &all[2..5]).await;
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.floor), (vec![3, 4, 5], Floor::Above(all[1].key())));

    // A send between reading and repairing trims once more.
    add(&list, &all[5]).await;
    repair(&list, &page, &all[..5], None).await;
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.floor), (vec![4, 5, 6], Floor::Above(all[2].key())));
}

#[tokio::test]
async fn what_finds_no_room_is_not_claimed() {
    let (list, chat) = fresh(3).await;
    let all = messages(&chat, 6);
    add_all(&list, &all[4..]).await;
    let page = read(&list, &chat).await;
    assert_eq!(repair(&list, &page, &all, None).await, done(0, 1));
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.floor), (vec![4, 5, 6], Floor::Above(all[2].key())));
}

#[tokio::test]
async fn what_was_taken_back_leaves_a_full_list_as_whole_as_it_was() {
    let (list, chat) = fresh(5).await;
    let all = messages(&chat, 15);
    add_all(&list, &all[..2]).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &all[..2], None).await;
    // Each refused attempt leaves a tombstone, and the oldest of those are trimmed once the two messages are.
    let attempt = Attempt(7);
    for refused in &all[2..12] {
        list.add(refused, attempt, BUDGET).await.unwrap();
        assert_eq!(list.tombstone(refused, attempt, BUDGET).await, Ok(TakenBack::Done));
    }
    let page = read(&list, &chat).await;
    assert_eq!((page.entries.len(), page.floor), (5, Floor::Above(all[1].key())));
    // A late repair in a full list: a tombstone makes room, and claims nothing either.
    let stored: Vec<_> = all[..2].iter().chain(&all[12..13]).cloned().collect();
    add_all(&list, &all[12..13]).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &stored, None).await;
    let page = read(&list, &chat).await;
    assert_eq!(page.floor, Floor::Above(all[1].key()));
    assert_eq!(page.trimmed, Some(all[1].key()));
}

/// The list answers every page of so many of its newest messages alone.
fn assert_answers_alone(page: &RecentPage, up_to: usize) {
    let alone = |limit: &usize| page.alone(None, *limit, Duration::MAX).is_some();
    assert_eq!((1..=up_to).filter(alone).count(), up_to, "floor {:?}, trimmed {:?}", page.floor, page.trimmed);
}

/// All messages but those with these numbers.
fn without(all: &[Message], missed: &[usize]) -> Vec<Message> {
    let listed = all.iter().enumerate().filter(|(index, _)| !missed.contains(&(index + 1)));
    listed.map(|(_, message)| message.clone()).collect()
}

#[tokio::test]
async fn what_a_full_list_missed_amid_a_chat_arrives_late_and_one_repair_is_enough_to_answer_alone() {
    for missed in [vec![110], vec![22], vec![120], vec![40, 41, 42, 90, 119], (30..=118).collect()] {
        let (list, chat) = fresh(100).await;
        let all = messages(&chat, 250);
        add_all(&list, &without(&all[..120], &missed)).await;
        let page = read(&list, &chat).await;
        assert_eq!(page.floor, Floor::Unverified);
        // As history does it: one message more than the list can hold.
        let found = &all[19..120];
        let Repaired::Done { late, .. } = repair(&list, &page, found, Some(found[0].key())).await else { panic!() };
        assert_eq!(late, missed.len(), "announced as late arrivals");
        let page = read(&list, &chat).await;
        assert_eq!(page.entries.len(), 100);
        assert_eq!(page.floor, Floor::Above(all[19].key()), "{missed:?}");
        assert_answers_alone(&page, 100);
        assert_eq!(repair(&list, &page, found, Some(found[0].key())).await, done(0, 0));

        add_all(&list, &all[120..130]).await;
        assert_answers_alone(&read(&list, &chat).await, 100);
    }
}

#[tokio::test]
async fn a_full_list_makes_room_for_what_it_misses_below_its_floor() {
    for missed in [vec![30], vec![25, 30, 31], (31..=69).collect()] {
        let (list, chat) = fresh(100).await;
        let all = messages(&chat, 120);
        let listed = without(&all, &missed);
        add_all(&list, &listed).await;
        let page = read(&list, &chat).await;
        // A shallow reading of the store: nothing is known of what lies below number 70.
        repair(&list, &page, &all[70..], Some(all[69].key())).await;
        let page = read(&list, &chat).await;
        assert_eq!(page.floor, Floor::Above(all[69].key()));
        let seq = page.position.seq;

        let found = &all[19..];
        assert_eq!(repair(&list, &page, found, Some(found[0].key())).await, done(0, missed.len()), "{missed:?}");
        let page = read(&list, &chat).await;
        assert_eq!((page.entries.len(), page.position.seq), (100, seq), "what is below the floor is not announced");
        assert_eq!(page.floor, Floor::Above(all[19].key()), "{missed:?}");
        assert_answers_alone(&page, 100);
    }
}

#[tokio::test]
async fn a_list_with_room_for_some_of_what_it_misses_makes_more() {
    for floor in [false, true] {
        let (list, chat) = fresh(10).await;
        let all = messages(&chat, 20);
        // Nine are listed, four of them old ones, and five of the newest ten are missing.
        let missed: Vec<_> = (3..=8).chain([12, 14, 16, 17, 18]).collect();
        add_all(&list, &without(&all, &missed)).await;
        let mut page = read(&list, &chat).await;
        if floor {
            repair(&list, &page, &all[19..], Some(all[18].key())).await;
            page = read(&list, &chat).await;
            assert_eq!(page.floor, Floor::Above(all[18].key()));
        }
        let expected = if floor { done(0, 5) } else { done(5, 0) };
        assert_eq!(repair(&list, &page, &all[9..], Some(all[9].key())).await, expected);
        let page = read(&list, &chat).await;
        assert_eq!(page.floor, Floor::Above(all[9].key()));
        assert_answers_alone(&page, 10);
    }
}

#[tokio::test]
async fn a_repair_of_another_epoch_does_nothing() {
    let (list, chat) = fresh(3).await;
    let all = messages(&chat, 2);
    let mut page = read(&list, &chat).await;
    page.position.epoch = "another".into();
    assert_eq!(repair(&list, &page, &all, None).await, Repaired::Overtaken);
    assert_eq!(read(&list, &chat).await.floor, Floor::Unverified);
}

#[tokio::test]
async fn a_gateway_that_hung_vouches_for_nothing_it_did_not_see() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 4);
    add(&list, &all[0]).await;
    let hung = read(&list, &chat).await;
    tokio::time::sleep(Duration::from_millis(30)).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &all[1..], Some(all[1].key())).await;
    let before = read(&list, &chat).await;

    // Its reading began before the other's, and went further down; what it brings is taken, what it claims is not.
    assert_eq!(repair(&list, &hung, &all[..2], None).await, done(0, 0));
    let after = read(&list, &chat).await;
    assert_eq!(after.floor, before.floor);
    assert!(after.verified_age.unwrap() >= before.verified_age.unwrap());
    let verified_at = |page: &RecentPage| page.read_at - page.verified_age.unwrap().as_millis() as i64;
    assert_eq!(verified_at(&after), page.read_at, "as of when the reading began");
}

#[tokio::test]
async fn a_shallow_verification_does_not_vouch_for_what_lies_deeper() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 6);
    let listed: Vec<_> = all.iter().filter(|message| message.timestamp != all[1].timestamp).cloned().collect();
    add_all(&list, &listed).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &listed, None).await;
    assert_eq!(read(&list, &chat).await.floor, Floor::Whole);

    // Message 2 is stored now, and this reading of the store does not go down to it.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &all[4..], Some(all[4].key())).await;
    assert!(!read(&list, &chat).await.floor.covers(&all[1].key()));
}

#[tokio::test]
async fn a_tombstone_that_the_store_knows_better_is_listed_anew() {
    let (list, chat) = fresh(100).await;
    let all = messages(&chat, 3);
    add_all(&list, &all[..2]).await;
    list.add(&all[2], Attempt(9), BUDGET).await.unwrap();
    let page = read(&list, &chat).await;
    repair(&list, &page, &all[..2], None).await;
    list.tombstone(&all[2], Attempt(9), BUDGET).await.unwrap();
    let page = read(&list, &chat).await;
    assert_eq!(repair(&list, &page, &all, None).await, done(1, 0));
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.position.seq), (vec![1, 2, 3], 4));
    assert_eq!(
        list.tombstone(&all[2], Attempt(9), BUDGET).await.map(|it| it == TakenBack::Done),
        Ok(false),
        "the failed attempt takes nothing with it"
    );
}

#[tokio::test]
async fn a_message_that_is_stored_as_of_another_time_than_listed_takes_its_stored_place() {
    let (list, chat) = fresh(4).await;
    let all = messages(&chat, 6);
    // A repeat of the second message, stamped anew, was listed last; its first copy was stored.
    let repeat = Message { timestamp: all[3].timestamp, ..all[1].clone() };
    add_all(&list, &[all[0].clone(), all[2].clone(), repeat]).await;
    let page = read(&list, &chat).await;
    let corrected = Repaired::Done { late: 0, inserted: 0, corrected: 1 };
    assert_eq!(repair(&list, &page, &all[..3], None).await, corrected);
    let page = read(&list, &chat).await;
    assert_eq!(numbers(&page), [1, 3, 2]);
    assert_eq!(
        page.alone(None, 10, BUDGET).unwrap().messages.iter().map(|(seq, _)| seq.unwrap()).collect::<Vec<_>>(),
        [2, 3, 1]
    );
    assert_eq!(page.position.seq, 3, "it is nothing new");
    assert_eq!(repair(&list, &page, &all[..3], None).await, done(0, 0));

    // What is oldest in history is trimmed first, wherever it lies.
    add_all(&list, &all[3..]).await;
    assert_eq!(numbers(&read(&list, &chat).await), [3, 4, 5, 6]);
}

#[tokio::test]
async fn a_message_that_was_trimmed_is_missing_all_the_same_where_it_is_stored_later_than_it_was_listed() {
    for verified in [false, true] {
        let (list, chat) = fresh(3).await;
        let all = messages(&chat, 5);
        // Its first copy, which the list had, never was stored; a repeat's was.
        let stored = Message { timestamp: all[4].timestamp - 1, ..all[0].clone() };
        add_all(&list, &all[..3]).await;
        if verified {
            repair(&list, &read(&list, &chat).await, &all[1..3], None).await;
        }
        add_all(&list, &all[3..]).await;
        let page = read(&list, &chat).await;
        assert_eq!(numbers(&page), [3, 4, 5]);
        let found = [all[2].clone(), all[3].clone(), stored.clone(), all[4].clone()];
        assert_eq!(repair(&list, &page, &found, Some(all[2].key())).await, done(1, 0));
        let page = read(&list, &chat).await;
        assert!(page.messages().any(|(_, message)| *message == stored));
        assert!(page.floor.covers(&stored.key()));
        // What was trimmed in its ordinary place stays where it is.
        assert_eq!(repair(&list, &page, &all[1..2], Some(all[1].key())).await, done(0, 0));
    }
}

#[tokio::test]
async fn ids_are_ordered_by_their_bytes_at_equal_times() {
    let (list, chat) = fresh(2).await;
    let same: Vec<_> = [0x7fff_ffff, 0x8000_0000, 0xff00_0000_u32].map(|number| message(&chat, number, 1000)).into();
    add_all(&list, &same).await;
    let page = read(&list, &chat).await;
    repair(&list, &page, &same, None).await;
    let page = read(&list, &chat).await;
    assert_eq!(page.floor, Floor::Above(same[0].key()));
    assert!(page.floor.covers(&same[1].key()));
}
