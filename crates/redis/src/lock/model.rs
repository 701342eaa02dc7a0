//! Locks against a model of the server in virtual time: owners that crash, hang and are cut off, messages that are late or lost.

use std::collections::HashMap;
use std::future::pending;
use std::sync::atomic::{AtomicBool, Ordering};

use prometheus::Registry;
use proptest::prelude::*;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::*;

const TTL: Duration = Duration::from_millis(300);
const BUDGET: Duration = Duration::from_millis(50);
const NAMES: [&str; 3] = ["a", "b", "c"];

/// What `SET NX PX` and the two scripts do, at the moment at which the server comes to it.
#[derive(Default)]
struct Server {
    keys: HashMap<String, (String, Instant)>,
    random: fastrand::Rng,
    /// Of a hundred messages, those that hang.
    trouble: u32,
}

impl Server {
    fn owner(&mut self, key: &str) -> Option<&str> {
        let now = Instant::now();
        self.keys.retain(|_, (_, expires)| *expires > now);
        self.keys.get(key).map(|(token, _)| token.as_str())
    }

    fn latency(&mut self) -> Duration {
        let most = if self.random.u32(..100) < self.trouble { TTL.as_millis() as u64 * 2 } else { 3 };
        Duration::from_millis(self.random.u64(..most))
    }
}

/// One owner's line to the server.
#[derive(Clone, Default)]
struct Line {
    server: Arc<Mutex<Server>>,
    cut: Arc<AtomicBool>,
}

impl Line {
    async fn call(&self, apply: impl FnOnce(&mut Server) -> bool + Send + 'static) -> Result<bool, RedisError> {
        let (there, back) = {
            let mut server = self.server.lock().unwrap();
            (server.latency(), server.latency())
        };
        let (answer, answered) = oneshot::channel();
        let line = self.clone();
        // What is under way arrives, whether or not anybody waits.
        tokio::spawn(async move {
            sleep(there).await;
            let result = apply(&mut line.server.lock().unwrap());
            sleep(back).await;
            if line.cut.load(Ordering::Relaxed) {
                pending::<()>().await;
            }
            let _ = answer.send(result);
        });
        let late = RedisError::Unavailable { maybe_applied: true, reason: "no answer in time".into() };
        timeout(BUDGET, answered).await.ok().and_then(Result::ok).ok_or(late)
    }
}

impl LockServer for Line {
    async fn take(&self, key: &str, token: &str, ttl: Duration) -> Result<bool, RedisError> {
        let (key, token) = (key.to_owned(), token.to_owned());
        self.call(move |server| {
            let free = server.owner(&key).is_none();
            if free {
                server.keys.insert(key, (token, Instant::now() + ttl));
            }
            free
        })
        .await
    }

    async fn extend(&self, keys: &[String], token: &str, ttl: Duration) -> Result<bool, RedisError> {
        let (keys, token) = (keys.to_vec(), token.to_owned());
        self.call(move |server| {
            let mut all = true;
            for key in keys {
                if server.owner(&key) == Some(&token) {
                    server.keys.insert(key, (token.clone(), Instant::now() + ttl));
                } else {
                    all = false;
                }
            }
            all
        })
        .await
    }

    async fn release(&self, keys: &[String], token: &str) -> Result<bool, RedisError> {
        let (keys, token) = (keys.to_vec(), token.to_owned());
        self.call(move |server| {
            keys.iter().fold(true, |all, key| {
                let ours = server.owner(key) == Some(&token);
                if ours {
                    server.keys.remove(key);
                }
                all && ours
            })
        })
        .await
    }
}

/// Those who believe that they own something.
#[derive(Clone, Default)]
struct Believers(Arc<Mutex<Vec<Believer>>>);

type Believer = (Belief, claim::Owner<Line>);

impl Believers {
    fn add(&self, guard: &LockGuard<Line>) {
        self.0.lock().unwrap().push((guard.belief.clone(), guard.claim.owner().clone()));
    }

    fn remove(&self, guard: &LockGuard<Line>) {
        self.0.lock().unwrap().retain(|(_, owner)| owner.token != guard.claim.owner().token);
    }

    /// A task that believes to hold a lock does hold it: so no two believe to hold the same one.
    fn check(&self, server: &Mutex<Server>) {
        for (_, owner) in self.0.lock().unwrap().iter().filter(|(belief, _)| belief.is_held()) {
            for key in &owner.keys {
                let truth = server.lock().unwrap().owner(key).map(str::to_owned);
                assert_eq!(truth.as_deref(), Some(&*owner.token), "somebody believes in {key}");
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum End {
    Release,
    Drop,
    /// The process dies.
    Crash,
    /// The owner hears nothing more, and goes on until it learns that it lost what it held.
    CutOff,
}

#[derive(Debug, Clone)]
struct Turn {
    wait: u64,
    wanted: Vec<usize>,
    hold: u64,
    end: End,
}

fn turn() -> impl Strategy<Value = Turn> {
    let end = prop_oneof![Just(End::Release), Just(End::Drop), Just(End::Crash), Just(End::CutOff)];
    (0_u64..200, prop::collection::vec(0..NAMES.len(), 1..5), 0_u64..1000, end)
        .prop_map(|(wait, wanted, hold, end)| Turn { wait, wanted, hold, end })
}

fn names(indices: &[usize]) -> Vec<String> {
    indices.iter().map(|index| NAMES[*index].to_owned()).collect()
}

fn in_virtual_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(test)
}

struct World {
    server: Arc<Mutex<Server>>,
    metrics: RedisMetrics,
    believers: Believers,
}

impl World {
    fn new(seed: u64, trouble: u32) -> Self {
        let server = Server { random: fastrand::Rng::with_seed(seed), trouble, ..Server::default() };
        let metrics = RedisMetrics::register(&Registry::new()).unwrap();
        Self { server: Arc::new(Mutex::new(server)), metrics, believers: Believers::default() }
    }

    fn locks(&self, max_retries: u32) -> (Locks<Line>, Arc<AtomicBool>) {
        let line = Line { server: Arc::clone(&self.server), cut: Arc::default() };
        let cut = Arc::clone(&line.cut);
        let settings = LockSettings { ttl: TTL, retry_delay: Duration::from_millis(20), max_retries };
        (Locks::new(line, settings, &self.metrics), cut)
    }
}

async fn take_turns(world: &World, turns: Vec<Turn>) {
    let (locks, cut) = world.locks(3);
    for turn in turns {
        sleep(Duration::from_millis(turn.wait)).await;
        cut.store(false, Ordering::Relaxed);
        let Ok(Some(mut guard)) = locks.acquire(&names(&turn.wanted)).await else { continue };
        world.believers.add(&guard);
        world.believers.check(&world.server);
        if matches!(turn.end, End::CutOff) {
            cut.store(true, Ordering::Relaxed);
            timeout(TTL * 2, guard.lost()).await.expect("who hears nothing learns of it within a life");
            assert!(!guard.is_held());
        } else {
            sleep(Duration::from_millis(turn.hold)).await;
        }
        world.believers.remove(&guard);
        match turn.end {
            End::Release => drop(guard.release().await),
            End::Drop | End::CutOff => drop(guard),
            End::Crash => guard.claim.forget(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn whoever_believes_in_a_lock_owns_it_and_nothing_stays_locked(
        owners in prop::collection::vec(prop::collection::vec(turn(), 1..8), 2..4),
        seed in any::<u64>(),
        trouble in prop_oneof![Just(0_u32), Just(10), Just(40)],
    ) {
        in_virtual_time(async {
            let world = World::new(seed, trouble);
            let all = futures_util::future::join_all(owners.into_iter().map(|turns| take_turns(&world, turns)));
            let checks = async {
                loop {
                    world.believers.check(&world.server);
                    sleep(Duration::from_millis(1)).await;
                }
            };
            tokio::select! {
                _ = all => {}
                () = checks => {}
            }
            // Whatever is still under way arrives, and whatever was left behind expires.
            sleep(TTL * 10).await;
            world.server.lock().unwrap().trouble = 0;
            assert_eq!(world.metrics.active_locks(), 0);
            let (locks, _) = world.locks(0);
            let guard = locks.try_acquire(&names(&[0, 1, 2])).await.unwrap().expect("everything is free");
            assert_eq!(world.metrics.active_locks(), 3);
            assert!(guard.release().await.unwrap());
            assert!(world.server.lock().unwrap().keys.is_empty());
        });
    }

    #[test]
    fn those_who_want_the_same_in_any_order_all_get_it(orders in prop::collection::vec(Just(vec![0, 1, 2]).prop_shuffle(), 2..6), seed in any::<u64>()) {
        in_virtual_time(async {
            let world = World::new(seed, 0);
            let began = Instant::now();
            let count = orders.len() as u32;
            futures_util::future::join_all(orders.iter().map(|order| async {
                let guard = world.locks(10_000).0.acquire(&names(order)).await.unwrap().unwrap();
                world.believers.add(&guard);
                world.believers.check(&world.server);
                sleep(TTL * 2).await;
                assert!(guard.is_held(), "it is renewed");
                world.believers.remove(&guard);
                assert!(guard.release().await.unwrap());
            }))
            .await;
            assert!(began.elapsed() >= TTL * 2 * count, "one after the other");
            assert!(began.elapsed() < TTL * 3 * count, "and nobody waits for ever");
        });
    }
}

#[test]
fn a_claim_that_is_cancelled_half_way_gives_up_what_it_took() {
    in_virtual_time(async {
        let world = World::new(1, 0);
        let (locks, _) = world.locks(0);
        for millis in 0..20 {
            let _ = timeout(Duration::from_millis(millis), locks.acquire(&names(&[0, 1, 2]))).await;
            sleep(TTL / 10).await;
            assert!(world.server.lock().unwrap().keys.is_empty(), "cancelled after {millis} ms");
        }
    });
}

#[test]
fn a_lock_that_was_taken_away_is_lost_at_the_next_renewal() {
    in_virtual_time(async {
        let world = World::new(1, 0);
        let guard = world.locks(0).0.acquire(&names(&[0, 1])).await.unwrap().unwrap();
        world.server.lock().unwrap().keys.remove(&names(&[1])[0]);
        timeout(TTL / 2, guard.lost()).await.unwrap();
        assert!(!guard.is_held());
        assert_eq!(world.metrics.active_locks(), 0);
        assert!(!guard.release().await.unwrap(), "it says so");
        assert!(world.server.lock().unwrap().keys.is_empty(), "and the other one is free");
    });
}
