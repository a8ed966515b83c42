//! Answers as each provider documents them, in files beside this test: heard whole, at every split
//! and byte by byte, streamed and not; and what becomes of them when bytes of them are others.

use std::path::{Path, PathBuf};

use expect_test::expect_file;
use vtcode_core::config::endpoint::Wire;

#[path = "../wires/harness.rs"]
mod harness;

use harness::{Dice, check, told};

const CASES: [&str; 6] = ["text", "calls", "thinking", "refusal", "cached", "error"];

fn folder(wire: Wire) -> PathBuf {
    let name = match wire {
        Wire::OpenAiChat => "openai_chat",
        Wire::OpenAiResponses => "openai_responses",
        Wire::Anthropic => "anthropic",
        _ => "gemini",
    };
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/wires").join(name)
}

/// Every answer of a wire: the name of its file, and its bytes.
fn answers(wire: Wire) -> Vec<(String, Vec<u8>)> {
    let names = CASES.iter().flat_map(|case| ["sse", "json"].map(|kind| format!("{case}.{kind}")));
    names
        .map(|name| {
            let path = folder(wire).join(&name);
            let bytes = std::fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
            (name, bytes)
        })
        .collect()
}

#[test]
fn each_answer_says_the_same_at_every_split() {
    for wire in Wire::ALL {
        for (name, bytes) in answers(wire) {
            let whole = check(wire, &bytes);
            expect_file![folder(wire).join(format!("{name}.told"))].assert_eq(&whole);
            for split in 0..bytes.len() {
                let (head, tail) = bytes.split_at(split);
                assert_eq!(told(wire, [head, tail]).text, whole, "{wire} {name} at {split}");
            }
        }
    }
}

#[test]
fn an_answer_that_is_not_streamed_holds_the_same_parts() {
    let parts = |text: &str| -> Vec<String> {
        let is_part = |line: &&str| line.starts_with('=') || line.starts_with("finish");
        text.lines().filter(is_part).map(str::to_owned).collect()
    };
    for wire in Wire::ALL {
        for case in ["text", "calls", "cached"] {
            let read = |kind| std::fs::read(folder(wire).join(format!("{case}.{kind}"))).unwrap();
            let (streamed, whole) = (read("sse"), read("json"));
            let streamed = parts(&told(wire, [&*streamed]).text);
            assert_eq!(parts(&told(wire, [&*whole]).text), streamed, "{wire} {case}");
        }
    }
}

/// `VTCODE_WIRE_MUTATIONS` sets how many changed answers are heard.
#[test]
fn whatever_bytes_arrive_they_say_the_same_however_they_are_cut() {
    let wanted = std::env::var("VTCODE_WIRE_MUTATIONS").ok().and_then(|n| n.parse().ok());
    let each = wanted.unwrap_or(2_400_usize).div_ceil(Wire::ALL.len());
    for wire in Wire::ALL {
        let answers = answers(wire);
        for n in 0..each {
            let mut dice = Dice::of(format!("{wire} {n}").as_bytes());
            let mut bytes = answers[n % answers.len()].1.clone();
            for _ in 0..=dice.roll(4) {
                mutate(&mut bytes, &mut dice, &answers);
            }
            check(wire, &bytes);
        }
    }
}

/// Bytes that mean something to a framing or to JSON.
const SPECIAL: &[u8] = b"\"\\{}[]:,\n\r \xef\xbb\xbf\xff\x00u09-";

fn mutate(bytes: &mut Vec<u8>, dice: &mut Dice, answers: &[(String, Vec<u8>)]) {
    let at = dice.roll(bytes.len());
    let end = (at + dice.roll(60)).min(bytes.len());
    match dice.roll(7) {
        _ if bytes.is_empty() => bytes.push(SPECIAL[dice.roll(SPECIAL.len())]),
        0 => bytes[at] = SPECIAL[dice.roll(SPECIAL.len())],
        1 => bytes.insert(at, SPECIAL[dice.roll(SPECIAL.len())]),
        2 => bytes[at] ^= 1 << dice.roll(8),
        3 => drop(bytes.drain(at..end)),
        4 => bytes.extend_from_within(at..end),
        5 => bytes.truncate(at),
        _ => {
            let other = &answers[dice.roll(answers.len())].1;
            let from = dice.roll(other.len());
            let to = (from + dice.roll(300)).min(other.len());
            bytes.splice(at..at, other[from..to].iter().copied());
        }
    }
}
