//! What the driver decides without a model; whole runs stand in `tests/it/engine.rs`.

use super::*;
use crate::llm::optimized_client::Clock;
use crate::llm::provider::DecodeError;

fn change(path: &str, kind: ChangeKind, added: u32, removed: u32) -> FileChange {
    FileChange { path: path.to_owned(), kind, added, removed }
}

#[test]
fn changes_to_a_file_add_up_to_what_became_of_it() {
    use ChangeKind::{Add, Delete, Update};
    let cases: [(&[ChangeKind], Option<ChangeKind>); 8] = [
        (&[Update, Update], Some(Update)),
        (&[Add, Update], Some(Add)),
        (&[Add, Delete], None),
        (&[Add, Delete, Add], Some(Add)),
        (&[Delete, Add], Some(Update)),
        (&[Update, Delete], Some(Delete)),
        (&[Delete, Add, Delete], Some(Delete)),
        (&[], None),
    ];
    for (kinds, expected) in cases {
        let sums = sum_changes(kinds.iter().map(|kind| change("a", *kind, 2, 1)));
        assert_eq!(sums.first().map(|sum| sum.kind), expected, "{kinds:?}");
    }
    let sums = sum_changes([
        change("b", Update, 1, 2),
        change("a", Add, 3, 0),
        change("b", Update, 10, 20),
    ]);
    assert_eq!(sums, [change("a", Add, 3, 0), change("b", Update, 11, 22)]);
}

#[test]
fn counts_of_lines_that_do_not_fit_stay_at_the_most() {
    let many = || change("a", ChangeKind::Update, u32::MAX, u32::MAX);
    assert_eq!(sum_changes([many(), many()]), [many()]);
}

#[test]
fn arguments_are_one_object_or_none() {
    let read = |text: &str| {
        arguments(&ToolCall {
            id: "a".to_owned(),
            name: "tool".to_owned(),
            arguments: text.to_owned(),
        })
    };
    for empty in ["", " \n", "{}"] {
        assert_eq!(read(empty), Ok(serde_json::json!({})), "{empty:?}");
    }
    assert_eq!(read(" {\"a\": 1} "), Ok(serde_json::json!({"a": 1})));
    let deep = "[".repeat(10_000);
    for broken in ["{", "[]", "null", "1", "\"{}\"", "{}{}", "{\"a\": 1", deep.as_str()] {
        let answer = read(broken).unwrap_err();
        assert!(answer.is_error && answer.call_id == "a" && answer.name == "tool");
        assert!(answer.text.contains("one JSON object"), "{}", answer.text);
    }
}

#[test]
fn an_error_that_passes_is_the_streams_only_once_the_answer_began() {
    let interrupted = || LlmError::Interrupted { url: String::new(), cause: String::new() };
    let early = || LlmError::Stream(DecodeError::EndedEarly);
    let garbage = || LlmError::Stream(DecodeError::Malformed { what: String::new() });
    let timed_out =
        |clock| LlmError::TimedOut { url: String::new(), clock, after: Duration::from_secs(1) };
    let auth = || LlmError::Auth { status: 401, message: String::new() };
    let kind = |error: LlmError, began| failure(&error, began).kind;

    for began in [interrupted(), early(), timed_out(Clock::Gap)] {
        assert_eq!(kind(began, true), FailureKind::Stream);
    }
    for not_begun in [interrupted(), early(), timed_out(Clock::FirstByte)] {
        assert_eq!(kind(not_begun, false), FailureKind::Unavailable);
    }
    // The client does not ask again for what it cannot read.
    assert_eq!(kind(garbage(), false), FailureKind::Stream);
    assert_eq!(kind(timed_out(Clock::Total), true), FailureKind::Unavailable);
    assert_eq!(kind(timed_out(Clock::Connect), false), FailureKind::Provider);
    assert_eq!(kind(auth(), false), FailureKind::Provider);
}
