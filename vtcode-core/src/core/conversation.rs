//! The rendered prefix of a session: what stands before the messages, and each message once, as
//! shared bytes in a chain of hashes: the oldest in a file, the newest in memory. Takes segments in
//! and gives them to whoever sends a request.
//! Never renders a message, and never changes or drops one: it only grows.

use bytes::Bytes;

mod body;
mod past;
mod segment;

pub use self::body::RequestBody;
pub use self::past::Past;
pub use self::segment::Segment;

use crate::core::cache;
use crate::core::event::{Prefix, ShortHash};
use crate::core::memory_pool::global_pool;
use crate::llm::message::Images;

/// Stands between two messages on every wire.
const COMMA: u8 = b',';

/// The rendered prefix. Clones share their bytes.
#[derive(Debug, Clone)]
pub struct Conversation {
    head: Segment,
    head_hash: blake3::Hash,
    /// The oldest messages, if they lie in a file.
    past: Option<Past>,
    /// Each message after those as it is sent: with the comma before it, where one belongs. A message of which
    /// nothing can be sent has an empty segment and leaves no trace.
    segments: Vec<Segment>,
    /// Whether what is sent so far ends with something that a comma must follow.
    needs_comma: bool,
    /// The hash of the past, and of each message with the hash before it: what was hashed once is
    /// never hashed again.
    chain: Vec<blake3::Hash>,
    window_bytes: usize,
    /// What images all messages hold, and the messages in memory that hold some.
    images: Images,
    with_images: Vec<(usize, Images)>,
}

/// Bytes of a request that belong to it alone and not to its messages, such as the mark that asks
/// a provider to cache what stands before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert {
    /// The message in which they stand, of those in memory.
    pub message: usize,
    /// How far from its end, in bytes: at most as many as the message has there.
    pub from_end: usize,
    /// The bytes.
    pub bytes: &'static [u8],
}

impl Conversation {
    /// Returns a conversation without messages.
    pub fn new(head: Bytes) -> Self {
        Self::after(head, None)
    }

    /// Returns a conversation that goes on after what lies in a file.
    pub fn after(head: Bytes, past: Option<Past>) -> Self {
        let chain = vec![past.as_ref().map_or_else(|| blake3::hash(&[]), |past| past.chain)];
        let needs_comma = !head.ends_with(b"[") || past.as_ref().is_some_and(|p| p.bytes > 0);
        let head_hash = blake3::hash(&head);
        Self {
            head: head.into(),
            head_hash,
            images: past.as_ref().map_or_else(Images::default, |past| past.images),
            with_images: Vec::new(),
            past,
            segments: Vec::new(),
            needs_comma,
            chain,
            window_bytes: 0,
        }
    }

    /// Returns a conversation with the same head and no messages: another view of a session begins.
    #[must_use]
    pub fn anew(&self) -> Self {
        let needs_comma = !self.head.at_hand().is_some_and(|head| head.ends_with(b"["));
        Self {
            head: self.head.clone(),
            head_hash: self.head_hash,
            past: None,
            segments: Vec::new(),
            needs_comma,
            chain: vec![blake3::hash(&[])],
            window_bytes: 0,
            images: Images::default(),
            with_images: Vec::new(),
        }
    }

    /// Appends a rendered message. There is no other change, so every prefix stays as it was sent.
    pub fn push(&mut self, message: &[u8]) {
        self.render(Images::default(), |onto| onto.extend_from_slice(message));
    }

    /// Appends a message that holds these images, once `message` has rendered it onto a buffer: the
    /// one time that its bytes are hashed and copied.
    pub fn render(&mut self, images: Images, message: impl FnOnce(&mut Vec<u8>)) {
        let mut sent = global_pool().loan_bytes();
        if self.needs_comma {
            sent.push(COMMA);
        }
        let begin = sent.len();
        message(&mut sent);
        let rendered = &sent[begin..];
        if images.count > 0 {
            self.with_images.push((self.messages(), images));
            self.images += images;
        }
        self.chain.push(linked(self.chain[self.segments.len()], rendered));
        let kept = if rendered.is_empty() { Bytes::new() } else { Bytes::copy_from_slice(&sent) };
        self.needs_comma |= !kept.is_empty();
        self.window_bytes += kept.len();
        self.segments.push(kept.into());
    }

    /// Returns how many messages it has.
    pub fn messages(&self) -> usize {
        self.past_messages() + self.segments.len()
    }

    /// Returns the messages that lie in a file, if some do.
    pub fn past(&self) -> Option<&Past> {
        self.past.as_ref()
    }

    /// Returns the bytes of the messages that are in memory.
    pub fn window_bytes(&self) -> usize {
        self.window_bytes
    }

    /// Returns the messages in memory as they are sent, each with the comma before it: in order,
    /// and empty where nothing of one can be sent.
    pub fn segments(&self) -> &[Segment] {
        &self.segments
    }

    /// Returns the request that sends all of it: head, messages and `tail`, with `inserts`, which
    /// stand in the order of their messages. Takes time by the number of messages, not of bytes.
    pub fn body(&self, inserts: &[Insert], tail: Bytes) -> RequestBody {
        let keys = (*self.head_hash.as_bytes(), self.key(inserts, &tail));
        let count = 2 + self.segments.len() + 2 * inserts.len();
        let mut pieces = Vec::with_capacity(count);
        pieces.push(self.head.clone());
        if let Some(past) = self.past.as_ref().filter(|past| past.bytes > 0) {
            let after_one = !self.head.at_hand().is_some_and(|head| head.ends_with(b"["));
            pieces.extend(after_one.then(|| Segment::from(b",".as_slice())));
            pieces.extend(past.pieces());
        }
        let mut inserts_left = inserts.iter().peekable();
        for (message, segment) in self.segments.iter().enumerate() {
            match inserts_left.next_if(|insert| insert.message == message) {
                Some(insert) => {
                    let (before, after) = segment.split(segment.len() - insert.from_end);
                    pieces.extend([before, insert.bytes.into(), after]);
                }
                None => pieces.push(segment.clone()),
            }
        }
        pieces.push(tail.into());
        pieces.retain(|piece| !piece.is_empty());
        RequestBody::new(pieces, keys, self.images)
    }

    /// Names the bytes of a body by what they are made of.
    fn key(&self, inserts: &[Insert], tail: &[u8]) -> cache::Key {
        let places: Vec<_> =
            inserts.iter().map(|i| [i.message.to_le_bytes(), i.from_end.to_le_bytes()]).collect();
        let chain: &[u8] = self.chain[self.segments.len()].as_bytes();
        let inserted = inserts.iter().zip(&places).flat_map(|(i, at)| [at.as_flattened(), i.bytes]);
        cache::key([self.head_hash.as_bytes(), chain, tail].into_iter().chain(inserted))
    }

    /// Returns the segments in memory of the first `messages` messages, and the hash up to there.
    pub(in crate::core) fn oldest(&self, messages: usize) -> (&[Segment], blake3::Hash) {
        let count = messages.saturating_sub(self.past_messages()).min(self.segments.len());
        (&self.segments[..count], self.chain[count])
    }

    /// Returns the images of the first `messages` messages.
    pub(in crate::core) fn oldest_images(&self, messages: usize) -> Images {
        let mut images = self.past.as_ref().map_or_else(Images::default, |past| past.images);
        let oldest = self.with_images.iter().filter(|(at, _)| *at < messages);
        oldest.for_each(|(_, more)| images += *more);
        images
    }

    /// Lets go of what now lies in a file.
    pub(in crate::core) fn stored(&mut self, past: Past) {
        let (segments, chain) = self.oldest(past.messages);
        debug_assert_eq!(chain, past.chain);
        let (count, bytes) = (segments.len(), segments.iter().map(Segment::len).sum::<usize>());
        self.segments.drain(..count);
        self.chain.drain(..count);
        self.window_bytes -= bytes;
        self.with_images.retain(|(at, _)| *at >= past.messages);
        self.past = Some(past);
    }

    /// Returns the name of everything so far, as a request to `endpoint` sends it.
    pub fn prefix(&self, endpoint: &str) -> Prefix {
        Prefix {
            messages: self.messages(),
            endpoint: blake3::hash(endpoint.as_bytes()).into(),
            head: self.head_hash.into(),
            hash: self.named(self.chain[self.segments.len()]),
        }
    }

    /// Returns whether this conversation begins with what a prefix names. Of one that ends within
    /// the past nobody knows any more; the last request's never does.
    pub fn begins_with(&self, prefix: &Prefix) -> bool {
        let at = prefix.messages.checked_sub(self.past_messages());
        let hash = at.and_then(|at| self.chain.get(at));
        hash.is_some_and(|hash| self.named(*hash) == prefix.hash)
    }

    fn past_messages(&self) -> usize {
        self.past.as_ref().map_or(0, |past| past.messages)
    }

    /// The head is no link of the chain: another one leaves the messages what they are.
    fn named(&self, chain: blake3::Hash) -> ShortHash {
        linked(self.head_hash, chain.as_bytes()).into()
    }
}

pub(in crate::core) fn linked(before: blake3::Hash, segment: &[u8]) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(before.as_bytes()).update(segment);
    hasher.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(head: &'static str, segments: &[&'static str]) -> Conversation {
        let mut conversation = Conversation::new(Bytes::from_static(head.as_bytes()));
        for segment in segments {
            conversation.push(segment.as_bytes());
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

    fn joined(conversation: &Conversation, inserts: &[Insert]) -> String {
        let body = conversation.body(inserts, Bytes::from_static(b"]}"));
        let bytes = body.to_vec().unwrap();
        assert_eq!(bytes.len(), body.len());
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_body_is_the_messages_between_head_and_tail_with_commas_where_they_belong() {
        assert_eq!(joined(&conversation("{[", &[]), &[]), "{[]}");
        assert_eq!(joined(&conversation("{[", &["", "a", "", "b"]), &[]), "{[a,b]}");
        assert_eq!(joined(&conversation("{[s", &["a"]), &[]), "{[s,a]}");
        let inserts = [
            Insert { message: 0, from_end: 1, bytes: b"!" },
            Insert { message: 2, from_end: 0, bytes: b"?" },
        ];
        assert_eq!(joined(&conversation("{[", &["ab", "c", "d"]), &inserts), "{[a!b,c,d?]}");
    }

    /// What a request is made of that the one before was not: where the bytes lie tells.
    fn made_for(after: &RequestBody, before: &RequestBody) -> usize {
        let bytes_of = |body: &RequestBody| -> Vec<_> {
            body.pieces().iter().map(|piece| piece.load().unwrap()).collect()
        };
        let old: Vec<_> = bytes_of(before).iter().map(|piece| piece.as_ptr_range()).collect();
        let is_old = |piece: &Bytes| old.iter().any(|range| range.contains(&piece.as_ptr()));
        bytes_of(after).iter().filter(|piece| !is_old(piece)).map(Bytes::len).sum()
    }

    #[test]
    fn the_next_request_shares_all_that_was_sent_before() {
        let mut conversation = Conversation::new(Bytes::from_static(b"{["));
        let message = vec![b'm'; 4000];
        for _ in 0..400 {
            conversation.push(&message);
        }
        let inserts =
            |messages: usize| [Insert { message: messages - 1, from_end: 3, bytes: b"mark" }];
        let before = conversation.body(&inserts(400), Bytes::from_static(b"]}"));
        conversation.push(&message);
        let after = conversation.body(&inserts(401), Bytes::from_static(b"]}"));
        assert_eq!(after.len(), before.len() + message.len() + 1);
        assert_eq!(made_for(&after, &before), message.len() + 1);
        assert_eq!(made_for(&after.clone(), &after), 0, "an attempt shares all");
    }

    #[test]
    fn bodies_have_the_same_key_when_they_have_the_same_bytes() {
        let key = |head, segments: &[&'static str], inserts: &[Insert]| {
            conversation(head, segments).body(inserts, Bytes::from_static(b"]")).key()
        };
        let mark = |message, from_end| Insert { message, from_end, bytes: b"!" };
        let plain = key("h", &["a", "b"], &[]);
        assert_eq!(plain, key("h", &["a", "b"], &[]));
        let others = [
            key("i", &["a", "b"], &[]),
            key("h", &["a", "c"], &[]),
            key("h", &["a"], &[]),
            key("h", &["a", "b"], &[mark(0, 0)]),
            key("h", &["a", "b"], &[mark(1, 0)]),
            key("h", &["a", "b"], &[mark(1, 1)]),
            conversation("h", &["a", "b"]).body(&[], Bytes::new()).key(),
        ];
        for (n, other) in others.iter().enumerate() {
            assert_ne!(*other, plain, "{n}");
            assert!(!others[..n].contains(other), "{n}");
        }
    }
}
