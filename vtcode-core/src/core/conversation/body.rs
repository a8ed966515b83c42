//! A request's bytes as a row of shared pieces. Nothing is joined, copied or hashed to send one.

use std::io;
use std::sync::Arc;

use bytes::Bytes;

use super::Segment;
use crate::core::cache::{self, Key};
use crate::llm::message::Images;

/// The bytes of a request. Clones share them, so that an attempt costs none.
#[derive(Debug, Clone)]
pub struct RequestBody {
    pieces: Arc<[Segment]>,
    bytes: usize,
    head_key: Key,
    key: Key,
    images: Images,
}

impl RequestBody {
    /// Returns the body that these pieces make. The first key names what stands before its messages,
    /// the second one all of its bytes.
    pub(super) fn new(pieces: Vec<Segment>, (head_key, key): (Key, Key), images: Images) -> Self {
        let bytes = pieces.iter().map(Segment::len).sum();
        Self { pieces: pieces.into(), bytes, head_key, key, images }
    }

    /// Returns its pieces, in order; none is empty.
    pub fn pieces(&self) -> &[Segment] {
        &self.pieces
    }

    /// Returns how many bytes it has.
    pub fn len(&self) -> usize {
        self.bytes
    }

    /// Returns its size in bytes, with each image counted as the text that takes as many tokens:
    /// what guesses at tokens go by.
    pub fn weight(&self) -> usize {
        self.images.weighed(self.bytes)
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// Returns a name that no other bytes have. It comes from the conversation's chain of hashes:
    /// what was hashed once is not hashed again.
    pub fn key(&self) -> Key {
        self.key
    }

    /// Returns the name of what stands before the messages.
    pub fn head_key(&self) -> Key {
        self.head_key
    }

    /// Joins the pieces, for whoever wants to look at them. Fails as [`Segment::load`] does.
    pub fn to_vec(&self) -> io::Result<Vec<u8>> {
        let mut joined = Vec::with_capacity(self.bytes);
        for piece in self.pieces.iter() {
            joined.extend_from_slice(&piece.load()?);
        }
        Ok(joined)
    }
}

/// A body that somebody rendered on their own is one piece.
impl From<Bytes> for RequestBody {
    fn from(bytes: Bytes) -> Self {
        let key = cache::key([b"whole".as_slice(), &bytes]);
        let piece = Segment::from(bytes);
        let pieces = if piece.is_empty() { Vec::new() } else { vec![piece] };
        Self::new(pieces, (key, key), Images::default())
    }
}

impl From<Vec<u8>> for RequestBody {
    fn from(bytes: Vec<u8>) -> Self {
        Bytes::from(bytes).into()
    }
}
