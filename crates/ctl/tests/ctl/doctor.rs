//! `doctor` on servers with wrong settings: each one that it claims to find.

use std::collections::BTreeMap;

use holdfast_testkit::{
    Folder, Kafka, KafkaOptions, Mongo, MongoOptions, Redis, RedisCluster, RedisOptions, Role, free_port,
};
use mongodb::bson::{Document, doc};
use serde_json::Value;

use crate::support::{World, create_topic};

/// Each check's verdict by its name.
async fn examine(world: &World, code: i32) -> BTreeMap<String, Value> {
    let lines = world.ctl(&["--json", "doctor"]).await.expect(code).json();
    let by_name = |line: Value| (line["name"].as_str().unwrap().replace(world.name("CACHE_KEY_PREFIX"), "*"), line);
    lines.into_iter().map(by_name).collect()
}

fn assert_status(checks: &BTreeMap<String, Value>, name: &str, status: &str) {
    let check = checks.get(name).unwrap_or_else(|| panic!("no check {name}: {:?}", checks.keys()));
    assert_eq!(check["status"], status, "{check}");
    assert_eq!(check["mend"].is_string(), status != "ok", "{check}");
}

async fn redis(role: Role, args: &[&str]) -> Redis {
    let args = args.iter().map(|arg| (*arg).to_owned()).collect();
    Redis::start(RedisOptions { role, args, ..RedisOptions::default() }).await.unwrap()
}

#[tokio::test]
async fn what_one_machine_can_give_is_fine_but_for_its_replicas() {
    let queue = redis(Role::Queue, &["--appendfsync", "always"]).await;
    let world = World::with_topics().await.set("REDIS_QUEUE_URL", queue.url());
    world.settings().store().await.unwrap().ensure_indexes().await.unwrap();
    let checks = examine(&world, 1).await;
    for (name, check) in &checks {
        let replicas = name.contains("replication factor") || name.contains("min.insync") || name.contains("brokers");
        let expected = replicas || name == "mongodb: replica set";
        assert_eq!(check["status"] != "ok", expected, "{check}");
    }
    for name in ["*-messages: replication factor", "*-dlq: replication factor", "*-messages: min.insync.replicas"] {
        assert_status(&checks, name, "wrong");
    }
    // One member survives a crash, not the loss of its disk.
    assert_status(&checks, "mongodb: replica set", "warning");
    let shown = world.ctl(&["doctor"]).await.expect(1).stdout;
    assert!(shown.contains("; wanted: 3; to mend it: ") && shown.contains(" checks: "), "{shown}");
    // It has left nothing behind.
    let client = mongodb::Client::with_uri_str(world.name("MONGO_URL")).await.unwrap();
    let probes = client.database(world.name("MONGO_DB")).collection::<Document>("probes");
    assert_eq!(probes.count_documents(doc! {}).await.unwrap(), 0);
}

#[tokio::test]
async fn topics_that_lose_records_are_wrong() {
    let world = World::new().await;
    let (main, dlq) = (world.name("KAFKA_TOPIC"), world.name("KAFKA_DLQ_TOPIC"));
    let settings = [
        ("retention.ms", "3600000"),
        ("retention.bytes", "1000000"),
        ("cleanup.policy", "compact"),
        ("unclean.leader.election.enable", "true"),
        ("min.insync.replicas", "1"),
    ];
    create_topic(&world, main, &settings).await;
    create_topic(&world, dlq, &[]).await;
    let checks = examine(&world, 1).await;
    for what in
        ["replication factor", "min.insync.replicas", "retention", "cleanup.policy", "unclean.leader.election.enable"]
    {
        assert_status(&checks, &format!("*-messages: {what}"), "wrong");
    }
    assert_status(&checks, "*-messages: retention.bytes", "warning");
    assert_status(&checks, "*-dlq: max.message.bytes", "wrong");
    // Neither says how long it keeps its records, so the broker's seven days hold: too short for a dead letter.
    assert_status(&checks, "*-dlq: retention", "wrong");
    assert_status(&checks, "*-dlq: retention.bytes", "ok");
    for topic in ["messages", "dlq"] {
        assert_status(&checks, &format!("*-{topic}: message.timestamp.type"), "warning");
    }
    let dlq = world.name("KAFKA_DLQ_TOPIC");
    let corrected = world.ctl(&["--json", "topics", "create"]).await.expect(0).json();
    assert!(corrected.iter().any(|line| line["topic"] == dlq && line["outcome"] == "corrected"), "{corrected:?}");
    assert_status(&examine(&world, 1).await, "*-dlq: retention", "ok");
    // No gateway has been here.
    assert_status(&checks, "mongodb: messages by chatId, timestamp, _id", "wrong");
    let world = World::new().await;
    assert_status(&examine(&world, 1).await, "*-dlq: topic", "wrong");
}

#[tokio::test]
async fn brokers_that_make_up_topics_or_forget_offsets_are_warned_about() {
    let settings = [("auto.create.topics.enable", "true"), ("offsets.retention.minutes", "60")];
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let kafka = Kafka::start_with(KafkaOptions { settings, ..KafkaOptions::default() }).await.unwrap();
    let world = World::new().await.set("KAFKA_BROKERS", kafka.brokers());
    let checks = examine(&world, 1).await;
    assert_status(&checks, "kafka broker 1: auto.create.topics.enable", "warning");
    assert_status(&checks, "kafka broker 1: offsets.retention.minutes", "warning");
    // Looking does not make what is looked for.
    assert_status(&examine(&world, 1).await, "*-messages: topic", "wrong");
}

#[tokio::test]
async fn a_queue_that_may_lose_messages_is_wrong() {
    let world = World::with_topics().await;
    for (args, name, status) in [
        (&["--maxmemory-policy", "allkeys-lru"][..], "maxmemory-policy", "wrong"),
        (&["--appendonly", "no"], "appendonly", "wrong"),
        (&["--appendonly", "no"], "append-only file", "wrong"),
        (&["--no-appendfsync-on-rewrite", "yes"], "no-appendfsync-on-rewrite", "warning"),
        (&["--appendfsync", "everysec"], "appendfsync", "warning"),
        (&["--appendfsync", "no"], "appendfsync", "wrong"),
        (&["--replicaof", "127.0.0.1 1"], "role", "wrong"),
        (&["--rename-command", "CONFIG", ""], "appendonly", "wrong"),
    ] {
        let queue = redis(Role::Queue, args).await;
        let checks = examine(&world.clone().set("REDIS_QUEUE_URL", queue.url()), 1).await;
        assert_status(&checks, &format!("redis queue: {name}"), status);
    }
}

#[tokio::test]
async fn settings_that_are_in_no_file_are_warned_about() {
    let queue = redis(Role::Queue, &[]).await;
    let world = World::with_topics().await.set("REDIS_QUEUE_URL", queue.url());
    assert_status(&examine(&world, 1).await, "redis queue: settings since its start", "ok");
    let client = redis::Client::open(queue.url()).unwrap();
    let mut raw = client.get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG").arg(&["SET", "appendonly", "yes"]).exec_async(&mut raw).await.unwrap();
    assert_status(&examine(&world, 1).await, "redis queue: settings since its start", "warning");
}

#[tokio::test]
async fn every_master_of_a_cluster_is_looked_at() {
    let cluster = RedisCluster::of(Role::Queue).await.unwrap();
    cluster.ask::<()>(1, &["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let world = World::with_topics().await;
    let queue = world.clone().set("REDIS_QUEUE_CLUSTER_NODES", cluster.addresses()[0].clone());
    let checks = examine(&queue.set("REDIS_QUEUE_URL", cluster.url()), 1).await;
    for (index, address) in cluster.addresses().iter().enumerate() {
        let status = if index == 1 { "wrong" } else { "ok" };
        assert_status(&checks, &format!("redis queue {address}: maxmemory-policy"), status);
        assert_status(&checks, &format!("redis queue {address}: appendonly"), "ok");
        assert_status(&checks, &format!("redis queue {address}: clock"), "ok");
    }
    assert_status(&checks, "redis: queue and cache", "ok");

    let both = world.set("REDIS_URL", cluster.url()).set("REDIS_QUEUE_URL", "").set("REDIS_CLUSTER_ENABLED", "true");
    let checks = examine(&both, 1).await;
    assert_status(&checks, "redis: queue and cache", "warning");
    cluster.ask::<()>(2, &["CLUSTER", "DELSLOTS", "16383"]).await.unwrap();
    // Any node may be asked; each has to have forgotten the slot.
    for node in 0..2 {
        cluster.ask::<()>(node, &["CLUSTER", "DELSLOTS", "16383"]).await.unwrap();
    }
    assert_status(&examine(&both, 1).await, "redis queue: slots", "wrong");
    cluster.node(2).kill9().await.unwrap();
    let checks = examine(&both, 3).await;
    let address = &cluster.addresses()[2];
    assert!(
        checks.get(&format!("redis queue {address}")).is_some_and(|check| check["status"] == "unreachable")
            || checks["redis queue: slots"]["status"] == "wrong"
    );
}

#[tokio::test]
async fn a_redis_behind_tls_lets_its_user_in_and_nobody_else() {
    let folder = Folder::temporary("tls").unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let (certificate, key) = (path("certificate.pem"), path("key.pem"));
    let made = tokio::process::Command::new("openssl")
        .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1", "-subj", "/CN=localhost"])
        .args(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"])
        .args(["-keyout", &key, "-out", &certificate])
        .output()
        .await
        .unwrap();
    assert!(made.status.success(), "{made:?}");
    let port = free_port().unwrap().to_string();
    let tls =
        ["--tls-port", &port, "--tls-auth-clients", "no", "--tls-cert-file", &certificate, "--tls-key-file", &key];
    let user = ["--tls-ca-cert-file", &certificate, "--user", "chat", "on", ">s3cret", "~*", "&*", "+@all"];
    let _queue = redis(Role::Queue, &[&tls[..], &user].concat()).await;
    let url = |password: &str| format!("rediss://chat:{password}@localhost:{port}");
    let world = World::with_topics().await.set("REDIS_QUEUE_URL", url("s3cret"));

    let checks = examine(&world.clone().set("SSL_CERT_FILE", &certificate), 1).await;
    assert_status(&checks, "redis queue: appendonly", "ok");
    let strange = examine(&world.clone(), 3).await;
    assert_status(&strange, "redis queue", "unreachable");
    let wrong = world.set("SSL_CERT_FILE", &certificate).set("REDIS_QUEUE_URL", url("wrong"));
    assert_status(&examine(&wrong, 3).await, "redis queue", "unreachable");
}

#[tokio::test]
async fn one_redis_for_both_and_a_cache_without_a_bound_are_warned_about() {
    let world = World::with_topics().await;
    let both = redis(Role::Queue, &[]).await;
    let checks = examine(&world.clone().set("REDIS_URL", both.url()).set("REDIS_QUEUE_URL", both.url()), 1).await;
    assert_status(&checks, "redis: queue and cache", "warning");
    for args in [["--maxmemory", "0"], ["--maxmemory-policy", "noeviction"]] {
        let cache = redis(Role::Cache, &args).await;
        let checks = examine(&world.clone().set("REDIS_URL", cache.url()), 1).await;
        assert_status(&checks, "redis cache: maxmemory-policy", "warning");
        assert_status(&checks, "redis: queue and cache", "ok");
    }
}

#[tokio::test]
async fn a_standalone_mongodb_or_one_without_a_majority_is_wrong() {
    let world = World::with_topics().await;
    let alone = Mongo::start_with(MongoOptions { standalone: true, ..MongoOptions::default() }).await.unwrap();
    let checks = examine(&world.clone().set("MONGO_URL", alone.url()), 1).await;
    assert_status(&checks, "mongodb: replica set", "wrong");
    // In the database `local` alone a collection may lack its primary key.
    let client = mongodb::Client::with_uri_str(alone.url()).await.unwrap();
    client.database("local").run_command(doc! { "create": "messages", "autoIndexId": false }).await.unwrap();
    let checks = examine(&world.clone().set("MONGO_URL", alone.url()).set("MONGO_DB", "local"), 1).await;
    assert_status(&checks, "mongodb: messages by _id, unique", "wrong");

    // More members than there are: the majority is away. The primary notices within its election timeout, and until then only
    // the write does.
    let set = Mongo::start().await.unwrap();
    let admin = mongodb::Client::with_uri_str(set.url()).await.unwrap().database("admin");
    let found = admin.run_command(doc! { "replSetGetConfig": 1 }).await.unwrap();
    let mut config = found.get_document("config").unwrap().clone();
    for number in [1, 2] {
        let host = format!("127.0.0.1:{}", free_port().unwrap());
        config.get_array_mut("members").unwrap().push(doc! { "_id": number, "host": host }.into());
    }
    let version = config.get_i32("version").unwrap();
    config.insert("version", version + 1);
    config.insert("settings", doc! { "electionTimeoutMillis": 120_000 });
    admin.run_command(doc! { "replSetReconfig": config, "force": true }).await.unwrap();
    let checks = examine(&world.set("MONGO_URL", set.url()), 1).await;
    assert_status(&checks, "mongodb: majority write", "wrong");
}

#[tokio::test]
async fn a_missing_index_is_wrong() {
    let world = World::with_topics().await;
    world.settings().store().await.unwrap().ensure_indexes().await.unwrap();
    assert_status(&examine(&world, 1).await, "mongodb: messages by chatId, timestamp, _id", "ok");
    world.messages().await.drop_indexes().await.unwrap();
    let checks = examine(&world, 1).await;
    assert_status(&checks, "mongodb: messages by chatId, timestamp, _id", "wrong");
    assert_status(&checks, "mongodb: messages by _id, unique", "ok");
}

#[tokio::test]
async fn settings_that_a_service_would_refuse_are_wrong_and_servers_that_are_away_end_with_3() {
    let world = World::with_topics().await;
    let checks = examine(&world.clone().set("JWT_SECRET", "short").set("SEND_DEADLINE_MS", "3000"), 1).await;
    assert_status(&checks, "gateway: settings", "wrong");
    let port = free_port().unwrap();
    for (setting, url, name) in [
        ("REDIS_URL", "redis://127.0.0.1:PORT", "redis cache"),
        ("REDIS_QUEUE_URL", "redis://127.0.0.1:PORT", "redis queue"),
        ("KAFKA_BROKERS", "127.0.0.1:PORT", "kafka"),
        ("MONGO_URL", "mongodb://127.0.0.1:PORT/?directConnection=true", "mongodb"),
    ] {
        let world = world.clone().set(setting, url.replace("PORT", &port.to_string()));
        assert_status(&examine(&world, 3).await, name, "unreachable");
    }
}
