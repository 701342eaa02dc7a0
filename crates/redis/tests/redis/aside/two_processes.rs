//! Two real processes on one Redis: this one, and another that is this test binary again ([`peer`]) and does what it is told.

use std::process::Stdio;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use holdfast_redis::aside::{Aside, BOUND, Policy};
use holdfast_testkit::until;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};

use super::{Database, POLICY, Process, Servers, key, seen};

const READERS: usize = 1000;
const VARIABLE: &str = "HOLDFAST_TEST_ASIDE_PEER";

/// The other process. It ends with its standard input.
struct Peer {
    _child: Child,
    commands: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Waits until it uses its memory.
    async fn start(servers: &Servers, delay: Duration, policy: Policy) -> Self {
        let told = [
            servers.cache.url(),
            servers.source.url(),
            delay.as_millis().to_string(),
            policy.fresh.as_millis().to_string(),
            policy.memory_bytes.to_string(),
        ];
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["aside::two_processes::peer", "--exact", "--ignored", "--nocapture"])
            .env(VARIABLE, told.join(" "))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let commands = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut peer = Self { _child: child, commands, answers };
        assert_eq!(peer.answer().await, "ready");
        peer
    }

    async fn tell(&mut self, command: &str) {
        self.commands.write_all(format!("{command}\n").as_bytes()).await.unwrap();
    }

    async fn answer(&mut self) -> String {
        loop {
            let line = self.answers.next_line().await.unwrap().unwrap();
            if let Some((_, answer)) = line.split_once("ANSWER ") {
                return answer.to_owned();
            }
        }
    }

    async fn ask(&mut self, command: &str) -> String {
        self.tell(command).await;
        self.answer().await
    }
}

#[test]
#[ignore = "the other process of the tests beside it"]
fn peer() {
    let told = std::env::var(VARIABLE).unwrap();
    let told: Vec<_> = told.split(' ').collect();
    let millis = |text: &str| Duration::from_millis(text.parse().unwrap());
    let policy = Policy { fresh: millis(told[3]), memory_bytes: told[4].parse().unwrap(), ..POLICY };
    tokio::runtime::Runtime::new().unwrap().block_on(async {
        let source = Database::at(told[1]).await.slow(millis(told[2]));
        let process = Process::new(told[0]).hearing().await;
        let aside = process.aside(&source, policy);
        println!("ANSWER ready");
        let (told, mut commands) = tokio::sync::mpsc::channel(1);
        std::thread::spawn(move || {
            std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| told.blocking_send(line))
        });
        while let Some(line) = commands.recv().await {
            let (command, key) = line.split_once(' ').unwrap();
            let key = key.to_owned();
            let answer = match command {
                "storm" => storm(&aside, &key).await,
                "invalidate" => format!("{:?}", aside.invalidate(&[key]).await),
                "get" => {
                    let before = process.reads_by("memory");
                    let answer = aside.get(&key).await;
                    let memory = process.reads_by("memory") > before;
                    format!("{} {}", seen(&answer).0.unwrap_or("-"), if memory { "memory" } else { "elsewhere" })
                }
                _ => panic!("{command}"),
            };
            println!("ANSWER {answer}");
        }
    });
}

/// A thousand concurrent readers: how many saw what.
async fn storm(aside: &Aside<Database>, key: &str) -> String {
    let readers = (0..READERS).map(|_| {
        let (aside, key) = (aside.clone(), key.to_owned());
        tokio::spawn(async move { aside.get(&key).await })
    });
    let mut tally = std::collections::BTreeMap::new();
    for answer in join_all(readers).await {
        let answer = answer.unwrap();
        let (value, stale) = seen(&answer);
        *tally.entry(format!("{} {}", value.unwrap_or("-"), if stale { "stale" } else { "fresh" })).or_insert(0) += 1;
    }
    format!("{tally:?}")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cold_key_under_a_thousand_readers_in_each_of_two_processes_is_loaded_once() {
    let servers = Servers::start().await;
    let delay = Duration::from_millis(200);
    let source = servers.database().await.slow(delay);
    for policy in [POLICY, Policy { memory_bytes: 0, ..POLICY }] {
        let mut peer = Peer::start(&servers, delay, policy).await;
        let process = Process::new(&servers.cache.url()).hearing().await;
        let aside = process.aside(&source, policy);
        for _ in 0..3 {
            let key = key();
            source.set(&key, "value").await;
            peer.tell(&format!("storm {key}")).await;
            let here = storm(&aside, &key).await;
            assert_eq!(here, format!("{{\"value fresh\": {READERS}}}"));
            assert_eq!(peer.answer().await, here);
            assert_eq!(source.loads(&key).await, 1);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stale_key_under_the_same_storm_is_answered_at_once_and_loaded_anew_once() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    for memory_bytes in [1 << 20, 0] {
        let policy = Policy { fresh: Duration::from_millis(50), jitter: 0.0, memory_bytes, ..POLICY };
        let mut peer = Peer::start(&servers, Duration::ZERO, policy).await;
        let process = Process::new(&servers.cache.url()).hearing().await;
        let aside = process.aside(&source, policy);
        let key = key();
        source.set(&key, "old").await;
        aside.warm(std::slice::from_ref(&key)).await;
        source.set(&key, "new").await;
        // No load ends before this opens: whoever is answered did not wait for one.
        source.switch("gate", true).await;
        until("it is stale in redis, too", async || {
            assert_eq!(seen(&aside.get(&key).await).0, Some("old"));
            source.loads(&key).await == 2
        })
        .await;
        peer.tell(&format!("storm {key}")).await;
        let here = storm(&aside, &key).await;
        assert_eq!(here, format!("{{\"old stale\": {READERS}}}"));
        assert_eq!(peer.answer().await, here);
        assert_eq!(source.loads(&key).await, 2);
        source.switch("gate", false).await;
        until("the new value is there", async || seen(&aside.get(&key).await).0 == Some("new")).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_process_invalidates_the_other_serves_from_memory_no_longer_than_the_bound() {
    let servers = Servers::start().await;
    let source = servers.database().await;
    let mut peer = Peer::start(&servers, Duration::ZERO, POLICY).await;
    let process = Process::new(&servers.cache.url()).hearing().await;
    let aside = process.aside(&source, POLICY);
    let (key, mut longest) = (key(), Duration::ZERO);
    source.set(&key, "0").await;
    for number in 1..=50 {
        until("the other has it in memory", async || {
            peer.ask(&format!("get {key}")).await == format!("{} memory", number - 1)
        })
        .await;
        source.set(&key, &number.to_string()).await;
        let before = Instant::now();
        aside.invalidate(std::slice::from_ref(&key)).await.unwrap();
        let mut last_old = None;
        loop {
            let asked = Instant::now();
            let answer = peer.ask(&format!("get {key}")).await;
            if answer.starts_with(&format!("{number} ")) {
                break;
            }
            last_old = Some(asked - before);
        }
        longest = longest.max(last_old.unwrap_or_default());
    }
    println!("the old value was served for {longest:?} at most");
    assert!(longest <= BOUND, "{longest:?}");
    // And the other way round.
    source.set(&key, "last").await;
    assert_eq!(peer.ask(&format!("invalidate {key}")).await, "Ok(())");
    until("it is heard here", async || seen(&aside.get(&key).await).0 == Some("last")).await;
}
