//! The failed queue's index is mended, however many keys there are and whoever is away.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use holdfast_failed_queue::{
    FailedQueue, FailedQueueSettings, FinishAs, IndexRepair, PushOutcome, QueueEntry, RepairPace,
};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, UserId};
use holdfast_redis::{Connection, RedisMetrics};
use holdfast_testkit::{Redis, RedisCluster, RedisOptions, Role, unique, until};
use prometheus::{Encoder as _, Registry, TextEncoder};

const BUDGET: Duration = Duration::from_secs(10);

struct Desk {
    queue: FailedQueue,
    registry: Registry,
}

impl Desk {
    fn at(url: &str, cluster: Option<&[String]>) -> Self {
        let registry = Registry::new();
        let connection =
            Connection::open_at("queue", url, cluster, RedisMetrics::register(&registry).unwrap()).unwrap();
        let settings = FailedQueueSettings { timeout: BUDGET, ..FailedQueueSettings::default() };
        Self { queue: FailedQueue::new(connection, Keys::default(), settings), registry }
    }

    /// Chats with a queue each, of which the index knows nothing.
    async fn forgotten(&self, count: usize) -> BTreeSet<ChatId> {
        let chats: BTreeSet<_> = (0..count).map(|_| chat()).collect();
        let entry = QueueEntry { queued_at: 5, traceparent: None, record: Bytes::from_static(b"record") };
        for chat in &chats {
            assert_eq!(self.queue.push(chat, &entry).await, PushOutcome::Accepted);
        }
        for lease in self.queue.lease(count, BUDGET, BUDGET).await.unwrap() {
            assert!(self.queue.finish(&lease, FinishAs::Empty, BUDGET).await.unwrap());
        }
        assert!(self.queue.indexed_chats(BUDGET).await.unwrap().is_empty());
        chats
    }

    async fn indexed(&self) -> BTreeSet<ChatId> {
        self.queue.indexed_chats(BUDGET).await.unwrap().into_iter().collect()
    }

    /// Steps through servers' keys that were answered.
    fn steps(&self) -> usize {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let sample =
            text.lines().find_map(|line| line.strip_prefix(r#"cache_operations_total{op="failed_scan",result="ok"} "#));
        sample.map_or(0, |count| count.parse().unwrap())
    }
}

fn chat() -> ChatId {
    ChatId::direct(&UserId::parse(&unique("a")).unwrap(), &UserId::parse(&unique("b")).unwrap()).unwrap()
}

#[tokio::test]
async fn a_repair_that_is_cut_short_goes_on_where_it_stopped() {
    let server = Redis::start(RedisOptions { role: Role::Queue, ..RedisOptions::default() }).await.unwrap();
    let desk = Desk::at(&server.url(), None);
    let chats = desk.forgotten(300).await;
    let pace = RepairPace { keys: 10, steps: 3, rest: Duration::from_secs(3600) };
    let mut repair = IndexRepair::new(desk.queue.clone(), pace);
    repair.run().await.unwrap();
    assert_eq!(desk.steps(), 3, "a run is bounded");
    assert!(desk.indexed().await.len() < chats.len());
    // The keys have 512 places, of which a step looks at ten and more.
    for _ in 0..20 {
        repair.run().await.unwrap();
    }
    assert_eq!(desk.indexed().await, chats);
    let steps = desk.steps();
    repair.run().await.unwrap();
    assert_eq!(desk.steps(), steps, "the round is over");
}

#[tokio::test]
async fn a_master_that_is_away_has_the_others_mended_once_and_is_come_back_to() {
    let cluster = RedisCluster::of(Role::Queue).await.unwrap();
    let desk = Desk::at(&cluster.url(), Some(&cluster.addresses()));
    let owner = async |key: &str| cluster.owner_of(cluster.slot_of(key).await.unwrap()).await.unwrap();
    let index = owner(&Keys::default().failed_index()).await;
    let away = (index + 1) % 3;
    let (mut here, mut there) = (BTreeSet::new(), BTreeSet::new());
    for chat in desk.forgotten(30).await {
        let is_there = owner(&Keys::default().failed(&chat)).await == away;
        if is_there {
            there.insert(chat)
        } else {
            here.insert(chat)
        };
    }
    assert!(!here.is_empty() && !there.is_empty());
    cluster.node(away).kill9().await.unwrap();
    let mut repair = IndexRepair::new(desk.queue.clone(), RepairPace::default());
    repair.run().await.unwrap_err();
    assert_eq!(desk.indexed().await, here);
    let steps = desk.steps();
    for _ in 0..3 {
        repair.run().await.unwrap_err();
    }
    assert_eq!(desk.steps(), steps, "the others are not walked through again");

    cluster.node(away).start_again().await.unwrap();
    until("it is come back to", async || repair.run().await.is_ok()).await;
    assert_eq!(desk.indexed().await, &here | &there);
}
