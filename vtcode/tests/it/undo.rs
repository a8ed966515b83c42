//! `undo`: what a turn changed is as it was before, byte for byte, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

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
    // Some of the commands are those that nobody should run unasked.
    user.exec(&model, "go").arg("--yolo").run().await.exits(0);
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

#[tokio::test]
async fn what_somebody_changed_since_is_left_alone_and_so_is_all_of_its_turn() {
    let user = files();
    let root = user.folder.path();
    session(&user, vec![edit("src/a.rs", "one", "eins").and(edit("src/b.rs", "bee", "Biene"))])
        .await;
    user.folder.write("src/a.rs", "mine\n");
    let now = tree(root);
    let ran = user.vtcode(["undo"]).run().await.exits(1);
    let ran = ran.says("nothing was restored: a path was changed since").says("-mine");
    assert!(ran.stdout.is_empty() && !ran.stderr.contains("b.rs"), "{ran}");
    assert_eq!(tree(root), now);
    let json = user.vtcode(["undo", "--json"]).run().await.exits(1).lines();
    assert_eq!(json[0]["type"], "changed_since");
    assert_eq!(json[0]["path"], "src/a.rs");
    user.folder.write("src/a.rs", "eins\ntwo\n");
    let ran = user.vtcode(["undo", "--dry-run"]).run().await.exits(0);
    ran.prints("would restore: src/a.rs +1 −1\nwould restore: src/b.rs +1 −1\n");
    let ran = user.vtcode(["undo"]).run().await.exits(0);
    ran.prints("restored: src/a.rs +1 −1\nrestored: src/b.rs +1 −1\n");
    assert_eq!(user.folder.read("src/a.rs"), "one\ntwo\n");
}

#[tokio::test]
async fn a_work_of_the_users_between_two_turns_is_not_lost_by_undoing_all() {
    let user = files();
    session(&user, vec![edit("src/a.rs", "one", "eins")]).await;
    user.folder.write("src/a.rs", "eins\nmy own line\n");
    // What the model knows of the file is older than what the user wrote.
    let read = call("read_file", json!({"path": "src/a.rs"}));
    let again = || edit("src/a.rs", "eins", "uno");
    let model = ScriptedModel::start(vec![again(), read, again(), say("Done.")]).await;
    let url = model.openai_url();
    user.vtcode(["resume", "--last", "--base-url", &url, "go"]).run().await.exits(0);
    let told = model.requests()[1].json().to_string();
    assert!(told.contains("was changed after you last saw it"), "{told}");
    user.vtcode(["undo", "--all"]).run().await.exits(1).says("somebody else changed it");
    assert_eq!(user.folder.read("src/a.rs"), "uno\nmy own line\n");
    user.vtcode(["undo"]).run().await.exits(0);
    assert_eq!(user.folder.read("src/a.rs"), "eins\nmy own line\n");
    user.vtcode(["undo"]).run().await.exits(1).says("is not what the session left");
}

#[tokio::test]
async fn a_session_that_runs_is_not_undone_and_another_folders_is_not_meant() {
    let user = files();
    session(&user, vec![write("new.txt", "x\n")]).await;
    let id = user.session_ids().remove(0);
    let stalls = say("").fault(Fault::StallAfterEvents(0));
    let model = ScriptedModel::start(vec![stalls]).await;
    let url = model.openai_url();
    let running = user.vtcode(["resume", &id, "--base-url", &url, "go"]).start();
    model.wait_for_requests(1).await;
    user.vtcode(["undo"]).run().await.exits(2).says("is in use by another process");
    running.signal(rustix::process::Signal::INT);
    running.end().await.exits(130);
    let elsewhere = user.vtcode(["undo"]).in_folder("/");
    elsewhere.run().await.exits(2).says("no session of this folder");
    assert!(user.folder.path().join("new.txt").exists());
    let named = user.vtcode(["undo", "--session", &id[..13], "--turn", "1"]).in_folder("/");
    named.run().await.exits(0).prints("restored: new.txt (deleted) +0 −1\n");
    assert!(!user.folder.path().join("new.txt").exists());
    user.vtcode(["undo", "--turn", "7"]).run().await.exits(2).says("turn 7 changed nothing");
    user.vtcode(["sessions", "delete", &id]).run().await.exits(0);
    assert!(user.session_ids().is_empty(), "what was kept is gone, too");
}

#[tokio::test]
async fn what_is_not_kept_is_said_and_the_edit_goes_on() {
    let user = files();
    user.configure("[undo]\nmax_mb = 1\n");
    user.folder.write("large.txt", format!("{}\nend\n", "x".repeat(2 << 20)));
    let turn = edit("large.txt", "\nend\n", "\nEND\n").and(edit("src/a.rs", "one", "eins"));
    let model = ScriptedModel::start(vec![turn, say("Done.")]).await;
    let ran = user.exec(&model, "go").run().await.exits(0);
    let ran = ran.says("large.txt` cannot be restored by `vtcode undo`: the 1 MiB kept for undo");
    assert_eq!(ran.stderr.matches("cannot be restored").count(), 1, "{ran}");
    assert!(user.folder.read("large.txt").ends_with("END\n"));
    let ran = user.vtcode(["undo"]).run().await.exits(1);
    assert!(ran.stdout.contains("restored: src/a.rs") && ran.stdout.contains("not restored: "));
    assert!(user.folder.read("large.txt").ends_with("END\n"));
    assert_eq!(user.folder.read("src/a.rs"), "one\ntwo\n");
}

#[tokio::test]
async fn a_place_that_cannot_be_written_stops_no_edit() {
    let user = files();
    let sessions = user.state().join("sessions");
    let model = ScriptedModel::start_with(move |_, number| -> Reply {
        if number > 0 {
            return say("Done.");
        }
        // Also as root nobody can make a folder where a file is.
        let folders = fs::read_dir(&sessions).unwrap().map(|entry| entry.unwrap().path());
        let session = folders.into_iter().find(|path| path.is_dir()).unwrap();
        fs::write(session.join("undo"), "in the way").unwrap();
        edit("src/a.rs", "one", "eins")
    })
    .await;
    let ran = user.exec(&model, "go").run().await.exits(0);
    ran.says("cannot be undone from here on");
    assert_eq!(user.folder.read("src/a.rs"), "eins\ntwo\n");
}

#[tokio::test]
async fn odd_names_and_things_that_are_no_files_are_taken_along() {
    let user = files();
    let root = user.folder.path();
    let before = tree(root);
    let odd = r"printf 'x' > $'two\nlines'; printf 'y' > $'\xff'; mkfifo pipe; rm src/b.rs";
    session(&user, vec![run(odd)]).await;
    fs::remove_file(root.join("pipe")).unwrap();
    let ran = user.vtcode(["undo"]).run().await;
    assert_eq!(tree(root), before, "{ran}");
    assert!(ran.stdout.contains("restored: two lines (deleted)"), "{ran}");
}

/// A small random number from a seed.
fn next(seed: &mut u64, below: u64) -> u64 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) % below
}

#[tokio::test]
async fn whatever_a_session_did_undoing_all_gives_the_first_tree_back() {
    const NAMES: [&str; 6] = ["src/a.rs", "src/b.rs", "notes.txt", "new/x/y.txt", "run.sh", "z"];
    for first in 0..6u64 {
        let mut seed = first + 1;
        let user = repository();
        let root = user.folder.path();
        let before = tree(root);
        let mut did = Vec::new();
        let mut turns = Vec::new();
        for _ in 0..10 {
            let name = NAMES[next(&mut seed, 6) as usize];
            let number = next(&mut seed, 100);
            turns.push(match next(&mut seed, 4) {
                0 => {
                    did.push(format!("write {name}"));
                    let content = format!("{number}\n");
                    // A file not read is refused the first time.
                    write(name, &content).and(write(name, &content))
                }
                1 => {
                    did.push(format!("delete {name}"));
                    patch(&format!("*** Delete File: {name}"))
                }
                _ => {
                    let command = COMMANDS[next(&mut seed, 14) as usize];
                    did.push(command.to_owned());
                    run(command)
                }
            });
        }
        session(&user, turns).await;
        let list = user.vtcode(["undo", "--list"]).run().await.exits(0);
        let ran = user.vtcode(["undo", "--all"]).run().await.exits(0);
        assert_eq!(tree(root), before, "{did:#?}\n{list}\n{ran}");
        assert!(did.len() == 10 && !list.stdout.is_empty());
    }
}

#[tokio::test]
async fn what_a_command_in_the_background_does_is_taken_back_and_the_tools_work_beside_it_too() {
    let user = repository();
    let root = user.folder.path();
    let before = tree(root);
    let server = "echo begun > bg.txt; echo changed >> notes.txt; echo ready; sleep 1000";
    let turns = vec![
        call("run_command", json!({"command": server, "background": true})),
        edit("src/a.rs", "one", "eins"),
        run("rm src/b.rs; echo more >> bg.txt"),
    ];
    session(&user, turns).await;
    assert_eq!(user.folder.read("bg.txt"), "begun\nmore\n");
    user.vtcode(["undo", "--all"]).run().await.exits(0);
    assert_eq!(tree(root), before);
}

#[tokio::test]
async fn a_repositorys_filter_is_never_run_for_undo() {
    let user = repository();
    let root = user.folder.path();
    let ran = user.home.path().join("ran");
    git(root, &["config", "filter.evil.clean", &format!("touch {}; cat", ran.display())]);
    git(root, &["config", "core.fsmonitor", &format!("touch {}", ran.display())]);
    user.folder.write(".gitattributes", "* filter=evil\n");
    let before = tree(root);
    session(&user, vec![run("echo x >> src/a.rs; rm run.sh src/b.rs")]).await;
    user.vtcode(["undo"]).run().await.exits(0);
    assert_eq!(tree(root), before);
    assert!(!ran.exists());
}

#[tokio::test]
async fn what_a_command_did_while_the_program_was_killed_is_said_to_stay() {
    let user = files();
    let turns = vec![edit("src/a.rs", "one", "eins"), run("rm run.sh; echo ready; sleep 2")];
    let model = ScriptedModel::start(turns).await;
    let mut running = user.exec(&model, "go").start();
    running.stderr_says("│ ready").await;
    running.signal(rustix::process::Signal::KILL);
    let _ = running.end().await;
    let ran = user.vtcode(["undo"]).run().await.exits(0);
    let ran = ran.prints("restored: src/a.rs +1 −1\n");
    ran.says("what a command of turn 2 changed cannot be undone: the process died while it ran");
    assert_eq!(user.folder.read("src/a.rs"), "one\ntwo\n");
}
