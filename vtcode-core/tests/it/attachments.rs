//! Files that are attached before they are asked for, in real sessions: what is shown, what never
//! is, what a request for it costs then, and when it stops.

use serde_json::json;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{AttachmentEnd, EventKind};
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
