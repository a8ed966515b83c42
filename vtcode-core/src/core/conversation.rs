//! The rendered prefix of a session: what stands before the messages, and each message once, as
//! shared bytes in a chain of hashes. Takes segments in and gives them to whoever joins a request.
//! Never renders a message, and never changes or drops one: it only grows.

use bytes::Bytes;

use crate::core::event::Prefix;

/// The rendered prefix. Clones share their bytes.
#[derive(Debug, Clone)]
pub struct Conversation {
    head: Bytes,
    segments: Vec<Bytes>,
    /// The hash of the head, and of each segment with the hash before it: what was hashed once is
    /// never hashed again.
    chain: Vec<blake3::Hash>,
}

impl Conversation {
    /// Returns a conversation without messages.
    pub fn new(head: Bytes) -> Self {
        let chain = vec![blake3::hash(&head)];
        Self { head, segments: Vec::new(), chain }
    }

    /// Appends a rendered message. There is no other change, so every prefix stays as it was sent.
    pub fn push(&mut self, segment: Bytes) {
        self.chain.push(linked(self.chain[self.segments.len()], &segment));
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

    /// Returns the name of everything so far, as a request to `endpoint` sends it.
    pub fn prefix(&self, endpoint: &str) -> Prefix {
        let messages = self.segments.len();
        Prefix {
            messages,
            endpoint: short(blake3::hash(endpoint.as_bytes())),
            head: short(self.chain[0]),
            hash: short(self.chain[messages]),
        }
    }

    /// Returns whether this conversation begins with what a prefix names.
    pub fn begins_with(&self, prefix: &Prefix) -> bool {
        let hash = self.chain.get(prefix.messages);
        hash.is_some_and(|hash| short(*hash) == prefix.hash)
    }
}

fn linked(before: blake3::Hash, segment: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before.as_bytes()).update(segment);
    hasher.finalize()
}

/// Enough of a hash to tell prefixes apart; it guards against mistakes, not against an attacker.
fn short(hash: blake3::Hash) -> String {
    hash.to_hex()[..16].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(head: &'static str, segments: &[&'static str]) -> Conversation {
        let mut conversation = Conversation::new(Bytes::from_static(head.as_bytes()));
        for segment in segments {
            conversation.push(Bytes::from_static(segment.as_bytes()));
        }
        conversation
    }

    #[test]
    fn a_conversation_begins_with_all_it_was_and_nothing_else() {
        let whole = conversation("h", &["a", "b", "c"]);
        for shorter in [&[][..], &["a"], &["a", "b"], &["a", "b", "c"]] {
            assert!(whole.begins_with(&conversation("h", shorter).prefix("e")), "{shorter:?}");
        }
        let others: [(&str, &[&str]); 5] = [
            ("x", &["a"]),
            ("h", &["b"]),
            ("h", &["ab"]),
            ("h", &["a", "c"]),
            ("h", &["a", "b", "c", "d"]),
        ];
        for (head, segments) in others {
            let other = conversation(head, segments);
            assert!(!whole.begins_with(&other.prefix("e")), "{head} {segments:?}");
        }
    }
}
