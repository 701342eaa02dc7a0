//! What the cache costs, in CPU time of this process: a get through [`Client`] against a bare one of `redis`, one at a time and 64 at
//! once, and an entry of the recent list against its JSON.
//!
//! `cargo run --release -p holdfast-cache --example cost`
//!
//! Each figure is the median of rounds in which both sides take turns, so that whatever else the machine does meets both. The aim is
//! at most 1.3 times the CPU of a bare get.

use std::hint::black_box;
use std::time::Duration;

use futures_util::future::join_all;
use holdfast_breaker::{Breaker, BreakerSettings};
use holdfast_cache::entry;
use holdfast_message::json::{MessageJson, Position};
use holdfast_message::{ChatId, Message, MessageId, UserId};
use holdfast_redis::{Client, ClientSettings, Connection, RedisMetrics};
use holdfast_testkit::Redis;
use redis::AsyncCommands;
use rustix::time::{ClockId, clock_gettime};

type Failure = Box<dyn std::error::Error + Send + Sync>;

const ROUNDS: usize = 15;
const GETS: usize = 6400;
const KEY: &str = "chat:v1:profile:user:{alice}";

// One thread, so that no thread's waking is anybody's cost.
#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Failure> {
    if cfg!(debug_assertions) {
        println!("without --release these figures say nothing");
    }
    let server = Redis::cache().await?;
    let metrics = RedisMetrics::register(&prometheus::Registry::new())?;
    let breaker = Breaker::new("redis", BreakerSettings::default(), None);
    let settings = ClientSettings {
        budget: Duration::from_secs(5),
        max_latency: Duration::from_secs(5),
        ..ClientSettings::default()
    };
    let ours = Client::new(Connection::open("cost", &server.url(), metrics)?, breaker, settings);
    let bare = redis::Client::open(server.url())?.get_multiplexed_async_connection().await?;
    ours.set(KEY, &[b'x'; 200], Duration::from_secs(3600)).await?;
    for concurrent in [1, 64] {
        gets(&ours, &bare, concurrent).await?;
    }
    for characters in [24, 120, 960] {
        entries(characters)?;
    }
    Ok(())
}

async fn gets(ours: &Client, bare: &redis::aio::MultiplexedConnection, concurrent: usize) -> Result<(), Failure> {
    let (mut our_costs, mut bare_costs) = (Vec::new(), Vec::new());
    // The first round warms up.
    for round in 0..=ROUNDS {
        let before = cpu();
        for _ in 0..GETS / concurrent {
            for value in join_all((0..concurrent).map(|_| ours.get(KEY))).await {
                black_box(value?);
            }
        }
        let between = cpu();
        for _ in 0..GETS / concurrent {
            let get = |mut connection: redis::aio::MultiplexedConnection| async move {
                connection.get::<_, Option<Vec<u8>>>(KEY).await
            };
            for value in join_all((0..concurrent).map(|_| get(bare.clone()))).await {
                black_box(value?);
            }
        }
        if round > 0 {
            our_costs.push(between - before);
            bare_costs.push(cpu() - between);
        }
    }
    let (ours, bare) = (median(our_costs) / GETS as u32, median(bare_costs) / GETS as u32);
    let ratio = ours.as_secs_f64() / bare.as_secs_f64();
    println!("get, {concurrent:2} at once: {ours:?} of CPU, bare {bare:?}: {ratio:.2} times");
    Ok(())
}

fn entries(characters: usize) -> Result<(), Failure> {
    const REPEATS: usize = 2000;
    let chat = ChatId::parse("alice.anderson:bob.brown")?;
    let messages: Vec<Message> = (0..50).map(|number| message(&chat, number, characters)).collect::<Result<_, _>>()?;
    let json = |message: &Message| {
        // What a list of JSON would hold: the message without its position.
        serde_json::to_vec(&MessageJson { message, position: Position::Absent })
    };
    let listed: Vec<Vec<u8>> = messages.iter().map(|message| entry::encode(Some(100_000), message)).collect();
    let texts: Vec<Vec<u8>> = messages.iter().map(json).collect::<Result<_, _>>()?;
    let mut costs: [Vec<Duration>; 4] = Default::default();
    for _ in 0..ROUNDS {
        let times = [
            timed(REPEATS, || messages.iter().for_each(|message| drop(black_box(entry::encode(Some(7), message))))),
            timed(REPEATS, || messages.iter().for_each(|message| drop(black_box(json(message))))),
            timed(REPEATS, || listed.iter().for_each(|bytes| drop(black_box(entry::decode(&chat, bytes))))),
            timed(REPEATS, || {
                texts.iter().for_each(|text| drop(black_box(serde_json::from_slice::<serde_json::Value>(text))));
            }),
        ];
        costs.iter_mut().zip(times).for_each(|(costs, time)| costs.push(time));
    }
    let [encode, to_json, decode, from_json] = costs.map(|costs| median(costs) / REPEATS as u32);
    let size = |all: &[Vec<u8>]| all.iter().map(Vec::len).sum::<usize>();
    println!(
        "50 messages of {characters} characters: {} bytes, {} as JSON; written in {encode:?}, {to_json:?} as JSON; read in {decode:?}, {from_json:?} as JSON",
        size(&listed),
        size(&texts),
    );
    Ok(())
}

fn message(chat: &ChatId, number: u8, characters: usize) -> Result<Message, Failure> {
    let sender = UserId::parse(if number.is_multiple_of(2) { "alice.anderson" } else { "bob.brown" })?;
    let id = MessageId::from_bytes(std::array::from_fn(|byte| number.wrapping_mul(31).wrapping_add(byte as u8)));
    let words = "we could meet at the old station at seven, if that is not too early for you ";
    Ok(Message {
        id,
        temp_id: Some(id.to_string()),
        receiver: chat.other(&sender),
        chat: chat.clone(),
        sender,
        content: words.chars().cycle().skip(number.into()).take(characters).collect(),
        image_url: None,
        public_id: None,
        timestamp: 1_700_000_000_000 + i64::from(number) * 1000,
    })
}

fn timed(repeats: usize, mut work: impl FnMut()) -> Duration {
    let before = cpu();
    (0..repeats).for_each(|_| work());
    cpu() - before
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// What this process has used, user and system.
fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}
