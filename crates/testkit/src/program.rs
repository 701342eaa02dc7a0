//! Our own binaries, started as an operator would.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::child::Child;
use crate::files::Folder;
use crate::http::http_get;

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct ProgramOptions {
    /// What it is called in messages and in its folder's name; the binary's name if none.
    pub name: Option<String>,
    /// Its environment.
    pub environment: Vec<(String, String)>,
    /// Whether ours is passed on too. Tests should not: a developer's settings would change them.
    pub inherit_environment: bool,
    /// Its command line.
    pub args: Vec<String>,
    /// The folder of its log; a temporary one if none.
    pub dir: Option<PathBuf>,
}

/// A running `holdfast-gateway`, `holdfast-worker` or the like; killed on drop.
#[derive(Debug)]
pub struct Program {
    child: Child,
    // Dropped after the child that writes to it.
    folder: Folder,
}

impl Program {
    /// Starts `binary` with exactly this environment (and `PATH`, `HOME`, `RUST_BACKTRACE`); does not wait.
    ///
    /// # Errors
    /// It is not built, or can't be started.
    pub fn start<N: Into<String>, V: Into<String>>(
        binary: &str,
        environment: impl IntoIterator<Item = (N, V)>,
    ) -> Result<Self> {
        let environment = environment.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self::start_with(binary, ProgramOptions { environment, ..ProgramOptions::default() })
    }

    /// Starts `binary`; does not wait.
    ///
    /// # Errors
    /// It is not built, or can't be started.
    pub fn start_with(binary: &str, options: ProgramOptions) -> Result<Self> {
        let path = folder_of_binaries()?.join(binary);
        if !path.exists() {
            bail!("{} does not exist; run cargo build --workspace --bins", path.display());
        }
        let name = options.name.unwrap_or_else(|| binary.to_owned());
        let folder = Folder::at_or_temporary(options.dir, &name)?;
        let log = folder.path().join(format!("{name}.log"));
        let mut environment = options.environment;
        for inherited in ["PATH", "HOME", "RUST_BACKTRACE"] {
            if let Ok(value) = std::env::var(inherited)
                && !environment.iter().any(|(name, _)| name == inherited)
            {
                environment.push((inherited.to_owned(), value));
            }
        }
        let child =
            Child::new(name, path, log).environment(environment, options.inherit_environment).args(options.args);
        child.start()?;
        Ok(Self { child, folder })
    }

    /// Starts it again, after it has ended, with the same environment; does not wait.
    ///
    /// # Errors
    /// It runs, or can't be started.
    pub fn start_again(&self) -> Result<()> {
        self.child.start()
    }

    /// Waits until `http://{ops_address}/health/ready` answers 200.
    ///
    /// # Errors
    /// It ends, or `limit` passes; the end of its log is part of the error.
    pub async fn wait_ready(&self, ops_address: &str, limit: Duration) -> Result<()> {
        self.child
            .ready_within(limit, || async { matches!(http_get(ops_address, "/health/ready").await, Ok((200, _))) })
            .await
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }
}

/// `HOLDFAST_BIN_DIR`, or where cargo puts the binaries of the profile that this executable was built with.
fn folder_of_binaries() -> Result<PathBuf> {
    if let Some(folder) = std::env::var_os("HOLDFAST_BIN_DIR") {
        return Ok(folder.into());
    }
    let this = std::env::current_exe().context("can't find the path of this executable")?;
    let folder = this.parent().context("this executable lies in no folder")?;
    // Tests lie one deeper.
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    Ok(folder.to_owned())
}

impl std::ops::Deref for Program {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}
