//! From a recorded call to what it meant: which files it asked for, which it changed, and what kind
//! of text its result was. Agents name their tools differently, and some read with shell commands.

use serde_json::Value;

use super::corpus::Call;
use crate::core::optimized_agent::predict::{Mention, Source, Span};

/// What a call meant.
#[derive(Debug, Clone, PartialEq)]
pub struct Act {
    /// What kind of text its result was.
    pub source: Source,
    /// The files it asked for, by the names in the call and with the lines asked for, if it asked
    /// for nothing else.
    pub reads: Vec<(String, Span)>,
    /// The one file it searched in, by the name in the call, if that was all.
    pub searches: Option<String>,
}

impl Act {
    /// Returns what a recorded call meant. A tool that it does not know is taken for an edit when
    /// the call changed files, else for a command.
    pub fn of(call: &Call) -> Self {
        let text = |names: &[&str]| names.iter().find_map(|name| call.args.get(name)?.as_str());
        let plain = |source| Self { source, reads: Vec::new(), searches: None };
        match call.name.as_str() {
            "Read" | "read" | "view" | "read_file" => {
                let path = text(&["file_path", "filePath", "path"]);
                let path = path.map(|path| (path.to_owned(), span(&call.args)));
                Self { source: Source::Text, reads: path.into_iter().collect(), searches: None }
            }
            "open" => {
                // SWE-agent's words: a path, perhaps a line.
                let path = text(&["args"]).and_then(|args| args.split_whitespace().next());
                let path = path.map(|path| (path.trim_matches('"').to_owned(), Span::Whole));
                Self { source: Source::Text, reads: path.into_iter().collect(), searches: None }
            }
            "Grep" | "grep" | "rg" => {
                let path = text(&["path"]).filter(|path| is_file(path));
                Self { searches: path.map(str::to_owned), ..plain(Source::Search) }
            }
            "Glob" | "glob" | "find_file" => plain(Source::List),
            "Bash" | "bash" | "exec_command" | "run_shell_command" | "PowerShell" => {
                shell(call, text(&["cmd", "command"]).unwrap_or_default())
            }
            _ if !call.files.is_empty() => plain(Source::Edit),
            _ => plain(Source::Command),
        }
    }
}

/// Reads a path as texts name it, with the line, from 1, that may stand behind it: `src/a.rs:12`.
pub fn mention(text: &str) -> Mention<'_> {
    let Some((path, rest)) = text.split_once(':') else {
        return Mention { path: text, line: None };
    };
    let digits = rest.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
    Mention { path, line: digits.parse().ok().filter(|line| *line > 0) }
}

fn span(args: &Value) -> Span {
    let number = |name: &str| args.get(name).and_then(Value::as_u64).map(|n| n as u32);
    if let Some(range) = args.get("view_range").and_then(Value::as_array) {
        let at = |index: usize| range.get(index).and_then(Value::as_i64).unwrap_or(-1);
        let last = u32::try_from(at(1)).unwrap_or(u32::MAX);
        return Span::Lines { first: u32::try_from(at(0)).unwrap_or(1).max(1), last };
    }
    match (number("offset"), number("limit")) {
        (None | Some(0 | 1), None) => Span::Whole,
        (offset, limit) => {
            let first = offset.unwrap_or(1).max(1);
            let last = limit.map_or(u32::MAX, |limit| first.saturating_add(limit.max(1) - 1));
            Span::Lines { first, last }
        }
    }
}

fn is_file(path: &str) -> bool {
    path.rsplit('/').next().is_some_and(|name| name.trim_start_matches('.').contains('.'))
}

/// Reads what a command line asks for. Only lines that do nothing but print files are reads.
fn shell(call: &Call, line: &str) -> Act {
    let mut source = None;
    let mut reads = Some(Vec::new());
    let mut searches = None;
    for part in line.split(['\n', ';']).flat_map(|part| part.split("&&")) {
        let piped: Vec<Vec<String>> =
            part.split('|').map(words).filter(|w| !w.is_empty()).collect();
        let Some(first) = piped.first() else { continue };
        let name = first[0].as_str();
        let kind = match name {
            "cd" | "echo" | "pwd" | "printf" | "true" => continue,
            "git" | "gh" => Source::Git,
            "grep" | "rg" | "ag" | "egrep" => Source::Search,
            "ls" | "find" | "fd" | "tree" => Source::List,
            "cat" | "nl" | "head" | "tail" | "sed" | "bat" | "less" => Source::Text,
            _ => Source::Command,
        };
        source = source.or(Some(kind));
        let part = match kind {
            Source::Text => printed(&piped),
            Source::Search => {
                searches = first.last().filter(|path| is_file(path)).cloned();
                None
            }
            _ => None,
        };
        reads = reads.zip(part).map(|(mut reads, part): (Vec<_>, Vec<_>)| {
            reads.extend(part);
            reads
        });
    }
    let source = if call.cls == "test" { Source::Check } else { source.unwrap_or(Source::Command) };
    let reads = reads.filter(|_| call.read_only).unwrap_or_default();
    let searches = searches.filter(|_| call.read_only && source == Source::Search);
    Act { source, reads, searches }
}

/// Returns the files that a pipeline prints; none when it does something else, too.
fn printed(piped: &[Vec<String>]) -> Option<Vec<(String, Span)>> {
    let [first, rest @ ..] = piped else { return None };
    let mut span = Span::Whole;
    let mut files = Vec::new();
    narrow(&mut span, first)?;
    let is_sed = first[0] == "sed";
    let mut script_passed = !is_sed;
    let mut skip = false;
    for word in &first[1..] {
        if std::mem::take(&mut skip) || word.starts_with("2>") || word == "/dev/null" {
            continue;
        }
        if word.starts_with('-') {
            skip = matches!(word.as_str(), "-n" | "-c" | "-e")
                && !is_sed
                && first[0] != "cat"
                && first[0] != "nl";
            continue;
        }
        if !script_passed {
            script_passed = true;
            continue;
        }
        files.push(word.clone());
    }
    for filter in rest {
        narrow(&mut span, filter)?;
    }
    (!files.is_empty()).then(|| files.into_iter().map(|file| (file, span)).collect())
}

/// Takes a command of a pipeline that prints only some lines; none for one that does other things.
fn narrow(span: &mut Span, words: &[String]) -> Option<()> {
    let lines = |text: &str| text.trim_start_matches('-').parse::<u32>().ok();
    match words[0].as_str() {
        "cat" | "nl" | "bat" | "less" => {}
        "sed" => {
            let script = words.iter().skip(1).find(|word| !word.starts_with('-'))?;
            if !words.iter().any(|word| word == "-n") {
                return None;
            }
            let (first, last) = script.strip_suffix('p')?.split_once(',')?;
            *span = Span::Lines {
                first: first.parse().ok()?,
                last: if last == "$" { u32::MAX } else { last.parse().ok()? },
            };
        }
        "head" => {
            let last = words.iter().skip(1).find_map(|word| lines(word)).unwrap_or(10);
            *span = Span::Lines { first: 1, last };
        }
        // Where it begins depends on the file's length.
        "tail" => *span = Span::Lines { first: 1, last: u32::MAX },
        _ => return None,
    }
    Some(())
}

/// Splits a simple command into words, as far as quotes go.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote = None;
    for c in text.chars() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '\'' | '"') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, c) if c.is_whitespace() => words.extend(word.take()),
            (_, c) => word.get_or_insert_default().push(c),
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn shell_act(command: &str) -> Act {
        let call =
            json!({"name": "Bash", "args": {"command": command}, "cls": "ro", "read_only": true});
        Act::of(&serde_json::from_value(call).unwrap())
    }

    fn lines(first: u32, last: u32) -> Span {
        Span::Lines { first, last }
    }

    #[test]
    fn commands_that_only_print_files_are_reads() {
        let reads = |command: &str| shell_act(command).reads;
        let read = |path: &str, span| vec![(path.to_owned(), span)];
        assert_eq!(reads("cat src/a.rs"), read("src/a.rs", Span::Whole));
        assert_eq!(reads("sed -n '10,20p' src/a.rs"), read("src/a.rs", lines(10, 20)));
        assert_eq!(reads("sed -n '10,$p' a"), read("a", lines(10, u32::MAX)));
        assert_eq!(reads("cd x && nl -ba src/a.rs | sed -n '5,9p'"), read("src/a.rs", lines(5, 9)));
        assert_eq!(
            reads("head -n 40 'with space.md' 2>/dev/null"),
            read("with space.md", lines(1, 40))
        );
        assert_eq!(reads("cat a; cat b").len(), 2);
        for other in
            ["cat a | wc -l", "cat a && cargo test", "git show HEAD:a", "sed -i s/a/b/ a", ""]
        {
            assert_eq!(reads(other), [], "{other}");
        }
    }

    #[test]
    fn what_printed_a_text_says_what_kind_it_is() {
        let source = |command: &str| shell_act(command).source;
        assert_eq!(source("cd a && git diff --stat"), Source::Git);
        assert_eq!(source("rg -n merge src"), Source::Search);
        assert_eq!(source("ls -la"), Source::List);
        assert_eq!(source("make"), Source::Command);
        assert_eq!(shell_act("grep -n x src/a.rs").searches.as_deref(), Some("src/a.rs"));
        assert_eq!(shell_act("grep -rn x src").searches, None);
    }

    #[test]
    fn other_agents_name_the_same_things_otherwise() {
        let act = |name: &str, args| {
            let call = json!({"name": name, "args": args, "read_only": true});
            Act::of(&serde_json::from_value(call).unwrap())
        };
        let claude = act("Read", json!({"file_path": "a", "offset": 5, "limit": 10}));
        assert_eq!(claude.reads, [("a".to_owned(), lines(5, 14))]);
        assert_eq!(act("read", json!({"filePath": "a"})).reads, [("a".to_owned(), Span::Whole)]);
        let copilot = act("view", json!({"path": "a", "view_range": [3, -1]}));
        assert_eq!(copilot.reads, [("a".to_owned(), lines(3, u32::MAX))]);
        assert_eq!(act("Grep", json!({"path": "src/a.rs"})).searches.as_deref(), Some("src/a.rs"));
        assert_eq!(act("Unknown", json!(null)).reads, []);
    }

    #[test]
    fn a_line_may_stand_behind_a_path() {
        let read = |text| (mention(text).path, mention(text).line);
        assert_eq!(read("src/a.rs:12"), ("src/a.rs", Some(12)));
        assert_eq!(read("src/a.rs:12:5"), ("src/a.rs", Some(12)));
        assert_eq!(read("src/a.rs:0"), ("src/a.rs", None));
        assert_eq!(read("src/a.rs"), ("src/a.rs", None));
    }
}
