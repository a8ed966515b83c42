//! A piece of a request that was rendered once.

use std::io;

use bytes::Bytes;

/// Bytes that never change, shared by every request that sends them.
#[derive(Debug, Clone, Default)]
pub struct Segment(Bytes);

impl Segment {
    /// Returns how many bytes it has.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns its bytes, shared.
    pub fn load(&self) -> io::Result<Bytes> {
        Ok(self.0.clone())
    }

    /// Returns its bytes where they are at hand.
    pub fn at_hand(&self) -> Option<&[u8]> {
        Some(&self.0)
    }

    /// Returns two segments that share its bytes: those before `at`, and the others.
    pub(super) fn split(&self, at: usize) -> (Self, Self) {
        (Self(self.0.slice(..at)), Self(self.0.slice(at..)))
    }
}

impl From<Bytes> for Segment {
    fn from(bytes: Bytes) -> Self {
        Self(bytes)
    }
}

impl From<&'static [u8]> for Segment {
    fn from(bytes: &'static [u8]) -> Self {
        Self(Bytes::from_static(bytes))
    }
}
