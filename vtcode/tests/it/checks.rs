//! Checks after edits as a user has them: asked for by option or file, never by the folder's own file.

use std::time::Duration;

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::user::User;

#[tokio::test]
async fn a_folder_cannot_have_a_command_run() {
    for line in ["command = \"touch pwned\"", "detect = true", "run_cpu_s = 5", "cpu_s = 5"] {
        let user = User::with([("vtcode.toml", format!("[check]\n{line}\n"))]);
        let model = ScriptedModel::start(vec![say("Done.")]).await;
        let ran = user.exec(&model, "go").run().await.exits(2);
        assert!(ran.stderr.contains("can only be set by you"), "{line}: {ran}");
        assert!(model.requests().is_empty());
        assert!(!user.folder.path().join("pwned").exists());
    }
}

#[tokio::test]
async fn a_check_that_was_asked_for_is_run_or_the_user_is_told_why_not() {
    let user = User::with([("a.txt", "alpha\n")]);
    let edit = json!({"path": "a.txt", "old_text": "alpha", "new_text": "beta"});
    let replies = vec![
        call("edit_file", edit),
        // The model thinks meanwhile.
        call("read_file", json!({"path": "a.txt"})).delay(Duration::from_secs(2)),
        say("Done."),
    ];
    let model = ScriptedModel::start(replies).await;
    let check = "grep -n beta a.txt && exit 7";
    let ran = user.exec(&model, "go").arg("--check").arg(check).run().await.exits(0);
    if ran.stderr.contains("cannot be confined") {
        return;
    }
    assert!(ran.stderr.contains("check `grep -n beta a.txt && exit 7` fails ("), "{ran}");
    let last = model.requests().last().unwrap().json().to_string();
    assert!(last.contains("check fails: `grep -n beta a.txt && exit 7`, exit code 7"), "{last}");
    assert!(last.contains("1:beta"), "{last}");

    let model = ScriptedModel::start(vec![say("Done.")]).await;
    let check = "curl http://example.com";
    let ran = user.exec(&model, "go").arg("--check").arg(check).run().await.exits(0);
    assert!(ran.stderr.contains("is not run as a check"), "{ran}");
}

#[tokio::test]
async fn a_check_that_a_preset_turns_off_is_not_passed_over_in_silence() {
    let user = User::with([("a.txt", "alpha\n")]);
    let edit = json!({"path": "a.txt", "old_text": "alpha", "new_text": "beta"});
    for (preset, told) in [("debug", true), ("production", false)] {
        user.folder.write("a.txt", "alpha\n");
        let model = ScriptedModel::start(vec![call("edit_file", edit.clone()), say("Done.")]).await;
        let exec = user.exec(&model, "go").args(["--preset", preset, "--check", "touch checked"]);
        let ran = exec.run().await.exits(0);
        assert_eq!(ran.stderr.contains("the check `touch checked` is not run"), told, "{ran}");
    }
}
