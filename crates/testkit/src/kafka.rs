//! Kafka: one node that is broker and controller at once.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::Child;
use crate::files::{self, Folder};
use crate::ports::free_port;
use crate::proxy::Proxy;

const START: Duration = Duration::from_secs(90);

/// One more port to listen on, whose clients are redirected to another.
///
/// Kafka's clients connect to whatever address the broker names, so a proxy needs a listener that names the proxy.
#[derive(Debug, Clone, Copy)]
pub struct Listener {
    /// The port to listen on.
    pub port: u16,
    /// The port that the broker advertises to clients of this listener.
    pub advertised: u16,
}

/// How to start one.
#[derive(Debug, Clone, Default)]
pub struct KafkaOptions {
    /// Its folder; a temporary one if none.
    pub dir: Option<PathBuf>,
    /// Its port; a free one if none.
    pub port: Option<u16>,
    /// More ports.
    pub listeners: Vec<Listener>,
    /// More settings, e.g. `("message.max.bytes", "2000")`; later ones win.
    pub settings: Vec<(String, String)>,
}

/// A running Kafka.
#[derive(Debug)]
pub struct Kafka {
    child: Child,
    port: u16,
    // Dropped after the child that writes to it.
    folder: Folder,
}

impl Kafka {
    /// Starts one with default options.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn start() -> Result<Self> {
        Self::start_with(KafkaOptions::default()).await
    }

    /// Starts one with `N` proxies in front, each with a listener of its own.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn start_behind<const N: usize>() -> Result<(Self, [Proxy; N])> {
        Self::start_with_behind(KafkaOptions::default()).await
    }

    /// The same with options.
    ///
    /// # Errors
    /// As [`Self::start_with`].
    pub async fn start_with_behind<const N: usize>(mut options: KafkaOptions) -> Result<(Self, [Proxy; N])> {
        let mut proxies = Vec::with_capacity(N);
        for _ in 0..N {
            let port = free_port()?;
            let proxy = Proxy::start(port).await?;
            options.listeners.push(Listener { port, advertised: proxy.port() });
            proxies.push(proxy);
        }
        let kafka = Self::start_with(options).await?;
        let proxies = proxies.try_into().ok().context("as many proxies as asked for")?;
        Ok((kafka, proxies))
    }

    /// Starts one, formats its folder if it is new, and waits until it answers.
    ///
    /// # Errors
    /// It can't be started; the end of its log is part of the error.
    pub async fn start_with(options: KafkaOptions) -> Result<Self> {
        let port = options.port.map_or_else(free_port, Ok)?;
        let folder = Folder::at_or_temporary(options.dir, "kafka")?;
        let home = files::kafka()?;
        let settings = settings(port, free_port()?, &options.listeners, &options.settings, folder.path());
        let properties = folder.path().join("server.properties");
        std::fs::write(&properties, settings).with_context(|| format!("can't write {}", properties.display()))?;
        let data = folder.path().join("data");
        if !data.join("meta.properties").exists() {
            format(&home, &data)?;
        }
        let child = java(&home, folder.path())?.arg("kafka.Kafka").arg(properties);
        let kafka = Self { child, port, folder };
        kafka.start_again().await?;
        Ok(kafka)
    }

    /// Starts it again, after it has ended, on the same ports and folder.
    ///
    /// # Errors
    /// It runs, or can't be started.
    pub async fn start_again(&self) -> Result<()> {
        self.child.start()?;
        self.child.ready_within(START, || answers(self.port)).await
    }

    /// Where it is: `KAFKA_BROKERS`.
    pub fn brokers(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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
        self.child.term_and_wait(Duration::from_secs(60)).await.map(drop)
    }
}

fn settings(port: u16, controller: u16, more: &[Listener], extra: &[(String, String)], folder: &Path) -> String {
    let mut listeners = format!("PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller}");
    let mut advertised = format!("PLAINTEXT://127.0.0.1:{port}");
    let mut protocols = String::from("PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT");
    for (number, listener) in more.iter().enumerate() {
        let Listener { port, advertised: announced } = listener;
        // Writing to a String can't fail.
        let _ = write!(listeners, ",PROXY{number}://127.0.0.1:{port}");
        let _ = write!(advertised, ",PROXY{number}://127.0.0.1:{announced}");
        let _ = write!(protocols, ",PROXY{number}:PLAINTEXT");
    }
    let mut text = format!(
        "process.roles=broker,controller\n\
         node.id=1\n\
         # Voters from here, not from the log: the folder may be used with other ports next time.\n\
         controller.quorum.voters=1@127.0.0.1:{controller}\n\
         controller.listener.names=CONTROLLER\n\
         inter.broker.listener.name=PLAINTEXT\n\
         listeners={listeners}\n\
         advertised.listeners={advertised}\n\
         listener.security.protocol.map={protocols}\n\
         log.dirs={}\n\
         auto.create.topics.enable=false\n\
         offsets.topic.replication.factor=1\n\
         offsets.topic.num.partitions=1\n\
         transaction.state.log.replication.factor=1\n\
         transaction.state.log.min.isr=1\n\
         # No waiting for members that a test never starts; short sessions for those that it freezes.\n\
         group.initial.rebalance.delay.ms=0\n\
         group.min.session.timeout.ms=1000\n\
         # Small machines: 128 MB of the heap otherwise, and three threads for each of these.\n\
         log.cleaner.dedupe.buffer.size=2097152\n\
         num.network.threads=2\n\
         num.io.threads=4\n\
         background.threads=4\n",
        folder.join("data").display()
    );
    for (name, value) in extra {
        let _ = writeln!(text, "{name}={value}");
    }
    text
}

/// A small, quickly started Java; the class archive halves the start and is left out silently if it does not fit. What it unpacks (the
/// codecs' native libraries) goes with the folder.
fn java(home: &Path, folder: &Path) -> Result<Child> {
    let unpacked = folder.join("tmp");
    std::fs::create_dir_all(&unpacked).with_context(|| format!("can't create {}", unpacked.display()))?;
    let child = Child::new("kafka", "java", folder.join("log"))
        .args([
            "-Xms64m",
            "-Xmx256m",
            "-XX:+UseSerialGC",
            "-XX:TieredStopAtLevel=1",
            "-XX:-UsePerfData",
            "-Xshare:auto",
        ])
        .arg(format!("-Djava.io.tmpdir={}", unpacked.display()))
        .arg(format!("-XX:SharedArchiveFile={}", home.join("classes.jsa").display()))
        .arg(format!("-Dlog4j2.configurationFile={}", home.join("log4j2.properties").display()))
        .arg("-cp")
        .arg(home.join("libs/*"));
    Ok(child)
}

/// Copies the empty folder that `scripts/servers` formatted: formatting one takes a Java of its own.
fn format(home: &Path, data: &Path) -> Result<()> {
    std::fs::create_dir_all(data).with_context(|| format!("can't create {}", data.display()))?;
    // The one that says "formatted" comes last.
    for name in ["bootstrap.checkpoint", "meta.properties"] {
        let source = home.join("formatted").join(name);
        std::fs::copy(&source, data.join(name)).with_context(|| format!("can't copy {}", source.display()))?;
    }
    Ok(())
}

/// Whether it answers an `ApiVersions` request, the first that every client sends.
async fn answers(port: u16) -> bool {
    let ask = async {
        let mut stream = TcpStream::connect(("127.0.0.1", port)).await.ok()?;
        // Size; key 18, version 0, correlation id 7, no client id.
        stream.write_all(&[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 7, 0xff, 0xff]).await.ok()?;
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).await.ok()?;
        (answer[4..] == [0, 0, 0, 7, 0, 0]).then_some(())
    };
    matches!(tokio::time::timeout(Duration::from_secs(2), ask).await, Ok(Some(())))
}

impl std::ops::Deref for Kafka {
    type Target = Child;

    fn deref(&self) -> &Child {
        &self.child
    }
}
