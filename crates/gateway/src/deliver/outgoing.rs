//! What waits to leave this gateway, in bytes: for each connection, and for all of them together.
//!
//! socketioxide bounds a socket's queue in packets, and one packet may be megabytes. So each Socket.IO session has an [`Account`]:
//! what is given to the session is charged before it is queued, and what the transport has written is credited. One response beyond
//! the bound may wait at a time, so that any response can be given at all; what finds no room else is dropped by the caller and counted.
//!
//! The total of all accounts is bounded, too. Its last quarter is for connections for which little waits: clients that read what they
//! get are served while others fill the rest.
//!
//! See `docs/decisions/closing-stalled-connections.md`.

pub(crate) mod response;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use holdfast_service::serve::WriteObserver;
use prometheus::IntGauge;

use crate::metrics::Packet;

/// What a connection may still wait for while the total is short of room.
const LITTLE: usize = 64 * 1024;

/// All that waits. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Outgoing(Arc<Total>);

struct Total {
    bytes: AtomicUsize,
    max: usize,
    /// The bound of one account.
    each: usize,
    gauge: IntGauge,
}

impl Outgoing {
    /// `each` bytes at most for one connection, in addition to one response, and `max` for all.
    pub(crate) fn new(each: usize, max: usize, gauge: IntGauge) -> Self {
        Self(Arc::new(Total { bytes: AtomicUsize::new(0), max, each, gauge }))
    }

    /// The account of one more connection.
    pub(crate) fn account(&self) -> Arc<Account> {
        Arc::new(Account { total: Arc::clone(&self.0), state: Mutex::default() })
    }

    /// By how much the total exceeds what it is to be brought back to; 0 while there is room.
    pub(crate) fn excess(&self) -> usize {
        let bytes = self.0.bytes.load(Ordering::Relaxed);
        if bytes > self.0.plenty() / 8 * 7 { bytes - self.0.max / 2 } else { 0 }
    }
}

impl Total {
    /// Up to here there is room for everybody.
    fn plenty(&self) -> usize {
        self.max / 4 * 3
    }

    fn take(&self, bytes: usize, waiting: usize) -> bool {
        let within = |total: usize| {
            let after = total.checked_add(bytes)?;
            let fits = after <= self.plenty() || (after <= self.max && waiting + bytes <= LITTLE);
            fits.then_some(after)
        };
        let taken = self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok();
        if taken {
            self.gauge.add(bytes as i64);
        }
        taken
    }

    fn give(&self, bytes: usize) {
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
        self.gauge.sub(bytes as i64);
    }
}

/// What waits for one connection. Dropped, it gives back what was never written.
pub(crate) struct Account {
    total: Arc<Total>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    waiting: usize,
    large: Option<Large>,
    /// Since something found no room, until half of it is free again.
    full_since: Option<Instant>,
    /// Since anything waits.
    waiting_since: Option<Instant>,
}

/// The response beyond the bound.
struct Large {
    bytes: usize,
    /// What has to be written until all of it is.
    ahead: usize,
}

impl State {
    /// What counts against the bound.
    fn counted(&self) -> usize {
        self.waiting - self.large.as_ref().map_or(0, |large| large.bytes.min(large.ahead))
    }
}

impl Account {
    /// Charges so many bytes, unless there is no room for them.
    pub(crate) fn charge(&self, packet: Packet, bytes: usize) -> bool {
        let mut state = self.state();
        let fits = state.counted() + bytes <= self.total.each;
        let as_large = !fits && packet == Packet::Response && state.large.is_none();
        if !fits && !as_large {
            state.full_since.get_or_insert_with(Instant::now);
            return false;
        }
        if !self.total.take(bytes, state.waiting) {
            return false;
        }
        state.waiting += bytes;
        state.waiting_since.get_or_insert_with(Instant::now);
        if as_large {
            state.large = Some(Large { bytes, ahead: state.waiting });
        }
        true
    }

    /// Whether a response of whatever size would find room now, but for the total.
    pub(crate) fn takes_any(&self) -> bool {
        let state = self.state();
        state.large.is_none() && state.counted() < self.total.each
    }

    /// Gives back what was charged last and not queued.
    pub(crate) fn refund(&self, bytes: usize) {
        let mut state = self.state();
        let bytes = bytes.min(state.waiting);
        state.waiting -= bytes;
        if state.large.as_ref().is_some_and(|large| large.ahead > state.waiting) {
            state.large = None;
        }
        if state.waiting == 0 {
            state.waiting_since = None;
        }
        self.total.give(bytes);
    }

    /// Credits what has been written. What was written without being charged, as heartbeats, is no credit for what comes later.
    pub(crate) fn credit(&self, bytes: usize) {
        let mut state = self.state();
        let bytes = bytes.min(state.waiting);
        state.waiting -= bytes;
        if let Some(large) = &mut state.large {
            large.ahead = large.ahead.saturating_sub(bytes);
            if large.ahead == 0 {
                state.large = None;
            }
        }
        if state.counted() <= self.total.each / 2 {
            state.full_since = None;
        }
        if state.waiting == 0 {
            state.waiting_since = None;
        }
        drop(state);
        self.total.give(bytes);
    }

    /// How much waits.
    pub(crate) fn waiting(&self) -> usize {
        self.state().waiting
    }

    /// For how long there has been no room.
    pub(crate) fn full_for(&self) -> Duration {
        self.state().full_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    /// For how long something has been waiting.
    pub(crate) fn waiting_for(&self) -> Duration {
        self.state().waiting_since.map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WriteObserver for Account {
    fn wrote(&self, bytes: usize) {
        self.credit(bytes);
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.total.give(self.state().waiting);
    }
}

/// The size of a packet as a WebSocket frame of a server: a header and the text.
pub(crate) fn framed(text: usize) -> usize {
    text + match text {
        0..126 => 2,
        126..65_536 => 4,
        _ => 10,
    }
}

#[cfg(test)]
mod tests;
