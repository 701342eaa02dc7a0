//! Clients that ask for much and read nothing.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_testkit::{unique, until};
use serde_json::json;

use crate::support::Process;

const HOGS: usize = 50;
const MIB: u64 = 1 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn fifty_clients_that_ask_for_long_pages_and_read_nothing_take_little_memory_and_are_closed() {
    let gateway = Process::start(&[]).await;
    let (alice, bob) = (unique("alice"), unique("bob"));
    let (sender, _own) = gateway.connect(&alice).await;
    // Each of these characters is six bytes of JSON.
    let content = "\u{1}".repeat(4000);
    for _ in 0..100 {
        let sent = sender.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": content })).await.unwrap();
        assert_eq!(sent["ok"], true, "{sent}");
    }
    let page = json!({ "friendId": alice, "limit": 100 }).to_string();
    let (reader, _events) = gateway.connect(&bob).await;
    let longest = reader.call("history", &page).await.unwrap().len();
    assert!(longest > 2_000_000, "{longest}");

    let before = gateway.memory();
    let hogs = join_all((0..HOGS).map(|_| gateway.connect(&bob))).await;
    for (hog, _) in &hogs {
        hog.read(false).await.unwrap();
        for _ in 0..2 {
            drop(hog.begin("history", &page).await.unwrap());
        }
    }
    // Every hog is to receive each of these, too. One at a time: the sender's own answers must find room.
    let mut most = gateway.memory();
    for _ in 0..600 {
        let sent = sender.emit_with_ack("sendMessage", &json!({ "friendId": bob, "content": content })).await.unwrap();
        assert_eq!(sent["ok"], true, "{sent}");
        most = most.max(gateway.memory());
    }
    assert!(most < before + 128 * MIB, "{} MiB more", (most - before) / MIB);
    let mut slowest = Duration::ZERO;
    let open = async || gateway.metric("holdfast_gateway_sockets").await > 2.0;
    until("the hogs are closed", async || {
        most = most.max(gateway.memory());
        let asked = std::time::Instant::now();
        let sent = sender.emit_with_ack("sendMessage", &json!({ "friendId": "carol", "content": "hi" })).await.unwrap();
        slowest = slowest.max(asked.elapsed());
        assert_eq!(sent["ok"], true, "{sent}");
        !open().await
    })
    .await;
    until("nothing waits for them", async || gateway.metric("holdfast_gateway_outgoing_bytes").await == 0.0).await;
    let after = gateway.memory();
    println!("{} MiB before, {} at most, {} after; slowest send {slowest:?}", before / MIB, most / MIB, after / MIB);
    assert!(most < before + 128 * MIB, "{} MiB more", (most - before) / MIB);
    assert!(after < before + 64 * MIB, "{} MiB stay", (after - before) / MIB);
    drop(hogs);
}
