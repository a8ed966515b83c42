//! The JSON of a streamed event, read where it lies: a text comes in, its fields go out as slices
//! of it, and strings are unescaped into a buffer of the reader's choice. Takes no memory.
//! Strict about structure, so that half an event is an error; lenient about a field of another
//! shape than the wire's, which reads as empty: one odd field must not cost an answer.

use std::borrow::Cow;

use memchr::{memchr, memchr2};
use serde::de::IgnoredAny;

use super::DecodeError;

mod reader;

pub(super) use reader::{Reader, event};

/// How deep a value may be nested.
const MAX_DEPTH: u8 = 128;

/// One value, whole and sound; or none.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Json<'a>(&'a str);

/// What stands between the quotes of a string; empty where there is no string.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Text<'a>(&'a str);

/// Returns the value that a text is.
pub(super) fn value(data: &str) -> Result<Json<'_>, DecodeError> {
    let bytes = data.as_bytes();
    let start = space(bytes, 0);
    match skip(data, start, MAX_DEPTH) {
        Some(end) if space(bytes, end) == bytes.len() => Ok(Json(&data[start..end])),
        _ => Err(malformed(data)),
    }
}

/// Returns the error for data that is not what the wire promises.
fn malformed(data: &str) -> DecodeError {
    let start: String = data.chars().take(200).collect();
    let what = match serde_json::from_str::<IgnoredAny>(data) {
        Err(error) => format!("{error}: {start}"),
        Ok(_) => format!("not an object: {start}"),
    };
    DecodeError::Malformed { what }
}

impl<'a> Json<'a> {
    /// Returns the value as it was written; empty if there is none.
    pub(super) fn raw(self) -> &'a str {
        self.0
    }

    /// Returns whether there is nothing, or `null`.
    pub(super) fn is_none(self) -> bool {
        matches!(self.0, "" | "null")
    }

    /// Returns whether it is an object.
    pub(super) fn is_object(self) -> bool {
        self.0.starts_with('{')
    }

    /// Returns whether it is a list.
    pub(super) fn is_list(self) -> bool {
        self.0.starts_with('[')
    }

    /// Calls `on` with each field; with none if it is no object.
    pub(super) fn fields(self, mut on: impl FnMut(&'a str, Json<'a>)) {
        if self.is_object() {
            // It was seen to be sound.
            Reader::of(self.0).fields(&mut |key, value| on(key, value.value()));
        }
    }

    /// Returns a field; none if it is no object or has none of this name.
    pub(super) fn field(self, name: &str) -> Json<'a> {
        let mut found = Json::default();
        self.fields(|key, value| {
            if key == name {
                found = value;
            }
        });
        found
    }

    /// Returns the items; none if it is no list.
    pub(super) fn items(self) -> impl Iterator<Item = Json<'a>> {
        let text = if self.is_list() { self.0 } else { "]" };
        let mut at = 1;
        std::iter::from_fn(move || {
            let bytes = text.as_bytes();
            at = space(bytes, at);
            if bytes.get(at) == Some(&b',') {
                at = space(bytes, at + 1);
            }
            let end = skip(text, at, MAX_DEPTH)?;
            let item = Json(&text[at..end]);
            at = end;
            Some(item)
        })
    }

    /// Returns the string that it is; an empty one if it is none.
    pub(super) fn text(self) -> Text<'a> {
        Text(self.0.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default())
    }

    /// Returns the number that it is, if it is a whole one.
    pub(super) fn number<T: std::str::FromStr>(self) -> Option<T> {
        self.0.parse().ok()
    }

    /// Returns whether it is `true`.
    pub(super) fn is_true(self) -> bool {
        self.0 == "true"
    }
}

impl<'a> Text<'a> {
    /// Returns whether it says nothing.
    pub(super) fn is_empty(self) -> bool {
        self.0.is_empty()
    }

    /// Returns what it says, borrowed where it holds no escapes.
    pub(super) fn said(self) -> Cow<'a, str> {
        if memchr(b'\\', self.0.as_bytes()).is_none() {
            return Cow::Borrowed(self.0);
        }
        let mut said = String::with_capacity(self.0.len());
        self.push_onto(&mut said);
        Cow::Owned(said)
    }

    /// Appends what it says. Half a letter, and an escape that there is none of, is U+FFFD.
    pub(super) fn push_onto(self, out: &mut String) {
        let mut rest = self.0;
        while let Some(at) = memchr(b'\\', rest.as_bytes()) {
            out.push_str(&rest[..at]);
            rest = &rest[at + 1..];
            let plain = match rest.as_bytes().first() {
                Some(b'n') => '\n',
                Some(b'"') => '"',
                Some(b'\\') => '\\',
                Some(b't') => '\t',
                Some(b'r') => '\r',
                Some(b'/') => '/',
                Some(b'b') => '\u{8}',
                Some(b'f') => '\u{c}',
                Some(b'u') => {
                    let (letter, length) = letter(&rest[1..]);
                    out.push(letter);
                    rest = &rest[1 + length..];
                    continue;
                }
                _ => {
                    out.push(char::REPLACEMENT_CHARACTER);
                    continue;
                }
            };
            out.push(plain);
            rest = &rest[1..];
        }
        out.push_str(rest);
    }
}

/// Returns the letter of `XXXX`, or of `XXXX\uXXXX`, and how many bytes of it that took.
fn letter(digits: &str) -> (char, usize) {
    let unit = |digits: &str| {
        let digits = digits.get(..4).filter(|d| d.bytes().all(|d| d.is_ascii_hexdigit()))?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(digits) else { return (char::REPLACEMENT_CHARACTER, 0) };
    if let Some(letter) = char::from_u32(first) {
        return (letter, 4);
    }
    let second = digits[4..].strip_prefix("\\u").and_then(unit);
    match (first, second) {
        (0xd800..=0xdbff, Some(second @ 0xdc00..=0xdfff)) => {
            let letter = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
            (char::from_u32(letter).unwrap_or(char::REPLACEMENT_CHARACTER), 10)
        }
        _ => (char::REPLACEMENT_CHARACTER, 4),
    }
}

/// Returns where the white space that begins at `at` ends.
fn space(bytes: &[u8], mut at: usize) -> usize {
    while let Some(b' ' | b'\n' | b'\r' | b'\t') = bytes.get(at) {
        at += 1;
    }
    at
}

/// Returns the end of the value at `at`, if it is sound.
fn skip(text: &str, at: usize, depth: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    match bytes.get(at)? {
        b'"' => string(bytes, at),
        b'{' => object(text, at, depth),
        b'[' => {
            let depth = depth.checked_sub(1)?;
            let mut at = space(bytes, at + 1);
            if bytes.get(at) == Some(&b']') {
                return Some(at + 1);
            }
            loop {
                at = space(bytes, skip(text, at, depth)?);
                match bytes.get(at)? {
                    b',' => at = space(bytes, at + 1),
                    b']' => return Some(at + 1),
                    _ => return None,
                }
            }
        }
        b'-' | b'0'..=b'9' => {
            let rest = &bytes[at + 1..];
            let more = |b: &u8| !matches!(b, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-');
            Some(rest.iter().position(more).map_or(bytes.len(), |end| at + 1 + end))
        }
        b't' => word(bytes, at, b"true"),
        b'f' => word(bytes, at, b"false"),
        b'n' => word(bytes, at, b"null"),
        _ => None,
    }
}

fn word(bytes: &[u8], at: usize, word: &[u8]) -> Option<usize> {
    bytes[at..].starts_with(word).then_some(at + word.len())
}

/// Returns the end of the object at `at`, if it is sound.
fn object(text: &str, at: usize, depth: u8) -> Option<usize> {
    let bytes = text.as_bytes();
    let depth = depth.checked_sub(1)?;
    let mut at = space(bytes, at + 1);
    if bytes.get(at) == Some(&b'}') {
        return Some(at + 1);
    }
    loop {
        at = space(bytes, string(bytes, at)?);
        if bytes.get(at) != Some(&b':') {
            return None;
        }
        at = space(bytes, skip(text, space(bytes, at + 1), depth)?);
        match bytes.get(at)? {
            b',' => at = space(bytes, at + 1),
            b'}' => return Some(at + 1),
            _ => return None,
        }
    }
}

/// Returns the end of the string at `at`.
#[inline]
fn string(bytes: &[u8], at: usize) -> Option<usize> {
    if bytes.get(at) != Some(&b'"') {
        return None;
    }
    let mut at = at + 1;
    loop {
        at = special(bytes, at)?;
        if bytes[at] == b'"' {
            return Some(at + 1);
        }
        // A letter after the backslash, all of it.
        at += 2;
        while bytes.get(at).is_some_and(|b| b & 0xc0 == 0x80) {
            at += 1;
        }
        if at > bytes.len() {
            return None;
        }
    }
}

/// Returns where the next quote or backslash stands, from `at` on. Most names and words are shorter
/// than what a search costs to begin, so the first ones are looked at eight by eight.
/// bench: decode
#[inline]
fn special(bytes: &[u8], mut at: usize) -> Option<usize> {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGHS: u64 = ONES << 7;
    const EIGHTS: usize = 4;
    // The lowest bit that is set stands for the first byte that is zero.
    let zeros = |word: u64| word.wrapping_sub(ONES) & !word & HIGHS;
    for _ in 0..EIGHTS {
        let Some(eight) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) else {
            let near = bytes.get(at..)?.iter().position(|b| matches!(b, b'"' | b'\\'))?;
            return Some(at + near);
        };
        let word = u64::from_le_bytes(*eight);
        let found = zeros(word ^ (ONES * 0x22)) | zeros(word ^ (ONES * 0x5c));
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    memchr2(b'"', b'\\', &bytes[at..]).map(|found| at + found)
}

#[cfg(test)]
mod tests;
