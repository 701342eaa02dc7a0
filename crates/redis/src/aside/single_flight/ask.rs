//! Reads a batch of keys from Redis, and decides what to do about each.

use std::sync::Arc;
use std::time::Instant;

use tokio::time::timeout_at;

use super::{Flight, SingleFlight};
use crate::aside::lease::{FillIntent, Held, Read, Token};
use crate::aside::memory::Known;
use crate::aside::source::Source;

/// What to do about a key.
pub(super) enum Asked<S: Source> {
    /// Redis has a value. With the lease, refresh it.
    Held { known: Known<S::Value>, lease: Option<Token> },
    /// This flight has the lease: load the value.
    Leased(Token),
    /// Another reader has the lease.
    LeasedElsewhere,
    /// There is no lease: Redis did not answer, or the source failed less than [`RETRY`](crate::aside::source::RETRY) ago.
    NoLease,
    /// The entry can't be decoded, and another reader has the lease or none was wanted.
    Undecodable,
}

impl<S: Source> SingleFlight<S> {
    /// Reads each key from Redis, and decides what to do about it.
    pub(super) async fn ask(
        &self,
        flights: Vec<Flight<S>>,
        refresh: bool,
        until: Instant,
    ) -> Vec<(Flight<S>, Asked<S>)> {
        let intent = |flight: &Flight<S>| match (self.failures.contains_key(&flight.name), refresh) {
            (true, _) => FillIntent::ReadOnly,
            (false, true) => FillIntent::IfStale,
            (false, false) => FillIntent::IfMissing,
        };
        let reads: Vec<_> = flights.iter().map(|flight| (&*flight.name, intent(flight))).collect();
        let mut asked = self.read(&reads, until).await;
        // An entry that another version wrote is loaded as if it were missing.
        let undecodable: Vec<_> =
            (0..asked.len()).filter(|&index| matches!(asked[index], Asked::Undecodable)).collect();
        if !undecodable.is_empty() {
            let anew: Vec<_> = undecodable.iter().map(|&index| (reads[index].0, FillIntent::Always)).collect();
            for (index, again) in undecodable.into_iter().zip(self.read(&anew, until).await) {
                asked[index] = again;
            }
        }
        flights.into_iter().zip(asked).collect()
    }

    async fn read(&self, reads: &[(&str, FillIntent)], until: Instant) -> Vec<Asked<S>> {
        let answers = timeout_at(until.into(), self.backend.read(reads)).await;
        // A server that is too slow is treated as away.
        let answers = answers.unwrap_or_else(|_| reads.iter().map(|_| None).collect());
        let now = Instant::now();
        answers.into_iter().zip(reads).map(|(read, (_, intent))| self.judge(read, *intent, now)).collect()
    }

    fn judge(&self, read: Option<Read>, intent: FillIntent, now: Instant) -> Asked<S> {
        let Some(Read { held, lease }) = read else { return Asked::NoLease };
        match (held.map(|held| self.known(held, now)), lease) {
            (Some(Some(known)), lease) => Asked::Held { known, lease },
            (Some(None) | None, Some(lease)) => Asked::Leased(lease),
            (Some(None), None) => Asked::Undecodable,
            (None, None) if intent == FillIntent::ReadOnly => Asked::NoLease,
            (None, None) => Asked::LeasedElsewhere,
        }
    }

    /// An entry in the form that memory stores; `None` if it can't be decoded.
    fn known(&self, held: Held, now: Instant) -> Option<Known<S::Value>> {
        let (value, bytes) = match held.payload {
            Some(payload) => (Some(Arc::new(self.codec.decode(&payload)?)), payload.len()),
            None => (None, 0),
        };
        let filled = now.checked_sub(held.age).unwrap_or(now);
        // Stale since some time before now: a reader that took the time a moment ago must not find it fresh.
        let fresh_until = if held.fresh_for.is_zero() { filled } else { now + held.fresh_for };
        Some(Known { value, bytes, filled, fresh_until, expires_at: now + held.expires_in })
    }
}
