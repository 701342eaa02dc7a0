//! Cached values, counted, loaded ahead and forgotten, also by a gateway that has them in memory.

use std::time::Duration;

use holdfast_message::UserId;
use holdfast_store::Profile;
use holdfast_testkit::{request, token, unique};
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
    let mut raw =
        redis::Client::open(world.name("REDIS_URL")).unwrap().get_multiplexed_async_connection().await.unwrap();
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
async fn a_server_that_is_away_is_said_to_be() {
    let world = World::new().await.set("REDIS_URL", "redis://127.0.0.1:1/");
    world.ctl(&["cache", "stats"]).await.expect(3);
    world.ctl(&["cache", "invalidate", &key(&world, &user("alice"))]).await.expect(3);
}
