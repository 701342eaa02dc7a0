//! One operating-system process that we started: signals, waiting, its log.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::time::{Instant, sleep};

use crate::reaper;

/// The polling interval for states without an event.
pub(crate) const POLL: Duration = Duration::from_millis(20);

/// A process that can be killed, stopped, frozen and started again. Killed on drop.
///
/// It lives in a process group of its own and in no runtime, so that handles may pass from one test's runtime to another's.
#[derive(Debug)]
pub struct Child {
    name: String,
    program: PathBuf,
    arguments: Vec<OsString>,
    /// The environment: these alone, or on top of ours.
    environment: Vec<(String, String)>,
    inherit_environment: bool,
    log: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    running: Option<std::process::Child>,
    pid: u32,
    last_exit: Option<ExitStatus>,
}

impl Child {
    /// Describes a process; nothing is started yet. Its output is appended to `log`.
    pub fn new(name: impl Into<String>, program: impl Into<PathBuf>, log: impl Into<PathBuf>) -> Self {
        Self {
            name: name.into(),
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            inherit_environment: true,
            log: log.into(),
            state: Mutex::default(),
        }
    }

    /// Adds an argument.
    pub fn arg(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds arguments.
    pub fn args<A: Into<OsString>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        self.arguments.extend(arguments.into_iter().map(Into::into));
        self
    }

    /// Sets environment variables, on top of ours if `inherit`.
    pub fn environment(mut self, environment: Vec<(String, String)>, inherit: bool) -> Self {
        self.environment = environment;
        self.inherit_environment = inherit;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// It runs already, or can't be started.
    pub fn start(&self) -> Result<()> {
        if self.is_running() {
            bail!("{} runs already", self.name);
        }
        let log = OpenOptions::new().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("can't open {}", self.log.display()))?;
        let mut command = Command::new(&self.program);
        if !self.inherit_environment {
            command.env_clear();
        }
        command
            .args(&self.arguments)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(log.try_clone().context("can't share the log file")?)
            .stderr(log)
            .process_group(0);
        let mut state = self.lock();
        let child = command.spawn().with_context(|| format!("can't start {}", self.program.display()))?;
        state.pid = child.id();
        state.last_exit = None;
        state.running = Some(child);
        reaper::take(state.pid)
    }

    /// What it is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The id of the process itself, or of the last one if it has ended.
    pub fn pid(&self) -> u32 {
        self.lock().pid
    }

    /// Whether it has been started and not yet ended.
    pub fn is_running(&self) -> bool {
        let mut state = self.lock();
        state.look();
        state.running.is_some()
    }

    /// How it ended, if it has.
    pub fn exit_status(&self) -> Option<ExitStatus> {
        let mut state = self.lock();
        state.look();
        state.last_exit
    }

    /// Sends a signal, if it runs.
    ///
    /// # Errors
    /// The system refuses.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let mut state = self.lock();
        state.look();
        if state.running.is_none() {
            return Ok(());
        }
        let pid = i32::try_from(state.pid).ok().and_then(Pid::from_raw).context("not a process id")?;
        kill_process(pid, signal).with_context(|| format!("can't signal {}", self.name))
    }

    /// Waits for its end; none if that takes longer than `limit`.
    pub async fn ended_within(&self, limit: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.exit_status() {
                return Some(status);
            }
            if Instant::now() >= deadline {
                return None;
            }
            sleep(POLL).await;
        }
    }

    /// SIGKILL; returns when the process is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill9(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        self.gone_within(Duration::from_secs(10)).await.map(drop)
    }

    /// SIGTERM; returns its exit code when it has ended, or minus the number of the signal that ended it.
    ///
    /// # Errors
    /// It does not end within `limit`; it is left running.
    pub async fn term_and_wait(&self, limit: Duration) -> Result<i32> {
        self.signal(Signal::TERM)?;
        let status = self.gone_within(limit).await?;
        Ok(status.code().or_else(|| status.signal().map(|signal| -signal)).unwrap_or_default())
    }

    async fn gone_within(&self, limit: Duration) -> Result<ExitStatus> {
        match self.ended_within(limit).await {
            Some(status) => Ok(status),
            None => bail!("{} did not end within {limit:?}; the end of its log:\n{}", self.name, self.log_tail(40)),
        }
    }

    /// SIGSTOP: it keeps its connections and answers nothing.
    ///
    /// # Errors
    /// The system refuses.
    pub fn freeze(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// SIGCONT: it goes on.
    ///
    /// # Errors
    /// The system refuses.
    pub fn thaw(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// The file with its output, of every start.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// Waits until `ready` says so, looking every few milliseconds.
    ///
    /// # Errors
    /// The process ends, or `limit` passes; the error carries the end of its log.
    pub async fn ready_within<F: Future<Output = bool>>(
        &self,
        limit: Duration,
        mut ready: impl FnMut() -> F,
    ) -> Result<()> {
        let deadline = Instant::now() + limit;
        loop {
            if ready().await {
                return Ok(());
            }
            if let Some(status) = self.exit_status() {
                bail!("{} ended before it was ready ({status}); the end of its log:\n{}", self.name, self.log_tail(40));
            }
            if Instant::now() >= deadline {
                bail!("{} is not ready after {limit:?}; the end of its log:\n{}", self.name, self.log_tail(40));
            }
            sleep(POLL).await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes note of an end.
    fn look(&mut self) {
        if let Some(child) = &mut self.running
            && let Ok(Some(status)) = child.try_wait()
        {
            self.end(status);
        }
    }

    fn end(&mut self, status: ExitStatus) {
        reaper::release(self.pid);
        self.running = None;
        self.last_exit = Some(status);
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let mut state = self.lock();
        if let Some(child) = &mut state.running {
            // Already ended is as good; a wait after SIGKILL is short.
            let _ = child.kill();
            if let Ok(status) = child.wait() {
                state.end(status);
            }
        }
    }
}
