//! Commits offsets to the broker. Takes commit points from the ledger; gives one commit at a time to the consumer, and records in the
//! ledger which offsets the broker has accepted.
//!
//! While a commit is in flight, further progress waits for the next one, which then carries the newest points. A commit that
//! failed is sent again with whatever the points are by then.
//!
//! See `docs/decisions/commits.md`.

use std::time::{Duration, Instant};

use holdfast_kafka::Commit;

use crate::backoff::Backoff;
use crate::ledger::{Ledger, Point};
use crate::metrics::Metrics;

/// The commit in flight, and how long the broker has confirmed none.
#[derive(Debug)]
pub struct Commits {
    sent: Option<Vec<Point>>,
    backoff: Backoff,
    /// Since when the broker has confirmed nothing although there was progress.
    behind_since: Option<Instant>,
}

impl Default for Commits {
    /// Starts without a commit in flight.
    fn default() -> Self {
        let backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5));
        Self { sent: None, backoff, behind_since: None }
    }
}

impl Commits {
    /// Whether a commit is in flight.
    pub fn is_busy(&self) -> bool {
        self.sent.is_some()
    }

    /// For how long the broker has confirmed nothing although there was progress, whether it refuses or does not answer.
    pub fn behind_for(&self, now: Instant) -> Duration {
        self.behind_since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// Sends a commit if there is unconfirmed progress and none is in flight.
    pub fn begin(&mut self, now: Instant, ledger: &Ledger, send: impl FnOnce(Vec<Commit>)) {
        if self.sent.is_some() || !self.backoff.is_over(now) {
            return;
        }
        let points = ledger.due();
        if points.is_empty() {
            // The unconfirmed partition belongs to another worker now.
            self.behind_since = None;
            return;
        }
        send(points.iter().map(Commit::from).collect());
        self.sent = Some(points);
        self.behind_since.get_or_insert(now);
    }

    /// Takes the broker's answer.
    pub fn settle(&mut self, now: Instant, result: Result<(), String>, ledger: &mut Ledger, metrics: &Metrics) {
        let Some(points) = self.sent.take() else { return };
        match result {
            Ok(()) => {
                metrics.commits_ok.inc();
                points.iter().for_each(|point| ledger.committed(point));
                self.backoff.reset();
                self.behind_since = None;
            }
            Err(error) => {
                metrics.commits_failed.inc();
                self.backoff.fail(now, fastrand::f64());
                if self.backoff.failures().is_power_of_two() {
                    tracing::warn!(attempts = self.backoff.failures(), error, "commit failed, trying again");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use prometheus::Registry;

    use super::*;
    use crate::ledger::Start;

    /// A ledger with progress, and what is sent of it.
    fn desk() -> (Ledger, Commits, Metrics) {
        let mut ledger = Ledger::default();
        let generation = ledger.assign(0, Start::after(Some(3)));
        ledger.receive(0, 3);
        ledger.done(0, generation, 3);
        (ledger, Commits::default(), Metrics::register(&Registry::new()).unwrap())
    }

    #[test]
    fn a_broker_that_refuses_or_says_nothing_falls_behind_and_one_that_takes_a_commit_does_not() {
        let (mut ledger, mut commits, metrics) = desk();
        let (start, after) = (Instant::now(), |seconds| Duration::from_secs(seconds));
        let mut sent = Vec::new();
        commits.begin(start, &ledger, |offsets| sent.push(offsets));
        assert_eq!(commits.behind_for(start + after(40)), after(40), "no answer");
        commits.settle(start + after(40), Err("not now".into()), &mut ledger, &metrics);
        commits.begin(start + after(50), &ledger, |offsets| sent.push(offsets));
        assert_eq!(commits.behind_for(start + after(60)), after(60), "refused, and asked again");
        commits.settle(start + after(60), Ok(()), &mut ledger, &metrics);
        assert_eq!(commits.behind_for(start + after(99)), Duration::ZERO);
        assert_eq!(sent, [[Commit::at(0, 4)], [Commit::at(0, 4)]]);
        commits.begin(start + after(99), &ledger, |_| panic!("there is nothing new"));
    }

    #[test]
    fn what_went_to_another_worker_is_not_behind_any_more() {
        let (mut ledger, mut commits, metrics) = desk();
        let start = Instant::now();
        commits.begin(start, &ledger, drop);
        commits.settle(start, Err("not ours".into()), &mut ledger, &metrics);
        ledger.revoke(0);
        let later = start + Duration::from_secs(10);
        commits.begin(later, &ledger, |_| panic!("there is nothing to commit"));
        assert_eq!(commits.behind_for(later), Duration::ZERO);
    }
}
