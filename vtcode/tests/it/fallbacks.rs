//! A part that fails while a session works, one row of [`PARTS`] each: the session goes on without
//! it, says so once however many turns there are, counts it, and the model and the user read what
//! they would have read. Every failure is a real one: a file where a folder should be, a full file
//! system, bytes that are not what was written.

use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::{Program, Ran, User};

/// A part of a session, and how it is broken.
struct Part {
    name: &'static str,
    /// Options of `exec`.
    args: &'static [&'static str],
    env: &'static [(&'static str, &'static str)],
    /// Breaks it, before the program starts.
    breaks: fn(&User),
    /// Where its file system is full.
    full: Option<fn(&User) -> PathBuf>,
    /// What is said, once.
    says: Option<&'static str>,
    /// Reads the counter that moves: from the profile and from what was printed.
    counted: fn(&Value, &Ran) -> u64,
}

const NOTHING: Part = Part {
    name: "nothing",
    args: &[],
    env: &[],
    breaks: |_| {},
    full: None,
    says: None,
    counted: |_, _| 0,
};

const PARTS: &[Part] = &[
    Part {
        name: "the memory pool has no room",
        args: &["--profile"],
        env: &[("VTCODE_MAX_STRING_POOL_SIZE", "0"), ("VTCODE_MAX_VEC_POOL_SIZE", "0")],
        // Nobody is warned: to have no room is what a pool does all the time.
        counted: |_, ran| number_before(ran, " from the allocator"),
        ..NOTHING
    },
    Part {
        name: "no folder can be made for answers",
        args: &["--cache"],
        breaks: |user| file_at(user.state().join("answers")),
        says: Some("! kept answers cannot be used as they should"),
        counted: |profile, _| profile["fallbacks"]["answers_on_disk"].as_u64().unwrap(),
        ..NOTHING
    },
    Part {
        name: "the disk for answers is full",
        args: &["--cache"],
        full: Some(|user| user.state().join("answers")),
        says: Some("! kept answers cannot be used as they should: No space left on device"),
        counted: |profile, _| profile["fallbacks"]["answers_on_disk"].as_u64().unwrap(),
        ..NOTHING
    },
    Part {
        name: "the shared rate limits cannot be opened",
        args: &[],
        env: &[("VTCODE_REQUESTS_PER_MINUTE", "100000")],
        breaks: |user| file_at(user.state().join("rate")),
        says: Some("! rate limits are not shared with other runs"),
        counted: |profile, _| profile["fallbacks"]["shared_limits"].as_u64().unwrap(),
        ..NOTHING
    },
    Part {
        name: "the history of profiles cannot be kept",
        args: &["--profile"],
        env: &[("VTCODE_ENABLE_REGRESSION_TESTING", "true")],
        breaks: |user| file_at(user.state().join("perf")),
        says: Some("vtcode: this run is not kept for comparison"),
        counted: |_, ran| ran.stderr.matches("not kept for comparison").count() as u64,
        ..NOTHING
    },
    Part {
        name: "a profile has no room",
        args: &["--profile-out", "full.html"],
        breaks: |user| symlink("/dev/full", user.folder.path().join("full.html")).unwrap(),
        says: Some("vtcode: cannot write `full.html`: No space left on device"),
        counted: |_, ran| ran.stderr.matches("cannot write").count() as u64,
        ..NOTHING
    },
];

/// What the model does: a warning for each turn would stand there six times.
fn script() -> Vec<Reply> {
    let read = |path: &str| call("read_file", json!({"path": path}));
    let count = call("run_command", json!({"command": "seq 1 40"}));
    let mut replies: Vec<Reply> = FILES.map(read).into();
    replies.insert(1, replies[1].clone().and(count));
    replies.remove(2);
    replies.push(say("Done."));
    replies
}

const TURNS: usize = 6;
const FILES: [&str; TURNS - 1] = ["a.txt", "b.txt", "c.txt", "d.txt", "e.txt"];

fn user() -> User {
    let user = User::with(FILES.map(|file| (file, format!("this is {file}\n"))));
    std::fs::create_dir_all(user.state()).unwrap();
    user
}

fn file_at(path: PathBuf) {
    std::fs::write(path, "").unwrap();
}

fn number_before(ran: &Ran, words: &str) -> u64 {
    let at = ran.stderr.find(words).unwrap_or_else(|| panic!("no `{words}` in:\n{ran}"));
    ran.stderr[..at].rsplit(' ').next().unwrap().parse().unwrap()
}

/// What was said and done, as the journal of the newest session has it: each call with its result,
/// whichever was through first, and without names that every session makes for itself.
fn transcript(user: &User, ran: &Ran) -> String {
    let ids = user.session_ids();
    let journal = user.state().join("sessions").join(ids.last().unwrap()).join("journal.jsonl");
    let mut lines = vec![(String::new(), ran.stdout.clone())];
    for line in std::fs::read_to_string(journal).unwrap().lines() {
        let record: Value = serde_json::from_str(line).unwrap();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        match record["type"].as_str().unwrap() {
            "prompt_started" => lines.push((String::new(), text(&record["text"]))),
            "part" => {
                let part = &record["part"];
                let said = [text(&part["text"]), text(&part["name"]), text(&part["arguments"])];
                lines.push((text(&part["id"]), said.join(" ")));
            }
            "tool_finished" => {
                let id = text(&record["call_id"]);
                let call = lines.iter_mut().find(|(call, _)| *call == id).unwrap();
                call.1 += &[" gives ", &text(&record["text"])].concat();
            }
            _ => {}
        }
    }
    let lines: Vec<String> = lines.into_iter().map(|(_, line)| line).collect();
    lines.join("\n").replace(user.folder.path().to_str().unwrap(), "<folder>")
}

/// Runs a command in a mount namespace in which a folder is a file system without any room. None
/// where the system allows no such namespace.
fn on_a_full_disk(user: &User, folder: &str, args: &[&str]) -> Option<Program> {
    std::fs::create_dir_all(folder).unwrap();
    // One inode: that of the folder itself.
    let mount = "mount -t tmpfs -o size=4k,nr_inodes=1,mode=0700 none \"$0\"";
    let allowed = Command::new("unshare")
        .args(["-rm", "sh", "-c", mount, folder])
        .stderr(Stdio::null())
        .status();
    if !allowed.is_ok_and(|status| status.success()) {
        return None;
    }
    let run = format!("{mount} && exec \"$@\"");
    let program = [env!("CARGO_BIN_EXE_vtcode")];
    let before = ["-rm", "sh", "-c", &run, folder];
    Some(user.program("unshare", before.iter().chain(&program).chain(args)))
}

/// Works on the script with a part broken. None where it cannot be broken here.
async fn run(user: &User, part: &Part, model: &ScriptedModel) -> Option<(Ran, Value)> {
    (part.breaks)(user);
    let url = model.openai_url();
    let mut args = vec!["exec", "--model", "scripted", "--base-url", &url, "go"];
    // Not in the folder: the model is told what lies there, and is to be asked the very same.
    let kept = user.home.path().join("p.json");
    args.extend(["--profile-out", kept.to_str().unwrap()]);
    args.extend(part.args);
    let mut exec = match part.full {
        None => user.vtcode(&args),
        Some(folder) => {
            // No command of ours runs there: it would want a namespace within the namespace.
            args.extend(["--sandbox", "off"]);
            on_a_full_disk(user, folder(user).to_str().unwrap(), &args)?
        }
    };
    for (name, value) in part.env {
        exec = exec.env(name, value);
    }
    let ran = exec.run().await.exits(0).prints("Done.\n");
    let profile = std::fs::read_to_string(&kept).unwrap();
    Some((ran, serde_json::from_str(&profile).unwrap()))
}

#[tokio::test]
async fn a_session_goes_on_without_a_part_says_so_once_and_counts_it() {
    let undisturbed = user();
    let model = ScriptedModel::start(script()).await;
    let (ran, profile) = run(&undisturbed, &NOTHING, &model).await.unwrap();
    let wanted = transcript(&undisturbed, &ran);
    assert!(wanted.contains("\n40\n") && wanted.contains("this is e.txt"), "{wanted}");
    let none = json!({"answers_on_disk": 0, "shared_limits": 0, "tools": 0, "warnings": 0});
    assert_eq!(profile["fallbacks"], none, "{ran}");

    for part in PARTS {
        let (user, model) = (user(), ScriptedModel::start(script()).await);
        let Some((ran, profile)) = run(&user, part, &model).await else {
            eprintln!("SKIPPED: {}: no file system can be mounted here", part.name);
            continue;
        };
        assert_eq!(transcript(&user, &ran), wanted, "{}", part.name);
        if let Some(says) = part.says {
            assert_eq!(ran.stderr.matches(says).count(), 1, "{}: {ran}", part.name);
        }
        assert!((part.counted)(&profile, &ran) > 0, "{}: {ran}\n{profile:#}", part.name);
        println!("{}: counted {}", part.name, (part.counted)(&profile, &ran));
    }
}

#[tokio::test]
async fn answers_that_are_not_what_was_written_are_asked_for_again_and_kept_anew() {
    let (user, part) = (user(), Part { args: &["--cache"], ..NOTHING });
    let model = ScriptedModel::start([script(), script()].concat()).await;
    let (ran, _) = run(&user, &part, &model).await.unwrap();
    let wanted = transcript(&user, &ran);
    for entry in std::fs::read_dir(user.state().join("answers")).unwrap() {
        let file = entry.unwrap().path();
        let mut bytes = std::fs::read(&file).unwrap();
        *bytes.last_mut().unwrap() ^= 1;
        std::fs::write(&file, bytes).unwrap();
    }
    let (ran, profile) = run(&user, &part, &model).await.unwrap();
    assert_eq!(transcript(&user, &ran), wanted);
    assert_eq!(ran.stderr.matches("! kept answers cannot be used").count(), 1, "{ran}");
    // What follows an answer that is given anew is another request: the rest is not looked for.
    assert_eq!(profile["fallbacks"]["answers_on_disk"], 1, "{ran}");
    assert_eq!(model.requests().len(), 2 * TURNS);

    let (ran, profile) = run(&user, &part, &model).await.unwrap();
    assert_eq!(transcript(&user, &ran), wanted);
    assert_eq!(profile["ledger"]["answers"]["kept"], TURNS, "{ran}");
    assert_eq!(model.requests().len(), 2 * TURNS, "the model was not asked");
}
