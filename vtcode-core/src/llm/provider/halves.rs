//! Letters cut in two: a server that counts in UTF-16 may end one event with the first half of an
//! emoji and begin the next with the second. JSON in, JSON with whole letters out.
//! Never changes data in which every letter is whole, and never reads what it says.

use std::borrow::Cow;
use std::fmt::Write as _;

use memchr::memchr;

/// Joins the halves that stand in different events of one stream.
#[derive(Debug, Default)]
pub(super) struct Halves {
    /// A first half at the end of a text, which waits for its second.
    first: Option<u16>,
}

/// The bytes of `\uXXXX`.
const ESCAPE: usize = 6;

impl Halves {
    /// Returns the data of the next event as JSON that can be read. A half whose other half is
    /// nowhere becomes U+FFFD.
    pub(super) fn join<'a>(&mut self, data: &'a str) -> Cow<'a, str> {
        let bytes = data.as_bytes();
        let (mut whole, mut copied, mut at) = (String::new(), 0, 0);
        // Servers that name a text twice in one event have cut it twice.
        let held = self.first;
        let mut waiting = held;
        while let Some(found) = bytes.get(at..).and_then(|rest| memchr(b'\\', rest)) {
            let start = at + found;
            let Some(unit) = unit(bytes, start) else {
                at = start + 2;
                continue;
            };
            at = start + ESCAPE;
            let (is_first, is_second) = (is_first(unit), is_second(unit));
            if !is_first && !is_second {
                continue;
            }
            if is_first && self::unit(bytes, at).is_some_and(self::is_second) {
                at += ESCAPE;
                continue;
            }
            whole.push_str(&data[copied..start]);
            copied = at;
            match held {
                _ if is_first && bytes.get(at) == Some(&b'"') => waiting = Some(unit),
                Some(first) if is_second => {
                    let _ = write!(whole, "\\u{first:04x}\\u{unit:04x}");
                    waiting = waiting.filter(|waiting| *waiting != first);
                }
                _ => whole.push_str("\\ufffd"),
            }
        }
        self.first = waiting;
        if copied == 0 {
            return Cow::Borrowed(data);
        }
        whole.push_str(&data[copied..]);
        Cow::Owned(whole)
    }
}

/// Returns the UTF-16 unit of the `\uXXXX` that begins here, if one does.
fn unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes.get(at..at + ESCAPE)?.strip_prefix(b"\\u")?;
    digits.iter().try_fold(0, |unit, digit| {
        let digit = char::from(*digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

fn is_first(unit: u16) -> bool {
    (0xd800..0xdc00).contains(&unit)
}

fn is_second(unit: u16) -> bool {
    (0xdc00..0xe000).contains(&unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn joined(events: &[&str]) -> Vec<String> {
        let mut halves = Halves::default();
        events.iter().map(|event| halves.join(event).into_owned()).collect()
    }

    #[test]
    fn whole_letters_are_left_as_they_are() {
        for data in [
            "",
            r#"{"a":"🙂\n\u00fc"}"#,
            r#"{"a":"\ud83d\ude42\uD83D\uDE42"}"#,
            r#"{"a":"\\ud83d is no letter"}"#,
            r#"{"a":"\"#,
            r#"{"a":"\ud8"#,
            r#"{"a":"\é\u"#,
        ] {
            assert!(matches!(Halves::default().join(data), Cow::Borrowed(same) if same == data));
        }
    }

    #[test]
    fn a_letter_cut_in_two_is_whole_again() {
        let cut = [r#"{"a":"x\ud83d"}"#, r#"{"other":1}"#, r#"{"a":"\ude42y"}"#];
        assert_eq!(joined(&cut), [r#"{"a":"x"}"#, r#"{"other":1}"#, r#"{"a":"\ud83d\ude42y"}"#]);
        // Twice in one event, and the next letter cut at once.
        let cut = [r#"["\ud83d","\ud83d"]"#, r#"["\ude42\ud83c","\ude42\ud83c"]"#, r#"["\udf89"]"#];
        assert_eq!(
            joined(&cut),
            [r#"["",""]"#, r#"["\ud83d\ude42","\ud83d\ude42"]"#, r#"["\ud83c\udf89"]"#]
        );
    }

    #[test]
    fn half_a_letter_alone_is_told_as_such() {
        assert_eq!(joined(&[r#"["a\ud83db"]"#]), [r#"["a\ufffdb"]"#]);
        assert_eq!(joined(&[r#"["a\ude42b"]"#]), [r#"["a\ufffdb"]"#]);
        assert_eq!(joined(&[r#"["\ud83d\ud83d\ude42"]"#]), [r#"["\ufffd\ud83d\ude42"]"#]);
    }
}
