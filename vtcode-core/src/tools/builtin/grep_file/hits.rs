//! Takes what the search engine finds in one file and writes it as lines, as far as there is room.

use std::fmt::Write;
use std::io;

use grep_matcher::Matcher;
use grep_regex::RegexMatcher;
use grep_searcher::{Searcher, Sink, SinkContext, SinkFinish, SinkMatch};

use super::Mode;

/// The most of a line that is shown, and how much of it before the match.
const LINE_BYTES: usize = 300;
const BEFORE_BYTES: usize = 80;

/// What may still be shown.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    pub(super) matches: usize,
    pub(super) bytes: usize,
}

/// What was found in one file.
pub(super) struct Hits<'a> {
    matcher: &'a RegexMatcher,
    mode: Mode,
    room: Room,
    full: bool,
    /// Where the last match ends that fits whole.
    pub(super) text: String,
    /// Lines that match.
    pub(super) matches: usize,
    /// Those of them in the text.
    pub(super) shown: usize,
    /// True when the file holds no text; then nothing else counts.
    pub(super) binary: bool,
}

impl<'a> Hits<'a> {
    pub(super) fn new(matcher: &'a RegexMatcher, mode: Mode, room: Room) -> Self {
        let full = room.matches == 0;
        Self { matcher, mode, room, full, text: String::new(), matches: 0, shown: 0, binary: false }
    }

    /// Adds a line; false when there is no room for it.
    fn line(&mut self, number: u64, sign: char, line: &[u8], around: Option<usize>) -> bool {
        let start = self.text.len();
        let _ = write!(self.text, "{number}{sign}");
        show(line, around.unwrap_or(0), &mut self.text);
        self.text.push('\n');
        if self.text.len() > self.room.bytes {
            self.text.truncate(start);
            self.full = true;
        }
        !self.full
    }
}

impl Sink for Hits<'_> {
    type Error = io::Error;

    fn matched(&mut self, _: &Searcher, found: &SinkMatch<'_>) -> io::Result<bool> {
        let first = found.line_number().unwrap_or(0);
        self.matches += 1;
        match self.mode {
            Mode::Files => return Ok(false),
            Mode::Count => return Ok(true),
            Mode::Content => {}
        }
        self.full |= self.shown == self.room.matches;
        if self.full {
            return Ok(true);
        }
        for (number, line) in (first..).zip(found.lines()) {
            let around = self.matcher.find(line).ok().flatten().map(|found| found.start());
            if !self.line(number, ':', line, around) {
                return Ok(true);
            }
        }
        self.shown += 1;
        Ok(true)
    }

    fn context(&mut self, _: &Searcher, context: &SinkContext<'_>) -> io::Result<bool> {
        if !self.full {
            self.line(context.line_number().unwrap_or(0), '-', context.bytes(), None);
        }
        Ok(true)
    }

    fn context_break(&mut self, _: &Searcher) -> io::Result<bool> {
        if !self.full && self.shown < self.room.matches {
            self.text.push_str("--\n");
        }
        Ok(true)
    }

    fn binary_data(&mut self, _: &Searcher, _: u64) -> io::Result<bool> {
        self.binary = true;
        Ok(false)
    }

    fn finish(&mut self, _: &Searcher, finish: &SinkFinish) -> io::Result<()> {
        self.binary |= finish.binary_byte_offset().is_some();
        Ok(())
    }
}

/// Writes a line, or the part of it round the byte `around`, when it is long.
fn show(line: &[u8], around: usize, text: &mut String) {
    let line = line.strip_suffix(b"\n").unwrap_or(line);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() <= LINE_BYTES {
        text.push_str(&String::from_utf8_lossy(line));
        return;
    }
    let latest = line.len() - LINE_BYTES;
    let start = char_start(line, around.saturating_sub(BEFORE_BYTES).min(latest));
    let end = char_start(line, start + LINE_BYTES);
    if start > 0 {
        text.push('…');
    }
    text.push_str(&String::from_utf8_lossy(&line[start..end]));
    if end < line.len() {
        text.push('…');
    }
}

/// Steps back to where a character starts.
fn char_start(line: &[u8], mut at: usize) -> usize {
    while at > 0 && at < line.len() && line[at] & 0xC0 == 0x80 {
        at -= 1;
    }
    at
}
