//! A state folder that is full, cannot be written or holds too much: a clear error, and nothing lost.

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::resume::goes_on;
use crate::user::{Program, User};

/// Returns a script run where the state folder is a file system of its own, with room for so many
/// kB; `vt` is the program. None where this machine does not let us have one, which is said.
fn on_its_own_disk(user: &User, kib: usize, script: &str) -> Option<Program> {
    let script = format!(
        "set -eu; vt={}; s=$XDG_STATE_HOME/vtcode; mkdir -p $s
         mount -t tmpfs -o size={kib}k,mode=0700 tmpfs $s
         {script}",
        env!("CARGO_BIN_EXE_vtcode")
    );
    // Who is not root is one in a namespace of users.
    let options: &[&str] =
        if rustix::process::getuid().is_root() { &["-m"] } else { &["-r", "-m"] };
    let can = std::process::Command::new("unshare")
        .args(options)
        .args(["mount", "-t", "tmpfs", "tmpfs", "/mnt"])
        .output();
    if !can.as_ref().is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: this machine gives no mounts of one's own: {can:?}");
        return None;
    }
    Some(user.program("unshare", options.iter().copied().chain(["sh", "-c", &script])))
}

#[tokio::test]
async fn a_full_disk_ends_the_run_and_the_session_goes_on_when_there_is_room() {
    let user = User::with([("a.txt", "0123456789abcdef\n".repeat(800))]);
    let model = ScriptedModel::start_with(|request, number| {
        if String::from_utf8_lossy(&request.body).contains("carry on now") {
            say("Done.")
        } else {
            // Never the same, or it would be told that it goes in circles.
            call("read_file", json!({"path": "a.txt", "start": 1 + number}))
        }
    })
    .await;
    let script = format!(
        "$vt exec --model scripted --base-url {} 'fill it' || echo exit $?
         $vt resume --last 'too early' || echo exit $?
         $vt sessions || echo exit $?
         mount -o remount,size=64m $s
         $vt resume --last 'carry on now' || echo exit $?
         mount -o remount,ro $s
         $vt exec --model scripted --base-url {0} 'carry on now' || echo exit $?
         $vt resume --last 'carry on now' || echo exit $?
         $vt sessions || echo exit $?",
        model.openai_url()
    );
    let Some(program) = on_its_own_disk(&user, 300, &script) else { return };
    let ran = program.run().await.exits(0);
    let listed = |line: &&str| line.contains("fill it");
    let lines: Vec<&str> = ran.stdout.lines().collect();
    let exits: Vec<_> = lines.iter().filter(|line| !listed(line)).copied().collect();
    assert_eq!(exits, ["exit 1", "exit 1", "Done.", "exit 1", "exit 1"], "{ran}");
    assert_eq!(lines.iter().filter(|line| listed(line)).count(), 2, "{ran}");
    let full = "No space left on device";
    assert!(ran.stderr.matches(full).count() >= 2, "{ran}");
    let ran = ran.says("cannot write the session's journal in `");
    assert!(ran.stderr.matches("Read-only file system").count() >= 2, "{ran}");
    // Nothing that was sent is lost: the request after it begins with the same bytes.
    let requests = model.requests();
    let body = |nth: usize| String::from_utf8(requests[nth].body.to_vec()).unwrap();
    let (last, before) = (body(requests.len() - 1), body(requests.len() - 2));
    assert!(last.contains("carry on now"), "{last}");
    assert!(last.starts_with(before.strip_suffix("]}").unwrap()));
}

#[tokio::test]
async fn a_bound_on_the_size_of_files_ends_the_run_and_the_session_goes_on_without_it() {
    let user = User::with([("a.txt", "0123456789abcdef\n".repeat(800))]);
    let model = ScriptedModel::start_with(|request, number| {
        if String::from_utf8_lossy(&request.body).contains("carry on now") {
            say("Done.")
        } else {
            call("read_file", json!({"path": "a.txt", "start": 1 + number}))
        }
    })
    .await;
    // Who ignores the signal gets an error, in the middle of a record.
    let script = "trap '' XFSZ; ulimit -f 200; exec \"$0\" \"$@\"";
    let url = model.openai_url();
    let exec = ["exec", "--model", "scripted", "--base-url", &url, "fill it"];
    let args = ["-c", script, env!("CARGO_BIN_EXE_vtcode")].into_iter().chain(exec);
    user.program("sh", args).run().await.exits(1).says("File too large");
    let before = model.requests();
    let ran = user.vtcode(["resume", "--last", "carry on now"]).run().await.exits(0);
    ran.prints("Done.\n");
    goes_on(before.last().unwrap(), model.requests().last().unwrap());
    assert_eq!(model.requests().len(), before.len() + 1, "no call ran again");
}

#[tokio::test]
async fn the_oldest_outputs_go_when_the_sessions_take_too_much_and_that_is_said() {
    let user = User::new();
    let model = ScriptedModel::start_with(|request, _| {
        let first = request.json()["messages"].as_array().unwrap().len() == 2;
        if first { call("run_command", json!({"command": "seq 1 300000"})) } else { say("Done.") }
    })
    .await;
    let run =
        |prompt: &'static str| user.exec(&model, prompt).env("VTCODE_STATE_MAX_MB", "1").run();
    run("one").await.exits(0);
    let one = user.session_ids().remove(0);
    let spooled = |id: &str| {
        let spool = user.state().join("sessions").join(id).join("spool");
        std::fs::read_dir(spool).unwrap().count()
    };
    assert_eq!(spooled(&one), 1, "a session's own outputs stay while it runs");
    let ran = run("two").await.exits(0);
    ran.says(&format!("the long outputs of session {one} (2 MiB) went"));
    assert_eq!(spooled(&one), 0);
    let two = user.session_ids().into_iter().find(|id| *id != one).unwrap();
    assert_eq!(spooled(&two), 1);
    // What was said is there, and the session goes on.
    user.vtcode(["resume", &one, "more"]).run().await.exits(0).prints("Done.\n");
}
