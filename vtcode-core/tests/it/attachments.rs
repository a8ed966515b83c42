//! Files that are attached before they are asked for, in real sessions: what is shown, what never
//! is, what a request for it costs then, and when it stops.

use std::fmt::Write as _;
use std::os::unix::fs::symlink;
use std::sync::{Arc, Mutex};

use serde_json::json;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{AttachedFile, AttachmentEnd, EventKind};
use vtcode_core::core::memory_budget::{Account, MemoryBudget};
use vtcode_core::core::performance_profiler::Profile;
use vtcode_testkit::{Reply, call, say};

use crate::session::{ALL, Session, full};

/// Limits under which nearly every guess is worth its tokens.
fn eager() -> Limits {
    let mut limits = full();
    limits.agent.attached_tokens = 3000;
    limits.agent.second_tokens = 20_000;
    limits
}

fn search(pattern: &str) -> Reply {
    call("grep_file", json!({"pattern": pattern, "path": "."}))
}

fn read(path: &str) -> Reply {
    call("read_file", json!({"path": path}))
}

fn edit(path: &str, old: &str, new: &str) -> Reply {
    call("edit_file", json!({"path": path, "old_text": old, "new_text": new}))
}

async fn session(limits: Limits, replies: Vec<Reply>) -> Session {
    let session = Session::new(ALL[0], limits, replies).await;
    session.workspace.write("src/merge.rs", "fn merge() {}\n// the end\n");
    session
}

fn attached(session: &Session) -> Vec<String> {
    let events = session.events.lock().unwrap();
    let files = events.iter().filter_map(|event| match &event.kind {
        EventKind::Attached { files, .. } => Some(files),
        _ => None,
    });
    files.flatten().map(|file| file.path.clone()).collect()
}

fn ends(session: &Session) -> Vec<AttachmentEnd> {
    let events = session.events.lock().unwrap();
    let ends = events.iter().filter_map(|event| match event.kind {
        EventKind::AttachmentSettled { end, .. } => Some(end),
        _ => None,
    });
    ends.collect()
}

#[tokio::test]
async fn what_a_search_names_is_shown_with_it_and_can_be_edited_at_once() {
    for wire in ALL {
        let replies = vec![
            search("fn merge"),
            edit("src/merge.rs", "// the end", "// the beginning"),
            say("Done."),
        ];
        let session = Session::new(wire, eager(), replies).await;
        session.workspace.write("src/merge.rs", "fn merge() {}\n// the end\n");
        session.run(&["look for merge"]).await;
        assert_eq!(attached(&session), ["src/merge.rs"]);
        let second = &session.bodies()[1];
        assert!(second.contains("vtcode attached, unasked: `src/merge.rs`"), "{second}");
        assert!(second.contains("the end"), "{second}");
        assert!(session.workspace.read("src/merge.rs").contains("the beginning"));
        assert_eq!(ends(&session), [AttachmentEnd::Used]);
    }
}

#[tokio::test]
async fn a_request_for_what_is_attached_costs_a_line_and_content_only_if_it_changed() {
    let replies = vec![
        search("fn merge"),
        read("src/merge.rs"),
        edit("src/merge.rs", "// the end", "// changed"),
        read("src/merge.rs"),
        read("src/merge.rs"),
        say("Done."),
    ];
    let session = session(eager(), replies).await;
    session.run(&["go"]).await;
    let transcript = session.transcript();
    let asked = "gives read_file: [unchanged since step 1, where it was attached; see there]\n";
    assert_eq!(transcript.matches(asked).count(), 1, "{transcript}");
    assert!(transcript.contains("// changed"), "{transcript}");
    assert_eq!(ends(&session)[0], AttachmentEnd::Asked);
}

#[tokio::test]
async fn nothing_is_attached_where_it_is_off() {
    let mut off = eager();
    off.agent.attached_tokens = 0;
    let replies = || vec![search("fn merge"), read("src/merge.rs"), say("Done.")];
    let without = session(off, replies()).await;
    without.run(&["go"]).await;
    assert!(!without.transcript().contains("attached"));
    assert_eq!(attached(&without), Vec::<String>::new());
    let with = session(eager(), replies()).await;
    with.run(&["go"]).await;
    assert_ne!(without.transcript(), with.transcript());
}

#[tokio::test]
async fn what_is_hidden_or_looks_like_a_secret_is_never_attached() {
    let script = "printf '%s\\n' .ssh/config.toml:1 config/secrets.toml:2 app/.env.json:3 \
                  ../outside.txt:1 /etc/hosts.txt:1 id_rsa.txt:1 src/merge.rs:1";
    let replies = vec![call("run_command", json!({"command": script})), say("Done.")];
    let session = session(eager(), replies).await;
    for path in [".ssh/config.toml", "config/secrets.toml", "app/.env.json", "id_rsa.txt"] {
        session.workspace.write(path, "hunter2\n");
    }
    session.run(&["go"]).await;
    assert_eq!(attached(&session), ["src/merge.rs"]);
    assert!(session.bodies().iter().all(|body| !body.contains("hunter2")));
}

/// A command that names files, each with a line, as a compiler does.
fn names(paths: &[&str]) -> Reply {
    let mut script = "printf '%s\\n'".to_owned();
    for path in paths {
        write!(script, " '{path}:1'").unwrap();
    }
    call("run_command", json!({"command": script}))
}

/// Returns what was shown, and what was said of it.
fn shown(session: &Session) -> (String, Vec<AttachedFile>) {
    let events = session.events.lock().unwrap();
    let (mut shown, mut told) = (String::new(), Vec::new());
    for event in events.iter() {
        if let EventKind::Attached { text, files, .. } = &event.kind {
            shown.push_str(text);
            told.extend(files.iter().cloned());
        }
    }
    (shown, told)
}

#[tokio::test]
async fn a_harmless_name_opens_no_way_to_what_is_kept_back() {
    let paths =
        ["docs/notes.txt", "docs/away.txt", "build/out.txt", "deploy/host.txt", "secrets/a.txt"];
    let replies = vec![
        names(&paths),
        names(&["src/merge.rs"]),
        call("write_file", json!({"path": "deploy/host.txt", "content": "mine"})),
        say("Done."),
    ];
    let session = session(eager(), replies).await;
    let outside = tempfile::tempdir().unwrap();
    std::fs::write(outside.path().join("key"), "hunter2\n").unwrap();
    let root = session.workspace.path();
    session.workspace.write(".env", "KEY=hunter2\n");
    session.workspace.write(".gitignore", "build/\n");
    session.workspace.write("build/out.txt", "hunter2\n");
    session.workspace.write("secrets/a.txt", "hunter2\n");
    let key = "-----BEGIN OPENSSH PRIVATE KEY-----\nhunter2\n";
    session.workspace.write("deploy/host.txt", key);
    std::fs::create_dir(root.join("docs")).unwrap();
    symlink("../.env", root.join("docs/notes.txt")).unwrap();
    symlink(outside.path().join("key"), root.join("docs/away.txt")).unwrap();
    session.run(&["go"]).await;
    assert_eq!(attached(&session), ["src/merge.rs"]);
    // It was read and shown to nobody: it is not known, and not written over unseen.
    assert!(session.transcript().contains("exists and you have not read it"));
    assert_eq!(session.workspace.read("deploy/host.txt"), key);
    let bodies = session.bodies();
    assert!(bodies[..3].iter().all(|body| !body.contains("hunter2")));
}

#[tokio::test]
async fn what_is_huge_binary_or_grows_by_its_numbers_stays_within_the_bound() {
    let limit_tokens = eager().agent.attached_tokens;
    let replies = vec![
        names(&["deep/huge.txt", "deep/binary.txt", "deep/wide.txt"]),
        names(&["short/a.txt", "short/b.txt", "short/c.txt"]),
        names(&["deep/many.txt"]),
        say("Done."),
    ];
    let session = session(eager(), replies).await;
    session.workspace.write("deep/huge.txt", "a line of a huge file\n".repeat(20_000));
    session.workspace.write("deep/binary.txt", b"\x7fELF\0\0\0\x01 and more");
    session.workspace.write("deep/wide.txt", "x".repeat(300_000));
    for name in ["short/a.txt", "short/b.txt", "short/c.txt"] {
        // Each line is three times as long with its number.
        session.workspace.write(name, "x\n".repeat(1_900));
    }
    session.workspace.write("deep/many.txt", "\n".repeat(5_000));
    session.run(&["go"]).await;

    let events = session.events.lock().unwrap();
    let steps: Vec<(&String, &Vec<AttachedFile>)> = events
        .iter()
        .filter_map(|event| match &event.kind {
            EventKind::Attached { text, files, .. } => Some((text, files)),
            _ => None,
        })
        .collect();
    assert_eq!(steps.len(), 3, "{steps:?}");
    for (text, files) in &steps {
        let told: u64 = files.iter().map(|file| file.tokens).sum();
        assert!(told <= limit_tokens, "{told} tokens are told");
        let bytes = text.len() as u64;
        assert!(bytes.div_ceil(4) <= told && told <= bytes.div_ceil(4) + 3, "{told}: {bytes}");
        for file in *files {
            // What is said of it is what is there.
            let mark = match file.lines {
                None => format!("vtcode attached, unasked: `{}`; it need not", file.path),
                Some((first, last)) => {
                    format!("`{}` lines {first}-{last}; these need not be read again]\n", file.path)
                }
            };
            let (_, after) = text.split_once(&mark).unwrap_or_else(|| panic!("{mark} in {text}"));
            let block = after.split("\n[vtcode attached").next().unwrap();
            if let Some((first, last)) = file.lines {
                let numbered = block.lines().filter(|line| line.contains('\t')).count() as u32;
                assert!(block.trim_start().starts_with(&format!("{first}\t")), "{block}");
                assert!(numbered <= last - first + 1, "{mark}: {numbered} lines");
            }
        }
    }
    let paths: Vec<&str> =
        steps.iter().flat_map(|(_, files)| files.iter().map(|file| file.path.as_str())).collect();
    assert!(paths.contains(&"deep/huge.txt") && !paths.contains(&"deep/binary.txt"), "{paths:?}");
    // All three together are too much with their numbers: of the last a part is shown.
    assert!(steps[1].1.iter().any(|file| file.lines.is_some()), "{:?}", steps[1].1);
    let many = &steps[2].1[0];
    assert!(many.lines.is_some_and(|(first, last)| first == 1 && last < 5_000), "{many:?}");
}

#[tokio::test]
async fn what_is_attached_is_charged_and_stands_in_the_ledger() {
    const CEILING: u64 = 1 << 30;
    let text = "// a line that is attached\n".repeat(300);
    let replies =
        vec![names(&["src/one.rs", "src/two.rs"]), edit("src/one.rs", "first", "1"), say("Done.")];
    let session = session(eager(), replies).await;
    session.workspace.write("src/one.rs", format!("// first\n{text}"));
    session.workspace.write("src/two.rs", "// second\n");
    let budget = MemoryBudget::new(CEILING, || 0);
    let charged = Arc::new(Mutex::new(Vec::new()));
    let (told, of) = (Arc::clone(&charged), budget.clone());
    let session = session.memory(budget).on_event(move |event| match &event.kind {
        EventKind::ToolFinished { .. } | EventKind::Attached { .. } => {
            told.lock().unwrap().push(of.charged(Account::ToolOutput));
        }
        _ => {}
    });
    session.run(&["go"]).await;
    let (shown, files) = shown(&session);
    assert_eq!(files.len(), 2, "{files:?}");
    let charged = charged.lock().unwrap();
    assert!(
        charged[1] - charged[0] >= shown.len() as u64 - 100,
        "{} bytes were attached, charged were {charged:?}",
        shown.len()
    );
    let mut profile = Profile::default();
    session.events.lock().unwrap().iter().for_each(|event| profile.take(event));
    let ledger = profile.attached;
    let tokens: u64 = files.iter().map(|file| file.tokens).sum();
    assert_eq!((ledger.files, ledger.tokens, ledger.used, ledger.asked), (2, tokens, 1, 0));
    let wasted = files.iter().find(|file| file.path == "src/two.rs").unwrap().tokens;
    assert_eq!(ledger.wasted_tokens, wasted);
    // A request with it is as much larger.
    let bodies = session.bodies();
    assert!(bodies[1].len() - bodies[0].len() > shown.len());
}

#[tokio::test]
async fn a_session_in_which_every_guess_is_wrong_soon_makes_none() {
    let mut replies: Vec<Reply> = (0..40).map(|n| search(&format!("fn f{n:02}\\b"))).collect();
    replies.push(say("Nothing of it was needed."));
    let session = Session::new(ALL[0], eager(), replies).await;
    for n in 0..40 {
        // Large enough to cost something.
        let text = format!("fn f{n:02}() {{}}\n{}", "// a line of it\n".repeat(500));
        session.workspace.write(format!("src/m{n:02}.rs"), text);
    }
    session.run(&["go"]).await;
    let stopped = session.count(|kind| matches!(kind, EventKind::PredictionStopped { .. }));
    assert_eq!(stopped, 1);
    let events = session.events.lock().unwrap();
    let stop = events
        .iter()
        .position(|event| matches!(event.kind, EventKind::PredictionStopped { .. }))
        .unwrap();
    let attached =
        |event: &&vtcode_core::core::event::Event| matches!(event.kind, EventKind::Attached { .. });
    assert!(events[..stop].iter().filter(attached).count() > 0);
    assert_eq!(events[stop..].iter().filter(attached).count(), 0);
    let searches_after = events[stop..]
        .iter()
        .filter(|event| matches!(event.kind, EventKind::ToolFinished { .. }))
        .count();
    assert!(searches_after > 20, "it stopped with {searches_after} of 40 searches to come");
}

#[tokio::test]
async fn a_resumed_session_sends_what_was_attached_byte_for_byte() {
    let replies = vec![search("fn merge"), say("Found."), say("Still there.")];
    let session = session(eager(), replies).await;
    session.run(&["look"]).await;
    assert_eq!(attached(&session), ["src/merge.rs"]);
    // The run checks that its request begins with the one before, whose results had the file.
    session.workspace.write("src/merge.rs", "changed meanwhile\n");
    session.run(&["and now?"]).await;
    let bodies = session.bodies();
    assert!(bodies[2].contains("the end") && !bodies[2].contains("changed meanwhile"));
}
