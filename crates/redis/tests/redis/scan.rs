//! Scans over a server's keys, whatever somebody else has put there.

use holdfast_redis::{Page, Scan};
use holdfast_testkit::Role;

use crate::support::{BUDGET, connect, raw, server};

/// Everything that a walk meets, each key once.
async fn met(url: &str, pattern: &str) -> Page {
    let mut walk = Scan::start(&connect(url), pattern, BUDGET).await.unwrap();
    let mut met = Page::default();
    while let Some(page) = walk.next(10, BUDGET).await.unwrap() {
        met.names.extend(page.names);
        met.foreign += page.foreign;
    }
    met.names.sort();
    met.names.dedup();
    met
}

async fn set(url: &str, key: &[u8]) {
    let _: () = redis::cmd("SET").arg(key).arg("x").query_async(&mut raw(url).await).await.unwrap();
}

#[tokio::test]
async fn keys_that_are_no_utf_8_are_counted_and_passed_over() {
    let server = server(Role::Cache, &[]).await;
    for key in [&b"a session \xc3\x28"[..], b"\xff", "ä".as_bytes(), b"chat:v1:online", b"line\nbreak"] {
        set(&server.url(), key).await;
    }
    let all = met(&server.url(), "*").await;
    assert_eq!((all.names, all.foreign), (vec!["chat:v1:online".into(), "line\nbreak".into(), "ä".into()], 2));
    assert_eq!(met(&server.url(), "chat:*").await, Page { names: vec!["chat:v1:online".into()], foreign: 0 });
    assert!(met(&server.url(), "nobody:*").await.is_empty());
}
