//! The commands that need no model.

use std::process::Command;

use vtcode_testkit::{ScriptedModel, say};

use crate::user::User;

const PATCH: &str = "\
*** Begin Patch
*** Update File: a.txt
@@
 one
-two
+three
*** Add File: new.txt
+new
*** End Patch
";

#[tokio::test]
async fn a_patch_is_applied_from_the_argument_or_stdin() {
    for argument in [true, false] {
        let user = User::with([("a.txt", "one\ntwo\n")]);
        let patch = user.vtcode(["apply-patch"]);
        let patch = if argument { patch.arg(PATCH) } else { patch.stdin(PATCH) };
        let ran = patch.run().await.exits(0);
        assert!(ran.stdout.contains("a.txt") && ran.stdout.contains("new.txt"), "{ran}");
        assert_eq!(user.folder.read("a.txt"), "one\nthree\n");
        assert_eq!(user.folder.read("new.txt"), "new\n");
    }
}

#[tokio::test]
async fn a_patch_that_does_not_fit_changes_nothing() {
    let user = User::with([("a.txt", "something else\n")]);
    let before = user.folder.snapshot();
    let escapes = "*** Begin Patch\n*** Add File: ../escaped.txt\n+x\n*** End Patch\n";
    for (patch, words) in [
        (PATCH, "a.txt"),
        ("not a patch", "line 1 of the patch"),
        ("", "patch"),
        (escapes, "escaped.txt"),
    ] {
        user.vtcode(["apply-patch"]).stdin(patch).run().await.exits(1).prints("").says(words);
        assert_eq!(user.folder.snapshot(), before, "{patch}");
    }
    assert!(!user.folder.path().join("../escaped.txt").exists());
}

#[tokio::test]
async fn the_configuration_is_shown_with_its_origins() {
    let user = User::with([("vtcode.toml", "[limits]\nmax_turns = 7\n")]);
    user.configure("model = \"mine\"\n");
    let show = user.vtcode(["config", "show"]).env("VTCODE_MAX_TOKENS", "900");
    let ran = show.run().await.exits(0);
    let line = |key: &str| {
        let line = ran.stdout.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in {ran}"))
    };
    assert!(line("model = mine").contains("config/vtcode/vtcode.toml"), "{ran}");
    assert!(line("limits.max_turns = 7").contains("vtcode.toml"), "{ran}");
    assert!(line("limits.max_tokens = 900").contains("$VTCODE_MAX_TOKENS"), "{ran}");
    assert!(line("client.attempts = 5").contains("default"), "{ran}");
    user.vtcode(["config", "check"]).run().await.exits(0).prints("the configuration can be used\n");
}

#[tokio::test]
async fn what_the_model_gets_is_what_is_shown() {
    let user = User::with([("AGENTS.md", "Use tabs.\n"), ("src/main.rs", "fn main() {}\n")]);
    let shown = user.vtcode(["prompt", "show"]).run().await.exits(0).stdout;
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").run().await.exits(0);
    let request = &model.requests()[0];
    assert!(shown.contains(&crate::user::system(request)), "{shown}");
    assert!(shown.contains("Use tabs."));
    let mut names = Vec::new();
    // The same tools in the same order, and nothing beside them.
    let mut rest = shown.as_str();
    let body = request.json();
    for tool in body["tools"].as_array().unwrap() {
        let tool = &tool["function"];
        let [name, description] = ["name", "description"].map(|key| tool[key].as_str().unwrap());
        let section = format!("## {name}\n{description}\n{}\n", tool["parameters"]);
        let at = rest.find(&section).unwrap_or_else(|| panic!("no {section} in {rest}"));
        rest = &rest[at + section.len()..];
        names.push(name);
    }
    assert_eq!(rest.trim(), "");
    assert_eq!(shown.matches("\n## ").count(), names.len());
    assert!(shown.contains(&format!("\nTools: {}.\n", names.join(", "))), "{names:?}");
}

#[tokio::test]
async fn help_is_there_for_all_that_there_is() {
    let user = User::new();
    let help = user.vtcode(["--help"]).run().await.exits(0);
    let alone = user.vtcode([""; 0]).run().await.exits(0);
    assert_eq!(alone.stdout, help.stdout);
    for words in ["vtcode demo", "exec", "resume", "sessions", "Exit codes", "130"] {
        assert!(help.stdout.contains(words), "no {words} in {help}");
    }
    let run = "--json --model --provider --base-url --sandbox --max-turns --max-tokens --max-wall \
               --output-last-message --profile";
    for (command, options) in [
        ("exec", format!("--cd --add-dir {run}")),
        ("resume", format!("--last {run}")),
        ("sessions", "--json delete".to_owned()),
        ("demo", "--sample --keep".to_owned()),
        ("config", "show check init".to_owned()),
        ("prompt", "show".to_owned()),
        ("apply-patch", "[PATCH]".to_owned()),
    ] {
        assert!(help.stdout.contains(command), "{help}");
        let help = user.vtcode([command, "--help"]).run().await.exits(0);
        for option in options.split_whitespace() {
            assert!(help.stdout.contains(option), "no {option} in {help}");
        }
    }
    let version = user.vtcode(["--version"]).run().await.exits(0);
    assert_eq!(version.stdout, format!("vtcode {}\n", env!("CARGO_PKG_VERSION")));
    assert!(!user.state().exists());
}

#[tokio::test]
async fn nothing_of_ours_is_in_the_way_of_git() {
    let user = User::with([("a.txt", "one\n")]);
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").run().await.exits(0);
    user.vtcode(["apply-patch", "nonsense"]).run().await.exits(1);
    user.vtcode(["prompt", "show"]).run().await.exits(0);
    assert_eq!(user.folder.snapshot().len(), 1, "a run leaves nothing in the folder");
    let left = Command::new("ls").arg("-A").arg(user.home.path().join("tmp")).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&left.stdout), "", "nor in the temporary folder");
}
