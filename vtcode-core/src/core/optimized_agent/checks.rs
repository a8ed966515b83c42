//! Checks after edits: edits and how checks ended come in; whether one may run, and what of its
//! outcome the model does not know yet, goes out.
//! Says a thing once: the first failure, another one, and that it is mended. Runs nothing itself.

use std::time::Duration;

use super::attachments::MARK;
use crate::config::limits::CheckLimits;
use crate::core::event::CheckEnd;
use crate::llm::message::Message;
use crate::tools::builtin::run_command::Checked;

/// How the blocks begin that tell of a check, after the mark of all that is attached.
const FAILS: &str = "check fails: ";
const PASSES: &str = "check passes again: ";

/// What a run knows of its checks.
#[derive(Debug)]
pub(super) struct Checks {
    limits: CheckLimits,
    used: Duration,
    /// Something was edited since the last check began.
    edited: bool,
    /// Whether it was told that no more is run.
    spent_told: bool,
    told: Told,
    /// What the model is told next, and what it knows then.
    news: Option<(String, Told)>,
}

/// What the model knows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
enum Told {
    #[default]
    Nothing,
    Passes,
    /// It fails, with these words, without what changes from run to run.
    Fails(String),
}

/// What one check may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Allowance {
    pub(super) cpu: Duration,
    pub(super) wall: Duration,
}

impl Checks {
    /// Returns the state after a conversation.
    pub(super) fn after(messages: &[Message], limits: CheckLimits) -> Self {
        let mut checks = Self {
            limits,
            used: Duration::ZERO,
            edited: false,
            spent_told: false,
            told: Told::Nothing,
            news: None,
        };
        checks.remember(messages);
        checks
    }

    /// These messages are what the model knows from here on.
    pub(super) fn remember(&mut self, messages: &[Message]) {
        let results = messages.iter().rev().filter_map(|message| match message {
            Message::Tool { results } => Some(results),
            _ => None,
        });
        let told = results
            .flatten()
            .find_map(|result| result.text.split(MARK).skip(1).filter_map(told_by).last());
        self.told = told.unwrap_or_default();
    }

    /// Something was edited.
    pub(super) fn edited(&mut self) {
        self.edited = true;
        // It speaks of what was before.
        self.news = None;
    }

    /// Returns what a check may use, if one is due.
    pub(super) fn due(&mut self) -> Option<Allowance> {
        let left = self.limits.run_cpu.saturating_sub(self.used);
        if !self.edited || left.is_zero() {
            return None;
        }
        self.edited = false;
        Some(Allowance { cpu: self.limits.cpu.min(left), wall: self.limits.wall })
    }

    /// A check ended. Returns words for the user when none is run any more; once.
    pub(super) fn ended(&mut self, command: &str, checked: &Checked) -> Option<String> {
        self.used += checked.cpu;
        let text = &checked.text;
        self.news = match (checked.end, &self.told) {
            (CheckEnd::Failed, told) => {
                let known = Told::Fails(gist(text));
                let how = match told {
                    Told::Fails(_) => "otherwise than before",
                    Told::Passes => "with the latest edits",
                    Told::Nothing => "with the edits so far; it may have failed before them",
                };
                let code = checked.exit_code.unwrap_or_default();
                let block = format!("{MARK}{FAILS}`{command}`, exit code {code}, {how}]\n{text}");
                (*told != known).then_some((block, known))
            }
            (CheckEnd::Passed, Told::Fails(_)) => {
                Some((format!("{MARK}{PASSES}`{command}`]"), Told::Passes))
            }
            _ => None,
        };
        let spent = self.used >= self.limits.run_cpu && !self.spent_told;
        self.spent_told |= spent;
        spent.then(|| {
            let seconds = self.used.as_secs_f64();
            format!(
                "checks used {seconds:.1} s of the processor, all that they may in one run \
                 (check.run_cpu_s): no more are run"
            )
        })
    }

    /// Returns what the model is told now.
    pub(super) fn take_news(&mut self) -> Option<String> {
        let (block, told) = self.news.take()?;
        self.told = told;
        Some(block)
    }
}

/// Returns what a block of text tells of a check.
fn told_by(block: &str) -> Option<Told> {
    if block.starts_with(PASSES) {
        return Some(Told::Passes);
    }
    let (_, text) = block.strip_prefix(FAILS)?.split_once("]\n")?;
    Some(Told::Fails(gist(text)))
}

/// Returns what a check says without what changes from run to run: the order of its lines, and the
/// numbers of lines that an edit above moved.
fn gist(text: &str) -> String {
    let mut lines: Vec<&str> = text.trim_end().lines().collect();
    lines.sort_unstable();
    lines.join("\n").replace(|c: char| c.is_ascii_digit(), "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;
    use crate::llm::message::ToolAnswer;

    fn checks() -> Checks {
        Checks::after(&[], Limits::full().agent.checks)
    }

    fn checked(end: CheckEnd, text: &str) -> Checked {
        let exit_code = match end {
            CheckEnd::Passed => Some(0),
            CheckEnd::Failed => Some(101),
            _ => None,
        };
        let second = Duration::from_secs(1);
        Checked { end, exit_code, text: text.to_owned(), cpu: second, ran: second }
    }

    /// What the model is told of a check that ends so.
    fn told(checks: &mut Checks, end: CheckEnd, text: &str) -> Option<String> {
        checks.edited();
        checks.due().unwrap();
        checks.ended("cargo check", &checked(end, text));
        checks.take_news()
    }

    #[test]
    fn each_thing_is_said_once() {
        let mut checks = checks();
        assert_eq!(told(&mut checks, CheckEnd::Passed, ""), None);
        let first = told(&mut checks, CheckEnd::Failed, "a.rs:3:1: bad\nb.rs:1:1: bad").unwrap();
        assert!(first.starts_with("\n[vtcode attached, unasked: check fails: `cargo check`, exit"));
        assert!(first.ends_with("before them]\na.rs:3:1: bad\nb.rs:1:1: bad"), "{first}");
        // The same in another order, further down.
        assert_eq!(told(&mut checks, CheckEnd::Failed, "b.rs:1:1: bad\na.rs:14:1: bad"), None);
        assert_eq!(told(&mut checks, CheckEnd::Superseded, ""), None);
        assert_eq!(told(&mut checks, CheckEnd::Unusable, "no such package"), None);
        let other = told(&mut checks, CheckEnd::Failed, "a.rs:3:1: worse").unwrap();
        assert!(other.contains("otherwise than before"), "{other}");
        let mended = told(&mut checks, CheckEnd::Passed, "").unwrap();
        assert_eq!(mended, "\n[vtcode attached, unasked: check passes again: `cargo check`]");
        assert_eq!(told(&mut checks, CheckEnd::Passed, ""), None);
        let again = told(&mut checks, CheckEnd::Failed, "a.rs:3:1: worse").unwrap();
        assert!(again.contains("with the latest edits"), "{again}");
    }

    #[test]
    fn a_session_that_is_gone_on_with_knows_what_was_said() {
        let mut before = checks();
        let block = told(&mut before, CheckEnd::Failed, "a.rs:3:1: bad").unwrap();
        let with = |text: String| Message::Tool {
            results: vec![ToolAnswer {
                call_id: "c".into(),
                name: "edit_file".into(),
                text,
                is_error: false,
            }],
        };
        let messages = [with(format!("Edited a.rs{block}\n[vtcode attached, unasked: `x`]\n1\ta"))];
        let mut after = Checks::after(&messages, Limits::full().agent.checks);
        assert_eq!(told(&mut after, CheckEnd::Failed, "a.rs:9:1: bad"), None);
        assert!(told(&mut after, CheckEnd::Passed, "").is_some());
        // A view without these messages knows nothing.
        after.remember(&[]);
        assert_eq!(told(&mut after, CheckEnd::Passed, ""), None);
    }

    #[test]
    fn news_of_what_was_before_an_edit_is_not_told() {
        let mut checks = checks();
        checks.edited();
        checks.due().unwrap();
        assert_eq!(checks.due(), None);
        checks.ended("cargo check", &checked(CheckEnd::Failed, "a.rs:3:1: bad"));
        checks.edited();
        assert_eq!(checks.take_news(), None);
    }

    #[test]
    fn no_check_is_due_once_the_processor_time_is_used() {
        let mut limits = Limits::full().agent.checks;
        limits.run_cpu = Duration::from_millis(1500);
        let mut checks = Checks::after(&[], limits);
        checks.edited();
        assert_eq!(checks.due().unwrap().cpu, Duration::from_millis(1500));
        assert_eq!(checks.ended("c", &checked(CheckEnd::Passed, "")), None);
        checks.edited();
        assert_eq!(checks.due().unwrap().cpu, Duration::from_millis(500));
        assert!(checks.ended("c", &checked(CheckEnd::OverBudget, "")).is_some());
        checks.edited();
        assert_eq!(checks.due(), None);
        let mut off = Checks::after(&[], Limits::plain().agent.checks);
        off.edited();
        assert_eq!(off.due(), None);
    }
}
