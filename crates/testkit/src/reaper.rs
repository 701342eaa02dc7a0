//! Kills the processes that this one started, however it ends itself.
//!
//! A shell, started once, reads from a pipe that this process holds. Every child is announced to it, and released once it has been waited
//! for. When the pipe closes, because this process returned, panicked or was killed, the shell kills what is left and removes this
//! process's temporary folder. It sits in a process group of its own, so that a terminal's Ctrl-C does not reach it.
//!
//! `HOLDFAST_KEEP=1` keeps the temporary folders, for reading logs afterwards.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError};

use anyhow::{Context, Result};

const SCRIPT: &str = r#"
folder=$1
pids=" "
while read -r what pid; do
  case $what in
    take) pids="$pids$pid " ;;
    drop) case $pids in *" $pid "*) pids="${pids%%" $pid "*} ${pids#*" $pid "}" ;; esac ;;
  esac
done
for pid in $pids; do kill -KILL "$pid" 2>/dev/null; done
[ -z "$folder" ] && exit
for pause in 0 0.2 1 3; do sleep $pause; rm -rf "$folder" && exit; done 2>/dev/null
"#;

struct Reaper {
    folder: PathBuf,
    pipe: Mutex<ChildStdin>,
}

static REAPER: LazyLock<Result<Reaper, String>> = LazyLock::new(|| start().map_err(|error| format!("{error:#}")));

fn start() -> Result<Reaper> {
    let name = format!("holdfast-{}-{:08x}", std::process::id(), fastrand::u32(..));
    let folder = std::env::temp_dir().join(name);
    std::fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    let keep = std::env::var_os("HOLDFAST_KEEP").is_some();
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT, "reaper"])
        .arg(if keep { Path::new("") } else { &folder })
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .context("can't start sh")?;
    let pipe = shell.stdin.take().context("sh has no standard input")?;
    Ok(Reaper { folder, pipe: Mutex::new(pipe) })
}

fn reaper() -> Result<&'static Reaper> {
    REAPER.as_ref().map_err(|error| anyhow::anyhow!("can't start the reaper: {error}"))
}

fn send(command: &str, pid: u32) -> Result<()> {
    let mut pipe = reaper()?.pipe.lock().unwrap_or_else(PoisonError::into_inner);
    writeln!(pipe, "{command} {pid}").context("the reaper is gone")
}

/// From now on `pid` is killed when this process ends.
///
/// # Errors
/// The shell could not be started, or is gone.
pub fn take(pid: u32) -> Result<()> {
    send("take", pid)
}

/// `pid` has been waited for: it may soon be another process.
pub fn release(pid: u32) {
    // A reaper that is gone kills nothing.
    let _ = send("drop", pid);
}

/// This process's temporary folder, removed when the process ends.
///
/// # Errors
/// It can't be created.
pub fn folder() -> Result<&'static Path> {
    Ok(&reaper()?.folder)
}
