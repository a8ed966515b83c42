//! The arguments of tool calls: fragments in while they stream, safe JSON objects out when sent back.
//! Tells the moment in which an object closes, so that a call can start before the answer ends.
//! Never checks arguments against a schema; that is the registry's.

use std::borrow::Cow;

use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Watches for the end of a JSON object that arrives in fragments.
#[derive(Debug, Default)]
pub(super) struct ObjectScan {
    place: Place,
    /// Braces and brackets that are open.
    depth: u32,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Place {
    #[default]
    Before,
    Inside,
    InString,
    AfterBackslash,
    Closed,
    /// Something else than an object began; its end cannot be told.
    Other,
}

impl ObjectScan {
    /// Takes the next fragment and returns how many of its bytes belong to the object.
    pub(super) fn push(&mut self, fragment: &str) -> usize {
        for (at, byte) in fragment.bytes().enumerate() {
            self.place = match (self.place, byte) {
                (Place::Before, b' ' | b'\t' | b'\r' | b'\n') => Place::Before,
                (Place::Before | Place::Inside, b'{') | (Place::Inside, b'[') => {
                    self.depth += 1;
                    Place::Inside
                }
                (Place::Inside, b'}' | b']') => {
                    self.depth -= 1;
                    if self.depth == 0 {
                        self.place = Place::Closed;
                        return at + 1;
                    }
                    Place::Inside
                }
                (Place::Inside, b'"') | (Place::AfterBackslash, _) => Place::InString,
                (Place::InString, b'"') => Place::Inside,
                (Place::InString, b'\\') => Place::AfterBackslash,
                (Place::Inside | Place::InString, _) => self.place,
                (Place::Before, _) => Place::Other,
                (Place::Closed, _) => return 0,
                (Place::Other, _) => break,
            };
        }
        fragment.len()
    }

    /// Returns whether the object is complete.
    pub(super) fn is_closed(&self) -> bool {
        self.place == Place::Closed
    }
}

/// Returns arguments as the text of a JSON object. Some servers refuse a whole conversation over
/// one old call with broken arguments, so what is no object is wrapped as `{"_raw": …}`.
pub(super) fn as_object(arguments: &str) -> Cow<'_, str> {
    let trimmed = arguments.trim();
    if trimmed.is_empty() {
        Cow::Borrowed("{}")
    } else if is_object(trimmed) {
        Cow::Borrowed(trimmed)
    } else {
        Cow::Owned(serde_json::json!({ "_raw": arguments }).to_string())
    }
}

/// Returns whether a text is one JSON object that any server can read: one nested a thousandfold,
/// or with half a letter in it, passes for JSON and is refused all the same.
pub(super) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{') && serde_json::from_str::<Read>(text).is_ok()
}

/// A value that was read as strictly as one that is kept, and of which nothing is.
struct Read;

impl<'de> Deserialize<'de> for Read {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Self)
    }
}

impl<'de> Visitor<'de> for Read {
    type Value = Self;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("any value")
    }

    fn visit_bool<E: Error>(self, _: bool) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_i64<E: Error>(self, _: i64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_u64<E: Error>(self, _: u64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_f64<E: Error>(self, _: f64) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_str<E: Error>(self, _: &str) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_unit<E: Error>(self) -> Result<Self, E> {
        Ok(self)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self, A::Error> {
        while items.next_element::<Self>()?.is_some() {}
        Ok(self)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut fields: A) -> Result<Self, A::Error> {
        while fields.next_entry::<Self, Self>()?.is_some() {}
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_closes_at_its_own_brace_at_every_split() {
        let text = r#" {"a":"}\"]{","b":[1,{"c":"\\"}],"d":{}}  "#;
        let end = text.trim_end().len();
        for split in (0..=text.len()).filter(|at| text.is_char_boundary(*at)) {
            let mut scan = ObjectScan::default();
            let taken = scan.push(&text[..split]) + scan.push(&text[split..]);
            assert!(scan.is_closed(), "split at {split}");
            assert_eq!(taken, end, "split at {split}");
        }
    }

    #[test]
    fn what_is_no_object_never_closes() {
        for text in ["", "  ", "null", "\"{}\"", "[{}]", "{\"a\":\"}", "{\"a\":{}", "}"] {
            let mut scan = ObjectScan::default();
            assert_eq!(scan.push(text), text.len(), "{text}");
            assert!(!scan.is_closed(), "{text}");
        }
    }

    #[test]
    fn whatever_a_model_wrote_is_sent_back_as_an_object() {
        assert_eq!(as_object(""), "{}");
        assert_eq!(as_object(" \n"), "{}");
        assert_eq!(as_object("{ \"a\" : 1 }\n"), "{ \"a\" : 1 }");
        assert_eq!(as_object("{\"a\":"), r#"{"_raw":"{\"a\":"}"#);
        assert_eq!(as_object("[1]"), r#"{"_raw":"[1]"}"#);
        assert_eq!(as_object("{} {}"), r#"{"_raw":"{} {}"}"#);
    }

    #[test]
    fn an_object_is_what_the_parser_of_values_takes_for_one() {
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(100), "]".repeat(100));
        for text in [
            "{}",
            " {\"a\": [1, -2, 1.5, true, null, \"\\n\", {\"b\": {}}]} ",
            "{\"\\ud83d\\ude42\": \"\\ud83d\"}",
            "{\"a\": 1e999}",
            "{\"a\": 1, \"a\": 2}",
            "{\"a\": 1,}",
            "{1: 2}",
            "{\"a\": 1} x",
            "{\"a\": \"\u{1}\"}",
            "[{}]",
            "\"{}\"",
            "",
            &deep,
        ] {
            let parsed = serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text);
            assert_eq!(is_object(text), parsed.is_ok(), "{text}: {parsed:?}");
        }
    }

    #[test]
    fn what_a_server_would_refuse_at_each_later_request_is_wrapped() {
        let half = r#"{"a":"\ud83d"}"#;
        assert_eq!(as_object(half), r#"{"_raw":"{\"a\":\"\\ud83d\"}"}"#);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(as_object(&deep).starts_with("{\"_raw\":"), "{}", as_object(&deep));
    }
}
