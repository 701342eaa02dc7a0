//! A TCP line that can be cut, blocked and slowed.
//!
//! Each connection has two directions, each a reader and a writer joined by a bounded channel (64 chunks of at most 16 KiB; a full one
//! stops the reader, and so the sender behind it).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::ports::free_port;

const CHUNK: usize = 16 * 1024;
const CHUNKS: usize = 64;

/// What the line does with bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Line {
    /// Nothing moves in either direction.
    blocked: bool,
    /// What the server sends is thrown away.
    drop_answers: bool,
    /// How long the server's bytes take.
    latency: Duration,
}

/// A proxy in front of one server; it ends with its handle or with the runtime that started it.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    shared: Arc<Upstream>,
    /// Cancels the listener; none while the line is cut.
    listener: Mutex<Option<CancellationToken>>,
}

#[derive(Debug)]
struct Upstream {
    port: u16,
    line: watch::Sender<Line>,
    tasks: TaskTracker,
    connections: Mutex<Connections>,
}

/// What ends the present connections.
#[derive(Debug, Default)]
struct Connections {
    all: CancellationToken,
    /// Those that lost bytes and so make no sense any more once bytes flow again.
    spoiled: Vec<CancellationToken>,
}

impl Proxy {
    /// A proxy for the loopback port `upstream`, on a port of its own. The server need not be there yet.
    ///
    /// # Errors
    /// No port can be had.
    pub async fn start(upstream: u16) -> Result<Self> {
        let shared = Arc::new(Upstream {
            port: upstream,
            line: watch::Sender::new(Line::default()),
            tasks: TaskTracker::new(),
            connections: Mutex::default(),
        });
        let proxy = Self { port: free_port()?, shared, listener: Mutex::new(None) };
        proxy.listen().await?;
        Ok(proxy)
    }

    /// The port to connect to instead of the server's.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Closes all connections and refuses new ones, from when this returns until [`Self::heal`].
    pub async fn cut(&self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.cancel();
        }
        self.shared.tasks.close();
        // One that was being accepted at this very moment may join those that are ended a little later.
        loop {
            self.shared.end_connections();
            if timeout(Duration::from_millis(20), self.shared.tasks.wait()).await.is_ok() {
                return;
            }
        }
    }

    /// Back to a plain line: accepts, and moves everything at once. Connections that lost answers are closed, as a stream with a hole is
    /// none.
    ///
    /// # Errors
    /// The port was taken by somebody else while the line was cut.
    pub async fn heal(&self) -> Result<()> {
        self.shared.line.send_replace(Line::default());
        for connection in std::mem::take(&mut self.shared.connections().spoiled) {
            connection.cancel();
        }
        self.listen().await
    }

    /// Keeps and accepts connections and moves nothing, like a network that lost its route. What was on its way arrives after
    /// [`Self::heal`].
    pub fn blackhole(&self) {
        self.shared.line.send_modify(|line| line.blocked = true);
    }

    /// Resets the present connections (the peers see `ECONNRESET` or an end); new ones are accepted.
    pub fn reset(&self) {
        self.shared.end_connections();
    }

    /// The server gets everything and its answers are lost, until [`Self::heal`].
    pub fn drop_answers(&self) {
        self.shared.line.send_modify(|line| line.drop_answers = true);
    }

    /// Delays what the server sends, so that every round trip takes this much longer, until set again or [`Self::heal`].
    pub fn latency(&self, latency: Duration) {
        self.shared.line.send_modify(|line| line.latency = latency);
    }

    async fn listen(&self) -> Result<()> {
        if self.listener.lock().unwrap_or_else(PoisonError::into_inner).is_some() {
            return Ok(());
        }
        let listener = TcpListener::bind(("127.0.0.1", self.port)).await;
        let listener = listener.with_context(|| format!("can't listen on port {}", self.port))?;
        let end = CancellationToken::new();
        let shared = Arc::clone(&self.shared);
        let accept = accept(listener, shared);
        self.shared.tasks.reopen();
        self.shared.tasks.spawn(end.clone().run_until_cancelled_owned(accept));
        *self.listener.lock().unwrap_or_else(PoisonError::into_inner) = Some(end);
        Ok(())
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let listener = self.listener.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(listener) = listener {
            listener.cancel();
        }
        self.shared.end_connections();
    }
}

impl Upstream {
    fn connections(&self) -> std::sync::MutexGuard<'_, Connections> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn end_connections(&self) {
        std::mem::take(&mut *self.connections()).all.cancel();
    }
}

async fn accept(listener: TcpListener, upstream: Arc<Upstream>) {
    loop {
        let Ok((client, _)) = listener.accept().await else {
            // Out of file descriptors, most likely: others will close theirs.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let end = upstream.connections().all.child_token();
        upstream.tasks.spawn(connect(client, Arc::clone(&upstream), end));
    }
}

async fn connect(mut client: TcpStream, upstream: Arc<Upstream>, end: CancellationToken) {
    let mut line = upstream.line.subscribe();
    let _ = client.set_nodelay(true);
    let connected = async {
        unblocked(&mut line).await?;
        let server = TcpStream::connect(("127.0.0.1", upstream.port)).await?;
        server.set_nodelay(true)?;
        Ok::<_, io::Error>(server)
    };
    let Some(Ok(mut server)) = end.run_until_cancelled(connected).await else {
        let _ = client.set_zero_linger();
        return;
    };
    let ended = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let spoiled = AtomicBool::new(false);
        let on_loss = || {
            if !spoiled.swap(true, Ordering::Relaxed) {
                upstream.connections().spoiled.push(end.clone());
            }
        };
        // An error in one direction ends both; an end of one leaves the other open.
        let both = async {
            tokio::try_join!(
                direction(from_client, to_server, line.clone(), None::<fn()>),
                direction(from_server, to_client, line.clone(), Some(on_loss)),
            )
        };
        end.run_until_cancelled(both).await
    };
    if !matches!(ended, Some(Ok(_))) {
        // A socket dropped like this sends a reset, and no end that looks regular.
        let _ = client.set_zero_linger();
        let _ = server.set_zero_linger();
    }
}

/// Moves bytes one way until their end. The server's way (`on_loss` given) has the latency and the losses.
async fn direction(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    line: watch::Receiver<Line>,
    on_loss: Option<impl Fn()>,
) -> io::Result<()> {
    let (sender, mut receiver) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS);
    let mut read_line = line.clone();
    let read = async move {
        let mut buffer = vec![0; CHUNK];
        loop {
            unblocked(&mut read_line).await?;
            let length = from.read(&mut buffer).await?;
            if length == 0 {
                return Ok(());
            }
            let now = *read_line.borrow();
            let due = match &on_loss {
                Some(on_loss) if now.drop_answers => {
                    on_loss();
                    continue;
                }
                Some(_) => Instant::now() + now.latency,
                None => Instant::now(),
            };
            if sender.send((due, buffer[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut write_line = line;
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            sleep_until(due).await;
            unblocked(&mut write_line).await?;
            to.write_all(&bytes).await?;
        }
        unblocked(&mut write_line).await?;
        to.shutdown().await
    };
    tokio::try_join!(read, write).map(drop)
}

/// Returns while, or as soon as, bytes may move; fails when the proxy is gone.
async fn unblocked(line: &mut watch::Receiver<Line>) -> io::Result<()> {
    let gone = |_| io::Error::from(io::ErrorKind::ConnectionAborted);
    line.wait_for(|line| !line.blocked).await.map(drop).map_err(gone)
}
