//! Server-sent events: bytes in, as they arrive, events out, as the WHATWG standard frames them.
//! Lines and data are gathered in buffers that are used again for every event.
//! Never reads what the data says, and never gives out an event that has no closing blank line.

use memchr::{memchr, memchr2};

use crate::core::memory_pool::{BytesLoan, global_pool};

/// The longest line, and the most data in one event, that is taken in.
const MAX_EVENT_BYTES: usize = 32 * 1024 * 1024;

/// A stream that cannot be framed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SseError {
    /// A line or an event outgrew the bound.
    #[error("the stream holds an event of more than {limit_bytes} bytes")]
    TooLong {
        /// The bound; 32 MiB for a line as for the data of an event.
        limit_bytes: usize,
    },
}

/// Frames one stream. After an error it must not be used again.
#[derive(Debug)]
pub struct SseParser {
    /// The line that the last chunk left unfinished.
    line: BytesLoan,
    /// The data lines of the event so far, each closed by a line feed.
    data: BytesLoan,
    event: BytesLoan,
    /// True until the first line is read: it may begin with a byte order mark.
    at_start: bool,
    /// True when the last chunk ended in CR: an LF that follows belongs to it.
    after_cr: bool,
    limit_bytes: usize,
}

impl Default for SseParser {
    fn default() -> Self {
        Self::new()
    }
}

impl SseParser {
    /// Returns a parser at the start of a stream.
    pub fn new() -> Self {
        Self::with_limit(MAX_EVENT_BYTES)
    }

    fn with_limit(limit_bytes: usize) -> Self {
        Self {
            line: global_pool().loan_bytes(),
            data: global_pool().loan_bytes(),
            event: global_pool().loan_bytes(),
            at_start: true,
            after_cr: false,
            limit_bytes,
        }
    }

    /// Takes the next bytes and calls `on_event` with the type (empty if none was named) and the
    /// data of each event that they complete. Bytes that are not UTF-8 become U+FFFD. Fails when a
    /// line, or the data of an event, has more than 32 MiB; events before it were given out.
    pub fn push(
        &mut self,
        mut bytes: &[u8],
        mut on_event: impl FnMut(&str, &str),
    ) -> Result<(), SseError> {
        if self.after_cr && !bytes.is_empty() {
            self.after_cr = false;
            bytes = bytes.strip_prefix(b"\n").unwrap_or(bytes);
        }
        while let Some(end) = memchr2(b'\n', b'\r', bytes) {
            let (head, rest) = bytes.split_at(end);
            if self.line.is_empty() {
                self.take_line(head, &mut on_event)?;
            } else {
                let mut line = std::mem::take(&mut self.line);
                line.extend_from_slice(head);
                let taken = self.take_line(&line, &mut on_event);
                line.clear();
                self.line = line;
                taken?;
            }
            bytes = match rest {
                [b'\r', b'\n', rest @ ..] => rest,
                [b'\r'] => {
                    self.after_cr = true;
                    &[]
                }
                rest => &rest[1..],
            };
        }
        self.line.extend_from_slice(bytes);
        self.check(self.line.len())
    }

    fn check(&self, bytes: usize) -> Result<(), SseError> {
        if bytes > self.limit_bytes {
            return Err(SseError::TooLong { limit_bytes: self.limit_bytes });
        }
        Ok(())
    }

    fn take_line(
        &mut self,
        mut line: &[u8],
        on_event: &mut impl FnMut(&str, &str),
    ) -> Result<(), SseError> {
        if std::mem::take(&mut self.at_start) {
            line = line.strip_prefix(b"\xef\xbb\xbf").unwrap_or(line);
        }
        if line.is_empty() {
            self.dispatch(on_event);
            return Ok(());
        }
        let (field, value) = match memchr(b':', line) {
            Some(colon) => (&line[..colon], &line[colon + 1..]),
            None => (line, &[][..]),
        };
        let value = value.strip_prefix(b" ").unwrap_or(value);
        match field {
            b"data" => {
                self.data.extend_from_slice(value);
                self.data.push(b'\n');
                self.check(self.data.len())?;
            }
            b"event" => {
                self.event.clear();
                self.event.extend_from_slice(value);
            }
            // A comment has an empty name; `id` and `retry` concern only a client that reconnects.
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self, on_event: &mut impl FnMut(&str, &str)) {
        if let Some((_, data)) = self.data.split_last() {
            on_event(&String::from_utf8_lossy(&self.event), &String::from_utf8_lossy(data));
        }
        self.data.clear();
        self.event.clear();
    }
}

/// How an answer comes. What arrives decides, and not what was announced: servers announce their
/// events as text, as JSON or as nothing at all, and a whole answer as events.
#[derive(Debug)]
pub enum Framing {
    /// Nothing but white space came.
    Unknown,
    /// Events.
    Events(SseParser),
    /// The server does not stream; all of its answer.
    Whole(Vec<u8>),
}

impl Framing {
    /// Looks at bytes that are about to be taken, and returns those that are: white space before an
    /// answer is no part of it, in whatever pieces it comes.
    pub fn begin<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        if !matches!(self, Self::Unknown) {
            return bytes;
        }
        let bytes = bytes.trim_ascii_start();
        match bytes.first() {
            Some(b'{' | b'[') => *self = Self::Whole(Vec::new()),
            Some(_) => *self = Self::Events(SseParser::new()),
            None => {}
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    type Events = Vec<(String, String)>;

    fn parse(chunks: &[&[u8]]) -> Events {
        let mut parser = SseParser::new();
        let mut events = Events::new();
        for chunk in chunks {
            parser
                .push(chunk, |event, data| events.push((event.to_owned(), data.to_owned())))
                .unwrap();
        }
        events
    }

    /// Checks whole, at every split into two, and byte by byte.
    fn assert_events(name: &str, bytes: &[u8], expected: &Events) {
        for split in 0..=bytes.len() {
            let (head, tail) = bytes.split_at(split);
            assert_eq!(&parse(&[head, tail]), expected, "{name}, split at {split}");
        }
        let single: Vec<&[u8]> = bytes.chunks(1).collect();
        assert_eq!(&parse(&single), expected, "{name}, byte by byte");
    }

    #[test]
    fn frames_as_the_standard_says_at_every_split() {
        type Case = (&'static str, &'static [u8], &'static [(&'static str, &'static str)]);
        let cases: &[Case] = &[
            ("two events", b"data: a\n\ndata: b\n\n", &[("", "a"), ("", "b")]),
            ("a mark at the start is dropped", b"\xef\xbb\xbfdata: a\n\n", &[("", "a")]),
            (
                "a second mark is not",
                b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
                &[("", "b")],
            ),
            ("a mark later on is not", b"data: a\n\n\xef\xbb\xbfdata: b\n\n", &[("", "a")]),
            ("CRLF", b"event: x\r\ndata: a\r\n\r\ndata: b\r\n\r\n", &[("x", "a"), ("", "b")]),
            ("CR alone", b"data: a\rdata: b\r\rdata: c\r\r", &[("", "a\nb"), ("", "c")]),
            ("mixed ends", b"data: a\ndata: b\r\ndata: c\r\n\n", &[("", "a\nb\nc")]),
            ("lines are joined", b"data: {\"a\":\ndata: 1}\n\n", &[("", "{\"a\":\n1}")]),
            ("empty data counts", b"data:\n\ndata\ndata\n\n", &[("", ""), ("", "\n")]),
            ("one space is dropped", b"data:  a\ndata:\tb\ndata: \n\n", &[("", " a\n\tb\n")]),
            ("comments", b": ping\n\n:\ndata: a\n: b\ndata: c\n\n", &[("", "a\nc")]),
            ("event without data", b"event: x\n\ndata: a\n\n", &[("", "a")]),
            ("the last event name wins", b"event: x\nevent: y\ndata: a\n\n", &[("y", "a")]),
            ("id, retry, unknown", b"id: 1\nretry: 5\nfoo: b\n data: x\ndata: a\n\n", &[("", "a")]),
            ("names are exact", b"Data: x\ndata : y\ndata\0: z\ndata: a\n\n", &[("", "a")]),
            ("colons in data", b"data:a:b: c\n\n", &[("", "a:b: c")]),
            ("no blank line, no event", b"data: a\n\ndata: [DONE]\n", &[("", "a")]),
            ("an unfinished line", b"data: a\n\ndata: b", &[("", "a")]),
            ("letters of many bytes", "data: ok… 🙂\n\n".as_bytes(), &[("", "ok… 🙂")]),
            ("not UTF-8", b"data: a\xff\xf0\x9fb\n\n", &[("", "a\u{fffd}\u{fffd}b")]),
            ("nothing", b"", &[]),
        ];
        for (name, bytes, expected) in cases {
            let expected =
                expected.iter().map(|(e, d)| ((*e).to_owned(), (*d).to_owned())).collect();
            assert_events(name, bytes, &expected);
        }
    }

    #[test]
    fn a_line_or_an_event_without_end_is_refused() {
        let mut line = SseParser::with_limit(100);
        let refused = (0..100).find_map(|_| line.push(b"data: aaaaaaaa", |_, _| {}).err());
        assert_eq!(refused, Some(SseError::TooLong { limit_bytes: 100 }));

        let mut event = SseParser::with_limit(100);
        let refused = (0..100).find_map(|_| event.push(b"data: aaaaaaaa\n", |_, _| {}).err());
        assert_eq!(refused, Some(SseError::TooLong { limit_bytes: 100 }));

        let mut many = SseParser::with_limit(100);
        for _ in 0..100 {
            many.push(b"data: aaaaaaaa\n\n", |_, _| {}).unwrap();
        }
    }

    #[test]
    fn the_shared_cases_hold_at_every_split() {
        #[derive(serde::Deserialize)]
        struct Case {
            name: String,
            bytes_base64: String,
            expect: Vec<Expected>,
        }
        #[derive(serde::Deserialize)]
        struct Expected {
            event: String,
            data: String,
        }

        let shared = std::env::var_os("VTCODE_SHARED").map_or_else(
            || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../shared"),
            PathBuf::from,
        );
        let file = shared.join("cases/sse_cases.json");
        let Ok(text) = std::fs::read_to_string(&file) else {
            eprintln!("skipped: no shared cases at {} (set VTCODE_SHARED)", file.display());
            return;
        };
        let cases: Vec<Case> = serde_json::from_str(&text).unwrap();
        assert!(!cases.is_empty());
        for case in cases {
            // The standard's name for an event that named none.
            let expected = case
                .expect
                .into_iter()
                .map(|e| (if e.event == "message" { String::new() } else { e.event }, e.data))
                .collect();
            assert_events(&case.name, &base64(&case.bytes_base64), &expected);
        }
    }

    fn base64(text: &str) -> Vec<u8> {
        let (mut bytes, mut bits, mut held) = (Vec::new(), 0, 0u32);
        for letter in text.bytes() {
            let value = match letter {
                b'A'..=b'Z' => letter - b'A',
                b'a'..=b'z' => letter - b'a' + 26,
                b'0'..=b'9' => letter - b'0' + 52,
                b'+' => 62,
                b'/' => 63,
                _ => break,
            };
            held = held << 6 | u32::from(value);
            bits += 6;
            if bits >= 8 {
                bits -= 8;
                bytes.push((held >> bits) as u8);
            }
        }
        bytes
    }
}
