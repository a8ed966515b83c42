//! The rendered prefix of a session: what stands before the messages, and each message once, as
//! shared bytes. Takes segments in and gives them to whoever joins a request.
//! Never renders a message, and never changes or drops one: it only grows.

use bytes::Bytes;

/// The rendered prefix. Clones share their bytes.
#[derive(Debug, Clone)]
pub struct Conversation {
    head: Bytes,
    segments: Vec<Bytes>,
}

impl Conversation {
    /// Returns a conversation without messages.
    pub fn new(head: Bytes) -> Self {
        Self { head, segments: Vec::new() }
    }

    /// Appends a rendered message. There is no other change, so every prefix stays as it was sent.
    pub fn push(&mut self, segment: Bytes) {
        self.segments.push(segment);
    }

    /// Returns what stands before the messages.
    pub fn head(&self) -> &Bytes {
        &self.head
    }

    /// Returns the rendered messages, in order.
    pub fn segments(&self) -> &[Bytes] {
        &self.segments
    }
}
