//! MongoDB: a replica set of one member, because majority writes and retryable writes need a set.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use mongodb::Client;
use mongodb::bson::{Document, doc};
use mongodb::options::ClientOptions;
use tokio::time::{Instant, sleep};

use crate::child::{Child, POLL};
use crate::files::{self, Folder};
use crate::ports::free_port;

const START: Duration = Duration::from_secs(60);

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct MongoOptions {
    /// Its folder; a temporary one if none.
    pub dir: Option<PathBuf>,
    /// Its port; a free one if none.
    pub port: Option<u16>,
    /// More of its command line.
    pub args: Vec<String>,
    /// A standalone server without a replica set, as no deployment should have.
    pub standalone: bool,
}

/// A running MongoDB, primary of the set `rs0`.
#[derive(Debug)]
pub struct Mongo {
    child: Child,
    port: u16,
    // Dropped after the child that writes to it.
    folder: Folder,
}

impl Mongo {
    /// Starts one with default options.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn start() -> Result<Self> {
        Self::start_with(MongoOptions::default()).await
    }

    /// Starts one, initiates its set if it is new, and waits until it is primary.
    ///
    /// # Errors
    /// It can't be started; the end of its log is part of the error.
    pub async fn start_with(options: MongoOptions) -> Result<Self> {
        let mongo = Self::prepare(options)?;
        mongo.start_again().await?;
        Ok(mongo)
    }

    /// One that is not started yet.
    pub(crate) fn prepare(options: MongoOptions) -> Result<Self> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let folder = Folder::at_or_temporary(options.dir, "mongo")?;
        let data = folder.path().join("data");
        std::fs::create_dir_all(&data).with_context(|| format!("can't create {}", data.display()))?;
        let child = Child::new("mongod", files::mongod()?, folder.path().join("log"))
            .args(["--port", &port.to_string(), "--bind_ip", "127.0.0.1", "--nounixsocket", "--quiet"])
            .args(if options.standalone { &[][..] } else { &["--replSet", "rs0"] }.iter().copied())
            .args(["--wiredTigerCacheSizeGB", "0.25", "--oplogSize", "64"])
            // A primary would stay 15 s for its secondaries, of which there are none.
            .args(["--setParameter", "shutdownTimeoutMillisForSignaledShutdown=0"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .arg("--dbpath")
            .arg(data)
            .args(options.args);
        Ok(Self { child, port, folder })
    }

    /// Starts it again, after it has ended, on the same port and folder, and waits until it is primary.
    ///
    /// # Errors
    /// It runs, or can't be started.
    pub async fn start_again(&self) -> Result<()> {
        self.start_as_member().await?;
        self.become_primary().await.with_context(|| format!("the end of its log:\n{}", self.child.log_tail(20)))
    }

    /// Starts it and waits until it accepts connections, whatever its part in a set.
    pub(crate) async fn start_as_member(&self) -> Result<()> {
        self.child.start()?;
        self.child.ready_within(START, || async { crate::ports::accepts(self.port).await }).await
    }

    async fn become_primary(&self) -> Result<()> {
        let mut options = ClientOptions::parse(self.url_at(self.port)).await?;
        options.server_selection_timeout = Some(START);
        let client = Client::with_options(options)?;
        let admin = client.database("admin");
        let member = format!("127.0.0.1:{}", self.port);
        let deadline = Instant::now() + START;
        loop {
            let hello = admin.run_command(doc! { "hello": 1 }).await.unwrap_or_default();
            if hello.get_bool("isWritablePrimary").unwrap_or(false) {
                break;
            }
            match admin.run_command(doc! { "replSetGetConfig": 1 }).await {
                Ok(answer) => move_member(&admin, answer, &member).await?,
                Err(error) if is_not_yet_initialized(&error) => {
                    let set = doc! { "_id": "rs0", "members": [{ "_id": 0, "host": &member }] };
                    admin
                        .run_command(doc! { "replSetInitiate": set })
                        .await
                        .context("can't initiate the replica set")?;
                }
                // Still starting.
                Err(_) => {}
            }
            anyhow::ensure!(Instant::now() < deadline, "mongod is not primary after {START:?}; it says {hello}");
            sleep(POLL).await;
        }
        client.shutdown().immediate(true).await;
        Ok(())
    }

    /// Where it is.
    pub fn url(&self) -> String {
        self.url_at(self.port)
    }

    /// Where it is for those who come through a proxy: `directConnection`, as the set names its member by the real port.
    pub fn url_at(&self, port: u16) -> String {
        format!("mongodb://127.0.0.1:{port}/?directConnection=true")
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its folder.
    pub fn folder(&self) -> &Folder {
        &self.folder
    }

    /// SIGTERM, and waits.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn stop(&self) -> Result<()> {
        self.child.term_and_wait(Duration::from_secs(30)).await.map(drop)
    }
}

fn is_not_yet_initialized(error: &mongodb::error::Error) -> bool {
    matches!(&*error.kind, mongodb::error::ErrorKind::Command(command) if command.code == 94)
}

/// Sets the only member's address. A folder that was last used with another port has that port in its configuration, and no primary until
/// it is changed.
async fn move_member(admin: &mongodb::Database, answer: Document, member: &str) -> Result<()> {
    let mut config = answer.get_document("config").context("mongod gives no configuration")?.clone();
    let version = config.get_i32("version").unwrap_or(1);
    let members = config.get_array_mut("members").context("the set has no members")?;
    let first = members.first_mut().and_then(|first| first.as_document_mut()).context("the set has no members")?;
    if first.get_str("host") == Ok(member) {
        return Ok(());
    }
    first.insert("host", member);
    config.insert("version", version + 1);
    let command = doc! { "replSetReconfig": config, "force": true };
    admin.run_command(command).await.context("can't move the replica set to this port")?;
    Ok(())
}

impl std::ops::Deref for Mongo {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}
