//! The typed operations on a real server.

use std::time::{Duration, Instant};

use holdfast_breaker::{Breaker, BreakerMetrics, BreakerSettings, BreakerState};
use holdfast_redis::{Client, ClientSettings, Codec, Connection, End, RedisError, RedisMetrics, Scores, Ttl};
use holdfast_testkit::{Role, unique};

use crate::support::{BUDGET, cache_url, raw, server};

const MINUTE: Duration = Duration::from_secs(60);

fn client_of(url: &str, settings: ClientSettings) -> (Client, Breaker, prometheus::Registry) {
    let registry = prometheus::Registry::new();
    let metrics = RedisMetrics::register(&registry).unwrap();
    let breakers = BreakerMetrics::register(&registry).unwrap();
    let breaker = Breaker::new("redis", BreakerSettings::default(), Some(&breakers));
    (Client::new(Connection::open("test", url, metrics).unwrap(), breaker.clone(), settings), breaker, registry)
}

async fn client() -> Client {
    client_of(&cache_url().await, ClientSettings { budget: BUDGET, max_latency: BUDGET, ..Default::default() }).0
}

async fn life_left(key: &str) -> Duration {
    let left: i64 = redis::cmd("PTTL").arg(key).query_async(&mut raw(&cache_url().await).await).await.unwrap();
    Duration::from_millis(left.try_into().unwrap())
}

#[tokio::test]
async fn values_come_back_live_and_go() {
    let (client, key) = (client().await, unique("value"));
    assert_eq!(client.get(&key).await.unwrap(), None);
    assert!(!client.exists(&key).await.unwrap());
    client.set(&key, b"\0\xffone", MINUTE).await.unwrap();
    assert_eq!(client.get(&key).await.unwrap().as_deref(), Some(&b"\0\xffone"[..]));
    assert!(client.exists(&key).await.unwrap());
    assert!((50..=60).contains(&life_left(&key).await.as_secs()));
    assert!(!client.set_if_absent(&key, b"two", MINUTE).await.unwrap());
    assert!(client.expire(&key, MINUTE * 10).await.unwrap());
    assert!(life_left(&key).await > MINUTE * 9);
    assert!(client.delete(&key).await.unwrap());
    assert!(!client.delete(&key).await.unwrap());
    assert!(!client.expire(&key, MINUTE).await.unwrap());
    assert!(client.set_if_absent(&key, b"two", Duration::ZERO).await.unwrap(), "a life of none is the shortest one");
    while client.exists(&key).await.unwrap() {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn typed_values_are_packed_and_what_cannot_be_read_is_absent() {
    let (client, key) = (client().await, unique("typed"));
    let codec: Codec<(String, u32)> = Codec::new("profile", 1, client.metrics());
    let value = ("Alice".to_owned(), 7);
    client.set_as(&codec, &key, &value, MINUTE).await.unwrap();
    assert_eq!(client.get_as(&codec, &key).await.unwrap(), Some(value));
    client.set(&key, b"from another time", MINUTE).await.unwrap();
    assert_eq!(client.get_as(&codec, &key).await.unwrap(), None);
    let huge: Codec<String> = Codec::new("profile", 1, client.metrics());
    let error = client.set_as(&huge, &key, &"x".repeat(5 << 20), MINUTE).await.unwrap_err();
    assert!(matches!(error, RedisError::Encode(_)) && !error.maybe_applied(), "{error:?}");
}

#[tokio::test]
async fn counters_begin_at_none_and_keep_the_life_they_were_given() {
    let (client, key) = (client().await, unique("count"));
    assert_eq!(client.count(&key).await.unwrap(), None);
    assert_eq!(client.increment(&key, 5, Ttl::Fixed(MINUTE)).await.unwrap(), 5);
    assert_eq!(client.increment(&key, -7, Ttl::Fixed(MINUTE * 10)).await.unwrap(), -2);
    assert!(life_left(&key).await <= MINUTE);
    assert_eq!(client.increment(&key, 0, Ttl::Refresh(MINUTE * 10)).await.unwrap(), -2);
    assert!(life_left(&key).await > MINUTE * 9);
    assert_eq!(client.count(&key).await.unwrap(), Some(-2));
}

#[tokio::test]
async fn hashes() {
    let (client, key) = (client().await, unique("hash"));
    assert!(client.hash_all(&key).await.unwrap().is_empty());
    let fields = [("a", "1"), ("b", "two")];
    assert_eq!(client.hash_set(&key, &fields, Ttl::Refresh(MINUTE)).await.unwrap(), 2);
    assert_eq!(client.hash_set(&key, &[("a", "1"); 0], Ttl::Refresh(MINUTE)).await.unwrap(), 0);
    assert!(life_left(&key).await <= MINUTE);
    assert_eq!(client.hash_increment(&key, "a", 2, Ttl::Fixed(MINUTE)).await.unwrap(), 3);
    assert_eq!(client.hash_get(&key, "b").await.unwrap().as_deref(), Some(&b"two"[..]));
    assert_eq!(client.hash_get(&key, "c").await.unwrap(), None);
    assert_eq!(client.hash_delete(&key, &["b", "c"]).await.unwrap(), 1);
    assert_eq!(client.hash_all(&key).await.unwrap().into_iter().collect::<Vec<_>>(), [("a".into(), b"3".to_vec())]);
}

#[tokio::test]
async fn lists_keep_their_length_at_either_end() {
    let (client, key) = (client().await, unique("list"));
    let push = async |end, values: &[&str]| client.list_push(&key, end, values, 3, Ttl::Refresh(MINUTE)).await.unwrap();
    assert_eq!(push(End::Back, &["a", "b"]).await, 2);
    assert_eq!(push(End::Back, &["c", "d"]).await, 3);
    assert_eq!(client.list_range(&key, 0, -1).await.unwrap(), ["b", "c", "d"].map(|text| text.as_bytes().to_vec()));
    assert_eq!(push(End::Front, &["a"]).await, 3);
    assert_eq!(client.list_range(&key, 0, 0).await.unwrap(), [b"a".to_vec()]);
    assert_eq!(client.list_range(&key, -1, -1).await.unwrap(), [b"c".to_vec()]);
    assert_eq!(client.list_len(&key).await.unwrap(), 3);
    assert!(life_left(&key).await <= MINUTE);
}

#[tokio::test]
async fn sets_of_more_members_than_lua_has_room_for() {
    let (client, key) = (client().await, unique("set"));
    let members: Vec<String> = (0..20_000).map(|number| format!("member {number}")).collect();
    assert_eq!(client.set_add(&key, &members, Ttl::Refresh(MINUTE)).await.unwrap(), 20_000);
    assert_eq!(client.set_add(&key, &["member 7", "another"], Ttl::Refresh(MINUTE)).await.unwrap(), 1);
    assert!(client.set_has(&key, b"member 19999").await.unwrap());
    assert_eq!(client.set_remove(&key, &["member 19999", "nobody"]).await.unwrap(), 1);
    assert!(!client.set_has(&key, b"member 19999").await.unwrap());
    assert_eq!(client.set_members(&key).await.unwrap().len(), 20_000);
    assert!(life_left(&key).await <= MINUTE);
}

#[tokio::test]
async fn sorted_sets() {
    let (client, key) = (client().await, unique("sorted"));
    let members = [(3.0, "c"), (1.5, "a"), (2.0, "b"), (4.0, "d")];
    assert_eq!(client.sorted_add(&key, &members, Ttl::Refresh(MINUTE)).await.unwrap(), 4);
    assert_eq!(client.sorted_score(&key, b"a").await.unwrap(), Some(1.5));
    assert_eq!(client.sorted_score(&key, b"z").await.unwrap(), None);
    let newest = Scores { least: f64::NEG_INFINITY, greatest: 3.0, descending: true, limit: 2 };
    let found = client.sorted_range(&key, newest).await.unwrap();
    assert_eq!(found, [(b"c".to_vec(), 3.0), (b"b".to_vec(), 2.0)]);
    let oldest = Scores { least: 2.0, greatest: f64::INFINITY, descending: false, limit: 10 };
    assert_eq!(client.sorted_range(&key, oldest).await.unwrap().len(), 3);
    assert_eq!(client.sorted_count(&key, 1.5, 2.0).await.unwrap(), 2);
    assert_eq!(client.sorted_remove(&key, &["d", "z"]).await.unwrap(), 1);
    assert_eq!(client.sorted_remove_up_to(&key, 2.0).await.unwrap(), 2);
    assert_eq!(client.sorted_count(&key, f64::NEG_INFINITY, f64::INFINITY).await.unwrap(), 1);
    assert!(life_left(&key).await <= MINUTE);
}

#[tokio::test]
async fn many_keys_go_in_batches_and_keep_their_order() {
    let server = server(Role::Cache, &[]).await;
    let (client, _, registry) =
        client_of(&server.url(), ClientSettings { budget: BUDGET, max_latency: BUDGET, ..Default::default() });
    let entries: Vec<(String, String)> = (0..250).map(|number| (format!("k{number}"), format!("v{number}"))).collect();
    assert!(client.set_many(&entries, MINUTE).await.into_iter().all(|result| result.is_ok()));
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("DEL").arg("k0").query_async(&mut raw).await.unwrap();
    let _: () = redis::cmd("LPUSH").arg("k0").arg("a list").query_async(&mut raw).await.unwrap();
    let _: () = redis::cmd("DEL").arg("k249").query_async(&mut raw).await.unwrap();
    let keys: Vec<&String> = entries.iter().map(|(key, _)| key).collect();
    let found = client.get_many(&keys).await;
    assert!(matches!(found[0], Err(RedisError::Refused(_))), "one that is refused spoils no other: {:?}", found[0]);
    for (number, value) in found.iter().enumerate().take(249).skip(1) {
        assert_eq!(value.as_ref().unwrap().as_deref(), Some(format!("v{number}").as_bytes()));
    }
    assert_eq!(found[249], Ok(None));
    let calls = |op: &str| {
        let text = prometheus::TextEncoder::new().encode_to_string(&registry.gather()).unwrap();
        let prefix = format!("cache_operation_latency_seconds_count{{op=\"{op}\"}} ");
        text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap().to_owned()
    };
    assert_eq!((calls("set"), calls("get")), ("3".into(), "3".into()), "250 keys are three pipelines of 100");
    let gone = client.delete_many(&keys).await;
    assert_eq!(gone.iter().filter(|deleted| **deleted == Ok(true)).count(), 249);
}

#[tokio::test]
async fn a_frozen_server_costs_its_budget_and_then_nothing() {
    let server = server(Role::Cache, &[]).await;
    let settings = ClientSettings { max_latency: BUDGET, ..ClientSettings::default() };
    let (client, breaker, _) = client_of(&server.url(), settings);
    client.within(BUDGET).set("k", b"v", MINUTE).await.unwrap();
    server.freeze().unwrap();
    for _ in 0..BreakerSettings::default().failure_threshold {
        let began = Instant::now();
        assert!(client.get("k").await.unwrap_err().is_unavailable());
        assert!(began.elapsed() >= settings.budget && began.elapsed() < BUDGET, "{:?}", began.elapsed());
    }
    assert_eq!(breaker.state(), BreakerState::Open);
    server.thaw().unwrap();
    let error = client.get("k").await.unwrap_err();
    assert!(matches!(error, RedisError::Unavailable { maybe_applied: false, .. }), "not even asked: {error:?}");
    breaker.answered();
    for _ in 0..BreakerSettings::default().half_open_max_calls {
        assert_eq!(client.within(BUDGET).get("k").await.unwrap().as_deref(), Some(&b"v"[..]));
    }
    assert_eq!(breaker.state(), BreakerState::Closed);
}

#[tokio::test]
async fn one_deadline_holds_for_all_batches() {
    let server = server(Role::Cache, &[]).await;
    let (client, breaker, _) = client_of(
        &server.url(),
        ClientSettings { batch_size: 10, budget: Duration::from_millis(500), max_latency: BUDGET },
    );
    client.within(BUDGET).set("k", b"v", MINUTE).await.unwrap();
    server.freeze().unwrap();
    let (began, keys) = (Instant::now(), vec!["k"; 1000]);
    let found = client.get_many(&keys).await;
    assert!(began.elapsed() < BUDGET, "a hundred batches would take as many budgets, if each had its own");
    assert_eq!(found.len(), 1000);
    assert!(found.iter().all(|result| result.as_ref().is_err_and(RedisError::is_unavailable)));
    assert_eq!(breaker.state(), BreakerState::Closed, "it was asked once");
    server.thaw().unwrap();
}

#[tokio::test]
async fn a_call_that_is_slow_counts_against_the_server_although_it_succeeded() {
    let settings = ClientSettings { budget: BUDGET, max_latency: Duration::ZERO, ..Default::default() };
    let (client, breaker, _) = client_of(&cache_url().await, settings);
    for _ in 0..BreakerSettings::default().failure_threshold {
        assert_eq!(breaker.state(), BreakerState::Closed);
        client.get("nothing").await.unwrap();
    }
    assert_eq!(breaker.state(), BreakerState::Open);
}
