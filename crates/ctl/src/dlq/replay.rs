//! `dlq replay`: publishes dead letters to the topic that they came from, with their key, bytes and headers, marked `uncached`.
//!
//! A message that MongoDB has is passed over, so a second run changes nothing. The letters stay where they are: Kafka's retention
//! removes them.

use anyhow::{Context, Result};
use holdfast_kafka::{Acknowledged, PublishError};
use holdfast_message::Message;
use holdfast_message::record::header;
use holdfast_store::Store;
use serde::Serialize;

use super::{Letter, Letters};
use crate::args::DlqReplay;
use crate::audit;
use crate::exit::Verdict;
use crate::output::{Output, Progress, confirm};
use crate::settings::Topics;

/// Letters that are looked up and published at once.
const BATCH: usize = 100;

/// What became of a letter.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase", tag = "outcome")]
enum Outcome {
    Replayed { to: String },
    WouldBeReplayed,
    AlreadyStored,
    Undecodable { problem: String },
    NoSource,
    TooLarge { problem: String },
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Row {
    partition: i32,
    offset: i64,
    message_id: Option<String>,
    #[serde(flatten)]
    outcome: Outcome,
}

/// Replays those that the filter lets through.
pub async fn run(topics: &Topics, store: &Store, args: &DlqReplay, output: &mut Output<'_>) -> Result<Verdict> {
    let mut letters = Letters::open(&topics.admin, &topics.kafka, &args.filter, usize::MAX).await?;
    if !args.dry_run {
        let from = &topics.kafka.dlq_topic;
        confirm(&format!("Publish dead letters of {from} to the topics that they came from?"), args.yes)?;
    }
    let mut progress = Progress::new("looked at", 0);
    let (mut replayed, mut wrong) = (0_u64, false);
    let mut batch = Vec::with_capacity(BATCH);
    loop {
        while batch.len() < BATCH
            && let Some(letter) = letters.next().await?
        {
            batch.push(letter);
        }
        if batch.is_empty() {
            break;
        }
        progress.add(batch.len() as u64);
        let (rows, failure) = replay(topics, store, args, &batch).await?;
        replayed += rows.iter().filter(|row| matches!(row.outcome, Outcome::Replayed { .. })).count() as u64;
        wrong |= rows.iter().any(|row| {
            matches!(row.outcome, Outcome::Undecodable { .. } | Outcome::NoSource | Outcome::TooLarge { .. })
        });
        for row in &rows {
            output.say(row, sentence(row))?;
        }
        if let Some(failure) = failure {
            return Err(failure.into());
        }
        batch.clear();
    }
    output.note(format!("{replayed} replayed"))?;
    Ok(if wrong { Verdict::Wrong } else { Verdict::Fine })
}

enum Begun<F> {
    Decided(Outcome),
    Publishing(F),
}

/// What became of each, but for those that Kafka did not take for now.
async fn replay(
    topics: &Topics,
    store: &Store,
    args: &DlqReplay,
    letters: &[Letter],
) -> Result<(Vec<Row>, Option<PublishError>)> {
    let messages: Vec<_> = letters.iter().map(Letter::message).collect();
    let ids: Vec<_> = messages.iter().flatten().map(|message| message.id).collect();
    let stored = store.stored(&ids).await.context("looking up what MongoDB has")?;
    // All are handed to Kafka's client before the first is waited for.
    let begun: Vec<_> = letters
        .iter()
        .zip(&messages)
        .map(|(letter, message)| {
            let outcome = match message {
                Ok(message) if stored.contains(&message.id) => Outcome::AlreadyStored,
                Err(error) if !args.force => Outcome::Undecodable { problem: error.to_string() },
                _ if letter.source().is_none() => Outcome::NoSource,
                _ if args.dry_run => Outcome::WouldBeReplayed,
                _ => return Begun::Publishing(publish(topics, letter)),
            };
            Begun::Decided(outcome)
        })
        .collect();
    let (mut rows, mut failure) = (Vec::with_capacity(letters.len()), None);
    for ((letter, message), begun) in letters.iter().zip(&messages).zip(begun) {
        let message = message.as_ref().ok();
        let outcome = match begun {
            Begun::Decided(outcome) => outcome,
            Begun::Publishing(report) => match report.await {
                Ok(place) => {
                    let topic = letter.source().map_or("", |(topic, ..)| topic);
                    let to = format!("{topic}/{}@{}", place.partition, place.offset);
                    note(topics, letter, message, &to);
                    Outcome::Replayed { to }
                }
                Err(PublishError::TooLarge(problem)) => Outcome::TooLarge { problem },
                Err(error) => {
                    failure = failure.or(Some(error));
                    continue;
                }
            },
        };
        let (partition, offset) = letter.place();
        rows.push(Row { partition, offset, message_id: message.map(|message| message.id.to_string()), outcome });
    }
    Ok((rows, failure))
}

fn publish(topics: &Topics, letter: &Letter) -> impl Future<Output = Result<Acknowledged, PublishError>> + use<> {
    let mut headers = letter.original_headers();
    headers.retain(|(name, _)| *name != header::UNCACHED);
    headers.push((header::UNCACHED, Some(b"1")));
    let topic = letter.source().map_or("", |(topic, ..)| topic);
    topics.publisher.publish_raw(topic, None, letter.key(), letter.value(), &headers)
}

fn note(topics: &Topics, letter: &Letter, message: Option<&Message>, to: &str) {
    let (partition, offset) = letter.place();
    let from = format!("{}/{partition}@{offset}", topics.kafka.dlq_topic);
    audit::replayed(message.map(|message| message.id), message.map(|message| &message.chat), &from, to);
}

fn sentence(row: &Row) -> String {
    let place = format!("{}@{}", row.partition, row.offset);
    let id = row.message_id.as_deref().unwrap_or("(undecodable)");
    let became = match &row.outcome {
        Outcome::Replayed { to } => format!("replayed to {to}"),
        Outcome::WouldBeReplayed => "would be replayed".into(),
        Outcome::AlreadyStored => "MongoDB has it already, passed over".into(),
        Outcome::Undecodable { problem } => format!("passed over without --force: {problem}"),
        Outcome::NoSource => "passed over: it does not say where it came from".into(),
        Outcome::TooLarge { problem } => format!("stays: {problem}"),
    };
    format!("{place}  {id}  {became}")
}
