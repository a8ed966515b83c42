//! Keys of which the parts are tried one by one elsewhere: that the program takes them there. Each
//! is held against the same task without it.

use serde_json::json;
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::{Ran, User};

fn shell(command: &str) -> Vec<Reply> {
    vec![call("run_command", json!({"command": command})), say("Done.")]
}

/// Runs a task with this in the user's file; returns what happened, and the bodies of its requests.
async fn work(user: &User, settings: &str, replies: Vec<Reply>) -> (Ran, String) {
    user.configure(settings);
    let model = ScriptedModel::start(replies).await;
    let ran = user.exec(&model, "go").run().await;
    let bodies: Vec<_> =
        model.requests().iter().map(|request| request.json().to_string()).collect();
    (ran, bodies.join("\n"))
}

#[tokio::test]
async fn what_a_request_says_and_how_long_it_may_take() {
    let user = User::new();
    let (ran, bodies) = work(&user, "client.temperature = 0.25", vec![say("Done.")]).await;
    ran.exits(0);
    assert!(bodies.contains("\"temperature\":0.25"), "{bodies}");
    let (_, bodies) = work(&user, "", vec![say("Done.")]).await;
    assert!(!bodies.contains("temperature") && !bodies.contains("effort"), "{bodies}");

    user.configure("effort = \"high\"");
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    let url = model.openai_url();
    let exec = user.vtcode(["exec", "--model", "qwen3", "--base-url", &url, "go"]);
    exec.run().await.exits(0);
    assert_eq!(model.requests()[0].json()["reasoning_effort"], "high");

    let late = || vec![say("Done.").delay(std::time::Duration::from_secs(20))];
    let (ran, _) = work(&user, "client.attempts = 1\nclient.total_timeout_s = 1", late()).await;
    assert_ne!(ran.code(), Some(0), "{ran}");
    assert_eq!(ran.stdout, "");
}

#[tokio::test]
async fn how_often_a_model_may_repeat_itself() {
    let asked = async |settings: &str| {
        let user = User::with([("a.txt", "alpha\n")]);
        user.configure(settings);
        let model =
            ScriptedModel::start_with(|_, _| call("read_file", json!({"path": "none"}))).await;
        let ran = user.exec(&model, "go").run().await;
        assert_ne!(ran.code(), Some(0), "{ran}");
        model.requests().len()
    };
    // One that is new, and those that are not.
    assert_eq!(asked("limits.max_repeats = 2").await, 3);
    assert_eq!(asked("limits.max_repeats = 4").await, 5);
}

#[tokio::test]
async fn which_instructions_of_folders_are_shown() {
    let told = async |settings: &str| {
        let user = User::with([("sub/AGENTS.md", "Mind the gap.\n"), ("sub/a.txt", "alpha\n")]);
        let replies = vec![call("read_file", json!({"path": "sub/a.txt"})), say("Done.")];
        let (ran, bodies) = work(&user, settings, replies).await;
        ran.exits(0);
        bodies.contains("Mind the gap.")
    };
    assert!(told("").await);
    assert!(!told("context.folder_instructions_kb = 0").await);
}

#[tokio::test]
async fn what_commands_may_write_reach_and_start() {
    let modules = std::fs::read_to_string("/sys/kernel/security/lsm");
    if modules.is_ok_and(|modules| !modules.contains("landlock")) {
        eprintln!("SKIPPED: there is no Landlock here");
        return;
    }
    let user = User::new();
    let made = user.folder.path().join("made");
    work(&user, "sandbox.mode = \"read-only\"", shell("touch made")).await.0.exits(0);
    assert!(!made.exists(), "a command wrote in a workspace that is only to be read");
    work(&user, "", shell("touch made")).await.0.exits(0);
    assert!(made.exists());

    let elsewhere = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let folder = elsewhere.path().to_str().unwrap();
    // A script, as the rules refuse a command that itself names a path out there.
    std::fs::write(user.folder.path().join("there.sh"), format!("touch {folder}/made\n")).unwrap();
    let touch = || shell("sh there.sh");
    work(&user, "", touch()).await.0.exits(0);
    assert!(!elsewhere.path().join("made").exists(), "a folder that nobody named was written");
    work(&user, &format!("sandbox.write = [{folder:?}]"), touch()).await.0.exits(0);
    assert!(elsewhere.path().join("made").exists());

    let large = user.folder.path().join("large");
    let bytes = || std::fs::metadata(&large).unwrap().len();
    let fill = || shell("head -c 3000000 /dev/zero > large");
    work(&user, "sandbox.max_file_mb = 1", fill()).await.0.exits(0);
    assert!(bytes() <= 1 << 20, "{} bytes", bytes());
    work(&user, "", fill()).await.0.exits(0);
    assert_eq!(bytes(), 3_000_000);

    // Where the kernel counts for the command alone it counts 300 at least. `sh` does not try again.
    let many = || shell("sh -c 'for n in $(seq 500); do sleep 30 & done; echo all of them'");
    let (_, bodies) = work(&user, "sandbox.max_processes = 16", many()).await;
    assert!(!bodies.contains("all of them\\n"), "{bodies}");
    let (_, bodies) = work(&user, "", many()).await;
    assert!(bodies.contains("all of them\\n"), "{bodies}");

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connect =
        || shell(&format!("bash -c '(echo > /dev/tcp/127.0.0.1/{port}) && echo got-there'"));
    let (_, bodies) = work(&user, "sandbox.network = true", connect()).await;
    assert!(bodies.contains("got-there\\n"), "{bodies}");
    let (_, bodies) = work(&user, "", connect()).await;
    assert!(!bodies.contains("got-there\\n"), "{bodies}");
}

#[tokio::test]
async fn when_somebody_is_asked_before_a_command_runs() {
    let user = User::new();
    let made = user.folder.path().join("made");
    // Nobody is there to be asked, so that what needs to be asked is refused.
    work(&user, "permissions.approval = \"untrusted\"", shell("touch made")).await.0.exits(0);
    assert!(!made.exists());
    work(&user, "permissions.ask = [\"touch\"]", shell("touch made")).await.0.exits(0);
    assert!(!made.exists());
    let allowed = "permissions.approval = \"untrusted\"\npermissions.allow = [\"touch\"]";
    work(&user, allowed, shell("touch made")).await.0.exits(0);
    assert!(made.exists());
}
