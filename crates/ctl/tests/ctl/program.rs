//! The binary's promises to scripts.

use std::time::Duration;

use holdfast_testkit::free_port;

use crate::support::{World, chat};

#[tokio::test]
async fn a_command_line_or_setting_that_cannot_be_used_ends_with_2() {
    let world = World::new().await;
    for args in
        [&["frobnicate"][..], &["failed", "replay"], &["failed", "show", "nochat"], &["verify", "--since", "soon"]]
    {
        world.ctl(args).await.expect(2);
    }
    world.clone().set("MONGO_URL", "http://x").ctl(&["verify"]).await.expect(2);
    let help = world.ctl(&["failed", "replay", "--help"]).await.expect(0).stdout;
    assert!(help.contains("Exit codes:") && help.contains("  3  a server could not be reached"), "{help}");
    let ran = world.clone().set("KAFKA_PARTITIONS", "many").set("PORT", "x").ctl(&["lag"]).await.expect(2);
    assert!(ran.stderr.contains("KAFKA_PARTITIONS: must be") && ran.stderr.contains("PORT: must be"), "{}", ran.stderr);
    // What only a service needs may be missing.
    let mut bare = World::with_topics().await;
    bare.env.remove("JWT_SECRET");
    bare.ctl(&["lag"]).await.expect(0);
}

#[tokio::test]
async fn a_server_that_is_away_ends_with_3() {
    let world = World::with_topics().await;
    let (port, chat) = (free_port().unwrap(), chat());
    let away = |name: &str, url: &str| world.clone().set(name, url.replace("PORT", &port.to_string()));
    let no_redis = away("REDIS_QUEUE_URL", "redis://127.0.0.1:PORT");
    no_redis.ctl(&["failed", "list"]).await.expect(3);
    no_redis.ctl(&["failed", "show", chat.as_str()]).await.expect(3);
    away("REDIS_URL", "redis://127.0.0.1:PORT").ctl(&["disconnect", "alice"]).await.expect(3);
    let no_kafka = away("KAFKA_BROKERS", "127.0.0.1:PORT");
    let ran = no_kafka.ctl(&["lag"]).await.expect(3);
    assert!(ran.stderr.contains("holdfastctl: "), "{}", ran.stderr);
    let ids = holdfast_testkit::Folder::temporary("ids").unwrap();
    let path = ids.path().join("ids");
    std::fs::write(&path, "0190a0b0-0000-7000-8000-000000000001\n").unwrap();
    let no_mongo = away("MONGO_URL", "mongodb://127.0.0.1:PORT/?directConnection=true");
    no_mongo.ctl(&["verify", "--ids", path.to_str().unwrap()]).await.expect(3);
}

#[tokio::test]
async fn nothing_is_replayed_unasked() {
    let world = World::with_topics().await;
    let chat = chat();
    let sent = crate::support::message(&chat, 1);
    world.push(&sent).await;
    let ran = world.ctl(&["failed", "replay", "--all"]).await.expect(2);
    assert!(ran.stderr.contains("--yes"), "{}", ran.stderr);
    let left = world.settings().failed_queue().unwrap().heads(&chat, 10, Duration::from_secs(5)).await.unwrap();
    assert_eq!(left.len(), 1);
    world.ctl(&["dlq", "replay"]).await.expect(2);
}
