//! What a call means that has not ended by its deadline.

use std::time::{Duration, Instant};

use holdfast_cache::recent::{Added, Attempt};
use holdfast_redis::RedisError;
use holdfast_testkit::Role;

use crate::support::{BUDGET, add, chat, list, message, server};

#[tokio::test]
async fn a_deadline_is_kept_and_what_was_sent_may_have_happened() {
    let server = server(Role::Cache, &[]).await;
    let list = list(&server.url(), 100, 1000);
    let chat = chat();
    add(&list, &message(&chat, 1, 5)).await;
    server.freeze().unwrap();
    let started = Instant::now();
    let error = list.add(&message(&chat, 2, 6), Attempt(1), Duration::from_millis(50)).await.unwrap_err();
    assert!(matches!(error, RedisError::Unavailable { maybe_applied: true, .. }), "{error:?}");
    // The server says nothing until this has returned: only the deadline can have ended the call.
    assert!(started.elapsed() >= Duration::from_millis(50));
    server.thaw().unwrap();
    let again = list.add(&message(&chat, 2, 6), Attempt(1), BUDGET).await.unwrap();
    assert!(matches!(again, Added::Own(_)), "it had happened: {again:?}");
}
