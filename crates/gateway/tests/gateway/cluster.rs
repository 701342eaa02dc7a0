//! Two gateways on one Redis Cluster, which is cache and failed queue at once.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_socketio_client::{Client, Events};
use holdfast_testkit::{RedisCluster, Role, unique, until};
use serde_json::{Value, json};

use crate::permissions::changes_here_are_obeyed_there;
use crate::support::{Gateway, settings, with};

/// Settings on a cluster alone.
async fn settings_on(cluster: &RedisCluster) -> Vec<(String, String)> {
    let (url, nodes) = (cluster.url(), cluster.addresses().join(","));
    let own = [
        ("REDIS_URL", &*url),
        ("REDIS_QUEUE_URL", ""),
        ("REDIS_CLUSTER_ENABLED", "true"),
        ("REDIS_CLUSTER_NODES", &*nodes),
        // What a busy machine may need; the tests are not about speed.
        ("REDIS_BUDGET_MS", "500"),
        ("SEND_DEADLINE_MS", "8000"),
        ("MESSAGE_LIMIT", "100"),
    ];
    settings(&own).await
}

/// A sender on one gateway and a receiver on the other.
struct Pair {
    friend: String,
    master: usize,
    sender: Client,
    _receiver: Client,
    heard: Events,
}

/// Pairs whose chats lie on all masters, four on each at least.
async fn pairs(cluster: &RedisCluster, prefix: &str, near: &Gateway, far: &Gateway) -> Vec<Pair> {
    let mut pairs: Vec<Pair> = Vec::new();
    while (0..3).any(|master| pairs.iter().filter(|pair| pair.master == master).count() < 4) {
        let (user, friend) = (unique("a"), unique("b"));
        let slot = cluster.slot_of(&format!("{prefix}:recent:{{{user}:{friend}}}")).await.unwrap();
        let (sender, _) = near.connect(&user).await;
        let (receiver, heard) = far.connect(&friend).await;
        let master = cluster.owner_of(slot).await.unwrap();
        pairs.push(Pair { friend, master, sender, _receiver: receiver, heard });
    }
    pairs
}

impl Pair {
    async fn send(&self, content: &str) -> Value {
        let body = json!({ "friendId": self.friend, "content": content, "tempId": content });
        self.sender.emit_with_ack("sendMessage", &body).await.unwrap()
    }

    /// The message with this content, whatever comes before it.
    async fn hears(&mut self, content: &str) -> Value {
        loop {
            let heard = self.heard.next_named("newMessage", Duration::from_secs(120)).await;
            let heard = heard.expect("the other gateway tells it");
            if heard["content"] == content {
                return heard;
            }
        }
    }
}

fn prefix(settings: &[(String, String)]) -> String {
    settings.iter().find(|(name, _)| name == "CACHE_KEY_PREFIX").unwrap().1.clone()
}

/// Until the receivers' gateway hears whatever is published from now on.
async fn subscribed(pairs: impl Iterator<Item = &mut Pair>) {
    for pair in pairs {
        for attempt in 0_u32.. {
            assert!(attempt < 60, "the receiver hears nothing");
            assert_eq!(pair.send(&unique("hello")).await["ok"], true);
            if pair.heard.next_named("newMessage", Duration::from_secs(2)).await.is_some() {
                break;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_sent_on_one_gateway_reaches_the_others_sockets_whichever_master_has_its_chat() {
    let cluster = RedisCluster::of(Role::Queue).await.unwrap();
    let settings = settings_on(&cluster).await;
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings.clone()).await);
    let mut pairs = pairs(&cluster, &prefix(&settings), &near, &far).await;
    subscribed(pairs.iter_mut()).await;
    for pair in &mut pairs {
        let sent = pair.send("second").await;
        assert_eq!((&sent["ok"], &sent["durability"]), (&json!(true), &json!("kafka")), "{sent}");
        let heard = pair.hears("second").await;
        assert_eq!(heard["messageId"], sent["message"]["messageId"]);
        assert_eq!((&heard["seq"], &heard["epoch"]), (&sent["message"]["seq"], &sent["message"]["epoch"]));
        assert!(heard["seq"].as_u64().is_some_and(|seq| seq >= 2), "{heard}");
        let page = pair.sender.emit_with_ack("history", &json!({ "friendId": pair.friend })).await.unwrap();
        assert_eq!(page["messages"][0]["messageId"], sent["message"]["messageId"], "{page}");
    }

    // One master dies: its chats are sent on without a position, the others go on as before.
    let dead = pairs[0].master;
    cluster.node(dead).kill9().await.unwrap();
    until("both gateways say so", async || {
        near.health("/dependencies/redis/up").await == false && far.health("/dependencies/redis/up").await == false
    })
    .await;
    // The far one may have listened to that node.
    subscribed(pairs.iter_mut().filter(|pair| pair.master != dead)).await;
    for (index, pair) in pairs.iter_mut().enumerate() {
        let sent = pair.send("third").await;
        assert_eq!((&sent["ok"], &sent["durability"]), (&json!(true), &json!("kafka")), "{index}: {sent}");
        assert_eq!(sent["message"]["seq"].is_u64(), pair.master != dead, "{index}: {sent}");
        if pair.master != dead {
            assert_eq!(pair.hears("third").await["messageId"], sent["message"]["messageId"]);
        }
    }

    // It comes back, and what its chats missed is told.
    cluster.node(dead).start_again().await.unwrap();
    for pair in pairs.iter_mut().filter(|pair| pair.master == dead) {
        pair.hears("third").await;
    }
    until("all is well", async || near.health("/dependencies/redis/up").await == true).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_and_a_removal_made_through_one_gateway_hold_on_another_on_whichever_master_they_are_cached() {
    let cluster = RedisCluster::of(Role::Queue).await.unwrap();
    let settings = with(&with(&settings_on(&cluster).await, "PERMISSIONS", "friends"), "MESSAGE_LIMIT", "0");
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    changes_here_are_obeyed_there(&near, &far).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_kafka_the_clusters_failed_queue_takes_every_chats_messages() {
    let cluster = RedisCluster::of(Role::Queue).await.unwrap();
    let settings = with(&settings_on(&cluster).await, "KAFKA_BROKERS", "127.0.0.1:1");
    let prefix = prefix(&settings);
    let (near, far) = (Gateway::start(settings.clone()).await, Gateway::start(settings).await);
    let pairs = pairs(&cluster, &prefix, &near, &far).await;
    let mut queued: HashMap<usize, u64> = HashMap::new();
    let answers = join_all(pairs.iter().map(|pair| pair.send("kept"))).await;
    for (pair, sent) in pairs.iter().zip(answers) {
        assert_eq!((&sent["ok"], &sent["durability"]), (&json!(true), &json!("failed-queue")), "{sent}");
        *queued.entry(pair.master).or_default() += 1;
    }
    for (master, count) in queued {
        let lists: Vec<String> = cluster.ask(master, &["KEYS", &format!("{prefix}:failed:{{*}}")]).await.unwrap();
        assert_eq!(lists.len() as u64, count, "{lists:?}");
    }
    until("they are counted", async || near.metric("holdfast_failed_queue_messages").await as usize == pairs.len())
        .await;
}
