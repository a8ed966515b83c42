//! What a terminal would show of a command's output: its bytes come in piece by piece, text
//! without escape sequences and without overwritten lines goes out.
//! The result does not depend on where the pieces were cut. Never holds more than one line, and of
//! that not more than [`LINE_BYTES`].

/// A longer line is given out before its end is known; what a carriage return then overwrites is
/// only what came after.
const LINE_BYTES: usize = 4096;

/// Bytes to text without escape sequences. `\r` and `\b` stay in, for [`Lines`] or for a terminal.
#[derive(Debug, Default)]
pub(super) struct Unescape {
    state: State,
    /// The start of a character that the last piece cut.
    carry: Vec<u8>,
}

/// Where in an escape sequence we are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Text,
    /// After ESC, and after the intermediate characters of a short sequence.
    Escape,
    /// After `ESC [`, until a final character.
    Control,
    /// In a title, a link or another string, until BEL or `ESC \`.
    String,
}

const ESC: char = '\x1b';

impl Unescape {
    /// Appends what `bytes` show to `out`.
    pub(super) fn push(&mut self, bytes: &[u8], out: &mut String) {
        if self.carry.is_empty() {
            self.decode(bytes, out);
        } else {
            let mut whole = std::mem::take(&mut self.carry);
            whole.extend_from_slice(bytes);
            self.decode(&whole, out);
        }
    }

    /// Appends what a cut character at the very end shows.
    pub(super) fn finish(&mut self, out: &mut String) {
        if !std::mem::take(&mut self.carry).is_empty() {
            self.text("\u{fffd}", out);
        }
    }

    fn decode(&mut self, mut bytes: &[u8], out: &mut String) {
        while let Err(e) = std::str::from_utf8(bytes) {
            let (valid, rest) = bytes.split_at(e.valid_up_to());
            self.text(std::str::from_utf8(valid).expect("it was just found valid"), out);
            let Some(invalid) = e.error_len() else {
                self.carry = rest.to_vec();
                return;
            };
            self.text("\u{fffd}", out);
            bytes = &rest[invalid..];
        }
        self.text(std::str::from_utf8(bytes).expect("it was just found valid"), out);
    }

    fn text(&mut self, mut text: &str, out: &mut String) {
        while !text.is_empty() {
            if self.state == State::Text {
                let plain = text.bytes().position(is_special).unwrap_or(text.len());
                out.push_str(&text[..plain]);
                text = &text[plain..];
            }
            let Some(c) = text.chars().next() else { return };
            self.char(c, out);
            text = &text[c.len_utf8()..];
        }
    }

    fn char(&mut self, c: char, out: &mut String) {
        self.state = match (self.state, c) {
            (_, ESC) => State::Escape,
            // A broken sequence ends with its line, lest it swallow all that follows.
            (_, '\n') | (State::Text, _) => shown(c, out),
            (State::Escape, '[') => State::Control,
            (State::Escape, ']' | 'P' | 'X' | '^' | '_') => State::String,
            // Intermediate characters and parameters.
            (State::Escape, ' '..='/') | (State::Control, ' '..='?') => self.state,
            (State::Escape, '0'..='~')
            | (State::Control, '@'..='~')
            | (State::String, '\x07' | '\x18' | '\x1a') => State::Text,
            (State::String, _) => State::String,
            // Not a sequence: the character counts as if there had been none.
            (State::Escape | State::Control, _) => shown(c, out),
        };
    }
}

/// Appends a character of text.
fn shown(c: char, out: &mut String) -> State {
    match c {
        // Not every wire takes a NUL, and nothing would glue the names of `find -print0`.
        '\0' => out.push('␀'),
        '\n' | '\t' | '\r' | '\x08' => out.push(c),
        c if c.is_control() => {}
        c => out.push(c),
    }
    State::Text
}

/// Returns whether a byte of text needs a closer look: controls, and the start of U+0080–U+00BF,
/// half of which are controls too.
fn is_special(byte: u8) -> bool {
    (byte < b' ' && byte != b'\n' && byte != b'\t') || byte == 0x7f || byte == 0xc2
}

/// Text to lines as they look in the end: `\r` starts a line over, `\b` takes a character back.
#[derive(Debug, Default)]
pub(super) struct Lines {
    line: String,
    /// A `\r` was seen: the next character of this line starts it over.
    over: bool,
}

impl Lines {
    /// Appends to `out` what of `text` can change no more.
    pub(super) fn push(&mut self, mut text: &str, out: &mut String) {
        while !text.is_empty() {
            let special = text.bytes().position(|b| b == b'\r' || b == b'\x08');
            let (plain, rest) = text.split_at(special.unwrap_or(text.len()));
            self.plain(plain, out);
            match rest.bytes().next() {
                Some(b'\r') => self.over = true,
                Some(_) if !self.over => drop(self.line.pop()),
                _ => {}
            }
            text = rest.get(1..).unwrap_or_default();
        }
    }

    /// Returns whether nothing waits for its line's end.
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Appends the last line, or what there is of it so far.
    pub(super) fn finish(&mut self, out: &mut String) {
        out.push_str(&std::mem::take(&mut self.line));
    }

    fn plain(&mut self, text: &str, out: &mut String) {
        let Some(first) = text.bytes().next() else { return };
        if std::mem::take(&mut self.over) && first != b'\n' {
            self.line.clear();
        }
        let whole_lines = text.rfind('\n').map_or(0, |at| at + 1);
        if whole_lines > 0 {
            out.push_str(&self.line);
            self.line.clear();
            out.push_str(&text[..whole_lines]);
        }
        self.line.push_str(&text[whole_lines..]);
        if self.line.len() > LINE_BYTES {
            out.push_str(&self.line);
            self.line.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn shown_in_pieces<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> String {
        let (mut unescape, mut lines) = (Unescape::default(), Lines::default());
        let mut out = String::new();
        let mut text = String::new();
        for piece in pieces {
            text.clear();
            unescape.push(piece, &mut text);
            lines.push(&text, &mut out);
        }
        text.clear();
        unescape.finish(&mut text);
        lines.push(&text, &mut out);
        lines.finish(&mut out);
        out
    }

    fn shown(bytes: impl AsRef<[u8]>) -> String {
        shown_in_pieces([bytes.as_ref()])
    }

    #[test]
    fn plain_text_stays_as_it_is() {
        for text in ["", "a", "a\nb\n", "\n\n", "\tä € 😀 \u{a0}x\n"] {
            assert_eq!(shown(text), text);
        }
    }

    #[test]
    fn colours_titles_and_links_vanish() {
        assert_eq!(shown("\x1b[1;31merror\x1b[0m: no"), "error: no");
        assert_eq!(shown("\x1b[38:2:1:2:3mx\x1b[?25l\x1b[2K"), "x");
        assert_eq!(shown("\x1b]0;title\x07a\x1b]8;;http://x\x1b\\b\x1b]8;;\x1b\\"), "ab");
        assert_eq!(shown("\x1b(Ba\x1b=b\x1b7c\x1bPq#0;2\x1b\\d"), "abcd");
    }

    #[test]
    fn a_broken_sequence_does_not_swallow_the_output() {
        assert_eq!(shown("a\x1b]no end\nb"), "a\nb");
        assert_eq!(shown("a\x1b[12\nb\x1b[3äc"), "a\nbäc");
        assert_eq!(shown("a\x1b"), "a");
        assert_eq!(shown("a\x1b[1\x1b[2mb"), "ab");
    }

    #[test]
    fn a_progress_bar_shows_its_last_state() {
        assert_eq!(shown("10%\r50%\r100%\ndone\n"), "100%\ndone\n");
        assert_eq!(shown("10%\r\x1b[K99%\r"), "99%");
        assert_eq!(shown("dos\r\nlines\r\n"), "dos\nlines\n");
        assert_eq!(shown("a\r\r\nb"), "a\nb");
        assert_eq!(shown("|\x08/\x08-\x08 done"), " done");
        assert_eq!(shown("\x08\x08a"), "a");
    }

    #[test]
    fn controls_are_dropped_and_a_nul_is_visible() {
        assert_eq!(shown("a\x07b\x7fc\u{9b}d\0e"), "abcd␀e");
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let mut lines = Lines::default();
        let mut out = String::new();
        for _ in 0..1000 {
            lines.push(&"x".repeat(1000), &mut out);
            assert!(lines.line.len() <= LINE_BYTES);
        }
        lines.finish(&mut out);
        assert_eq!(out.len(), 1_000_000);
    }

    #[test]
    fn invalid_bytes_show_as_the_standard_library_shows_them() {
        for bytes in [&b"a\xffb"[..], b"\xe2\x82", b"\xe2\x82x", b"\xf0\x9f\x98", b"\xc3\xc3\xa4"] {
            assert_eq!(shown(bytes), String::from_utf8_lossy(bytes));
        }
    }

    proptest! {
        #[test]
        fn where_the_pieces_are_cut_changes_nothing(
            bytes in proptest::collection::vec(
                prop_oneof![Just(0x1b), Just(b'['), Just(b'\r'), Just(b'\n'), Just(0x08), any::<u8>()],
                0..80,
            ),
            size in 1usize..7,
        ) {
            prop_assert_eq!(shown_in_pieces(bytes.chunks(size)), shown(&bytes));
        }
    }
}
