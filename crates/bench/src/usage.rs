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

/// Watches from its start on what others take of the processors: every process but this one and those that it has started, and the
/// hypervisor. The kernel's threads are nobody's: most of what they do is done for those that are measured.
#[derive(Debug)]
pub struct Others {
    processes: BTreeMap<u32, Process>,
    ticks: Ticks,
}

#[derive(Debug)]
struct Process {
    name: String,
    parent: u32,
    /// Its CPU time, that of the children that it has waited for included: what lives for a moment only is seen there.
    used: Duration,
}

/// What all processors together have done since the machine started.
#[derive(Debug, Clone, Copy, Default)]
struct Ticks {
    stolen: u64,
    total: u64,
}

impl Others {
    /// Begins to watch.
    pub fn watch() -> Self {
        Self { processes: processes(), ticks: ticks() }
    }

    /// The part of all processors' time that others have taken, in percent.
    pub fn percent(&self) -> f64 {
        let now = ticks();
        let total = now.total.saturating_sub(self.ticks.total).max(1) as f64;
        let used =
            |processes: &BTreeMap<u32, Process>| foreign(processes).map(|(_, process)| process.used).sum::<Duration>();
        let (before, after) = (used(&self.processes), used(&processes()));
        let taken = after.saturating_sub(before).as_secs_f64() / TICK.as_secs_f64();
        // Times and ticks are not read in the same moment.
        ((taken + now.stolen.saturating_sub(self.ticks.stolen) as f64) / total * 100.0).min(100.0)
    }

    /// Those that have taken the most, with the most first.
    pub fn names(&self) -> Vec<String> {
        let now = processes();
        let since = |(pid, process): (u32, &Process)| {
            let before = self.processes.get(&pid).map(|before| before.used).unwrap_or_default();
            (process.used.saturating_sub(before), format!("{} ({pid})", process.name))
        };
        let mut used: Vec<_> = foreign(&now).map(since).filter(|(time, _)| !time.is_zero()).collect();
        used.sort_unstable_by(|a, b| b.cmp(a));
        used.into_iter().map(|(_, name)| name).collect()
    }
}

/// The processes that are neither this one, nor below it, nor the kernel's.
fn foreign(processes: &BTreeMap<u32, Process>) -> impl Iterator<Item = (u32, &Process)> {
    const KERNEL: u32 = 2;
    let apart = [std::process::id(), KERNEL];
    let is_foreign = move |pid: &u32| {
        let up = |pid: &u32| processes.get(pid).map(|process| process.parent);
        !std::iter::successors(Some(*pid), up).any(|pid| apart.contains(&pid))
    };
    processes.iter().filter(move |(pid, _)| is_foreign(pid)).map(|(pid, process)| (*pid, process))
}

fn processes() -> BTreeMap<u32, Process> {
    let folders = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = folders.filter_map(|folder| folder.file_name().to_str()?.parse::<u32>().ok());
    pids.filter_map(|pid| {
        let (name, fields) = stat_of(pid).ok()?;
        let used = (UTIME..=CSTIME).map(|field| time(&fields, field)).sum::<Result<_>>().ok()?;
        Some((pid, Process { name, parent: fields.get(PARENT)?.parse().ok()?, used }))
    })
    .collect()
}

fn ticks() -> Ticks {
    let text = std::fs::read_to_string("/proc/stat").unwrap_or_default();
    // user nice system idle iowait irq softirq steal; guest times are part of user and nice (`man 5 proc`).
    let line = text.lines().next().unwrap_or_default();
    let fields: Vec<u64> = line.split_whitespace().skip(1).take(8).filter_map(|field| field.parse().ok()).collect();
    Ticks { stolen: fields.get(7).copied().unwrap_or_default(), total: fields.iter().sum() }
}

/// Measures what processes spend from its start on.
#[derive(Debug)]
pub struct Meter {
    watched: Vec<Watched>,
    before: BTreeMap<String, Duration>,
    client: Duration,
}

impl Meter {
    /// Starts to measure these processes, and this one under the name `client`.
    pub fn start(watched: Vec<Watched>) -> Self {
        Self { before: cpu(&watched), client: own_cpu(), watched }
    }

    /// What this process has spent since the start.
    pub fn client(&self) -> Duration {
        own_cpu().saturating_sub(self.client)
    }

    /// What was spent since the start, by process.
    pub fn spent(&self) -> BTreeMap<String, Duration> {
        let since = |(name, after): (String, Duration)| {
            let before = self.before.get(&name).copied().unwrap_or_default();
            (name, after.saturating_sub(before))
        };
        let mut spent: BTreeMap<String, Duration> = cpu(&self.watched).into_iter().map(since).collect();
        spent.insert("client".to_owned(), self.client());
        spent
    }
}

fn own_cpu() -> Duration {
    cpu_of(std::process::id()).unwrap_or_default()
}

fn cpu_of(pid: u32) -> Result<Duration> {
    let (_, fields) = stat_of(pid)?;
    Ok(time(&fields, UTIME)? + time(&fields, STIME)?)
}

/// Fields of `/proc/PID/stat` behind the command, from 0: its third is the first here.
const PARENT: usize = 1;
const UTIME: usize = 11;
const STIME: usize = 12;
const CSTIME: usize = 14;

fn time(fields: &[String], field: usize) -> Result<Duration> {
    Ok(TICK * fields.get(field).context("short stat")?.parse::<u32>()?)
}

/// A process's command, and the fields behind it.
fn stat_of(pid: u32) -> Result<(String, Vec<String>)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The command is in parentheses, and may hold spaces and parentheses itself.
    let (before, rest) = stat.rsplit_once(") ").context("malformed stat")?;
    let (_, name) = before.split_once('(').context("malformed stat")?;
    Ok((name.to_owned(), rest.split(' ').map(str::to_owned).collect()))
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
        // Of its own CPU time: a busy machine gives it little.
        let started = own_cpu();
        while own_cpu() - started < lasting {
            std::hint::black_box((0..100_000).sum::<u64>());
        }
    }

    #[test]
    fn this_process_is_seen_to_work() {
        let watched = ["me".to_owned() + "=" + &std::process::id().to_string()].map(|text| text.parse().unwrap());
        let before = cpu(&watched)["me"];
        spin(Duration::from_millis(50));
        assert!(cpu(&watched)["me"] > before);
        assert!(peak_memory(&watched)["me"] > 1 << 20);
        assert!(memory(&watched)["me"] > 1 << 20);
        assert!(cpu(&[Watched { name: "gone".into(), pid: u32::MAX }]).is_empty());
    }

    #[test]
    fn a_meter_tells_what_was_spent_and_by_whom() {
        let meter = Meter::start(Vec::new());
        spin(Duration::from_millis(100));
        assert!(meter.spent()["client"] >= Duration::from_millis(50), "{:?}", meter.spent());
    }

    #[test]
    fn others_are_those_that_this_process_has_not_started() {
        let mut child = std::process::Command::new("sleep").arg("10").spawn().unwrap();
        let all = processes();
        let others: Vec<u32> = foreign(&all).map(|(pid, _)| pid).collect();
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(all.contains_key(&child.id()) && others.contains(&1), "{all:?}");
        assert!(!others.contains(&child.id()) && !others.contains(&std::process::id()), "{others:?}");
    }

    #[test]
    fn what_a_process_has_started_counts_with_it_after_its_end() {
        let mut shell = std::process::Command::new("sh");
        let busy = "i=0; while [ $i -lt 100000 ]; do i=$((i + 1)); done";
        let mut shell = shell.args(["-c", &format!("(sh -c '{busy}'); sleep 10")]).spawn().unwrap();
        let until = std::time::Instant::now() + Duration::from_secs(60);
        // The shell itself does next to nothing.
        while processes()[&shell.id()].used < Duration::from_millis(20) {
            assert!(std::time::Instant::now() < until);
            std::thread::sleep(Duration::from_millis(20));
        }
        shell.kill().unwrap();
        shell.wait().unwrap();
    }
}
