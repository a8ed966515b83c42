//! `doctor`: what it says of a place is what `exec` finds there, and it keeps secrets.

use serde_json::Value;
use vtcode_testkit::{ScriptedModel, say};

use crate::user::{Ran, User};

const KEY: &str = "sk-test-0123456789";

/// Returns what was found of a part.
fn finding(ran: &Ran, part: &str) -> Value {
    let lines = ran.lines();
    let found = lines.into_iter().find(|line| line["part"] == part);
    found.unwrap_or_else(|| panic!("nothing of {part}:\n{ran}"))
}

#[tokio::test]
async fn where_all_is_well_it_says_so_and_never_the_key() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    let doctor = || user.vtcode(["doctor"]).env("OPENAI_API_KEY", KEY);
    let here = || doctor().env("OPENAI_BASE_URL", model.openai_url());
    let ran = here().run().await.exits(0);
    for words in [&model.openai_url(), "set in $OPENAI_API_KEY", "the server answers", "256.0 MiB"]
    {
        assert!(ran.stdout.contains(words), "no `{words}`: {ran}");
    }
    assert!(!format!("{ran}").contains("0123"), "{ran}");
    let ran = here().arg("--json").run().await.exits(0);
    assert_eq!(finding(&ran, "reach")["status"], "ok");
    assert_eq!(finding(&ran, "provider")["status"], "ok");
    assert!(!format!("{ran}").contains("0123"), "{ran}");
    assert!(!user.state().exists(), "it makes nothing");
}

#[tokio::test]
async fn it_ends_as_a_task_would() {
    /// What is wrong, for which configuration and which variables.
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let cases: [Case<'_>; 4] = [
        ("reach", "", &[("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")]),
        ("provider", "", &[("VTCODE_PROVIDER", "anthropic")]),
        ("provider", "", &[("VTCODE_PROVIDER", "nobody")]),
        ("configuration", "nonsense = 1\n", &[]),
    ];
    for (part, config, variables) in cases {
        let user = User::new();
        user.configure(config);
        let with = |args: &[&str]| {
            let program = user.vtcode(args).env("VTCODE_CLIENT_ATTEMPTS", "1");
            variables.iter().fold(program, |program, (name, value)| program.env(name, value))
        };
        let task = with(&["exec", "go"]).run().await;
        let doctor = with(&["doctor", "--json"]).run().await;
        assert_eq!(task.code(), doctor.code(), "{variables:?}\n{task}\n{doctor}");
        assert_ne!(doctor.code(), Some(0), "{doctor}");
        let found = finding(&doctor, part);
        assert_eq!(found["status"], "problem", "{doctor}");
        assert!(found["mend"].is_string(), "{doctor}");
    }
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_a_problem_and_offline_asks_nobody() {
    let user = User::new();
    let nobody = "http://127.0.0.1:9/v1";
    let doctor = || user.vtcode(["doctor", "--json"]).env("OPENAI_BASE_URL", nobody);
    doctor().run().await.exits(3);
    let ran = doctor().arg("--offline").run().await.exits(0);
    assert!(ran.lines().iter().all(|line| line["part"] != "reach"), "{ran}");
    std::fs::write(user.home.path().join("state"), "a file").unwrap();
    let ran = doctor().arg("--offline").run().await.exits(1);
    assert_eq!(finding(&ran, "state")["status"], "problem");
}

#[tokio::test]
async fn it_tells_of_each_part_of_the_sandbox_whether_it_is_in_force() {
    let user = User::new();
    let doctor = |json: &'static str, mode: &'static str| {
        let doctor = user.vtcode(["doctor", "--offline", json]);
        doctor.env("OPENAI_BASE_URL", "http://127.0.0.1:9/v1").env("VTCODE_SANDBOX", mode)
    };
    let ran = doctor("--json", "workspace-write").run().await;
    if finding(&ran, "sandbox")["status"] == "problem" {
        eprintln!("no sandbox on this machine");
        ran.exits(2);
    } else {
        let ran = ran.exits(0);
        assert_eq!(finding(&ran, "landlock")["status"], "ok", "{ran}");
        for part in ["mount namespace", "process namespace", "network namespace", "scopes"] {
            let found = finding(&ran, part);
            // What is not in force says how to mend it.
            assert_eq!(found["status"] == "note", found["mend"].is_string(), "{ran}");
        }
        for part in ["system call filter", "supervisor"] {
            assert_eq!(finding(&ran, part)["status"], "ok", "{ran}");
        }
    }
    let ran = doctor("--json", "off").run().await.exits(0);
    let off: Vec<_> = ran.lines().into_iter().filter(|line| line["part"] == "sandbox").collect();
    assert_eq!(off.len(), 2, "{ran}");
    assert!(off[1]["what"].as_str().unwrap().contains("all that you may"), "{ran}");
    assert!(off[1]["mend"].is_string(), "{ran}");
    assert!(!user.state().exists(), "it makes nothing");
    let left = std::fs::read_dir(user.home.path().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "it leaves nothing");
}
