//! What processes cost: time on the CPUs and memory, from `/proc`.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};

/// `/proc` counts CPU time in ticks of `USER_HZ`, which is 100 a second on every Linux that we run on (`man 5 proc`, `man 7 time`).
const TICK: Duration = Duration::from_millis(10);

/// A process to watch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Watched {
    /// What the report calls it.
    pub name: String,
    /// Its process id.
    pub pid: u32,
}

impl std::str::FromStr for Watched {
    type Err = anyhow::Error;

    /// `name=PID`.
    fn from_str(text: &str) -> Result<Self> {
        let (name, pid) = text.split_once('=').context("not name=PID")?;
        Ok(Self { name: name.to_owned(), pid: pid.parse().context("not a process id")? })
    }
}

impl Watched {
    /// A process with this name.
    pub fn new(name: &str, pid: u32) -> Self {
        Self { name: name.to_owned(), pid }
    }

    /// This process, which makes the load.
    pub fn client() -> Self {
        Self::new("client", std::process::id())
    }
}

/// The CPU time that each process has used since it started, user and system. Processes with the same name count together.
pub fn cpu(watched: &[Watched]) -> BTreeMap<String, Duration> {
    let mut used = BTreeMap::new();
    for process in watched {
        if let Ok(time) = cpu_of(process.pid) {
            *used.entry(process.name.clone()).or_default() += time;
        }
    }
    used
}

/// The most memory that each process has held, in bytes.
pub fn peak_memory(watched: &[Watched]) -> BTreeMap<String, u64> {
    memory_in(watched, "VmHWM:")
}

/// The memory that each process holds now, in bytes. Processes with the same name count together.
pub fn memory(watched: &[Watched]) -> BTreeMap<String, u64> {
    memory_in(watched, "VmRSS:")
}

fn memory_in(watched: &[Watched], field: &str) -> BTreeMap<String, u64> {
    let mut held = BTreeMap::new();
    for process in watched {
        if let Ok(bytes) = status_of(process.pid, field) {
            *held.entry(process.name.clone()).or_default() += bytes;
        }
    }
    held
}

/// The machine's load average over the last minute.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
}

/// What all processors together have done since the machine started.
#[derive(Debug, Clone, Copy, Default)]
pub struct Ticks {
    /// Time spent on anything, time stolen by a hypervisor included.
    pub busy: u64,
    /// That, and the time without anything to do.
    pub total: u64,
}

/// What all processors have done so far.
pub fn ticks() -> Ticks {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest times are part of user and nice (`man 5 proc`).
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    let total = fields.iter().sum();
    let idle: u64 = fields.iter().skip(3).take(2).sum();
    Ticks { busy: total - idle, total }
}

/// Measures what processes spend from its start on.
#[derive(Debug)]
pub struct Meter {
    watched: Vec<Watched>,
    before: BTreeMap<String, Duration>,
    client: Duration,
    ticks: Ticks,
}

/// What was spent.
#[derive(Debug, Clone, Default)]
pub struct Spent {
    /// CPU time by process.
    pub cpu: BTreeMap<String, Duration>,
    /// The part of all processors' time that processes which are not watched took, in percent.
    pub foreign: f64,
}

impl Meter {
    /// Begins. This process is watched too, as `client`.
    pub fn start(watched: Vec<Watched>) -> Self {
        let before = cpu(&watched);
        Self { before, client: own_cpu(), ticks: ticks(), watched }
    }

    /// Watches more processes: those that have begun since the start.
    pub fn watch(&mut self, more: Vec<Watched>) {
        self.watched.extend(more);
    }

    /// What this process has spent since the start.
    pub fn client(&self) -> Duration {
        own_cpu().saturating_sub(self.client)
    }

    /// What was spent since the start.
    pub fn spent(&self) -> Spent {
        let now = ticks();
        let since = |(name, after): (String, Duration)| {
            let before = self.before.get(&name).copied().unwrap_or_default();
            (name, after.saturating_sub(before))
        };
        let mut cpu: BTreeMap<String, Duration> = cpu(&self.watched).into_iter().map(since).collect();
        cpu.insert("client".to_owned(), self.client());
        let ours = cpu.values().sum::<Duration>().as_secs_f64() / TICK.as_secs_f64();
        let (busy, total) = (now.busy - self.ticks.busy, (now.total - self.ticks.total).max(1));
        let foreign = (busy as f64 - ours).max(0.0) / total as f64 * 100.0;
        Spent { cpu, foreign }
    }
}

fn own_cpu() -> Duration {
    cpu_of(std::process::id()).unwrap_or_default()
}

/// The CPU time of every process of the machine, by id and command.
pub fn everybody() -> BTreeMap<(u32, String), Duration> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.trim().to_owned();
        Some(((pid, name), cpu_of(pid).ok()?))
    })
    .collect()
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the command in parentheses, and may hold spaces and parentheses itself; utime and stime are the 14th
    // and 15th.
    let (_, rest) = stat.rsplit_once(") ").context("malformed stat")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u32>);
    let user = fields.next().context("short stat")??;
    let system = fields.next().context("short stat")??;
    Ok(TICK * (user + system))
}

fn status_of(pid: u32, field: &str) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(field)).context("no such field")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spin(lasting: Duration) {
        let started = std::time::Instant::now();
        while started.elapsed() < lasting {
            std::hint::black_box(started);
        }
    }

    #[test]
    fn this_process_is_seen_to_work() {
        let watched = ["me".to_owned() + "=" + &std::process::id().to_string()].map(|text| text.parse().unwrap());
        let before = cpu(&watched)["me"];
        spin(Duration::from_millis(200));
        assert!(cpu(&watched)["me"] > before);
        assert!(peak_memory(&watched)["me"] > 1 << 20);
        assert!(memory(&watched)["me"] > 1 << 20);
        assert!(cpu(&[Watched { name: "gone".into(), pid: u32::MAX }]).is_empty());
    }

    #[test]
    fn a_meter_tells_what_was_spent_and_by_whom() {
        let meter = Meter::start(Vec::new());
        spin(Duration::from_millis(300));
        let spent = meter.spent();
        assert!(spent.cpu["client"] >= Duration::from_millis(50), "{spent:?}");
        assert!((0.0..=100.0).contains(&spent.foreign), "{spent:?}");
        assert!(everybody().iter().any(|((pid, _), time)| *pid == std::process::id() && !time.is_zero()));
    }
}
