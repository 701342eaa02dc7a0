//! What holds while Redis, or the way to it, is away.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_breaker::{BreakerSettings, BreakerState};
use holdfast_redis::aside::{BOUND, Policy};
use holdfast_testkit::{Proxy, until};

use super::{POLICY, Process, Servers, key, seen};

const BUDGET: Duration = Duration::from_millis(100);
const BREAKER: BreakerSettings = BreakerSettings {
    failure_threshold: 5,
    recovery_timeout: Duration::from_millis(500),
    monitoring_period: Duration::from_secs(60),
    half_open_max_calls: 3,
};

#[tokio::test]
async fn with_redis_frozen_every_read_is_answered_by_the_source_and_the_breaker_comes_and_goes_by_itself() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let process = Process::with(&servers.cache.url(), BUDGET, BREAKER).hearing().await;
    let aside = process.aside(&source, POLICY);
    let known = key();
    source.set(&known, "known").await;
    assert_eq!(seen(&aside.get(&known).await).0, Some("known"));

    servers.cache.freeze().unwrap();
    let state = "cache_circuit_breaker_state{dependency=\"redis\"}";
    for number in 0..20 {
        let key = key();
        source.set(&key, "value").await;
        let (open, started) = (process.breaker.state() == BreakerState::Open, Instant::now());
        // A storm costs one load without Redis, too.
        for answer in join_all((0..50).map(|_| aside.get(&key))).await {
            assert_eq!(seen(&answer), (Some("value"), false));
        }
        assert_eq!(source.loads(&key).await, 1);
        // Fifty reads wait side by side, not one after the other.
        assert!(started.elapsed() < 25 * BUDGET, "read {number}: {:?}", started.elapsed());
        if number == 6 {
            assert_eq!(process.metric(state), 1.0, "{} failures", number + 1);
            assert!(open || started.elapsed() >= BUDGET);
        }
    }
    // Memory is not trusted for longer than it is known to be right.
    until("memory is off", async || !process.backend.is_live()).await;
    assert_eq!(seen(&aside.get(&known).await), (Some("known"), false));
    assert_eq!(source.loads(&known).await, 2);

    servers.cache.thaw().unwrap();
    let mut states = std::collections::BTreeSet::new();
    until("reads have closed the breaker", async || {
        let key = key();
        source.set(&key, "value").await;
        assert_eq!(seen(&aside.get(&key).await), (Some("value"), false));
        states.insert(process.metric(state) as i64);
        process.breaker.state() == BreakerState::Closed
    })
    .await;
    assert_eq!(process.metric(state), 0.0);
    assert!(states.contains(&1) || states.contains(&2), "{states:?}");
    until("memory is on again", async || process.backend.is_live()).await;
}

#[tokio::test]
async fn an_invalidation_that_redis_did_not_take_is_owed_and_repaid() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    let here = Process::with(&servers.cache.url(), BUDGET, BREAKER).hearing().await;
    let there = Process::new(&servers.cache.url()).hearing().await;
    let (aside, other) = (here.aside(&source, POLICY), there.aside(&source, POLICY));
    aside.warm(std::slice::from_ref(&key)).await;
    assert_eq!(seen(&other.get(&key).await), (Some("old"), false));

    // Only this process is cut off; Redis goes on holding the old value.
    servers.cache.freeze().unwrap();
    source.set(&key, "new").await;
    aside.invalidate(std::slice::from_ref(&key)).await.unwrap_err();
    assert_eq!(here.metric("cache_aside_owed_invalidations"), 1.0);
    assert_eq!(seen(&aside.get(&key).await), (Some("new"), false));
    servers.cache.thaw().unwrap();
    // The first read after the thaw finds the old value in Redis, unless this process knows better.
    assert_eq!(seen(&aside.get(&key).await), (Some("new"), false));
    until("the debt is repaid", async || here.backend.pending_invalidations() == 0).await;
    assert_eq!(here.metric("cache_aside_owed_invalidations"), 0.0);
    until("the other process has heard of it", async || seen(&other.get(&key).await).0 == Some("new")).await;
}

#[tokio::test]
async fn memory_is_off_while_the_channel_is_cut_and_empty_when_it_is_back() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    let proxy = Proxy::start(servers.cache.port()).await.unwrap();
    let cut_off = Process::with(&servers.cache.url_at(proxy.port()), BUDGET, BREAKER).hearing().await;
    let aside = cut_off.aside(&source, Policy { negative: Duration::ZERO, ..POLICY });
    assert_eq!(seen(&aside.get(&key).await).0, Some("old"));
    assert_eq!(seen(&aside.get(&key).await).0, Some("old"));
    assert_eq!(cut_off.reads_by("memory"), 1.0);

    proxy.blackhole();
    let other = Process::new(&servers.cache.url());
    source.set(&key, "new").await;
    let invalidated = Instant::now();
    other.aside(&source, POLICY).invalidate(std::slice::from_ref(&key)).await.unwrap();
    let mut last_old = invalidated;
    while invalidated.elapsed() < BOUND + Duration::from_secs(1) {
        let asked = Instant::now();
        match seen(&aside.get(&key).await).0 {
            Some("old") => last_old = asked,
            value => assert_eq!(value, Some("new")),
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(last_old - invalidated <= BOUND, "{:?}", last_old - invalidated);
    let hits = cut_off.reads_by("memory");
    for _ in 0..10 {
        aside.get(&key).await.unwrap();
    }
    assert_eq!(cut_off.reads_by("memory"), hits);
    assert_eq!(cut_off.metric("cache_aside_hearing"), 0.0);

    proxy.heal().await.unwrap();
    until("memory is on again", async || cut_off.backend.is_live()).await;
    assert_eq!(seen(&aside.get(&key).await), (Some("new"), false));
}
