//! The patch format: its text in, sections of borrowed lines out.
//! Lenient where a model's slip leaves one meaning: markers left out, a heredoc or a code fence
//! round it, blank context lines without their space. Never looks at a file.

use crate::tools::builtin::lines;

/// What a patch does to one file.
#[derive(Debug, PartialEq)]
pub(super) struct Section<'p> {
    pub(super) path: &'p str,
    pub(super) act: Act<'p>,
}

#[derive(Debug, PartialEq)]
pub(super) enum Act<'p> {
    Add { content: String },
    Delete,
    Update { to: Option<&'p str>, hunks: Vec<Hunk<'p>> },
}

/// Lines that change together.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Hunk<'p> {
    /// The line of the patch on which it starts, from 1.
    pub(super) line: usize,
    /// Lines of the file somewhere before it, outermost first.
    pub(super) anchors: Vec<&'p str>,
    pub(super) lines: Vec<(Mark, &'p str)>,
    /// It ends where the file ends.
    pub(super) at_end: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    Keep,
    Remove,
    Add,
}

/// A text that is not a patch.
#[derive(Debug, PartialEq)]
pub(super) struct Malformed {
    /// From 1.
    pub(super) line: usize,
    pub(super) problem: String,
}

const HEADERS: &str = "`*** Add File: path`, `*** Delete File: path` or `*** Update File: path`";

pub(super) fn parse(patch: &str) -> Result<Vec<Section<'_>>, Malformed> {
    let mut lines = Lines::of(patch);
    let mut sections = Vec::new();
    while let Some((number, line)) = lines.next() {
        let header = line.trim();
        if header.is_empty() {
            continue;
        }
        let malformed = |problem: String| Err(Malformed { line: number, problem });
        let (path, act) = if let Some(path) = header.strip_prefix("*** Add File:") {
            (path, Act::Add { content: lines.content()? })
        } else if let Some(path) = header.strip_prefix("*** Delete File:") {
            (path, Act::Delete)
        } else if let Some(path) = header.strip_prefix("*** Update File:") {
            let to = lines.move_to();
            let hunks = lines.hunks()?;
            if hunks.is_empty() && to.is_none() {
                return malformed("this update has no hunk".to_owned());
            }
            (path, Act::Update { to, hunks })
        } else {
            return malformed(format!("`{}` is not {HEADERS}", lines::cut(header)));
        };
        let path = path.trim();
        if path.is_empty() {
            return malformed("the path is missing".to_owned());
        }
        sections.push(Section { path, act });
    }
    if sections.is_empty() {
        return Err(Malformed { line: 1, problem: format!("there is no {HEADERS}") });
    }
    Ok(sections)
}

/// The lines between the markers, with their numbers in the whole text.
struct Lines<'p> {
    lines: Vec<(usize, &'p str)>,
    at: usize,
}

impl<'p> Lines<'p> {
    fn of(patch: &'p str) -> Self {
        let mut lines: Vec<(usize, &str)> =
            patch.split('\n').enumerate().map(|(at, line)| (at + 1, line)).collect();
        // A patch that is itself in CRLF says nothing about the line ends of files.
        let last = lines.len() - 1;
        if lines[..last].iter().all(|(_, line)| line.ends_with('\r')) {
            for (_, line) in &mut lines {
                *line = line.strip_suffix('\r').unwrap_or(line);
            }
        }
        let mut rest = trimmed(&lines);
        if let [(_, first), inner @ .., (_, last)] = rest
            && let Some(end) = wrapper_end(first)
            && last.trim() == end
        {
            rest = trimmed(inner);
        }
        if let [(_, first), inner @ ..] = rest
            && first.trim() == "*** Begin Patch"
        {
            rest = inner;
        }
        if let [inner @ .., (_, last)] = rest
            && last.trim() == "*** End Patch"
        {
            rest = inner;
        }
        Self { lines: rest.to_vec(), at: 0 }
    }

    fn peek(&self) -> Option<&'p str> {
        self.lines.get(self.at).map(|(_, line)| *line)
    }

    fn next(&mut self) -> Option<(usize, &'p str)> {
        let line = self.lines.get(self.at).copied();
        self.at += 1;
        line
    }

    fn malformed<T>(&self, problem: String) -> Result<T, Malformed> {
        let line = self.lines.get(self.at).or(self.lines.last()).map_or(1, |(number, _)| *number);
        Err(Malformed { line, problem })
    }

    /// Takes the lines of an added file.
    fn content(&mut self) -> Result<String, Malformed> {
        let mut content = String::new();
        let mut blank = 0;
        while let Some(line) = self.peek() {
            if let Some(added) = line.strip_prefix('+') {
                // Blank lines between added ones have lost their `+`.
                content.extend(std::iter::repeat_n('\n', std::mem::take(&mut blank)));
                content.push_str(added);
                content.push('\n');
            } else if line.trim().is_empty() {
                blank += 1;
            } else if line.starts_with("***") {
                break;
            } else {
                return self.malformed("each line of an added file starts with `+`".to_owned());
            }
            self.at += 1;
        }
        Ok(content)
    }

    fn move_to(&mut self) -> Option<&'p str> {
        let to = self.peek()?.trim().strip_prefix("*** Move to:")?;
        self.at += 1;
        Some(to.trim())
    }

    fn hunks(&mut self) -> Result<Vec<Hunk<'p>>, Malformed> {
        let mut hunks = Vec::new();
        while let Some(line) = self.peek() {
            if line.trim().is_empty() {
                self.at += 1;
            } else if line.starts_with("***") {
                break;
            } else {
                hunks.push(self.hunk()?);
            }
        }
        Ok(hunks)
    }

    fn hunk(&mut self) -> Result<Hunk<'p>, Malformed> {
        let mut hunk = Hunk { line: self.lines[self.at].0, ..Hunk::default() };
        while let Some(anchor) = self.peek().and_then(|line| line.strip_prefix("@@")) {
            hunk.anchors.extend(anchor_of(anchor));
            self.at += 1;
        }
        while let Some(line) = self.peek() {
            let line = line.strip_suffix('\r').unwrap_or(line);
            let marked = match line.chars().next() {
                None => (Mark::Keep, line),
                Some(' ') => (Mark::Keep, &line[1..]),
                Some('-') => (Mark::Remove, &line[1..]),
                Some('+') => (Mark::Add, &line[1..]),
                // git's word for a missing final newline.
                Some('\\') => {
                    self.at += 1;
                    continue;
                }
                Some('@') if line.starts_with("@@") => break,
                _ if line.trim() == "*** End of File" => {
                    hunk.at_end = true;
                    self.at += 1;
                    break;
                }
                _ if line.starts_with("***") => break,
                _ => {
                    return self.malformed(format!(
                        "`{}` starts with none of ` `, `+`, `-` and `@@`",
                        lines::cut(line)
                    ));
                }
            };
            hunk.lines.push(marked);
            self.at += 1;
        }
        if hunk.lines.is_empty() {
            return self.malformed("this hunk has no lines".to_owned());
        }
        Ok(hunk)
    }
}

/// Returns the line that an `@@` names; none for a bare one and for git's line numbers.
fn anchor_of(text: &str) -> Option<&str> {
    let text = text.strip_prefix(' ').unwrap_or(text);
    let text = text.strip_suffix(" @@").unwrap_or(text);
    let numbers =
        |text: &str| text.chars().all(|c| c.is_ascii_digit() || matches!(c, ',' | '+' | '-' | ' '));
    let git = text.split("@@").next().is_some_and(|first| {
        first.trim_start().starts_with('-') && first.contains('+') && numbers(first)
    });
    (!git && !text.trim().is_empty() && text.trim() != "@@").then_some(text)
}

/// Returns how the wrapper that a line opens is closed, if it opens one.
fn wrapper_end(line: &str) -> Option<&str> {
    let line = line.trim();
    if line.starts_with("```") {
        return Some("```");
    }
    let (before, word) = line.split_once("<<")?;
    let word = word.trim_start_matches('-').trim().trim_matches(['\'', '"']);
    let usual = before.trim().is_empty() || before.contains("apply") || before.contains("cat");
    (usual && !before.starts_with("***") && !word.is_empty()).then_some(word)
}

fn trimmed<'a, 'p>(mut lines: &'a [(usize, &'p str)]) -> &'a [(usize, &'p str)] {
    while let [(_, first), rest @ ..] = lines
        && first.trim().is_empty()
    {
        lines = rest;
    }
    while let [rest @ .., (_, last)] = lines
        && last.trim().is_empty()
    {
        lines = rest;
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: &str = "*** Begin Patch\n*** Update File: a.rs\n@@ fn main() {\n keep\n-old\n+new\n\n*** Add File: b.rs\n+one\n\n+two\n\n*** Delete File: c.rs\n*** End Patch\n";

    fn plain() -> Vec<Section<'static>> {
        let lines =
            vec![(Mark::Keep, "keep"), (Mark::Remove, "old"), (Mark::Add, "new"), (Mark::Keep, "")];
        let hunk = Hunk { line: 3, anchors: vec!["fn main() {"], lines, at_end: false };
        vec![
            Section { path: "a.rs", act: Act::Update { to: None, hunks: vec![hunk] } },
            Section { path: "b.rs", act: Act::Add { content: "one\n\ntwo\n".to_owned() } },
            Section { path: "c.rs", act: Act::Delete },
        ]
    }

    #[test]
    fn reads_the_three_kinds_of_sections() {
        assert_eq!(parse(PLAIN).unwrap(), plain());
    }

    /// The sections without the line numbers, which wrappers shift.
    fn sections(patch: &str) -> Vec<Section<'_>> {
        let mut sections = parse(patch).unwrap();
        for section in &mut sections {
            if let Act::Update { hunks, .. } = &mut section.act {
                for hunk in hunks {
                    hunk.line = 3;
                }
            }
        }
        sections
    }

    #[test]
    fn wrappers_and_missing_markers_change_nothing() {
        let bare =
            PLAIN.trim_start_matches("*** Begin Patch\n").trim_end_matches("*** End Patch\n");
        for patch in [
            bare.to_owned(),
            format!("<<'EOF'\n{PLAIN}EOF\n"),
            format!("apply_patch <<\"PATCH\"\n{PLAIN}PATCH"),
            format!("```diff\n{PLAIN}```\n"),
            format!("\n\n  {PLAIN}\n\n"),
            PLAIN.replace('\n', "\r\n"),
        ] {
            assert_eq!(sections(&patch), plain(), "{patch}");
        }
    }

    #[test]
    fn hunks_begin_at_anchors_and_git_line_numbers_are_no_anchor() {
        let patch = "*** Update File: a\n*** Move to: b\n-x\n@@ class A\n@@ def f():\n+y\n@@ -1,3 +1,4 @@ fn g\n z\n*** End of File\n@@\n+w\n";
        let sections = parse(patch).unwrap();
        let Act::Update { to, hunks } = &sections[0].act else { panic!() };
        assert_eq!(*to, Some("b"));
        let seen: Vec<_> = hunks.iter().map(|h| (h.line, h.anchors.clone(), h.at_end)).collect();
        assert_eq!(
            seen,
            vec![
                (3, vec![], false),
                (4, vec!["class A", "def f():"], false),
                (7, vec![], true),
                (10, vec![], false),
            ]
        );
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let problem = |patch: &str| {
            let Malformed { line, problem } = parse(patch).unwrap_err();
            format!("{line}: {problem}")
        };
        assert_eq!(problem(""), format!("1: there is no {HEADERS}"));
        assert_eq!(problem("hello"), format!("1: `hello` is not {HEADERS}"));
        assert_eq!(
            problem("*** Begin Patch\n*** Update File: a\n*** End Patch"),
            "2: this update has no hunk"
        );
        assert_eq!(
            problem("*** Update File: a\n@@\n-x\nfoo\n"),
            "4: `foo` starts with none of ` `, `+`, `-` and `@@`"
        );
        assert_eq!(
            problem("*** Add File: a\n+x\nfoo"),
            "3: each line of an added file starts with `+`"
        );
        assert_eq!(problem("*** Delete File: \n"), "1: the path is missing");
        assert_eq!(problem("*** Update File: a\n@@ x\n*** End Patch"), "2: this hunk has no lines");
    }
}
