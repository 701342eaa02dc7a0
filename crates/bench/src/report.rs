//! The numbers of a run, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use crate::load::Phase;
use crate::stored::Stored;

/// One way of loading, on the gateway and on the echo server.
#[derive(Debug, Serialize)]
pub struct Scenario {
    /// The scenario's name.
    pub name: String,
    /// The gateway's numbers.
    pub gateway: Measured,
    /// The echo server's numbers; absent if it was left out.
    pub echo: Option<Measured>,
}

/// One phase of load and its cost.
#[derive(Debug, Serialize)]
pub struct Measured {
    /// The result of the load.
    #[serde(flatten)]
    pub phase: Phase,
    /// CPU time by process in microseconds a message: the load's, and for all but the client the storing's that followed.
    pub cpu_micros: BTreeMap<String, f64>,
    /// What MongoDB held after it, of this and earlier phases.
    pub stored: Option<Stored>,
}

/// The numbers of a whole run.
#[derive(Debug, Serialize)]
pub struct Report {
    /// How many processors all of it shared.
    pub processors: usize,
    /// The machine's load average over a minute just before: what else was running.
    pub load_before: f64,
    /// In the order in which they were run.
    pub scenarios: Vec<Scenario>,
    /// The most memory that each process held, in MiB.
    pub peak_memory_mib: BTreeMap<String, f64>,
}

impl Report {
    /// Whether every acknowledged message was stored exactly once, and in time.
    pub fn is_exactly_once(&self) -> bool {
        let stored = self.scenarios.iter().filter_map(|scenario| scenario.gateway.stored.as_ref());
        stored.into_iter().all(|stored| stored.lost == 0 && stored.duplicated == 0 && stored.drained_seconds.is_some())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} processors, load average before {:.1}\n", self.processors, self.load_before)?;
        for scenario in &self.scenarios {
            scenario.fmt(f)?;
        }
        write!(f, "peak memory, MiB:")?;
        list(f, &self.peak_memory_mib, |f, mib| write!(f, "{mib:.0}"))
    }
}

impl fmt::Display for Scenario {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (gateway, echo) = (&self.gateway, self.echo.as_ref());
        writeln!(
            f,
            "{:<44}{:>12}{:>12}{:>10}",
            self.name,
            "gateway",
            echo.map_or("", |_| "echo"),
            echo.map_or("", |_| "ratio")
        )?;
        let mut row = |name: &str, ours: f64, theirs: Option<f64>| {
            write!(f, "  {name:<42}{ours:>12.2}")?;
            match theirs {
                Some(theirs) => writeln!(f, "{theirs:>12.2}{:>10.2}", ours / theirs),
                None => writeln!(f),
            }
        };
        row("messages/s", gateway.phase.rate, echo.map(|echo| echo.phase.rate))?;
        let answer = |measured: &Measured| measured.phase.answer.named();
        for (index, (name, ours)) in answer(gateway).into_iter().enumerate() {
            row(&format!("answer {name}, ms"), ours, echo.map(|echo| answer(echo)[index].1))?;
        }
        for (name, ours) in gateway.phase.delivery.named() {
            if gateway.phase.undelivered < gateway.phase.messages {
                row(&format!("delivery {name}, ms"), ours, None)?;
            }
        }
        let cpu = |measured: &Measured, name: &str| measured.cpu_micros.get(name).copied();
        for (name, micros) in &gateway.cpu_micros {
            let theirs = match name.as_str() {
                "gateway" => echo.and_then(|echo| cpu(echo, "echo")),
                name => echo.and_then(|echo| cpu(echo, name)),
            };
            row(&format!("{name} CPU, µs a message"), *micros, theirs)?;
        }
        let phase = &gateway.phase;
        writeln!(
            f,
            "  answered {}, undelivered {}, redelivered {}, delivered without seq {}",
            phase.messages, phase.undelivered, phase.redelivered, phase.without_seq
        )?;
        write!(f, "  durability:")?;
        list(f, &phase.durability, |f, count| write!(f, "{count}"))?;
        if !phase.errors.is_empty() {
            write!(f, "  errors:")?;
            list(f, &phase.errors, |f, count| write!(f, "{count}"))?;
        }
        if let Some(stored) = &gateway.stored {
            match stored.drained_seconds {
                Some(seconds) => write!(f, "  all stored {seconds:.2} s after the last answer")?,
                None => write!(f, "  not all stored in time")?,
            }
            writeln!(
                f,
                "; acknowledged so far {}, lost {}, duplicated {}, stored without a positive answer {}",
                stored.acknowledged, stored.lost, stored.duplicated, stored.beyond
            )?;
        }
        writeln!(f)
    }
}

fn list<T>(
    f: &mut fmt::Formatter<'_>,
    values: &BTreeMap<String, T>,
    show: impl Fn(&mut fmt::Formatter<'_>, &T) -> fmt::Result,
) -> fmt::Result {
    for (index, (name, value)) in values.iter().enumerate() {
        write!(f, "{} {name} ", if index == 0 { "" } else { "," })?;
        show(f, value)?;
    }
    writeln!(f)
}
