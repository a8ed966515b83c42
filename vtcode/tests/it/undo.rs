//! `undo`: what a turn changed is as it was before, byte for byte, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use serde_json::json;
use vtcode_testkit::{Reply, ScriptedModel, call, say};

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

fn git(folder: &Path, args: &[&str]) {
    let mut git = Command::new("git");
    git.current_dir(folder).args(["-c", "user.name=n", "-c", "user.email=e@e"]);
    git.args(["-c", "init.defaultBranch=main"]).args(args);
    let ran = git.env("GIT_CONFIG_GLOBAL", "/dev/null").output().unwrap();
    assert!(ran.status.success(), "{args:?}: {ran:?}");
}

/// A repository with a second branch, changes that are not committed and files it ignores.
fn repository() -> User {
    let user = files();
    let root = user.folder.path();
    symlink("src/a.rs", root.join("link")).unwrap();
    user.folder.write(".gitignore", "target/\n*.log\n");
    user.folder.write("docs/deep/page.md", "page\n");
    git(root, &["init", "-q"]);
    git(root, &["add", "."]);
    git(root, &["commit", "-q", "-m", "one"]);
    git(root, &["checkout", "-q", "-b", "other"]);
    user.folder.write("src/a.rs", "other\n");
    user.folder.write("src/only.rs", "only here\n");
    git(root, &["add", "."]);
    git(root, &["commit", "-q", "-m", "two"]);
    git(root, &["checkout", "-q", "main"]);
    user.folder.write("src/b.rs", "not committed\n");
    user.folder.write("notes.txt", "not known to git\n");
    user.folder.write("target/out", "made\n");
    user
}

const COMMANDS: [&str; 14] = [
    "rm notes.txt src/a.rs",
    "rm -rf src docs",
    "sed -i s/e/E/ src/a.rs src/b.rs notes.txt run.sh",
    "chmod 755 run.sh; chmod 600 notes.txt; chmod 700 src",
    "mv src lib; mv notes.txt lib/",
    "git checkout -q -f other",
    "git stash -q -u",
    "git clean -qfd; git reset -q --hard",
    "mkdir -p new/deep && echo x > new/deep/file && ln -s new/deep/file short",
    "rm link; echo real > link",
    "rm -r docs; echo now a file > docs",
    "echo more >> notes.txt; echo more >> src/a.rs",
    "chmod 444 notes.txt; rm -f run.sh",
    "touch src/a.rs; echo x > x.tmp; rm x.tmp",
];

#[tokio::test]
async fn what_a_command_did_is_taken_back() {
    for in_git in [true, false] {
        for command in COMMANDS {
            let user = repository();
            let root = user.folder.path();
            if !in_git {
                fs::remove_dir_all(root.join(".git")).unwrap();
                if command.contains("git ") {
                    continue;
                }
            }
            let before = tree(root);
            session(&user, vec![run(command)]).await;
            let after = tree(root);
            if command.contains("x.tmp") {
                assert_eq!(after, before, "{command}");
                user.vtcode(["undo"]).run().await.exits(2).says("nothing to undo");
                continue;
            }
            assert_ne!(after, before, "{command}");
            let said = user.vtcode(["undo"]).run().await.exits(0);
            assert_eq!(tree(root), before, "{command}, git: {in_git}\n{said}");
            user.vtcode(["undo", "--redo"]).run().await.exits(0);
            assert_eq!(tree(root), after, "{command}, git: {in_git}, again");
        }
    }
}
