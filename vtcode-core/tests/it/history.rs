//! Long conversations: the oldest messages lie on the disk and the newest in memory. What is sent is
//! the same, byte for byte, whatever lies where and whatever was lost beside the journal.

use std::fs;
use std::path::{Path, PathBuf};

use serde_json::json;
use vtcode_core::config::endpoint::Wire;
use vtcode_core::config::limits::Limits;
use vtcode_testkit::{Reply, call, say};

use crate::session::{ALL, Session, full, plain, small};

const PROMPTS: [&str; 6] = ["one", "two", "three", "four", "five", "six"];

/// Each prompt takes two turns with results, and an answer.
fn script() -> Vec<Reply> {
    let turn = |n: usize| {
        let text = format!("{n} ").repeat(150);
        // Nothing is read twice: that a read gives what it gave before is known of what is in memory.
        let before = n.checked_sub(1).map_or("a.txt".to_owned(), |before| format!("{before}.txt"));
        call("write_file", json!({"path": format!("{n}.txt"), "content": text}))
            .and(call("read_file", json!({"path": before})))
    };
    let prompt = |n: usize| [turn(2 * n), turn(2 * n + 1), say(format!("Done with {n}."))];
    (0..PROMPTS.len()).flat_map(prompt).collect()
}

async fn worked(wire: Wire, limits: Limits, runs: &[&[&str]]) -> Session {
    let session = Session::new(wire, limits, script()).await;
    for prompts in runs {
        session.run(prompts).await;
    }
    session
}

fn beside(session: &Session, name: &str) -> PathBuf {
    session.journal_path().with_file_name(name)
}

/// The file with the oldest messages; its name says how they are rendered.
fn past(session: &Session, wire: Wire) -> PathBuf {
    let files = fs::read_dir(session.journal_path().parent().unwrap()).unwrap();
    let begin = format!("past.{wire}-");
    let named = |path: &PathBuf| path.file_name().unwrap().to_str().unwrap().starts_with(&begin);
    files.map(|file| file.unwrap().path()).find(named).unwrap_or_else(|| beside(session, "none"))
}

fn bytes(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |stat| stat.len())
}

#[tokio::test]
async fn where_the_messages_lie_changes_no_byte() {
    let each: Vec<&[&str]> = PROMPTS.iter().map(std::slice::from_ref).collect();
    for wire in ALL {
        let whole = worked(wire, plain(), &[&PROMPTS]).await;
        assert_eq!(bytes(&past(&whole, wire)), 0);
        for runs in [vec![&PROMPTS[..]], vec![&PROMPTS[..3], &PROMPTS[3..]], each.clone()] {
            let parted = worked(wire, small(), &runs).await;
            assert_eq!(parted.bodies(), whole.bodies(), "{wire}");
            let last = whole.bodies().pop().unwrap();
            let stored = fs::read_to_string(past(&parted, wire)).unwrap();
            assert!(stored.len() * 2 > last.len(), "{} of {} bytes", stored.len(), last.len());
            assert!(last.contains(&stored), "{wire}: what is stored is what is sent, once");
        }
    }
}

#[tokio::test]
async fn a_session_writes_no_more_than_twice_what_it_says() {
    let session = worked(Wire::OpenAiChat, small(), &[&PROMPTS[..3], &PROMPTS[3..]]).await;
    let said = session.bodies().pop().unwrap().len() as u64;
    let stored = bytes(&past(&session, Wire::OpenAiChat));
    assert!(stored <= said, "{stored} stored, {said} said");
    // Each segment is written once, however often the window moves.
    let journal = fs::read_to_string(session.journal_path()).unwrap();
    let records = journal.lines().count() as u64;
    let own: u64 = journal
        .lines()
        .filter(|line| line.contains("\"type\":\"part\"") || line.contains("tool_finished"))
        .map(|line| line.len() as u64)
        .sum();
    assert!(own + stored < 2 * said + 300 * records, "{own} + {stored}, {said} said");
}

type Damage = fn(&Session, Wire);

/// What may happen to the files beside a journal.
fn damages() -> Vec<(&'static str, Damage)> {
    vec![
        ("nothing", |_, _| {}),
        ("no index", |s, _| fs::remove_file(beside(s, "journal.index")).unwrap()),
        ("no past", |s, w| fs::remove_file(past(s, w)).unwrap()),
        ("an empty past", |s, w| fs::write(past(s, w), "").unwrap()),
        ("a torn past", |s, w| {
            let whole = fs::read(past(s, w)).unwrap();
            fs::write(past(s, w), &whole[..whole.len() - 1]).unwrap();
        }),
        ("a past with another end", |s, w| {
            let mut whole = fs::read(past(s, w)).unwrap();
            *whole.last_mut().unwrap() = b'?';
            fs::write(past(s, w), whole).unwrap();
        }),
        ("a torn index", |s, _| {
            let whole = fs::read(beside(s, "journal.index")).unwrap();
            fs::write(beside(s, "journal.index"), &whole[..whole.len() - 9]).unwrap();
        }),
        ("an index with another number", |s, _| {
            let whole = fs::read_to_string(beside(s, "journal.index")).unwrap();
            let changed = whole.replace("\"messages\":", "\"messages\":1");
            fs::write(beside(s, "journal.index"), changed).unwrap();
        }),
        ("an index of garbage", |s, _| {
            fs::write(beside(s, "journal.index"), [0xff; 40_000]).unwrap();
        }),
        ("no files at all", |s, w| {
            fs::remove_file(beside(s, "journal.index")).unwrap();
            fs::remove_file(past(s, w)).unwrap();
        }),
    ]
}

#[tokio::test]
async fn what_lies_beside_the_journal_can_be_lost() {
    for wire in [Wire::OpenAiChat, Wire::Anthropic] {
        let whole = worked(wire, plain(), &[&PROMPTS]).await;
        for (what, damage) in damages() {
            let session = worked(wire, small(), &[&PROMPTS[..4]]).await;
            damage(&session, wire);
            session.run(&PROMPTS[4..5]).await;
            assert_eq!(session.bodies(), whole.bodies()[..15], "{wire}: {what}");
            // It is whole again.
            session.run(&PROMPTS[5..]).await;
            assert_eq!(session.bodies(), whole.bodies(), "{wire}: {what}");
        }
    }
}

#[tokio::test]
async fn an_index_of_records_that_are_gone_is_not_believed() {
    let whole = worked(Wire::OpenAiChat, plain(), &[&PROMPTS]).await;
    let session = Session::new(Wire::OpenAiChat, small(), script()).await;
    session.run(&PROMPTS[..1]).await;
    let journal = fs::read(session.journal_path()).unwrap();
    session.run(&PROMPTS[1..3]).await;
    let files = [beside(&session, "journal.index"), past(&session, Wire::OpenAiChat)];
    let kept = files.each_ref().map(|path| fs::read(path).unwrap());

    // The machine forgot what was not yet on its disk: the journal is shorter than its index says.
    let other = Session::new(Wire::OpenAiChat, small(), script()).await;
    other.run(&PROMPTS[..1]).await;
    fs::write(other.journal_path(), &journal).unwrap();
    for (path, content) in files.iter().zip(&kept) {
        let name = path.file_name().unwrap().to_str().unwrap();
        fs::write(beside(&other, name), content).unwrap();
    }
    other.run(&PROMPTS[1..2]).await;
    let texts = |session: &Session| session.transcript();
    assert!(texts(&whole).starts_with(&texts(&other)));
}

#[tokio::test]
async fn what_is_in_memory_does_not_grow_with_the_conversation() {
    let session = worked(Wire::OpenAiChat, small(), &[&PROMPTS]).await;
    let (_, replay) = session.sessions.resume(crate::session::ID).unwrap();
    let (past, read) = (replay.past_messages(), replay.messages.len());
    assert!(past > 4 * read, "{past} messages on the disk, {read} in memory");
    // Everything from memory, as when it is switched off.
    let mut limits = full();
    limits.agent.history_window_bytes = usize::MAX;
    let session = worked(Wire::OpenAiChat, limits, &[&PROMPTS]).await;
    let (_, replay) = session.sessions.resume(crate::session::ID).unwrap();
    assert_eq!(replay.past_messages(), 0);
}
