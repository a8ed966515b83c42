//! The oldest messages of a conversation, in a file.

use std::fs::File;
use std::sync::Arc;

use super::Segment;
use crate::llm::message::Images;

/// What of a file is in memory at once while a request is sent.
const PIECE_BYTES: u64 = 256 * 1024;

/// The oldest messages of a conversation, rendered and joined in a file. Clones share the file.
#[derive(Debug, Clone)]
pub struct Past {
    pub(in crate::core) file: Arc<File>,
    /// Where in the file they begin.
    pub(in crate::core) from: u64,
    pub(in crate::core) bytes: u64,
    pub(in crate::core) messages: usize,
    pub(in crate::core) chain: blake3::Hash,
    pub(in crate::core) images: Images,
}

impl Past {
    /// Returns their bytes, in pieces that are read when they are sent.
    pub fn pieces(&self) -> impl Iterator<Item = Segment> {
        (0..self.bytes).step_by(PIECE_BYTES as usize).map(|at| {
            let bytes = PIECE_BYTES.min(self.bytes - at);
            Segment::stored(Arc::clone(&self.file), self.from + at, bytes as usize)
        })
    }
}
