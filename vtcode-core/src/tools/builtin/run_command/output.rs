//! What a command prints: bytes come in as they appear, the text for the model goes out at the end,
//! or of a long-lived command piece by piece.
//! Keeps the start and the end of what a terminal would show; when that is not all of it, every
//! byte goes to a file and the text names it. Never holds more than a few times `result_bytes`.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::plain::{Lines, Unescape};
use super::spool::{self, Spool};
use crate::core::memory_pool::{BytesLoan, StringLoan, global_pool};
use crate::tools::builtin::lines::{first, last};
use crate::tools::tool::Progress;

pub(super) struct Output {
    result_bytes: usize,
    spool_dir: PathBuf,
    /// What the file is named after.
    id: String,
    progress: Option<Progress>,

    /// Bytes printed.
    total: u64,
    unescape: Unescape,
    lines: Lines,
    /// What was not given out yet.
    shown: Shown,
    /// Line ends given out.
    seen_lines: u64,
    raw: Raw,
    /// Two pieces of text under way, kept for their capacity.
    text: StringLoan,
    settled: StringLoan,
}

/// The bytes as printed.
enum Raw {
    /// Few enough, so far, that they may turn out to be shown whole.
    Held(BytesLoan),
    Spooled(Spool),
    /// The file was full before what is shown now; why it takes no more.
    Full {
        path: PathBuf,
        why: String,
    },
    /// The file could not be made; why.
    Lost(String),
}

impl Output {
    pub(super) fn new(
        result_bytes: usize,
        spool_dir: &Path,
        id: &str,
        progress: Option<Progress>,
    ) -> Self {
        // All three grow with what is printed.
        let pool = global_pool();
        Self {
            result_bytes,
            spool_dir: spool_dir.to_owned(),
            id: id.to_owned(),
            progress,
            total: 0,
            unescape: Unescape::default(),
            lines: Lines::default(),
            shown: Shown::new(result_bytes / 2),
            seen_lines: 0,
            raw: Raw::Held(pool.loan_bytes()),
            text: pool.loan_string(),
            settled: pool.loan_string(),
        }
    }

    /// Returns one that is looked at while it grows; its file holds everything from the start.
    pub(super) fn long_lived(result_bytes: usize, spool_dir: &Path, id: &str) -> Self {
        let mut output = Self::new(result_bytes, spool_dir, id, None);
        output.spool();
        output
    }

    /// Takes the next bytes.
    pub(super) fn take(&mut self, bytes: &[u8]) {
        self.total += bytes.len() as u64;
        self.keep(bytes);
        self.text.clear();
        self.unescape.push(bytes, &mut self.text);
        self.show();
    }

    /// Returns the number of bytes printed.
    pub(super) fn total(&self) -> u64 {
        self.total
    }

    /// Returns the file that holds what was printed, if there is one.
    pub(super) fn path(&self) -> Option<PathBuf> {
        match &self.raw {
            Raw::Spooled(spool) => Some(spool.path().to_owned()),
            Raw::Full { path, .. } => Some(path.clone()),
            Raw::Held(_) | Raw::Lost(_) => None,
        }
    }

    /// Returns the text, the number of bytes printed, and where they all lie if not in the text.
    pub(super) fn finish(mut self) -> (String, u64, Option<PathBuf>) {
        self.settle_all();
        if self.shown.omitted() == 0 {
            let text = self.shown.whole();
            if let Raw::Spooled(spool) = self.raw {
                // Long as printed, short as shown: progress bars and colours.
                spool.discard();
            }
            return (text, self.total, None);
        }
        if let Raw::Held(_) = self.raw {
            self.spool();
        }
        let text = self.cut(false);
        (text, self.total, self.path())
    }

    /// Returns whether there is something to see since the last look.
    pub(super) fn has_news(&self) -> bool {
        self.shown.total > 0 || !self.lines.is_empty()
    }

    /// Returns what can be seen since the last look, each character once: a line that is still
    /// being written counts, and what overwrites it later is new.
    pub(super) fn look(&mut self) -> String {
        self.settled.clear();
        self.lines.finish(&mut self.settled);
        self.shown.push(&self.settled);
        let text = if self.shown.omitted() == 0 { self.shown.whole() } else { self.cut(true) };
        self.seen_lines += self.shown.line_ends;
        self.shown = Shown::new(self.shown.half);
        if let Raw::Spooled(spool) = &self.raw
            && let Some(why) = spool.stopped()
        {
            self.raw = Raw::Full { path: spool.path().to_owned(), why: why.to_owned() };
        }
        text
    }

    /// Does the same when no more will come.
    pub(super) fn last_look(&mut self) -> String {
        self.settle_all();
        self.look()
    }

    /// Brings everything into `shown`.
    fn settle_all(&mut self) {
        self.text.clear();
        self.unescape.finish(&mut self.text);
        self.show();
        self.settled.clear();
        self.lines.finish(&mut self.settled);
        self.shown.push(&self.settled);
    }

    /// Returns start and end of `shown`, and between them where the rest lies; `to_end` names the
    /// line in which it ends, too.
    fn cut(&self, to_end: bool) -> String {
        let (head, tail) = self.shown.parts();
        let omitted = self.shown.omitted();
        let mut text = head.to_owned();
        if !text.is_empty() && !text.ends_with('\n') {
            text.push('\n');
        }
        match &self.raw {
            Raw::Spooled(spool) => {
                let what = match spool.stopped() {
                    None => "whole output".to_owned(),
                    Some(why) => format!("its start ({why})"),
                };
                let start = 1 + self.seen_lines + line_ends(head);
                let path = spool.path().display();
                let _ = write!(
                    text,
                    "[… {omitted} bytes omitted; {what}: read_file path={path} start={start}"
                );
                if to_end {
                    let end = 1 + self.seen_lines + self.shown.line_ends - line_ends(tail);
                    let _ = write!(text, " end={end}");
                }
                text.push_str("]\n");
            }
            Raw::Lost(why) | Raw::Full { why, .. } => {
                let _ = writeln!(text, "[… {omitted} bytes omitted and not kept: {why}]");
            }
            Raw::Held(_) => unreachable!("what is cut was spooled or lost before"),
        }
        text.push_str(tail);
        text
    }

    fn keep(&mut self, bytes: &[u8]) {
        if let Raw::Held(held) = &self.raw
            && held.len() + bytes.len() > self.result_bytes
        {
            self.spool();
        }
        match &mut self.raw {
            Raw::Held(held) => held.extend_from_slice(bytes),
            Raw::Spooled(spool) => spool.write(bytes),
            Raw::Lost(_) | Raw::Full { .. } => {}
        }
    }

    /// Moves what is held to a file.
    fn spool(&mut self) {
        let made = Spool::create(&self.spool_dir, &self.id, spool::MAX_BYTES);
        let next = match made {
            Ok(spool) => Raw::Spooled(spool),
            Err(e) => Raw::Lost(e.to_string()),
        };
        if let (Raw::Held(held), Raw::Spooled(spool)) =
            (std::mem::replace(&mut self.raw, next), &mut self.raw)
        {
            spool.write(&held);
        }
    }

    /// Hands `self.text` on.
    fn show(&mut self) {
        if self.text.is_empty() {
            return;
        }
        if let Some(progress) = &self.progress {
            progress(&self.text);
        }
        self.settled.clear();
        self.lines.push(&self.text, &mut self.settled);
        self.shown.push(&self.settled);
    }
}

/// The start and the end of a text, at most `half` bytes each.
#[derive(Debug)]
struct Shown {
    half: usize,
    head: String,
    /// What follows the head; its last `half` bytes count, some more are kept between trims.
    tail: String,
    total: u64,
    line_ends: u64,
}

impl Shown {
    fn new(half: usize) -> Self {
        // Less than a character could never be filled.
        let half = half.max(4);
        Self { half, head: String::new(), tail: String::new(), total: 0, line_ends: 0 }
    }

    fn push(&mut self, text: &str) {
        self.total += text.len() as u64;
        self.line_ends += line_ends(text);
        let room = if self.tail.is_empty() { self.half - self.head.len() } else { 0 };
        let (head, tail) = text.split_at(first(text, room).len());
        self.head.push_str(head);
        if tail.len() > self.half {
            self.tail.clear();
            self.tail.push_str(last(tail, self.half));
            return;
        }
        self.tail.push_str(tail);
        if self.tail.len() > 2 * self.half {
            let excess = self.tail.len() - last(&self.tail, self.half).len();
            self.tail.drain(..excess);
        }
    }

    /// Returns both parts: together the whole text if it fits, else each cut where a line ends, if
    /// one does in its last quarter.
    fn parts(&self) -> (&str, &str) {
        let (mut head, mut tail) = (self.head.as_str(), last(&self.tail, self.half));
        if self.total == (head.len() + tail.len()) as u64 {
            return (head, tail);
        }
        let slack = self.half / 4;
        if let Some(end) = head.rfind('\n')
            && head.len() - end <= slack
        {
            head = &head[..=end];
        }
        if let Some(end) = tail.find('\n')
            && end < slack
        {
            tail = &tail[end + 1..];
        }
        (head, tail)
    }

    /// Returns how many bytes lie between the parts.
    fn omitted(&self) -> u64 {
        let (head, tail) = self.parts();
        self.total - (head.len() + tail.len()) as u64
    }

    fn whole(&self) -> String {
        let (head, tail) = self.parts();
        [head, tail].concat()
    }
}

fn line_ends(text: &str) -> u64 {
    memchr::memchr_iter(b'\n', text.as_bytes()).count() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::memory_pool::PoolStatistics;

    fn output(result_bytes: usize, spool_dir: &Path) -> Output {
        Output::new(result_bytes, spool_dir, "call", None)
    }

    fn lines(range: std::ops::Range<u32>) -> String {
        range.map(|n| ["line ", &n.to_string(), "\n"].concat()).collect()
    }

    #[test]
    fn what_a_command_prints_is_gathered_in_buffers_of_the_pool() {
        let dir = tempfile::tempdir().unwrap();
        let counts = || global_pool().statistics_of_this_thread();
        let before = counts();
        let mut output = output(1000, dir.path());
        let taken = counts();
        // Of its bytes, their text, and what of it no longer changes.
        assert_eq!(taken.reused + taken.fresh, before.reused + before.fresh + 3);
        output.take(b"some words\n");
        drop(output);
        let back = |c: PoolStatistics| c.kept + c.full + c.oversize;
        assert!(back(counts()) > back(taken));
    }

    #[test]
    fn what_fits_is_given_whole_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let text = lines(0..12);
        for result_bytes in [text.len() + 1, 10 * text.len()] {
            let mut output = output(result_bytes, &dir.path().join("spool"));
            output.take(text.as_bytes());
            assert_eq!(output.finish(), (text.clone(), text.len() as u64, None));
        }
        assert!(!dir.path().join("spool").exists());
    }

    #[test]
    fn of_what_does_not_fit_start_and_end_are_given_and_the_rest_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let text = lines(0..2000);
        let mut output = output(100, dir.path());
        for piece in text.as_bytes().chunks(33) {
            output.take(piece);
        }
        let (shown, total, spool) = output.finish();
        let spool = spool.unwrap();
        assert_eq!(total, text.len() as u64);
        assert_eq!(std::fs::read_to_string(&spool).unwrap(), text);
        let head = lines(0..7);
        let tail = lines(1996..2000);
        let omitted = text.len() - head.len() - tail.len();
        let path = spool.display();
        assert_eq!(
            shown,
            format!(
                "{head}[… {omitted} bytes omitted; whole output: read_file path={path} start=8]\n{tail}"
            )
        );
    }

    #[test]
    fn how_the_bytes_came_does_not_show() {
        let text = format!("{}{}", "ä€😀\x1b[1m".repeat(50), lines(0..50));
        let shown = |size: usize| {
            let dir = tempfile::tempdir().unwrap();
            let mut output = output(200, dir.path());
            for piece in text.as_bytes().chunks(size) {
                output.take(piece);
            }
            let (shown, ..) = output.finish();
            shown.replace(dir.path().canonicalize().unwrap().to_str().unwrap(), "DIR")
        };
        let whole = shown(text.len());
        assert!(whole.contains("DIR/call.txt"));
        for size in 1..100 {
            assert_eq!(shown(size), whole);
        }
    }

    #[test]
    fn a_long_progress_bar_is_short_in_the_end_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(100, dir.path());
        for percent in 0..=100 {
            output.take(format!("\r\x1b[32mdone {percent}%").as_bytes());
        }
        let (shown, total, spool) = output.finish();
        assert_eq!(shown, "done 100%");
        assert!(total > 1000);
        assert_eq!(spool, None);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn bytes_that_grow_when_shown_are_kept_too() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(100, dir.path());
        output.take(&[0xff; 90]);
        let (shown, _, spool) = output.finish();
        assert!(shown.contains("bytes omitted"));
        assert_eq!(std::fs::read(spool.unwrap()).unwrap(), [0xff; 90]);
    }

    #[test]
    fn where_nothing_can_be_kept_the_text_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut output = output(100, &file.join("spool"));
        output.take(lines(0..100).as_bytes());
        let (shown, _, spool) = output.finish();
        assert!(shown.contains("omitted and not kept: "), "{shown}");
        assert!(shown.ends_with("line 99\n"));
        assert_eq!(spool, None);
    }

    #[test]
    fn a_flood_does_not_grow_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(1000, dir.path());
        let piece = vec![b'y'; 64 * 1024];
        for _ in 0..100 {
            output.take(&piece);
        }
        let shown = output.shown.head.capacity() + output.shown.tail.capacity();
        let under_way = output.text.capacity() + output.settled.capacity();
        assert!(shown <= 8 * 1000, "{shown}");
        assert!(under_way <= 8 * piece.len(), "{under_way}");
        assert!(matches!(output.raw, Raw::Spooled(_)));
    }

    #[test]
    fn a_result_of_no_bytes_still_tells_where_the_output_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(0, dir.path());
        output.take("€€€€€€€€\n".as_bytes());
        let (shown, _, spool) = output.finish();
        assert!(shown.contains("bytes omitted; whole output: read_file path="), "{shown}");
        assert!(spool.is_some());
    }

    #[test]
    fn a_look_gives_what_is_new_and_a_line_under_way_as_it_is() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::long_lived(100, dir.path(), "bg1");
        assert!(!output.has_news());
        assert_eq!(output.look(), "");
        output.take(b"one\n10%\r");
        assert!(output.has_news());
        assert_eq!(output.look(), "one\n10%");
        output.take(b"\x1b[0m\xe2\x82");
        assert!(!output.has_news());
        output.take(b"\xac\r90%\r");
        assert_eq!(output.look(), "90%");
        output.take(b"done\n\xe2");
        assert_eq!(output.look(), "done\n");
        assert_eq!(output.last_look(), "\u{fffd}");
        let kept = std::fs::read(output.path().unwrap()).unwrap();
        assert_eq!(kept, b"one\n10%\r\x1b[0m\xe2\x82\xac\r90%\rdone\n\xe2");
        assert_eq!(output.total(), kept.len() as u64);
    }

    #[test]
    fn what_is_left_out_of_a_look_is_named_by_its_lines() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::long_lived(100, dir.path(), "bg1");
        let path = output.path().unwrap().display().to_string();
        output.take(lines(1..11).as_bytes());
        assert_eq!(output.look(), lines(1..11));
        output.take(lines(11..100).as_bytes());
        assert_eq!(
            output.look(),
            format!(
                "{}[… 616 bytes omitted; whole output: read_file path={path} start=17 end=94]\n{}",
                lines(11..17),
                lines(94..100)
            )
        );
        output.take(lines(100..200).as_bytes());
        let next = output.look();
        assert!(next.contains(&format!("{path} start=105 end=")), "{next}");
    }

    #[test]
    fn a_file_that_is_full_is_named_as_long_as_it_holds_some_of_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = output(100, dir.path());
        output.raw = Raw::Spooled(Spool::create(dir.path(), "bg1", 300).unwrap());
        output.take(lines(1..100).as_bytes());
        let first = output.look();
        assert!(
            first.contains("its start (more than 300 bytes are not kept): read_file"),
            "{first}"
        );
        output.take(lines(100..200).as_bytes());
        let next = output.look();
        assert!(next.contains("omitted and not kept: more than 300 bytes are not kept]"), "{next}");
        assert_eq!(output.path().unwrap().metadata().unwrap().len(), 300);
    }

    #[test]
    fn a_flood_that_nobody_looks_at_does_not_grow_what_is_held() {
        let dir = tempfile::tempdir().unwrap();
        let mut output = Output::long_lived(1000, dir.path(), "bg1");
        let piece = vec![b'y'; 64 * 1024];
        for _ in 0..100 {
            output.take(&piece);
        }
        let shown = output.shown.head.capacity() + output.shown.tail.capacity();
        assert!(shown <= 8 * 1000, "{shown}");
        assert!(matches!(output.raw, Raw::Spooled(_)));
        assert!(output.look().len() < 1300);
    }

    #[test]
    fn a_long_lived_command_whose_output_cannot_be_kept_is_shown_all_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        std::fs::write(&file, "").unwrap();
        let mut output = Output::long_lived(100, &file.join("spool"), "bg1");
        output.take(b"up\n");
        assert_eq!((output.look().as_str(), output.path()), ("up\n", None));
        output.take(lines(0..100).as_bytes());
        let text = output.look();
        assert!(text.contains("omitted and not kept: "), "{text}");
        assert!(text.ends_with("line 99\n"));
    }
}
