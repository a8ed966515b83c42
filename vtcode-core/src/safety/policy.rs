//! What a shell command line does and whether it may run: its text comes in, an [`Effect`] or a
//! [`Judgement`] goes out.
//! The text is parsed once. Its simple commands (`command_line`) are proven by a table (`table`) to
//! only read, or are allowed by the user's rules (`rules`); of all others every command that can be
//! seen (`survey`) is held against what is known to do harm (`harm`). Never runs anything, never
//! judges a line by its text, and is only ever wrong in the safe direction about what it allows.
//!
//! Proven means: as far as the command line tells. Programs that a user's own configuration makes
//! such a command run (git's external diff and fsmonitor, ripgrep's configuration file, functions
//! exported into bash) are the user's doing and out of sight here. A repository that lies in a
//! folder below brings a configuration of its own, which is not the user's: git is not proven
//! after a `cd`.

use std::fmt;
use std::path::{Component, Path, PathBuf};

use crate::config::safety::PermissionRules;
use crate::tools::tool::Effect;

mod command_line;
mod grammar;
mod harm;
mod rules;
mod survey;
mod table;

use command_line::{CommandLine, SimpleCommand, Word};
use rules::Rules;
pub use rules::{Rule, RuleError};
use survey::{Runs, Survey};

/// What may be done with a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It runs: it is proven harmless, or the user's rules say so.
    Allow,
    /// Somebody, or the sandbox's reach, decides.
    Ask,
    /// It never runs.
    Deny,
}

/// What is known of a command that is not proven harmless; each is worse than the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// It is proven to only read.
    None,
    /// Nothing is known against it, and it stays within the sandbox's reach.
    Unproven,
    /// It reaches beyond the workspace: the network, other folders, other users, our own state.
    Escalates,
    /// It loses work.
    Destructive,
}

/// What the policy says of one command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Judgement {
    /// What may be done with it.
    pub verdict: Verdict,
    /// What is known of it.
    pub class: Class,
    /// True when all that it escalates to is the network.
    pub network: bool,
    /// True when the user's own rule asks or denies: no sandbox answers that.
    pub by_user: bool,
    /// What decided: the name of a built-in rule, or the user's rule with its list.
    pub rule: String,
    /// Why, in words for the model, and what would be allowed instead.
    pub reason: String,
    /// What it reads and writes.
    pub effect: Effect,
}

/// A row of the built-in list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Harm {
    deny: bool,
    class: Class,
    network: bool,
    rule: &'static str,
    reason: &'static str,
}

/// The built-in list with the user's rules.
#[derive(Debug, Clone, Default)]
pub struct Policy {
    rules: Rules,
}

/// Builtins that change the shell for what follows them. A rule allows one simple command, so it
/// does not allow these before another.
const CHANGE_THE_SHELL: &[&str] = &[
    ".",
    "alias",
    "bind",
    "builtin",
    "cd",
    "command",
    "complete",
    "declare",
    "enable",
    "eval",
    "exec",
    "export",
    "getopts",
    "hash",
    "let",
    "local",
    "mapfile",
    "popd",
    "printf",
    "pushd",
    "read",
    "readarray",
    "readonly",
    "set",
    "shopt",
    "source",
    "test",
    "trap",
    "typeset",
    "ulimit",
    "umask",
    "unalias",
    "unset",
];

const UNPROVEN: &str = "it is not proven to only read; for files use read_file, grep_file, \
                        list_files, edit_file and write_file, which need no permission";

impl Policy {
    /// Builds the policy with the user's rules; fails on the first that is no simple command.
    pub fn new(rules: &PermissionRules) -> Result<Self, RuleError> {
        Ok(Self { rules: Rules::parse(rules)? })
    }

    /// Judges `command`, run by bash in the folder `cwd`.
    pub fn judge(&self, command: &str, cwd: &Path) -> Judgement {
        let tree = grammar::parse(command);
        let line = tree.as_ref().and_then(|tree| CommandLine::read(command, tree));
        let effect = line.as_ref().map_or_else(Effect::opaque, |line| effect_of(line, cwd));
        let judged = |verdict, class, rule: String, reason: String| Judgement {
            verdict,
            class,
            network: false,
            by_user: false,
            rule,
            reason,
            effect: effect.clone(),
        };
        if command.contains(misleads) {
            let reason = "it holds characters that make it look like another command; write it \
                          without them";
            let rule = "misleading-characters".to_owned();
            let judged = judged(Verdict::Deny, Class::Unproven, rule, reason.to_owned());
            return Judgement { effect: Effect::opaque(), ..judged };
        }
        let proven = effect.is_read_only();
        let narrowing = !self.rules.ask.is_empty() || !self.rules.deny.is_empty();
        // Most lines are proven, and that they are needs no second look.
        let survey = (!proven || narrowing).then(|| Survey::of(command, tree.as_ref()));
        let harm = survey.as_ref().filter(|_| !proven).and_then(|s| harm::worst(s, cwd));
        if let Some(harm) = harm.filter(|harm| harm.deny) {
            return judged(Verdict::Deny, harm.class, harm.rule.into(), harm.reason.into());
        }
        let class = match harm {
            _ if proven => Class::None,
            Some(harm) => harm.class,
            None => Class::Unproven,
        };
        let named = |rules: &[Rule]| {
            let found = survey.iter().flat_map(|survey| &survey.commands);
            let mut named = found.filter_map(|found| rules.iter().find(|r| r.may_mean(found)));
            named.next().map(ToString::to_string)
        };
        if let Some(rule) = named(&self.rules.deny) {
            let reason = format!("the user's rule `{rule}` denies it; do without it");
            let rule = format!("permissions.deny: {rule}");
            return Judgement { by_user: true, ..judged(Verdict::Deny, class, rule, reason) };
        }
        if let Some(rule) = named(&self.rules.ask) {
            let reason = format!("the user wants to be asked before `{rule}`");
            let rule = format!("permissions.ask: {rule}");
            return Judgement { by_user: true, ..judged(Verdict::Ask, class, rule, reason) };
        }
        if proven {
            return judged(Verdict::Allow, class, "read-only".into(), "it only reads".into());
        }
        let allowing: Vec<&Rule> = self.rules.allow.iter().collect();
        if let Some(rule) = line.as_ref().and_then(|line| allowed(line, cwd, &allowing)) {
            let reason = format!("the user's rule `{rule}` allows it");
            return judged(Verdict::Allow, class, format!("permissions.allow: {rule}"), reason);
        }
        match harm {
            Some(harm) => Judgement {
                network: harm.network,
                ..judged(Verdict::Ask, class, harm.rule.into(), harm.reason.into())
            },
            None => judged(Verdict::Ask, class, "unproven".into(), UNPROVEN.into()),
        }
    }
}

/// Returns what `command`, run by bash in the folder `cwd`, does.
pub fn command_effect(command: &str, cwd: &Path) -> Effect {
    let tree = grammar::parse(command);
    let line = tree.and_then(|tree| CommandLine::read(command, &tree));
    line.map_or_else(Effect::opaque, |line| effect_of(&line, cwd))
}

fn effect_of(line: &CommandLine, cwd: &Path) -> Effect {
    let mut reads = vec![cwd.to_owned()];
    let mut moved = false;
    for command in &line.commands {
        if !proven(command, cwd, moved) {
            return Effect::opaque();
        }
        moved |= moves(command, cwd);
        let inputs = command.redirects.iter().filter(|redirect| redirect.operator.ends_with('<'));
        for word in command.words.iter().skip(1).chain(inputs.map(|redirect| &redirect.target)) {
            match read_by(word) {
                Some(path) if !reads.contains(&path) => reads.push(path),
                _ => {}
            }
        }
    }
    Effect { reads, ..Effect::default() }
}

/// Returns whether a command only reads, and no secrets; `moved`: it runs in a folder below.
fn proven(command: &SimpleCommand, cwd: &Path, moved: bool) -> bool {
    let words: Vec<&str> = command.words.iter().map(|word| word.text.as_str()).collect();
    let secret = harm::names_secret(&words)
        || command.redirects.iter().any(|redirect| harm::is_secret(&redirect.target.text));
    let elsewhere = moved && is_git(command);
    table::only_reads(command, cwd) && !secret && !elsewhere && !searches_outside(command, cwd)
}

/// Returns whether a command reads files outside the workspace that it does not name: those that
/// match a pattern, or all that lie below a folder. There may be secrets among them.
fn searches_outside(command: &SimpleCommand, cwd: &Path) -> bool {
    let Some((name, args)) = command.words.split_first() else { return false };
    // `-r`, `-R`, `-d recurse` and their long names, which may be cut short.
    let recursive = || {
        args.iter().any(|arg| match arg.text.strip_prefix("--") {
            Some(long) => long.starts_with(['r', 'd']),
            None => arg.text.starts_with('-') && arg.text.contains(['r', 'R', 'd']),
        })
    };
    let whole = match name.text.as_str() {
        "rg" => true,
        "grep" | "egrep" | "fgrep" | "diff" => recursive(),
        _ => false,
    };
    let names_only = matches!(
        name.text.as_str(),
        "[" | "basename"
            | "dirname"
            | "du"
            | "echo"
            | "find"
            | "ls"
            | "readlink"
            | "realpath"
            | "stat"
            | "test"
    );
    let words: Vec<&str> = command.words.iter().map(|word| word.text.as_str()).collect();
    let pattern = harm::pattern_at(&words);
    args.iter().enumerate().any(|(at, word)| {
        let path = Path::new(&word.text);
        let leaves = word.tilde
            || path.components().any(|part| part == Component::ParentDir)
            || path.is_absolute() && !path.starts_with(cwd);
        leaves && (word.glob && !names_only || whole) && Some(at) != pattern
    })
}

fn is_git(command: &SimpleCommand) -> bool {
    command.words.first().is_some_and(|name| name.text == "git")
}

/// Returns whether a command leaves the folder for another.
fn moves(command: &SimpleCommand, cwd: &Path) -> bool {
    match &*command.words {
        [name, folder] if name.text == "cd" => cwd.join(&folder.text) != cwd,
        [name, ..] => name.text == "cd",
        [] => false,
    }
}

/// Returns the rule that allows a line: each of its commands is proven, or one of the rules allows
/// it and all that it runs.
fn allowed<'a>(line: &CommandLine, cwd: &Path, rules: &[&'a Rule]) -> Option<&'a Rule> {
    let mut by = None;
    let mut moved = false;
    for command in &line.commands {
        if !proven(command, cwd, moved) {
            let alone = line.commands.len() == 1;
            let changes = CHANGE_THE_SHELL.contains(&command.words.first()?.text.as_str());
            if changes && !alone || moved && is_git(command) {
                return None;
            }
            by = by.or(Some(rules_for(command, cwd, rules)?));
        }
        moved |= moves(command, cwd);
    }
    by
}

/// Returns the rule that allows a command and what it runs.
fn rules_for<'a>(command: &SimpleCommand, cwd: &Path, rules: &[&'a Rule]) -> Option<&'a Rule> {
    if !command.redirects.iter().all(table::harmless) {
        return None;
    }
    let words: Vec<String> = command.words.iter().map(|word| word.text.clone()).collect();
    let runs = survey::runs(&survey::Found::of(&words));
    rules.iter().copied().filter(|rule| rule.allows(command)).find(|rule| match &runs {
        Runs::Nothing => true,
        _ if rule.len() == words.len() => true,
        // What follows is another command, which has to be allowed, too, unless the rule names it.
        Runs::Commands(inner) => match &**inner {
            [inner] if words.ends_with(&inner.known()) && inner.words.len() < words.len() => {
                let at = words.len() - inner.words.len();
                let inner =
                    SimpleCommand { words: command.words[at..].to_vec(), redirects: vec![] };
                rule.len() > at
                    || !inner.words.is_empty()
                        && (proven(&inner, cwd, false) || rules_for(&inner, cwd, rules).is_some())
            }
            _ => false,
        },
        Runs::Lines(_) | Runs::Input => false,
    })
}

/// Returns whether a character makes a line look like another one: it turns the direction of the
/// text round, or carries text that is not shown.
fn misleads(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{e0000}'..='\u{e007f}')
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        })
    }
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "none",
            Self::Unproven => "unproven",
            Self::Escalates => "escalates",
            Self::Destructive => "destructive",
        })
    }
}

/// Returns what a word makes a command read beyond the folder that it runs in. A word that may
/// climb out in a way not followed here stands for everything.
fn read_by(word: &Word) -> Option<PathBuf> {
    let everything = || Some(PathBuf::from("/"));
    let text = word.text.as_str();
    if word.tilde || text.contains("..") {
        return everything();
    }
    if text.starts_with('/') {
        // A pattern is as wide as the folder it starts in.
        return match text.find(['*', '?', '[']) {
            Some(at) if word.glob => {
                let folder = text[..at].rfind('/').unwrap_or(0);
                Some(PathBuf::from(&text[..=folder]))
            }
            _ => Some(PathBuf::from(text)),
        };
    }
    // An option with a path in it: `-f/etc/x`, `--file=/etc/x`.
    if text.contains("=/") || (text.starts_with('-') && text.contains('/')) {
        return everything();
    }
    None
}

#[cfg(test)]
mod tests;
