//! Sealed thinking: a provider's seal in, the same seal with its wire's name before it out, and back.
//! A session may go on with another provider, which refuses a conversation over a foreign seal.
//! Never looks into a seal.

/// Sealed by OpenAI: the thinking itself, encrypted.
pub(super) const RESPONSES: &str = "responses:";
/// Sealed by Gemini: over the part that comes next.
pub(super) const GEMINI_NEXT: &str = "gemini/next:";
/// Sealed by Gemini: over the thinking itself, or over nothing.
pub(super) const GEMINI_OWN: &str = "gemini/own:";

/// Returns a seal as it is kept.
pub(super) fn marked(mark: &str, seal: &str) -> String {
    format!("{mark}{seal}")
}

/// Returns the provider's seal, if it has this mark.
pub(super) fn unmarked<'a>(mark: &str, kept: &'a str) -> Option<&'a str> {
    kept.strip_prefix(mark)
}

/// Returns whether a seal was made on a wire that marks its seals. Anthropic's has none.
pub(super) fn is_marked(kept: &str) -> bool {
    [RESPONSES, GEMINI_NEXT, GEMINI_OWN].iter().any(|mark| kept.starts_with(mark))
}
