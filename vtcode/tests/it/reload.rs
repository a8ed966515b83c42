//! The user's own file changes while a session runs: what may change holds from the next turn on,
//! the rest is told once. The model's first command waits until the file has been changed.

use serde_json::json;
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::{Program, Ran, User, results};

/// A command that waits for the test, some reads, each of another file, and a last word.
fn script(reads: usize) -> Vec<Reply> {
    let wait = "while [ ! -e changed ]; do sleep 0.02; done; echo waited";
    let read = |n| call("read_file", json!({"path": format!("{n}.txt")}));
    let first = call("run_command", json!({"command": wait}));
    std::iter::once(first).chain((0..reads).map(read)).chain([say("Done.")]).collect()
}

fn user(before: &str) -> User {
    let user = User::with((0..9).map(|n| (format!("{n}.txt"), "text\n")));
    user.configure(before);
    user
}

/// Runs a program, and changes files while its first command waits.
async fn run(user: &User, exec: Program, change: impl FnOnce(&User)) -> Ran {
    let mut running = exec.start();
    running.stderr_says("● run_command").await;
    change(user);
    std::fs::write(user.folder.path().join("changed"), "").unwrap();
    running.end().await
}

#[tokio::test]
async fn a_limit_is_lowered_and_raised_in_the_middle_of_a_prompt() {
    for (before, after, code) in [(100, 3, 4), (3, 100, 0)] {
        let user = user(&format!("limits.max_turns = {before}\n"));
        let model = ScriptedModel::start(script(4)).await;
        let ran = run(&user, user.exec(&model, "go"), |user| {
            user.configure(&format!("limits.max_turns = {after}\n"));
        });
        let ran = ran.await.exits(code);
        let told = format!("settings: `limits.max_turns` is {after} now, not {before}");
        assert_eq!(ran.stderr.matches(&told).count(), 1, "{ran}");
        assert_eq!(model.requests().len(), if code == 0 { 6 } else { 3 }, "{ran}");
    }
}

#[tokio::test]
async fn a_command_that_the_user_denies_meanwhile_is_not_run() {
    let user = user("");
    let count = call("run_command", json!({"command": "seq 1 4"}));
    let mut replies = script(1);
    replies.insert(2, count);
    let model = ScriptedModel::start(replies).await;
    let ran = run(&user, user.exec(&model, "go"), |user| {
        user.configure("permissions.deny = [\"seq\"]\n");
    });
    ran.await.exits(0).prints("Done.\n").says("settings: `permissions.deny` is seq now");
    let results = results(model.requests().last().unwrap());
    assert!(results[2].contains("is never run"), "{results:?}");
}

#[tokio::test]
async fn the_memory_pool_is_turned_on_in_the_middle_of_a_run() {
    let user = user("optimization.memory_pool.enabled = false\n");
    let model = ScriptedModel::start(script(8)).await;
    let ran = run(&user, user.exec(&model, "go").arg("--profile"), |user| user.configure(""));
    let ran = ran.await.exits(0).says("settings: `optimization.memory_pool.enabled` is true now");
    assert!(!ran.stderr.contains("pooled buffers: 0 used again"), "{ran}");
}

#[tokio::test]
async fn what_cannot_change_meanwhile_is_told_once() {
    let user = user("");
    let model = ScriptedModel::start(script(4)).await;
    let ran = run(&user, user.exec(&model, "go"), |user| {
        user.configure("provider = \"anthropic\"\nclient.attempts = 9\nsandbox.network = true\n");
    });
    let ran = ran.await.exits(0).prints("Done.\n");
    // The command line chose the provider's address and the model, and none of these.
    for told in ["client.attempts` is 9", "sandbox.network` is true", "provider` is anthropic"] {
        let told = format!("settings: `{told} from the next run on");
        assert_eq!(ran.stderr.matches(&told).count(), 1, "{told}: {ran}");
    }
    assert_eq!(model.requests().len(), 6);
}

#[tokio::test]
async fn a_file_that_cannot_be_used_is_told_once_and_what_held_before_still_does() {
    let user = user("limits.max_turns = 4\n");
    let model = ScriptedModel::start(script(8)).await;
    let ran = run(&user, user.exec(&model, "go"), |user| {
        user.configure("limits.max_turns = \"many\"\n");
    });
    let ran = ran.await.exits(4);
    assert_eq!(ran.stderr.matches("! the settings stay as they were: ").count(), 1, "{ran}");
    ran.says("`limits.max_turns` is \"many\", but must be a whole number");
    assert_eq!(model.requests().len(), 4);
}

#[tokio::test]
async fn a_file_of_the_folder_changes_nothing_in_the_middle_of_a_session() {
    let user = user("limits.max_turns = 4\n");
    let model = ScriptedModel::start(script(8)).await;
    let ran = run(&user, user.exec(&model, "go"), |user| {
        std::fs::write(user.folder.path().join("vtcode.toml"), "limits.max_turns = 90\n").unwrap();
    });
    let ran = ran.await.exits(4);
    assert!(!ran.stderr.contains("settings:"), "{ran}");
    assert_eq!(model.requests().len(), 4);
}

#[tokio::test]
async fn without_a_sandbox_the_model_cannot_raise_its_own_limits() {
    let user = user("limits.max_turns = 3\n");
    let config = user.config().join("vtcode.toml");
    let raise = format!("echo 'limits.max_turns = 90' > {}", config.display());
    let raise = call("run_command", json!({"command": raise}));
    let mut replies = script(8);
    replies.insert(0, raise);
    let model = ScriptedModel::start(replies).await;
    let exec = user.exec(&model, "go").arg("--yolo");
    let ran = run(&user, exec, |_| {}).await.exits(4);
    assert_eq!(std::fs::read_to_string(&config).unwrap(), "limits.max_turns = 90\n");
    assert!(!ran.stderr.contains("settings:"), "{ran}");
    assert_eq!(model.requests().len(), 3);
}
