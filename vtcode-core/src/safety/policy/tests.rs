//! The policy against commands that agents are known to get wrong, and against any text.

use std::fmt::Write as _;
use std::path::Path;

use proptest::prelude::*;
use serde::Deserialize;

use super::*;

mod effects;

const CWD: &str = "/work/repo";

#[derive(Deserialize)]
struct Cases {
    group: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    name: String,
    expect: String,
    #[serde(default)]
    allow: Vec<String>,
    #[serde(default)]
    ask: Vec<String>,
    #[serde(default)]
    deny: Vec<String>,
    commands: Vec<String>,
}

fn policy(allow: &[&str]) -> Policy {
    let allow = allow.iter().map(|rule| (*rule).to_owned()).collect();
    Policy::new(&PermissionRules { allow, ..PermissionRules::default() }).unwrap()
}

fn judge(command: &str) -> Judgement {
    Policy::default().judge(command, Path::new(CWD))
}

#[test]
fn every_known_command_gets_its_verdict() {
    let cases: Cases = toml::from_str(include_str!("cases.toml")).unwrap();
    let mut wrong = String::new();
    let mut seen = 0;
    for Group { name, expect, allow, ask, deny, commands } in cases.group {
        let policy = Policy::new(&PermissionRules { allow, ask, deny }).unwrap();
        for command in commands {
            seen += 1;
            let judged = policy.judge(&command, Path::new(CWD));
            let got = format!("{} {}", judged.verdict, judged.class);
            if !got.starts_with(&expect) {
                let _ = writeln!(wrong, "{name}: `{command}` is {got} ({})", judged.rule);
            }
            assert!(!judged.reason.is_empty(), "{command}");
            let proven = judged.effect.is_read_only();
            assert!(!proven || judged.class == Class::None, "{command}");
        }
    }
    assert!(seen > 74 + 120, "{seen}");
    assert!(wrong.is_empty(), "\n{wrong}");
}

/// A list of the same kind that lies beside the workspace, when there is one.
#[test]
fn so_does_every_command_of_the_list_beside_the_workspace() {
    #[derive(Deserialize)]
    struct Cases {
        cases: Vec<Case>,
    }
    #[derive(Deserialize)]
    struct Case {
        id: String,
        kind: String,
        command: String,
        expect: String,
        allow_rules: Vec<String>,
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/cases/commands.json");
    let Ok(text) = std::fs::read_to_string(&path) else {
        eprintln!("skipped: there is no `{}`", path.display());
        return;
    };
    let cases: Cases = serde_json::from_str(&text).unwrap();
    let mut wrong = String::new();
    for case in cases.cases.iter().filter(|case| case.kind == "command") {
        let allow: Vec<_> = case.allow_rules.iter().map(String::as_str).collect();
        let judged = policy(&allow).judge(&case.command, Path::new(CWD));
        let right = match &*case.expect {
            "allow" => judged.verdict == Verdict::Allow,
            "ask" => judged.verdict != Verdict::Allow,
            _ => judged.verdict == Verdict::Deny,
        };
        if !right {
            let (verdict, rule) = (judged.verdict, judged.rule);
            let _ = writeln!(wrong, "{} `{}` is {verdict} ({rule})", case.id, case.command);
        }
    }
    assert!(wrong.is_empty(), "\n{wrong}");
}

fn known_commands() -> Vec<String> {
    let cases: Cases = toml::from_str(include_str!("cases.toml")).unwrap();
    cases.group.into_iter().flat_map(|group| group.commands).collect()
}

#[test]
fn what_is_not_allowed_stays_so_beside_what_is() {
    let commands = known_commands();
    let (allowed, others): (Vec<_>, Vec<_>) =
        commands.iter().partition(|command| judge(command).verdict == Verdict::Allow);
    assert!(allowed.len() > 20 && others.len() > 200);
    for (at, other) in others.iter().enumerate() {
        let allowed = allowed[at % allowed.len()];
        for join in ["; ", " && ", " || ", " | ", "\n", " & "] {
            for line in [format!("{allowed}{join}{other}"), format!("{other}{join}{allowed}")] {
                let judged = judge(&line);
                assert_ne!(judged.verdict, Verdict::Allow, "{line}");
            }
        }
    }
}

#[test]
fn what_is_refused_is_told_why_and_what_to_do_instead() {
    for (command, words) in [
        ("rm -rf /", "inside the workspace"),
        ("find . -delete", "without -delete"),
        ("git reset --hard", "commit or stash"),
        ("git -c core.pager=sh log", "run git without it"),
        ("curl x", "network"),
        ("pkill x", "command_stop"),
        ("> x", "write_file"),
        ("echo x | sh", "write the commands out"),
        ("make", "edit_file"),
    ] {
        let reason = judge(command).reason;
        assert!(reason.contains(words), "{command}: {reason}");
    }
}

#[test]
fn a_rule_that_is_no_simple_command_is_an_error_that_names_it() {
    for rule in
        ["", "  ", "# x", "a; b", "a && b", "a | b", "a > b", "a $(b)", "$x", "a 'b", "a *", "~/a"]
    {
        let rules = PermissionRules { ask: vec![rule.to_owned()], ..PermissionRules::default() };
        let error = Policy::new(&rules).unwrap_err().to_string();
        assert!(
            error.contains("permissions.ask") && error.contains(&format!("`{rule}`")),
            "{error}"
        );
    }
    for rule in ["git", "git diff", "./run x", "/usr/bin/make", "git commit -m 'a b'", "c++"] {
        policy(&[rule]);
    }
}

#[test]
fn a_line_made_to_be_slow_is_given_up_the_same_way_on_every_machine() {
    for part in
        ["ls && ", "(", "$(", "\"$(", "{ ", "<(", "a=(", "if ", "case ", "f() { ", "[ ", "<<E "]
    {
        for bytes in [1_000, 4_000, 15_000, 100_000] {
            let line = part.repeat(bytes / part.len());
            assert_ne!(judge(&line).verdict, Verdict::Allow, "{part}");
            assert_ne!(judge(&(line + "rm -rf /")).verdict, Verdict::Allow, "{part}");
        }
    }
    let padded = format!("rm -rf / {}", "x".repeat(70_000));
    assert_eq!(judge(&padded).class, Class::Destructive);
}

/// Pieces of shell that mean something.
fn shell() -> impl Strategy<Value = String> {
    let piece = proptest::sample::select(vec![
        "ls", " ", "\n", "'", "\"", "$", "(", ")", "`", "\\", "|", "&", ";", "<", ">", "{", "}",
        "[", "]", "*", "#", "=", "2", "\u{fc}", "\0", "<<E", "E\n", "if ", "fi", "git ", "sed ",
        "-n", "rm ", "-rf ", "/", "bash ", "-c ", "eval ", "xargs ", "env ", "find ", "-exec ",
        "{}", "$'\\x", "\\u", ",", "..",
    ]);
    proptest::collection::vec(piece, 0..48).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_text_at_all_makes_a_judgement_panic(text in any::<String>()) {
        let _ = judge(&text);
    }

    #[test]
    fn no_mixture_of_shell_makes_a_judgement_panic(line in shell()) {
        let judged = judge(&line);
        prop_assert_eq!(judged.verdict == Verdict::Allow, judged.effect.is_read_only());
    }

    #[test]
    fn blanks_and_comments_change_no_verdict(
        command in proptest::sample::select(known_commands()),
        before in "[ \t\n]{0,4}",
        after in "[ \t]{0,4}",
        comment in "( # [a-z ;|$()`']{0,12})?",
    ) {
        let plain = judge(&command);
        // Inside of a here-document the end of the line is a line of its own, and a `&` at the
        // end of one begins nothing.
        prop_assume!(!command.contains("<<") && !command.ends_with('\\'));
        // The grammar takes a backtick of a comment for the end of one before: such a line is not
        // understood, and a refusal becomes a question.
        prop_assume!(!(command.contains('`') && comment.contains('`')));
        let spaced = judge(&format!("{before}{command}{after}{comment}"));
        prop_assert_eq!(spaced.verdict, plain.verdict);
        prop_assert_eq!(spaced.class, plain.class);
    }

    #[test]
    fn nothing_joined_to_a_reader_is_allowed_unless_it_is_a_reader(
        reader in proptest::sample::select(vec!["ls", "cat x", "git status", "grep a b"]),
        join in proptest::sample::select(vec![";", " && ", " | ", "\n", " || ", " & "]),
        line in shell(),
    ) {
        prop_assume!(judge(&line).verdict != Verdict::Allow);
        let joined = judge(&format!("{reader}{join}{line}"));
        // Two readers with the join's own sign missing between them are none.
        prop_assert_ne!(joined.verdict, Verdict::Allow, "{}", line);
    }
}
