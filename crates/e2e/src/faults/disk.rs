//! A file system of a few megabytes, for servers whose disk fills up.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::Folder;

/// A mounted file system of a few megabytes; dropping it unmounts it.
#[derive(Debug)]
pub(super) struct SmallDisk(Folder);

impl SmallDisk {
    /// Mounts a small file system.
    ///
    /// # Errors
    /// The right to mount is missing.
    pub(super) fn new() -> Result<Self> {
        let folder = Folder::temporary("small-disk")?;
        let mut mount = Command::new("mount");
        let mounted = mount.args(["-t", "tmpfs", "-o", "size=4m", "tmpfs"]).arg(folder.path()).status();
        ensure!(mounted.context("mount")?.success(), "a disk of its own needs the right to mount");
        Ok(Self(folder))
    }

    /// The path that it is mounted at.
    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // A server that is just ending may still use it: a lazy unmount. If it fails, the system reports it.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}
