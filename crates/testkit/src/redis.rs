//! Redis, in either of its two roles.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use redis::AsyncConnectionConfig;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::Child;
use crate::files::Folder;
use crate::ports::free_port;

const START: Duration = Duration::from_secs(30);

/// What a Redis is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Role {
    /// May evict, keeps nothing on disk.
    #[default]
    Cache,
    /// The failed queue: evicts nothing, keeps an append-only file.
    Queue,
}

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    /// What it is for.
    pub role: Role,
    /// Its folder; a temporary one if none.
    pub dir: Option<PathBuf>,
    /// Its port; a free one if none.
    pub port: Option<u16>,
    /// More of its command line, e.g. `["--maxmemory", "3mb"]`; later ones win.
    pub args: Vec<String>,
    /// Keeps its settings in a file, so that `CONFIG REWRITE` outlives a restart; on the command line they would win again.
    pub settings_in_a_file: bool,
}

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    // Dropped after the child that writes to it.
    folder: Folder,
}

impl Redis {
    /// Starts one and waits until it answers.
    ///
    /// # Errors
    /// It can't be started; the end of its log is part of the error.
    pub async fn start(options: RedisOptions) -> Result<Self> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let name = match options.role {
            Role::Cache => "redis-cache",
            Role::Queue => "redis-queue",
        };
        let folder = Folder::at_or_temporary(options.dir, name)?;
        let role: &[&str] = match options.role {
            Role::Cache => &["--appendonly", "no", "--maxmemory", "256mb", "--maxmemory-policy", "allkeys-lru"],
            Role::Queue => &["--appendonly", "yes", "--appendfsync", "everysec", "--maxmemory-policy", "noeviction"],
        };
        let port_text = port.to_string();
        let own = ["--port", &port_text, "--bind", "127.0.0.1", "--daemonize", "no", "--save", ""].map(str::to_owned);
        let folder_text = folder.path().to_string_lossy().into_owned();
        let role = role.iter().map(|part| (*part).to_owned());
        let settings: Vec<_> =
            own.into_iter().chain(["--dir".into(), folder_text]).chain(role).chain(options.args).collect();
        let mut child = Child::new(name, "redis-server", folder.path().join("log"));
        if options.settings_in_a_file {
            let file = folder.path().join("redis.conf");
            std::fs::write(&file, in_lines(&settings)).with_context(|| format!("can't write {}", file.display()))?;
            child = child.arg(file);
        } else {
            child = child.args(settings);
        }
        let redis = Self { child, port, folder };
        redis.start_again().await?;
        Ok(redis)
    }

    /// A cache on a free port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn cache() -> Result<Self> {
        Self::start(RedisOptions::default()).await
    }

    /// A failed queue on a free port.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn queue() -> Result<Self> {
        Self::start(RedisOptions { role: Role::Queue, ..RedisOptions::default() }).await
    }

    /// Starts it again, after it has ended, on the same port and folder.
    ///
    /// # Errors
    /// It runs, or can't be started.
    pub async fn start_again(&self) -> Result<()> {
        self.child.start()?;
        self.child.ready_within(START, || answers(self.port)).await
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// Where it is for those who come through a proxy.
    pub fn url_at(&self, port: u16) -> String {
        format!("redis://127.0.0.1:{port}/")
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// SIGTERM, and waits; it writes down what its settings say.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn stop(&self) -> Result<()> {
        self.child.term_and_wait(Duration::from_secs(15)).await.map(drop)
    }
}

/// `--name value` of a command line as the lines of a file.
fn in_lines(settings: &[String]) -> String {
    let mut text = String::new();
    for part in settings {
        match part.strip_prefix("--") {
            Some(name) => text.push_str(&format!("\n{name}")),
            None => text.push_str(&format!(" \"{part}\"")),
        }
    }
    text.push('\n');
    text
}

/// A connection of a test's own, which waits for its answers. The client's own patience is half a second, and a busy machine may take
/// longer.
///
/// # Errors
/// The server can't be reached, or refuses.
pub async fn connect_redis(url: &str) -> Result<MultiplexedConnection> {
    let patient = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
    let client = redis::Client::open(url).context("not an address of redis")?;
    client
        .get_multiplexed_async_connection_with_config(&patient)
        .await
        .with_context(|| format!("{url} does not answer"))
}

/// Whether it takes commands (while it loads its file it says so instead).
async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        stream.write_all(b"PING\r\n").await.ok()?;
        let mut answer = [0; 5];
        stream.read_exact(&mut answer).await.ok()?;
        (&answer == b"+PONG").then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(1), ask).await, Ok(Some(())))
}

impl std::ops::Deref for Redis {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}
