//! A part of the messages' topic against MongoDB.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use holdfast_kafka::RecordView;
use holdfast_message::{Message, MessageId, record};
use holdfast_service::clock::unix_ms;
use holdfast_store::UnreadableDocument;

use super::elsewhere::Elsewhere;
use super::judge::{Judged, Suspect, judge};
use super::{BATCH, Finding, Findings, Sources};
use crate::args::VerifyArgs;
use crate::exit::{Usage, Verdict};
use crate::log_range::{LogRange, PartitionOffset, Span};
use crate::output::{Output, Progress};

/// Messages whose time is doubtful; with more, the range is read once more before it goes on.
const MAX_SUSPECTS: usize = 100_000;

/// Stored documents that cannot be read, as many as are named.
const MAX_UNREADABLE: usize = 10_000;
/// The search for them walks an index of all messages.
const LOOK_THROUGH: Duration = Duration::from_secs(3600);

/// What is read, and what can't be.
#[derive(Debug, Default)]
struct Plan {
    spans: Vec<Span>,
    unverifiable: u64,
    before_the_range: u64,
    not_committed: u64,
    notes: Vec<String>,
}

/// The copies of one message in the topic, and the position of each.
type Copies = Vec<(Message, PartitionOffset)>;

/// A batch of records: the decoded messages with their positions, and the records that can't be decoded.
#[derive(Default)]
struct Batch {
    messages: HashMap<MessageId, Copies>,
    undecodable: Vec<(PartitionOffset, String)>,
    records: usize,
    gaps: Vec<Span>,
}

/// Verifies the part that the arguments name: unless they say otherwise, everything that is still in the topic and committed.
pub async fn run(sources: &Sources, args: &VerifyArgs, output: &mut Output<'_>) -> Result<Verdict> {
    let plan = plan(sources, args).await?;
    let all = plan.spans.iter().map(Span::len).sum();
    let mut findings = Findings::new(output);
    let mut suspects = HashMap::new();
    let mut elsewhere = None;
    let mut records = LogRange::read(&sources.kafka, &sources.admin, &sources.kafka.topic, &plan.spans);
    let mut progress = Progress::new("verified", all);
    let mut next = plan.spans.iter().map(|span| (span.partition, span.from)).collect();
    let mut deleted = 0;
    loop {
        let batch = next_batch(&mut records, &mut next).await?;
        deleted += deleted_in(sources, &batch.gaps).await?;
        if batch.records == 0 {
            break;
        }
        findings.summary.checked += batch.records as u64;
        let missed = compare(sources, &batch, &mut findings, &mut suspects).await?;
        if !missed.is_empty() || !batch.undecodable.is_empty() {
            let elsewhere = match &mut elsewhere {
                Some(known) => known,
                unknown => unknown.insert(Elsewhere::of_the_dead(sources).await?),
            };
            for (id, positions) in missed {
                let finding = elsewhere.finding(Some(id), &positions).unwrap_or(Finding::Missing);
                findings.name(Some(id), positions.first().copied(), &finding)?;
            }
            for (position, problem) in batch.undecodable {
                let found = elsewhere.finding(None, &[position]);
                findings.name(None, Some(position), &found.unwrap_or(Finding::Undecodable { problem }))?;
            }
        }
        progress.add(batch.records as u64);
        if suspects.len() >= MAX_SUSPECTS {
            settle(sources, &plan.spans, &mut suspects, &mut findings).await?;
        }
    }
    drop(progress);
    settle(sources, &plan.spans, &mut suspects, &mut findings).await?;
    if *args == VerifyArgs::default() {
        name_unreadable(sources, &mut findings).await?;
    }
    // What was planned, lies behind the last record and did not come.
    let last = |span: &Span| Span { from: next.get(&span.partition).copied().unwrap_or(span.to), ..*span };
    let last: Vec<_> = plan.spans.iter().map(last).filter(|span| !span.is_empty()).collect();
    deleted += deleted_in(sources, &last).await?;
    let summary = &mut findings.summary;
    summary.unverifiable = plan.unverifiable + deleted;
    summary.before_the_range = plan.before_the_range;
    summary.not_committed = plan.not_committed;
    summary.notes.extend(plan.notes);
    findings.end()
}

/// Names the stored documents that cannot be read, whether or not the topic knows of them.
async fn name_unreadable(sources: &Sources, findings: &mut Findings<'_, '_>) -> Result<()> {
    let found = sources.store.find_unreadable(MAX_UNREADABLE, LOOK_THROUGH).await;
    let found = found.context("looking for stored documents that cannot be read")?;
    if found.len() == MAX_UNREADABLE {
        findings
            .summary
            .notes
            .push(format!("more than {MAX_UNREADABLE} documents cannot be read; the rest is not named"));
    }
    for UnreadableDocument { id, field } in found {
        findings.name(MessageId::parse(&id), None, &Finding::Unreadable { document: id, field })?;
    }
    Ok(())
}

async fn plan(sources: &Sources, args: &VerifyArgs) -> Result<Plan> {
    let Sources { admin, kafka, group, .. } = sources;
    let topic = &kafka.topic;
    let report = admin.describe(topic).await?;
    ensure!(report.partitions > 0, "topic {topic} is missing");
    let kept_since = |since: Option<i64>| {
        let limits = [report.retention_ms.filter(|ms| *ms >= 0), sources.kept_for_ms];
        let bounded_in_bytes = report.retention_bytes.is_some_and(|bytes| bytes >= 0);
        let horizon = limits.into_iter().flatten().min().map_or(0, |ms| unix_ms() - ms);
        !bounded_in_bytes && report.retention_ms.is_some() && since.is_some_and(|since| since > horizon)
    };
    // Before the watermarks: what is committed lies below what is there.
    let committed = admin.committed(group, topic).await?;
    let since = match args.since {
        Some(since) => Some(admin.offsets_at(topic, since).await?),
        None => None,
    };
    let of = |offsets: &[(i32, Option<i64>)], partition| {
        offsets.iter().find(|(of, _)| *of == partition).and_then(|(_, offset)| *offset)
    };
    let mut plan = Plan::default();
    let mut known = false;
    for (partition, low, high) in admin.watermarks(topic).await? {
        if args.partition.is_some_and(|only| only != partition) {
            continue;
        }
        known = true;
        let done = of(&committed, partition).unwrap_or(0);
        let asked_to = args.to.unwrap_or(high);
        let to = asked_to.min(done);
        plan.not_committed += (asked_to - done.max(low)).max(0).unsigned_abs();
        let (from, gone) = match (args.from, &since) {
            (Some(from), _) => (from, low.min(to) - from),
            (None, Some(since)) => {
                let from = of(since, partition).unwrap_or(high);
                if from == low && low > 0 && !kept_since(args.since) {
                    plan.notes.push(format!(
                        "partition {partition}: records of that time below offset {low} may have been deleted; they are unverifiable"
                    ));
                }
                (from, 0)
            }
            (None, None) => {
                plan.before_the_range += low.min(done).unsigned_abs();
                (low, 0)
            }
        };
        // Deleted before they were committed: whenever they were made, nothing has stored them.
        let lost = low.min(asked_to) - done.max(args.from.unwrap_or(0));
        plan.unverifiable += gone.max(0).unsigned_abs() + lost.max(0).unsigned_abs();
        plan.spans.push(Span { partition, from: from.max(low), to });
    }
    if !known {
        return Err(Usage(format!("topic {topic} has no such partition")).into());
    }
    Ok(plan)
}

/// How many of these offsets were deleted while the range was read: the others are no records, but the ends of transactions or what an
/// aborted one left.
async fn deleted_in(sources: &Sources, gaps: &[Span]) -> Result<u64> {
    if gaps.is_empty() {
        return Ok(0);
    }
    let lows: HashMap<_, _> = sources
        .admin
        .watermarks(&sources.kafka.topic)
        .await?
        .into_iter()
        .map(|(partition, low, _)| (partition, low))
        .collect();
    // A partition that is gone has nothing left.
    let low = |gap: &Span| lows.get(&gap.partition).copied().unwrap_or(i64::MAX);
    Ok(gaps.iter().map(|gap| Span { to: gap.to.min(low(gap)), ..*gap }.len()).sum())
}

/// `next`: the offset that is expected next, by partition.
async fn next_batch(records: &mut LogRange, next: &mut HashMap<i32, i64>) -> Result<Batch> {
    let mut batch = Batch::default();
    while batch.records < BATCH
        && let Some(found) = records.next().await?
    {
        batch.records += 1;
        let position = (found.partition(), found.offset());
        if let Some(expected) = next.insert(position.0, position.1 + 1).filter(|expected| *expected < position.1) {
            batch.gaps.push(Span { partition: position.0, from: expected, to: position.1 });
        }
        match record::decode(found.payload().unwrap_or_default()) {
            Ok(message) => batch.messages.entry(message.id).or_default().push((message, position)),
            Err(error) => batch.undecodable.push((position, error.to_string())),
        }
    }
    Ok(batch)
}

/// Reports messages that are stored wrongly, and returns those that are not stored, with the positions of their records.
async fn compare(
    sources: &Sources,
    batch: &Batch,
    findings: &mut Findings<'_, '_>,
    suspects: &mut HashMap<MessageId, (Suspect, PartitionOffset)>,
) -> Result<Vec<(MessageId, Vec<PartitionOffset>)>> {
    let ids: Vec<_> = batch.messages.keys().copied().collect();
    let mut copies: HashMap<_, Vec<_>> = HashMap::new();
    let found = sources.store.copies(&ids).await.context("looking up messages")?;
    for copy in &found {
        copies.entry(copy.id).or_default().push(copy);
    }
    let mut missed = Vec::new();
    for (id, records) in &batch.messages {
        let messages: Vec<_> = records.iter().map(|(message, _)| message).collect();
        let position = records[0].1;
        match judge(&messages, copies.get(id).map(Vec::as_slice).unwrap_or_default())? {
            Judged::Fine => {}
            Judged::Found(Finding::Missing) => {
                missed.push((*id, records.iter().map(|(_, position)| *position).collect()))
            }
            Judged::Found(finding) => findings.name(Some(*id), Some(position), &finding)?,
            Judged::OtherTime(suspect) => {
                suspects.insert(*id, (suspect, position));
            }
        }
    }
    Ok(missed)
}

/// Reads the range once more for records with the stored times of doubtful messages; names those that have none.
async fn settle(
    sources: &Sources,
    spans: &[Span],
    suspects: &mut HashMap<MessageId, (Suspect, PartitionOffset)>,
    findings: &mut Findings<'_, '_>,
) -> Result<()> {
    if suspects.is_empty() {
        return Ok(());
    }
    let mut records = LogRange::read(&sources.kafka, &sources.admin, &sources.kafka.topic, spans);
    let mut progress = Progress::new("looking for first copies:", spans.iter().map(Span::len).sum());
    while let Some(found) = records.next().await? {
        progress.add(1);
        let Ok(message) = record::decode(found.payload().unwrap_or_default()) else { continue };
        let Some((suspect, _)) = suspects.get_mut(&message.id) else { continue };
        if suspect.stored == message.timestamp {
            suspects.remove(&message.id);
        } else {
            suspect.earliest = suspect.earliest.min(message.timestamp);
        }
    }
    drop(progress);
    for (id, (suspect, position)) in suspects.drain() {
        let from_the_beginning = spans.iter().any(|span| span.partition == position.0 && span.from == 0);
        findings.name(Some(id), Some(position), &suspect.finding(from_the_beginning))?;
    }
    Ok(())
}
