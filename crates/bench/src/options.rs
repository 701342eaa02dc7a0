//! What a run measures, and how long.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde::Serialize;

use crate::subject::{Subject, Workload};

/// The options of a run.
#[derive(Debug, Clone, Args, Serialize)]
pub struct Options {
    /// Only these workloads; may be given again, or separated by commas.
    #[arg(long = "workload", value_enum, value_delimiter = ',')]
    pub workloads: Vec<Workload>,
    /// Only these subjects; may be given again, or separated by commas.
    #[arg(long = "subject", value_enum, value_delimiter = ',')]
    pub subjects: Vec<Subject>,
    /// How often everything is measured; the subjects take turns.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How many seconds a loop lasts, and a step of the open loop half of it.
    #[arg(long, default_value_t = 10.0)]
    pub seconds: f64,
    /// How many seconds of a loop come first and do not count.
    #[arg(long, default_value_t = 3.0)]
    pub warm_up: f64,
    /// How many sockets send; they are friends two by two.
    #[arg(long, default_value_t = 200)]
    pub sockets: usize,
    /// How many sends each socket keeps unanswered in the closed loop.
    #[arg(long, default_value_t = 8)]
    pub in_flight: usize,
    /// How many idle sockets.
    #[arg(long, default_value_t = 2000)]
    pub idle: usize,
    /// How many messages the worker drains.
    #[arg(long, default_value_t = 300_000)]
    pub messages: usize,
    /// How many members the group has.
    #[arg(long, default_value_t = 1000)]
    pub members: usize,
    /// How many messages are replayed from the failed queue.
    #[arg(long, default_value_t = 10_000)]
    pub replayed: usize,
    /// How many seconds storing may take after the last answer.
    #[arg(long, default_value_t = 180.0)]
    pub drain_limit: f64,
    /// The folder of the Holdfast that is measured, `holdfast-gateway` and `holdfast-worker`. By default that of this program.
    #[arg(long)]
    pub ours: Option<PathBuf>,
    /// The folder of another build of Holdfast, which is measured too and compared with.
    #[arg(long)]
    pub before: Option<PathBuf>,
    /// A small run, to see that everything works: one round, short loops, small numbers. Its figures say little.
    #[arg(long)]
    pub quick: bool,
    /// Measures although the machine is busy with something else; the report says so.
    #[arg(long)]
    pub force: bool,
    /// Writes all figures to this file, as JSON.
    #[arg(long)]
    pub json: Option<PathBuf>,
    /// Writes the tables into the generated section of this file.
    #[arg(long)]
    pub docs: Option<PathBuf>,
    /// Names the builds in the report.
    #[arg(long, env = "HOLDFAST_BENCH_PROFILE", default_value = "release")]
    pub profile: String,
}

impl Options {
    /// With what `--quick` makes smaller, and everything that is chosen by default.
    ///
    /// # Errors
    /// A folder lacks a program, or nothing is left to measure.
    pub fn completed(mut self) -> Result<Self> {
        if self.quick {
            self.rounds = 1;
            self.seconds = self.seconds.min(3.0);
            self.warm_up = self.warm_up.min(1.0);
            self.sockets = self.sockets.min(50);
            self.idle = self.idle.min(300);
            self.messages = self.messages.min(30_000);
            self.members = self.members.min(100);
            self.replayed = self.replayed.min(1000);
        }
        if self.workloads.is_empty() {
            self.workloads = Workload::ALL.to_vec();
        }
        if self.subjects.is_empty() {
            self.subjects = Subject::ALL.to_vec();
        }
        if self.before.is_none() {
            self.subjects.retain(|subject| *subject != Subject::Before);
        }
        if self.ours.is_none() {
            let this = std::env::current_exe().context("can't find the path of this executable")?;
            self.ours = this.parent().map(Path::to_owned);
        }
        for folder in self.ours.iter().chain(&self.before) {
            for program in ["holdfast-gateway", "holdfast-worker"].map(|name| folder.join(name)) {
                ensure!(program.exists(), "{} does not exist", program.display());
            }
        }
        let measured = |workload: &Workload| workload.subjects().iter().any(|subject| self.subjects.contains(subject));
        ensure!(self.workloads.iter().any(measured), "none of these workloads has any of these subjects");
        Ok(self)
    }
}
