//! Cached values, counted, loaded ahead and forgotten, also by a gateway that has them in memory.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use holdfast_message::UserId;
use holdfast_store::Profile;
use holdfast_testkit::{Redis, RedisOptions, request, token, unique};
use redis::aio::MultiplexedConnection;
use serde_json::{Value, json};

use crate::support::{SECRET, World, user};

async fn store(world: &World, who: &UserId, name: &str) {
    let profile = Profile { display_name: name.into(), avatar_url: None, about: None };
    world.settings().store().await.unwrap().put_profile(who, &profile, 1).await.unwrap();
}

fn key(world: &World, who: &UserId) -> String {
    format!("{}:v1:profile:user:{{{who}}}", world.name("CACHE_KEY_PREFIX"))
}

async fn profiles(world: &World) -> Value {
    let counts = world.ctl(&["--json", "cache", "stats"]).await.expect(0).json();
    counts.into_iter().find(|row| row["kind"] == "profile").map_or(json!(0), |row| row["keys"].clone())
}

/// What a gateway shows of a profile.
async fn shown(gateway: std::net::SocketAddr, who: &UserId) -> Value {
    let bearer = format!("authorization: Bearer {}", token("reader", SECRET, Duration::from_secs(600)));
    let path = format!("/api/users/{who}/profile");
    request(&format!("http://{gateway}"), "GET", &path, &[bearer], "").await.unwrap().body["displayName"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_changed_by_hand_is_shown_once_it_was_invalidated() {
    let world = World::new().await;
    let (alice, bob) = (user(&unique("alice")), user(&unique("bob")));
    store(&world, &alice, "old").await;
    store(&world, &bob, "old").await;
    let warmed = world.ctl(&["--json", "cache", "warm", alice.as_str(), bob.as_str()]).await.expect(0).json();
    assert_eq!(warmed[0]["warm"], 2);
    assert_eq!(profiles(&world).await, 2);
    let (running, gateway) = world.gateway().await;
    for who in [&alice, &bob] {
        assert_eq!(shown(gateway, who).await, "old");
        store(&world, who, "new").await;
        assert_eq!(shown(gateway, who).await, "old", "it is cached");
    }

    let ran = world.ctl(&["--json", "cache", "invalidate", &key(&world, &alice)]).await.expect(0);
    assert_eq!(ran.json()[0]["forgotten"], 1);
    assert_eq!(ran.audit()[0]["what"], json!(key(&world, &alice)));
    while shown(gateway, &alice).await != "new" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }

    let pattern = format!("{}:v1:*", world.name("CACHE_KEY_PREFIX"));
    let dry = world.ctl(&["--json", "cache", "invalidate", "--pattern", &pattern, "--dry-run"]).await.expect(0);
    assert_eq!((dry.json()[0]["forgotten"].clone(), dry.audit().len()), (json!(2), 0));
    world.ctl(&["cache", "invalidate", "--pattern", &pattern]).await.expect(2);
    assert_eq!(shown(gateway, &bob).await, "old", "nothing was done");
    let ran =
        world.ctl(&["--json", "cache", "invalidate", "--pattern", &pattern, "--limit", "1", "--yes"]).await.expect(1);
    assert_eq!((&ran.json()[0]["forgotten"], &ran.json()[0]["more"]), (&json!(1), &json!(true)));
    let ran = world.ctl(&["--json", "cache", "invalidate", "--pattern", &pattern, "--yes"]).await.expect(0);
    assert_eq!(ran.audit()[0]["what"], json!(pattern));
    while shown(gateway, &bob).await != "new" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    running.stop().await;
}

#[tokio::test]
async fn only_what_a_store_has_can_be_forgotten() {
    let world = World::new().await;
    let prefix = world.name("CACHE_KEY_PREFIX");
    for key in [format!("{prefix}:failed:{{a:b}}"), format!("{prefix}:recent:{{a:b}}"), "anything".into()] {
        assert!(world.ctl(&["cache", "invalidate", &key]).await.expect(2).stderr.contains("no cached value"), "{key}");
    }
    let mut raw = holdfast_testkit::connect_redis(world.name("REDIS_URL")).await.unwrap();
    let others = [format!("{prefix}:recent:{{a:b}}"), format!("{prefix}:v1:unread:{{alice}}")];
    for key in &others {
        let _: () = redis::cmd("SET").arg(key).arg("x").query_async(&mut raw).await.unwrap();
    }
    let ran =
        world.ctl(&["--json", "cache", "invalidate", "--pattern", &format!("{prefix}:*"), "--yes"]).await.expect(0);
    assert_eq!((&ran.json()[0]["forgotten"], &ran.json()[0]["passedOver"]), (&json!(0), &json!(2)));
    for key in &others {
        let there: bool = redis::cmd("EXISTS").arg(key).query_async(&mut raw).await.unwrap();
        assert!(there, "{key}");
    }
}

#[tokio::test]
async fn a_server_that_is_away_is_said_to_be_with_the_reason() {
    let world = World::new().await;
    let away = world.clone().set("REDIS_URL", "redis://127.0.0.1:1/");
    let key = key(&world, &user("alice"));
    let commands =
        [&["stats"][..], &["warm", "alice"], &["invalidate", &key], &["invalidate", "--pattern", "*", "--yes"]];
    let away = &away;
    let ran = commands.map(async |command| away.ctl(&[&["cache"], command].concat()).await);
    for ran in join_all(ran).await {
        let ran = ran.expect(3);
        assert!(told(&ran.stderr).contains("refused"), "{}", ran.stderr);
        assert!(!ran.stderr.contains('\x1b'), "no colours where there is no terminal: {}", ran.stderr);
        assert_eq!((ran.stdout.as_str(), ran.audit().len()), ("", 0), "nothing was done");
    }
    let no_cluster = world.clone().set("REDIS_CLUSTER_ENABLED", "true");
    let no_store = world.set("MONGO_URL", "mongodb://127.0.0.1:1/?directConnection=true");
    let (no_cluster, no_store) =
        tokio::join!(no_cluster.ctl(&["cache", "stats"]), no_store.ctl(&["--json", "cache", "warm", "alice"]));
    let no_cluster = no_cluster.expect(3);
    assert!(told(&no_cluster.stderr).contains("cluster support disabled"), "{}", no_cluster.stderr);
    assert_eq!(no_store.expect(3).json()[0]["failed"], 1);
}

#[tokio::test]
async fn warming_says_what_is_not_in_redis_after_it() {
    let server = server(&["--maxmemory", "100kb", "--maxmemory-policy", "noeviction"]).await;
    let world = World::new().await.set("REDIS_URL", server.url());
    let (alice, bob, nobody) = (user(&unique("alice")), user(&unique("bob")), user(&unique("nobody")));
    store(&world, &alice, "Alice").await;
    store(&world, &bob, "Bob").await;
    let all = [alice.as_str(), bob.as_str(), nobody.as_str(), alice.as_str()];
    let warm = async |world: &World, code| {
        let ran = world.ctl(&[&["--json", "cache", "warm"], &all[..]].concat()).await.expect(code);
        let said = &ran.json()[0];
        ["users", "warm", "absent", "unfilled", "failed"].map(|name| said[name].as_u64().unwrap())
    };
    assert_eq!(warm(&world, 1).await, [3, 0, 0, 3, 0], "it is full");
    let why = world.ctl(&["--verbose", "cache", "warm", alice.as_str()]).await.expect(1);
    assert!(why.stdout.contains("0 profiles are cached; 1 was loaded, but is not in redis"), "{}", why.stdout);
    assert!(why.stderr.contains("OOM"), "{}", why.stderr);

    let mut raw = connect(&server).await;
    ask::<()>(&mut raw, &["CONFIG", "SET", "maxmemory", "0"]).await;
    ask::<()>(&mut raw, &["ACL", "SETUSER", "reader", "on", ">pw", "~*", "&*", "+@all", "-evalsha"]).await;
    let reader = world.clone().set("REDIS_URL", format!("redis://reader:pw@127.0.0.1:{}/", server.port()));
    assert_eq!(warm(&reader, 1).await, [3, 0, 0, 3, 0], "it may not");

    ask::<()>(&mut raw, &["RPUSH", &key(&world, &alice), "in the way"]).await;
    assert_eq!(warm(&world, 1).await, [3, 1, 1, 1, 0]);
    ask::<()>(&mut raw, &["DEL", &key(&world, &alice)]).await;
    assert_eq!(warm(&world, 0).await, [3, 2, 1, 0, 0]);
    let said = world.ctl(&["cache", "warm", alice.as_str(), nobody.as_str()]).await.expect(0).stdout;
    assert_eq!(said, "1 profile is cached; 1 user has none\n");
    let dry = world.ctl(&["cache", "warm", alice.as_str(), alice.as_str(), "--dry-run"]).await.expect(0).stdout;
    assert_eq!(dry, "1 profile would be loaded; nothing was done\n");
}

#[tokio::test]
async fn keys_of_any_bytes_are_counted_and_stay() {
    let server = server(&[]).await;
    let world = World::new().await.set("REDIS_URL", server.url());
    let mut raw = connect(&server).await;
    let foreign: &[u8] = b"\xff\xfe a session";
    let _: () = redis::cmd("SET").arg(foreign).arg("x").query_async(&mut raw).await.unwrap();
    let counts = world.ctl(&["--json", "cache", "stats"]).await.expect(0).json();
    assert_eq!(counts[0], json!({ "kind": "other", "keys": 1 }));
    let ran = world.ctl(&["--json", "cache", "invalidate", "--pattern", "*", "--yes"]).await.expect(0);
    assert_eq!((&ran.json()[0]["forgotten"], &ran.json()[0]["passedOver"]), (&json!(0), &json!(1)));
    let there: bool = redis::cmd("EXISTS").arg(foreign).query_async(&mut raw).await.unwrap();
    assert!(there);
}

#[tokio::test]
async fn what_was_forgotten_before_an_error_is_said_noted_and_forgotten_in_memories() {
    let server = server(&[]).await;
    let world = World::new().await.set("REDIS_URL", server.url());
    let (alice, zoe) = (user(&unique("alice")), user(&unique("zoe")));
    store(&world, &alice, "Alice").await;
    store(&world, &zoe, "Zoe").await;
    world.ctl(&["cache", "warm", alice.as_str(), zoe.as_str()]).await.expect(0);
    let mut raw = connect(&server).await;
    let prefix = world.name("CACHE_KEY_PREFIX");
    let only = format!("~{prefix}:v1:profile:user:{{alice*");
    ask::<()>(&mut raw, &["ACL", "SETUSER", "ops", "on", ">pw", &only, "&*", "+@all"]).await;
    let mut heard = redis::Client::open(server.url()).unwrap().get_async_pubsub().await.unwrap();
    heard.subscribe(format!("{prefix}:v1:invalidations")).await.unwrap();

    let ops = world.clone().set("REDIS_URL", format!("redis://ops:pw@127.0.0.1:{}/", server.port()));
    let pattern = format!("{prefix}:*");
    let ran = ops.ctl(&["--json", "cache", "invalidate", "--pattern", &pattern, "--yes"]).await.expect(1);
    let said = &ran.json()[0];
    assert_eq!((&said["forgotten"], &said["complete"], &said["more"]), (&json!(1), &json!(false), &json!(false)));
    assert!(told(&ran.stderr).contains("NOPERM"), "{}", ran.stderr);
    assert_eq!((&ran.audit()[0]["what"], &ran.audit()[0]["count"]), (&json!(pattern), &json!(1)));
    // One for alice's key, and then one for every key.
    let mut news = heard.on_message();
    assert_ne!(news.next().await.unwrap().get_payload_bytes(), EVERYTHING);
    assert_eq!(news.next().await.unwrap().get_payload_bytes(), EVERYTHING);

    let keys = [key(&world, &alice), key(&world, &zoe)];
    let ran = ops.ctl(&["--json", "cache", "invalidate", &keys[0], &keys[1]]).await.expect(1);
    assert_eq!((&ran.json()[0]["forgotten"], &ran.json()[0]["absent"]), (&json!(0), &json!(1)));
    assert_eq!(ran.audit().len(), 1, "what was refused was not done");
    let there: bool = ask(&mut raw, &["EXISTS", &keys[1]]).await;
    assert!(there);
}

/// What a gateway hears when it is to forget everything.
const EVERYTHING: &[u8] = &[0x92, 1, 0xc0];

#[tokio::test]
async fn a_count_that_was_cut_says_so_and_one_that_was_not_does_not() {
    let server = server(&[]).await;
    let world = World::new().await.set("REDIS_URL", server.url());
    let mut raw = connect(&server).await;
    let pairs: Vec<_> = (0..1500).map(|number| (format!("key {number}"), "x")).collect();
    let _: () = redis::cmd("MSET").arg(pairs).query_async(&mut raw).await.unwrap();
    for (limit, more) in [("1499", true), ("1500", false), ("1501", false)] {
        let counts = world.ctl(&["--json", "cache", "stats", "--limit", limit]).await.expect(0).json();
        let counted: u64 = if more { 1499 } else { 1500 };
        assert_eq!(counts[0], json!({ "kind": "other", "keys": counted }), "{limit}");
        assert_eq!(counts[1], json!({ "counted": counted, "more": more }), "{limit}");
    }
    let said = world.ctl(&["cache", "stats", "--limit", "1"]).await.expect(0).stdout;
    assert!(said.ends_with("1 key counted, and there are more\n"), "{said}");
}

#[tokio::test]
async fn what_is_said_to_be_forgotten_was_there() {
    let world = World::new().await;
    let (alice, bob) = (user(&unique("alice")), user(&unique("bob")));
    store(&world, &alice, "Alice").await;
    world.ctl(&["cache", "warm", alice.as_str()]).await.expect(0);
    let keys = [key(&world, &alice), key(&world, &alice), key(&world, &bob)];
    let named = ["cache", "invalidate", &keys[0], &keys[1], &keys[2]];
    let dry = world.ctl(&[&named[..], &["--dry-run"]].concat()).await.expect(0).stdout;
    assert_eq!(dry, "1 cached value would be forgotten; 1 key was not there; nothing was done\n");
    let ran = world.ctl(&named).await.expect(0);
    assert_eq!(ran.stdout, "1 cached value was forgotten; 1 key was not there\n");
    let noted: Vec<_> = ran.audit().iter().map(|line| (line["what"].clone(), line["count"].clone())).collect();
    assert_eq!(noted, [(json!(keys[0]), json!(1)), (json!(keys[2]), json!(0))]);
}

#[tokio::test]
async fn what_can_match_nothing_is_refused_or_said_and_is_repeated_legibly() {
    let world = World::new().await;
    world.ctl(&["cache", "invalidate", "--pattern", "", "--yes"]).await.expect(2);
    let pattern = unique("elsewhere");
    let said = world.ctl(&["cache", "invalidate", "--pattern", &pattern, "--yes"]).await.expect(0).stdout;
    let hint = format!("0 cached values were forgotten; cached values match {}:v1:*\n", world.name("CACHE_KEY_PREFIX"));
    assert_eq!(said, hint);
    world.ctl(&["cache", "warm", "--active", "0"]).await.expect(2);

    let long = format!("\x1b[2J\n{}", "x".repeat(10_000));
    for args in
        [&["cache", "invalidate", &long][..], &["cache", "invalidate", "--pattern", &long], &["cache", "warm", &long]]
    {
        let ran = world.ctl(args).await.expect(2);
        assert!(ran.stderr.contains(r"\u{1b}[2J\nxxx"), "{}", ran.stderr);
        assert!(!ran.stderr.contains('\x1b') && ran.stderr.len() < 1000, "{}", ran.stderr);
    }
}

/// The command's own last words.
fn told(stderr: &str) -> &str {
    stderr.lines().find(|line| line.starts_with("holdfastctl: ")).expect(stderr)
}

/// A server of the test's own.
async fn server(args: &[&str]) -> Redis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Redis::start(RedisOptions { args, ..RedisOptions::default() }).await.unwrap()
}

async fn connect(server: &Redis) -> MultiplexedConnection {
    holdfast_testkit::connect_redis(&server.url()).await.unwrap()
}

async fn ask<T: redis::FromRedisValue>(raw: &mut MultiplexedConnection, words: &[&str]) -> T {
    redis::cmd(words[0]).arg(&words[1..]).query_async(raw).await.unwrap()
}
