//! The hit rate over the last five minutes, computed at each scrape.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Gauge, Opts};

/// The window is divided into cells. A cell that lies partly in the window counts as a whole.
const CELL: Duration = Duration::from_secs(10);
const CELLS: usize = 30;

/// A gauge that is computed at each scrape. Cheap to clone; clones are the same gauge.
#[derive(Debug, Clone)]
pub(super) struct HitRate {
    gauge: Gauge,
    start: Instant,
    window: Arc<Mutex<Window>>,
}

impl HitRate {
    pub(super) fn new(name: &str, start: Instant) -> Result<Self, prometheus::Error> {
        let opts = Opts::new(name, "How many of the look-ups within the window were hits").const_label("window", "5m");
        Ok(Self { gauge: Gauge::with_opts(opts)?, start, window: Arc::default() })
    }

    pub(super) fn record(&self, hit: bool, now: Instant) {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).record(self.cell(now), hit);
    }

    pub(super) fn now(&self, now: Instant) -> f64 {
        self.window.lock().unwrap_or_else(PoisonError::into_inner).rate(self.cell(now))
    }

    fn cell(&self, now: Instant) -> u64 {
        now.saturating_duration_since(self.start).as_secs() / CELL.as_secs()
    }
}

impl Collector for HitRate {
    fn desc(&self) -> Vec<&Desc> {
        self.gauge.desc()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        self.gauge.set(self.now(Instant::now()));
        self.gauge.collect()
    }
}

/// Hits and look-ups by cell. The index of a cell is its number modulo [`CELLS`].
#[derive(Debug, Default)]
struct Window([Cell; CELLS]);

#[derive(Debug, Default, Clone, Copy)]
struct Cell {
    number: u64,
    hits: u64,
    lookups: u64,
}

impl Window {
    fn record(&mut self, number: u64, hit: bool) {
        let cell = &mut self.0[number as usize % CELLS];
        if cell.number != number {
            *cell = Cell { number, ..Cell::default() };
        }
        cell.lookups += 1;
        cell.hits += u64::from(hit);
    }

    fn rate(&self, now: u64) -> f64 {
        let within = self.0.iter().filter(|cell| cell.number + CELLS as u64 > now && cell.number <= now);
        let (hits, lookups) = within.fold((0, 0), |(hits, all), cell| (hits + cell.hits, all + cell.lookups));
        if lookups == 0 { 0.0 } else { hits as f64 / lookups as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_older_than_the_window_no_longer_counts() {
        let start = Instant::now();
        let rate = HitRate::new("rate", start).unwrap();
        let at = |seconds| start + Duration::from_secs(seconds);
        rate.record(false, at(1));
        rate.record(true, at(200));
        assert_eq!(rate.now(at(299)), 0.5);
        assert_eq!(rate.now(at(301)), 1.0);
        assert_eq!(rate.now(at(499)), 1.0);
        assert_eq!(rate.now(at(501)), 0.0, "nothing was looked up");
    }

    proptest! {
        #[test]
        fn the_window_is_what_counting_everything_anew_gives(steps in prop::collection::vec((0_u64..40, any::<bool>()), 1..300)) {
            let (mut window, mut all, mut now) = (Window::default(), Vec::new(), 0);
            for (wait, hit) in steps {
                now += wait / 8;
                window.record(now, hit);
                all.push((now, hit));
                let later = now + wait;
                let within: Vec<_> = all.iter().filter(|(at, _)| at + CELLS as u64 > later).collect();
                let hits = within.iter().filter(|(_, hit)| *hit).count();
                let expected = if within.is_empty() { 0.0 } else { hits as f64 / within.len() as f64 };
                prop_assert_eq!(window.rate(later), expected);
            }
        }
    }
}
