//! Servers start, end and come back, and leave nothing behind.

use std::process::{Command, Stdio};
use std::time::Duration;

use holdfast_testkit::{
    Kafka, Mongo, MongoOptions, Redis, RedisOptions, Role, http_get, is_free, reaper, shared, unique,
};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

fn is_alive(pid: u32) -> bool {
    // A zombie that nobody has waited for yet is dead enough.
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// One inline command and the first line of its answer.
async fn redis(port: u16, command: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
    stream.write_all(format!("{command}\r\n").as_bytes()).await?;
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await?;
    Ok(line.trim_end().to_owned())
}

#[tokio::test]
async fn a_queue_keeps_its_data_over_kill_9_and_a_cache_does_not() {
    let (queue, cache) = tokio::try_join!(Redis::queue(), Redis::cache()).unwrap();
    for server in [&queue, &cache] {
        assert_eq!(redis(server.port(), "SET kept yes").await.unwrap(), "+OK");
        let before = server.pid();
        server.kill9().await.unwrap();
        assert!(!is_alive(before));
        assert!(redis(server.port(), "PING").await.is_err());
        server.start_again().await.unwrap();
        assert_ne!(server.pid(), before);
    }
    assert_eq!(redis(queue.port(), "EXISTS kept").await.unwrap(), ":1");
    assert_eq!(redis(cache.port(), "EXISTS kept").await.unwrap(), ":0");
}

#[tokio::test]
async fn later_arguments_win() {
    let options = RedisOptions {
        role: Role::Queue,
        args: ["--maxmemory", "3mb"].map(String::from).into(),
        ..RedisOptions::default()
    };
    let redis_server = Redis::start(options).await.unwrap();
    let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", redis_server.port())).await.unwrap());
    stream.write_all(b"CONFIG GET maxmemory\r\n").await.unwrap();
    let mut lines = stream.lines();
    let mut last = String::new();
    for _ in 0..5 {
        last = lines.next_line().await.unwrap().unwrap();
    }
    assert_eq!(last, "3145728");
}

#[tokio::test]
async fn a_frozen_server_accepts_and_stays_silent_until_it_is_thawed() {
    let server = Redis::cache().await.unwrap();
    server.freeze().unwrap();
    let ask = redis(server.port(), "PING");
    tokio::pin!(ask);
    assert!(timeout(Duration::from_millis(300), &mut ask).await.is_err());
    server.thaw().unwrap();
    assert_eq!(ask.await.unwrap(), "+PONG");
}

#[tokio::test]
async fn a_frozen_server_is_killed_too() {
    let server = Redis::cache().await.unwrap();
    server.freeze().unwrap();
    server.kill9().await.unwrap();
    assert!(is_free(server.port()));
}

#[tokio::test]
async fn mongodb_takes_majority_writes_and_keeps_them_over_kill_9() {
    let server = Mongo::start().await.unwrap();
    let store = Client::with_uri_str(server.url()).await.unwrap();
    let things = store.database("test").collection::<Document>("things");
    things.insert_one(doc! { "_id": 1 }).await.unwrap();
    server.kill9().await.unwrap();
    server.start_again().await.unwrap();
    assert_eq!(things.count_documents(doc! {}).await.unwrap(), 1);
    server.stop().await.unwrap();
    assert!(is_free(server.port()));
}

#[tokio::test]
async fn mongodb_finds_its_data_again_under_another_port() {
    let folder = holdfast_testkit::Folder::temporary("moved").unwrap();
    let options = MongoOptions { dir: Some(folder.path().to_owned()), ..MongoOptions::default() };
    for round in 0..2 {
        let server = Mongo::start_with(options.clone()).await.unwrap();
        let store = Client::with_uri_str(server.url()).await.unwrap();
        let things = store.database("test").collection::<Document>("things");
        assert_eq!(things.count_documents(doc! {}).await.unwrap(), round);
        things.insert_one(doc! { "round": 1 }).await.unwrap();
        server.stop().await.unwrap();
    }
}

#[tokio::test]
async fn kafka_starts_behind_a_proxy_and_comes_back_after_kill_9() {
    let (kafka, [proxy]) = Kafka::start_behind::<1>().await.unwrap();
    let first = kafka.pid();
    assert!(is_alive(first));
    kafka.kill9().await.unwrap();
    kafka.start_again().await.unwrap();
    assert_ne!(kafka.pid(), first);
    TcpStream::connect(("127.0.0.1", proxy.port())).await.unwrap();
    kafka.stop().await.unwrap();
    assert!(is_free(kafka.port()));
}

#[test]
fn shared_servers_are_the_same_in_every_runtime() {
    let ask = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let servers = shared().await;
            let store = Client::with_uri_str(&servers.mongo_url).await.unwrap();
            store.database(&unique("db")).run_command(doc! { "ping": 1 }).await.unwrap();
            servers.kafka_brokers.clone()
        })
    };
    let others: Vec<_> = (0..3).map(|_| std::thread::spawn(ask)).collect();
    let mine = ask();
    for other in others {
        assert_eq!(other.join().unwrap(), mine);
    }
}

#[tokio::test]
async fn a_dropped_server_is_gone_with_its_folder() {
    let server = Redis::cache().await.unwrap();
    let (pid, port, folder) = (server.pid(), server.port(), server.folder().path().to_owned());
    assert!(folder.exists());
    drop(server);
    assert!(!is_alive(pid));
    assert!(is_free(port));
    assert!(!folder.exists());
}

/// `holdfast-local servers`, up, and the processes it has started.
async fn owner() -> (tokio::process::Child, Vec<u32>) {
    let mut owner = tokio::process::Command::new(env!("CARGO_BIN_EXE_holdfast-local"))
        .arg("servers")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(owner.stdout.take().unwrap()).lines();
    let mut exported = 0;
    loop {
        let line = lines.next_line().await.unwrap().expect("the servers start");
        if line == "ready" {
            break;
        }
        assert!(line.starts_with("export HOLDFAST_TEST_"), "{line}");
        exported += 1;
    }
    assert_eq!(exported, 4);
    let children = children_of(owner.id().unwrap());
    assert_eq!(children.len(), 5, "four servers and the reaper");
    (owner, children)
}

fn children_of(parent: u32) -> Vec<u32> {
    let pids =
        std::fs::read_dir("/proc").unwrap().filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|pid| {
        // pid (name) state parent …
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit_once(") ").map(|(_, fields)| fields).unwrap_or_default();
        fields.split(' ').nth(1) == Some(&parent.to_string())
    })
    .collect()
}

fn folders_of(owner: u32) -> usize {
    let prefix = format!("holdfast-{owner}-");
    let entries = std::fs::read_dir(std::env::temp_dir()).unwrap();
    entries.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().starts_with(&prefix)).count()
}

async fn all_are_gone(owner: u32, children: &[u32]) {
    let gone = async {
        while folders_of(owner) > 0 || children.iter().any(|pid| is_alive(*pid)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(10), gone).await.expect("servers and folders go with their owner");
}

#[tokio::test]
async fn a_killed_owner_takes_its_servers_and_folders_along() {
    let (mut owner, children) = owner().await;
    let id = owner.id().unwrap();
    assert_eq!(folders_of(id), 1);
    owner.kill().await.unwrap();
    all_are_gone(id, &children).await;
}

#[tokio::test]
async fn the_servers_alone_end_with_their_standard_input() {
    let (mut owner, children) = owner().await;
    let id = owner.id().unwrap();
    drop(owner.stdin.take());
    let status = timeout(Duration::from_secs(10), owner.wait()).await.expect("it ends").unwrap();
    assert!(status.success());
    all_are_gone(id, &children).await;
}

#[tokio::test]
async fn a_server_that_ends_at_once_tells_why() {
    let options = RedisOptions { args: ["--no-such-setting", "1"].map(String::from).into(), ..RedisOptions::default() };
    let error = Redis::start(options).await.unwrap_err();
    assert!(format!("{error:#}").contains("no-such-setting"), "{error:#}");
}

#[tokio::test]
async fn an_operators_port_is_asked_in_plain_http() {
    let mut python = Command::new("python3")
        .args(["-u", "-m", "http.server", "--bind", "127.0.0.1", "0"])
        .current_dir(reaper::folder().unwrap())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(python.stdout.take().unwrap()), &mut line).unwrap();
    let port = line.split_whitespace().nth(5).unwrap().to_owned();
    let (status, _) = http_get(&format!("127.0.0.1:{port}"), "/absent").await.unwrap();
    python.kill().unwrap();
    python.wait().unwrap();
    assert_eq!(status, 404);
}
