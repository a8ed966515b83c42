//! `sessions`: what there is, and away with it.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use serde_json::{Value, json};
use vtcode_testkit::{Fault, ScriptedModel, call, say};

use crate::user::User;

#[tokio::test]
async fn the_newest_stands_first() {
    let user = User::new();
    user.vtcode(["sessions"]).run().await.exits(0).prints("").says("no sessions yet");
    user.vtcode(["sessions", "--json"]).run().await.exits(0).prints("");
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "the first task\nin detail").run().await.exits(0);
    user.exec(&model, "the second task").args(["--max-turns", "1"]).run().await.exits(0);
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    let lines: Vec<_> = list.stdout.lines().collect();
    assert_eq!(lines.len(), 2);
    assert!(
        lines[0].ends_with("the second task") && lines[1].ends_with("the first task"),
        "{list}"
    );
    assert!(lines.iter().all(|line| line.contains("done")), "{list}");

    let list = user.vtcode(["sessions", "--json"]).run().await.exits(0);
    let entries: Vec<Value> =
        list.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(entries[1]["title"], "the first task");
    assert_eq!(entries[0]["status"], "done");
    assert_eq!(entries[0]["cwd"], user.folder.path().to_str().unwrap());
    let ids: Vec<_> = entries.iter().map(|entry| entry["id"].as_str().unwrap()).collect();
    assert!(user.session_ids().iter().all(|id| ids.contains(&id.as_str())));
}

#[tokio::test]
async fn a_session_is_one_line_whatever_its_folder_is_called() {
    let user = User::with([("two\nlines/a.txt", "")]);
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").args(["-C", "two\nlines"]).run().await.exits(0);
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    assert_eq!(list.stdout.lines().count(), 1, "{list}");
}

#[tokio::test]
async fn deleting_leaves_nothing() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    for prompt in ["a secret task", "another"] {
        user.exec(&model, prompt).run().await.exits(0);
    }
    let ids = user.session_ids();
    user.vtcode(["sessions", "delete", "nothing"])
        .run()
        .await
        .exits(2)
        .says("no session `nothing`");
    user.vtcode(["sessions", "delete", &ids[0], "nothing"]).run().await.exits(2);
    assert_eq!(user.session_ids(), ids, "all or nothing");
    user.vtcode(["sessions", "delete", &ids[0]])
        .run()
        .await
        .exits(0)
        .prints(&format!("deleted {}\n", ids[0]));
    assert_eq!(user.session_ids(), ids[1..]);
    let index = std::fs::read_to_string(user.state().join("sessions/index.jsonl")).unwrap();
    assert!(!index.contains("a secret task") && !index.contains(&ids[0]), "{index}");
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    assert_eq!(list.stdout.lines().count(), 1);
    user.vtcode(["resume", &ids[0], "go on"]).run().await.exits(2).says("no session");
}

#[tokio::test]
async fn a_session_in_use_is_neither_deleted_nor_gone_on_with() {
    let user = User::new();
    let model =
        ScriptedModel::start(vec![say("").fault(Fault::StallAfterEvents(0)), say("Done.")]).await;
    let running = user.exec(&model, "go").start();
    model.wait_for_requests(1).await;
    let id = user.session_ids().remove(0);
    let in_use = "is in use by another process";
    user.vtcode(["sessions", "delete", &id]).run().await.exits(1).says(in_use);
    user.vtcode(["resume", &id, "more"]).run().await.exits(1).says(in_use);
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    assert!(list.stdout.contains("open"), "{list}");
    running.signal(rustix::process::Signal::INT);
    running.end().await.exits(130);
    user.vtcode(["resume", &id, "more"]).run().await.exits(0).prints("Done.\n");
    user.vtcode(["sessions", "delete", &id]).run().await.exits(0);
    assert!(user.session_ids().is_empty());
}

#[tokio::test]
async fn sessions_of_several_processes_do_not_disturb_each_other() {
    let user = User::new();
    let model = ScriptedModel::start_with(|request, _| {
        let first = request.json()["messages"].as_array().unwrap().len() == 2;
        if first { call("run_command", json!({"command": "seq 1 3000"})) } else { say("Done.") }
    })
    .await;
    let runs = (0..6).map(|n| user.exec(&model, &format!("task {n}")).start()).collect::<Vec<_>>();
    for running in runs {
        running.end().await.exits(0).prints("Done.\n");
    }
    let list = user.vtcode(["sessions"]).run().await.exits(0);
    assert_eq!(list.stdout.lines().count(), 6);
    assert!((0..6).all(|n| list.stdout.contains(&format!("task {n}"))), "{list}");
}

#[tokio::test]
async fn nobody_else_can_read_what_is_kept() {
    let user = User::new();
    let command = call("run_command", json!({"command": "seq 1 20000"}));
    let model = ScriptedModel::start(vec![command, say("Done.")]).await;
    user.exec(&model, "go").run().await.exits(0);
    let mut seen = 0;
    check(&user.state(), &mut seen);
    assert!(seen >= 6, "folders, index, journal and a spooled output: {seen}");
}

fn check(path: &Path, seen: &mut usize) {
    *seen += 1;
    let data = path.symlink_metadata().unwrap();
    let wanted = if data.is_dir() { 0o700 } else { 0o600 };
    assert_eq!(data.permissions().mode() & 0o777, wanted, "{}", path.display());
    if data.is_dir() {
        for entry in std::fs::read_dir(path).unwrap() {
            check(&entry.unwrap().path(), seen);
        }
    }
}
