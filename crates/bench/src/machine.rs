//! The machine that everything runs on: what it is, how fast it is at the moment, and whether somebody else uses it.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use serde::Serialize;

use crate::usage::{Others, load_average};

/// How long the machine is watched before a run, and how often at most until it is quiet.
const WATCH: Duration = Duration::from_secs(3);
const WATCHES: usize = 5;
/// The most that others may use of all processors, in percent, for the figures to count.
pub const MOST_FOREIGN: f64 = 5.0;
/// How long each part of a calibration takes.
const CALIBRATION: Duration = Duration::from_millis(150);
/// The bytes of one way of a round trip.
const PACKET: usize = 64;

/// What the run took place on.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    /// The processors' name.
    pub processor: String,
    /// How many processors everything shared.
    pub processors: usize,
    /// Its memory in MiB.
    pub memory_mib: u64,
    /// The kernel.
    pub kernel: String,
    /// The load average over the minute before.
    pub load_before: f64,
    /// What others used of all processors before the run, in percent.
    pub foreign_before: f64,
    /// The servers' and runtimes' versions.
    pub versions: BTreeMap<String, String>,
}

/// How fast the machine is at a moment.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct Speed {
    /// Steps of a loop of arithmetic that one thread does in a microsecond.
    pub steps: f64,
    /// Round trips over a loopback connection that two threads do in a millisecond.
    pub round_trips: f64,
}

impl Machine {
    /// Watches the machine until it is quiet, and describes it. Nothing of the run may have started yet.
    ///
    /// # Errors
    /// It stays busy with something else, and `force` is not given; the error names what it is busy with.
    pub async fn look(force: bool) -> Result<Self> {
        let mut foreign_before;
        let mut watches = 1;
        loop {
            let others = Others::watch();
            tokio::time::sleep(WATCH).await;
            foreign_before = others.percent();
            match verdict(foreign_before, &others.names(), force) {
                // A build that has just ended may have left something to write.
                Err(_) if watches < WATCHES => watches += 1,
                outcome => break outcome?.iter().for_each(|warning| eprintln!("warning: {warning}")),
            }
        }
        Ok(Self {
            processor: field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, Into::into),
            memory_mib: field("/proc/meminfo", "MemTotal")
                .and_then(|text| text.trim_end_matches(" kB").parse::<u64>().ok())
                .unwrap_or_default()
                / 1024,
            kernel: std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            load_before: load_average(),
            foreign_before,
            versions: versions(),
        })
    }
}

/// Refuses a busy machine, by the names of those that use it most; a warning if it is measured nevertheless.
fn verdict(foreign: f64, names: &[String], force: bool) -> Result<Option<String>> {
    if foreign <= MOST_FOREIGN {
        return Ok(None);
    }
    let names = names.iter().take(5).map(String::as_str).collect::<Vec<_>>().join(", ");
    let busy = format!("others use {foreign:.0} % of the processors ({MOST_FOREIGN} % are allowed): {names}");
    if !force {
        bail!("{busy}; close them, or measure nevertheless with --force");
    }
    Ok(Some(busy))
}

/// The value of the first line `name: value` of a file of `/proc`.
fn field(path: &str, name: &str) -> Option<String> {
    let text = std::fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn versions() -> BTreeMap<String, String> {
    let first_line = |program: &str, argument: &str| {
        let output = Command::new(program).arg(argument).output().ok()?;
        let text = if output.stdout.is_empty() { output.stderr } else { output.stdout };
        Some(String::from_utf8_lossy(&text).lines().next()?.to_owned())
    };
    let programs =
        [("node", "node", "--version"), ("redis", "redis-server", "--version"), ("java", "java", "-version")];
    let mut versions: BTreeMap<String, String> = programs
        .into_iter()
        .filter_map(|(name, program, argument)| Some((name.to_owned(), first_line(program, argument)?)))
        .collect();
    // As `scripts/servers` installs them.
    versions.insert("kafka".to_owned(), "4.1.1".to_owned());
    versions.insert("mongod".to_owned(), "6.0.5".to_owned());
    versions
}

/// Measures how fast the machine is now.
///
/// # Errors
/// No loopback connection can be made.
pub async fn calibrate() -> Result<Speed> {
    let measured = tokio::task::spawn_blocking(|| anyhow::Ok(Speed { steps: steps(), round_trips: round_trips()? }));
    measured.await.context("the calibration ended early")?
}

fn steps() -> f64 {
    const CHUNK: u64 = 10_000;
    let (started, mut state, mut count) = (Instant::now(), 1_u64, 0_u64);
    while started.elapsed() < CALIBRATION {
        for _ in 0..CHUNK {
            // Xorshift: each step waits for the one before.
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
        }
        std::hint::black_box(state);
        count += CHUNK;
    }
    count as f64 / started.elapsed().as_secs_f64() / 1e6
}

fn round_trips() -> Result<f64> {
    let listener = TcpListener::bind("127.0.0.1:0").context("can't listen")?;
    let address = listener.local_addr()?;
    let echo = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        stream.set_nodelay(true)?;
        let mut packet = [0; PACKET];
        loop {
            // Ends with the connection.
            stream.read_exact(&mut packet)?;
            stream.write_all(&packet)?;
        }
    });
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    let (started, mut packet, mut count) = (Instant::now(), [0; PACKET], 0_u64);
    while started.elapsed() < CALIBRATION {
        stream.write_all(&packet)?;
        stream.read_exact(&mut packet)?;
        count += 1;
    }
    let rate = count as f64 / started.elapsed().as_secs_f64() / 1e3;
    drop(stream);
    // It ends with the error of a closed connection.
    let _ = echo.join();
    Ok(rate)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_calibration_gives_speeds() {
        let speed = calibrate().await.unwrap();
        assert!(speed.steps > 1.0 && speed.round_trips > 0.1, "{speed:?}");
    }

    #[test]
    fn a_busy_machine_is_refused_by_name_unless_forced() {
        let names = ["rustc (2)".to_owned(), "cc (1)".to_owned()];
        assert_eq!(verdict(MOST_FOREIGN, &names, false).unwrap(), None);
        let refused = verdict(40.0, &names, false).unwrap_err().to_string();
        assert!(
            refused.contains("40 %") && refused.contains("rustc (2), cc (1)") && refused.contains("--force"),
            "{refused}"
        );
        assert!(verdict(40.0, &names, true).unwrap().is_some());
    }

    #[tokio::test]
    async fn the_machine_is_described() {
        let machine = Machine::look(true).await.unwrap();
        assert!(machine.processors > 0 && machine.memory_mib > 0 && !machine.kernel.is_empty(), "{machine:?}");
        assert!((0.0..=100.0).contains(&machine.foreign_before), "{machine:?}");
    }
}
