//! The user's rules: strings come in, prefixes of argument lists go out, or the first string that
//! is none.
//! An allowing rule matches only what is written out; a narrowing one also what may turn out to be
//! meant. Knows no verdicts.

use crate::config::safety::PermissionRules;

use super::command_line::{CommandLine, SimpleCommand, Word};
use super::grammar;
use super::harm::GIT_TAKES;
use super::survey::Found;

/// A rule that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`permissions.{list}` holds `{rule}`, which is not the beginning of one simple command: {why}"
)]
pub struct RuleError {
    /// `allow`, `ask` or `deny`.
    pub list: &'static str,
    /// The rule as written.
    pub rule: String,
    /// What is wrong with it.
    pub why: &'static str,
}

/// The beginning of an argument list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    words: Vec<String>,
}

/// All rules of a user.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) allow: Vec<Rule>,
    pub(super) ask: Vec<Rule>,
    pub(super) deny: Vec<Rule>,
}

impl Rules {
    pub(super) fn parse(rules: &PermissionRules) -> Result<Self, RuleError> {
        let list = |list: &'static str, rules: &[String]| {
            let rule = |rule: &String| {
                Rule::parse(rule).map_err(|why| RuleError { list, rule: rule.clone(), why })
            };
            rules.iter().map(rule).collect::<Result<Vec<_>, _>>()
        };
        Ok(Self {
            allow: list("allow", &rules.allow)?,
            ask: list("ask", &rules.ask)?,
            deny: list("deny", &rules.deny)?,
        })
    }
}

impl Rule {
    /// Reads a rule as a command line is read, so that quotes mean what they mean there. Fails,
    /// with what is wrong, for a text that is not one simple command of plain words: one that is
    /// empty, or has several commands, a redirection or a pattern.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        let line = grammar::parse(text).and_then(|tree| CommandLine::read(text, &tree));
        let line = line.ok_or("it is no command line of plain words")?;
        let [command] = &*line.commands else {
            return Err(if line.commands.is_empty() { "it is empty" } else { "there are several" });
        };
        if !command.redirects.is_empty() {
            return Err("it has a redirection");
        }
        if command.words.iter().any(|word| word.glob || word.tilde) {
            return Err("a rule has no patterns: leave out the words that may differ");
        }
        Ok(Self::of(command.words.iter().map(|word| word.text.clone()).collect()))
    }

    /// Makes a rule of words.
    pub(super) fn of(words: Vec<String>) -> Self {
        Self { words }
    }

    pub(super) fn len(&self) -> usize {
        self.words.len()
    }

    /// Returns whether the rule allows a command: its words are written out at the beginning, and
    /// what follows is not an option that makes another program of it.
    pub(super) fn allows(&self, command: &SimpleCommand) -> bool {
        let literal = |word: &Word| !word.glob && !word.tilde;
        let matches = command.words.len() >= self.words.len()
            && self
                .words
                .iter()
                .zip(&command.words)
                .all(|(rule, word)| *rule == word.text && literal(word));
        matches && (self.words[0] != "git" || self.reaches_subcommand(&command.words))
    }

    /// Options before git's subcommand choose its repository, its configuration and its programs:
    /// a rule has to write them out.
    fn reaches_subcommand(&self, words: &[Word]) -> bool {
        let harmless = ["--no-pager", "-P", "--version", "--help", "--literal-pathspecs"];
        let mut at = 1;
        while let Some(word) = words.get(at) {
            if !word.text.starts_with('-') {
                return true;
            }
            let takes = GIT_TAKES.contains(&&*word.text) && word.text != "--exec-path";
            let end = at + 1 + usize::from(takes);
            if end > self.words.len() && !harmless.contains(&&*word.text) {
                return false;
            }
            at = end;
        }
        true
    }

    /// Returns whether a command may be one that the rule means, wherever its program lies and
    /// whatever its unknown words turn out to be.
    pub(super) fn may_mean(&self, found: &Found) -> bool {
        let name = |word: &str| word.rsplit('/').next().unwrap_or(word).to_owned();
        let mut words: Vec<Option<&str>> = found.words.iter().map(Option::as_deref).collect();
        if found.name() == Some("git") && !self.words.get(1).is_some_and(|w| w.starts_with('-')) {
            while let Some(Some(option)) =
                words.get(1).filter(|w| w.is_some_and(|w| w.starts_with('-')))
            {
                let takes = GIT_TAKES.contains(option) && *option != "--exec-path";
                words.drain(1..words.len().min(2 + usize::from(takes)));
            }
        }
        (found.open || words.len() >= self.words.len())
            && self.words.iter().zip(words).enumerate().all(|(at, (rule, word))| match word {
                None => true,
                Some(word) if at == 0 => rule == word || name(rule) == name(word),
                Some(word) => rule == word,
            })
    }
}

impl std::fmt::Display for Rule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.words.join(" "))
    }
}
