//! One file's hunks on its text: the text and the hunks in, the new text out.
//! Places are searched in order from where the last hunk ended, exactly first, then with less and
//! less regard to white space and typography. Lines that a hunk keeps stay the file's own, byte
//! for byte. Never touches a file.

use std::ops::Range;

use super::parse::{Hunk, Mark};
use crate::tools::builtin::{change, lines};

/// A hunk that does not fit.
#[derive(Debug)]
pub(super) struct Misfit {
    /// Counts the hunks of the section, from 0.
    pub(super) hunk: usize,
    pub(super) problem: String,
}

/// Makes the hunks' changes; `notes` takes a line for each that was placed with little regard to
/// its white space.
pub(super) fn update(
    text: &str,
    hunks: &[Hunk<'_>],
    notes: &mut Vec<String>,
) -> Result<String, Misfit> {
    let file = File::of(text);
    let mut out: Vec<Line<'_>> = Vec::with_capacity(file.lines.len());
    let mut at = 0;
    for (nth, hunk) in hunks.iter().enumerate() {
        let misfit = |problem| Misfit { hunk: nth, problem };
        let place = file.place(hunk, at).map_err(misfit)?;
        if place.likeness >= Likeness::Indentation {
            notes.push(format!(
                "hunk {} fits line {} but for {}",
                nth + 1,
                place.start + 1,
                place.likeness.but_for()
            ));
        }
        out.extend(&file.lines[at..place.start]);
        at = place.start;
        for (mark, text) in &hunk.lines[..place.hunk_lines] {
            match mark {
                Mark::Keep => {
                    out.push(file.lines[at]);
                    at += 1;
                }
                Mark::Remove => at += 1,
                Mark::Add => out.push(Line { text, end: file.end_near(at) }),
            }
        }
    }
    out.extend(&file.lines[at..]);
    Ok(file.join(&out))
}

/// Returns the lines of the file as it is now where each hunk would go, or else nearest to it.
pub(super) fn regions(text: &str, hunks: &[Hunk<'_>]) -> Vec<Range<usize>> {
    let file = File::of(text);
    let mut regions = Vec::new();
    for hunk in hunks {
        match file.place(hunk, 0) {
            Ok(place) => regions.push(place.start..place.start + old_lines(hunk).len()),
            Err(_) => regions.extend(change::closest(text, &old_lines(hunk).join("\n"))),
        }
    }
    regions
}

fn old_lines<'p>(hunk: &Hunk<'p>) -> Vec<&'p str> {
    hunk.lines.iter().filter(|(mark, _)| *mark != Mark::Add).map(|(_, text)| *text).collect()
}

fn new_lines<'p>(hunk: &Hunk<'p>) -> Vec<&'p str> {
    hunk.lines.iter().filter(|(mark, _)| *mark != Mark::Remove).map(|(_, text)| *text).collect()
}

#[derive(Debug, Clone, Copy)]
struct Line<'t> {
    text: &'t str,
    end: &'t str,
}

struct File<'t> {
    byte_order_mark: &'t str,
    lines: Vec<Line<'t>>,
    texts: Vec<&'t str>,
    /// What a line ends in that has no neighbour to learn from.
    end: &'static str,
    ends_in_newline: bool,
}

struct Place {
    start: usize,
    /// How many of the hunk's lines count: blank ones at its end may not.
    hunk_lines: usize,
    likeness: Likeness,
}

impl<'t> File<'t> {
    fn of(text: &'t str) -> Self {
        let bare = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines: Vec<Line<'_>> = lines::lines_of(bare)
            .into_iter()
            .map(|line| {
                let text =
                    line.strip_suffix('\n').map_or(line, |t| t.strip_suffix('\r').unwrap_or(t));
                Line { text, end: &line[text.len()..] }
            })
            .collect();
        Self {
            byte_order_mark: &text[..text.len() - bare.len()],
            texts: lines.iter().map(|line| line.text).collect(),
            end: if lines.first().is_some_and(|line| line.end == "\r\n") { "\r\n" } else { "\n" },
            ends_in_newline: bare.is_empty() || bare.ends_with('\n'),
            lines,
        }
    }

    /// Returns what a line added before line `at` ends in.
    fn end_near(&self, at: usize) -> &'t str {
        let near = self.lines.get(at.saturating_sub(1)).map_or("", |line| line.end);
        if near.is_empty() { self.end } else { near }
    }

    fn join(&self, lines: &[Line<'_>]) -> String {
        let mut out = String::from(self.byte_order_mark);
        for (nth, line) in lines.iter().enumerate() {
            out.push_str(line.text);
            let last = nth + 1 == lines.len();
            if last && !self.ends_in_newline {
                break;
            }
            // A line that was the file's last may have had no end.
            out.push_str(if line.end.is_empty() { self.end } else { line.end });
        }
        out
    }

    /// Finds where a hunk goes, at line `from` or later.
    fn place(&self, hunk: &Hunk<'_>, from: usize) -> Result<Place, String> {
        let old = old_lines(hunk);
        let mut start = from;
        let mut lost = None;
        for anchor in &hunk.anchors {
            match seek(&self.texts, &[anchor], start) {
                Some((at, _)) => start = at + 1,
                None => lost = lost.or(Some(*anchor)),
            }
        }
        if old.is_empty() {
            // Nothing but new lines: after what the anchors name, or else at the end.
            let start = match lost {
                Some(anchor) => return Err(self.no_anchor(anchor, from)),
                None if hunk.anchors.is_empty() || hunk.at_end => self.lines.len(),
                None => start,
            };
            let hunk_lines = hunk.lines.len();
            return Ok(Place { start, hunk_lines, likeness: Likeness::Exact });
        }
        if let Some(anchor) = lost {
            // An anchor is a hint where to look; where there is one place only, none is needed.
            let found = seek(&self.texts, &old, from);
            let Some((start, Likeness::Exact)) = found else {
                return Err(self.no_anchor(anchor, from));
            };
            if seek(&self.texts, &old, start + 1).is_some() {
                return Err(self.no_anchor(anchor, from));
            }
            return Ok(Place { start, hunk_lines: hunk.lines.len(), likeness: Likeness::Exact });
        }
        // Blank lines at the end of a hunk may only set it apart from the next section.
        let mut hunk_lines = hunk.lines.len();
        let mut old = old.as_slice();
        loop {
            if let Some((start, likeness)) = self.seek_from(old, start, from, hunk) {
                return Ok(Place { start, hunk_lines, likeness });
            }
            match (old, hunk.lines[..hunk_lines].last()) {
                ([rest @ .., _], Some((Mark::Keep, ""))) if !rest.is_empty() => {
                    old = rest;
                    hunk_lines -= 1;
                }
                _ => return Err(self.no_match(hunk, from)),
            }
        }
    }

    fn seek_from(
        &self,
        old: &[&str],
        start: usize,
        from: usize,
        hunk: &Hunk<'_>,
    ) -> Option<(usize, Likeness)> {
        if hunk.at_end {
            let last = self.lines.len().checked_sub(old.len()).filter(|&last| last >= start);
            let found = last.and_then(|last| seek(&self.texts, old, last));
            if found.is_some() {
                return found;
            }
        }
        seek(&self.texts, old, start).or_else(|| {
            // Some write the anchor once more as the first line of the hunk.
            let again = start.checked_sub(1).filter(|&again| again >= from && start > from)?;
            seek(&self.texts[..(again + old.len()).min(self.texts.len())], old, again)
        })
    }

    fn no_anchor(&self, anchor: &str, from: usize) -> String {
        let after = if from > 0 { format!(" after line {from}") } else { String::new() };
        let near = self.nearest(anchor);
        format!("its `@@` line is not in the file{after}:\n{}\n{near}", lines::cut(anchor))
    }

    fn no_match(&self, hunk: &Hunk<'_>, from: usize) -> String {
        let old = old_lines(hunk);
        let expected: Vec<String> = old.iter().take(20).map(|line| lines::cut(line)).collect();
        let mut problem = format!("these lines are not in the file:\n{}\n", expected.join("\n"));
        if old.len() > expected.len() {
            problem.push_str("…\n");
        }
        let new = new_lines(hunk);
        let on = |at: usize, lines: &[&str]| lines::span(&(at..at + lines.len()));
        let hint = if let Some((at, _)) = seek(&self.texts[..from], &old, 0) {
            let on = on(at, &old);
            format!("They are on {on}, before the hunk above: give hunks in the file's order.")
        } else if let Some((at, Likeness::Exact)) = seek(&self.texts, &old, 0) {
            let on = on(at, &old);
            format!("They are on {on}, before what the hunk's `@@` names or the hunk above ends.")
        } else if let Some((at, Likeness::Exact)) = seek(&self.texts, &new, 0)
            && !new.is_empty()
        {
            format!("The new lines already are, on {}: it seems to be applied.", on(at, &new))
        } else {
            self.nearest(&old.join("\n"))
        };
        problem + &hint
    }

    fn nearest(&self, wanted: &str) -> String {
        let text = self.texts.join("\n");
        let Some(region) = change::closest(&text, wanted) else {
            let lines = lines::plural(self.lines.len(), "line");
            return format!("Nothing in its {lines} resembles them; read the file again.");
        };
        format!(
            "Closest: {}; {}.\n{}",
            lines::span(&region),
            change::difference(&text, &region, wanted),
            lines::show(&text, std::slice::from_ref(&region), 2)
        )
    }
}

/// How well lines match; a later one matches wherever an earlier one does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Likeness {
    Exact,
    LineEnds,
    Indentation,
    Typography,
}

impl Likeness {
    const ALL: [Self; 4] = [Self::Exact, Self::LineEnds, Self::Indentation, Self::Typography];

    fn holds(self, a: &str, b: &str) -> bool {
        match self {
            Self::Exact => a == b,
            Self::LineEnds => a.trim_end() == b.trim_end(),
            Self::Indentation => a.trim() == b.trim(),
            Self::Typography => {
                let plain = |text| str::trim(text).chars().map(change::plain);
                plain(a).eq(plain(b))
            }
        }
    }

    fn but_for(self) -> &'static str {
        match self {
            Self::Exact => "nothing",
            Self::LineEnds => "white space at line ends",
            Self::Indentation => "indentation: check that the added lines have the file's",
            Self::Typography => "typographic characters: check the added lines",
        }
    }
}

/// Returns where `wanted` stands in `lines` first, at `from` or later, in the best likeness.
fn seek(lines: &[&str], wanted: &[&str], from: usize) -> Option<(usize, Likeness)> {
    let last = lines.len().checked_sub(wanted.len())?;
    Likeness::ALL.into_iter().find_map(|likeness| {
        (from..=last)
            .find(|&at| {
                lines[at..].iter().zip(wanted).all(|(has, wants)| likeness.holds(has, wants))
            })
            .map(|at| (at, likeness))
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::parse::{Act, parse};
    use super::*;

    fn patched(text: &str, hunks: &str) -> Result<String, String> {
        let patch = format!("*** Begin Patch\n*** Update File: a\n{hunks}*** End Patch\n");
        let sections = parse(&patch).unwrap();
        let Act::Update { hunks, .. } = &sections[0].act else { panic!() };
        update(text, hunks, &mut Vec::new()).map_err(|misfit| misfit.problem)
    }

    #[test]
    fn hunks_go_where_their_lines_are() {
        for (text, hunks, after) in [
            ("a\nb\nc\n", "@@\n a\n-b\n+B\n c\n", "a\nB\nc\n"),
            ("a\nb\nc\n", "-b\n", "a\nc\n"),
            // In order: the second hunk's `x` is the one after the first hunk.
            ("x\na\nx\nb\nx\n", "@@\n-a\n+A\n@@\n-x\n+X\n", "x\nA\nX\nb\nx\n"),
            // The anchor says which of two.
            ("fn f\n  x\nfn g\n  x\n", "@@ fn g\n-  x\n+  y\n", "fn f\n  x\nfn g\n  y\n"),
            (
                "class A\n f\n  x\nclass B\n f\n  x\n",
                "@@ class B\n@@ f\n-  x\n+  y\n",
                "class A\n f\n  x\nclass B\n f\n  y\n",
            ),
            // The anchor once more as the first line.
            ("fn f\n  x\n", "@@ fn f\n fn f\n-  x\n+  y\n", "fn f\n  y\n"),
            // An anchor that is no whole line, where there is one place only.
            ("fn f() {\n  x\n}\n", "@@ fn f\n-  x\n+  y\n", "fn f() {\n  y\n}\n"),
            // The end of the file says which of two.
            ("x\na\nx\n", "@@\n-x\n+y\n*** End of File\n", "x\na\ny\n"),
            // Only new lines.
            ("a\nb\n", "@@\n+c\n", "a\nb\nc\n"),
            ("a\nb\n", "@@ a\n+c\n", "a\nc\nb\n"),
            ("", "+a\n+b\n", "a\nb\n"),
            // A blank line between sections, or a blank line of the file.
            ("a\nb\n", "-a\n+A\n\n\n*** Delete File: c\n", "A\nb\n"),
            ("a\n\na\n\nb\n", "@@\n a\n\n-b\n+c\n", "a\n\na\n\nc\n"),
            ("a\nb\n", "-a\n-b\n", ""),
        ] {
            assert_eq!(patched(text, hunks).as_deref(), Ok(after), "{text:?} {hunks:?}");
        }
    }

    #[test]
    fn lines_that_stay_are_the_files_own() {
        for (text, hunks, after) in [
            ("  a  \n\tb\nc\n", " a\n-b\n+B\n c\n", "  a  \nB\nc\n"),
            ("say “hi” – now\nb\n", " say \"hi\" - now\n-b\n+B\n", "say “hi” – now\nB\n"),
            ("a\u{a0}b\nc\n", " a b\n-c\n+C\n", "a\u{a0}b\nC\n"),
            ("a\r\nb\r\n", " a\n-b\n+B\n+C\n", "a\r\nB\r\nC\r\n"),
            ("a\nb\r\nc\n", " b\n+B\n c\n+C\n", "a\nb\r\nB\r\nc\nC\n"),
            ("a\nb", " a\n b\n+c\n", "a\nb\nc"),
            ("a\r\nb", "-b\n+c\n+d\n", "a\r\nc\r\nd"),
            ("\u{feff}a\nb\n", "-a\n+A\n", "\u{feff}A\nb\n"),
        ] {
            assert_eq!(patched(text, hunks).as_deref(), Ok(after), "{text:?} {hunks:?}");
        }
    }

    #[test]
    fn an_exact_place_further_down_wins_over_a_like_one_before_it() {
        assert_eq!(patched("  x\nx\n", "-x\n+y\n").as_deref(), Ok("  x\ny\n"));
    }

    #[test]
    fn what_does_not_fit_is_said_with_what_is_there() {
        let said = |text: &str, hunks: &str| patched(text, hunks).unwrap_err();
        assert_eq!(
            said(
                "fn main() {\n    let x = 1;\n}\n",
                " fn main() {\n-    let x = 2;\n+    let x = 3;\n"
            ),
            "these lines are not in the file:\nfn main() {\n    let x = 2;\nClosest: lines 1-2; line 2 is \
             `let x = 1;`, not `let x = 2;`.\n1\tfn main() {\n2\t    let x = 1;\n3\t}"
        );
        assert!(said("b\na\n", "-a\n+A\n@@\n-b\n+B\n").contains("before the hunk above"));
        assert!(said("new\n", "-old\n+new\n").contains("seems to be applied"));
        assert!(said("a\nb\n", "@@ nowhere\n+c\n").starts_with("its `@@` line is not in the file"));
        // Two places, and the anchor that would tell them apart is lost.
        assert!(said("x\nx\n", "@@ nowhere\n-x\n+y\n").starts_with("its `@@` line"));
        assert!(said("", "-a\n").contains("Nothing in its 0 lines"));
    }

    #[test]
    fn a_place_found_by_less_than_its_text_is_noted() {
        let patch = "*** Update File: a\n-x\n+y\n";
        let sections = parse(patch).unwrap();
        let Act::Update { hunks, .. } = &sections[0].act else { panic!() };
        let mut notes = Vec::new();
        assert_eq!(update("a\n\tx\n", hunks, &mut notes).unwrap(), "a\ny\n");
        assert!(notes[0].starts_with("hunk 1 fits line 2 but for indentation"), "{notes:?}");
    }

    /// What happens to one line of the file: it stays or goes, and lines may come before it.
    #[derive(Debug, Clone)]
    struct Step {
        line: String,
        keeps: bool,
        before: Vec<String>,
        /// The hunk ends before this line.
        cuts: bool,
    }

    fn steps(line: impl Strategy<Value = String> + Clone) -> impl Strategy<Value = Vec<Step>> {
        let before = prop::collection::vec(line.clone(), 0..3);
        let step = (line, prop::bool::weighted(0.7), before, prop::bool::weighted(0.2))
            .prop_map(|(line, keeps, before, cuts)| Step { line, keeps, before, cuts });
        prop::collection::vec(step, 1..20)
    }

    fn text(mark: bool, lines: &[&str], end: &str, ends: bool) -> String {
        let mut text = lines.join(end);
        if ends && !lines.is_empty() {
            text.push_str(end);
        }
        if mark { format!("\u{feff}{text}") } else { text }
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        /// A patch that says of every line what happens to it gives exactly that, whatever lines
        /// repeat, and whatever the file's line ends are.
        #[test]
        fn a_patch_gives_what_it_says(
            steps in steps("[ab é\t]{0,3}"),
            crlf in any::<bool>(), mark in any::<bool>(), ends in any::<bool>(),
        ) {
            let (mut patch, mut old, mut new) = (String::new(), Vec::new(), Vec::new());
            for (nth, step) in steps.iter().enumerate() {
                if step.cuts || nth == 0 {
                    patch.push_str("@@\n");
                }
                for line in &step.before {
                    patch.extend(["+", line, "\n"]);
                    new.push(line.as_str());
                }
                let sign = if step.keeps { " " } else { "-" };
                patch.extend([sign, &step.line, "\n"]);
                old.push(step.line.as_str());
                if step.keeps {
                    new.push(&step.line);
                }
            }
            // An empty last line without an end is no line.
            prop_assume!(ends || old.last() != Some(&""));
            // Nor does a file of one line without an end say what its lines end in.
            let end = if crlf && (ends || old.len() > 1) { "\r\n" } else { "\n" };
            let got = patched(&text(mark, &old, end, ends), &patch);
            prop_assert_eq!(got, Ok(text(mark, &new, end, ends)));
        }

        /// With lines that do not repeat, three lines of context are enough.
        #[test]
        fn hunks_with_little_context_find_their_place(
            steps in steps("[ab]{0,3}"), context in 1..4usize,
        ) {
            let numbered: Vec<Step> = steps
                .into_iter()
                .enumerate()
                .map(|(nth, step)| Step { line: format!("{nth} {}", step.line), ..step })
                .collect();
            let old: Vec<String> = numbered.iter().map(|step| step.line.clone()).collect();
            let new: Vec<String> = numbered
                .iter()
                .flat_map(|s| s.before.iter().chain(s.keeps.then_some(&s.line)).cloned())
                .collect();
            let joined = |lines: &[String]| lines.iter().flat_map(|l| [l.as_str(), "\n"]).collect::<String>();
            let (old, new) = (joined(&old), joined(&new));
            let patch = similar::TextDiff::from_lines(&old, &new)
                .unified_diff()
                .context_radius(context)
                .to_string();
            if old != new {
                prop_assert_eq!(patched(&old, &patch), Ok(new));
            }
        }
    }
}
