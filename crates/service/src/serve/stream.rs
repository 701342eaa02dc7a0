//! A client's TCP stream, which can be closed from outside and counts what it writes.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Sleep;
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{Connection, Reason};

type Closed = Pin<Box<WaitForCancellationFutureOwned>>;

/// The stream. Its slot is free again when it is dropped, be that by hyper or by what took it over.
pub(super) struct ClientStream {
    stream: TcpStream,
    connection: Arc<Connection>,
    // One for each half: reader and writer may be different tasks.
    closed_to_reads: Closed,
    closed_to_writes: Closed,
    write_timeout: Duration,
    /// Since a write has to wait.
    stalled: Option<Pin<Box<Sleep>>>,
    _slot: OwnedSemaphorePermit,
}

impl ClientStream {
    pub(super) fn new(
        stream: TcpStream,
        connection: Arc<Connection>,
        write_timeout: Duration,
        slot: OwnedSemaphorePermit,
    ) -> Self {
        let closed = || Box::pin(connection.token().cancelled_owned());
        let (closed_to_reads, closed_to_writes) = (closed(), closed());
        Self { stream, connection, closed_to_reads, closed_to_writes, write_timeout, stalled: None, _slot: slot }
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        write: impl FnOnce(Pin<&mut TcpStream>, &mut Context<'_>) -> Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        if self.closed_to_writes.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(closed()));
        }
        if let Poll::Ready(written) = write(Pin::new(&mut self.stream), cx) {
            self.stalled = None;
            if let Ok(bytes) = written {
                self.connection.wrote(bytes);
            }
            return Poll::Ready(written);
        }
        let timeout = self.write_timeout;
        ready!(self.stalled.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout))).as_mut().poll(cx));
        self.connection.close(Reason::Stalled);
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::ConnectionAborted, "closed by this side")
}

impl AsyncRead for ClientStream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.closed_to_reads.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(closed()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() > before {
            self.connection.read();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ClientStream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write(cx, buf))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, |stream, cx| stream.poll_write_vectored(cx, bufs))
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

impl Drop for ClientStream {
    fn drop(&mut self) {
        if self.connection.is_closed() {
            // What the kernel holds for a peer that does not read goes now, not when it gives up.
            let _ = socket2::SockRef::from(&self.stream).set_linger(Some(Duration::ZERO));
        }
        self.connection.ended();
    }
}
