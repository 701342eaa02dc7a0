//! What storing a message costs this process: `Store::insert` beside the driver's own `insert_many`.
//!
//! `cargo run --release -p holdfast-store --example insert_cost -- mongodb://127.0.0.1:27017/?directConnection=true`
//! writes into the database `insert_cost` and drops it.

use std::time::{Duration, Instant};

use holdfast_message::{Draft, Message, UserId, draft};
use holdfast_store::{Store, StoreSettings};
use mongodb::bson::{Document, doc};
use mongodb::options::WriteConcern;

const BATCH: usize = 1000;
const ROUNDS: usize = 50;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let url = std::env::args().nth(1).ok_or("usage: insert_cost MONGO_URL")?;
    // One thread, so that the process's time is the work's and no spinning of idle workers.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(run(url))
}

async fn run(url: String) -> Result<(), Box<dyn std::error::Error>> {
    let db = mongodb::Client::with_uri_str(&url).await?.database("insert_cost");
    db.drop().await?;
    let mut settings = StoreSettings::new(url, "insert_cost");
    settings.write_timeout = Duration::from_secs(60);
    let store = Store::new(settings).await?;
    store.ensure_indexes().await?;
    let batches: Vec<Vec<Message>> = (0..ROUNDS).map(|_| batch()).collect::<Result<_, _>>()?;

    for what in ["stored", "duplicates"] {
        let (cpu, wall) = (cpu_time()?, Instant::now());
        for batch in &batches {
            store.insert(batch).await?;
        }
        report(&format!("Store::insert, {what}"), cpu, wall)?;
    }
    db.drop().await?;
    store.ensure_indexes().await?;
    let collection = db.collection::<Document>("messages");
    let durable = WriteConcern::builder().w(mongodb::options::Acknowledgment::Majority).journal(true).build();
    for what in ["stored", "duplicates"] {
        let (cpu, wall) = (cpu_time()?, Instant::now());
        for batch in &batches {
            let documents: Vec<_> = batch.iter().map(document).collect();
            let inserted = collection.insert_many(documents).ordered(false).write_concern(durable.clone()).await;
            inserted.map(drop).or_else(|error| if what == "duplicates" { Ok(()) } else { Err(error) })?;
        }
        report(&format!("insert_many, {what}"), cpu, wall)?;
    }
    db.drop().await?;
    Ok(())
}

fn batch() -> Result<Vec<Message>, Box<dyn std::error::Error>> {
    let alice = UserId::parse("alice")?;
    (0..BATCH)
        .map(|n| {
            let chat = draft::target(&alice, Some(&format!("friend-{}", n % 100)), None)?;
            let content = "a message of about the usual length, neither long nor short".to_owned();
            let draft = Draft::new(alice.clone(), chat, Some(fresh()), content, None, None)?;
            Ok(draft.stamp(1_700_000_000_000))
        })
        .collect()
}

fn fresh() -> String {
    holdfast_message::MessageId::unrepeatable().to_string()
}

fn document(message: &Message) -> Document {
    let mut document = doc! { "_id": message.id.to_string() };
    document.extend(message.temp_id.as_ref().map(|id| ("tempId".to_owned(), id.into())));
    document.insert("chatId", message.chat.as_str());
    document.insert("senderId", message.sender.as_str());
    document.extend(message.receiver.as_ref().map(|id| ("receiverId".to_owned(), id.as_str().into())));
    document.insert("content", &message.content);
    document.insert("timestamp", message.timestamp);
    document
}

fn report(what: &str, cpu: Duration, wall: Instant) -> std::io::Result<()> {
    let messages = (BATCH * ROUNDS) as f64;
    let cpu = (cpu_time()?.saturating_sub(cpu)).as_secs_f64() * 1e6 / messages;
    println!("{what:<28} {cpu:6.2} µs CPU a message, {:7.0} messages/s", messages / wall.elapsed().as_secs_f64());
    Ok(())
}

/// This process's time on the CPUs, which the kernel counts in nanoseconds here.
fn cpu_time() -> std::io::Result<Duration> {
    let text = std::fs::read_to_string("/proc/self/schedstat")?;
    Ok(Duration::from_nanos(text.split(' ').next().and_then(|n| n.parse().ok()).unwrap_or_default()))
}
