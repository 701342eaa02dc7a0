//! One run at a time on a data folder.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The data folder, ours until dropped.
#[derive(Debug)]
pub(crate) struct DataFolder {
    path: PathBuf,
    /// Locked; the system releases it however this process ends.
    _lock: File,
}

impl DataFolder {
    /// Creates the folder if absent and takes it; with `fresh`, empties it.
    pub(crate) fn take(path: &Path, fresh: bool) -> Result<Self> {
        std::fs::create_dir_all(path).with_context(|| format!("can't create {}", path.display()))?;
        let path = path.canonicalize().with_context(|| format!("can't resolve {}", path.display()))?;
        let name = path.join("lock");
        let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&name);
        let mut lock = file.with_context(|| format!("can't open {}", name.display()))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut owner = String::new();
                // Only to say more.
                let _ = lock.read_to_string(&mut owner);
                let owner = owner.trim();
                bail!(
                    "Holdfast runs on {} already (process {owner}); stop it, or use another folder: --data DIR",
                    path.display()
                );
            }
            Err(TryLockError::Error(error)) => return Err(error).context(format!("can't lock {}", name.display())),
        }
        lock.set_len(0).and_then(|()| lock.rewind()).and_then(|()| writeln!(lock, "{}", std::process::id()))?;
        if fresh {
            empty(&path).with_context(|| format!("can't empty {}", path.display()))?;
        }
        Ok(Self { path, _lock: lock })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The secret that tokens are signed with: made once, then the same for every run on this folder.
    pub(crate) fn secret(&self) -> Result<String> {
        let path = self.path.join("jwt-secret");
        if let Ok(secret) = std::fs::read_to_string(&path)
            && secret.trim().len() >= 32
        {
            return Ok(secret.trim().to_owned());
        }
        let mut random = [0; 32];
        File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut random)).context("no randomness")?;
        let secret: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
        let mut options = OpenOptions::new();
        std::os::unix::fs::OpenOptionsExt::mode(options.create(true).truncate(true).write(true), 0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(secret.as_bytes()))
            .with_context(|| format!("can't write {}", path.display()))?;
        Ok(secret)
    }
}

/// Removes what earlier runs left there, by name: the folder may be one that the user gave by mistake.
fn empty(path: &Path) -> std::io::Result<()> {
    for name in ["redis-cache", "redis-queue", "mongo", "kafka", "logs"] {
        match std::fs::remove_dir_all(path.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_in_use_is_refused_and_says_by_whom() {
        let folder = holdfast_testkit::Folder::temporary("lock").unwrap();
        let first = DataFolder::take(folder.path(), false).unwrap();
        let refusal = DataFolder::take(folder.path(), true).unwrap_err().to_string();
        assert!(refusal.contains(&format!("process {}", std::process::id())), "{refusal}");
        drop(first);
        DataFolder::take(folder.path(), false).unwrap();
    }

    #[test]
    fn fresh_removes_data_but_neither_the_secret_nor_what_is_not_ours() {
        let folder = holdfast_testkit::Folder::temporary("fresh").unwrap();
        let secret = DataFolder::take(folder.path(), false).unwrap().secret().unwrap();
        std::fs::create_dir_all(folder.path().join("mongo/data")).unwrap();
        std::fs::write(folder.path().join("notes"), "mine").unwrap();
        let again = DataFolder::take(folder.path(), true).unwrap();
        assert!(!folder.path().join("mongo").exists());
        assert!(folder.path().join("notes").exists());
        assert_eq!(again.secret().unwrap(), secret);
        assert!(secret.len() >= 32);
    }
}
