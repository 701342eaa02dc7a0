//! Ports for servers that must come back where they were.
//!
//! A port that the system picks for a listener may be picked for somebody's outgoing connection while the server is down. These lie below
//! the range from which systems pick, and a locked file keeps other test processes away from them.

use std::fs::File;
use std::net::TcpListener;
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, Result, bail};

const RANGE: std::ops::Range<u16> = 20_000..32_000;

/// The locks of the ports given out, held until this process ends.
static TAKEN: Mutex<Vec<File>> = Mutex::new(Vec::new());

/// A loopback port that nothing listens on, and that no other call in any process gives out while this process lives.
///
/// # Errors
/// No lock file can be made, or no port is left.
pub fn free_port() -> Result<u16> {
    let folder = std::env::temp_dir().join("holdfast-ports");
    std::fs::create_dir_all(&folder).with_context(|| format!("can't create {}", folder.display()))?;
    for _ in 0..1000 {
        let port = fastrand::u16(RANGE);
        let path = folder.join(port.to_string());
        let file = File::create(&path).with_context(|| format!("can't create {}", path.display()))?;
        if file.try_lock().is_ok() && is_free(port) {
            TAKEN.lock().unwrap_or_else(PoisonError::into_inner).push(file);
            return Ok(port);
        }
    }
    bail!("found no free port between {} and {}", RANGE.start, RANGE.end)
}

/// Whether nothing listens on this loopback port.
pub fn is_free(port: u16) -> bool {
    TcpListener::bind(("127.0.0.1", port)).is_ok()
}

/// Whether something accepts connections on this loopback port.
pub(crate) async fn accepts(port: u16) -> bool {
    tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok()
}
