//! The figures of a run: medians and spread, as tables and as JSON.

mod plot;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::machine::{MOST_FOREIGN, Machine, Speed};
use crate::options::Options;
use crate::subject::{Subject, Workload};
use crate::values::Values;

/// Where the generated section of a document begins and ends.
const BEGIN: &str = "<!-- scripts/bench writes what follows -->";
const END: &str = "<!-- scripts/bench wrote this -->";

/// The picture beside a document.
const PICTURE: &str = "performance-open-loop.svg";

/// One subject under one workload, once.
#[derive(Debug, Serialize)]
pub struct Measurement {
    /// The load.
    pub workload: Workload,
    /// What was loaded.
    pub subject: Subject,
    /// In which round, from 0.
    pub round: usize,
    /// How fast the machine was just before.
    pub speed: Speed,
    /// The part of all processors' time that others took meanwhile, in percent.
    pub foreign: f64,
    /// The figures.
    pub values: Values,
}

/// A whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// What it ran on.
    pub machine: Machine,
    /// The revision that was measured.
    pub revision: String,
    /// The command line after the program's name.
    pub command: String,
    /// What was measured.
    pub options: Options,
    /// What could not be measured, and why.
    pub failures: Vec<String>,
    /// The medians of all rounds.
    pub medians: Vec<Summary>,
    /// What is slower, or takes more, than in the build before.
    pub slower: Vec<String>,
    /// Everything.
    pub measurements: Vec<Measurement>,
}

/// One figure of one subject over all rounds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// The load.
    pub workload: Workload,
    /// Its name.
    pub name: String,
    /// What was loaded.
    pub subject: Subject,
    /// The median of the rounds.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The most.
    pub max: f64,
    /// Each round's.
    #[serde(skip)]
    rounds: BTreeMap<usize, f64>,
}

impl Summary {
    fn spread(&self) -> Spread {
        Spread { median: self.median, min: self.min, max: self.max }
    }

    /// How many times this the other's figure is, round by round: what a round's machine was like meets both.
    fn times(&self, other: &Self) -> Option<Spread> {
        let pairs = self.rounds.iter().filter_map(|(round, ours)| Some(ours / other.rounds.get(round)?));
        spread(pairs.filter(|ratio| ratio.is_finite()).collect())
    }
}

/// A figure over the rounds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Spread {
    median: f64,
    min: f64,
    max: f64,
}

fn spread(mut values: Vec<f64>) -> Option<Spread> {
    values.sort_by(f64::total_cmp);
    let (min, max) = (*values.first()?, *values.last()?);
    let middle = values.len() / 2;
    let even = values.len().is_multiple_of(2);
    Some(Spread { median: if even { (values[middle - 1] + values[middle]) / 2.0 } else { values[middle] }, min, max })
}

/// How many times as much, or as slow, counts as a difference.
const DIFFERENCE: f64 = 1.03;

/// The figures of Holdfast that are worse than those of the build before.
fn slower(summaries: &[Summary]) -> Vec<String> {
    let of = |subject| summaries.iter().filter(move |one| one.subject == subject);
    let worse = |ours: &Summary| {
        let before = of(Subject::Before).find(|one| (one.workload, &one.name) == (ours.workload, &ours.name))?;
        let times = ours.times(before)?;
        let is_worse = match better(&ours.name)? {
            Better::More => times.median < 1.0 / DIFFERENCE,
            Better::Less => times.median > DIFFERENCE,
        };
        is_worse.then(|| format!("{}: {}: {} times", ours.workload.title(), ours.name, cell(times)))
    };
    of(Subject::Holdfast).filter_map(worse).collect()
}

/// Which way a figure gets better.
enum Better {
    More,
    Less,
}

/// By its unit; counts, maxima, and what waits for the next flush compare nothing.
fn better(name: &str) -> Option<Better> {
    let is_cost = [", ms", ", s", ", MiB"].iter().any(|unit| name.ends_with(unit))
        || [", µs ", ", bytes "].iter().any(|unit| name.contains(unit));
    if name.contains(" max,") || name.starts_with("all stored") {
        None
    } else if name.ends_with("/s") {
        Some(Better::More)
    } else {
        is_cost.then_some(Better::Less)
    }
}

impl Report {
    /// Puts a report together.
    pub fn new(machine: Machine, options: Options, measurements: Vec<Measurement>, failures: Vec<String>) -> Self {
        let git = Command::new("git")
            .args(["describe", "--always", "--dirty"])
            .current_dir(env!("CARGO_MANIFEST_DIR"))
            .output();
        let revision = git.ok().filter(|output| output.status.success());
        let revision = revision.map_or_else(
            || "an unknown revision".to_owned(),
            |output| String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        );
        let command = std::env::args().skip(2).collect::<Vec<_>>().join(" ");
        let medians = summaries(&measurements);
        let slower = slower(&medians);
        Self { machine, revision, command, options, failures, medians, slower, measurements }
    }

    /// Whether everything was measured, and nothing that Holdfast acknowledged was lost or stored twice.
    ///
    /// # Errors
    /// It names what was not.
    pub fn verdict(&self) -> Result<()> {
        if let Some(failure) = self.failures.first() {
            bail!("{} measurements failed; the first: {failure}", self.failures.len());
        }
        let promise = ["acknowledged but lost", "stored twice"];
        for one in self.medians.iter().filter(|one| one.subject == Subject::Holdfast) {
            let broken = promise.contains(&one.name.as_str()) && one.max > 0.0;
            // Time without end: not all was stored.
            if broken || one.max.is_infinite() {
                bail!("{}: {}: {}", one.workload.title(), one.name, one.max);
            }
        }
        Ok(())
    }

    /// All tables with what they were measured on.
    pub fn markdown(&self) -> String {
        let mut text = self.heading();
        for workload in Workload::ALL {
            let of_it: Vec<&Summary> = self.medians.iter().filter(|one| one.workload == workload).collect();
            if !of_it.is_empty() {
                // Writing to a String can't fail.
                let _ = write!(text, "\n### {}\n\n{}", workload.title(), table(&of_it));
            }
        }
        if self.medians.iter().any(|one| one.subject == Subject::Before) {
            let percent = (DIFFERENCE - 1.0) * 100.0;
            let _ = write!(text, "\nWorse than before by more than {percent:.0} % in the median of the rounds:\n\n");
            for one in &self.slower {
                let _ = writeln!(text, "- {one}");
            }
            if self.slower.is_empty() {
                text.push_str("- nothing\n");
            }
        }
        for failure in &self.failures {
            let _ = write!(text, "\nNot measured: {}\n", failure.lines().next().unwrap_or_default());
        }
        text
    }

    fn heading(&self) -> String {
        let machine = &self.machine;
        let foreign = range(self.measurements.iter().map(|one| one.foreign));
        let busy = machine.foreign_before > MOST_FOREIGN || foreign.1 > MOST_FOREIGN;
        let steps = range(self.measurements.iter().map(|one| one.speed.steps));
        let trips = range(self.measurements.iter().map(|one| one.speed.round_trips));
        let versions: Vec<_> = machine.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let warning = "**Taken on a busy machine: ratios may be plausible, figures are not.** ";
        format!(
            "{}`scripts/bench {}` of {}, profile `{}`, {} round(s); medians, and from the least to the most of the rounds.\n\n\
             {} x {}, {} MiB, Linux {}. Versions: {}.\n\n\
             Others used {:.0} % of the processors before the run, and {:.0} to {:.0} % during its measurements. Calibration beside \
             each: {} to {} steps of arithmetic a µs, {} to {} loopback round trips a ms.\n",
            if busy { warning } else { "" },
            self.command,
            self.revision,
            self.options.profile,
            self.options.rounds,
            machine.processors,
            machine.processor,
            machine.memory_mib,
            machine.kernel,
            versions.join("; "),
            machine.foreign_before,
            foreign.0,
            foreign.1,
            figure(steps.0),
            figure(steps.1),
            figure(trips.0),
            figure(trips.1),
        )
    }

    /// Writes the tables between the marks of a document, and the open loop's picture beside it.
    ///
    /// # Errors
    /// The document can't be read or written, or has no marks.
    pub fn write_into(&self, path: &Path) -> Result<()> {
        let text = std::fs::read_to_string(path).with_context(|| format!("can't read {}", path.display()))?;
        let mut section = self.markdown();
        if let Some(picture) = plot::latencies(&self.medians) {
            let file = path.with_file_name(PICTURE);
            std::fs::write(&file, picture).with_context(|| format!("can't write {}", file.display()))?;
            let _ = write!(section, "\n![The open loop: latency over rate]({PICTURE})\n");
        }
        let text = replaced(&text, &section).with_context(|| format!("{} has no marks", path.display()))?;
        std::fs::write(path, text).with_context(|| format!("can't write {}", path.display()))
    }
}

/// The document with another generated section.
fn replaced(text: &str, section: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n\n{section}\n{END}{after}"))
}

/// The figures over all rounds, in the order in which they first come.
fn summaries(measurements: &[Measurement]) -> Vec<Summary> {
    let mut all: Vec<(Workload, &str, Subject, BTreeMap<usize, f64>)> = Vec::new();
    let mut sorted: Vec<&Measurement> = measurements.iter().collect();
    sorted.sort_by_key(|one| (one.workload, one.subject, one.round));
    for one in sorted {
        for value in &one.values.list {
            let known = all.iter_mut().find(|(workload, name, subject, _)| {
                (*workload, *name, *subject) == (one.workload, &*value.name, one.subject)
            });
            match known {
                Some((.., rounds)) => {
                    rounds.insert(one.round, value.value);
                }
                None => all.push((one.workload, &value.name, one.subject, [(one.round, value.value)].into())),
            }
        }
    }
    let summary = |(workload, name, subject, rounds): (Workload, &str, Subject, BTreeMap<usize, f64>)| {
        let Spread { median, min, max } = spread(rounds.values().copied().collect())?;
        Some(Summary { workload, name: name.to_owned(), subject, median, min, max, rounds })
    };
    all.into_iter().filter_map(summary).collect()
}

/// A workload's figures, a column a subject; the last columns say how many times another's figure Holdfast's is.
fn table(summaries: &[&Summary]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for one in summaries {
        if !names.contains(&&*one.name) {
            names.push(&one.name);
        }
    }
    let has = |subject| summaries.iter().any(|one| one.subject == subject);
    let subjects: Vec<Subject> = Subject::ALL.into_iter().filter(|subject| has(*subject)).collect();
    let compared = [Subject::Before, Subject::Twin].into_iter();
    let compared: Vec<Subject> = compared.filter(|subject| has(Subject::Holdfast) && has(*subject)).collect();
    let mut rows = vec![vec![String::new()]];
    rows[0].extend(subjects.iter().map(ToString::to_string));
    rows[0].extend(compared.iter().map(|subject| format!("Holdfast / {subject}")));
    for name in names {
        let find = |subject| summaries.iter().find(|one| one.subject == subject && one.name == name);
        let figures = subjects.iter().map(|subject| find(*subject).map(|one| one.spread()));
        let ratios = compared.iter().map(|subject| find(Subject::Holdfast)?.times(find(*subject)?));
        let mut row = vec![name.to_owned()];
        row.extend(figures.chain(ratios).map(|figure| figure.map_or(String::new(), cell)));
        rows.push(row);
    }
    aligned(&rows)
}

/// Rows as a Markdown table that reads well as text.
fn aligned(rows: &[Vec<String>]) -> String {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths: Vec<usize> = (0..rows[0].len()).map(width).collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (column, cell) in row.iter().enumerate() {
            let width = widths[column];
            // Writing to a String can't fail.
            let _ = if column == 0 { write!(text, "| {cell:<width$} ") } else { write!(text, "| {cell:>width$} ") };
        }
        text.push_str("|\n");
        if number == 0 {
            for (column, width) in widths.iter().enumerate() {
                let line = "-".repeat(*width);
                text.push_str(&if column == 0 { format!("| {line} ") } else { format!("| {line}:") });
            }
            text.push_str("|\n");
        }
    }
    text
}

fn cell(one: Spread) -> String {
    if one.min == one.max {
        return figure(one.median);
    }
    format!("{} ({} – {})", figure(one.median), figure(one.min), figure(one.max))
}

/// A number with as many digits as say something.
fn figure(value: f64) -> String {
    match value.abs() {
        infinite if infinite.is_infinite() => "never".to_owned(),
        large if large >= 1000.0 => grouped(value.round()),
        _ if value.fract() == 0.0 => format!("{value:.0}"),
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn grouped(value: f64) -> String {
    let digits = format!("{:.0}", value.abs());
    let mut text = String::from(if value < 0.0 { "-" } else { "" });
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn range(values: impl Iterator<Item = f64> + Clone) -> (f64, f64) {
    (values.clone().fold(f64::INFINITY, f64::min), values.fold(f64::NEG_INFINITY, f64::max))
}

#[cfg(test)]
mod tests;
