//! What a measurement gives: figures by name, in the order in which they are shown.

use std::collections::BTreeMap;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::load::{Phase, Quantiles, quantiles};
use crate::stored::Stored;

/// CPU time below which a process is left out, in microseconds.
const NOTHING: f64 = 0.05;

/// A figure; its unit is part of its name.
#[derive(Debug, Clone, Serialize)]
pub struct Value {
    /// What it is.
    pub name: String,
    /// How much.
    pub value: f64,
}

/// The figures of one measurement.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Values {
    /// In order.
    pub list: Vec<Value>,
}

impl Values {
    /// Adds a figure.
    pub fn add(&mut self, name: impl Into<String>, value: f64) {
        self.list.push(Value { name: name.into(), value });
    }

    /// A figure by its name.
    pub fn get(&self, name: &str) -> Option<f64> {
        self.list.iter().find(|value| value.name == name).map(|value| value.value)
    }

    /// Adds latencies.
    pub fn latencies(&mut self, of: &str, quantiles: &Quantiles) {
        for (name, value) in quantiles.named() {
            self.add(format!("{of} {name}, ms"), value);
        }
    }

    /// Adds latencies in microseconds.
    pub fn histogram(&mut self, of: &str, histogram: &Histogram<u64>) {
        self.latencies(of, &quantiles(histogram));
    }

    /// Adds the result of a load.
    pub fn phase(&mut self, phase: &Phase) {
        self.add("messages/s", phase.rate);
        self.latencies("answer", &phase.answer);
        if phase.undelivered < phase.messages {
            self.latencies("delivery", &phase.delivery);
        }
        self.add("refused or unanswered", phase.errors.values().sum::<u64>() as f64);
        self.add("not delivered", phase.undelivered as f64);
    }

    /// Adds what processes spent for `count` of something.
    pub fn spent(&mut self, spent: &BTreeMap<String, Duration>, count: u64, each: &str) {
        let micros = |time: Duration| time.as_secs_f64() * 1e6 / count.max(1) as f64;
        let mut sum = Duration::ZERO;
        for (name, time) in spent {
            if name != "client" {
                sum += *time;
            }
            if micros(*time) >= NOTHING {
                self.add(format!("CPU {name}, µs {each}"), micros(*time));
            }
        }
        self.add(format!("CPU all but the client, µs {each}"), micros(sum));
    }

    /// Adds how long storing went on after `what`; a load that was not stored in time counts as one that took for ever.
    pub fn drained(&mut self, what: &str, drained: Option<Duration>) {
        self.add(format!("all stored after {what}, s"), drained.map_or(f64::INFINITY, |drained| drained.as_secs_f64()));
    }

    /// Adds what became of what was acknowledged.
    pub fn stored(&mut self, stored: &Stored) {
        self.add("acknowledged but lost", stored.lost as f64);
        self.add("stored twice", stored.duplicated as f64);
    }
}
