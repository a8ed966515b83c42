//! What the engine did and what its journal gives back, whatever broke in between: a session that
//! stopped and went on sends the same bytes as one that never stopped.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{Event, EventKind};
use vtcode_core::core::journal::SessionEntry;
use vtcode_core::core::optimized_agent::{End, FailureKind};
use vtcode_testkit::{Fault, Reply, call, fail, raw_call, say, think};

use crate::session::{ALL, Session, full, plain, replay, small};

/// A session in which most things happen: thinking, calls together and alone, failures, a retry.
fn script() -> Vec<Reply> {
    let read = |path: &str| call("read_file", json!({"path": path}));
    let run = |command: &str| call("run_command", json!({"command": command}));
    let words = "Words that are cut, so that they are asked for again, and that take some events.";
    vec![
        think("Hm.")
            .and(say("I look."))
            .and(read("a.txt"))
            .and(read("none"))
            .and(run("echo x >> log")),
        say(words).fault(Fault::CutAfterEvents(4)),
        raw_call("read_file", "{").and(run("echo x >> log; exit 1")),
        call("write_file", json!({"path": "new.txt", "content": "n\n"})).and(run("echo x >> log")),
        say("Done."),
    ]
}

/// The script, and an end for whatever is asked beyond it.
fn with_end(mut replies: Vec<Reply>) -> Vec<Reply> {
    replies.extend(std::iter::repeat_n(say("All is done."), 30));
    replies
}

fn is_done(end: Option<&End>) -> bool {
    matches!(end, Some(End::Done(_)))
}

/// Part of an answer that the model may give.
fn part() -> impl Strategy<Value = Reply> {
    let path = prop::sample::select(vec!["a.txt", "b.txt", "new.txt", "none", "../x", ""]);
    prop_oneof![
        prop::sample::select(vec![
            "Words.",
            " ",
            "\u{2028}\"\\\u{0}ä🦀",
            "Some more words than fit."
        ])
        .prop_map(say),
        prop::sample::select(vec!["Hm.", "A long thought, with more words than one event."])
            .prop_map(think),
        path.clone().prop_map(|path| call("read_file", json!({"path": path}))),
        (path, "[a-c\n]{0,9}")
            .prop_map(|(path, text)| call("write_file", json!({"path": path, "content": text}))),
        prop::sample::select(vec![
            "echo x >> log",
            "cat a.txt b.txt",
            "exit 7",
            "printf 'a\\0b'",
            ""
        ])
        .prop_map(|command| call("run_command", json!({"command": command}))),
        prop::sample::select(vec!["", "{", "null", "{\"path\":\"a.txt\"}}", "{\"path\": 1}"])
            .prop_map(|arguments| raw_call("read_file", arguments)),
        Just(call("no_such_tool", json!({}))),
        Just(call("read_file", json!({"path": "a.txt"})).call_id("the same")),
    ]
}

fn fault() -> impl Strategy<Value = Option<Fault>> {
    let fault = prop_oneof![
        (0..30usize).prop_map(Fault::CutAfterEvents),
        (0..3000usize).prop_map(Fault::CutAfterBytes),
        (0..20usize).prop_map(Fault::ErrorAfterEvents),
        Just(Fault::MissingTerminal),
        Just(Fault::Empty),
        Just(Fault::Reset),
        Just(Fault::CloseBeforeResponse),
        Just(Fault::status(503)),
        Just(Fault::Garbage(b"data: {\n\n".to_vec())),
    ];
    prop::option::weighted(0.4, fault)
}

fn reply() -> impl Strategy<Value = Reply> {
    let finish =
        prop::option::weighted(0.1, prop::sample::select(vec!["length", "content_filter"]));
    (prop::collection::vec(part(), 0..5), fault(), finish).prop_map(|(parts, fault, finish)| {
        let mut reply = parts.into_iter().fold(Reply::default(), Reply::and);
        if let Some(fault) = fault {
            reply = reply.fault(fault);
        }
        if let Some(finish) = finish {
            reply = reply.finish(finish);
        }
        reply
    })
}

/// Runs two prompts and a third that ends well, and returns what was sent and what is in the
/// folder at the end.
async fn sent(wire: Wire, limits: Limits, replies: Vec<Reply>, runs: &[&[&str]]) -> Sent {
    let session = Session::new(wire, limits, with_end(replies)).await;
    let mut ends = Vec::new();
    for prompts in runs {
        ends.push(session.run(prompts).await.end);
    }
    let sent = Sent {
        bodies: session.bodies(),
        transcript: session.transcript(),
        files: session.workspace.snapshot().into_iter().collect(),
        end: ends.pop().unwrap(),
    };
    // Nothing is sent that the model's own words do not call for.
    let started = session.count(|kind| matches!(kind, EventKind::ToolStarted { .. }));
    let finished = session.count(|kind| matches!(kind, EventKind::ToolFinished { .. }));
    assert_eq!(started, finished);
    sent
}

struct Sent {
    bodies: Vec<String>,
    transcript: String,
    files: Vec<(String, Vec<u8>)>,
    end: Option<End>,
}

impl Sent {
    fn compare(&self, other: &Self) -> Result<(), TestCaseError> {
        prop_assert_eq!(&self.transcript, &other.transcript);
        prop_assert_eq!(&self.end, &other.end);
        prop_assert_eq!(self.bodies.len(), other.bodies.len());
        for (one, other) in self.bodies.iter().zip(&other.bodies) {
            let at = one.bytes().zip(other.bytes()).take_while(|(a, b)| a == b).count();
            let rest = |body: &str| String::from_utf8_lossy(&body.as_bytes()[at..]).into_owned();
            prop_assert_eq!(rest(one), rest(other));
        }
        prop_assert_eq!(&self.files, &other.files);
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_session_that_stopped_goes_on_with_the_same_bytes(
        replies in prop::collection::vec(reply(), 1..5),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        for wire in ALL {
            runtime.block_on(async {
                let whole = sent(wire, full(), replies.clone(), &[&["one", "two"]]).await;
                let parts = sent(wire, full(), replies.clone(), &[&["one"], &["two"]]).await;
                whole.compare(&parts)?;
                let serial = sent(wire, plain(), replies.clone(), &[&["one", "two"]]).await;
                whole.compare(&serial)?;
                if wire != Wire::Anthropic {
                    return Ok(());
                }
                let small = sent(wire, small(), replies.clone(), &[&["one"], &["two"]]).await;
                whole.compare(&small)
            })?;
        }
    }
}

#[tokio::test]
async fn a_note_names_its_step_when_the_messages_of_that_are_not_read_again() {
    let read = || call("read_file", json!({"path": "a.txt"}));
    let replies = vec![read(), read(), Reply::default().finish("length"), read()];
    let whole = sent(Wire::Anthropic, full(), replies.clone(), &[&["one", "two"]]).await;
    let parts = sent(Wire::Anthropic, small(), replies, &[&["one"], &["two"]]).await;
    assert_eq!(whole.transcript.matches("[unchanged since step 1]").count(), 2);
    whole.compare(&parts).unwrap();
}

#[tokio::test]
async fn what_was_read_before_a_session_stopped_may_be_replaced_when_it_goes_on() {
    let replies = vec![
        call("read_file", json!({"path": "a.txt"})),
        say("Read."),
        call("write_file", json!({"path": "a.txt", "content": "new\n"})),
    ];
    let whole = sent(Wire::OpenAiChat, full(), replies.clone(), &[&["one", "two"]]).await;
    let parts = sent(Wire::OpenAiChat, full(), replies, &[&["one"], &["two"]]).await;
    whole.compare(&parts).unwrap();
    assert!(parts.files.contains(&("a.txt".to_owned(), b"new\n".to_vec())), "{:?}", parts.files);
}

/// Returns a session that holds these records and has a model that is ready to go on.
async fn killed(wire: Wire, records: &[u8]) -> Session {
    let session = Session::new(wire, small(), vec![say("Going on.")]).await;
    session.sessions.note(&SessionEntry::from_header(&session.header())).unwrap();
    session.sessions.reserve(crate::session::ID).unwrap();
    std::fs::write(session.journal_path(), records).unwrap();
    session
}

#[tokio::test]
async fn a_session_killed_at_any_moment_goes_on() {
    for (wire, in_a_record) in ALL.into_iter().zip([true, false, false, true]) {
        let session = Session::new(wire, full(), script()).await;
        assert!(is_done(session.run(&["go"]).await.end.as_ref()));
        let bodies = session.bodies();
        let journal = std::fs::read(session.journal_path()).unwrap();
        let records: Vec<&[u8]> = journal.split_inclusive(|b| *b == b'\n').collect();
        assert!(records.len() > 25);
        for count in 1..records.len() {
            // Killed between two records, or in the middle of the next one.
            let half = &records[count][..records[count].len() / 2];
            let torn = if in_a_record { half } else { b"" };
            let kept = [&records[..count].concat(), torn].concat();
            let resumed = killed(wire, &kept).await;
            assert_eq!(replay(&kept).torn, !torn.is_empty());
            let outcome = resumed.run(&["go on"]).await;
            assert!(is_done(outcome.end.as_ref()), "{count}: {outcome:?}");

            // What had been sent is sent again, byte for byte.
            let sent = records[..count].iter().filter(|record| {
                let event: Event = serde_json::from_slice(record).unwrap();
                matches!(event.kind, EventKind::RequestSent { .. } | EventKind::Retry { .. })
            });
            if let Some(last) = sent.count().checked_sub(1) {
                let open = bodies[last].strip_suffix("]}").unwrap();
                assert!(resumed.bodies()[0].starts_with(open), "{wire} after {count} records");
            }
            // No call runs again.
            assert!(!resumed.workspace.path().join("log").exists());
        }
    }
}

#[tokio::test]
async fn a_session_interrupted_at_any_event_goes_on() {
    for (wire, limits) in ALL.into_iter().zip([full(), plain(), plain(), full()]) {
        for nth in 0.. {
            let seen = AtomicUsize::new(0);
            let session = Session::new(wire, limits.clone(), with_end(script())).await;
            let session = session.cancel_when(move |_| seen.fetch_add(1, Ordering::SeqCst) == nth);
            let outcome = session.run(&["go"]).await;
            let whole = is_done(outcome.end.as_ref());
            assert!(whole || outcome.end == Some(End::Interrupted), "{nth}: {outcome:?}");
            let ran = session.workspace.snapshot().get("log").map_or(0, Vec::len) / 2;
            let started = session.count(
                |kind| matches!(kind, EventKind::ToolStarted { name, .. } if name == "run_command"),
            );
            assert!(ran <= started, "{nth}");
            let before = session.transcript();
            assert!(is_done(session.run(&["go on"]).await.end.as_ref()), "{nth}");
            assert!(session.transcript().starts_with(&before), "{nth}");
            let kinds = session.kinds();
            let prompts = |kind: &&EventKind| matches!(kind, EventKind::PromptStarted { .. });
            let ends = |kind: &&EventKind| {
                matches!(kind, EventKind::PromptFinished { .. } | EventKind::PromptFailed { .. })
            };
            assert_eq!(kinds.iter().filter(prompts).count(), 2, "{nth}");
            assert_eq!(kinds.iter().filter(ends).count(), 2, "{nth}");
            if whole {
                assert!(nth > 40, "{nth}");
                break;
            }
        }
    }
}

/// Moves a session's journal to a file in memory, which can be closed to further writes.
fn on_memory(session: &Session) -> File {
    drop(session.open());
    let path = session.journal_path();
    let memory = memfd_create("journal", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let mut memory = File::from(memory);
    memory.write_all(&std::fs::read(&path).unwrap()).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink(format!("/proc/self/fd/{}", memory.as_raw_fd()), &path).unwrap();
    memory
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_journal_that_cannot_be_written_any_more_ends_the_run_before_the_next_effect() {
    for limits in [full(), plain()] {
        for nth in 0.. {
            let session = Session::new(Wire::OpenAiChat, limits.clone(), script()).await;
            let memory = on_memory(&session);
            let sealed = memory.try_clone().unwrap();
            let seen = AtomicUsize::new(0);
            let session = session.on_event(move |event| {
                if event.kind.is_durable() && seen.fetch_add(1, Ordering::SeqCst) == nth {
                    fcntl_add_seals(&sealed, SealFlags::GROW).unwrap();
                }
            });
            let outcome = session.run(&["go"]).await;
            let kept: Vec<Event> = std::fs::read_to_string(session.journal_path())
                .unwrap()
                .lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect();
            if is_done(outcome.end.as_ref()) {
                let end = &kept.last().unwrap().kind;
                assert!(matches!(end, EventKind::PromptFinished { .. }));
                break;
            }
            assert_eq!(kept.len(), nth + 2, "the header and what was told");
            let Some(End::Failed(failure)) = &outcome.end else { panic!("{nth}: {outcome:?}") };
            assert_eq!(failure.kind, FailureKind::Journal, "{nth}");
            assert!(failure.message.contains("journal.jsonl"), "{}", failure.message);

            let recorded = |wanted: &dyn Fn(&EventKind) -> bool| {
                kept.iter().filter(|event| wanted(&event.kind)).count()
            };
            let started = recorded(
                &|kind| matches!(kind, EventKind::ToolStarted { name, .. } if name == "run_command"),
            );
            let ran = session.workspace.snapshot().get("log").map_or(0, Vec::len) / 2;
            assert!(ran <= started, "{nth}: {ran} ran, {started} are recorded");
            // A call whose start is not recorded is not handed to a tool at all.
            for kind in session.kinds() {
                if let EventKind::ToolFinished { call_id: ended, .. } = kind {
                    let starts = recorded(
                        &|kind| matches!(kind, EventKind::ToolStarted { call_id, .. } if *call_id == ended),
                    );
                    assert_eq!(starts, 1, "{nth}: {ended}");
                }
            }
            let sent = recorded(&|kind| {
                matches!(kind, EventKind::RequestSent { .. } | EventKind::Retry { .. })
            });
            assert!(session.model.requests().len() <= sent, "{nth}");
        }
    }
}

#[tokio::test]
async fn a_journal_that_fails_in_one_run_can_be_gone_on_from_in_the_next() {
    let replies = vec![call("run_command", json!({"command": "true"})), fail(Fault::Empty)];
    let session = Session::new(Wire::Anthropic, full(), with_end(replies)).await;
    let memory = on_memory(&session);
    let sealed = memory.try_clone().unwrap();
    let session = session.on_event(move |event| {
        if matches!(event.kind, EventKind::ToolStarted { .. }) {
            fcntl_add_seals(&sealed, SealFlags::GROW).unwrap();
        }
    });
    session.run(&["go"]).await;
    let kept = std::fs::read(session.journal_path()).unwrap();
    assert_eq!(replay(&kept).interrupted.len(), 1, "it may have run");
    let resumed = killed(Wire::Anthropic, &kept).await;
    assert!(is_done(resumed.run(&["go on"]).await.end.as_ref()));
}
