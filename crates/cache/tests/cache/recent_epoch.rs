//! Whatever may have lost something begins a new epoch.

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
