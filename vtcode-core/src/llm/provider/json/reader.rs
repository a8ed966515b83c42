//! One event, read from front to back once: whoever reads it goes into the fields that it hears, and
//! all others are skipped. What was read counts only when the end has shown that all of it is sound.

use super::{Json, MAX_DEPTH, Text, malformed, skip, space, string};
use crate::llm::provider::DecodeError;

/// A place in an event, before a value.
#[derive(Debug)]
pub(in crate::llm::provider) struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// How deep the value may be nested.
    depth: u8,
    sound: bool,
}

/// Calls `on` with each field of an event; what it does not take is skipped. An error says that the
/// whole of it is not sound: then nothing that was read may be used.
#[inline]
pub(in crate::llm::provider) fn event<'a>(
    data: &'a str,
    mut on: impl FnMut(&'a str, &mut Reader<'a>),
) -> Result<(), DecodeError> {
    let mut reader = Reader::of(data);
    if !reader.is_object() {
        return Err(malformed(data));
    }
    reader.fields(&mut on);
    if reader.sound && space(data.as_bytes(), reader.at) == data.len() {
        Ok(())
    } else {
        Err(malformed(data))
    }
}

impl<'a> Reader<'a> {
    /// Returns a reader before the value that a text is.
    pub(in crate::llm::provider) fn of(text: &'a str) -> Self {
        Self { text, at: space(text.as_bytes(), 0), depth: MAX_DEPTH, sound: true }
    }

    /// Returns whether the value is an object.
    pub(in crate::llm::provider) fn is_object(&self) -> bool {
        self.text.as_bytes().get(self.at) == Some(&b'{')
    }

    /// Takes the value.
    #[inline]
    pub(in crate::llm::provider) fn value(&mut self) -> Json<'a> {
        match skip(self.text, self.at, self.depth) {
            Some(end) => {
                let start = std::mem::replace(&mut self.at, end);
                Json(&self.text[start..end])
            }
            None => self.broken(),
        }
    }

    /// Takes the value, and returns the string that it is; an empty one if it is none.
    #[inline]
    pub(in crate::llm::provider) fn text(&mut self) -> Text<'a> {
        match string(self.text.as_bytes(), self.at) {
            Some(end) => {
                let start = std::mem::replace(&mut self.at, end);
                Text(&self.text[start + 1..end - 1])
            }
            None => self.value().text(),
        }
    }

    /// Takes the value, and calls `on` with each field before its value is read; with none if it is
    /// no object.
    #[inline]
    pub(in crate::llm::provider) fn fields(&mut self, on: &mut impl FnMut(&'a str, &mut Self)) {
        if !self.is_object() {
            self.value();
            return;
        }
        let (text, bytes, outer) = (self.text, self.text.as_bytes(), self.depth);
        let Some(depth) = outer.checked_sub(1) else {
            self.broken();
            return;
        };
        let mut at = space(bytes, self.at + 1);
        if bytes.get(at) == Some(&b'}') {
            self.at = at + 1;
            return;
        }
        loop {
            let Some(end) = string(bytes, at) else {
                self.broken();
                return;
            };
            let name = &text[at + 1..end - 1];
            at = space(bytes, end);
            if bytes.get(at) != Some(&b':') {
                self.broken();
                return;
            }
            self.at = space(bytes, at + 1);
            self.depth = depth;
            let begins = self.at;
            on(name, self);
            if self.at == begins {
                self.value();
            }
            self.depth = outer;
            at = space(bytes, self.at);
            match bytes.get(at) {
                Some(b',') if self.sound => at = space(bytes, at + 1),
                Some(b'}') if self.sound => {
                    self.at = at + 1;
                    return;
                }
                _ => {
                    self.broken();
                    return;
                }
            }
        }
    }

    /// Takes the value, and calls `on` before each item is read; not at all if it is no list.
    #[inline]
    pub(in crate::llm::provider) fn items(&mut self, on: &mut impl FnMut(&mut Self)) {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) != Some(&b'[') {
            self.value();
            return;
        }
        let outer = self.depth;
        let Some(depth) = outer.checked_sub(1) else {
            self.broken();
            return;
        };
        let mut at = space(bytes, self.at + 1);
        if bytes.get(at) == Some(&b']') {
            self.at = at + 1;
            return;
        }
        loop {
            (self.at, self.depth) = (at, depth);
            on(self);
            if self.at == at {
                self.value();
            }
            self.depth = outer;
            at = space(bytes, self.at);
            match bytes.get(at) {
                Some(b',') if self.sound => at = space(bytes, at + 1),
                Some(b']') if self.sound => {
                    self.at = at + 1;
                    return;
                }
                _ => {
                    self.broken();
                    return;
                }
            }
        }
    }

    /// Goes to the end: nothing more can be read of what is not sound.
    #[cold]
    fn broken(&mut self) -> Json<'a> {
        (self.sound, self.at) = (false, self.text.len());
        Json::default()
    }
}
