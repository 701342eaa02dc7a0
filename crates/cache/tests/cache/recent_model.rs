//! Random interleavings of sends, repairs, tombstones and losses: no hole stays above the floor, and after a verification that nothing
//! interferes with the list answers alone.
//!
//! A verification has three moments: the list is read, the store is read, the list is repaired; anything may happen between them,
//! another verification included. The model knows what was promised, not how the list works.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use holdfast_cache::entry::Listed;
use holdfast_cache::event::Position;
use holdfast_cache::recent::{Added, Attempt, RecentPage, RecentSettings, Repair, Repaired, Retraction};
use holdfast_cache::{Origin, RecentList};
use holdfast_keys::Keys;
use holdfast_message::{ChatId, HistoryKey, Message};
use proptest::prelude::*;
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, cache_url, chat, connect, message, raw, read};

const MAX: usize = 6;
const WINDOW: usize = 8;
const VERIFIERS: usize = 2;

#[derive(Debug, Clone)]
enum Step {
    /// A new message, stamped so much off the clock; listed and stored or not.
    Send { skew: i64, listed: bool, stored: bool },
    /// An earlier message reaches the store.
    Store(prop::sample::Index),
    /// New messages and earlier ones in one batch: an earlier one by its attempt, or (`true`) as with [`Step::Heal`].
    Batch(Vec<(i64, Option<prop::sample::Index>, bool)>),
    /// An earlier message is added (again) by its attempt.
    Add(prop::sample::Index),
    /// An earlier message is stored, and added by whoever knows that it is durable: a background call, a worker that heals.
    Heal(prop::sample::Index),
    /// The attempt that listed an earlier message is taken back.
    Tombstone(prop::sample::Index),
    /// A verifier reads the list.
    Read(usize),
    /// It reads so much of the store.
    ReadStore(usize, usize),
    /// It repairs.
    Repair(usize),
    /// One more verifier does all three, as history does, with nothing in between.
    Verify,
    /// A key is lost.
    Lose(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    prop_oneof![
        8 => (-3_i64..3, prop::bool::weighted(0.8), prop::bool::weighted(0.8))
            .prop_map(|(skew, listed, stored)| Step::Send { skew, listed, stored }),
        2 => prop::collection::vec((-3_i64..3, prop::option::of(index()), any::<bool>()), 1..8).prop_map(Step::Batch),
        3 => index().prop_map(Step::Store),
        2 => index().prop_map(Step::Add),
        2 => index().prop_map(Step::Heal),
        2 => index().prop_map(Step::Tombstone),
        3 => (0..VERIFIERS).prop_map(Step::Read),
        3 => (0..VERIFIERS, 1_usize..10).prop_map(|(verifier, limit)| Step::ReadStore(verifier, limit)),
        3 => (0..VERIFIERS).prop_map(Step::Repair),
        2 => Just(Step::Verify),
        1 => (0_usize..20).prop_map(Step::Lose),
    ]
}

#[derive(Default)]
struct Verifier {
    page: Option<RecentPage>,
    /// What the store held when the list was read.
    stored: HashSet<HistoryKey>,
    /// What was read of the store, and down to where.
    found: Option<(Vec<Message>, Option<HistoryKey>)>,
}

struct World {
    list: RecentList,
    /// How many entries a list may hold above its size, and ids above theirs.
    slack: usize,
    raw: MultiplexedConnection,
    chat: ChatId,
    clock: i64,
    sent: Vec<(Message, Attempt)>,
    store: BTreeMap<HistoryKey, Message>,
    verifiers: [Verifier; VERIFIERS + 1],
    epoch: String,
    /// What this epoch's list was given and not told to take back.
    given: HashSet<HistoryKey>,
    /// What this epoch's list was told to be durable: that is taken back no more.
    durable: HashSet<HistoryKey>,
    /// What was to be taken back of this epoch's list and was not there: its attempt adds it no more.
    void: HashSet<HistoryKey>,
    /// Of this epoch: when a verification began, what the store held then.
    vouched: HashMap<i64, HashSet<HistoryKey>>,
}

impl World {
    async fn new(url: &str, settings: RecentSettings, slack: usize) -> Self {
        let settings = RecentSettings { max: MAX, window: WINDOW, ..settings };
        Self {
            list: RecentList::new(connect(url), Keys::default(), settings, Origin(7)),
            slack,
            raw: raw(url).await,
            chat: chat(),
            clock: 1000,
            sent: Vec::new(),
            store: BTreeMap::new(),
            verifiers: Default::default(),
            epoch: String::new(),
            given: HashSet::new(),
            durable: HashSet::new(),
            void: HashSet::new(),
            vouched: HashMap::new(),
        }
    }

    /// A new epoch starts with nothing promised.
    fn enter(&mut self, epoch: &str) {
        if self.epoch != epoch {
            self.epoch = epoch.to_owned();
            self.given.clear();
            self.durable.clear();
            self.void.clear();
            self.vouched.clear();
        }
    }

    async fn add(&mut self, message: &Message, attempt: Attempt) {
        let added = self.list.add(message, attempt, BUDGET).await.unwrap();
        self.added(message, attempt, &added);
    }

    fn added(&mut self, message: &Message, attempt: Attempt, added: &Added) {
        let (Added::New(Position { epoch, .. }) | Added::Own(Position { epoch, .. }) | Added::Repeat { epoch, .. }) =
            added;
        self.enter(epoch);
        if matches!(added, Added::New(_)) {
            assert!(
                attempt == Attempt::DURABLE || !self.void.contains(&message.key()),
                "{:?} came back",
                message.key()
            );
            self.given.insert(message.key());
            self.durable.remove(&message.key());
        }
        if attempt == Attempt::DURABLE {
            self.durable.insert(message.key());
        }
    }

    async fn batch(&mut self, parts: Vec<(i64, Option<prop::sample::Index>, bool)>) {
        let mut batch: Vec<(Message, Attempt)> = Vec::new();
        for (skew, earlier, heal) in parts {
            let earlier = earlier.filter(|_| !self.sent.is_empty()).map(|index| index.get(&self.sent).clone());
            batch.push(match earlier {
                Some((message, _)) if heal => {
                    self.store.insert(message.key(), message.clone());
                    (message, Attempt::DURABLE)
                }
                Some(by_its_attempt) => by_its_attempt,
                None => {
                    self.clock += 2;
                    let message = message(&self.chat, self.sent.len() as u32, self.clock + skew);
                    let attempt = Attempt(self.sent.len() as u32 + 1);
                    self.sent.push((message.clone(), attempt));
                    (message, attempt)
                }
            });
        }
        let adds: Vec<_> = batch.iter().map(|(message, attempt)| (message, *attempt)).collect();
        for ((message, attempt), added) in adds.iter().zip(self.list.add_batch(&adds, BUDGET).await) {
            self.added(message, *attempt, &added.unwrap());
        }
    }

    async fn step(&mut self, step: Step) {
        match step {
            Step::Batch(parts) => self.batch(parts).await,
            Step::Send { skew, listed, stored } => {
                self.clock += 2;
                let message = message(&self.chat, self.sent.len() as u32, self.clock + skew);
                let attempt = Attempt(self.sent.len() as u32 + 1);
                if listed {
                    self.add(&message, attempt).await;
                }
                if stored {
                    self.store.insert(message.key(), message.clone());
                }
                self.sent.push((message, attempt));
            }
            Step::Store(index) if !self.sent.is_empty() => {
                let message = index.get(&self.sent).0.clone();
                self.store.insert(message.key(), message);
            }
            Step::Add(index) if !self.sent.is_empty() => {
                let (message, attempt) = index.get(&self.sent).clone();
                self.add(&message, attempt).await;
            }
            Step::Heal(index) if !self.sent.is_empty() => {
                let message = index.get(&self.sent).0.clone();
                self.store.insert(message.key(), message.clone());
                self.add(&message, Attempt::DURABLE).await;
            }
            Step::Tombstone(index) if !self.sent.is_empty() => {
                let (message, attempt) = index.get(&self.sent).clone();
                if self.list.tombstone(&message, attempt, BUDGET).await.unwrap() == Retraction::Done {
                    assert!(!self.durable.contains(&message.key()), "{:?} was taken back", message.key());
                    self.given.remove(&message.key());
                } else {
                    // It may have begun an epoch.
                    let page = read(&self.list, &self.chat).await;
                    self.enter(&page.position.epoch);
                    self.void.insert(message.key());
                }
            }
            Step::Read(verifier) => self.read(verifier).await,
            Step::ReadStore(verifier, limit) => self.read_store(verifier, limit),
            Step::Repair(verifier) => self.repair(verifier).await,
            Step::Verify => {
                self.read(VERIFIERS).await;
                self.read_store(VERIFIERS, MAX + 1);
                self.repair(VERIFIERS).await;
                self.check_progress().await;
            }
            Step::Lose(key) => {
                let keys = Keys::default();
                let keys = [keys.recent(&self.chat), keys.recent_ids(&self.chat), keys.recent_head(&self.chat)];
                if let Some(key) = keys.get(key) {
                    let _: () = redis::cmd("DEL").arg(key).query_async(&mut self.raw).await.unwrap();
                }
            }
            Step::Store(_) | Step::Add(_) | Step::Heal(_) | Step::Tombstone(_) => {}
        }
    }

    async fn read(&mut self, verifier: usize) {
        let page = read(&self.list, &self.chat).await;
        self.enter(&page.position.epoch);
        let stored = self.store.keys().copied().collect();
        self.verifiers[verifier] = Verifier { page: Some(page), stored, found: None };
    }

    fn read_store(&mut self, verifier: usize, limit: usize) {
        let found: Vec<_> = self.store.values().rev().take(limit).cloned().collect();
        let covered = if found.len() < limit { None } else { found.last().map(Message::key) };
        self.verifiers[verifier].found = Some((found, covered));
    }

    /// A verification has just come to its end without interference: the list answers every page that it has the messages for and
    /// that no tombstone falls into; and the whole chat, if it is one that fits. Only the oldest message may lie at the floor, where a
    /// tombstone of its own was let go.
    async fn check_progress(&self) {
        let page = read(&self.list, &self.chat).await;
        let mut live: Vec<_> = page.messages().map(|(_, message)| message.key()).collect();
        live.sort_unstable();
        assert!(live.first().is_none_or(|oldest| page.trimmed <= Some(*oldest)), "{:?} was let go", page.trimmed);
        let whole = page.trimmed.is_none() && self.store.len() <= MAX;
        let pages = live.len() + usize::from(whole);
        for limit in 1..=pages {
            let end = live.len().checked_sub(limit).map(|index| live[index]);
            let buried = page.entries.iter().any(|entry| match &entry.item {
                Listed::Tombstone(key) => Some(*key) > end && !live.contains(key),
                Listed::Message(_) => false,
            });
            assert!(
                buried || (end.is_some() && end == page.trimmed) || page.alone(None, limit, Duration::MAX).is_some(),
                "{limit} of {live:?} not alone: floor {:?}, trimmed {:?}",
                page.floor,
                page.trimmed
            );
        }
    }

    async fn repair(&mut self, verifier: usize) {
        let Verifier { page: Some(page), stored, found: Some((found, covered)) } =
            std::mem::take(&mut self.verifiers[verifier])
        else {
            return;
        };
        let repair =
            Repair { chat: &self.chat, epoch: &page.position.epoch, read_at: page.read_at, messages: &found, covered };
        if self.list.repair(&repair, BUDGET).await.unwrap() != Repaired::Overtaken {
            assert_eq!(self.epoch, *page.position.epoch);
            self.given.extend(found.iter().map(Message::key));
            self.durable.extend(found.iter().map(Message::key));
            // Two that began in the same millisecond can't be told apart: what both saw is vouched for.
            self.vouched
                .entry(page.read_at)
                .and_modify(|keys| keys.retain(|key| stored.contains(key)))
                .or_insert(stored);
        }
    }

    /// From each offset either everything after it, or nothing.
    async fn check_resume(&self, page: &RecentPage) {
        let Position { epoch, seq: newest } = &page.position;
        let offsets: Vec<_> =
            (0..=*newest).map(|seq| (self.chat.clone(), Position { epoch: epoch.clone(), seq })).collect();
        for ((_, offset), resumed) in offsets.iter().zip(self.list.resume_batch(&offsets, BUDGET).await) {
            let after: Vec<_> = page.entries.iter().filter(|entry| entry.seq > Some(offset.seq)).collect();
            let whole = after.len() as u64 == newest - offset.seq;
            let live = after.iter().filter(|entry| matches!(entry.item, Listed::Message(_))).count();
            assert_eq!(resumed.unwrap().unwrap().missed.map(|missed| missed.len()), whole.then_some(live));
        }
    }

    /// What was stored is listed above the floor, or is a tombstone that keeps the list from answering alone.
    fn check_vouched(&self, page: &RecentPage, listed: &HashSet<HistoryKey>, stored: &HashSet<HistoryKey>) {
        let missing: Vec<_> = stored.iter().filter(|key| page.floor.covers(key) && !listed.contains(key)).collect();
        for key in &missing {
            assert!(page.entries.iter().any(|entry| entry.item == Listed::Tombstone(**key)), "{key:?} is missing");
        }
        for limit in 1..=MAX + 1 {
            let Some(alone) = page.alone(None, limit, Duration::MAX) else { continue };
            let end = alone.messages.last().filter(|_| alone.messages.len() == limit).map(|(_, last)| last.key());
            assert!(!missing.iter().any(|key| end.is_none_or(|end| **key > end)), "{missing:?} in {alone:?}");
        }
    }

    async fn check(&mut self) {
        let page = read(&self.list, &self.chat).await;
        self.enter(&page.position.epoch);
        assert_eq!(page.undecodable, 0);
        assert!(page.entries.len() <= MAX + self.slack);
        let live: Vec<_> = page
            .entries
            .iter()
            .filter_map(|entry| match &entry.item {
                Listed::Message(message) => Some(message.key()),
                Listed::Tombstone(_) => None,
            })
            .collect();
        let listed: HashSet<_> = live.iter().copied().collect();
        assert_eq!(listed.len(), live.len(), "listed twice");

        let seqs: Vec<_> = page.entries.iter().filter_map(|entry| entry.seq).collect();
        assert!(seqs.is_sorted_by(|one, next| one < next), "{seqs:?}");
        assert!(seqs.last().is_none_or(|last| *last <= page.position.seq));
        self.check_resume(&page).await;

        let ids = Keys::default().recent_ids(&self.chat);
        let ids: HashSet<String> =
            redis::cmd("ZRANGE").arg(ids).arg(0).arg(-1).query_async(&mut self.raw).await.unwrap();
        assert!(ids.len() <= WINDOW + self.slack);
        assert!(listed.iter().all(|key| ids.contains(&key.id.to_string())), "ids lack a listed message");

        for key in &self.given {
            assert!(!page.floor.covers(key) || listed.contains(key), "{key:?} was given, above {:?}", page.floor);
        }
        if let Some(age) = page.verified_age {
            let verified_at = page.read_at - age.as_millis() as i64;
            self.check_vouched(&page, &listed, &self.vouched[&verified_at]);
        }
    }
}

fn play(steps: Vec<Step>, settings: RecentSettings, slack: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut world = World::new(&cache_url().await, settings, slack).await;
        for step in steps {
            world.step(step).await;
            world.check().await;
        }
    });
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn nothing_above_the_floor_is_missing(steps in prop::collection::vec(step(), 1..120)) {
        play(steps, RecentSettings::default(), 0);
    }

    #[test]
    fn nothing_above_the_floor_is_missing_where_several_are_trimmed_at_a_time(
        steps in prop::collection::vec(step(), 1..120)
    ) {
        play(steps, RecentSettings { trim_step: 3, ..RecentSettings::default() }, 2);
    }
}
