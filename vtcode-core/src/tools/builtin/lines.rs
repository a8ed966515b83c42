//! Texts as the model sees them: lines counted from 1, ended by `\n`, shown as number, tab, text,
//! and the few words round them. Takes text and gives shorter text; never looks at a file.

use std::fmt::Write;
use std::ops::Range;

/// Lines that one answer shows; the model knows what it wrote, it only needs to see where.
const MAX_SHOWN: usize = 40;
/// A longer stretch is shown without its middle.
const MAX_STRETCH: usize = 16;
/// Longer lines are cut.
const MAX_WIDTH: usize = 240;

/// What changed between two texts, in lines.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Diff {
    /// Lines that are new.
    pub(super) added: u32,
    /// Lines that are gone.
    pub(super) removed: u32,
    /// Where, as line ranges of the new text; empty ones where lines are only gone.
    pub(super) regions: Vec<Range<usize>>,
}

impl std::fmt::Display for Diff {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "+{} -{}", self.added, self.removed)
    }
}

/// Splits a text into its lines, their ends included.
pub(super) fn lines_of(text: &str) -> Vec<&str> {
    text.split_inclusive('\n').collect()
}

/// Compares two texts line by line.
pub(super) fn diff(old: &str, new: &str) -> Diff {
    // What both begin and end with is passed over first: most of a text stays as it is, and to
    // compare lines takes more memory than they have bytes when they are short.
    let lines = |text| str::split_inclusive(text, '\n');
    let pairs = lines(old).zip(lines(new)).take_while(|(old, new)| old == new);
    let (above, bytes) = pairs.fold((0, 0), |(n, bytes), (line, _)| (n + 1, bytes + line.len()));
    let (old, new) = (&old[bytes..], &new[bytes..]);
    let pairs = lines(old).rev().zip(lines(new).rev()).take_while(|(old, new)| old == new);
    let bytes: usize = pairs.map(|(line, _)| line.len()).sum();
    let (old, new) = (lines_of(&old[..old.len() - bytes]), lines_of(&new[..new.len() - bytes]));

    let mut diff = Diff::default();
    // The default algorithm gives up precision before it gives up time, so texts that have
    // nothing in common cost no more than a few passes.
    for op in similar::capture_diff_slices(similar::Algorithm::Myers, &old, &new) {
        if op.tag() == similar::DiffTag::Equal {
            continue;
        }
        diff.removed += op.old_range().len() as u32;
        diff.added += op.new_range().len() as u32;
        let Range { start, end } = op.new_range();
        diff.regions.push(above + start..above + end);
    }
    diff
}

/// Shows the regions of a text with `context` lines round each, numbered, within bounds.
pub(super) fn show(text: &str, regions: &[Range<usize>], context: usize) -> String {
    let lines = lines_of(text);
    let mut stretches: Vec<Range<usize>> = Vec::new();
    let mut sorted = regions.to_vec();
    sorted.sort_by_key(|region| region.start);
    for region in sorted {
        let start = region.start.saturating_sub(context);
        let end = (region.end + context).min(lines.len());
        match stretches.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ if start < end => stretches.push(start..end),
            _ => {}
        }
    }
    let mut out = String::new();
    let mut shown = 0;
    for (nth, stretch) in stretches.iter().enumerate() {
        if shown >= MAX_SHOWN {
            let rest = stretches.len() - nth;
            let _ = writeln!(out, "… and {} more", plural(rest, "place"));
            break;
        }
        if nth > 0 {
            out.push_str("…\n");
        }
        let head = if stretch.len() > MAX_STRETCH { MAX_STRETCH - 6 } else { stretch.len() };
        let tail = if stretch.len() > MAX_STRETCH { 5 } else { 0 };
        number(&mut out, &lines, stretch.start..stretch.start + head);
        if tail > 0 {
            out.push_str("…\n");
            number(&mut out, &lines, stretch.end - tail..stretch.end);
        }
        shown += head + tail;
    }
    out.truncate(out.trim_end_matches('\n').len());
    out
}

fn number(out: &mut String, lines: &[&str], range: Range<usize>) {
    for at in range {
        let line = lines[at].trim_end_matches(['\r', '\n']);
        let _ = writeln!(out, "{}\t{}", at + 1, cut(line));
    }
}

/// Cuts a line that is too long to be shown. Not every wire takes a NUL: it becomes a sign.
pub(super) fn cut(line: &str) -> String {
    let shown = match line.char_indices().nth(MAX_WIDTH) {
        Some((at, _)) => format!("{}…", &line[..at]),
        None => line.to_owned(),
    };
    shown.replace('\0', "␀")
}

/// Names a range of lines.
pub(super) fn span(range: &Range<usize>) -> String {
    if range.len() < 2 {
        return format!("line {}", range.start + 1);
    }
    format!("lines {}-{}", range.start + 1, range.end)
}

/// Returns `1 line`, `2 lines`, `2 matches`, `2 entries`.
pub(super) fn plural(count: usize, noun: &str) -> String {
    if count == 1 {
        return format!("1 {noun}");
    }
    match noun.strip_suffix('y') {
        Some(stem) => format!("{count} {stem}ies"),
        None if noun.ends_with("ch") => format!("{count} {noun}es"),
        None => format!("{count} {noun}s"),
    }
}

/// Returns the first `bytes` bytes of `text`, or a little less so as not to cut a character.
pub(crate) fn first(text: &str, bytes: usize) -> &str {
    let mut at = bytes.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    &text[..at]
}

/// Returns the last `bytes` bytes of `text`, or a little less so as not to cut a character.
pub(super) fn last(text: &str, bytes: usize) -> &str {
    let mut at = text.len().saturating_sub(bytes);
    while !text.is_char_boundary(at) {
        at += 1;
    }
    &text[at..]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_lines_that_came_and_went() {
        let diff = diff("a\nb\nc\n", "a\nB\nB2\nc\n");
        assert_eq!((diff.added, diff.removed), (2, 1));
        assert_eq!(diff.regions, vec![1..3]);
    }

    #[test]
    fn a_lost_final_newline_is_a_changed_line() {
        let diff = diff("a\nb\n", "a\nb");
        assert_eq!((diff.added, diff.removed), (1, 1));
    }

    #[test]
    fn regions_that_touch_are_shown_once_and_far_ones_apart() {
        let text: String = (1..=30).map(|n| "l".to_owned() + &n.to_string() + "\n").collect();
        assert_eq!(
            show(&text, &[1..2, 3..4, 20..20], 1),
            "1\tl1\n2\tl2\n3\tl3\n4\tl4\n5\tl5\n…\n20\tl20\n21\tl21"
        );
    }

    #[test]
    fn what_is_shown_is_bounded_in_lines_and_width() {
        let text = ("x".repeat(5000) + "\n").repeat(1000);
        let regions: Vec<_> = (0..100).map(|n| n * 10..n * 10 + 5).collect();
        let shown = show(&text, &regions, 0);
        assert!(shown.len() < 50 * 260, "{}", shown.len());
        assert!(shown.ends_with("… and 92 places more"), "{}", &shown[shown.len() - 40..]);
        assert_eq!(show(&text, std::slice::from_ref(&(0..1000)), 0).lines().count(), MAX_STRETCH);
    }

    #[test]
    fn an_empty_text_shows_nothing() {
        assert_eq!(show("", std::slice::from_ref(&(0..0)), 3), "");
    }
}
