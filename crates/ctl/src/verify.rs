//! `verify`: whether MongoDB has, exactly once and unchanged, what it must have.
//!
//! Either a part of the messages' topic is compared with MongoDB ([`range`](mod@range)), or a file of ids ([`ids`]). Both work in
//! batches, and name every message that is not as it should be; their memory grows by a few bytes for each of those,
//! and for each dead letter once a message is missing.
//!
//! A verification of the whole topic also reports stored documents that no reading call can decode.
//!
//! A message that is missing may lie in the dead-letter topic or a dead list ([`elsewhere`]); then it counts as dead-lettered. What
//! retention deleted can't be compared any more: that is *unverifiable*, which is not fine.

pub mod elsewhere;
pub mod ids;
pub mod judge;
pub mod range;

use std::collections::HashSet;

use anyhow::Result;
use holdfast_failed_queue::FailedQueue;
use holdfast_kafka::{Admin, KafkaSettings};
use holdfast_message::MessageId;
use holdfast_store::Store;
use serde::Serialize;

use crate::args::VerifyArgs;
use crate::exit::Verdict;
use crate::log_range::PartitionOffset;
use crate::output::Output;
use crate::settings::Settings;

/// Messages that are looked up at once.
const BATCH: usize = 2000;
/// Ids that are remembered as named; after so many, one with several records may be named more than once.
const MAX_NAMED: usize = 1_000_000;

/// The servers that a verification reads.
pub struct Sources {
    /// Kafka's administration.
    pub admin: Admin,
    /// The settings of Kafka's clients.
    pub kafka: KafkaSettings,
    /// The workers' group.
    pub group: String,
    /// How long the workers leave records in the topic, if they delete any themselves; in milliseconds.
    pub kept_for_ms: Option<i64>,
    /// MongoDB.
    pub store: Store,
    /// The failed queue, read only for missing messages.
    pub queue: FailedQueue,
}

/// Verifies the range or the ids that the arguments name.
pub async fn run(settings: &Settings, args: &VerifyArgs, output: &mut Output<'_>) -> Result<Verdict> {
    let sources = Sources {
        admin: settings.admin()?,
        kafka: settings.kafka(),
        group: settings.group().to_owned(),
        kept_for_ms: settings.kept_for_ms(),
        store: settings.store().await?,
        queue: settings.failed_queue()?,
    };
    match &args.ids {
        Some(path) => ids::run(&sources, path, output).await,
        None => range::run(&sources, args, output).await,
    }
}

/// What is wrong with a message or a record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "finding")]
pub enum Finding {
    /// Neither MongoDB nor any queue or topic has it.
    Missing,
    /// MongoDB has more than one document of it.
    Duplicated {
        /// The number of stored documents with this message's id.
        copies: usize,
    },
    /// MongoDB has it otherwise than it was sent.
    Altered {
        /// The fields that differ.
        fields: Vec<&'static str>,
    },
    /// A record that is no message, and lies in no dead-letter topic either.
    Undecodable {
        /// The decoding error.
        problem: String,
    },
    /// A dead letter: not lost, but not stored.
    DeadLettered {
        /// The topic or list that holds it.
        place: &'static str,
    },
    /// Durable, and not stored yet.
    Waiting {
        /// The topic or list that holds it.
        place: &'static str,
    },
    /// Stored with the time of a copy that may have come before the range.
    TimestampUnjudged,
    /// A stored document that no reading call can use.
    Unreadable {
        /// Its `_id`, as text.
        document: String,
        /// The field that makes it unreadable.
        field: &'static str,
    },
}

/// The number of findings of each kind.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Records read, or ids given.
    pub checked: u64,
    /// See [`Finding`].
    pub missing: u64,
    /// See [`Finding`].
    pub duplicated: u64,
    /// See [`Finding`].
    pub altered: u64,
    /// See [`Finding`].
    pub undecodable: u64,
    /// Asked for, and deleted by retention, or never committed and deleted.
    pub unverifiable: u64,
    /// See [`Finding`].
    pub dead_lettered: u64,
    /// See [`Finding`].
    pub waiting: u64,
    /// See [`Finding`].
    pub timestamp_unjudged: u64,
    /// See [`Finding`].
    pub unreadable: u64,
    /// Deleted by retention before what was asked for.
    pub before_the_range: u64,
    /// Records that are not committed yet, and therefore not checked.
    pub not_committed: u64,
    /// What else must be known to judge the result.
    pub notes: Vec<String>,
}

impl Summary {
    /// What follows from it.
    pub fn verdict(&self) -> Verdict {
        let wrong =
            self.missing + self.duplicated + self.altered + self.undecodable + self.unverifiable + self.unreadable;
        if wrong == 0 && self.notes.is_empty() { Verdict::Fine } else { Verdict::Wrong }
    }
}

/// Names what was found, and counts it.
struct Findings<'o, 'w> {
    output: &'o mut Output<'w>,
    named: HashSet<MessageId>,
    summary: Summary,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Named<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    message_id: Option<MessageId>,
    /// `partition@offset` of a record of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    record: Option<String>,
    #[serde(flatten)]
    finding: &'a Finding,
}

#[derive(Serialize)]
struct Line<'a> {
    summary: &'a Summary,
}

impl<'o, 'w> Findings<'o, 'w> {
    fn new(output: &'o mut Output<'w>) -> Self {
        Self { output, named: HashSet::new(), summary: Summary::default() }
    }

    fn name(&mut self, id: Option<MessageId>, record: Option<PartitionOffset>, finding: &Finding) -> Result<()> {
        if let Some(id) = id
            && self.named.len() < MAX_NAMED
            && !self.named.insert(id)
        {
            return Ok(());
        }
        let summary = &mut self.summary;
        *match finding {
            Finding::Missing => &mut summary.missing,
            Finding::Duplicated { .. } => &mut summary.duplicated,
            Finding::Altered { .. } => &mut summary.altered,
            Finding::Undecodable { .. } => &mut summary.undecodable,
            Finding::DeadLettered { .. } => &mut summary.dead_lettered,
            Finding::Waiting { .. } => &mut summary.waiting,
            Finding::TimestampUnjudged => &mut summary.timestamp_unjudged,
            Finding::Unreadable { .. } => &mut summary.unreadable,
        } += 1;
        let record = record.map(|(partition, offset)| format!("{partition}@{offset}"));
        let sentence = sentence(finding);
        let shown = match (id, &record, finding) {
            (Some(id), ..) => id.to_string(),
            (None, _, Finding::Unreadable { document, .. }) => document.clone(),
            (None, record, _) => format!("record {}", record.as_deref().unwrap_or_default()),
        };
        self.output.say(&Named { message_id: id, record, finding }, format!("{shown}  {sentence}"))
    }

    fn end(self) -> Result<Verdict> {
        let Self { output, summary, .. } = self;
        if output.is_json() {
            output.object(&Line { summary: &summary })?;
            return Ok(summary.verdict());
        }
        for (count, what) in [
            (summary.missing, "missing"),
            (summary.duplicated, "duplicated"),
            (summary.altered, "altered"),
            (summary.undecodable, "undecodable and dead-lettered nowhere"),
            (summary.unverifiable, "unverifiable: retention deleted them"),
            (summary.unreadable, "stored and unreadable"),
            (summary.dead_lettered, "dead-lettered"),
            (summary.waiting, "on their way"),
            (summary.timestamp_unjudged, "with a time that may be of a copy before the range"),
            (summary.before_the_range, "deleted by retention before the range"),
            (summary.not_committed, "not committed yet, not looked at"),
        ] {
            if count > 0 {
                output.note(format!("{count} {what}"))?;
            }
        }
        for note in &summary.notes {
            output.note(note)?;
        }
        let fine = if summary.verdict() == Verdict::Fine { ", nothing wrong" } else { "" };
        output.note(format!("{} checked{fine}", summary.checked))?;
        Ok(summary.verdict())
    }
}

fn sentence(finding: &Finding) -> String {
    match finding {
        Finding::Missing => "missing".into(),
        Finding::Duplicated { copies } => format!("stored {copies} times"),
        Finding::Altered { fields } => format!("altered: {}", fields.join(", ")),
        Finding::Undecodable { problem } => format!("no message, and dead-lettered nowhere: {problem}"),
        Finding::DeadLettered { place } => format!("dead-lettered: in the {place}"),
        Finding::Waiting { place } => format!("on its way: in the {place}"),
        Finding::TimestampUnjudged => "stored with the time of a copy that may have come before the range".into(),
        Finding::Unreadable { field, .. } => format!("stored, and cannot be read: {field}"),
    }
}
