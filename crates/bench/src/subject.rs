//! What is measured: Holdfast, its twin, and the limits of what both are made of; and under which loads.

use std::fmt;

use clap::ValueEnum;
use serde::Serialize;

/// A subject, in the order of the tables' columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Subject {
    /// Holdfast.
    Holdfast,
    /// Another build of Holdfast, if `--before` names one.
    Before,
    /// The same design in Node.js.
    Twin,
    /// A bare socketioxide server that answers, and emits to sender and receiver.
    Echo,
    /// librdkafka alone.
    Rdkafka,
    /// Plain inserts by `_id`.
    Inserts,
    /// The recent list on Redis alone.
    RecentList,
}

impl Subject {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::Holdfast, Self::Before, Self::Twin, Self::Echo, Self::Rdkafka, Self::Inserts, Self::RecentList];
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Holdfast => "Holdfast",
            Self::Before => "before",
            Self::Twin => "Node twin",
            Self::Echo => "bare echo",
            Self::Rdkafka => "rdkafka",
            Self::Inserts => "raw inserts",
            Self::RecentList => "recent list",
        })
    }
}

/// A workload, in the order in which they are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// As fast as answers come; 100 bytes of content.
    #[value(name = "closed-100")]
    #[serde(rename = "closed-100")]
    Closed100,
    /// The same; 2,000 bytes.
    #[value(name = "closed-2k")]
    #[serde(rename = "closed-2k")]
    Closed2k,
    /// At rates from 100 a second until it falls behind.
    Open,
    /// Pages of history from the cache and from the store.
    History,
    /// Connected sockets that do nothing.
    Idle,
    /// A worker that catches up, beside raw inserts.
    Drain,
    /// Records to Kafka as fast as it takes them.
    Publish,
    /// Messages to recent lists as fast as Redis takes them.
    Script,
    /// A large group over two gateways.
    FanOut,
    /// Memory and storage under a steady load.
    Growth,
    /// Kafka is stopped in the middle of its work: it keeps its connections and answers nothing.
    OutageFrozen,
    /// Kafka is killed: its port refuses connections.
    OutageRefused,
    /// What the failed queue took is published once Kafka is back.
    Replay,
}

impl Workload {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::Closed100,
        Self::Closed2k,
        Self::Open,
        Self::History,
        Self::Idle,
        Self::Drain,
        Self::Publish,
        Self::Script,
        Self::FanOut,
        Self::Growth,
        Self::OutageFrozen,
        Self::OutageRefused,
        Self::Replay,
    ];

    /// What is compared in it.
    pub fn subjects(self) -> &'static [Subject] {
        match self {
            Self::Closed100 | Self::Closed2k | Self::Idle => {
                &[Subject::Holdfast, Subject::Before, Subject::Twin, Subject::Echo]
            }
            Self::Drain => &[Subject::Holdfast, Subject::Before, Subject::Twin, Subject::Inserts],
            Self::Publish => &[Subject::Rdkafka],
            Self::Script => &[Subject::RecentList],
            Self::Open
            | Self::History
            | Self::FanOut
            | Self::Replay
            | Self::Growth
            | Self::OutageFrozen
            | Self::OutageRefused => &[Subject::Holdfast, Subject::Before, Subject::Twin],
        }
    }

    /// Its heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Closed100 => "Closed loop, 100 bytes",
            Self::Closed2k => "Closed loop, 2,000 bytes",
            Self::Open => "Open loop, 100 bytes",
            Self::History => "History, pages of 20",
            Self::Idle => "Idle sockets",
            Self::Drain => "Drain of the worker",
            Self::Publish => "Kafka alone",
            Self::Script => "The recent list alone",
            Self::FanOut => "A large group over two gateways",
            Self::OutageFrozen => "Kafka stops answering (SIGSTOP)",
            Self::OutageRefused => "Kafka's port refuses",
            Self::Replay => "Replay of the failed queue",
            Self::Growth => "Growth under a steady load",
        }
    }
}
