//! The kinds of fault, the circumstances that excuse some, and the verdict on a run.

use std::collections::BTreeMap;
use std::fmt;

/// A way in which the promise, or what stands around it, was broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fault {
    /// Acknowledged and not stored.
    Lost,
    /// Stored more than once.
    Duplicated,
    /// Stored as something else than what was sent, or answered as such.
    Mutated,
    /// Stored, and nobody sent it.
    Unexpected,
    /// Two messages of one sender, stored in the other order than they were sent in. Judged where the second began after the first's
    /// positive answer, or where both succeeded at the first attempt on one connection. A repeat of the first after its answer
    /// makes it ambiguous while the cache is away, and on another gateway. Also: history in another order than stored.
    Swapped,
    /// A send that never got an answer, however often it was repeated.
    Unanswered,
    /// An attempt that was not answered in time, on a connection that stayed open.
    Late,
    /// Refused as not retryable, and stored.
    Lied,
    /// Shown by history after everything had healed, and not stored; or shown live to a device that stayed connected, neither stored
    /// nor refused. A gateway that was killed between showing and publishing may leave one.
    Ghost,
    /// Acknowledged, and not in history after everything had healed.
    Hidden,
    /// Acknowledged, and a device of its sender or receiver never saw it: not live, not by `resume`, and not in the history that it
    /// read after `recovered: false`.
    Unseen,
    /// Delivered live (`newMessage`) more than once on one connection, without a `messageFailed` in between.
    SeenTwice,
}

impl Fault {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::Lost,
        Self::Duplicated,
        Self::Mutated,
        Self::Unexpected,
        Self::Swapped,
        Self::Unanswered,
        Self::Late,
        Self::Lied,
        Self::Ghost,
        Self::Hidden,
        Self::Unseen,
        Self::SeenTwice,
    ];

    /// As the tables call it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Duplicated => "duplicated",
            Self::Mutated => "mutated",
            Self::Unexpected => "unexpected",
            Self::Swapped => "swapped",
            Self::Unanswered => "unanswered",
            Self::Late => "late",
            Self::Lied => "lied",
            Self::Ghost => "ghost",
            Self::Hidden => "hidden",
            Self::Unseen => "unseen",
            Self::SeenTwice => "seen twice",
        }
    }
}

/// One breach, and whose.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The kind of fault.
    pub fault: Fault,
    /// The message's id.
    pub message_id: String,
    /// The evidence, in words.
    pub detail: String,
}

/// A gateway's violent end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// Its address.
    pub gateway: String,
    /// When, in epoch milliseconds.
    pub at_ms: i64,
}

/// A part of the run, in epoch milliseconds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Span {
    /// The moment when it began.
    pub from_ms: i64,
    /// The moment when it ended.
    pub to_ms: i64,
}

/// What happened during the run that changes what may be expected.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Circumstances {
    /// Gateways that were killed: what they had shown and not published may be a ghost.
    pub kills: Vec<Kill>,
    /// The cache was away or lost data: a repeat after its answer may have been stamped anew.
    pub cache_was_away: bool,
    /// A gateway was frozen, or the line to its clients was blocked: what was begun then is not [`Fault::Late`].
    pub answers_were_held: Vec<Span>,
}

/// The result of a judgement.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Messages that were sent.
    pub sent: usize,
    /// Messages with a positive answer, by the `durability` of the first one.
    pub accepted: BTreeMap<String, usize>,
    /// Attempts that were refused.
    pub refused: usize,
    /// Attempts of unknown outcome.
    pub unknown: usize,
    /// What devices saw only by history, after `recovered: false`.
    pub refetched: usize,
    /// Every fault that was found.
    pub findings: Vec<Finding>,
}

impl Verdict {
    /// How many breaches of this kind there are.
    pub fn count(&self, fault: Fault) -> usize {
        self.findings.iter().filter(|finding| finding.fault == fault).count()
    }

    /// Whether there is none.
    pub fn is_clean(&self) -> bool {
        self.findings.is_empty()
    }
}

/// The most findings in a printed verdict.
const PRINTED: usize = 20;

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} sent, accepted {:?}, attempts refused {}, of unknown outcome {}",
            self.sent, self.accepted, self.refused, self.unknown
        )?;
        let counts: Vec<_> =
            Fault::ALL.iter().map(|fault| format!("{} {}", fault.name(), self.count(*fault))).collect();
        writeln!(f, "{}", counts.join(", "))?;
        for Finding { fault, message_id, detail } in self.findings.iter().take(PRINTED) {
            writeln!(f, "  {}: {message_id}: {detail}", fault.name())?;
        }
        match self.findings.len().saturating_sub(PRINTED) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more"),
        }
    }
}
