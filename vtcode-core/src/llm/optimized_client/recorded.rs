//! Answers out of a record, in the place of a server's: the bytes that a server would have sent go
//! in, the response that the client reads comes out. Opens no connection.

use std::io;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};

/// Gives the answer to a request whose body has so many bytes.
pub type Recorded = Arc<dyn Fn(usize) -> RecordedAnswer + Send + Sync>;

/// The body of an answer with HTTP status 200, a piece at a time, each when it is due: the bytes as
/// the endpoint's wire has them.
pub type RecordedAnswer = Pin<Box<dyn Stream<Item = Bytes> + Send>>;

/// Returns the response whose body these bytes are.
pub(super) fn response(answer: RecordedAnswer) -> reqwest::Response {
    let body = reqwest::Body::wrap_stream(answer.map(io::Result::Ok));
    http::Response::new(body).into()
}
