//! Answers for whoever would rather wait than be told what was.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_breaker::BreakerSettings;
use holdfast_redis::aside::{Aside, AsideError, Freshness, Patience, Policy, RETRY};
use holdfast_testkit::{Proxy, until};

use super::{Database, POLICY, Process, Servers, key, seen};

/// Longer than anything takes here.
const LONG: Duration = Duration::from_secs(60);
const PATIENT: Patience = Patience { stale: LONG, nothing: LONG };
const HASTY: Patience = Patience { stale: Duration::from_millis(50), nothing: Duration::from_millis(50) };
/// Stale after a moment.
const SHORT: Policy = Policy { fresh: Duration::from_millis(50), jitter: 0.0, ..POLICY };

/// Caches what the source has, and waits until it is stale.
async fn stale(aside: &Aside<Database>, source: &Database, key: &String, value: &str) {
    source.set(key, value).await;
    aside.warm(std::slice::from_ref(key)).await;
    tokio::time::sleep(2 * SHORT.fresh).await;
}

#[tokio::test]
async fn nothing_stale_is_answered_while_one_has_the_patience_for_the_load() {
    let servers = Servers::start().await;
    let source = servers.database().await.slow(Duration::from_millis(20));
    let process = Process::new(&servers.cache.url()).hearing().await;
    for memory_bytes in [1 << 20, 0] {
        let aside = process.aside(&source, Policy { memory_bytes, ..SHORT });
        let key = key();
        stale(&aside, &source, &key, "old").await;
        source.set(&key, "new").await;
        let loads = source.loads(&key).await;
        for answer in join_all((0..100).map(|_| aside.get_fresh(&key, PATIENT))).await {
            assert_eq!(seen(&answer), (Some("new"), false));
        }
        assert_eq!(source.loads(&key).await, loads + 1, "they share one load");
    }
}

#[tokio::test]
async fn many_keys_are_had_fresh_by_one_load() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, SHORT);
    let keys: Vec<_> = (0..12).map(|_| key()).collect();
    for key in &keys {
        source.set(key, "old").await;
    }
    aside.warm(&keys[..6]).await;
    tokio::time::sleep(2 * SHORT.fresh).await;
    for key in &keys {
        source.set(key, "new").await;
    }
    let batches = source.batches().await;
    for answer in aside.get_many_fresh(&keys, PATIENT).await {
        assert_eq!(seen(&answer), (Some("new"), false));
    }
    // What was stale, and what was missing.
    assert!(source.batches().await <= batches + 2);
}

#[tokio::test]
async fn who_has_no_patience_gets_what_is_stale_and_the_load_goes_on() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, SHORT);
    let (known, unknown) = (key(), key());
    stale(&aside, &source, &known, "old").await;
    source.set(&known, "new").await;
    source.set(&unknown, "new").await;
    source.switch("gate", true).await;
    let started = Instant::now();
    assert_eq!(seen(&aside.get_fresh(&known, Patience { nothing: LONG, ..HASTY }).await), (Some("old"), true));
    let patience = Patience { stale: LONG, ..HASTY };
    assert!(matches!(aside.get_fresh(&unknown, patience).await, Err(AsideError::Unanswered)));
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    source.switch("gate", false).await;
    for key in [&known, &unknown] {
        until("the load has ended", async || {
            aside.peek(key).is_some_and(|found| found.value.as_deref().is_some_and(|value| value == "new"))
        })
        .await;
    }
}

#[tokio::test]
async fn a_source_that_fails_is_not_waited_for() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, SHORT);
    stale(&aside, &source, &key, "old").await;
    source.switch("failing", true).await;
    let (started, loads) = (Instant::now(), source.loads(&key).await);
    for _ in 0..10 {
        assert_eq!(seen(&aside.get_fresh(&key, PATIENT).await), (Some("old"), true));
    }
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    let most = started.elapsed().as_millis() / RETRY.as_millis() + 1;
    assert!(u128::from(source.loads(&key).await - loads) <= most);
    let nothing = aside.get_fresh(&super::key(), PATIENT).await;
    assert!(matches!(nothing, Err(AsideError::Source(error)) if *error == "as told"));
}

#[tokio::test]
async fn what_another_process_loads_is_waited_for() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    let (here, there) = (Process::new(&servers.cache.url()), Process::new(&servers.cache.url()));
    let (here, there) = (here.hearing().await, there.hearing().await);
    let policy = Policy { memory_bytes: 0, ..SHORT };
    let (aside, other) = (here.aside(&source, policy), there.aside(&source, Policy { fresh: LONG, ..policy }));
    stale(&aside, &source, &key, "old").await;
    source.set(&key, "new").await;
    source.switch("gate", true).await;
    assert_eq!(seen(&other.get(&key).await), (Some("old"), true));
    until("it is being loaded there", async || source.loads(&key).await == 2).await;
    let (answer, ()) = tokio::join!(aside.get_fresh(&key, PATIENT), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        source.switch("gate", false).await;
    });
    assert_eq!(seen(&answer), (Some("new"), false));
    assert_eq!(source.loads(&key).await, 2);
}

#[tokio::test]
async fn no_answer_is_older_than_an_invalidation_made_before_it_was_given() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    source.switch("gate", true).await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    for policy in [POLICY, Policy { memory_bytes: 0, ..POLICY }] {
        let aside = process.aside(&source, policy);
        let loads = source.loads(&key).await;
        let early = tokio::spawn({
            let (aside, key) = (aside.clone(), key.clone());
            async move { aside.get_fresh(&key, PATIENT).await }
        });
        until("the old value is being loaded", async || source.loads(&key).await > loads).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
        source.set(&key, "new").await;
        aside.invalidate(std::slice::from_ref(&key)).await.unwrap();
        source.switch("gate", false).await;
        assert_eq!(seen(&early.await.unwrap()), (Some("new"), false));
        source.set(&key, "old").await;
        aside.invalidate(std::slice::from_ref(&key)).await.unwrap();
        source.switch("gate", true).await;
    }
}

#[tokio::test]
async fn a_redis_that_says_nothing_is_waited_for_no_longer_than_the_policy_has_patience() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "value").await;
    let process = Process::with(&servers.cache.url(), LONG, BreakerSettings::default());
    let aside = process.aside(&source, Policy { patience: Duration::from_millis(10), ..POLICY });
    servers.cache.freeze().unwrap();
    let started = Instant::now();
    assert_eq!(seen(&aside.get(&key).await), (Some("value"), false));
    assert!(started.elapsed() < LONG / 2, "{:?}", started.elapsed());
    servers.cache.thaw().unwrap();
}

#[tokio::test]
async fn without_redis_memory_is_used_for_as_long_as_the_policy_says_and_without_the_source_beyond() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    let proxy = Proxy::start(servers.cache.port()).await.unwrap();
    let process = Process::new(&servers.cache.url_at(proxy.port())).hearing().await;
    let aside = process.aside(&source, Policy { unsubscribed_ttl: LONG, ..POLICY });
    let strict = process.aside(&source, POLICY);
    for aside in [&aside, &strict] {
        assert_eq!(seen(&aside.get(&key).await), (Some("old"), false));
    }
    proxy.cut().await;
    until("nothing is heard", async || !process.backend.is_live()).await;
    source.set(&key, "new").await;
    assert_eq!(seen(&aside.get_fresh(&key, PATIENT).await), (Some("old"), false));
    assert_eq!(aside.peek(&key).map(|found| found.freshness), Some(Freshness::Fresh));
    assert_eq!(seen(&strict.get_fresh(&key, PATIENT).await), (Some("new"), false));
    assert!(strict.peek(&key).is_none());

    source.switch("failing", true).await;
    assert_eq!(seen(&strict.get_fresh(&key, PATIENT).await), (Some("new"), true));
    assert!(strict.get(&key).await.is_err());
    // What was invalidated here is used no more, whatever else is away.
    for aside in [&aside, &strict] {
        aside.invalidate(std::slice::from_ref(&key)).await.unwrap_err();
        assert!(aside.get_fresh(&key, PATIENT).await.is_err());
    }
}
