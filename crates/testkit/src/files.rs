//! Where servers keep their data, and where the servers themselves are.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, bail};

use crate::reaper;

/// A folder for one server's data and log.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: bool,
}

impl Folder {
    /// A folder that is removed on drop, and when this process ends.
    ///
    /// # Errors
    /// It can't be created.
    pub fn temporary(name: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let path = reaper::folder()?.join(format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed)));
        create(&path)?;
        Ok(Self { path, temporary: true })
    }

    /// The folder `path`, created if absent, or else a temporary one.
    ///
    /// # Errors
    /// It can't be created.
    pub fn at_or_temporary(path: Option<PathBuf>, name: &str) -> Result<Self> {
        let Some(path) = path else { return Self::temporary(name) };
        create(&path)?;
        let path = path.canonicalize().with_context(|| format!("can't resolve {}", path.display()))?;
        Ok(Self { path, temporary: false })
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary && std::env::var_os("HOLDFAST_KEEP").is_none() {
            // What is left goes with the process's folder.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

fn create(path: &Path) -> Result<()> {
    std::fs::create_dir_all(path).with_context(|| format!("can't create {}", path.display()))
}

/// `HOLDFAST_MONGOD`, or the one in the cache folder.
pub(crate) fn mongod() -> Result<PathBuf> {
    match std::env::var_os("HOLDFAST_MONGOD") {
        Some(path) => Ok(path.into()),
        None => cached("mongod-6.0.5/mongod"),
    }
}

/// The folder of Kafka's jars, its logging settings and its class archive.
pub(crate) fn kafka() -> Result<PathBuf> {
    cached("kafka-4.1.1")
}

fn cached(name: &str) -> Result<PathBuf> {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = variable("HOLDFAST_CACHE")
        .or_else(|| variable("XDG_CACHE_HOME").map(|path| path.join("holdfast")))
        .or_else(|| variable("HOME").map(|path| path.join(".cache/holdfast")))
        .context("neither HOLDFAST_CACHE nor HOME is set")?;
    let path = cache.join(name);
    if !path.exists() {
        bail!("{} does not exist; run scripts/servers", path.display());
    }
    Ok(path)
}
