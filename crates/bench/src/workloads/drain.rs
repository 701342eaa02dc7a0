//! A worker that catches up with a full topic, beside plain inserts of the same documents.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use mongodb::bson::{Document, doc};
use mongodb::options::{Acknowledgment, InsertManyOptions, WriteConcern};
use mongodb::{Client, IndexModel};
use tokio::task::spawn_blocking;

use super::records;
use crate::services::Needs;
use crate::stored::Messages;
use crate::subject::Subject;
use crate::target::Bench;
use crate::usage::Meter;
use crate::values::Values;

/// The documents of one insert, as of one flush.
const BATCH: usize = 1000;

pub(super) async fn run(bench: &Bench, subject: Subject) -> Result<Values> {
    if subject == Subject::Inserts { inserts(bench).await } else { worker(bench, subject).await }
}

async fn worker(bench: &Bench, subject: Subject) -> Result<Values> {
    let count = bench.options.messages;
    let place = bench.servers.make_place().await?;
    let (brokers, topic) = (bench.servers.kafka.brokers(), place.topic.clone());
    let fill = move || records::publish(&brokers, &topic, &records::encoded(count)?);
    spawn_blocking(fill).await.context("filling the topic")??;
    let needs = Needs { gateways: 0, worker: false };
    let mut target = bench.target_at(place, subject, needs).await?;
    let started = Instant::now();
    target.services()?.start_worker().await?;
    let limit = Duration::from_secs_f64(bench.options.drain_limit);
    let messages = target.messages().context("no store")?;
    ensure!(messages.drained(1, limit).await?.is_some(), "nothing is stored\n{}", target.logs());
    // From here on, as what starting a process costs is no part of a message's cost.
    let (first, meter) = (Instant::now(), Meter::start(target.processes()));
    let before = messages.count().await?;
    let drained = messages.drained(count, limit).await?;
    ensure!(drained.is_some(), "not all is stored after {limit:?}\n{}", target.logs());
    let seconds = first.elapsed().as_secs_f64();
    let (spent, count) = (meter.spent(), count as u64 - before);
    let mut values = Values::default();
    values.add("messages/s", count as f64 / seconds);
    values.add("first stored after the start, s", (first - started).as_secs_f64());
    values.spent(&spent, count, "a message");
    target.end().await?;
    Ok(values)
}

async fn inserts(bench: &Bench) -> Result<Values> {
    let count = bench.options.messages;
    let place = bench.servers.make_place().await?;
    let client = Client::with_uri_str(bench.servers.mongo.url()).await?;
    let collection = client.database(&place.database).collection::<Document>("messages");
    // The index that history needs.
    let index = IndexModel::builder().keys(doc! { "chatId": 1, "timestamp": -1, "_id": -1 }).build();
    collection.create_index(index).await.context("the index")?;
    let documents: Vec<Document> =
        (0..count).map(|number| Ok(records::document(&records::message(number)?))).collect::<Result<_>>()?;
    let mut durable = InsertManyOptions::default();
    durable.ordered = Some(false);
    durable.write_concern = Some(WriteConcern::builder().w(Acknowledgment::Majority).journal(true).build());

    let meter = Meter::start(bench.servers.processes());
    let started = Instant::now();
    for batch in documents.chunks(BATCH) {
        collection.insert_many(batch).with_options(durable.clone()).await.context("inserting")?;
    }
    let seconds = started.elapsed().as_secs_f64();
    let spent = meter.spent();
    let stored = Messages::of(&bench.servers.mongo.url(), &place.database).await?.count().await?;
    ensure!(stored == count as u64, "{stored} of {count} documents are stored");
    let mut values = Values::default();
    values.add("messages/s", count as f64 / seconds);
    values.spent(&spent, count as u64, "a message");
    Ok(values)
}
