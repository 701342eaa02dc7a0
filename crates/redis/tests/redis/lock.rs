//! Locks on a real server. What they promise under every schedule is tested in virtual time, beside the code.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_redis::{Client, ClientSettings, Connection, LockServer, LockSettings, Locks, RedisMetrics};
use holdfast_testkit::{Proxy, Role, unique};
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tokio::time::timeout;

use crate::support::{BUDGET, cache_url, raw, server};

/// Far longer than anything takes, so that no test rests on speed.
const TTL: Duration = Duration::from_secs(2);

fn client(url: &str, metrics: &RedisMetrics) -> Client {
    let breaker = Breaker::new("redis", BreakerSettings::default(), None);
    let settings = ClientSettings { budget: BUDGET, max_latency: BUDGET, ..ClientSettings::default() };
    Client::new(Connection::open("test", url, metrics.clone()).unwrap(), breaker, settings)
}

fn locks(url: &str) -> (Locks, RedisMetrics) {
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    let settings = LockSettings { ttl: TTL, retry_delay: Duration::from_millis(20), max_retries: 1000 };
    (Locks::new(client(url, &metrics), settings, &metrics), metrics)
}

fn name() -> String {
    unique("lock")
}

#[tokio::test]
async fn it_has_one_owner_until_that_one_gives_it_up() {
    let (locks, _) = locks(&cache_url().await);
    let names = [name()];
    let guard = locks.acquire(&names).await.unwrap().unwrap();
    assert!(guard.is_held());
    assert!(locks.try_acquire(&names).await.unwrap().is_none());
    assert!(guard.release().await.unwrap());
    let second = locks.try_acquire(&names).await.unwrap().expect("it is free at once");
    drop(second);
    locks.acquire(&names).await.unwrap().expect("and soon after a guard was dropped").release().await.unwrap();
}

#[tokio::test]
async fn it_outlives_its_life_while_its_guard_does() {
    let (locks, _) = locks(&cache_url().await);
    let names = [name(), name()];
    let guard = locks.acquire(&names).await.unwrap().unwrap();
    let began = Instant::now();
    while began.elapsed() < TTL * 3 {
        assert!(guard.is_held());
        assert!(locks.try_acquire(&names[..1]).await.unwrap().is_none());
        tokio::time::sleep(TTL / 10).await;
    }
    assert!(guard.release().await.unwrap());
}

#[tokio::test]
async fn a_second_owner_comes_only_when_the_first_ones_life_is_over() {
    let url = cache_url().await;
    let names = [name()];
    let taken_at = Instant::now();
    let process = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (theirs, their_url) = (names.clone(), url.clone());
    let died =
        process.spawn(async move { std::mem::forget(locks(&their_url).0.acquire(&theirs).await.unwrap().unwrap()) });
    died.await.unwrap();
    process.shutdown_background();
    let guard = locks(&url).0.acquire(&names).await.unwrap().expect("it expires");
    assert!(taken_at.elapsed() >= TTL, "{:?}", taken_at.elapsed());
    guard.release().await.unwrap();
}

#[tokio::test]
async fn an_owner_that_is_cut_off_learns_of_it_before_anybody_else_can_have_it() {
    let server = server(Role::Cache, &[]).await;
    let proxy = Proxy::start(server.port()).await.unwrap();
    let ((cut_off, metrics), (others, _)) = (locks(&server.url_at(proxy.port())), locks(&server.url()));
    let names = [name()];
    let guard = cut_off.acquire(&names).await.unwrap().unwrap();
    assert_eq!(metrics.active_locks(), 1);
    proxy.blackhole();
    let next = others.acquire(&names);
    let (lost, next) = tokio::join!(
        async {
            timeout(BUDGET * 10, guard.lost()).await.unwrap();
            Instant::now()
        },
        async { (next.await.unwrap().expect("it expires"), Instant::now()) },
    );
    assert!(lost <= next.1, "lost {:?} after another had it", lost - next.1);
    assert!(!guard.is_held() && next.0.is_held());
    assert_eq!(metrics.active_locks(), 0);
    proxy.heal().await.unwrap();
    drop(guard);
    assert!(next.0.release().await.unwrap(), "the first owner's end takes nothing from the second");
}

#[tokio::test]
async fn all_are_taken_or_none() {
    let url = cache_url().await;
    let ((one, metrics), (other, _)) = (locks(&url), locks(&url));
    let names: Vec<String> = (0..5).map(|_| name()).collect();
    let held = one.acquire(&names[2..3]).await.unwrap().unwrap();
    assert!(other.try_acquire(&names).await.unwrap().is_none());
    let rest: Vec<String> = names.iter().filter(|name| **name != names[2]).cloned().collect();
    let rest_guard = one.acquire(&rest).await.unwrap().expect("nothing of it stayed locked");
    assert_eq!(metrics.active_locks(), 5);
    drop((held, rest_guard));
    let all = other.acquire(&[&names[..], &names[..2]].concat()).await.unwrap().expect("a name may come twice");
    assert_eq!(metrics.active_locks(), 0);
    assert!(all.release().await.unwrap());
}

#[derive(Debug, Clone)]
enum Step {
    Take(usize, usize),
    Extend(usize, Vec<usize>),
    Release(usize, Vec<usize>),
    /// The server forgets a key, as at its expiry.
    Expire(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let keys = || prop::collection::vec(0_usize..3, 1..4);
    prop_oneof![
        (0_usize..3, 0_usize..3).prop_map(|(owner, key)| Step::Take(owner, key)),
        (0_usize..3, keys()).prop_map(|(owner, keys)| Step::Extend(owner, keys)),
        (0_usize..3, keys()).prop_map(|(owner, keys)| Step::Release(owner, keys)),
        (0_usize..3).prop_map(Step::Expire),
    ]
}

/// The model that the tests in virtual time rest on is what Redis does.
#[tokio::test(flavor = "multi_thread")]
async fn the_scripts_do_what_the_model_does() {
    let url = cache_url().await;
    let metrics = RedisMetrics::register(&prometheus::Registry::new()).unwrap();
    let (client, raw) = (client(&url, &metrics), raw(&url).await);
    let runtime = tokio::runtime::Handle::current();
    tokio::task::block_in_place(|| {
        let mut runner = TestRunner::new(ProptestConfig { cases: 64, ..ProptestConfig::default() });
        let steps = prop::collection::vec(step(), 1..40);
        let outcome = runner.run(&steps, |steps| {
            let prefix = unique("model");
            let key = |index: usize| format!("{prefix}-{index}");
            let mut model: HashMap<String, usize> = HashMap::new();
            for step in steps {
                let (expected, got) = match step {
                    Step::Take(owner, index) => {
                        let free = !model.contains_key(&key(index));
                        model.entry(key(index)).or_insert(owner);
                        (free, runtime.block_on(client.take(&key(index), &owner.to_string(), BUDGET)).unwrap())
                    }
                    Step::Extend(owner, indexes) => {
                        let keys: Vec<String> = indexes.into_iter().map(key).collect();
                        let expected = keys.iter().all(|key| model.get(key) == Some(&owner));
                        (expected, runtime.block_on(client.extend(&keys, &owner.to_string(), BUDGET)).unwrap())
                    }
                    Step::Release(owner, indexes) => {
                        let keys: Vec<String> = indexes.into_iter().map(key).collect();
                        let expected = keys.iter().fold(true, |all, key| {
                            let ours = model.get(key) == Some(&owner);
                            if ours {
                                model.remove(key);
                            }
                            all && ours
                        });
                        (expected, runtime.block_on(client.release(&keys, &owner.to_string())).unwrap())
                    }
                    Step::Expire(index) => {
                        let there = model.remove(&key(index)).is_some();
                        let call = redis::cmd("PEXPIRE").arg(key(index)).arg(0).to_owned();
                        (there, runtime.block_on(call.query_async(&mut raw.clone())).unwrap())
                    }
                };
                prop_assert_eq!(got, expected);
            }
            Ok(())
        });
        outcome.unwrap();
    });
}
