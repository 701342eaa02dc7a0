//! Limits the log to a number of lines of one kind a minute, and then logs how many were left out.
//!
//! A line that a client, a record or a flapping server can cause may be caused a million times. A kind is the place in the code that logs, so
//! new lines are limited without further code, and lines of libraries are limited like ours. The number of kinds is fixed when
//! the program is built, and so is what is remembered of them. Metrics count every event; a line is for the first few.
//!
//! Not limited: `debug` and `trace`, which are switched on only for an investigation, and the target [`AUDIT`].
//!
//! See `docs/decisions/log-limit.md`.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::callsite::Identifier;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::layer::{Context, Filter};

/// Lines of one kind in one [`WINDOW`].
const LINES: u64 = 10;
/// From the first line of a kind until it has a full allowance again.
const WINDOW: Duration = Duration::from_secs(60);
/// The interval at which left-out lines are reported.
const LOOK: Duration = Duration::from_secs(5);
/// The target of the audit log, which records what operators do: none of its lines is left out.
pub const AUDIT: &str = "audit";
/// The target of the lines that say what was left out.
const OWN: &str = "holdfast_service::log_limit";

/// Limits the lines of whatever layer it is the filter of. Cheap to clone; clones count together.
#[derive(Clone)]
pub struct LogLimit {
    kinds: Arc<Mutex<Kinds>>,
    clock: Arc<dyn Fn() -> Instant + Send + Sync>,
}

#[derive(Default)]
struct Kinds {
    now: HashMap<Identifier, Kind>,
    /// Of windows that have ended.
    ended: Vec<LeftOut>,
}

struct Kind {
    begun: Instant,
    lines: u64,
    left_out: LeftOut,
}

/// Lines of one kind that were left out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeftOut {
    /// How many.
    pub lines: u64,
    /// How serious they were.
    pub level: Level,
    /// What logged them.
    pub target: &'static str,
    /// What the first of them said.
    pub message: String,
}

impl LeftOut {
    fn none(metadata: &'static Metadata<'static>) -> Self {
        Self { lines: 0, level: *metadata.level(), target: metadata.target(), message: String::new() }
    }
}

impl fmt::Debug for LogLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LogLimit").finish_non_exhaustive()
    }
}

impl LogLimit {
    /// Starts with a full allowance for every kind. `clock` returns the current time.
    pub fn new(clock: impl Fn() -> Instant + Send + Sync + 'static) -> Self {
        Self { kinds: Arc::default(), clock: Arc::new(clock) }
    }

    fn kinds(&self) -> MutexGuard<'_, Kinds> {
        self.kinds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a line may be written.
    fn admit(&self, event: &Event<'_>) -> bool {
        let metadata = event.metadata();
        if *metadata.level() > Level::INFO || [AUDIT, OWN].contains(&metadata.target()) {
            return true;
        }
        let now = (self.clock)();
        let mut kinds = self.kinds();
        let Kinds { now: kinds, ended } = &mut *kinds;
        let kind = match kinds.entry(metadata.callsite()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(new) => new.insert(Kind { begun: now, lines: 0, left_out: LeftOut::none(metadata) }),
        };
        if kind.is_over(now) {
            ended.extend(kind.end(now));
        }
        kind.lines += 1;
        if kind.lines <= LINES {
            return true;
        }
        if kind.left_out.lines == 0 {
            event.record(&mut Message(&mut kind.left_out.message));
        }
        kind.left_out.lines += 1;
        false
    }

    /// What was left out in windows that have ended and was not returned yet.
    pub fn left_out(&self) -> Vec<LeftOut> {
        let now = (self.clock)();
        let mut kinds = self.kinds();
        let Kinds { now: kinds, ended } = &mut *kinds;
        for kind in kinds.values_mut().filter(|kind| kind.is_over(now)) {
            ended.extend(kind.end(now));
        }
        std::mem::take(ended)
    }

    /// Says what was left out in windows that have ended, one line a kind.
    pub fn report(&self) {
        for LeftOut { lines, level, target, message } in self.left_out() {
            let what = "lines like this were left out of the log";
            match level {
                Level::ERROR => tracing::error!(target: OWN, lines, of = target, like = message, "{what}"),
                Level::WARN => tracing::warn!(target: OWN, lines, of = target, like = message, "{what}"),
                _ => tracing::info!(target: OWN, lines, of = target, like = message, "{what}"),
            }
        }
    }

    /// Reports every few seconds, on a thread of its own, as long as the process lives.
    pub(crate) fn report_for_ever(self) -> std::io::Result<()> {
        let report = move || {
            loop {
                std::thread::sleep(LOOK);
                self.report();
            }
        };
        std::thread::Builder::new().name("log-limit".into()).spawn(report).map(drop)
    }
}

impl Kind {
    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= WINDOW
    }

    /// Begins anew, and returns what was left out.
    fn end(&mut self, now: Instant) -> Option<LeftOut> {
        (self.begun, self.lines) = (now, 0);
        let fresh = LeftOut { lines: 0, message: String::new(), ..self.left_out };
        Some(std::mem::replace(&mut self.left_out, fresh)).filter(|left_out| left_out.lines > 0)
    }
}

/// Records the beginning of an event's message, enough to distinguish one kind from another.
struct Message<'a>(&'a mut String);

impl Visit for Message<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            *self.0 = format!("{value:?}").chars().take(200).collect();
        }
    }
}

impl<S: Subscriber> Filter<S> for LogLimit {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.admit(event)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::atomic::{AtomicU64, Ordering};

    use tracing_subscriber::prelude::*;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// A log whose clock the test sets.
    struct Log {
        written: Written,
        seconds: Arc<AtomicU64>,
        limit: LogLimit,
    }

    impl Log {
        fn new() -> Self {
            let (start, seconds) = (Instant::now(), Arc::new(AtomicU64::new(0)));
            let passed = Arc::clone(&seconds);
            let limit = LogLimit::new(move || start + Duration::from_secs(passed.load(Ordering::Relaxed)));
            Self { written: Written::default(), seconds, limit }
        }

        fn during(&self, logging: impl FnOnce()) {
            let written = self.written.clone();
            let layer = tracing_subscriber::fmt::layer().with_writer(move || written.clone()).with_ansi(false);
            let subscriber = tracing_subscriber::registry().with(layer.with_filter(self.limit.clone()));
            tracing::subscriber::with_default(subscriber, logging);
        }

        fn wait(&self, seconds: u64) {
            self.seconds.fetch_add(seconds, Ordering::Relaxed);
        }

        /// How many lines contain this, and forgets all.
        fn take(&self, text: &str) -> usize {
            let bytes = std::mem::take(&mut *self.written.0.lock().unwrap());
            String::from_utf8(bytes).unwrap().lines().filter(|line| line.contains(text)).count()
        }
    }

    fn poison(offset: u64) {
        tracing::error!(offset, "a record can't be decoded");
    }

    #[test]
    fn a_flood_is_ten_lines_a_minute_and_then_one_that_counts_the_rest() {
        let log = Log::new();
        log.during(|| (0..5000).for_each(poison));
        assert_eq!(log.take("a record can't be decoded"), 10);
        log.during(|| log.limit.report());
        assert_eq!(log.take("left out"), 0, "not before the minute is over");
        log.wait(60);
        log.during(|| log.limit.report());
        assert_eq!(
            log.take("ERROR holdfast_service::log_limit: lines like this were left out of the log lines=4990"),
            1
        );
        log.during(|| log.limit.report());
        assert_eq!(log.take("left out"), 0, "once");
        // It goes on: each minute has its lines, and its count, whoever notices first that it is over.
        for _ in 0..3 {
            log.during(|| (0..50).for_each(poison));
            log.wait(61);
        }
        assert_eq!(log.take("a record can't be decoded"), 30);
        let counted: Vec<_> = log.limit.left_out().into_iter().map(|left| (left.lines, left.message)).collect();
        assert_eq!(counted, vec![(40, "a record can't be decoded".to_owned()); 3]);
    }

    #[test]
    fn a_flood_of_one_kind_costs_no_other_kind_a_line_and_what_operators_do_is_kept_whole() {
        let log = Log::new();
        log.during(|| {
            for number in 0..100 {
                poison(number);
                tracing::info!(target: AUDIT, number, "an operator did something");
                tracing::debug!(number, "somebody looks for something");
            }
            tracing::warn!("another kind");
        });
        let counts = ["another kind", "an operator did", "somebody looks"].map(|text| {
            let bytes = log.written.0.lock().unwrap().clone();
            String::from_utf8(bytes).unwrap().matches(text).count()
        });
        assert_eq!(counts, [1, 100, 100]);
    }
}
