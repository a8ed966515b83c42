//! What a provider can take from its cache: requests and what they used come in, a changed prefix
//! and a missed cache go out, each with its cause. Never changes a request, and knows no price.

use std::time::Duration;

use tokio::time::Instant;

use crate::core::conversation::Conversation;
use crate::core::event::{CacheMiss, Prefix, PrefixChange};
use crate::llm::message::Usage;

/// Providers keep less than this for nobody.
const LEAST_TOKENS: u64 = 2048;

/// How long providers keep a prefix at least.
const KEPT: Duration = Duration::from_secs(300);

/// Looks at the prefixes of a session's requests.
#[derive(Debug, Default)]
pub(super) struct PrefixWatch {
    /// The last request's.
    sent: Option<Prefix>,
    /// Whether the request that is out began otherwise than the one before it.
    changed: bool,
    /// What the last answer's request held, and when it came.
    cached: Option<(u64, Instant)>,
    /// Why the next request may begin otherwise than the last one.
    expected: Option<PrefixChange>,
    /// Whether this provider has ever taken anything from a cache.
    caches: bool,
}

impl PrefixWatch {
    /// Goes on after a request of an earlier run.
    pub(super) fn after(sent: Option<Prefix>) -> Self {
        Self { sent, ..Self::default() }
    }

    /// A request goes out. Returns its prefix, and what changed since the one before.
    pub(super) fn sends(
        &mut self,
        conversation: &Conversation,
        endpoint: &str,
    ) -> (Prefix, Option<PrefixChange>) {
        let prefix = conversation.prefix(endpoint);
        let expected = self.expected.take();
        let change = self.sent.as_ref().and_then(|sent| {
            if sent.endpoint != prefix.endpoint {
                Some(PrefixChange::Model)
            } else if sent.head != prefix.head {
                Some(PrefixChange::Setup)
            } else if expected == Some(PrefixChange::Compaction) {
                Some(PrefixChange::Compaction)
            } else if conversation.begins_with(sent) {
                None
            } else {
                Some(expected.unwrap_or(PrefixChange::Unexplained))
            }
        });
        self.changed = change.is_some();
        self.sent = Some(prefix);
        (prefix, change)
    }

    /// Older messages left the window: the next request begins otherwise, and not for nothing.
    pub(super) fn compacted(&mut self) {
        self.expected = Some(PrefixChange::Compaction);
    }

    /// Words stand in the place of an image, because it is gone.
    pub(super) fn image_lost(&mut self) {
        self.expected = Some(PrefixChange::ImageLost);
    }

    /// An answer tells what its request used. Returns what it should have taken from a cache and
    /// did not.
    pub(super) fn used(&mut self, usage: Usage) -> Option<CacheMiss> {
        self.caches |= usage.cached_input_tokens > 0;
        let before = self.cached.replace((usage.input_tokens, Instant::now()));
        let (expected, at) = before?;
        let expected = expected.min(usage.input_tokens);
        if !self.caches || expected < LEAST_TOKENS || usage.cached_input_tokens >= expected / 2 {
            return None;
        }
        let reported = usage.cached_input_tokens;
        Some(if self.changed {
            CacheMiss::ChangedPrefix { expected, reported }
        } else if at.elapsed() > KEPT {
            CacheMiss::Expired { expected, reported }
        } else {
            CacheMiss::Provider { expected, reported }
        })
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn conversation(head: &'static str, segments: &[&'static str]) -> Conversation {
        let mut conversation = Conversation::new(Bytes::from_static(head.as_bytes()));
        for segment in segments {
            conversation.push(segment.as_bytes());
        }
        conversation
    }

    #[test]
    fn a_prefix_changes_for_a_cause() {
        let mut watch = PrefixWatch::default();
        let mut sends =
            |head, segments, endpoint| watch.sends(&conversation(head, segments), endpoint).1;
        assert_eq!(sends("h", &["a"], "e"), None);
        assert_eq!(sends("h", &["a", "b"], "e"), None);
        assert_eq!(sends("h", &["a", "b"], "f"), Some(PrefixChange::Model));
        assert_eq!(sends("i", &["a", "b"], "f"), Some(PrefixChange::Setup));
        assert_eq!(sends("i", &["a", "x", "c"], "f"), Some(PrefixChange::Unexplained));
        assert_eq!(sends("i", &["a", "x", "c"], "f"), None);
        // A later run knows what the one before sent.
        let sent = conversation("i", &["a"]).prefix("f");
        let mut watch = PrefixWatch::after(Some(sent));
        assert_eq!(watch.sends(&conversation("j", &["a"]), "f").1, Some(PrefixChange::Setup));
    }

    #[tokio::test(start_paused = true)]
    async fn a_cache_that_gave_less_than_it_should_has_a_cause() {
        let used = |input, cached| Usage {
            input_tokens: input,
            cached_input_tokens: cached,
            output_tokens: 1,
        };
        let mut watch = PrefixWatch::default();
        // Nothing is expected of a provider that never cached anything.
        assert_eq!(watch.used(used(5000, 0)), None);
        assert_eq!(watch.used(used(6000, 0)), None);
        assert_eq!(watch.used(used(7000, 5900)), None);
        let (expected, reported) = (7000, 10);
        assert_eq!(watch.used(used(8000, 10)), Some(CacheMiss::Provider { expected, reported }));
        tokio::time::advance(KEPT * 2).await;
        let (expected, reported) = (8000, 0);
        assert_eq!(watch.used(used(9000, 0)), Some(CacheMiss::Expired { expected, reported }));
        watch.sends(&conversation("h", &["a"]), "e");
        watch.sends(&conversation("i", &["a"]), "e");
        let (expected, reported) = (9000, 0);
        assert_eq!(
            watch.used(used(9500, 0)),
            Some(CacheMiss::ChangedPrefix { expected, reported })
        );
        // A short request is kept by nobody.
        assert_eq!(watch.used(used(100, 0)), None);
    }
}
