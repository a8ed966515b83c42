//! Where a text that is not in a file most likely was meant to be, and what keeps it from matching.
//! One pass over the file: a window of as many lines as the wanted text has slides down, and the
//! words that both share are counted.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;

use crate::tools::builtin::lines::{cut, first, lines_of};

/// Files are searched this far, lines read this wide.
const MAX_SEARCHED_BYTES: usize = 4 * 1024 * 1024;
const MAX_LINE_BYTES: usize = 2000;
/// Below this share of common words two texts do not resemble each other.
const MIN_SCORE: f64 = 0.45;
/// A word says more than a bracket does.
const WORD_WEIGHT: u32 = 4;

/// Returns the lines of `text` that resemble `wanted` most; none if nothing does.
pub(in super::super) fn closest(text: &str, wanted: &str) -> Option<Range<usize>> {
    let lines = lines_of(first(text, MAX_SEARCHED_BYTES));
    let wanted = lines_of(wanted.trim_matches(['\n', '\r']));
    let height = wanted.len().min(lines.len());
    let mut bag = Bag::default();
    for line in &wanted {
        bag.want(line);
    }
    if height == 0 || bag.wanted == 0 {
        return None;
    }
    let mut best = (MIN_SCORE, None);
    for end in 0..lines.len() {
        bag.add(lines[end]);
        if end + 1 < height {
            continue;
        }
        let start = end + 1 - height;
        let score = bag.score();
        if score > best.0 {
            best = (score, Some(start..end + 1));
        }
        bag.drop(lines[start]);
    }
    best.1
}

/// The words of the window, beside those that are wanted.
#[derive(Default)]
struct Bag {
    /// By word: how often it is wanted, how often the window has it.
    counts: HashMap<u64, (u32, u32)>,
    wanted: u32,
    window: u32,
    shared: u32,
}

impl Bag {
    fn want(&mut self, line: &str) {
        words(line, |word, weight| {
            self.counts.entry(word).or_default().0 += 1;
            self.wanted += weight;
        });
    }

    fn add(&mut self, line: &str) {
        words(line, |word, weight| {
            self.window += weight;
            if let Some((wanted, has)) = self.counts.get_mut(&word) {
                *has += 1;
                self.shared += if has <= wanted { weight } else { 0 };
            }
        });
    }

    fn drop(&mut self, line: &str) {
        words(line, |word, weight| {
            self.window -= weight;
            if let Some((wanted, has)) = self.counts.get_mut(&word) {
                self.shared -= if has <= wanted { weight } else { 0 };
                *has -= 1;
            }
        });
    }

    /// From 0 to 1. Words too many in the window count a quarter of words missing from it, for a
    /// wanted text is often a piece of a line.
    fn score(&self) -> f64 {
        let extra = f64::from(self.window - self.shared);
        f64::from(self.shared) / (f64::from(self.wanted) + extra / 4.0)
    }
}

/// Gives each word of a line, lower-cased, hashed, with its weight: runs of letters and digits,
/// split where `snake_case` and `camelCase` are; other characters count alone.
fn words(line: &str, mut give: impl FnMut(u64, u32)) {
    let mut word = DefaultHasher::new();
    let mut open = false;
    let mut after_lower = false;
    for (at, c) in line.char_indices() {
        if at > MAX_LINE_BYTES {
            break;
        }
        let splits = !c.is_alphanumeric() || (after_lower && c.is_uppercase());
        if splits && open {
            give(std::mem::take(&mut word).finish(), WORD_WEIGHT);
            open = false;
        }
        if c.is_alphanumeric() {
            c.to_lowercase().for_each(|c| c.hash(&mut word));
            open = true;
        } else if !c.is_whitespace() {
            let mut mark = DefaultHasher::new();
            plain(c).hash(&mut mark);
            give(mark.finish(), 1);
        }
        after_lower = c.is_lowercase();
    }
    if open {
        give(word.finish(), WORD_WEIGHT);
    }
}

/// Returns the ASCII character that a typographic dash, quote or space stands for.
pub(in super::super) fn plain(c: char) -> char {
    match c {
        '\u{2010}'..='\u{2015}' | '\u{2212}' => '-',
        '\u{2018}'..='\u{201B}' => '\'',
        '\u{201C}'..='\u{201F}' => '"',
        '\u{00A0}' | '\u{2002}'..='\u{200A}' | '\u{202F}' | '\u{205F}' | '\u{3000}' => ' ',
        other => other,
    }
}

fn by_line(text: &str, trim: fn(&str) -> &str) -> String {
    text.split('\n').map(trim).collect::<Vec<_>>().join("\n")
}

fn one_spaced(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn marks(text: &str) -> String {
    text.chars().map(plain).collect()
}

/// Says in what the lines `region` of `text` differ from `wanted`.
pub(in super::super) fn difference(text: &str, region: &Range<usize>, wanted: &str) -> String {
    type Simpler = fn(&str) -> String;
    let lines = lines_of(text);
    // A little more than the region: a line may have been broken in two.
    let near = region.start.saturating_sub(2)..(region.end + 2).min(lines.len());
    let near = lines[near].concat();
    let ways: [(&str, Simpler); 6] = [
        ("in white space at the ends of lines", |t| by_line(t, str::trim_end)),
        ("in indentation", |t| by_line(t, str::trim)),
        ("in white space", one_spaced),
        ("in upper and lower case", |t| t.to_lowercase()),
        ("in typographic quotes, dashes or spaces", marks),
        ("in white space, case, and quotes or dashes", |t| marks(&one_spaced(t)).to_lowercase()),
    ];
    for (what, level) in ways {
        if level(&near).contains(&level(wanted)) {
            let tabs = |text: &str| text.lines().any(|line| line.starts_with('\t'));
            let which = match (what, tabs(&near), tabs(wanted)) {
                ("in indentation", true, false) => " (the file has tabs)",
                ("in indentation", false, true) => " (the file has spaces)",
                _ => "",
            };
            return format!("it differs {what}{which}");
        }
    }
    let wanted = lines_of(wanted.trim_matches(['\n', '\r']));
    let pairs = region.clone().zip(&wanted);
    for (at, wanted) in pairs {
        let (has, wanted) = (lines[at].trim(), wanted.trim());
        if !has.contains(wanted) {
            return format!("line {} is `{}`, not `{}`", at + 1, cut(has), cut(wanted));
        }
    }
    "it differs in white space or line breaks".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "use std::fmt;\n\nfn main() {\n\tlet total = add(1, 2);\n\tprintln!(\"{total}\");\n}\n\nfn add(left: u32, right: u32) -> u32 {\n\tleft + right\n}\n";

    fn hint(wanted: &str) -> (Range<usize>, String) {
        let region = closest(FILE, wanted).expect("something resembles it");
        let why = difference(FILE, &region, wanted);
        (region, why)
    }

    #[test]
    fn finds_the_lines_whatever_keeps_them_from_matching() {
        assert_eq!(
            hint("    let total = add(1, 2);"),
            (3..4, "it differs in indentation (the file has tabs)".to_owned())
        );
        assert_eq!(
            hint("\tlet total = add(1, 2);  \n"),
            (3..4, "it differs in white space at the ends of lines".to_owned())
        );
        assert_eq!(
            hint("fn Add(left: u32"),
            (7..8, "it differs in upper and lower case".to_owned())
        );
        assert_eq!(
            hint("println!(“{total}”);"),
            (4..5, "it differs in typographic quotes, dashes or spaces".to_owned())
        );
        assert_eq!(
            hint("fn add(left: u32, right: u32) -> u64 {\n\tleft + right\n}"),
            (
                7..10,
                "line 8 is `fn add(left: u32, right: u32) -> u32 {`, not `fn add(left: u32, right: u32) -> u64 {`"
                    .to_owned()
            )
        );
    }

    #[test]
    fn nothing_resembles_strange_text() {
        assert_eq!(closest(FILE, "completely unrelated words here"), None);
        assert_eq!(closest(FILE, "\n\n"), None);
        assert_eq!(closest("", "x"), None);
    }

    #[test]
    fn a_wanted_text_longer_than_the_file_is_no_trouble() {
        assert_eq!(closest("one two three\n", "one two three\nfour\n"), Some(0..1));
        assert_eq!(closest("one\n", "one two three\nfour\n"), None);
    }
}
