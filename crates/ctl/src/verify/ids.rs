//! A file of ids against MongoDB.

use std::path::Path;

use anyhow::{Context, Result};
use holdfast_message::MessageId;
use tokio::fs::File;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};

use super::elsewhere::Elsewhere;
use super::judge::wrong_in_itself;
use super::{BATCH, Finding, Findings, Sources};
use crate::exit::{Usage, Verdict};
use crate::output::{Output, Progress};

/// Verifies every id of the file: one a line; empty lines and those that begin with `#` are passed over.
pub async fn run(sources: &Sources, path: &Path, output: &mut Output<'_>) -> Result<Verdict> {
    let shown = path.display();
    let file = File::open(path).await.map_err(|error| Usage(format!("{shown}: {error}")))?;
    let mut lines = BufReader::new(file).lines();
    let mut number = 0;
    let mut findings = Findings::new(output);
    let mut elsewhere = None;
    let mut progress = Progress::new("verified", 0);
    loop {
        let ids = batch(&mut lines, &mut number).await.with_context(|| shown.to_string())?;
        if ids.is_empty() {
            break;
        }
        findings.summary.checked += ids.len() as u64;
        let absent = look_up(sources, &ids, &mut findings).await?;
        if !absent.is_empty() {
            let elsewhere = match &mut elsewhere {
                Some(known) => known,
                unknown => unknown.insert(Elsewhere::of_all(sources).await?),
            };
            let (lie_elsewhere, nowhere): (Vec<_>, Vec<_>) = absent
                .into_iter()
                .map(|id| (id, elsewhere.finding(Some(id), &[])))
                .partition(|(_, found)| found.is_some());
            for (id, finding) in &lie_elsewhere {
                if let Some(finding) = finding {
                    findings.name(Some(*id), None, finding)?;
                }
            }
            // What was on its way may have arrived meanwhile.
            let nowhere: Vec<_> = nowhere.into_iter().map(|(id, _)| id).collect();
            for id in look_up(sources, &nowhere, &mut findings).await? {
                findings.name(Some(id), None, &Finding::Missing)?;
            }
        }
        progress.add(ids.len() as u64);
    }
    drop(progress);
    findings.end()
}

/// Names those that are stored wrongly, and returns those that are not stored.
async fn look_up(sources: &Sources, ids: &[MessageId], findings: &mut Findings<'_, '_>) -> Result<Vec<MessageId>> {
    let copies = sources.store.copies(ids).await.context("looking up messages")?;
    let mut absent = Vec::new();
    for id in ids {
        let copies: Vec<_> = copies.iter().filter(|copy| copy.id == *id).collect();
        match copies[..] {
            [] => absent.push(*id),
            [copy] => {
                if let Some(field) = wrong_in_itself(copy) {
                    findings.name(Some(*id), None, &Finding::Altered { fields: vec![field] })?;
                }
            }
            _ => findings.name(Some(*id), None, &Finding::Duplicated { copies: copies.len() })?,
        }
    }
    Ok(absent)
}

async fn batch(lines: &mut Lines<BufReader<File>>, number: &mut u64) -> Result<Vec<MessageId>> {
    let mut ids = Vec::with_capacity(BATCH);
    while ids.len() < BATCH
        && let Some(line) = lines.next_line().await?
    {
        *number += 1;
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let id = MessageId::parse(line).ok_or_else(|| Usage(format!("line {number} is no message id")))?;
        ids.push(id);
    }
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}
