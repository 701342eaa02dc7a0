//! Bodies: a request's within its time, and a response's that says when it has been taken.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Sleep;

use super::Connection;

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// A request's body, which fails if it does not arrive in time.
pub(super) struct TimedBody {
    inner: Incoming,
    timeout: Duration,
    /// From the first wait on.
    timer: Option<Pin<Box<Sleep>>>,
    connection: Arc<Connection>,
}

#[derive(Debug, thiserror::Error)]
#[error("the body did not arrive in time")]
struct TooSlow;

impl TimedBody {
    pub(super) fn new(inner: Incoming, timeout: Duration, connection: Arc<Connection>) -> Self {
        Self { inner, timeout, timer: None, connection }
    }
}

impl HttpBody for TimedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        // The limit is for the whole body, so a client that sends one byte at a time exceeds it, too.
        let timeout = this.timeout;
        if this.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(timeout))).as_mut().poll(cx).is_ready() {
            this.connection.timed_out_body();
            return Poll::Ready(Some(Err(TooSlow.into())));
        }
        Pin::new(&mut this.inner).poll_frame(cx).map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// While it lives, a request is being answered.
pub(super) struct Answering(pub(super) Arc<Connection>);

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answered();
    }
}

impl Answering {
    /// The response's body, taken along.
    pub(super) fn with(self, inner: Body) -> AnswerBody {
        AnswerBody { inner, _answering: self }
    }
}

/// A response's body.
pub(super) struct AnswerBody {
    inner: Body,
    _answering: Answering,
}

impl HttpBody for AnswerBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.inner).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}
