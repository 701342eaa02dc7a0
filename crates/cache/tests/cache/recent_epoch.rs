//! Whatever may have lost something begins a new epoch.

use std::time::{SystemTime, UNIX_EPOCH};

use holdfast_cache::recent::{Floor, Repair};
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_testkit::Role;

use crate::support::{BUDGET, add, add_all, cache_url, chat, list, message, messages, raw, read, server};

/// A list of three messages, verified as the whole chat; then something happens to the server's data.
async fn filled(url: &str, chat: &ChatId) -> (holdfast_cache::RecentList, std::sync::Arc<str>) {
    let list = list(url, 100, 1000);
    let sent = messages(chat, 3);
    add_all(&list, &sent).await;
    let page = read(&list, chat).await;
    let repair = Repair { chat, epoch: &page.position.epoch, read_at: page.read_at, messages: &sent, covered: None };
    list.repair(&repair, BUDGET).await.unwrap();
    let page = read(&list, chat).await;
    assert_eq!((page.floor, page.entries.len()), (Floor::Whole, 3));
    assert!(page.verified_age.is_some());
    (list, page.position.epoch)
}

async fn assert_anew(list: &holdfast_cache::RecentList, chat: &ChatId, before: &str) {
    let page = read(list, chat).await;
    assert_ne!(&*page.position.epoch, before);
    assert_eq!((page.floor, page.verified_age), (Floor::Unverified, None));
    assert_eq!((page.position.seq, page.entries.len()), (0, 0));
    assert_eq!(add(list, &message(chat, 1, 5)).await.seq, 1);
    assert_eq!(read(list, chat).await.position.epoch, page.position.epoch);
}

#[tokio::test]
async fn after_the_loss_of_any_one_key() {
    let url = cache_url().await;
    let keys = Keys::default();
    let mut raw = raw(&url).await;
    for build in [Keys::recent, Keys::recent_ids, Keys::recent_head] {
        let chat = chat();
        let (list, epoch) = filled(&url, &chat).await;
        let _: () = redis::cmd("DEL").arg(build(&keys, &chat)).query_async(&mut raw).await.unwrap();
        assert_anew(&list, &chat, &epoch).await;
    }
}

#[tokio::test]
async fn after_a_key_was_changed_by_another_hand() {
    let url = cache_url().await;
    let keys = Keys::default();
    let mut raw = raw(&url).await;
    let chat = chat();
    let (list, epoch) = filled(&url, &chat).await;
    let _: () = redis::cmd("RPUSH").arg(keys.recent(&chat)).arg("x").query_async(&mut raw).await.unwrap();
    assert_anew(&list, &chat, &epoch).await;
    let epoch = read(&list, &chat).await.position.epoch;
    let _: () = redis::cmd("SET").arg(keys.recent(&chat)).arg("x").query_async(&mut raw).await.unwrap();
    assert_anew(&list, &chat, &epoch).await;
}

/// The head as it was written before it was one packed value: a field for each part.
async fn write_old_head(raw: &mut redis::aio::MultiplexedConnection, key: &str, epoch: &str) {
    let info: String = redis::cmd("INFO").arg("server").query_async(raw).await.unwrap();
    let run = info.lines().find_map(|line| line.strip_prefix("run_id:")).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis().to_string();
    let fields =
        [("epoch", epoch), ("run", run), ("seq", "3"), ("floor_ts", "0"), ("floor_id", ""), ("n", "3"), ("m", "3")];
    let mut write = redis::cmd("HSET");
    write.arg(key);
    for (field, value) in fields {
        write.arg(field).arg(value);
    }
    write.arg("verified_at").arg(&now).arg("alive").arg(&now).arg("trimmed_ts").arg("0");
    let _: () = write.query_async(raw).await.unwrap();
}

#[tokio::test]
async fn after_a_head_in_an_older_format_or_one_that_cannot_be_read() {
    let url = cache_url().await;
    let mut raw = raw(&url).await;
    for change in ["old", "garbage", "empty", "cut", "format"] {
        let chat = chat();
        let (list, epoch) = filled(&url, &chat).await;
        let key = Keys::default().recent_head(&chat);
        let mut state: Vec<u8> = redis::cmd("HGET").arg(&key).arg("state").query_async(&mut raw).await.unwrap();
        match change {
            "old" => {
                let _: () = redis::cmd("DEL").arg(&key).query_async(&mut raw).await.unwrap();
                write_old_head(&mut raw, &key, &epoch).await;
            }
            "garbage" => state = b"garbage".to_vec(),
            "empty" => state.clear(),
            // The last part is nine bytes long.
            "cut" => state.truncate(state.len() - 9),
            _ => state[0] += 1,
        }
        if change != "old" {
            let _: () = redis::cmd("HSET").arg(&key).arg("state").arg(&state).query_async(&mut raw).await.unwrap();
        }
        if change != "cut" {
            assert_eq!(list.tip_batch(&[&chat], BUDGET).await.pop().unwrap(), Ok(None), "{change}");
        }
        assert_anew(&list, &chat, &epoch).await;
        let fields: Vec<String> = redis::cmd("HKEYS").arg(&key).query_async(&mut raw).await.unwrap();
        assert_eq!(fields, ["state"], "nothing of the old head is left");
    }
}

#[tokio::test]
async fn after_a_flush() {
    let server = server(Role::Cache, &[]).await;
    let chat = chat();
    let (list, epoch) = filled(&server.url(), &chat).await;
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
    assert_anew(&list, &chat, &epoch).await;
}

#[tokio::test]
async fn after_a_restart_even_with_all_data() {
    // What an append-only file brings back may be older than what was answered.
    let server = server(Role::Queue, &["--appendfsync", "always"]).await;
    let chat = chat();
    let (list, epoch) = filled(&server.url(), &chat).await;
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_anew(&list, &chat, &epoch).await;
}
