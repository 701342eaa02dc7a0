//! What an operator should know about a queue server although it retains what is pushed.

use std::fmt;

use holdfast_redis::server_info::ServerFacts;

/// A setting or a state with which the queue works, but which may lose messages later.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Warning {
    /// `appendfsync` is `everysec`, and pushes do not wait for the disk.
    SyncedEverySecond,
    /// `no-appendfsync-on-rewrite` is `yes`.
    SyncStopsWhileRewriting,
    /// The last rewrite of the append-only file failed.
    RewriteFailed,
    /// Settings were changed with `CONFIG SET` and not written with `CONFIG REWRITE`. The server does not say which ones.
    NotInItsFile {
        /// The configuration file; `None`: the server was started without one.
        file: Option<String>,
    },
}

impl Warning {
    /// The warnings about a server with these facts. `waits`: each push waits for the disk.
    pub fn all(found: &ServerFacts, waits: bool) -> Vec<Self> {
        let mut warnings = Vec::new();
        if found.fsync.as_deref() == Some("everysec") && !waits {
            warnings.push(Self::SyncedEverySecond);
        }
        if found.no_sync_on_rewrite == Some(true) {
            warnings.push(Self::SyncStopsWhileRewriting);
        }
        if found.state.append_only.is_some_and(|append_only| append_only.rewrite_failed) {
            warnings.push(Self::RewriteFailed);
        }
        if found.config_calls.is_some_and(|calls| calls.set > 0 && calls.rewrite == 0) {
            let file = found.config_file.clone().filter(|file| !file.is_empty());
            warnings.push(Self::NotInItsFile { file });
        }
        warnings
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SyncedEverySecond => f.write_str(
                "the queue server syncs its file every second: a power failure may take the last second's messages; appendfsync always, or Redis 7.2 and a FAILED_QUEUE_TIMEOUT_MS of 2500, keep them",
            ),
            Self::SyncStopsWhileRewriting => f.write_str(
                "the queue server does not sync its file while it writes it anew (no-appendfsync-on-rewrite yes): the failed queue refuses messages for so long",
            ),
            Self::RewriteFailed => f.write_str(
                "the queue server could not write its append-only file anew (aof_last_bgrewrite_status): the file only grows",
            ),
            Self::NotInItsFile { file } => {
                f.write_str("the queue server's settings were changed while it ran (CONFIG SET) and never written to its configuration file ")?;
                match file {
                    Some(file) => write!(f, "({file})")?,
                    None => f.write_str("(it was started without one)")?,
                }
                f.write_str(": unless `appendonly yes` is there, nothing is retained after its next restart")
            }
        }
    }
}
