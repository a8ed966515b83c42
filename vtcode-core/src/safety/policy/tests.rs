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
