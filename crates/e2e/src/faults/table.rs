//! The table of the cases' outcomes.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::ledger::Verdict;
use crate::ledger::judge::Fault;

/// The most memory that one of our processes may hold.
pub const MEMORY_LIMIT: u64 = 256 << 20;

/// A case's outcome.
#[derive(Debug, Clone)]
pub struct Row {
    /// The case's name.
    pub case: String,
    /// The verdict.
    pub verdict: Verdict,
    /// From the end of the fault until everything that had waited was stored.
    pub healing: Duration,
    /// The most memory that each of our processes held, in bytes.
    pub peak_memory: BTreeMap<String, u64>,
}

const COLUMNS: [&str; 6] = ["sent", "kafka", "queue", "refused", "unknown", "refetched"];

/// The breaches that a table has a column for; the others are added up in the last one.
const FAULTS: [Fault; 6] =
    [Fault::Lost, Fault::Duplicated, Fault::Mutated, Fault::Swapped, Fault::Unseen, Fault::Unanswered];

impl Row {
    /// The table's first two lines.
    pub fn header() -> String {
        let named = COLUMNS.iter().copied().chain(FAULTS.iter().map(|fault| fault.name()));
        let names: Vec<_> = ["case"].into_iter().chain(named).chain(["other", "healed, s", "peak, MiB"]).collect();
        format!("| {} |\n|{}", names.join(" | "), " --- |".repeat(names.len()))
    }

    /// The table's line of this outcome.
    pub fn line(&self) -> String {
        let verdict = &self.verdict;
        let accepted = |way: &str| verdict.accepted.get(way).copied().unwrap_or_default();
        let named: usize = FAULTS.iter().map(|fault| verdict.count(*fault)).sum();
        let numbers = [
            verdict.sent,
            accepted("kafka"),
            accepted("failed-queue"),
            verdict.refused,
            verdict.unknown,
            verdict.refetched,
        ]
        .into_iter()
        .chain(FAULTS.iter().map(|fault| verdict.count(*fault)))
        .chain([verdict.findings.len() - named]);
        let numbers: Vec<_> = numbers.map(|number| number.to_string()).collect();
        let peak = self.peak_memory.values().max().copied().unwrap_or_default() >> 20;
        format!("| {} | {} | {:.1} | {peak} |", self.case, numbers.join(" | "), self.healing.as_secs_f64())
    }

    /// Whether nothing was broken and no process held more than [`MEMORY_LIMIT`].
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.peak_memory.values().all(|peak| *peak <= MEMORY_LIMIT)
    }

    /// What was wrong, in as many lines as that takes.
    pub fn complaint(&self) -> String {
        let mut text = format!("{}: {}", self.case, self.verdict);
        for (process, peak) in self.peak_memory.iter().filter(|(_, peak)| **peak > MEMORY_LIMIT) {
            text.push_str(&format!("  {process} held {} MiB\n", peak >> 20));
        }
        text
    }
}
