//! Sessions on a real disk, torn, killed and shared in every way that a machine can think of.

use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tempfile::TempDir;

use super::*;
use crate::core::conversation::Past;
use crate::llm::message::{FinishReason, Images, Message, Part, ToolAnswer, ToolCall, Usage};
use crate::tools::tool::{ChangeKind, Detail, FileChange};

fn header(id: &str) -> SessionHeader {
    SessionHeader {
        format: FORMAT,
        session_id: id.to_owned(),
        started_at_ms: 1,
        cwd: "/work/app".into(),
        add_dirs: vec!["/work/lib".into()],
        provider: "openai".to_owned(),
        base_url: "http://127.0.0.1:1/v1".to_owned(),
        model: "m".to_owned(),
        system: "Be \"good\".\n".to_owned(),
    }
}

fn entry(id: &str, updated_at_ms: u64) -> SessionEntry {
    SessionEntry { updated_at_ms, ..SessionEntry::from_header(&header(id)) }
}

fn event(kind: EventKind) -> Event {
    Event { at: Duration::from_micros(1_234_567), kind }
}

fn call(id: &str) -> ToolCall {
    ToolCall { id: id.to_owned(), name: "run_command".to_owned(), arguments: "{\"a\": ".to_owned() }
}

fn asks(id: &str) -> EventKind {
    EventKind::Part { part: Part::ToolCall(call(id)) }
}

fn says(text: &str) -> EventKind {
    EventKind::Part { part: Part::Text { text: text.to_owned() } }
}

fn starts(id: &str) -> EventKind {
    let (name, arguments) = (call(id).name, String::new());
    EventKind::ToolStarted { call_id: id.to_owned(), name, arguments }
}

fn ends(id: &str, detail: Detail) -> EventKind {
    EventKind::ToolFinished {
        call_id: id.to_owned(),
        name: call(id).name,
        text: format!("result of {id}\u{2028}\r\n\0"),
        is_error: id == "b",
        class: None,
        detail,
        waited: Duration::from_micros(3),
        ran: Duration::from_secs(7),
    }
}

fn change(path: &str) -> FileChange {
    FileChange { path: path.to_owned(), kind: ChangeKind::Update, added: 1, removed: 2 }
}

fn used(input_tokens: u64) -> Usage {
    Usage { input_tokens, cached_input_tokens: 1, output_tokens: 2 }
}

/// A session in which everything happens that is kept.
fn story() -> Vec<EventKind> {
    let files = Detail::Files { changes: vec![change("src/main.rs"), change("ä b")] };
    let command = Detail::Command { exit_code: None, output_bytes: 9, spool: Some("/s".into()) };
    let thought = Part::Reasoning {
        text: "hm".to_owned(),
        signature: Some("seal".to_owned()),
        redacted: false,
    };
    vec![
        EventKind::PromptStarted { text: "fix\nit".to_owned(), images: Vec::new() },
        EventKind::RequestSent { turn: 1, body_bytes: 10, prefix: None },
        says("I l"),
        EventKind::Retry { attempt: 2, wait: Duration::from_millis(5), cause: "cut".to_owned() },
        EventKind::FirstByte,
        EventKind::Part { part: thought },
        says("I look."),
        asks("a"),
        starts("a"),
        asks("b"),
        asks("c"),
        EventKind::ResponseEnded { finish: FinishReason::ToolCalls, usage: used(10) },
        starts("b"),
        starts("c"),
        ends("b", command),
        ends("c", Detail::Summary { line: "3 matches".to_owned() }),
        ends("a", files),
        EventKind::Warning { message: "careful".to_owned() },
        EventKind::RequestSent { turn: 2, body_bytes: 20, prefix: None },
        EventKind::FirstByte,
        says("Done."),
        EventKind::ResponseEnded { finish: FinishReason::Stop, usage: used(20) },
        EventKind::PromptFinished { usage: used(30) },
        EventKind::SessionResumed {
            provider: "anthropic".to_owned(),
            base_url: "http://127.0.0.1:2".to_owned(),
            model: "n".to_owned(),
        },
        EventKind::PromptStarted { text: "go on".to_owned(), images: Vec::new() },
        EventKind::PromptFailed {
            error: "interrupted".to_owned(),
            class: None,
            usage: Usage::default(),
        },
    ]
}

struct State {
    dir: TempDir,
    sessions: Sessions,
}

impl State {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sessions = Sessions::below(&dir.path().join("state/vtcode"));
        Self { dir, sessions }
    }

    /// Keeps a session with these events.
    fn with(id: &str, kinds: impl IntoIterator<Item = EventKind>) -> Self {
        let state = Self::new();
        let mut journal = state.sessions.create(header(id)).unwrap();
        for kind in kinds {
            journal.append(&event(kind)).unwrap();
        }
        state
    }

    fn folder(&self) -> PathBuf {
        self.dir.path().join("state/vtcode/sessions")
    }

    fn journal(&self, id: &str) -> PathBuf {
        self.folder().join(id).join("journal.jsonl")
    }

    fn index(&self) -> PathBuf {
        self.folder().join("index.jsonl")
    }

    fn replay(&self, id: &str) -> Replay {
        self.sessions.resume(id).unwrap().1
    }
}

fn answer(id: &str) -> ToolAnswer {
    let EventKind::ToolFinished { call_id, name, text, is_error, .. } = ends(id, Detail::Plain)
    else {
        unreachable!()
    };
    ToolAnswer { call_id, name, text, is_error }
}

#[test]
fn a_session_comes_back_as_it_was() {
    let state = State::with("one", story());
    let replay = state.replay("one");
    let said = |text: &str| Part::Text { text: text.to_owned() };
    let thought = Part::Reasoning {
        text: "hm".to_owned(),
        signature: Some("seal".to_owned()),
        redacted: false,
    };
    let parts: Vec<_> = [thought, said("I look.")]
        .into_iter()
        .chain(["a", "b", "c"].map(|id| Part::ToolCall(call(id))))
        .collect();
    let expected = [
        Message::user("fix\nit"),
        Message::Assistant { parts },
        Message::Tool { results: ["a", "b", "c"].map(answer).to_vec() },
        Message::Assistant { parts: vec![said("Done.")] },
        Message::user("go on"),
    ];
    assert_eq!(replay.messages, expected);
    assert_eq!(
        replay.usage(),
        Usage { input_tokens: 30, cached_input_tokens: 2, output_tokens: 4 }
    );
    assert!(!replay.torn && replay.interrupted.is_empty());
    let expected = SessionHeader {
        provider: "anthropic".to_owned(),
        base_url: "http://127.0.0.1:2".to_owned(),
        model: "n".to_owned(),
        ..header("one")
    };
    assert_eq!(replay.header, Some(expected));
}

#[test]
fn every_event_that_is_kept_reads_back_the_same() {
    for kind in story().into_iter().chain([EventKind::SessionStarted(header("one"))]) {
        assert!(kind.is_durable());
        let event = event(kind);
        let line = serde_json::to_string(&event).unwrap();
        assert!(!line.contains('\n'));
        assert_eq!(serde_json::from_str::<Event>(&line).unwrap(), event, "{line}");
    }
}

#[test]
fn what_only_shows_is_not_kept() {
    let state = State::with("one", []);
    let (mut journal, _) = state.sessions.resume("one").unwrap();
    let before = std::fs::read(state.journal("one")).unwrap();
    let text = || "x".to_owned();
    for kind in [
        EventKind::TextDelta { text: text().into() },
        EventKind::ReasoningDelta { text: text().into() },
        EventKind::ToolProgress { call_id: text(), text: text() },
    ] {
        journal.append(&event(kind)).unwrap();
    }
    assert_eq!(std::fs::read(state.journal("one")).unwrap(), before);
}

#[test]
fn a_last_line_torn_at_any_byte_is_cut_off_and_the_rest_is_whole() {
    let mut events = story();
    let last = events.pop().unwrap();
    let state = State::with("one", events);
    let path = state.journal("one");
    let whole = std::fs::read(&path).unwrap();
    let expected = state.replay("one").messages;
    let mut record = serde_json::to_vec(&event(last.clone())).unwrap();
    record.push(b'\n');

    for cut in 0..=record.len() {
        std::fs::write(&path, [&whole, &record[..cut]].concat()).unwrap();
        let (mut journal, replay) = state.sessions.resume("one").unwrap();
        let torn = (1..record.len()).contains(&cut);
        assert_eq!(replay.torn, torn, "cut at {cut}");
        assert_eq!(replay.messages, expected, "cut at {cut}");
        // The next record begins a line of its own.
        journal.append(&event(says("again"))).unwrap();
        drop(journal);
        let lines = std::fs::read_to_string(&path).unwrap();
        let lost = usize::from(cut < record.len());
        assert_eq!(lines.lines().count(), story().len() + 2 - lost, "cut at {cut}");
        assert!(!state.replay("one").torn);
    }
}

#[test]
fn a_session_killed_after_any_record_goes_on_and_knows_what_may_have_run() {
    let state = State::with("one", story());
    let path = state.journal("one");
    let whole = std::fs::read_to_string(&path).unwrap();
    let records: Vec<&str> = whole.split_inclusive('\n').collect();
    for count in 1..=records.len() {
        std::fs::write(&path, records[..count].concat()).unwrap();
        let replay = state.replay("one");
        let seen = &story()[..count - 1];
        let mut told = Vec::new();
        for (at, message) in replay.messages.iter().enumerate() {
            match message {
                Message::Assistant { parts } => {
                    let asked: Vec<_> =
                        crate::llm::message::tool_calls(parts).map(|call| &call.id).collect();
                    let answered: Vec<_> = match replay.messages.get(at + 1) {
                        Some(Message::Tool { results }) => {
                            results.iter().map(|answer| &answer.call_id).collect()
                        }
                        _ => Vec::new(),
                    };
                    assert_eq!(asked, answered, "after {count} records");
                }
                Message::Tool { results } => told.extend(results),
                Message::User { .. } => {}
            }
        }
        let happened = |kind: &EventKind| seen.contains(kind);
        for id in ["a", "b", "c"].into_iter().filter(|id| happened(&asks(id))) {
            let ended = seen.iter().any(
                |kind| matches!(kind, EventKind::ToolFinished { call_id, .. } if call_id == id),
            );
            let lost = || ToolAnswer::interrupted(&call(id), happened(&starts(id)));
            let expected = if ended { answer(id) } else { lost() };
            assert!(told.contains(&&expected), "{id} after {count} records: {told:?}");
            let may_have_run = replay.interrupted.contains(&call(id));
            assert_eq!(may_have_run, happened(&starts(id)) && !ended, "{id} after {count}");
        }
        let asked = ["a", "b", "c"].into_iter().filter(|id| happened(&asks(id))).count();
        assert_eq!(told.len(), asked, "after {count} records");
    }
}

#[test]
fn an_answer_that_was_asked_for_again_or_says_nothing_leaves_no_trace() {
    let prompt = || EventKind::PromptStarted { text: "go".to_owned(), images: Vec::new() };
    let failed = || EventKind::PromptFailed { error: "x".to_owned(), class: None, usage: used(0) };
    let thought = || EventKind::Part {
        part: Part::Reasoning { text: "hm".to_owned(), signature: None, redacted: false },
    };
    let ended = EventKind::ResponseEnded { finish: FinishReason::Stop, usage: used(1) };
    let state = State::with("one", [prompt(), thought(), says(" \n"), ended, failed(), prompt()]);
    let user = || Message::user("go");
    assert_eq!(state.replay("one").messages, [user(), user()]);
    assert_eq!(state.replay("one").usage(), used(1));
}

#[test]
fn a_line_that_is_no_record_is_an_error_that_names_it() {
    let state = State::with("one", story());
    let path = state.journal("one");
    let whole = std::fs::read_to_string(&path).unwrap();
    for garbage in ["\n", "{}\n", "\u{fffd}\0\n", "{\"at_us\":1,\"type\":\"from_the_future\"}\n"] {
        let mut lines: Vec<&str> = whole.split_inclusive('\n').collect();
        lines[4] = garbage;
        std::fs::write(&path, lines.concat()).unwrap();
        let error = state.sessions.resume("one").unwrap_err();
        let JournalError::Unreadable { line, .. } = &error else { panic!("{error}") };
        assert_eq!(*line, 5);
        let text = error.to_string();
        assert!(text.contains("journal.jsonl` line 5 "), "{text}");
    }
    // Nothing is lost by the attempt.
    std::fs::write(&path, &whole).unwrap();
    assert_eq!(state.replay("one").messages.len(), 5);
}

#[test]
fn a_journal_without_its_header_or_of_another_version_is_told() {
    let state = State::with("one", story());
    let path = state.journal("one");
    let whole = std::fs::read_to_string(&path).unwrap();
    let header = whole.lines().next().unwrap();
    for (content, expected) in [
        (String::new(), "header is missing"),
        (header[..header.len() / 2].to_owned(), "header is missing"),
        (whole.replacen("\"format\":1", "\"format\":2", 1), "its format is 2, not 1"),
    ] {
        std::fs::write(&path, content).unwrap();
        let error = state.sessions.resume("one").unwrap_err().to_string();
        assert!(error.contains("line 1 ") && error.contains(expected), "{error}");
        // Who only looks finds nothing in a journal that has not begun, and no more in another's.
        match state.sessions.events("one", |event| panic!("{event:?}")) {
            Ok(_) => assert_eq!(expected, "header is missing"),
            Err(looked) => assert_eq!(looked.to_string(), error),
        }
    }
}

#[test]
fn one_session_is_open_once() {
    let state = State::new();
    let journal = state.sessions.create(header("one")).unwrap();
    let in_use = |error: JournalError| matches!(error, JournalError::InUse { id } if id == "one");
    assert!(in_use(state.sessions.resume("one").unwrap_err()));
    assert!(in_use(state.sessions.delete("one").unwrap_err()));
    drop(journal);
    let (journal, _) = state.sessions.resume("one").unwrap();
    assert!(in_use(state.sessions.resume("one").unwrap_err()));
    // A handle that may still be syncing holds it, too.
    let syncer = journal.syncer();
    drop(journal);
    assert!(in_use(state.sessions.resume("one").unwrap_err()));
    syncer.sync().unwrap();
    drop(syncer);
    state.sessions.delete("one").unwrap();
}

#[test]
fn an_id_that_is_taken_is_not_written_over() {
    let state = State::with("one", story());
    let before = std::fs::read(state.journal("one")).unwrap();
    assert!(state.sessions.create(header("one")).is_err());
    assert_eq!(std::fs::read(state.journal("one")).unwrap(), before);
}

#[test]
fn everything_is_the_users_alone() {
    let state = State::with("one", story());
    state.sessions.note(&entry("one", 2)).unwrap();
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let mut folders = vec![state.dir.path().join("state")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        assert_eq!(mode(&folder), 0o700, "{}", folder.display());
        for found in std::fs::read_dir(&folder).unwrap() {
            let path = found.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                assert_eq!(mode(&path), 0o600, "{}", path.display());
                files += 1;
            }
        }
    }
    assert!(files >= 2);
    // Rewriting keeps it so.
    state.sessions.delete("one").unwrap();
    assert_eq!(mode(&state.index()), 0o600);
}

#[test]
fn a_state_folder_that_cannot_be_written_is_told() {
    let scratch = tempfile::tempdir().unwrap();
    let file = scratch.path().join("file");
    std::fs::write(&file, "").unwrap();
    for dir in [&file, Path::new("/proc")] {
        let error = Sessions::below(dir).create(header("one")).unwrap_err();
        assert!(matches!(error, JournalError::Unwritable { .. }), "{error}");
        let text = error.to_string();
        assert!(text.contains(dir.to_str().unwrap()), "{text}");
    }
}

#[test]
fn ids_that_no_folder_can_have_are_refused() {
    let state = State::new();
    for id in ["", ".", "..", "a/b", "/etc", "../one", "one/", "./one"] {
        let error = state.sessions.create(header(id)).unwrap_err();
        assert!(matches!(error, JournalError::BadId { .. }), "{id}: {error}");
        assert!(matches!(state.sessions.reserve(id), Err(JournalError::BadId { .. })), "{id}");
    }
    assert!(!state.folder().exists());
}

#[test]
fn a_session_is_found_by_its_id_or_the_beginning_of_it() {
    let state = State::new();
    for id in ["ab1", "ab12", "cd3"] {
        drop(state.sessions.create(header(id)).unwrap());
    }
    let find = |id| state.sessions.find(id);
    assert_eq!(find("cd3").unwrap(), "cd3");
    assert_eq!(find("c").unwrap(), "cd3");
    assert_eq!(find("ab12").unwrap(), "ab12");
    assert_eq!(find("ab1").unwrap(), "ab1", "all of an id is no beginning of another");
    assert!(matches!(find("ab"), Err(JournalError::Ambiguous { count: 2, .. })));
    for unknown in ["", "x", "cd34", "CD3"] {
        assert!(matches!(find(unknown), Err(JournalError::Unknown { .. })), "{unknown}");
    }
    assert!(matches!(state.sessions.resume(""), Err(JournalError::Unknown { .. })));
    assert!(matches!(state.sessions.delete(""), Err(JournalError::Unknown { .. })));
}

#[test]
fn the_last_line_of_a_session_counts_and_the_newest_session_comes_first() {
    let state = State::new();
    assert_eq!(state.sessions.list().unwrap(), []);
    for (id, at) in [("a", 1), ("b", 2), ("c", 2)] {
        state.sessions.note(&entry(id, at)).unwrap();
    }
    let done =
        SessionEntry { status: SessionStatus::Done, title: "fix it".to_owned(), ..entry("a", 3) };
    state.sessions.note(&done).unwrap();
    assert_eq!(state.sessions.list().unwrap(), [done, entry("c", 2), entry("b", 2)]);
}

#[test]
fn a_torn_line_of_the_index_hides_no_other() {
    let state = State::new();
    state.sessions.note(&entry("a", 1)).unwrap();
    let mut torn =
        serde_json::to_vec(&SessionEntry { title: "ä".into(), ..entry("b", 2) }).unwrap();
    for cut in (1..torn.len()).rev() {
        torn.truncate(cut);
        let mut index = std::fs::read(state.index()).unwrap();
        index.extend_from_slice(&torn);
        std::fs::write(state.index(), index).unwrap();
        assert_eq!(state.sessions.list().unwrap(), [entry("a", 1)], "cut at {cut}");
        // What is written next does not become the rest of the torn line.
        state.sessions.note(&entry("a", 1)).unwrap();
        assert_eq!(state.sessions.list().unwrap(), [entry("a", 1)], "cut at {cut}");
        if cut % 40 == 0 {
            state.sessions.note(&entry("gone", 1)).unwrap();
            state.sessions.delete("gone").unwrap();
            assert_eq!(state.sessions.list().unwrap(), [entry("a", 1)], "cut at {cut}");
        }
    }
}

#[test]
fn a_deleted_session_leaves_neither_folder_nor_words() {
    let state = State::with("one", story());
    drop(state.sessions.create(header("two")).unwrap());
    let secret = SessionEntry { title: "the secret".to_owned(), ..entry("one", 5) };
    state.sessions.note(&secret).unwrap();
    // A line of a later version is not ours to remove.
    let mut index = std::fs::read_to_string(state.index()).unwrap();
    index.push_str("{\"id\":\"three\",\"shape\":\"new\"}\n");
    std::fs::write(state.index(), index).unwrap();

    assert_eq!(state.sessions.delete("on").unwrap(), "one");
    assert!(!state.folder().join("one").exists());
    let index = std::fs::read_to_string(state.index()).unwrap();
    assert!(!index.contains("secret") && !index.contains("\"one\""), "{index}");
    assert!(index.contains("three"));
    let ids: Vec<_> = state.sessions.list().unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["two"]);
    assert!(matches!(state.sessions.resume("one"), Err(JournalError::Unknown { .. })));

    // A folder that somebody removed by hand can be forgotten.
    std::fs::remove_dir_all(state.folder().join("two")).unwrap();
    state.sessions.delete("two").unwrap();
    assert_eq!(state.sessions.list().unwrap(), []);
}

#[test]
fn many_who_write_the_index_at_once_lose_nothing() {
    let state = State::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let sessions = state.sessions.clone();
            scope.spawn(move || {
                for n in 0..20 {
                    let id = format!("keep-{thread}-{n}");
                    sessions
                        .note(&SessionEntry { title: "t".repeat(500), ..entry(&id, 1) })
                        .unwrap();
                    if n % 4 == 0 {
                        let id = format!("drop-{thread}-{n}");
                        sessions.note(&entry(&id, 1)).unwrap();
                        sessions.delete(&id).unwrap();
                    }
                }
            });
        }
    });
    let entries = state.sessions.list().unwrap();
    assert_eq!(entries.len(), 80);
    assert!(entries.iter().all(|entry| entry.id.starts_with("keep") && entry.title.len() == 500));
}

/// A session of so many turns with a result of 2,000 bytes each.
fn long(turns: u32) -> impl Iterator<Item = EventKind> {
    (0..turns).flat_map(|turn| {
        let id = format!("call-{turn}");
        let prompt = turn
            .is_multiple_of(10)
            .then(|| EventKind::PromptStarted { text: "go".into(), images: Vec::new() });
        let asked = EventKind::RequestSent { turn: 1, body_bytes: 9, prefix: None };
        let mut result = ends(&id, Detail::Plain);
        if let EventKind::ToolFinished { text, .. } = &mut result {
            *text = format!("{turn} ").repeat(2000).chars().take(2000).collect();
        }
        let ended = EventKind::ResponseEnded { finish: FinishReason::ToolCalls, usage: used(1) };
        prompt.into_iter().chain([asked, asks(&id), ended, starts(&id), result])
    })
}

const WINDOW_BYTES: u64 = 20_000;

fn rendered(message: &Message) -> bytes::Bytes {
    serde_json::to_vec(message).unwrap().into()
}

/// All messages of a session as they would be sent: those that lie in a file, and those read.
fn whole(state: &State) -> (String, Replay) {
    let (mut journal, replay) = state.sessions.resume("one").unwrap();
    let past = journal.past("w", |message| (rendered(message), Images::default())).unwrap();
    let mut text = String::new();
    for piece in past.iter().flat_map(Past::pieces) {
        text.push_str(std::str::from_utf8(&piece.load().unwrap()).unwrap());
    }
    for message in &replay.messages {
        if !text.is_empty() {
            text.push(',');
        }
        text.push_str(std::str::from_utf8(&rendered(message)).unwrap());
    }
    (text, replay)
}

#[test]
fn going_on_reads_the_tail_whatever_is_before_it() {
    let mut read = Vec::new();
    for turns in [50, 500] {
        let mut state = State::with("one", long(turns));
        let (all, replay) = whole(&state);
        assert_eq!(replay.past_messages(), 0, "the default window holds it");
        state.sessions = state.sessions.clone().with_window(WINDOW_BYTES);
        // The first time, nobody knows where the tail begins.
        let (parted, first) = whole(&state);
        assert_eq!(parted, all);
        assert!(first.past_messages() > first.messages.len());
        let (parted, second) = whole(&state);
        assert_eq!(parted, all);
        let len = std::fs::metadata(state.journal("one")).unwrap().len();
        assert!(first.read_bytes >= len);
        assert!(second.read_bytes < 2 * WINDOW_BYTES + 10_000, "{}", second.read_bytes);
        for replay in [&first, &second] {
            assert_eq!(replay.usage().input_tokens, u64::from(turns));
            assert_eq!(replay.turns(), turns);
        }
        read.push(second.read_bytes);
    }
    assert!(read[0].abs_diff(read[1]) < WINDOW_BYTES, "{read:?}");
}

#[test]
fn what_is_before_the_view_is_not_read() {
    let view = || EventKind::ViewChanged { messages: vec![Message::user("sum")] };
    let events = || long(300).chain([view()]).chain(long(3));
    let state = State::with("one", events());
    let (text, replay) = whole(&state);
    assert!(replay.read_bytes < 20_000, "{}", replay.read_bytes);
    assert_eq!(replay.messages[0], Message::user("sum"));
    assert_eq!(replay.messages.len(), 2 + 2 * 3);
    assert_eq!(replay.turns(), 303);
    // The journal alone says the same.
    std::fs::remove_file(state.journal("one").with_file_name("journal.index")).unwrap();
    let (same, replay) = whole(&state);
    assert_eq!(same, text);
    assert_eq!(replay.turns(), 303);
    assert!(replay.read_bytes > 600_000);
}

#[test]
fn places_are_remembered_up_to_a_number() {
    let mut state = State::with("one", []);
    state.sessions = state.sessions.clone().with_window(u64::MAX);
    let (mut journal, _) = state.sessions.resume("one").unwrap();
    for messages in 0..100_000 {
        journal.mark(messages);
    }
    assert!(journal.marks.len() <= 512);
    assert_eq!(journal.marks.last().unwrap().messages, 99_999);
}

/// Makes a session with outputs and pre-images of so many bytes, last used at a time.
fn sized(state: &State, id: &str, updated_at_ms: u64, outputs: usize, preimages: usize) {
    let journal = state.sessions.create(header(id)).unwrap();
    state.sessions.note(&entry(id, updated_at_ms)).unwrap();
    std::fs::write(journal.spool_dir().join("1.txt"), vec![b'x'; outputs]).unwrap();
    let contents = journal.dir().join("undo/contents");
    std::fs::create_dir_all(&contents).unwrap();
    std::fs::write(contents.join("a"), vec![b'x'; preimages]).unwrap();
    std::fs::write(journal.dir().join("past.openai"), "x").unwrap();
    std::fs::write(journal.dir().join("journal.index"), "x").unwrap();
}

fn removed(state: &State, max_bytes: u64, running: &str) -> Vec<(String, Kept)> {
    let mut removed = Vec::new();
    state.sessions.keep_below(max_bytes, running, |gone| removed.push(gone)).unwrap();
    assert!(removed.iter().all(|removed| removed.bytes > 0 && !removed.to_string().is_empty()));
    removed.into_iter().map(|removed| (removed.session, removed.what)).collect()
}

#[test]
fn what_is_oldest_goes_outputs_first_and_journals_last() {
    let state = State::new();
    // The ids say nothing of the age.
    for (id, at) in [("new", 3), ("old", 1), ("mid", 2)] {
        sized(&state, id, at, 10_000, 10_000);
    }
    let gone = |list: &[(&str, Kept)]| -> Vec<_> {
        list.iter().map(|(id, what)| ((*id).to_owned(), *what)).collect()
    };
    assert_eq!(removed(&state, 100_000, "new"), []);
    assert_eq!(removed(&state, 60_000, "new"), gone(&[("old", Kept::Outputs)]));
    assert!(state.folder().join("old/spool").is_dir());
    assert!(!state.folder().join("old/past.openai").exists());
    assert!(state.folder().join("mid/past.openai").exists());
    assert_eq!(state.replay("old").messages, [], "it can be gone on with");
    let expected = gone(&[("mid", Kept::Outputs), ("old", Kept::Preimages)]);
    assert_eq!(removed(&state, 35_000, "new"), expected);
    // Without the one that runs, journals are all that is left.
    let expected =
        gone(&[("mid", Kept::Preimages), ("old", Kept::Session), ("mid", Kept::Session)]);
    assert_eq!(removed(&state, 1000, "new"), expected);
    let ids: Vec<_> = state.sessions.list().unwrap().into_iter().map(|entry| entry.id).collect();
    assert_eq!(ids, ["new"]);
    assert!(state.folder().join("new/spool/1.txt").exists());
    assert!(state.folder().join("new/undo/contents/a").exists());
}

#[test]
fn room_is_made_for_more_than_the_next_output() {
    let state = State::new();
    for (id, at) in [("old", 1), ("mid", 2), ("new", 3)] {
        sized(&state, id, at, 10_000, 10_000);
    }
    // Without the first it would fit, but be full again at once.
    let gone = removed(&state, 55_000, "new");
    assert_eq!(gone, [("old".to_owned(), Kept::Outputs), ("mid".to_owned(), Kept::Outputs)]);
}

#[test]
fn what_went_before_something_could_not_be_removed_is_told() {
    let state = State::new();
    sized(&state, "old", 1, 10_000, 10_000);
    // No folder, so that it cannot be removed as one.
    let contents = state.folder().join("old/undo/contents");
    std::fs::remove_dir_all(&contents).unwrap();
    std::fs::write(&contents, "in the way").unwrap();
    let mut told = Vec::new();
    let done = state.sessions.keep_below(1, "mine", |gone| told.push(gone.what));
    assert!(matches!(done, Err(JournalError::Unwritable { path, .. }) if path == contents));
    assert_eq!(told, [Kept::Outputs]);
}

#[test]
fn a_session_in_use_or_about_to_begin_is_left_alone() {
    let state = State::new();
    sized(&state, "used", 1, 10_000, 10_000);
    sized(&state, "idle", 2, 10_000, 10_000);
    state.sessions.reserve("begins").unwrap();
    let (journal, _) = state.sessions.resume("used").unwrap();
    let gone = removed(&state, 10, "mine");
    assert!(gone.iter().all(|(id, _)| id == "idle"), "{gone:?}");
    assert_eq!(gone.len(), 3);
    assert!(state.folder().join("begins").exists());
    // Another process makes room already.
    let lock = File::open(state.folder().join("quota.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).unwrap();
    drop(journal);
    assert_eq!(removed(&state, 10, "mine"), []);
    drop(lock);
    assert_eq!(removed(&state, 10, "mine").len(), 3);
}
