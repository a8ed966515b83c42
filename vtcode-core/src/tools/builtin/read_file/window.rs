//! Cuts a range of lines out of a file: a stream comes in, numbered lines go out.
//! Holds no more than what is shown, however long the file or its lines are.

use std::fmt::Write;
use std::io::{self, BufRead};
use std::ops::RangeInclusive;

use tokio_util::sync::CancellationToken;

use super::magic;
use crate::tools::builtin::blocking::check;

/// The most of a line that is shown.
const LINE_BYTES: usize = 2000;

/// How much of a file's start decides whether it is text.
const HEAD_BYTES: usize = 8 * 1024;

/// Lines of a file up to this size are counted to its end, beyond what is shown.
const COUNTED_BYTES: u64 = 64 * 1024 * 1024;

/// What a file holds.
pub(super) enum Content {
    /// No text; what it is instead.
    Binary(String),
    /// Text.
    Text(Window),
}

/// The lines of a range, numbered.
#[derive(Debug, Default)]
pub(super) struct Window {
    text: String,
    /// Where each line ends in the text.
    ends: Vec<usize>,
    first: u64,
    /// The last line asked for.
    wanted: u64,
    /// How many lines the file has, if it was read to its end.
    total: Option<u64>,
    size_bytes: u64,
    crlf: u64,
    cut: u64,
    lossy: bool,
    byte_order_mark: bool,
    unterminated: bool,
}

impl Window {
    /// Reads `range` of a file from its start until `budget` bytes are full. Gives at least one line, if the
    /// range has one.
    pub(super) fn read(
        reader: impl BufRead,
        size_bytes: u64,
        range: RangeInclusive<u64>,
        budget: usize,
        cancel: &CancellationToken,
    ) -> io::Result<Content> {
        let mut lines = Lines { reader, cancel, number: 0 };
        let head = lines.reader.fill_buf()?;
        if let Some(kind) = magic::describe(&head[..head.len().min(HEAD_BYTES)]) {
            return Ok(Content::Binary(format!("({kind}, {size_bytes} bytes; not shown)\n")));
        }
        let mut window = Self {
            first: *range.start(),
            wanted: *range.end(),
            size_bytes,
            byte_order_mark: head.starts_with(b"\xef\xbb\xbf"),
            ..Self::default()
        };
        let mut line = Vec::new();
        while lines.number + 1 < *range.start() {
            if lines.next(0, &mut line)?.is_none() {
                window.total = Some(lines.number);
                return Ok(Content::Text(window));
            }
        }
        while lines.number < *range.end() {
            let Some(read) = lines.next(LINE_BYTES, &mut line)? else {
                window.total = Some(lines.number);
                return Ok(Content::Text(window));
            };
            if !window.push(lines.number, &line, &read, budget) {
                break;
            }
        }
        if size_bytes <= COUNTED_BYTES {
            lines.skip_all()?;
            window.total = Some(lines.number);
        } else if lines.reader.fill_buf()?.is_empty() {
            window.total = Some(lines.number);
        }
        Ok(Content::Text(window))
    }

    /// Adds a line; false when it does not fit.
    fn push(&mut self, number: u64, line: &[u8], read: &Line, budget: usize) -> bool {
        let start = self.text.len();
        let mut shown = line;
        if number == 1 && self.byte_order_mark {
            shown = &shown[3.min(shown.len())..];
        }
        let whole = line.len() as u64 == read.bytes;
        let crlf = whole && read.terminated && shown.ends_with(b"\r");
        if crlf {
            shown = &shown[..shown.len() - 1];
        }
        let lossy = String::from_utf8_lossy(if whole { shown } else { whole_chars(shown) });
        let _ = write!(self.text, "{number}\t");
        // Not every wire takes a NUL, and one may stand where the first bytes promised text.
        for (nth, part) in lossy.split('\0').enumerate() {
            let nul = if nth > 0 { "␀" } else { "" };
            self.text.extend([nul, part]);
        }
        if !whole {
            let _ = write!(self.text, "… (+{} bytes)", read.bytes - line.len() as u64);
        }
        self.text.push('\n');
        if self.text.len() > budget && !self.ends.is_empty() {
            self.text.truncate(start);
            return false;
        }
        self.ends.push(self.text.len());
        self.lossy |= matches!(lossy, std::borrow::Cow::Owned(_));
        self.crlf += u64::from(crlf);
        self.cut += u64::from(!whole);
        self.unterminated = !read.terminated;
        true
    }

    /// Drops lines from the end until no more than `budget` bytes are left, but not the first.
    pub(super) fn trim(&mut self, budget: usize) {
        while self.ends.len() > 1 && self.ends.last().is_some_and(|end| *end > budget) {
            self.ends.pop();
        }
        self.text.truncate(self.ends.last().copied().unwrap_or(0));
    }

    /// Returns the numbered lines.
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Returns how many lines it holds.
    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Returns how many lines the file has, if known.
    pub(super) fn total(&self) -> Option<u64> {
        self.total
    }

    fn last(&self) -> u64 {
        self.first + (self.ends.len() as u64).saturating_sub(1)
    }

    /// Returns which lines these are.
    pub(super) fn span(&self) -> String {
        match self.total {
            Some(0) => "empty".to_owned(),
            Some(total) => format!("lines {}-{} of {total}", self.first, self.last()),
            None => format!("lines {}-{} of {} bytes", self.first, self.last(), self.size_bytes),
        }
    }

    /// Returns what should be said below the lines; `alone` when no header says which they are.
    pub(super) fn notes(&self, alone: bool) -> Vec<String> {
        if self.total == Some(0) {
            return if alone { vec!["empty file".to_owned()] } else { Vec::new() };
        }
        let mut notes = Vec::new();
        let shown = self.ends.len() as u64;
        let at_end = self.total == Some(self.last());
        if alone && !(at_end && self.first == 1) {
            notes.push(self.span());
        }
        // Not said when the model got all that it asked for by number.
        if !at_end && (self.last() < self.wanted || shown == super::LINES) {
            notes.push(format!("cut here; go on with start: {}", self.last() + 1));
        }
        if self.crlf > 0 {
            let which = if self.crlf >= shown { "" } else { "some " };
            notes.push(format!("{which}lines end in CRLF"));
        }
        if self.byte_order_mark {
            notes.push("starts with a byte order mark".to_owned());
        }
        if self.lossy {
            notes.push("not all of it is UTF-8; \u{fffd} stands for other bytes".to_owned());
        }
        if self.cut > 0 {
            notes.push("long lines are cut".to_owned());
        }
        if at_end && self.unterminated {
            notes.push("no newline at the end".to_owned());
        }
        if notes.is_empty() { notes } else { vec![notes.join("; ")] }
    }
}

/// Drops a character that was cut at the end.
fn whole_chars(bytes: &[u8]) -> &[u8] {
    // A character has at most four bytes, so the cut one starts among the last three.
    let from = bytes.len().saturating_sub(3);
    let start = (from..bytes.len()).rev().find(|i| bytes[*i] & 0xC0 != 0x80);
    match start {
        Some(start) if std::str::from_utf8(&bytes[start..]).is_err() => &bytes[..start],
        _ => bytes,
    }
}

/// What is known of a line besides its kept bytes.
struct Line {
    /// How long it is, without its newline.
    bytes: u64,
    terminated: bool,
}

struct Lines<'a, R> {
    reader: R,
    cancel: &'a CancellationToken,
    /// How many lines were read.
    number: u64,
}

impl<R: BufRead> Lines<'_, R> {
    /// Reads a line and keeps its first `keep` bytes.
    fn next(&mut self, keep: usize, kept: &mut Vec<u8>) -> io::Result<Option<Line>> {
        kept.clear();
        let mut line = Line { bytes: 0, terminated: false };
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                if line.bytes == 0 {
                    return Ok(None);
                }
                break;
            }
            let newline = memchr::memchr(b'\n', chunk);
            let part = &chunk[..newline.unwrap_or(chunk.len())];
            kept.extend_from_slice(&part[..part.len().min(keep - kept.len())]);
            line.bytes += part.len() as u64;
            line.terminated = newline.is_some();
            let used = part.len() + usize::from(line.terminated);
            self.reader.consume(used);
            if line.terminated {
                break;
            }
        }
        self.number += 1;
        Ok(Some(line))
    }

    /// Counts the lines that are left.
    fn skip_all(&mut self) -> io::Result<()> {
        let mut ended = true;
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                self.number += u64::from(!ended);
                return Ok(());
            }
            let newlines = memchr::memchr_iter(b'\n', chunk).count() as u64;
            ended = chunk.ends_with(b"\n");
            let used = chunk.len();
            self.number += newlines;
            self.reader.consume(used);
        }
    }

    fn chunk(&mut self) -> io::Result<&[u8]> {
        check(self.cancel)?;
        self.reader.fill_buf()
    }
}
