//! Conversations that outgrow the model's window: older messages leave it, nothing is lost, and
//! what is sent next is the same from a running session and from one that is gone on with.

use std::fs;
use std::path::Path;

use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{CompactionCause, EventKind};
use vtcode_core::core::optimized_agent::{End, FailureKind};
use vtcode_testkit::{Fault, Reply, call, fail, say};

use crate::session::{ALL, Session, full, plain, small};

/// What a read of a file gives, about: its text with the numbers of the lines.
const FILE_BYTES: usize = 8_000;

/// A window that holds some six of these files.
fn narrow(mut limits: Limits, window_tokens: u64) -> Limits {
    limits.agent.context.window_tokens = Some(window_tokens);
    limits.agent.context.answer_tokens = 500;
    limits
}

fn write_files(session: &Session, count: usize) {
    for n in 0..count {
        let line = format!("line of file {n}, which is like the others\n");
        let text = line.repeat(FILE_BYTES / line.len());
        fs::write(session.workspace.path().join(format!("{n}.txt")), text).unwrap();
    }
}

fn read(n: usize) -> Reply {
    call("read_file", json!({"path": format!("{n}.txt")}))
}

async fn session(wire: Wire, limits: Limits, replies: Vec<Reply>) -> Session {
    let session = Session::new(wire, limits, replies).await;
    write_files(&session, 60);
    session
}

fn compacted(session: &Session) -> Vec<(CompactionCause, usize, usize)> {
    let events = session.events.lock().unwrap();
    let kinds = events.iter().map(|event| &event.kind);
    kinds
        .filter_map(|kind| match kind {
            EventKind::Compacted { cause, put_aside, summed_up, before, after } => {
                assert!(after < before, "{before} → {after} tokens");
                Some((*cause, *put_aside, *summed_up))
            }
            _ => None,
        })
        .collect()
}

fn is_summary_asked_for(body: &str) -> bool {
    body.contains("The conversation is about to exceed your context window")
}

#[tokio::test]
async fn older_results_leave_a_full_window_and_can_be_read_again() {
    for wire in ALL {
        for limits in [full(), plain(), small()] {
            let replies = (0..20).map(read).chain([say("Read them all.")]).collect();
            let session = session(wire, narrow(limits, 16_000), replies).await;
            let outcome = session.run(&["read"]).await;
            assert_eq!(outcome.end, Some(End::Done("Read them all.".to_owned())), "{wire}");

            let told = compacted(&session);
            assert!(told.len() >= 2 && told.len() < 8, "{told:?}");
            assert!(told.iter().all(|(cause, aside, summed)| {
                *cause == CompactionCause::Window && *aside > 0 && *summed == 0
            }));
            assert_eq!(session.compactions(), told.len(), "each change has its cause");
            let bodies = session.bodies();
            assert_eq!(bodies.len(), 21);
            let longest = bodies.iter().map(String::len).max().unwrap();
            assert!(longest < 16_000 * 4, "{longest} bytes");
            // The newest is whole, an old one is a pointer to a file that holds it.
            let last = bodies.last().unwrap();
            assert!(last.matches("line of file 19").count() > 100);
            assert!(last.matches("line of file 0,").count() <= 2);
            let spool = session.journal_path().with_file_name("spool");
            let kept: Vec<_> = fs::read_dir(&spool).unwrap().map(|e| e.unwrap().path()).collect();
            let put_aside: usize = told.iter().map(|(_, aside, _)| aside).sum();
            assert_eq!(kept.len(), put_aside);
            for path in &kept {
                assert!(last.contains(path.to_str().unwrap()), "{}", path.display());
                let text = fs::read_to_string(path).unwrap();
                assert!(text.matches("line of file").count() > 100);
                assert_eq!(mode(path), 0o600);
            }
        }
    }
}

fn mode(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// Words fill the window here, of which nothing can be put aside.
fn wordy(n: usize) -> Reply {
    let words = format!("thought {n} ").repeat(300);
    say(words).and(call("list_files", json!({"path": format!("none{n}")})))
}

#[tokio::test]
async fn what_cannot_be_put_aside_is_summed_up_with_the_same_prefix() {
    for wire in ALL {
        let mut replies: Vec<Reply> = (0..8).map(wordy).collect();
        replies.push(say("In short: I thought a lot."));
        replies.extend((8..10).map(wordy));
        replies.push(say("Done."));
        let session = session(wire, narrow(full(), 9_000), replies).await;
        let outcome = session.run(&["think about it"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{wire}");

        let bodies = session.bodies();
        let asked: Vec<_> =
            (0..bodies.len()).filter(|at| is_summary_asked_for(&bodies[*at])).collect();
        assert_eq!(asked, [8], "{wire}");
        // A longer conversation of the same bytes, so that the provider has it in its cache.
        let (before, summary, after) = (&bodies[7], &bodies[8], &bodies[9]);
        let (start, _) = before.split_at(before.len() - 40);
        assert!(summary.starts_with(start));
        assert!(after.len() < before.len() / 2, "{} → {}", before.len(), after.len());
        assert!(after.contains("In short: I thought a lot.") && after.contains("think about it"));
        assert!(after.contains("thought 7") && !after.contains("thought 3"));
        assert!(matches!(compacted(&session)[..], [(CompactionCause::Window, 0, 1..)]));
        // Nobody was shown the summary as an answer, and the journal holds it once.
        let words = session.count(|kind| match kind {
            EventKind::Part { part } => format!("{part:?}").contains("In short"),
            EventKind::TextDelta { text } => text.contains("In short"),
            _ => false,
        });
        assert_eq!(words, 0);
        let journal = fs::read_to_string(session.journal_path()).unwrap();
        assert_eq!(journal.matches("In short").count(), 1);
    }
}

#[tokio::test]
async fn what_does_not_fit_after_a_summary_either_is_asked_without_another() {
    let mut replies: Vec<Reply> = (0..8).map(wordy).collect();
    // The summary takes most of the window itself.
    replies.push(say("In short: a lot. ".repeat(3_000)));
    replies.extend([say("Done."), say("Another one.")]);
    let session = session(Wire::OpenAiChat, narrow(full(), 9_000), replies).await;
    let outcome = session.run(&["think about it"]).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    let asked = session.bodies().iter().filter(|body| is_summary_asked_for(body)).count();
    assert_eq!(asked, 1);
}

#[tokio::test]
async fn a_session_that_goes_on_in_a_much_smaller_window_is_made_to_fit_it() {
    const WINDOW: u64 = 4_000;
    for wire in ALL {
        let mut replies: Vec<Reply> = (0..40).map(wordy).chain([say("So far.")]).collect();
        replies.extend((0..4).map(|_| say("In short: I thought a lot.")));
        let session = session(wire, full(), replies).await;
        session.run(&["think about it"]).await;
        let before = session.bodies().len();
        assert!(session.bodies()[before - 1].len() as u64 > 8 * 4 * WINDOW, "{wire}");

        let session = session.with_limits(narrow(full(), WINDOW));
        let outcome = session.run(&["and now?"]).await;
        assert_eq!(outcome.end, Some(End::Done("In short: I thought a lot.".to_owned())));
        let bodies = session.bodies().split_off(before);
        let (last, asked) = bodies.split_last().unwrap();
        // The first one leaves a quarter, which is more than fits.
        assert_eq!(asked.len(), 2, "{wire}");
        assert!(asked.iter().all(|body| is_summary_asked_for(body)), "{wire}");
        assert!((last.len() as u64) < 4 * WINDOW, "{wire}: {} bytes", last.len());
        assert!(last.contains("and now?") && last.contains("think about it"), "{wire}");
    }
}

#[tokio::test]
async fn a_summary_that_fails_costs_detail_and_not_the_task() {
    let mut replies: Vec<Reply> = (0..8).map(wordy).collect();
    replies.push(fail(Fault::status(400)));
    replies.push(say("Done."));
    let session = session(Wire::OpenAiChat, narrow(full(), 9_000), replies).await;
    let outcome = session.run(&["think about it"]).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    let last = session.bodies().pop().unwrap();
    assert!(last.contains("No summary could be made.") && last.contains("think about it"));
    assert_eq!(session.count(|kind| matches!(kind, EventKind::Warning { .. })), 1);
}

#[tokio::test]
async fn a_session_that_is_gone_on_with_sends_the_same_bytes() {
    let replies = || -> Vec<Reply> {
        let mut replies: Vec<Reply> = (0..12).map(read).collect();
        replies.push(say("Half."));
        replies.extend((12..20).map(read));
        replies.push(say("All."));
        replies
    };
    for limits in [full(), small()] {
        let mut bodies = Vec::new();
        for runs in [vec![vec!["one", "two"]], vec![vec!["one"], vec!["two"]]] {
            let session =
                session(Wire::OpenAiChat, narrow(limits.clone(), 16_000), replies()).await;
            for prompts in runs {
                session.run(&prompts).await;
            }
            assert!(compacted(&session).len() >= 2);
            let spool = session.journal_path().with_file_name("spool");
            let spool = spool.to_str().unwrap().to_owned();
            bodies.push(
                session.bodies().iter().map(|b| b.replace(&spool, "<spool>")).collect::<Vec<_>>(),
            );
        }
        assert_eq!(bodies[0].len(), bodies[1].len());
        for (at, (one, two)) in bodies[0].iter().zip(&bodies[1]).enumerate() {
            assert_eq!(one, two, "request {at}");
        }
    }
}

fn too_long() -> Reply {
    let body = json!({"error": {
        "message": "This model's maximum context length is 8192 tokens.",
        "code": "context_length_exceeded",
    }});
    fail(Fault::Status { code: 400, headers: Vec::new(), body: body.to_string() })
}

#[tokio::test]
async fn a_request_that_the_model_finds_too_long_is_shortened_and_asked_once_more() {
    for limits in [full(), plain()] {
        let mut replies: Vec<Reply> = (0..6).map(read).collect();
        replies.extend([too_long(), say("Done.")]);
        let session = session(Wire::OpenAiChat, limits, replies).await;
        assert_eq!(session.run(&["read"]).await.end, Some(End::Done("Done.".to_owned())));
        assert_eq!(compacted(&session), [(CompactionCause::TooLong, 5, 0)]);
        let bodies = session.bodies();
        assert!(bodies[7].len() < bodies[6].len() / 2);
        assert!(bodies[7].matches("line of file 5").count() > 100, "the newest stays");
    }
}

#[tokio::test]
async fn what_stays_too_long_ends_with_the_providers_words() {
    let session = session(Wire::OpenAiChat, full(), vec![too_long(), too_long()]).await;
    let Some(End::Failed(failure)) = session.run(&["a question"]).await.end else { panic!() };
    assert_eq!(failure.kind, FailureKind::TooLong);
    assert!(failure.message.contains("maximum context length"), "{}", failure.message);
    assert_eq!(session.bodies().len(), 2, "once, and once more");
}

#[tokio::test]
async fn the_log_grows_with_what_was_said_however_often_it_is_compacted() {
    let mut sizes = Vec::new();
    for turns in [20, 40, 60] {
        let replies = (0..turns).map(read).chain([say("Done.")]).collect();
        let session = session(Wire::OpenAiChat, narrow(full(), 40_000), replies).await;
        session.run(&["read"]).await;
        assert_eq!(session.compactions(), compacted(&session).len());
        sizes
            .push((compacted(&session).len(), fs::metadata(session.journal_path()).unwrap().len()));
    }
    let grown = |n: usize| sizes[n].1 - sizes[n - 1].1;
    assert!(sizes[0].0 < sizes[1].0 && sizes[1].0 < sizes[2].0, "{sizes:?}");
    // As much for the last third of turns as for the second, give or take one compaction.
    assert!(grown(2).abs_diff(grown(1)) < 40_000 * 4, "{sizes:?}");
}
