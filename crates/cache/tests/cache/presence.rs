use std::time::Duration;

use holdfast_cache::Origin;
use holdfast_cache::presence::{Change, Device, Online, PresenceSettings, Seen, Step};
use holdfast_keys::Keys;
use holdfast_message::UserId;
use holdfast_testkit::{Role, unique};
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, cache_url, cluster, connect, connect_cluster, raw, server, user};

/// Presence under keys of its own, as a gateway keeps it.
fn online(url: &str, prefix: &str, life: u64, grace: u64) -> Online {
    let settings = PresenceSettings { life: Duration::from_millis(life), grace: Duration::from_millis(grace) };
    Online::new(connect(url), Keys::new(prefix, "v1", ":", 250).unwrap(), settings)
}

fn device(user: &UserId, socket: &str) -> Device {
    Device::new(user.clone(), Origin(1), &socket)
}

async fn joined(online: &Online, device: &Device) -> Vec<Change> {
    online.apply(&[Step::Joined(device.clone())], BUDGET).await.unwrap()
}

async fn left(online: &Online, device: &Device) {
    assert_eq!(online.apply(&[Step::Left(device.clone())], BUDGET).await, Ok(Vec::new()));
}

async fn look(online: &Online, user: &UserId) -> Seen {
    online.look(std::slice::from_ref(user), BUDGET).await.unwrap()[0]
}

/// Who has gone with the devices that have expired; none: nothing has.
async fn sweep(online: &Online, most: usize) -> Option<Vec<Change>> {
    let expired = online.expired(most, None, BUDGET).await.unwrap();
    let gone = online.sweep(&expired.devices, BUDGET).await.unwrap();
    (!expired.devices.is_empty()).then_some(gone)
}

/// Who has gone, as soon as anything expires.
async fn swept(online: &Online) -> Vec<Change> {
    loop {
        if let Some(gone) = sweep(online, 100).await {
            return gone;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

async fn now(raw: &mut MultiplexedConnection) -> i64 {
    let (seconds, micros): (i64, i64) = redis::cmd("TIME").query_async(raw).await.unwrap();
    seconds * 1000 + micros / 1000
}

#[tokio::test]
async fn the_first_device_brings_a_user_online_and_only_the_last_takes_them_away() {
    let (url, alice) = (cache_url().await, user());
    let online = online(&url, &unique("p"), 60_000, 50);
    let (phone, laptop) = (device(&alice, "phone"), device(&alice, "laptop"));
    assert_eq!(look(&online, &alice).await, Seen::default());
    let before = now(&mut raw(&url).await).await;
    let came = joined(&online, &phone).await;
    assert!(matches!(&*came, [Change { user, online: true, last_seen }] if *user == alice && *last_seen >= before));
    assert_eq!(joined(&online, &laptop).await, []);
    assert!(look(&online, &alice).await.online);

    left(&online, &phone).await;
    assert_eq!(swept(&online).await, []);
    assert!(look(&online, &alice).await.online);
    left(&online, &laptop).await;
    let at = now(&mut raw(&url).await).await;
    let gone = swept(&online).await;
    assert!(
        matches!(&*gone, [Change { online: false, last_seen, .. }] if (at - 50..=at).contains(last_seen)),
        "{gone:?}"
    );
    assert_eq!(look(&online, &alice).await, Seen { online: false, last_seen: Some(gone[0].last_seen) });
    assert_eq!(sweep(&online, 100).await, None);
    assert_eq!(joined(&online, &laptop).await.len(), 1);
}

#[tokio::test]
async fn who_reconnects_at_once_was_never_gone() {
    let (url, alice) = (cache_url().await, user());
    let online = online(&url, &unique("p"), 60_000, 2_000);
    assert_eq!(joined(&online, &device(&alice, "first")).await.len(), 1);
    left(&online, &device(&alice, "first")).await;
    assert_eq!(joined(&online, &device(&alice, "second")).await, []);
    assert_eq!(swept(&online).await, [], "the first device alone has gone");
    assert!(look(&online, &alice).await.online);
}

#[tokio::test]
async fn a_gateway_that_died_leaves_no_ghost_and_one_of_many_sweepers_tells_of_each_user_once() {
    let (url, prefix) = (cache_url().await, unique("p"));
    let dead = online(&url, &prefix, 400, 50);
    let users: Vec<_> = (0..150).map(|_| user()).collect();
    let devices: Vec<_> = users.iter().flat_map(|user| [device(user, "a"), device(user, "b")]).collect();
    let started = now(&mut raw(&url).await).await;
    let steps: Vec<_> = devices.iter().cloned().map(Step::Joined).collect();
    assert_eq!(dead.apply(&steps, BUDGET).await.unwrap().len(), 150);
    assert_eq!(dead.refresh(&devices, BUDGET).await, Ok(Vec::new()));
    let beaten = now(&mut raw(&url).await).await;

    let sweepers: Vec<_> = (0..4).map(|_| online(&url, &prefix, 400, 50)).collect();
    let mut gone = Vec::new();
    while gone.len() < 150 {
        let swept = sweepers.iter().map(|sweeper| sweep(sweeper, 20));
        let swept = futures_util::future::join_all(swept).await;
        gone.extend(swept.into_iter().flatten().flatten());
        assert!(now(&mut raw(&url).await).await < beaten + 10_000, "{} of 150 are gone", gone.len());
    }
    let mut whom: Vec<_> = gone.iter().map(|change| change.user.as_str()).collect();
    whom.sort_unstable();
    whom.dedup();
    assert_eq!((whom.len(), gone.len()), (150, 150));
    assert!(gone.iter().all(|change| (started..=beaten).contains(&change.last_seen)), "the last heartbeat's time");
    while sweep(&sweepers[0], 100).await.is_some_and(|gone| gone.is_empty()) {}
    let left: usize =
        redis::cmd("ZCARD").arg(format!("{prefix}:v1:online")).query_async(&mut raw(&url).await).await.unwrap();
    assert_eq!(left, 0);
}

#[tokio::test]
async fn heartbeats_restore_what_the_server_lost_without_a_word_and_tell_of_who_was_believed_gone() {
    let (url, prefix, alice) = (cache_url().await, unique("p"), user());
    let keys = Keys::new(&prefix, "v1", ":", 250).unwrap();
    let online = online(&url, &prefix, 60_000, 50);
    let phone = device(&alice, "phone");
    joined(&online, &phone).await;
    let mut raw = raw(&url).await;
    let _: () = redis::cmd("DEL").arg(keys.online()).arg(keys.devices(&alice)).query_async(&mut raw).await.unwrap();
    assert!(!look(&online, &alice).await.online);
    assert_eq!(online.refresh(std::slice::from_ref(&phone), BUDGET).await, Ok(Vec::new()));
    assert!(look(&online, &alice).await.online);

    // Its gateway hung for so long that others swept it.
    let past = now(&mut raw).await - 1;
    for key in [keys.online(), keys.devices(&alice)] {
        let member = format!("{alice}:{:016x}:phone", 1);
        let _: () = redis::cmd("ZADD").arg(key).arg(past).arg(member).query_async(&mut raw).await.unwrap();
    }
    assert_eq!(swept(&online).await.len(), 1);
    // It leaves, late: nobody is told twice.
    left(&online, &phone).await;
    assert!(!look(&online, &alice).await.online);
    assert_eq!(sweep(&online, 100).await, None);
    assert_eq!(online.refresh(&[phone], BUDGET).await.unwrap().len(), 1);

    // What the server lost and what leaves before a heartbeat is told of all the same.
    let (bob, tablet) = (user(), "tablet");
    left(&online, &device(&bob, tablet)).await;
    assert_eq!(swept(&online).await.len(), 1);
}

#[tokio::test]
async fn a_device_that_the_server_has_lost_is_missed_by_whoever_names_it() {
    let (url, prefix, alice) = (cache_url().await, unique("p"), user());
    let keys = Keys::new(&prefix, "v1", ":", 250).unwrap();
    let (online, phone) = (online(&url, &prefix, 60_000, 50), device(&alice, "phone"));
    let known = async || online.expired(100, Some(&phone), BUDGET).await.unwrap().known;
    assert!(!known().await);
    joined(&online, &phone).await;
    assert!(known().await);
    let mut raw = raw(&url).await;
    for key in [keys.online(), keys.devices(&alice)] {
        let _: () = redis::cmd("DEL").arg(&key).query_async(&mut raw).await.unwrap();
        assert!(!known().await, "{key}");
        online.refresh(std::slice::from_ref(&phone), BUDGET).await.unwrap();
        assert!(known().await, "{key}");
    }
}

#[tokio::test]
async fn expiry_from_before_the_clock_went_back_is_bounded_and_what_is_no_device_holds_nothing_up() {
    let (url, prefix, alice) = (cache_url().await, unique("p"), user());
    let keys = Keys::new(&prefix, "v1", ":", 250).unwrap();
    let online = online(&url, &prefix, 200, 50);
    joined(&online, &device(&alice, "ghost")).await;
    let mut raw = raw(&url).await;
    let ahead = now(&mut raw).await + 3_600_000;
    for key in [keys.online(), keys.devices(&alice)] {
        let member = format!("{alice}:{:016x}:ghost", 1);
        let _: () = redis::cmd("ZADD").arg(key).arg(ahead).arg(member).query_async(&mut raw).await.unwrap();
    }
    let _: () = redis::cmd("ZADD").arg(keys.online()).arg(1).arg("no device").query_async(&mut raw).await.unwrap();
    let mut gone = Vec::new();
    while gone.is_empty() {
        gone = swept(&online).await;
    }
    assert_eq!(gone[0].user, alice);
    assert_eq!(sweep(&online, 100).await, None);
}

#[tokio::test]
async fn on_a_cluster_presence_lies_in_one_slot_and_is_found_from_everywhere() {
    let cluster = cluster(Role::Cache).await;
    let settings = PresenceSettings { life: Duration::from_secs(60), grace: Duration::from_millis(50) };
    let gateways = [(); 2].map(|()| Online::new(connect_cluster(&cluster), Keys::default(), settings));
    let users: Vec<_> = (0..100).map(|_| user()).collect();
    let devices: Vec<_> = users.iter().map(|user| device(user, "a")).collect();
    let steps: Vec<_> = devices.iter().cloned().map(Step::Joined).collect();
    assert_eq!(gateways[0].apply(&steps, BUDGET).await.unwrap().len(), 100);
    assert_eq!(gateways[0].refresh(&devices, BUDGET).await, Ok(Vec::new()));
    assert!(gateways[1].look(&users, BUDGET).await.unwrap().iter().all(|seen| seen.online));
    gateways[0].apply(&devices.into_iter().map(Step::Left).collect::<Vec<_>>(), BUDGET).await.unwrap();
    let mut gone = 0;
    while gone < 100 {
        gone += swept(&gateways[1]).await.len();
    }
    assert!(
        gateways[0].look(&users, BUDGET).await.unwrap().iter().all(|seen| !seen.online && seen.last_seen.is_some())
    );
}

#[tokio::test]
async fn a_hundred_users_are_looked_up_in_one_round_trip_and_without_a_scan() {
    let server = server(Role::Cache, &[]).await;
    let online = online(&server.url(), "chat", 60_000, 50);
    let users: Vec<_> = (0..100).map(|_| user()).collect();
    let there: Vec<_> = users.iter().step_by(2).map(|user| Step::Joined(device(user, "a"))).collect();
    online.apply(&there, BUDGET).await.unwrap();
    // The script is known from here on.
    online.look(&users, BUDGET).await.unwrap();
    let mut raw = raw(&server.url()).await;
    let _: () = redis::cmd("CONFIG").arg("RESETSTAT").query_async(&mut raw).await.unwrap();
    let seen = online.look(&users, BUDGET).await.unwrap();
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut raw).await.unwrap();
    let calls = |command: &str| {
        let line = stats.lines().find_map(|line| line.strip_prefix(&format!("cmdstat_{command}:calls=")));
        line.map_or(0, |line| line.split(',').next().unwrap().parse::<u32>().unwrap())
    };
    assert_eq!((calls("evalsha"), calls("zrevrange")), (1, 100), "{stats}");
    for scan in ["scan", "keys", "zscan", "eval", "smembers", "hgetall"] {
        assert_eq!(calls(scan), 0, "{scan}");
    }
    for (index, seen) in seen.iter().enumerate() {
        assert_eq!((seen.online, seen.last_seen.is_some()), (index % 2 == 0, index % 2 == 0), "{index}");
    }
}
