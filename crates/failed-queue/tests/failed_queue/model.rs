//! Random schedules of pushers and retriers: what was accepted leaves the queue only after it was published.

use std::collections::{BTreeSet, HashSet};
use std::time::Duration;

use bytes::Bytes;
use holdfast_failed_queue::{FailedQueue, FailedQueueSettings, FinishAs, Lease, PushOutcome, QueueEntry};
use holdfast_keys::Keys;
use holdfast_message::ChatId;
use holdfast_testkit::{Redis, Role};
use proptest::prelude::*;
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, chat, connect, raw, server};

const CHATS: usize = 1;
const RETRIERS: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    Push(usize),
    /// A gateway dies between the two steps of a push.
    HalfPush(usize),
    /// A retrier takes a due chat, for a moment or for long.
    Lease(usize, bool),
    /// It reads heads and publishes them.
    Publish(usize, usize),
    /// It removes what it has published.
    Pop(usize),
    Finish(usize),
    Fail(usize, u64),
    /// It forgets everything.
    Crash(usize),
    RepairIndex,
    /// Short leases and back-offs end.
    Wait,
}

fn step() -> impl Strategy<Value = Step> {
    let retrier = || 0..RETRIERS;
    prop_oneof![
        4 => (0..CHATS).prop_map(Step::Push),
        1 => (0..CHATS).prop_map(Step::HalfPush),
        5 => (retrier(), any::<bool>()).prop_map(|(retrier, long)| Step::Lease(retrier, long)),
        5 => (retrier(), 1_usize..8).prop_map(|(retrier, count)| Step::Publish(retrier, count)),
        5 => retrier().prop_map(Step::Pop),
        4 => retrier().prop_map(Step::Finish),
        2 => (retrier(), 0_u64..3).prop_map(|(retrier, delay)| Step::Fail(retrier, delay)),
        1 => retrier().prop_map(Step::Crash),
        1 => Just(Step::RepairIndex),
        3 => Just(Step::Wait),
    ]
}

#[derive(Default, Clone)]
struct Retrier {
    lease: Option<Lease>,
    published: Vec<Bytes>,
    seen_empty: bool,
}

struct World {
    queue: FailedQueue,
    raw: MultiplexedConnection,
    chats: Vec<ChatId>,
    retriers: Vec<Retrier>,
    next: i64,
    pushed: BTreeSet<Bytes>,
    published: HashSet<Bytes>,
    /// Chats whose index member may be missing, for a half push may have lost it.
    orphaned: HashSet<ChatId>,
}

impl World {
    async fn new(server: &Redis) -> Self {
        let mut raw = raw(&server.url()).await;
        let _: () = redis::cmd("FLUSHALL").query_async(&mut raw).await.unwrap();
        let settings = FailedQueueSettings { timeout: BUDGET, ..FailedQueueSettings::default() };
        Self {
            queue: FailedQueue::new(connect(&server.url()), Keys::default(), settings),
            raw,
            chats: (0..CHATS).map(|_| chat()).collect(),
            retriers: vec![Retrier::default(); RETRIERS],
            next: 1,
            pushed: BTreeSet::new(),
            published: HashSet::new(),
            orphaned: HashSet::new(),
        }
    }

    fn entry(&mut self) -> QueueEntry {
        self.next += 1;
        let entry = QueueEntry { queued_at: self.next, traceparent: None, record: Bytes::from_static(b"record") };
        self.pushed.insert(entry.encode());
        entry
    }

    async fn step(&mut self, step: &Step) {
        match *step {
            Step::Push(chat) => {
                let entry = self.entry();
                let chat = &self.chats[chat];
                assert_eq!(self.queue.push(chat, &entry).await, PushOutcome::Accepted);
                self.orphaned.remove(chat);
            }
            Step::HalfPush(chat) => {
                let entry = self.entry();
                let chat = &self.chats[chat];
                let key = Keys::default().failed(chat);
                let _: () =
                    redis::cmd("RPUSH").arg(key).arg(&*entry.encode()).query_async(&mut self.raw).await.unwrap();
                self.orphaned.insert(chat.clone());
            }
            Step::Lease(retrier, long) => {
                if self.retriers[retrier].lease.is_some() {
                    return;
                }
                let length = Duration::from_millis(if long { 30_000 } else { 1 });
                let lease = self.queue.lease(1, length, BUDGET).await.unwrap().pop();
                self.retriers[retrier] = Retrier { lease, ..Retrier::default() };
            }
            Step::Publish(retrier, count) => {
                let Some(lease) = &self.retriers[retrier].lease else { return };
                let heads = self.queue.heads(&lease.chat, count, BUDGET).await.unwrap();
                let published: Vec<_> = heads.into_iter().map(|head| head.bytes).collect();
                self.published.extend(published.iter().cloned());
                self.retriers[retrier].seen_empty = published.is_empty();
                self.retriers[retrier].published = published;
            }
            Step::Pop(retrier) => {
                let retrier = &mut self.retriers[retrier];
                let Some(lease) = &retrier.lease else { return };
                let published = std::mem::take(&mut retrier.published);
                let taken = self.queue.pop_published(&lease.chat, &published, BUDGET).await.unwrap();
                assert!(taken.removed <= published.len());
                retrier.seen_empty = taken.left == 0;
            }
            Step::Finish(retrier) => {
                if self.retriers[retrier].seen_empty
                    && let Some(lease) = std::mem::take(&mut self.retriers[retrier]).lease
                {
                    self.queue.finish(&lease, FinishAs::Empty, BUDGET).await.unwrap();
                }
            }
            Step::Fail(retrier, delay) => {
                if let Some(lease) = std::mem::take(&mut self.retriers[retrier]).lease {
                    let how = FinishAs::NextAttempt(Duration::from_millis(delay));
                    self.queue.finish(&lease, how, BUDGET).await.unwrap();
                }
            }
            Step::Crash(retrier) => self.retriers[retrier] = Retrier::default(),
            Step::RepairIndex => {
                let start = self.queue.cursors(BUDGET).await.unwrap().remove(0);
                self.queue.repair_index(start, 10_000, BUDGET).await.unwrap();
                self.orphaned.clear();
            }
            Step::Wait => tokio::time::sleep(Duration::from_millis(3)).await,
        }
        self.check().await;
    }

    async fn check(&mut self) {
        let mut held = HashSet::new();
        for chat in &self.chats {
            let entries: Vec<Bytes> = redis::cmd("LRANGE")
                .arg(Keys::default().failed(chat))
                .arg(0)
                .arg(-1)
                .query_async(&mut self.raw)
                .await
                .unwrap();
            let indexed: Option<f64> = redis::cmd("ZSCORE")
                .arg(Keys::default().failed_index())
                .arg(chat.as_str())
                .query_async(&mut self.raw)
                .await
                .unwrap();
            let findable = entries.is_empty() || indexed.is_some() || self.orphaned.contains(chat);
            assert!(findable, "{} entries that nobody will find", entries.len());
            held.extend(entries);
        }
        for entry in &self.pushed {
            assert!(held.contains(entry) || self.published.contains(entry), "gone and not published");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_leaves_unpublished_and_nothing_is_forgotten(steps in prop::collection::vec(step(), 1..150)) {
        static SERVER: tokio::sync::OnceCell<Redis> = tokio::sync::OnceCell::const_new();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = SERVER.get_or_init(|| server(Role::Queue, &[])).await;
            let mut world = World::new(server).await;
            for step in &steps {
                world.step(step).await;
            }
        });
    }
}
