//! `undo`: what a turn changed is as it was before, byte for byte, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;

use serde_json::json;
use vtcode_testkit::{Fault, Reply, ScriptedModel, call, say};

use crate::user::User;

/// Everything in a folder: each path with its kind, permissions and content. Of git's own folder
/// nothing, as commands may use git.
fn tree(folder: &Path) -> BTreeMap<String, (u32, Vec<u8>)> {
    let mut all = BTreeMap::new();
    let mut open = vec![folder.to_owned()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(&dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap() == ".git" {
                continue;
            }
            let stat = fs::symlink_metadata(&path).unwrap();
            let content = if stat.is_dir() {
                open.push(path.clone());
                b"folder".to_vec()
            } else if stat.is_symlink() {
                fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else {
                fs::read(&path).unwrap()
            };
            let name = path.strip_prefix(folder).unwrap().to_string_lossy().into_owned();
            all.insert(name, (stat.permissions().mode(), content));
        }
    }
    all
}

fn write(path: &str, content: &str) -> Reply {
    call("write_file", json!({"path": path, "content": content}))
}

fn edit(path: &str, old: &str, new: &str) -> Reply {
    call("edit_file", json!({"path": path, "old_text": old, "new_text": new}))
}

fn patch(lines: &str) -> Reply {
    let patch = format!("*** Begin Patch\n{lines}\n*** End Patch\n");
    call("apply_patch", json!({"patch": patch}))
}

fn run(command: &str) -> Reply {
    call("run_command", json!({"command": command}))
}

async fn session(user: &User, turns: Vec<Reply>) {
    let turns = turns.into_iter().chain([say("Done.")]).collect();
    let model = ScriptedModel::start(turns).await;
    user.exec(&model, "go").run().await.exits(0);
}

fn files() -> User {
    User::with([("src/a.rs", "one\ntwo\n"), ("src/b.rs", "bee\n"), ("run.sh", "#!/bin/sh\n")])
}

#[tokio::test]
async fn what_the_tools_did_is_taken_back_turn_by_turn() {
    let user = files();
    let root = user.folder.path();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    symlink("src/a.rs", root.join("link")).unwrap();
    let mut before = vec![tree(root)];
    let turns = [
        edit("src/a.rs", "one", "eins").and(write("new/deep/file.txt", "new\n")),
        edit("run.sh", "#!/bin/sh", "#!/bin/bash").and(edit("link", "two", "zwei")),
        patch(
            "*** Delete File: src/b.rs\n*** Update File: src/a.rs\n*** Move to: src/c.rs\n@@\n-eins\n+uno",
        ),
    ];
    let id = "";
    for turn in turns {
        let model = ScriptedModel::start(vec![turn, say("Done.")]).await;
        let ran = if user.session_ids().is_empty() {
            user.exec(&model, "go").run().await.exits(0)
        } else {
            let url = model.openai_url();
            user.vtcode(["resume", "--last", "--base-url", &url, "go"]).run().await.exits(0)
        };
        ran.says(&format!("to undo: vtcode undo --session {id}"));
        before.push(tree(root));
    }
    let after = before.pop().unwrap();
    assert_ne!(&after, before.last().unwrap());
    while let Some(wanted) = before.pop() {
        user.vtcode(["undo"]).run().await.exits(0).says("taken back: turn");
        assert_eq!(tree(root), wanted, "{} turns are left", before.len());
    }
    user.vtcode(["undo"]).run().await.exits(2).says("nothing to undo");
    for _ in 0..3 {
        user.vtcode(["undo", "--redo"]).run().await.exits(0);
    }
    assert_eq!(tree(root), after, "an undo can be undone");
    user.vtcode(["undo", "--redo"]).run().await.exits(2).says("nothing to redo");
}
