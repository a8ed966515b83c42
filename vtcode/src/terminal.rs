//! A session as a person reads it: events in, plain lines out. Colour only on a terminal.
//! Never lets text of a model, a file or a command control the terminal.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::{self, IsTerminal as _, Write as _};
use std::time::Duration;

use vtcode_core::core::event::{CheckEnd, Event, EventKind};
use vtcode_core::llm::message::Part;
use vtcode_core::tools::tool::{ChangeKind, Detail, FileChange};

/// Lines of a call's output that are shown as they come, and of its end when there were more.
const LIVE_LINES: usize = 12;
const LAST_LINES: usize = 6;
const LINE_CHARS: usize = 160;

/// Where lines go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Screen {
    Stdout,
    Stderr,
}

/// Prints a session.
#[derive(Debug)]
pub(crate) struct Terminal {
    screen: Screen,
    color: bool,
    /// Words that may turn out to be the answer, which goes to stdout.
    held: String,
    running: HashMap<String, Running>,
}

#[derive(Debug, Default)]
struct Running {
    /// The begin of a line whose end has not come.
    line: String,
    shown: usize,
    /// The last lines beyond those shown.
    last: std::collections::VecDeque<String>,
    hidden: usize,
}

#[derive(Clone, Copy)]
enum Style {
    Dim,
    Bold,
    Red,
}

impl Terminal {
    /// Returns a printer. `no_color` is the user's `NO_COLOR`.
    pub(crate) fn new(screen: Screen, no_color: bool) -> Self {
        let terminal = match screen {
            Screen::Stdout => io::stdout().is_terminal(),
            Screen::Stderr => io::stderr().is_terminal(),
        };
        Self { screen, color: terminal && !no_color, held: String::new(), running: HashMap::new() }
    }

    /// Prints an event.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.kind {
            EventKind::Part { part: Part::Text { text } } => self.held.push_str(text),
            EventKind::Retry { attempt, wait, cause } => {
                // The answer that broke off is asked for again.
                self.held.clear();
                self.line(Style::Red, &retry(*attempt, *wait, cause));
            }
            EventKind::EndpointChanged { attempt, base_url, model, cause, .. } => {
                let line = format!("! attempt {attempt} goes to {model} at {base_url}: {cause}");
                self.line(Style::Red, &line);
            }
            EventKind::Waiting { wait, cause } => {
                self.line(Style::Dim, &format!("waiting {} for {cause}", span(*wait)));
            }
            EventKind::ModelWaiting { clock, elapsed, limit } => {
                let (elapsed, limit) = (span(*elapsed), span(*limit));
                self.line(Style::Dim, &format!("still waiting, {elapsed} of {limit}: {clock}"));
            }
            EventKind::CacheMissed(miss) => self.line(Style::Dim, &format!("! {miss}")),
            EventKind::ToolStarted { call_id, name, arguments } => {
                self.release();
                self.line(Style::Bold, &format!("● {name} {}", title(arguments)));
                self.running.insert(call_id.clone(), Running::default());
            }
            EventKind::ToolProgress { call_id, text } => self.progress(call_id, text),
            EventKind::ToolFinished { call_id, text, is_error, detail, ran, .. } => {
                self.finished(call_id, text, *is_error, detail, *ran);
            }
            EventKind::CheckEnded { command, end, ran, .. } => {
                let how = match end {
                    CheckEnd::Passed => "passes",
                    CheckEnd::Failed => "fails",
                    CheckEnd::OutOfTime => "took too long and was ended",
                    CheckEnd::OverBudget => "used too much of the processor and was ended",
                    CheckEnd::Unusable => "could not be run to a verdict",
                    CheckEnd::Superseded | CheckEnd::Interrupted => return,
                };
                let line = format!("check `{command}` {how} ({})", span(*ran));
                self.line(Style::Dim, &line);
            }
            EventKind::Compacting { input_tokens } => {
                let line = format!("… the window is full ({input_tokens} tokens): summing up");
                self.line(Style::Dim, &line);
            }
            EventKind::Compacted { put_aside, summed_up, before, after, .. } => {
                let what = match (put_aside, summed_up) {
                    (n, 0) => format!("{n} older results were put aside"),
                    (_, n) => format!("{n} older messages were summed up"),
                };
                self.line(Style::Dim, &format!("… {what}: {before} → {after} tokens"));
            }
            EventKind::SettingsChanged { message } => {
                self.line(Style::Dim, &format!("… settings: {message}"));
            }
            EventKind::Warning { message } => self.line(Style::Red, &format!("! {message}")),
            // The answer that was held was not the last one, or is all that there is.
            EventKind::RequestSent { .. } | EventKind::PromptFailed { .. } => self.release(),
            _ => {}
        }
    }

    /// Prints words that turned out not to be the answer.
    fn release(&mut self) {
        let text = std::mem::take(&mut self.held);
        if !text.trim().is_empty() {
            self.print(&clean(text.trim()));
        }
    }

    fn progress(&mut self, call_id: &str, text: &str) {
        let Some(running) = self.running.get_mut(call_id) else { return };
        let mut whole = Vec::new();
        for piece in text.split_inclusive('\n') {
            running.line.push_str(piece);
            if running.line.ends_with('\n') {
                whole.push(std::mem::take(&mut running.line));
                // Empty lines say nothing where lines are few.
                whole.pop_if(|line| line.trim().is_empty());
            }
            // A line without end must not be kept without end.
            if running.line.len() > 64 * 1024 {
                running.line.clear();
            }
        }
        let mut shown = Vec::new();
        for line in whole {
            if running.shown < LIVE_LINES {
                running.shown += 1;
                shown.push(line);
            } else {
                running.hide(line);
            }
        }
        for line in shown {
            self.output(&line);
        }
    }

    fn finished(
        &mut self,
        call_id: &str,
        text: &str,
        is_error: bool,
        detail: &Detail,
        ran: Duration,
    ) {
        if let Some(mut running) = self.running.remove(call_id) {
            let rest = std::mem::take(&mut running.line);
            if !rest.is_empty() {
                running.hide(rest);
            }
            let skipped = running.hidden.saturating_sub(running.last.len());
            if skipped > 0 {
                self.output(&format!("… {skipped} more lines …"));
            }
            for line in &running.last {
                self.output(line);
            }
        }
        let ran = span(ran);
        if is_error {
            let first: Vec<&str> = text.lines().take(8).collect();
            self.line(Style::Red, &format!("  └ failed · {ran}"));
            for line in first {
                self.output(line);
            }
            return;
        }
        match detail {
            Detail::Command { exit_code: Some(0), .. } => {
                self.line(Style::Dim, &format!("  └ exit code 0 · {ran}"));
            }
            Detail::Command { exit_code, .. } => {
                let code = exit_code.map_or_else(|| "killed".into(), |c| format!("exit code {c}"));
                self.line(Style::Red, &format!("  └ {code} · {ran}"));
            }
            Detail::Files { changes } => {
                for change in changes {
                    self.line(Style::Dim, &format!("  └ {} · {ran}", file_change(change)));
                }
            }
            Detail::Summary { line } => self.line(Style::Dim, &format!("  └ {line} · {ran}")),
            _ => self.line(Style::Dim, &format!("  └ done · {ran}")),
        }
    }

    fn output(&self, line: &str) {
        self.line(Style::Dim, &format!("  │ {}", line.trim_end()));
    }

    fn line(&self, style: Style, text: &str) {
        let text = shorten(&clean(text), LINE_CHARS);
        if self.color {
            let code = match style {
                Style::Dim => "2",
                Style::Bold => "1",
                Style::Red => "31",
            };
            self.print(&format!("\x1b[{code}m{text}\x1b[0m"));
        } else {
            self.print(&text);
        }
    }

    fn print(&self, text: &str) {
        // One write a line: stderr has no buffer, and a line of two writes can be torn apart.
        let line = format!("{text}\n");
        // A terminal that is gone must not end the work.
        let _ = match self.screen {
            Screen::Stdout => io::stdout().write_all(line.as_bytes()),
            Screen::Stderr => io::stderr().write_all(line.as_bytes()),
        };
    }
}

impl Running {
    fn hide(&mut self, line: String) {
        self.hidden += 1;
        if self.last.len() == LAST_LINES {
            self.last.pop_front();
        }
        self.last.push_back(line);
    }
}

/// Writes a changed file and its lines.
pub(crate) fn file_change(change: &FileChange) -> String {
    let FileChange { path, kind, added, removed } = change;
    let kind = match kind {
        ChangeKind::Add => " (new)",
        ChangeKind::Delete => " (deleted)",
        ChangeKind::Update => "",
    };
    format!("{}{kind} +{added} −{removed}", one_line(path))
}

/// Replaces what could control a terminal: every control character but line feed and tab, and the
/// marks that turn the direction of text.
pub(crate) fn clean(text: &str) -> String {
    let harmful = |c: char| {
        (c.is_control() && c != '\n' && c != '\t')
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    text.chars().map(|c| if harmful(c) { '\u{fffd}' } else { c }).collect()
}

/// Keeps a name from looking like two lines of ours.
pub(crate) fn one_line(text: &str) -> String {
    text.replace('\n', " ")
}

fn shorten(text: &str, chars: usize) -> String {
    let mut line = one_line(text);
    if let Some((cut, _)) = line.char_indices().nth(chars) {
        line.truncate(cut);
        line.push('…');
    }
    line
}

/// Writes the arguments of a call in a few words: what its text values say.
fn title(arguments: &str) -> String {
    let Ok(value) = serde_json::from_str::<serde_json::Value>(arguments) else {
        return arguments.to_owned();
    };
    let mut words = String::new();
    say(&value, &mut words);
    shorten(words.trim_end(), 100)
}

fn say(value: &serde_json::Value, words: &mut String) {
    match value {
        serde_json::Value::String(text) => {
            // The first line of a long text is enough to know it by.
            let line = text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default();
            let _ = write!(words, "{} ", shorten(line, 60));
        }
        serde_json::Value::Number(number) => {
            let _ = write!(words, "{number} ");
        }
        serde_json::Value::Array(items) => items.iter().for_each(|item| say(item, words)),
        serde_json::Value::Object(fields) => {
            // What a call is about, where it says so; else all of it.
            let about = ["command", "pattern", "path", "files"];
            let mut said = false;
            for value in about.iter().filter_map(|name| fields.get(*name)) {
                said = true;
                say(value, words);
            }
            if !said {
                fields.values().for_each(|value| say(value, words));
            }
        }
        serde_json::Value::Null | serde_json::Value::Bool(_) => {}
    }
}

/// Writes a span of time in a few characters.
pub(crate) fn span(d: Duration) -> String {
    match d.as_secs_f64() {
        s if s >= 60.0 => format!("{} min {:.0} s", (s / 60.0).floor(), s % 60.0),
        s if s >= 1.0 => format!("{s:.1} s"),
        s => format!("{:.1} ms", s * 1e3),
    }
}

/// Tells of another attempt. Its number stands first: a cause may be longer than a line.
fn retry(attempt: u32, wait: Duration, cause: &str) -> String {
    let wait = if wait.is_zero() { String::new() } else { format!(" in {}", span(wait)) };
    format!("! attempt {attempt}{wait}: {cause}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_url_hides_no_attempt() {
        let cause = format!("cannot reach http://{}", "x".repeat(2 * LINE_CHARS));
        let line = shorten(&retry(2, Duration::from_secs(1), &cause), LINE_CHARS);
        assert!(line.starts_with("! attempt 2 in "), "{line}");
    }

    #[test]
    fn nothing_in_a_text_controls_the_terminal() {
        assert_eq!(clean("a\x1b[2Jb\rc\u{202e}d\te\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}d\te\n");
    }

    #[test]
    fn a_file_name_of_two_lines_is_no_line_of_its_own() {
        let path = "a\nvtcode: all is well".to_owned();
        let change = FileChange { path, kind: ChangeKind::Add, added: 1, removed: 0 };
        assert_eq!(file_change(&change), "a vtcode: all is well (new) +1 −0");
    }

    #[test]
    fn a_call_is_known_by_its_path_or_command() {
        assert_eq!(title(r#"{"new_text":"x\ny","path":"src/a.rs"}"#), "src/a.rs");
        assert_eq!(title(r#"{"files":[{"start":3,"path":"a"},{"path":"b"}]}"#), "a b");
        assert_eq!(title("{broken"), "{broken");
        assert_eq!(title(&format!(r#"{{"command":"{}"}}"#, "x".repeat(99))).chars().count(), 61);
    }
}
