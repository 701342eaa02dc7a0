//! Serving HTTP/1.1 connections, each within limits that hold whatever its peer does.
//!
//! 1. [`serve`] accepts a connection if one of the listener's slots is free; else it closes it before it reads a byte.
//! 2. `stream` wraps its TCP stream: it counts what is written, ends a write that makes no progress, and fails every read and write
//!    once the connection is closed from outside. So hyper, or what took over after an upgrade, lets go of it at once.
//! 3. `connection` drives hyper, and closes a connection whose request head does not arrive in time or that has been idle for too long.
//!    `body` does the same to request bodies.
//! 4. Each request carries its [`Connection`] in its extensions. The task that takes over an upgraded connection uses it to observe
//!    the writes and to close the connection.
//!
//! See `docs/decisions/closing-stalled-connections.md`.

mod body;
mod connection;
mod metrics;
mod stream;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::connection::{Connection, WriteObserver};
pub use self::metrics::{CONNECTIONS, CONNECTIONS_CLOSED, ConnectionMetrics, Reason};

/// How long accepting pauses after an error of the process, as having no file descriptors left.
const ACCEPT_AGAIN: Duration = Duration::from_secs(1);

/// What a listener grants its connections.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Connections at once; one more is closed before it is read.
    pub max: usize,
    /// From a request head's first byte to its last, and from accepting a connection to the end of its first head.
    pub header: Duration,
    /// From the first wait for a request's body to its end.
    pub body: Duration,
    /// From a response to the first byte of the next request.
    pub idle: Duration,
    /// For a write without any progress, and for sent bytes without an acknowledgement by the peer.
    pub write: Duration,
}

crate::settings! {
    /// What connections may take, on every listener.
    pub struct ConnectionSettings {
        /// Milliseconds that a request's head has to arrive.
        header_timeout: crate::settings::Millis = "HTTP_HEADER_TIMEOUT_MS", "10000";
        /// Milliseconds that a request's body has to arrive.
        body_timeout: crate::settings::Millis = "HTTP_BODY_TIMEOUT_MS", "30000";
        /// Milliseconds that a connection may wait between two requests. Longer than the minute of usual proxies, so that they end it first.
        idle_timeout: crate::settings::Millis = "HTTP_IDLE_TIMEOUT_MS", "65000";
        /// Milliseconds without any progress after which a write ends its connection.
        write_timeout: crate::settings::Millis = "WRITE_TIMEOUT_MS", "20000";
        /// Connections to the operators' port at once; one more is closed before it is read.
        ops_max_connections: usize = "OPS_MAX_CONNECTIONS", "100";
    }
}

impl ConnectionSettings {
    /// The limits of a listener that takes so many connections.
    pub fn limits(&self, max: usize) -> ConnectionLimits {
        ConnectionLimits {
            max,
            header: self.header_timeout.0,
            body: self.body_timeout.0,
            idle: self.idle_timeout.0,
            write: self.write_timeout.0,
        }
    }

    /// The limits of the operators' listener.
    pub fn operators(&self) -> ConnectionLimits {
        self.limits(self.ops_max_connections)
    }

    /// States what must hold between them.
    pub fn check(&self, source: &mut crate::settings::Source) {
        for (name, timeout) in [
            ("HTTP_HEADER_TIMEOUT_MS", self.header_timeout),
            ("HTTP_BODY_TIMEOUT_MS", self.body_timeout),
            ("HTTP_IDLE_TIMEOUT_MS", self.idle_timeout),
            ("WRITE_TIMEOUT_MS", self.write_timeout),
        ] {
            source.require(!timeout.0.is_zero(), format!("{name} must be above 0"));
        }
        source.require(self.ops_max_connections > 0, "OPS_MAX_CONNECTIONS must be above 0");
    }
}

/// Serves a router until the token is cancelled, and then until the requests in progress are answered. Connections that were upgraded
/// are not waited for.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    limits: ConnectionLimits,
    metrics: ConnectionMetrics,
    stop: CancellationToken,
) -> io::Result<()> {
    let slots = Arc::new(Semaphore::new(limits.max));
    let connections = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            // An error caused by this peer does not affect other connections.
            Err(error) if is_of_peer(&error) => continue,
            Err(error) => {
                tracing::error!(%error, "connections can't be accepted");
                tokio::time::sleep(ACCEPT_AGAIN).await;
                continue;
            }
        };
        let Ok(slot) = Arc::clone(&slots).try_acquire_owned() else {
            metrics.closed(Reason::Full);
            continue;
        };
        prepare(&stream, &limits);
        let connection = Connection::new(peer, metrics.clone());
        let stream = stream::ClientStream::new(stream, Arc::clone(&connection), limits.write, slot);
        connections.spawn(connection::drive(stream, connection, router.clone(), limits, stop.clone()));
    }
    drop(listener);
    connections.close();
    connections.wait().await;
    Ok(())
}

/// Sets what the kernel does for a connection: small frames leave at once, and a peer that acknowledges nothing is given up.
fn prepare(stream: &TcpStream, limits: &ConnectionLimits) {
    // Nagle's algorithm would delay small frames by tens of milliseconds.
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY could not be set");
    }
    #[cfg(target_os = "linux")]
    if let Err(error) = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(limits.write)) {
        tracing::debug!(%error, "TCP_USER_TIMEOUT could not be set");
    }
    #[cfg(not(target_os = "linux"))]
    let _ = limits;
}

fn is_of_peer(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// The router's response to a request that comes from this process.
pub async fn call(router: &Router, request: axum::extract::Request) -> axum::response::Response {
    use hyper::service::Service;
    let Ok(response) = hyper_util::service::TowerToHyperService::new(router.clone()).call(request).await;
    response
}

/// Where a request comes from, as axum's extractor reads it.
fn connect_info(peer: SocketAddr) -> axum::extract::ConnectInfo<SocketAddr> {
    axum::extract::ConnectInfo(peer)
}

#[cfg(test)]
mod tests;
