//! Hands a request's pieces to the socket, one after the other, as they lie in memory.
//! The size is known, so that it goes out with a `content-length` and not in chunks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

use super::connect::Sent;
use crate::core::conversation::RequestBody;

/// A body on its way.
struct Outgoing {
    body: RequestBody,
    next: usize,
    left_bytes: u64,
    sent: Sent,
}

/// Returns a body as the HTTP client takes it; tells when its first piece is taken.
pub(super) fn outgoing(body: RequestBody, sent: Sent) -> reqwest::Body {
    let left_bytes = body.len() as u64;
    reqwest::Body::wrap(Outgoing { body, next: 0, left_bytes, sent })
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<io::Result<Frame<Bytes>>>> {
        self.sent.set();
        let Some(piece) = self.body.pieces().get(self.next) else { return Poll::Ready(None) };
        let loaded = piece.load();
        self.next += 1;
        if let Ok(bytes) = &loaded {
            self.left_bytes -= bytes.len() as u64;
        }
        Poll::Ready(Some(loaded.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        self.next == self.body.pieces().len()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left_bytes)
    }
}
