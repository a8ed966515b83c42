//! The arguments of tool calls: fragments in while they stream, safe JSON objects out when sent back.
//! Tells the moment in which an object closes, so that a call can start before the answer ends.
//! Never checks arguments against a schema; that is the registry's.

use std::borrow::Cow;

use serde_json::{Map, Value};

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
    serde_json::from_str::<Map<String, Value>>(text).is_ok()
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
    fn what_a_server_would_refuse_at_each_later_request_is_wrapped() {
        let half = r#"{"a":"\ud83d"}"#;
        assert_eq!(as_object(half), r#"{"_raw":"{\"a\":\"\\ud83d\"}"}"#);
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(1000), "]".repeat(1000));
        assert!(as_object(&deep).starts_with("{\"_raw\":"), "{}", as_object(&deep));
    }
}
