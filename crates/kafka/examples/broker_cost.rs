//! What a message costs the broker, in CPU time of its process, and how long its acknowledgement takes, for some values of
//! `KAFKA_LINGER_MS`, `KAFKA_FETCH_MIN_BYTES` and `KAFKA_FETCH_WAIT_MS`: one producer, and one member of a group that reads what it wrote.
//!
//! `cargo run --release -p holdfast-kafka --example broker_cost`
//!
//! The variants take turns, in rounds of some seconds at a fixed rate, so that whatever else the machine does meets all of them. Each figure is
//! the median of the rounds. The CPU is the broker's, so a debug build of this program gives the same.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_kafka::{Admin, ConsumerSettings, Event, GroupConsumer, KafkaSettings, Polled, PublishRecord, Publisher};
use holdfast_testkit::{Kafka, unique};
use tokio::task::JoinSet;
use tokio::time::Instant;

const ROUNDS: usize = 3;
const ROUND: Duration = Duration::from_secs(5);
const RATES: [u32; 3] = [100, 1000, 5000];
const CHATS: u32 = 100;
/// About what a record of the gateway's holds.
const VALUE: &[u8] = &[b'x'; 250];
/// The clock ticks of a second in `/proc`.
const TICKS: u64 = 100;

/// `linger.ms`, `fetch.min.bytes`, `fetch.wait.max.ms`.
const VARIANTS: [(u64, usize, u64); 6] =
    [(5, 1, 100), (5, 65_536, 100), (0, 65_536, 100), (10, 65_536, 100), (20, 65_536, 100), (20, 65_536, 500)];

#[derive(Default)]
struct Figures {
    cpu_us: Vec<f64>,
    p50: Vec<Duration>,
    p99: Vec<Duration>,
}

#[tokio::main]
async fn main() -> Result<()> {
    let kafka = Kafka::start().await?;
    let settings = KafkaSettings {
        brokers: kafka.brokers(),
        delivery_timeout: Duration::from_secs(20),
        ..KafkaSettings::default()
    };
    // Compiles the broker's code.
    round(&kafka, &settings, VARIANTS[0], 5000).await?;
    round(&kafka, &settings, VARIANTS[4], 5000).await?;
    for rate in RATES {
        let mut figures: [Figures; VARIANTS.len()] = Default::default();
        for _ in 0..ROUNDS {
            for (variant, figures) in VARIANTS.into_iter().zip(&mut figures) {
                let (cpu_us, times) = round(&kafka, &settings, variant, rate).await?;
                figures.cpu_us.push(cpu_us);
                figures.p50.push(times[times.len() / 2]);
                figures.p99.push(times[times.len() * 99 / 100]);
            }
        }
        println!("{rate} messages/s");
        for ((linger, bytes, wait), mut figures) in VARIANTS.into_iter().zip(figures) {
            figures.cpu_us.sort_by(f64::total_cmp);
            figures.p50.sort_unstable();
            figures.p99.sort_unstable();
            let middle = ROUNDS / 2;
            println!(
                "  linger {linger:2} ms, fetch {bytes:5} bytes or {wait} ms: broker {:4.0} µs, acknowledged p50 {:?}, p99 {:?}",
                figures.cpu_us[middle], figures.p50[middle], figures.p99[middle],
            );
        }
    }
    Ok(())
}

/// The broker's CPU a message, in µs, and the times to the acknowledgements, the shortest first.
async fn round(
    kafka: &Kafka,
    settings: &KafkaSettings,
    (linger, bytes, wait): (u64, usize, u64),
    rate: u32,
) -> Result<(f64, Vec<Duration>)> {
    let topic = unique("cost");
    let settings = KafkaSettings { topic: topic.clone(), linger: Duration::from_millis(linger), ..settings.clone() };
    Admin::new(&settings, Duration::from_secs(60))?.ensure_topics().await?;
    let reader = Reader::start(&settings, bytes, Duration::from_millis(wait))?;
    let publisher = Publisher::new(&settings)?;
    // Connects, and shows that the reader has its partitions.
    for number in 0..CHATS {
        publish(&publisher, number).await?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let before = cpu(kafka.pid())?;
    let begun = Instant::now();
    let count = rate * u32::try_from(ROUND.as_secs())?;
    let mut sent = JoinSet::new();
    for number in 0..count {
        let due = begun + ROUND * number / count;
        if due > Instant::now() + Duration::from_millis(1) {
            tokio::time::sleep_until(due).await;
        }
        let report = publish(&publisher, number);
        sent.spawn(async move { report.await.map(|()| due.elapsed()) });
    }
    let mut times = sent.join_all().await.into_iter().collect::<Result<Vec<_>>>()?;
    let cpu = cpu(kafka.pid())? - before;
    times.sort_unstable();
    let read = reader.end()?;
    ensure!(read > 0, "nothing was read");
    Ok((cpu.as_secs_f64() * 1e6 / f64::from(count), times))
}

/// In the producer's queue when it returns.
fn publish(publisher: &Publisher, number: u32) -> impl Future<Output = Result<()>> + Send + use<> {
    let chat = format!("user-{}:user-{}", number % CHATS, number % CHATS + 1000);
    let report = publisher.publish(PublishRecord { chat: &chat, value: VALUE, traceparent: None, uncached: false });
    async move { Ok(report.await.map(drop)?) }
}

/// A member of a group of its own, on a thread.
struct Reader {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Result<usize>>,
}

impl Reader {
    fn start(settings: &KafkaSettings, bytes: usize, wait: Duration) -> Result<Self> {
        let group = ConsumerSettings {
            group: unique("group"),
            fetch_min_bytes: bytes,
            fetch_wait: wait,
            ..ConsumerSettings::default()
        };
        let mut consumer = GroupConsumer::subscribe(settings, &group, || {})?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = std::thread::spawn(move || {
            let mut read = 0;
            while !stopped.load(Ordering::Relaxed) {
                let partitions = match consumer.poll() {
                    Polled::Record(_) => {
                        read += 1;
                        continue;
                    }
                    Polled::Event(Event::Assigned(partitions)) => partitions,
                    Polled::Event(_) => continue,
                    Polled::Idle => {
                        std::thread::sleep(Duration::from_millis(5));
                        continue;
                    }
                };
                consumer.assign(&partitions.iter().map(|partition| (*partition, None)).collect::<Vec<_>>())?;
            }
            Ok(read)
        });
        Ok(Self { stop, thread })
    }

    fn end(self) -> Result<usize> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().ok().context("the reader panicked")?
    }
}

/// What the process has used, user and system.
fn cpu(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name, which may hold blanks, ends with the last parenthesis.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<u64>().ok()).context("no such field");
    Ok(Duration::from_millis((ticks(11)? + ticks(12)?) * 1000 / TICKS))
}
