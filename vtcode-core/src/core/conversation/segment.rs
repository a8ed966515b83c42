//! A piece of a request that was rendered once.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;

/// Bytes that never change, shared by every request that sends them.
#[derive(Debug, Clone)]
pub struct Segment(Place);

/// Where they lie.
#[derive(Debug, Clone)]
enum Place {
    Memory(Bytes),
    File { file: Arc<File>, from: u64, bytes: usize },
}

impl Segment {
    pub(super) fn stored(file: Arc<File>, from: u64, bytes: usize) -> Self {
        Self(Place::File { file, from, bytes })
    }

    /// Returns how many bytes it has.
    pub fn len(&self) -> usize {
        match &self.0 {
            Place::Memory(bytes) => bytes.len(),
            Place::File { bytes, .. } => *bytes,
        }
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns its bytes: shared, or read from their file. They were written a moment ago or are
    /// read from front to back, so they come from the system's cache at the speed of memory;
    /// handing the read to another thread would cost more than that. Fails when the file cannot be
    /// read, or is shorter than it was.
    pub fn load(&self) -> io::Result<Bytes> {
        match &self.0 {
            Place::Memory(bytes) => Ok(bytes.clone()),
            Place::File { file, from, bytes } => {
                let mut read = vec![0; *bytes];
                file.read_exact_at(&mut read, *from)?;
                Ok(read.into())
            }
        }
    }

    /// Returns its bytes where they are at hand.
    pub fn at_hand(&self) -> Option<&[u8]> {
        match &self.0 {
            Place::Memory(bytes) => Some(bytes),
            Place::File { .. } => None,
        }
    }

    /// Returns two segments that share its bytes: those before `at`, and the others.
    pub(super) fn split(&self, at: usize) -> (Self, Self) {
        match &self.0 {
            Place::Memory(bytes) => (bytes.slice(..at).into(), bytes.slice(at..).into()),
            Place::File { file, from, bytes } => (
                Self::stored(Arc::clone(file), *from, at),
                Self::stored(Arc::clone(file), *from + at as u64, bytes - at),
            ),
        }
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Self(Place::Memory(bytes))
    }
}

impl From<&'static [u8]> for Segment {
    fn from(bytes: &'static [u8]) -> Self {
        Bytes::from_static(bytes).into()
    }
}
