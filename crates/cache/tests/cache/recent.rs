use std::collections::HashSet;
use std::time::Duration;

use holdfast_cache::entry::Listed;
use holdfast_cache::event::Position;
use holdfast_cache::recent::{Added, Attempt, Floor, Retraction};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message, UserId};
use holdfast_redis::RedisError;
use holdfast_testkit::{Proxy, Role};

use crate::support::{
    BUDGET, add, add_all, cache_url, chat, list, message, messages, number_of, numbers, raw, read, server,
};

#[tokio::test]
async fn each_message_gets_the_next_seq_and_comes_back_whole() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 3);
    let first = add(&list, &sent[0]).await;
    assert_eq!(first.seq, 1);
    let others: Vec<_> = sent[1..].iter().map(|message| (message, Attempt::random())).collect();
    let added = list.add_batch(&others, BUDGET).await;
    let expected = |seq| Added::New(Position { epoch: first.epoch.clone(), seq });
    assert_eq!(added, [Ok(expected(2)), Ok(expected(3))]);

    let page = read(&list, &chat).await;
    assert_eq!(page.position, Position { epoch: first.epoch, seq: 3 });
    assert_eq!((page.floor, page.verified_age, page.undecodable), (Floor::Unverified, None, 0));
    let seqs: Vec<_> = page.entries.iter().map(|entry| entry.seq).collect();
    assert_eq!(seqs, [Some(1), Some(2), Some(3)]);
    let listed: Vec<_> = page.entries.into_iter().map(|entry| entry.item).collect();
    assert_eq!(listed, sent.into_iter().map(Listed::Message).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_group_names_its_senders() {
    let list = list(&cache_url().await, 100, 1000);
    let mut sent = message(&chat(), 1, 5);
    let chat = ChatId::group(uuid::Uuid::new_v4());
    (sent.chat, sent.receiver, sent.sender) = (chat.clone(), None, UserId::parse("carol").unwrap());
    add(&list, &sent).await;
    assert_eq!(read(&list, &chat).await.entries[0].item, Listed::Message(sent));
}

#[tokio::test]
async fn a_chat_that_nobody_wrote_in_has_an_epoch_that_stays() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let first = read(&list, &chat).await;
    assert_eq!(first.position.seq, 0);
    assert_eq!(read(&list, &chat).await.position, first.position);
    assert_eq!(add(&list, &message(&chat, 1, 5)).await.epoch, first.position.epoch);
}

#[tokio::test]
async fn an_attempts_own_retry_is_not_taken_for_a_repeat() {
    let list = list(&cache_url().await, 2, 1000);
    let chat = chat();
    let sent = message(&chat, 1, 1000);
    let attempt = Attempt(41);
    let Added::New(position) = list.add(&sent, attempt, BUDGET).await.unwrap() else { panic!() };
    assert_eq!(list.add(&sent, attempt, BUDGET).await, Ok(Added::Own(position.clone())));

    // A repeat is stamped later; it learns the original time.
    let mut repeat = sent.clone();
    repeat.timestamp = 2000;
    let expected = |seq| Ok(Added::Repeat { timestamp: 1000, epoch: position.epoch.clone(), seq });
    assert_eq!(list.add(&repeat, Attempt(42), BUDGET).await, expected(Some(1)));
    assert_eq!(list.original_timestamp(&chat, sent.id, BUDGET).await, Ok(Some(1000)));

    add_all(&list, &[message(&chat, 2, 1001), message(&chat, 3, 1002)]).await;
    assert_eq!(list.add(&repeat, Attempt(43), BUDGET).await, expected(None), "trimmed, and still known");
    assert_eq!(read(&list, &chat).await.position.seq, 3);
}

#[tokio::test]
async fn a_tombstone_keeps_its_place_and_its_message_may_come_again() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 3);
    let attempt = Attempt(1);
    add(&list, &sent[0]).await;
    list.add(&sent[1], attempt, BUDGET).await.unwrap();
    add(&list, &sent[2]).await;

    assert_eq!(list.tombstone(&sent[1], Attempt(2), BUDGET).await, Ok(Retraction::Absent), "another attempt's");
    list.add(&sent[2], Attempt::DURABLE, BUDGET).await.unwrap();
    let kept = list.tombstone(&sent[2], Attempt(2), BUDGET).await.unwrap();
    let Retraction::Durable { position: Some(position), timestamp } = kept else { panic!("{kept:?}") };
    assert_eq!((position.seq, timestamp), (3, sent[2].timestamp), "durable");
    assert_eq!(list.tombstone(&message(&chat, 9, 9), attempt, BUDGET).await, Ok(Retraction::Absent), "not there");
    assert_eq!(list.tombstone(&sent[1], attempt, BUDGET).await, Ok(Retraction::Done));
    assert_eq!(list.tombstone(&sent[1], attempt, BUDGET).await.map(|it| it == Retraction::Done), Ok(false), "already");
    let page = read(&list, &chat).await;
    assert_eq!(page.entries[1].item, Listed::Tombstone(sent[1].key()));
    assert_eq!((page.entries[1].seq, numbers(&page)), (Some(2), vec![1, 3]));

    let again = add(&list, &sent[1]).await;
    assert_eq!((again.seq, &again.epoch), (4, &page.position.epoch));
    assert_eq!(numbers(&read(&list, &chat).await), [1, 3, 2]);
    assert_eq!(
        list.tombstone(&sent[1], attempt, BUDGET).await.map(|it| it == Retraction::Done),
        Ok(false),
        "the entry is another attempt's now"
    );
}

#[tokio::test]
async fn a_message_that_became_durable_by_another_way_is_not_taken_back() {
    let list = list(&cache_url().await, 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 3);
    for message in &sent {
        list.add(message, Attempt(7), BUDGET).await.unwrap();
    }
    let before = read(&list, &chat).await;
    // A repeat, which is stamped anew, became durable; more than one may know.
    let repeat = Message { timestamp: sent[1].timestamp + 5, ..sent[1].clone() };
    for _ in 0..2 {
        let told = list.add(&repeat, Attempt::DURABLE, BUDGET).await.unwrap();
        let (timestamp, epoch) = (sent[1].timestamp, before.position.epoch.clone());
        assert_eq!(told, Added::Repeat { timestamp, epoch, seq: Some(2) });
    }
    assert_eq!(list.tombstone(&sent[1], Attempt(7), BUDGET).await.map(|it| it == Retraction::Done), Ok(false));
    assert_eq!(read(&list, &chat).await.entries, before.entries, "nothing else has changed");

    assert_eq!(list.tombstone(&sent[2], Attempt(7), BUDGET).await, Ok(Retraction::Done));
    let Added::New(again) = list.add(&sent[2], Attempt::DURABLE, BUDGET).await.unwrap() else { panic!() };
    assert_eq!(again.seq, 4, "what was taken back before is listed anew");
}

#[tokio::test]
async fn an_addition_that_arrives_after_it_was_taken_back_lists_nothing() {
    let server = server(Role::Cache, &[]).await;
    let line = Proxy::start(server.port()).await.unwrap();
    let (near, far) = (list(&server.url(), 100, 1000), list(&server.url_at(line.port()), 100, 1000));
    let chat = chat();
    let sent = messages(&chat, 3);
    far.add(&sent[0], Attempt(1), BUDGET).await.unwrap();
    line.blackhole();
    let adds = [(&sent[1], Attempt(2)), (&sent[2], Attempt(3))];
    let lost = far.add_batch(&adds, Duration::from_millis(50)).await;
    assert!(lost.iter().all(|added| added.as_ref().is_err_and(RedisError::maybe_applied)), "{lost:?}");
    assert_eq!(
        near.tombstone(&sent[1], Attempt(2), BUDGET).await.map(|it| it == Retraction::Done),
        Ok(false),
        "not there yet"
    );
    assert_eq!(numbers(&read(&near, &chat).await), [1]);

    line.heal().await.unwrap();
    let late = async {
        while read(&near, &chat).await.position.seq < 2 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(BUDGET, late).await.expect("what was sent arrives");
    assert_eq!(numbers(&read(&near, &chat).await), [1, 3]);
    assert_eq!(add(&near, &sent[1]).await.seq, 3, "another attempt is another matter");
}

#[tokio::test]
async fn what_a_list_knows_of_attempts_that_were_taken_back_is_bounded() {
    let url = cache_url().await;
    let list = list(&url, 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 200);
    for (number, message) in sent.iter().enumerate() {
        assert_eq!(
            list.tombstone(message, Attempt(number as u32), BUDGET).await.map(|it| it == Retraction::Done),
            Ok(false)
        );
    }
    let mut raw = raw(&url).await;
    let head = Keys::default().recent_head(&chat);
    let length: usize = redis::cmd("HSTRLEN").arg(head).arg("void").query_async(&mut raw).await.unwrap();
    assert_eq!(length, 128 * 26);
    let last = list.add(&sent[199], Attempt(199), BUDGET).await;
    assert!(matches!(last, Ok(Added::Repeat { seq: None, .. })), "{last:?}");
}

#[tokio::test]
async fn the_ids_of_listed_messages_outlive_older_scores() {
    let url = cache_url().await;
    let list = list(&url, 5, 5);
    let chat = chat();
    let keys = Keys::default();
    let mut raw = raw(&url).await;
    // Late arrivals with old timestamps have the lowest scores.
    for number in 0..60_u32 {
        let timestamp = if number.is_multiple_of(3) { 1000 - i64::from(number) } else { 5000 + i64::from(number) };
        add(&list, &message(&chat, number, timestamp)).await;
        let page = read(&list, &chat).await;
        let ids: Vec<String> =
            redis::cmd("ZRANGE").arg(keys.recent_ids(&chat)).arg(0).arg(-1).query_async(&mut raw).await.unwrap();
        assert!(page.entries.len() <= 5 && ids.len() <= 5);
        let ids: HashSet<_> = ids.into_iter().collect();
        for entry in &page.entries {
            assert!(ids.contains(&entry.item.key().id.to_string()));
        }
    }
}

#[tokio::test]
async fn a_resume_gives_exactly_what_was_missed_or_nothing() {
    let list = list(&cache_url().await, 4, 1000);
    let chat = chat();
    let sent = messages(&chat, 6);
    let attempt = Attempt(5);
    add_all(&list, &sent[..4]).await;
    list.add(&sent[4], attempt, BUDGET).await.unwrap();
    add(&list, &sent[5]).await;
    let epoch = read(&list, &chat).await.position.epoch;
    let resume = async |epoch: &str, seq| {
        let offset = Position { epoch: epoch.into(), seq };
        let resumed = list.resume_batch(&[(chat.clone(), offset)], BUDGET).await.pop().unwrap().unwrap().unwrap();
        assert_eq!(resumed.position.seq, 6);
        resumed.missed.map(|missed| missed.iter().map(|(seq, message)| (*seq, number_of(message))).collect::<Vec<_>>())
    };
    assert_eq!(resume(&epoch, 6).await, Some(vec![]));
    assert_eq!(resume(&epoch, 4).await, Some(vec![(5, 5), (6, 6)]));
    assert_eq!(resume(&epoch, 2).await, Some(vec![(3, 3), (4, 4), (5, 5), (6, 6)]));
    assert_eq!(resume(&epoch, 1).await, None, "seq 2 is trimmed");
    assert_eq!(resume(&epoch, 7).await, None, "from a future that never was");
    assert_eq!(resume(&epoch, u64::MAX).await, None);
    assert_eq!(resume("another", 4).await, None);
    assert_eq!(resume(&"x".repeat(10_000), 4).await, None);

    list.tombstone(&sent[4], attempt, BUDGET).await.unwrap();
    assert_eq!(resume(&epoch, 3).await, Some(vec![(4, 4), (6, 6)]), "a tombstone counts but is not shown");
}

#[tokio::test]
async fn a_resume_of_what_is_not_listed_makes_nothing() {
    let url = cache_url().await;
    let (list, chat) = (list(&url, 4, 1000), chat());
    let offset = Position { epoch: "e".into(), seq: 3 };
    let resumed = list.resume_batch(&[(chat.clone(), offset)], BUDGET).await.pop().unwrap().unwrap();
    assert!(resumed.is_none(), "{resumed:?}");
    let keys = Keys::default();
    let keys = [keys.recent(&chat), keys.recent_ids(&chat), keys.recent_head(&chat)];
    let there: u32 = redis::cmd("EXISTS").arg(&keys).query_async(&mut raw(&url).await).await.unwrap();
    assert_eq!(there, 0);
}

#[tokio::test]
async fn resumes_of_many_chats_answer_in_order() {
    let list = list(&cache_url().await, 4, 1000);
    let chats: Vec<_> = (0..50).map(|_| chat()).collect();
    for (index, chat) in chats.iter().enumerate() {
        add(&list, &message(chat, index as u32, 5)).await;
    }
    let pages = list.read_batch(&chats.iter().collect::<Vec<_>>(), BUDGET).await;
    let offset = |page: holdfast_cache::recent::RecentPage| Position { epoch: page.position.epoch, seq: 0 };
    let offsets: Vec<_> = chats.iter().cloned().zip(pages.into_iter().map(|page| offset(page.unwrap()))).collect();
    for (index, resumed) in list.resume_batch(&offsets, BUDGET).await.into_iter().enumerate() {
        assert_eq!(number_of(&resumed.unwrap().unwrap().missed.unwrap()[0].1), index as u32);
    }
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_spoils_no_other() {
    let url = cache_url().await;
    let list = list(&url, 3, 1000);
    let chat = chat();
    add_all(&list, &messages(&chat, 3)).await;
    let key = Keys::default().recent(&chat);
    let mut raw = raw(&url).await;
    let _: () = redis::cmd("LSET").arg(&key).arg(0).arg("garbage").query_async(&mut raw).await.unwrap();
    let page = read(&list, &chat).await;
    assert_eq!((numbers(&page), page.undecodable), (vec![2, 3], 1));
    let offset = Position { seq: 1, ..page.position.clone() };
    let resumed = list.resume_batch(&[(chat.clone(), offset)], BUDGET).await.pop().unwrap().unwrap().unwrap();
    assert_eq!(resumed.missed.unwrap().len(), 2);
    let offset = Position { seq: 0, ..page.position.clone() };
    let resumed = list.resume_batch(&[(chat.clone(), offset)], BUDGET).await.pop().unwrap().unwrap().unwrap();
    assert!(resumed.missed.is_none());

    // When it is trimmed nobody knows what went.
    add(&list, &message(&chat, 4, i64::from(u32::MAX))).await;
    let after = read(&list, &chat).await;
    assert_ne!(after.position.epoch, page.position.epoch);
    assert_eq!(after.floor, Floor::Unverified);
}

#[tokio::test]
async fn scripts_that_the_server_forgot_are_loaded_within_the_pipeline() {
    let server = server(Role::Cache, &[]).await;
    let list = list(&server.url(), 100, 1000);
    let chat = chat();
    let mut raw = raw(&server.url()).await;
    for round in 0..3 {
        let sent: Vec<_> = (0..10).map(|n| message(&chat, round * 10 + n, i64::from(round * 10 + n) + 1)).collect();
        let adds: Vec<_> = sent.iter().map(|message| (message, Attempt::random())).collect();
        let added = list.add_batch(&adds, BUDGET).await;
        assert!(added.iter().all(|added| matches!(added, Ok(Added::New(_)))), "{added:?}");
        let _: () = redis::cmd("SCRIPT").arg("FLUSH").query_async(&mut raw).await.unwrap();
    }
    assert_eq!(numbers(&read(&list, &chat).await), (0..30).collect::<Vec<_>>());
}

#[tokio::test]
async fn on_a_full_server_sends_are_refused_but_reads_and_tombstones_work() {
    let server = server(Role::Cache, &["--maxmemory-policy", "noeviction"]).await;
    let list = list(&server.url(), 100, 1000);
    let chat = chat();
    let sent = messages(&chat, 2);
    list.add(&sent[0], Attempt(1), BUDGET).await.unwrap();
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("1").query_async(&mut raw).await.unwrap();
    let refused = list.add(&sent[1], Attempt(2), BUDGET).await.unwrap_err();
    assert!(matches!(&refused, RedisError::Refused(text) if text.contains("OOM")), "{refused:?}");
    assert!(!refused.maybe_applied());
    assert_eq!(numbers(&read(&list, &chat).await), [1]);
    assert_eq!(list.tombstone(&sent[0], Attempt(1), BUDGET).await, Ok(Retraction::Done));
    let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg("0").query_async(&mut raw).await.unwrap();
    assert_eq!(add(&list, &sent[1]).await.seq, 2, "the refused call left no trace");
}

#[tokio::test]
async fn a_list_lives_as_long_as_configured_after_its_last_message() {
    let url = cache_url().await;
    let list = list(&url, 100, 1000);
    let chat = chat();
    add(&list, &message(&chat, 1, 5)).await;
    let keys = Keys::default();
    let mut raw = raw(&url).await;
    for key in [keys.recent(&chat), keys.recent_ids(&chat), keys.recent_head(&chat)] {
        let ttl: i64 = redis::cmd("TTL").arg(&key).query_async(&mut raw).await.unwrap();
        assert!((604_700..=604_800).contains(&ttl), "{key} {ttl}");
    }
}

#[tokio::test]
async fn a_durable_repeat_of_what_was_taken_back_after_it_was_trimmed_is_listed_anew() {
    let (list, chat) = (list(&cache_url().await, 3, 1000), chat());
    let sent = messages(&chat, 5);
    list.add(&sent[0], Attempt(1), BUDGET).await.unwrap();
    add_all(&list, &sent[1..]).await;
    assert_eq!(numbers(&read(&list, &chat).await), [3, 4, 5]);
    assert_eq!(
        list.tombstone(&sent[0], Attempt(1), BUDGET).await.map(|it| it == Retraction::Done),
        Ok(false),
        "there is nothing to be a tombstone"
    );
    let added = list.add(&sent[0], Attempt::DURABLE, BUDGET).await.unwrap();
    assert!(matches!(added, Added::New(_)), "{added:?}");
}
