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

/// The CPU time that each process has used since it started, user and system.
pub fn cpu(watched: &[Watched]) -> BTreeMap<String, Duration> {
    watched.iter().filter_map(|process| Some((process.name.clone(), cpu_of(process.pid).ok()?))).collect()
}

/// The most memory that each process has held, in bytes.
pub fn peak_memory(watched: &[Watched]) -> BTreeMap<String, u64> {
    watched.iter().filter_map(|process| Some((process.name.clone(), peak_of(process.pid).ok()?))).collect()
}

/// The machine's load average over the last minute.
pub fn load_average() -> f64 {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or_default()
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

fn peak_of(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("no VmHWM")?;
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_seen_to_work() {
        let watched = ["me".to_owned() + "=" + &std::process::id().to_string()].map(|text| text.parse().unwrap());
        let before = cpu(&watched)["me"];
        let started = std::time::Instant::now();
        while started.elapsed() < Duration::from_millis(200) {
            std::hint::black_box(started);
        }
        assert!(cpu(&watched)["me"] > before);
        assert!(peak_memory(&watched)["me"] > 1 << 20);
        assert!(cpu(&[Watched { name: "gone".into(), pid: u32::MAX }]).is_empty());
    }
}
