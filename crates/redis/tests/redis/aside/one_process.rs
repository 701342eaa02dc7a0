//! What one process does with both levels.

use std::time::Duration;

use futures_util::future::join_all;
use holdfast_breaker::BreakerSettings;
use holdfast_redis::aside::{AsideError, Names as _, Policy, RETRY, Warmed};
use holdfast_testkit::until;
use redis::AsyncCommands;

use super::{POLICY, Process, Servers, key, seen};
use crate::support::{TestNames, raw};

const NO_MEMORY: Policy = Policy { memory_bytes: 0, ..POLICY };
/// Stale as soon as it is filled.
const STALE: Policy = Policy { fresh: Duration::ZERO, ..NO_MEMORY };

#[tokio::test]
async fn a_value_is_loaded_once_and_answered_from_memory_and_by_other_processes_from_redis() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "one").await;
    let here = Process::new(&servers.cache.url()).hearing().await;
    let aside = here.aside(&source, POLICY);
    for _ in 0..10 {
        assert_eq!(seen(&aside.get(&key).await), (Some("one"), false));
    }
    assert_eq!((here.reads_by("source"), here.reads_by("memory")), (1.0, 9.0));
    // As another process would: nothing in its memory.
    let there = Process::new(&servers.cache.url());
    let other = there.aside(&source, NO_MEMORY);
    until("the fill is in redis", async || {
        assert_eq!(seen(&other.get(&key).await), (Some("one"), false));
        there.reads_by("redis") > 0.0
    })
    .await;
    assert_eq!(source.loads(&key).await, 1);
    let hit_rate = here.metric("cache_hit_rate{window=\"5m\"}");
    assert!((hit_rate - 0.9).abs() < 0.001, "{hit_rate}");
}

#[tokio::test]
async fn that_the_source_has_nothing_is_kept_too_and_for_a_shorter_time() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    let policy = Policy { negative: Duration::from_millis(300), jitter: 0.0, ..POLICY };
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, policy);
    for _ in 0..5 {
        assert_eq!(seen(&aside.get(&key).await), (None, false));
    }
    assert_eq!(source.loads(&key).await, 1);
    source.set(&key, "born").await;
    until("it is looked for again", async || seen(&aside.get(&key).await).0 == Some("born")).await;
    assert_eq!(source.loads(&key).await, 2);
}

#[tokio::test]
async fn without_negative_caching_the_source_is_asked_each_time_and_no_lease_stays() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, Policy { negative: Duration::ZERO, ..NO_MEMORY });
    for _ in 0..3 {
        assert_eq!(seen(&aside.get(&key).await), (None, false));
        until("the lease is given back", async || {
            let keys: Vec<String> = raw(&servers.cache.url()).await.keys("*").await.unwrap();
            keys.is_empty()
        })
        .await;
    }
    assert_eq!(source.loads(&key).await, 3);
}

#[tokio::test]
async fn many_keys_take_one_load_of_what_is_missing() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let keys: Vec<_> = (0..250).map(|_| key()).collect();
    for (number, key) in keys.iter().enumerate().filter(|(number, _)| number % 5 != 0) {
        source.set(key, &number.to_string()).await;
    }
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    aside.get_many(&keys[..50]).await;
    assert_eq!(source.batches().await, 1);
    let mut twice = keys.clone();
    twice.extend_from_slice(&keys[..10]);
    let answers = aside.get_many(&twice).await;
    assert_eq!(source.batches().await, 2);
    for (number, (key, answer)) in twice.iter().zip(&answers).enumerate() {
        let number = number % 250;
        let expected = (number % 5 != 0).then(|| number.to_string());
        assert_eq!(seen(answer), (expected.as_deref(), false));
        assert_eq!(source.loads(key).await, 1);
    }
}

#[tokio::test]
async fn warming_loads_what_is_missing_and_says_what_could_not_be_loaded() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let keys: Vec<_> = (0..250).map(|_| key()).collect();
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    source.switch("failing", true).await;
    assert_eq!(aside.warm(&keys[..10]).await, Warmed { failed: 10, ..Warmed::default() });
    source.switch("failing", false).await;
    tokio::time::sleep(RETRY).await;
    for key in &keys[1..] {
        source.set(key, "there").await;
    }
    let warm = Warmed { warm: 249, absent: 1, ..Warmed::default() };
    assert_eq!(aside.warm(&keys).await, warm);
    let cached: Vec<String> = raw(&servers.cache.url()).await.keys("*").await.unwrap();
    assert_eq!(cached.len(), 250, "it returns when they are in redis, and no lease is left");
    assert_eq!(source.batches().await, 4, "one that failed, and three of a hundred at most");
    assert_eq!(aside.warm(&keys).await, warm);
    assert_eq!(source.batches().await, 4);
}

#[tokio::test]
async fn warming_says_what_was_loaded_and_is_not_in_redis() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let keys = [key(), key(), key()];
    source.set(&keys[0], "zero").await;
    source.set(&keys[1], "one").await;
    let process = Process::new(&servers.cache.url());
    let unkept = Policy { fresh: Duration::ZERO, ttl: Duration::ZERO, negative: Duration::ZERO, ..NO_MEMORY };
    let warmed = process.aside(&source, unkept).warm(&keys).await;
    assert_eq!(warmed, Warmed { absent: 1, unfilled: 2, ..Warmed::default() }, "the policy keeps nothing");

    let (aside, mut cache) = (process.aside(&source, NO_MEMORY), raw(&servers.cache.url()).await);
    let in_the_way = TestNames.value(&keys[0]);
    let _: () = cache.rpush(&in_the_way, "a list").await.unwrap();
    assert_eq!(aside.warm(&keys).await, Warmed { warm: 1, absent: 1, unfilled: 1, failed: 0 });
    let _: () = cache.del(&in_the_way).await.unwrap();
    let full = ["SET", "maxmemory-policy", "noeviction", "maxmemory", "100kb"];
    let _: () = redis::cmd("CONFIG").arg(&full).query_async(&mut cache).await.unwrap();
    assert_eq!(aside.warm(&keys[..1]).await, Warmed { unfilled: 1, ..Warmed::default() }, "there is no room");
    assert_eq!(process.metric("cache_aside_unfilled_total{kind=\"test\"}"), 2.0);
    servers.cache.stop().await.unwrap();
    let away = Process::with(&servers.cache.url(), Duration::from_millis(50), BreakerSettings::default());
    let warmed = away.aside(&source, NO_MEMORY).warm(&keys).await;
    assert_eq!(warmed, Warmed { unfilled: 3, ..Warmed::default() });
}

#[tokio::test]
async fn a_reader_who_gives_up_spoils_nothing_for_the_others() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "one").await;
    source.switch("gate", true).await;
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    let first = tokio::spawn({
        let (aside, key) = (aside.clone(), key.clone());
        async move { aside.get(&key).await.is_ok() }
    });
    until("the load is under way", async || source.loads(&key).await == 1).await;
    first.abort();
    let second = aside.get(&key);
    source.switch("gate", false).await;
    assert_eq!(seen(&second.await), (Some("one"), false));
    assert_eq!(source.loads(&key).await, 1);
}

#[tokio::test]
async fn a_source_that_fails_leaves_the_stale_value_which_is_said_to_be_stale_and_is_not_hammered() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    let asides = [process.aside(&source, STALE), process.aside(&source, Policy { memory_bytes: 1 << 20, ..STALE })];
    asides[0].warm(std::slice::from_ref(&key)).await;
    source.switch("failing", true).await;
    let (loads, started) = (source.loads(&key).await, std::time::Instant::now());
    for _ in 0..100 {
        for aside in &asides {
            assert_eq!(seen(&aside.get(&key).await), (Some("old"), true));
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let tries = source.loads(&key).await - loads;
    let most = started.elapsed().as_millis() / RETRY.as_millis() + 2;
    assert!(tries >= 1 && u128::from(tries) <= most, "{tries} tries in {:?}", started.elapsed());
    // Nothing cached is worse than before: the next load that works mends it.
    source.set(&key, "new").await;
    source.switch("failing", false).await;
    until("it is loaded anew", async || seen(&asides[0].get(&key).await).0 == Some("new")).await;
}

#[tokio::test]
async fn a_source_that_fails_with_nothing_cached_is_asked_once_in_a_while() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.switch("failing", true).await;
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    let started = std::time::Instant::now();
    for _ in 0..50 {
        let answers = join_all((0..20).map(|_| aside.get(&key))).await;
        assert!(answers.iter().all(|answer| matches!(answer, Err(AsideError::Source(error)) if **error == "as told")));
    }
    let most = started.elapsed().as_millis() / RETRY.as_millis() + 1;
    let tries = source.loads(&key).await;
    assert!(u128::from(tries) <= most, "{tries} tries in {:?}", started.elapsed());
    source.switch("failing", false).await;
    until("it is asked again", async || aside.get(&key).await.is_ok()).await;
}

#[tokio::test]
async fn a_source_that_panics_is_an_error_for_those_who_waited_and_for_nobody_else() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "one").await;
    source.switch("panicking", true).await;
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    assert!(matches!(aside.get(&key).await, Err(AsideError::Unanswered)));
    source.switch("panicking", false).await;
    // Nobody gave its lease back: the next reader waits for it, and loads for itself.
    assert_eq!(seen(&aside.get(&key).await), (Some("one"), false));
}

#[tokio::test]
async fn what_can_not_be_read_is_loaded_anew() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let process = Process::new(&servers.cache.url());
    let aside = process.aside(&source, NO_MEMORY);
    let mut cache = raw(&servers.cache.url()).await;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_millis() as u64;
    let mut newer = b"V".to_vec();
    newer.extend_from_slice(&(now + 60_000).to_be_bytes());
    newer.extend_from_slice(&now.to_be_bytes());
    newer.extend_from_slice(&[0xF0, 1, 2, 3]);
    for garbage in [b"".to_vec(), b"garbage".to_vec(), vec![b'x'; 100], newer] {
        let key = key();
        source.set(&key, "good").await;
        let name = TestNames.value(&key);
        let _: () = cache.set(&name, garbage).await.unwrap();
        assert_eq!(seen(&aside.get(&key).await), (Some("good"), false));
        until("the good one is in its place", async || {
            let _ = aside.get(&key).await;
            cache.get::<_, Vec<u8>>(&name).await.unwrap().ends_with(b"good")
        })
        .await;
        assert_eq!(source.loads(&key).await, 1);
    }
    assert!(process.metric("cache_undecodable_entries_total{where=\"test\"}") >= 1.0);
}

#[tokio::test]
async fn a_load_that_began_before_an_invalidation_is_cached_nowhere_after_it() {
    let servers = Servers::start().await;
    let (source, key) = (servers.database().await, key());
    source.set(&key, "old").await;
    source.switch("gate", true).await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, POLICY);
    let early = tokio::spawn({
        let (aside, key) = (aside.clone(), key.clone());
        async move { aside.get(&key).await }
    });
    until("the old value is being loaded", async || source.loads(&key).await == 1).await;
    tokio::time::sleep(Duration::from_millis(20)).await;
    source.set(&key, "new").await;
    aside.invalidate(std::slice::from_ref(&key)).await.unwrap();
    let late = aside.get(&key);
    source.switch("gate", false).await;
    // Who asked before may get either; who asks after does not.
    early.await.unwrap().unwrap();
    assert_eq!(seen(&late.await), (Some("new"), false));
    for _ in 0..20 {
        assert_eq!(seen(&aside.get(&key).await), (Some("new"), false));
    }
}

#[tokio::test]
async fn lives_differ_so_that_what_was_loaded_together_does_not_expire_together() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let keys: Vec<_> = (0..50).map(|_| key()).collect();
    let process = Process::new(&servers.cache.url());
    process.aside(&source, Policy { jitter: 0.5, ..NO_MEMORY }).warm(&keys).await;
    let mut cache = raw(&servers.cache.url()).await;
    let mut lives = Vec::new();
    until("all are filled", async || {
        lives.clear();
        for key in &keys {
            let name = TestNames.value(key);
            lives.push(cache.pttl::<_, i64>(name).await.unwrap());
        }
        lives.iter().all(|life| *life > 0)
    })
    .await;
    // Nothing is there for those: it is the negative time that differs.
    assert!(lives.iter().all(|life| (25_000..=60_000).contains(life)), "{lives:?}");
    assert!(lives.iter().max().unwrap() - lives.iter().min().unwrap() > 10_000, "{lives:?}");
}
