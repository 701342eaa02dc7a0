//! Bodies of responses whose size is not known once they are compressed.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::response::Response;
use http_body::{Body as HttpBody, Frame, SizeHint};

use super::Account;

/// How large a body is before it is compressed, in the extensions of its response.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BodySize(pub(crate) u64);

/// Notes a body's size for the layers around.
pub(crate) async fn note_size(mut response: Response) -> Response {
    if let Some(bytes) = response.body().size_hint().exact() {
        response.extensions_mut().insert(BodySize(bytes));
    }
    response
}

/// A body that holds its account until it has been taken: what it is compressed from is in memory all that time.
pub(crate) struct HeldBody {
    inner: Body,
    _account: Arc<Account>,
}

impl HeldBody {
    /// The body, and what it is charged to.
    pub(crate) fn new(inner: Body, account: Arc<Account>) -> Self {
        Self { inner, _account: account }
    }
}

impl HttpBody for HeldBody {
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
