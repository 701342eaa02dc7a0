//! Batches: each message is answered as if it had come alone, by few calls.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::RecentList;
use holdfast_cache::recent::{Added, Attempt, RecentPage, Retraction};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, Message};
use holdfast_redis::RedisError;
use holdfast_testkit::Role;

use crate::support::{
    BUDGET, add, add_all, cache_url, chat, chats_on_each, cluster, connect_cluster, list, list_on, message, messages,
    numbers, raw, read, server,
};

/// What was answered, without the epoch's name.
fn nameless(added: &Result<Added, RedisError>) -> (&'static str, Option<u64>, i64) {
    match added.as_ref().unwrap() {
        Added::New(position) => ("new", Some(position.seq), 0),
        Added::Own(position) => ("own", Some(position.seq), 0),
        Added::Repeat { timestamp, seq, .. } => ("repeat", *seq, *timestamp),
    }
}

fn epoch(added: &Result<Added, RedisError>) -> Arc<str> {
    match added.as_ref().unwrap() {
        Added::New(position) | Added::Own(position) => position.epoch.clone(),
        Added::Repeat { epoch, .. } => epoch.clone(),
    }
}

/// What was listed, without the epoch's name and the chat.
fn listed(page: &RecentPage) -> Vec<(Option<u64>, i64, u32)> {
    let of_message = |(seq, message): (Option<u64>, &Message)| {
        (seq, message.timestamp, u32::from_be_bytes(message.id.as_bytes()[..4].try_into().unwrap()))
    };
    page.messages().map(of_message).collect()
}

#[tokio::test]
async fn a_batch_is_answered_as_if_its_messages_had_come_one_by_one() {
    let url = cache_url().await;
    let list = list(&url, 6, 8);
    for seed in 0..20 {
        let mut rng = fastrand::Rng::with_seed(seed);
        let (batched, single) = ([chat(), chat(), chat()], [chat(), chat(), chat()]);
        for _ in 0..4 {
            // Often the same message again, by the same attempt, by another, or as a durable one.
            let sends: Vec<_> = (0..rng.usize(1..40))
                .map(|_| (rng.usize(..3), rng.u32(1..30), rng.i64(-2..2), Attempt(rng.u32(0..3))))
                .collect();
            let of = |chats: &[ChatId; 3]| -> Vec<(Message, Attempt)> {
                let of = |&(chat, number, skew, attempt): &(usize, u32, i64, Attempt)| {
                    (message(&chats[chat], number, i64::from(number) * 2 + skew), attempt)
                };
                sends.iter().map(of).collect()
            };
            let together = of(&batched);
            let together: Vec<_> = together.iter().map(|(message, attempt)| (message, *attempt)).collect();
            let together = list.add_batch(&together, BUDGET).await;
            let mut alone = Vec::new();
            for (message, attempt) in of(&single) {
                alone.push(list.add(&message, attempt, BUDGET).await);
            }
            let answers = |added: &[Result<Added, RedisError>]| added.iter().map(nameless).collect::<Vec<_>>();
            assert_eq!(answers(&together), answers(&alone), "seed {seed}");
            for (batched, single) in batched.iter().zip(&single) {
                let (batched, single) = (read(&list, batched).await, read(&list, single).await);
                assert_eq!(listed(&batched), listed(&single), "seed {seed}");
                assert_eq!(
                    (batched.floor, batched.trimmed, batched.position.seq),
                    (single.floor, single.trimmed, single.position.seq)
                );
            }
        }
    }
}

#[tokio::test]
async fn repeats_within_a_batch_know_each_other() {
    let list = list(&cache_url().await, 100, 1000);
    let (one, other) = (chat(), chat());
    let (first, second, elsewhere) = (message(&one, 1, 1000), message(&one, 2, 1001), message(&other, 1, 1000));
    // A repeat by another attempt is stamped later.
    let repeat = Message { timestamp: 5000, ..first.clone() };
    let batch = [
        (&first, Attempt(41)),
        (&elsewhere, Attempt(7)),
        (&first, Attempt(41)),
        (&repeat, Attempt(42)),
        (&second, Attempt(43)),
        (&repeat, Attempt::DURABLE),
        (&elsewhere, Attempt(7)),
    ];
    let added = list.add_batch(&batch, BUDGET).await;
    let expected = [
        ("new", Some(1), 0),
        ("new", Some(1), 0),
        ("own", Some(1), 0),
        ("repeat", Some(1), 1000),
        ("new", Some(2), 0),
        ("repeat", Some(1), 1000),
        ("own", Some(1), 0),
    ];
    assert_eq!(added.iter().map(nameless).collect::<Vec<_>>(), expected);
    assert_ne!(epoch(&added[0]), epoch(&added[1]), "each chat has an epoch of its own");
    assert_eq!(numbers(&read(&list, &one).await), [1, 2]);
    let retracted = list.tombstone(&first, Attempt(41), BUDGET).await.unwrap();
    assert!(matches!(retracted, Retraction::Durable { .. }), "it became durable within the batch: {retracted:?}");
}

#[tokio::test]
async fn a_chat_with_a_key_of_another_type_fails_alone() {
    let url = cache_url().await;
    let list = list(&url, 100, 1000);
    let chats = [chat(), chat(), chat()];
    let head = Keys::default().recent_head(&chats[1]);
    let mut raw = raw(&url).await;
    let _: () = redis::cmd("SET").arg(&head).arg("x").query_async(&mut raw).await.unwrap();
    let sent: Vec<_> = (1..=3).flat_map(|number| chats.each_ref().map(|chat| message(chat, number, 5))).collect();
    let batch: Vec<_> = sent.iter().map(|message| (message, Attempt(1))).collect();
    let added = list.add_batch(&batch, BUDGET).await;
    for (index, added) in added.iter().enumerate() {
        if index % 3 == 1 {
            let error = added.as_ref().unwrap_err();
            assert!(matches!(error, RedisError::Refused(why) if why.starts_with("WRONGTYPE")), "{error:?}");
        } else {
            assert_eq!(nameless(added), ("new", Some(index as u64 / 3 + 1), 0));
        }
    }
    let _: () = redis::cmd("DEL").arg(&head).query_async(&mut raw).await.unwrap();
    let added = list.add_batch(&batch, BUDGET).await;
    assert!(added.iter().enumerate().all(|(index, added)| nameless(added).0 == ["own", "new", "own"][index % 3]));
}

/// The script as it is sent.
const SCRIPT: &str = concat!(
    "#!lua\n",
    include_str!("../../src/scripts/recent_state.lua"),
    include_str!("../../src/scripts/recent_change.lua"),
    include_str!("../../src/scripts/recent_add.lua"),
);

#[tokio::test]
async fn a_malformed_message_fails_alone_and_leaves_its_chat_as_it_was() {
    let url = cache_url().await;
    let (list, chat, keys) = (list(&url, 100, 1000), chat(), Keys::default());
    add(&list, &message(&chat, 1, 5)).await;
    let before = read(&list, &chat).await.position.epoch;
    let mut call = redis::cmd("EVAL");
    call.arg(SCRIPT).arg(3).arg(keys.recent(&chat)).arg(keys.recent_ids(&chat)).arg(keys.recent_head(&chat));
    call.arg("e").arg(3600).arg(100).arg(132).arg(1000).arg(1032);
    let id = |number: u8| [number; 16];
    for (bytes, timestamp) in [(&id(1)[..], "6"), (&id(2)[..], "noon"), (&[3; 9][..], "7"), (&id(4)[..], "8")] {
        call.arg(1).arg(format!("id {}", bytes[0])).arg(bytes).arg(7).arg(timestamp).arg("rest").arg("prefix").arg(0);
    }
    type Answer = (String, String, Option<u64>, i64);
    let answers: Vec<Answer> = call.query_async(&mut raw(&url).await).await.unwrap();
    let verdicts: Vec<_> = answers.iter().map(|(verdict, _, seq, _)| (verdict.as_str(), *seq)).collect();
    assert_eq!(verdicts, [("new", Some(2)), ("error", None), ("error", None), ("new", Some(3))]);
    assert_eq!((&*answers[0].1, &*answers[3].1), (&*before, &*before), "the stream goes on");
}

/// How often a server was called with a script.
async fn script_calls(raw: &mut redis::aio::MultiplexedConnection) -> u64 {
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(raw).await.unwrap();
    let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_evalsha:calls="));
    line.map_or(0, |line| line.split(',').next().unwrap().parse().unwrap())
}

#[tokio::test]
async fn one_server_takes_a_batch_of_all_chats_by_calls_of_64_messages_in_their_order() {
    let server = server(Role::Cache, &[]).await;
    let list = list(&server.url(), 200, 1000);
    let chats: Vec<_> = (0..7).map(|_| chat()).collect();
    // The script is known from here on.
    add(&list, &message(&chat(), 1, 5)).await;
    let mut raw = raw(&server.url()).await;
    let before = script_calls(&mut raw).await;
    let sent: Vec<_> = (0..200).map(|number| message(&chats[number % 7], number as u32, 1000)).collect();
    let batch: Vec<_> = sent.iter().map(|message| (message, Attempt(1))).collect();
    for (index, added) in list.add_batch(&batch, BUDGET).await.iter().enumerate() {
        assert_eq!(nameless(added), ("new", Some(index as u64 / 7 + 1), 0));
    }
    assert_eq!(script_calls(&mut raw).await - before, 4, "64, 64, 64 and 8 messages");
    let expected: Vec<u32> = (0..200).filter(|number| number % 7 == 3).collect();
    assert_eq!(numbers(&read(&list, &chats[3]).await), expected);
    assert_eq!(list.add_batch(&[], BUDGET).await, []);
}

#[tokio::test]
async fn a_cluster_takes_a_batch_by_a_call_for_each_chat() {
    let cluster = cluster(Role::Cache).await;
    let chats = chats_on_each(&cluster, 3).await.concat();
    let list = list_on(connect_cluster(&cluster), 200, 1000);
    // Every master knows the script from here on.
    for chat in &chats {
        add(&list, &message(chat, 0, 1)).await;
    }
    let calls = async || {
        let mut sum = 0;
        for master in 0..3 {
            sum += script_calls(&mut raw(&cluster.node(master).url()).await).await;
        }
        sum
    };
    let before = calls().await;
    // One chat has more than one call takes; the others have three messages, in turns.
    let mut sent: Vec<_> = (1..=3).flat_map(|number| chats.iter().map(move |chat| message(chat, number, 5))).collect();
    sent.extend((4..=100).map(|number| message(&chats[4], number, 5)));
    let batch: Vec<_> = sent.iter().map(|message| (message, Attempt(1))).collect();
    let mut seqs: HashMap<&ChatId, u64> = chats.iter().map(|chat| (chat, 1)).collect();
    for (message, added) in sent.iter().zip(list.add_batch(&batch, BUDGET).await) {
        let seq = seqs.get_mut(&message.chat).unwrap();
        *seq += 1;
        assert_eq!(nameless(&added), ("new", Some(*seq), 0));
    }
    assert_eq!(calls().await - before, 10);
    assert_eq!(numbers(&read(&list, &chats[4]).await), (0..=100).collect::<Vec<_>>());
}

#[tokio::test]
async fn each_message_of_a_batch_that_was_not_answered_may_have_been_added_and_its_retry_finds_it_so() {
    let server = server(Role::Cache, &[]).await;
    let list = list(&server.url(), 100, 1000);
    let chats = [chat(), chat()];
    add(&list, &message(&chats[0], 9, 1)).await;
    let sent: Vec<_> = chats.iter().flat_map(|chat| messages(chat, 5)).collect();
    let batch: Vec<_> = sent.iter().zip(1..).map(|(message, attempt)| (message, Attempt(attempt))).collect();
    server.freeze().unwrap();
    for added in list.add_batch(&batch, Duration::from_millis(50)).await {
        assert!(matches!(added, Err(RedisError::Unavailable { maybe_applied: true, .. })), "{added:?}");
    }
    server.thaw().unwrap();
    for added in list.add_batch(&batch, BUDGET).await {
        assert!(matches!(added, Ok(Added::Own(_))), "{added:?}");
    }
    assert_eq!(numbers(&read(&list, &chats[1]).await), [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_full_server_refuses_each_message_of_a_batch() {
    let server = server(Role::Cache, &["--maxmemory-policy", "noeviction"]).await;
    let list = list(&server.url(), 100, 1000);
    let sent: Vec<_> = (1..=3).map(|number| message(&chat(), number, 5)).collect();
    let batch: Vec<_> = sent.iter().map(|message| (message, Attempt(1))).collect();
    add(&list, &sent[0]).await;
    let mut raw = raw(&server.url()).await;
    let limit = async |raw: &mut redis::aio::MultiplexedConnection, bytes: &str| {
        let _: () = redis::cmd("CONFIG").arg("SET").arg("maxmemory").arg(bytes).query_async(raw).await.unwrap();
    };
    limit(&mut raw, "1").await;
    let refused = list.add_batch(&batch, BUDGET).await;
    assert_eq!(refused.len(), 3);
    for added in refused {
        let error = added.unwrap_err();
        assert!(matches!(&error, RedisError::Refused(why) if why.contains("OOM")), "{error:?}");
        assert!(!error.maybe_applied());
    }
    limit(&mut raw, "0").await;
    let verdicts: Vec<_> = list.add_batch(&batch, BUDGET).await.iter().map(|added| nameless(added).0).collect();
    assert_eq!(verdicts, ["repeat", "new", "new"], "the refused call left no trace");
}

#[tokio::test]
async fn after_a_message_that_begins_a_new_epoch_the_rest_of_the_batch_is_in_it() {
    let url = cache_url().await;
    let (list, chat) = (list(&url, 3, 1000), chat());
    add_all(&list, &messages(&chat, 3)).await;
    let before = read(&list, &chat).await.position.epoch;
    let key = Keys::default().recent(&chat);
    let _: () = redis::cmd("LSET").arg(key).arg(0).arg("garbage").query_async(&mut raw(&url).await).await.unwrap();
    let later = messages(&chat, 6);
    let batch: Vec<_> = later[3..].iter().map(|message| (message, Attempt(1))).collect();
    let added = list.add_batch(&batch, BUDGET).await;
    // The first lets go of what nobody can read, and is the last of its epoch.
    assert_eq!(added.iter().map(nameless).map(|(_, seq, _)| seq.unwrap()).collect::<Vec<_>>(), [4, 1, 2]);
    let page = read(&list, &chat).await;
    assert_eq!((epoch(&added[0]), epoch(&added[1])), (before, page.position.epoch.clone()));
    assert_eq!(numbers(&page), [5, 6]);
}

async fn lengths(list: &RecentList, url: &str, chat: &ChatId) -> (usize, usize) {
    let ids = Keys::default().recent_ids(chat);
    let ids: usize = redis::cmd("ZCARD").arg(ids).query_async(&mut raw(url).await).await.unwrap();
    (read(list, chat).await.entries.len(), ids)
}

#[tokio::test]
async fn a_list_and_its_ids_are_trimmed_32_at_a_time() {
    let url = cache_url().await;
    let (list, chat) = (list(&url, 100, 150), chat());
    let sent = messages(&chat, 400);
    let mut expected = (0, 0);
    for chunk in sent.chunks(7) {
        let batch: Vec<_> = chunk.iter().map(|message| (message, Attempt(1))).collect();
        assert!(list.add_batch(&batch, BUDGET).await.iter().all(|added| nameless(added).0 == "new"));
        for _ in chunk {
            expected = (expected.0 + 1, expected.1 + 1);
            expected =
                (if expected.0 == 132 { 100 } else { expected.0 }, if expected.1 == 182 { 150 } else { expected.1 });
        }
        assert_eq!(lengths(&list, &url, &chat).await, expected);
    }
    // 400 = 132 + 8 * 32 + 12
    let page = read(&list, &chat).await;
    assert_eq!(numbers(&page), (289..=400).collect::<Vec<_>>());
    assert_eq!(page.trimmed, Some(sent[287].key()), "the newest that was let go");
}

#[tokio::test]
async fn what_is_oldest_in_history_is_trimmed_however_it_came() {
    let url = cache_url().await;
    let (list, chat) = (list(&url, 100, 1000), chat());
    let sent = messages(&chat, 140);
    // The oldest forty came last.
    add_all(&list, &sent[40..131]).await;
    add_all(&list, &sent[..40]).await;
    assert_eq!(read(&list, &chat).await.entries.len(), 131);
    add(&list, &sent[131]).await;
    let page = read(&list, &chat).await;
    let expected: Vec<_> = (41..=131).chain(33..=40).chain([132]).collect();
    assert_eq!((numbers(&page), page.trimmed), (expected, Some(sent[31].key())));
}

#[tokio::test]
async fn a_short_list_is_trimmed_with_every_message() {
    let url = cache_url().await;
    for (max, longest) in [(63, 63), (64, 95)] {
        let (list, chat) = (list(&url, max, max), chat());
        let mut seen = 0;
        for message in messages(&chat, 200) {
            add(&list, &message).await;
            let (entries, ids) = lengths(&list, &url, &chat).await;
            assert_eq!(entries, ids);
            seen = seen.max(entries);
        }
        assert_eq!(seen, longest);
    }
}
