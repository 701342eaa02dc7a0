//! Random interleavings of readers, loads, changes, invalidations and losses: no fill overwrites a later invalidation.
//!
//! The source is a number that rises with every change. A reader has four moments: it reads (and may get the lease), it asks the
//! source, it fills or gives up; anything may happen between them. The model knows what was promised, not how the scripts work.

use std::time::Duration;

use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_redis::aside::{Entries, Fill, FillIntent, Names as _, Read, Token};
use holdfast_redis::{Client, ClientSettings};
use holdfast_testkit::unique;
use proptest::prelude::*;
use redis::aio::MultiplexedConnection;

use crate::support::{BUDGET, TestNames, cache_url, connect, raw};

const READERS: usize = 4;
/// Longer than any test takes: nothing expires but when the model says so.
const LONG: Duration = Duration::from_secs(600);

#[derive(Debug, Clone)]
enum Step {
    /// A reader reads, with a intent.
    Read(usize, u8),
    /// It asks the source.
    Load(usize),
    /// It fills what it loaded, fresh or stale at once.
    Fill(usize, bool),
    /// Its load failed; whether the lease rests.
    Release(usize, bool),
    /// The source changes. Whoever changes it invalidates it, now or later.
    Change(bool),
    /// The entry is invalidated.
    Invalidate,
    /// The entry expires, or is evicted.
    LoseEntry,
    /// The lease expires.
    LoseLease,
}

fn step() -> impl Strategy<Value = Step> {
    let reader = || 0..READERS;
    prop_oneof![
        6 => (reader(), 0_u8..4).prop_map(|(reader, intent)| Step::Read(reader, intent)),
        5 => reader().prop_map(Step::Load),
        5 => (reader(), any::<bool>()).prop_map(|(reader, fresh)| Step::Fill(reader, fresh)),
        1 => (reader(), any::<bool>()).prop_map(|(reader, rests)| Step::Release(reader, rests)),
        4 => any::<bool>().prop_map(Step::Change),
        2 => Just(Step::Invalidate),
        1 => Just(Step::LoseEntry),
        1 => Just(Step::LoseLease),
    ]
}

#[derive(Default, Clone)]
struct Reader {
    lease: Option<Token>,
    loaded: Option<u64>,
}

struct World {
    entries: Entries<TestNames>,
    raw: MultiplexedConnection,
    name: String,
    source: u64,
    /// The source's number at the last invalidation: nothing older may be read any more.
    invalidated_at: u64,
    readers: Vec<Reader>,
    /// Who holds the lease, by the model: at most one.
    holder: Option<usize>,
    /// The lease rests: nobody gets it.
    rests: bool,
    /// What the entry holds, by the model.
    entry: Option<(u64, bool)>,
}

impl World {
    async fn new(url: &str) -> Self {
        let settings = ClientSettings { budget: BUDGET, max_latency: BUDGET, ..ClientSettings::default() };
        Self {
            entries: Entries::new(
                Client::new(connect(url), Breaker::new("redis", BreakerSettings::default(), None), settings),
                TestNames,
            ),
            raw: raw(url).await,
            name: TestNames.value(&unique("k")),
            source: 1,
            invalidated_at: 0,
            readers: vec![Reader::default(); READERS],
            holder: None,
            rests: false,
            entry: None,
        }
    }

    async fn step(&mut self, step: &Step) -> Result<(), TestCaseError> {
        match *step {
            Step::Read(reader, intent) => {
                let intent = [FillIntent::ReadOnly, FillIntent::IfMissing, FillIntent::IfStale, FillIntent::Always]
                    [usize::from(intent)];
                self.read(reader, intent).await?;
            }
            Step::Load(reader) => {
                if self.readers[reader].lease.is_some() {
                    self.readers[reader].loaded = Some(self.source);
                }
            }
            Step::Fill(reader, fresh) => self.fill(reader, fresh).await?,
            Step::Release(reader, rests) => {
                let Some(token) = self.readers[reader].lease.take() else { return Ok(()) };
                self.readers[reader].loaded = None;
                let rest = if rests { LONG } else { Duration::ZERO };
                let released = self.entries.release(&[(&self.name, token)], rest).await[0].clone().unwrap();
                prop_assert_eq!(released, self.holder == Some(reader));
                if released {
                    self.holder = None;
                    self.rests = rests;
                }
            }
            Step::Change(invalidate) => {
                self.source += 1;
                if invalidate {
                    self.invalidate().await?;
                }
            }
            Step::Invalidate => self.invalidate().await?,
            Step::LoseEntry => {
                let _: u64 = redis::cmd("DEL").arg(&self.name).query_async(&mut self.raw).await.unwrap();
                self.entry = None;
            }
            Step::LoseLease => {
                let lease = format!("{}:lease", self.name);
                let _: u64 = redis::cmd("DEL").arg(lease).query_async(&mut self.raw).await.unwrap();
                self.holder = None;
                self.rests = false;
            }
        }
        Ok(())
    }

    async fn read(&mut self, reader: usize, intent: FillIntent) -> Result<(), TestCaseError> {
        let reads = self.entries.read(&[(&self.name, intent)], LONG).await;
        let Read { held, lease } = reads[0].clone().unwrap();
        if intent == FillIntent::Always {
            prop_assert!(held.is_none());
        } else {
            let number = held.as_ref().map(|held| held.payload.as_deref().map_or(0, number));
            prop_assert_eq!(number, self.entry.map(|(number, _)| number));
            prop_assert!(
                number.is_none_or(|number| number >= self.invalidated_at),
                "{:?} < {}",
                number,
                self.invalidated_at
            );
            prop_assert_eq!(held.map(|held| !held.fresh_for.is_zero()), self.entry.map(|(_, fresh)| fresh));
        }
        let due = match intent {
            FillIntent::ReadOnly => false,
            FillIntent::IfMissing => self.entry.is_none(),
            FillIntent::IfStale => self.entry.is_none_or(|(_, fresh)| !fresh),
            FillIntent::Always => true,
        };
        prop_assert_eq!(lease.is_some(), due && self.holder.is_none() && !self.rests);
        if lease.is_some() {
            self.readers[reader] = Reader { lease, loaded: None };
            self.holder = Some(reader);
        }
        Ok(())
    }

    async fn fill(&mut self, reader: usize, fresh: bool) -> Result<(), TestCaseError> {
        let Reader { lease: Some(token), loaded: Some(loaded) } = self.readers[reader] else { return Ok(()) };
        let life = if fresh { LONG } else { Duration::ZERO };
        // The source's first number stands for nothing at all.
        let payload = (loaded > 1).then(|| loaded.to_string().into());
        let fill = Fill { name: self.name.clone(), token, payload, fresh: life, ttl: LONG };
        let filled = self.entries.fill(&[fill]).await[0].clone().unwrap();
        prop_assert_eq!(filled, self.holder == Some(reader), "only who holds the lease fills");
        if filled {
            prop_assert!(loaded >= self.invalidated_at, "loaded before the invalidation, filled after it");
            self.entry = Some((if loaded > 1 { loaded } else { 0 }, fresh));
            self.holder = None;
        }
        // Repeating it is tried, too: the token is kept.
        Ok(())
    }

    async fn invalidate(&mut self) -> Result<(), TestCaseError> {
        let dropped = self.entries.drop([self.name.as_str()]).await[0].clone().unwrap();
        prop_assert_eq!(dropped, self.entry.is_some());
        self.entry = None;
        self.holder = None;
        self.rests = false;
        // What the source held at first is read as 0.
        self.invalidated_at = if self.source > 1 { self.source } else { 0 };
        Ok(())
    }
}

fn number(payload: &[u8]) -> u64 {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

#[test]
fn no_fill_overwrites_a_later_invalidation_and_one_at_a_time_may_load() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let url = runtime.block_on(cache_url());
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig::with_cases(200));
    runner
        .run(&prop::collection::vec(step(), 1..80), |steps| {
            runtime.block_on(async {
                let mut world = World::new(&url).await;
                for step in &steps {
                    world.step(step).await?;
                }
                Ok(())
            })
        })
        .unwrap();
}
