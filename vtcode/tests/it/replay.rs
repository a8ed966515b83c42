//! `vtcode replay` as a user runs it: on the bundled sample, on a journal, on what is neither.

use std::path::PathBuf;

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::user::{Ran, User};

fn sample() -> String {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
    folder.join("../vtcode-core/src/laboratory/sample.jsonl").to_str().unwrap().to_owned()
}

/// Returns the words of the first row with this name.
fn row(ran: &Ran, name: &str) -> Vec<String> {
    let line = ran.stdout.lines().find(|line| line.trim_start().starts_with(name));
    let line = line.unwrap_or_else(|| panic!("no row `{name}`: {ran}"));
    line.trim_start()[name.len()..].split_whitespace().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_sample_replays_the_same_to_the_byte_with_and_without() {
    let user = User::new();
    let args = ["replay", &sample(), "--all", "--compare"];
    let first = user.vtcode(args).run().await.exits(0);
    let second = user.vtcode(args).run().await.exits(0);
    assert_eq!(first.stdout, second.stdout, "every hash, time and interval is the same");
    for jobs in ["1", "7"] {
        let ran = user.vtcode(args.into_iter().chain(["--jobs", jobs])).run().await.exits(0);
        assert_eq!(first.stdout, ran.stdout, "on {jobs} threads, too");
    }

    let number = |name: &str, nth: usize| -> u64 { row(&first, name)[nth].parse().unwrap() };
    let (off, best) = ("everything off ", "files attached, at best ");
    // After the time and its unit: steps, avoided.
    assert_eq!(number(off, 3), 0);
    assert!(number(best, 3) > 0, "{first}");
    assert_eq!(number(off, 2), number(best, 2) + number(best, 3), "a step is taken or left out");
    assert!(first.stdout.contains("What a record cannot tell"), "{first}");
    let hashes: std::collections::BTreeSet<String> =
        ["everything off ", "calls run at once ", best]
            .iter()
            .map(|name| row(&first, name).pop().unwrap())
            .collect();
    assert_eq!(hashes.len(), 3, "other events have another hash: {hashes:?}");
}

#[tokio::test]
async fn one_session_is_chosen_by_the_beginning_of_its_id() {
    let user = User::new();
    let ran = user.vtcode(["replay", &sample(), "--session", "shop-2"]).run().await.exits(0);
    assert!(ran.stdout.starts_with("session shop-2 (example/shop)"), "{ran}");
    let ran = user.vtcode(["replay", &sample(), "--session", "nobody"]).run().await.exits(2);
    assert!(ran.stderr.contains("no session in"), "{ran}");
}

#[tokio::test]
async fn a_session_of_ours_replays_in_the_steps_it_took() {
    let user = User::with([("src/a.rs", "fn a() {}\n")]);
    let model = ScriptedModel::start(vec![
        call("grep_file", json!({"pattern": "fn a", "path": "."})),
        call("read_file", json!({"path": "src/a.rs"})),
        call("run_command", json!({"command": "echo done"})),
        say("It is there."),
    ])
    .await;
    user.exec(&model, "find a").run().await.exits(0);
    let journal = user.session().join("journal.jsonl");
    let args = ["replay", journal.to_str().unwrap(), "--compare"];
    let ran = user.vtcode(args).run().await.exits(0);
    assert_eq!(row(&ran, "everything off ")[2], "4", "{ran}");
    let again = user.vtcode(args).run().await.exits(0);
    assert_eq!(ran.stdout, again.stdout);
}

#[tokio::test]
async fn what_is_no_recorded_session_is_said_to_be_none() {
    let cases: [(&str, &[u8], &str); 8] = [
        ("empty", b"", "there is no recorded session in it"),
        ("blank", b"\n \n", "is empty"),
        ("words", b"hello\n", "is no recorded session"),
        ("other.json", b"{\"a\": 1}\n", "is no recorded session"),
        ("binary", b"\xff\xfe\x00", "it is no text"),
        ("torn.zst", b"\x28\xb5\x2f\xfd\x00", "not complete, so get it again"),
        ("packed.gz", b"\x1f\x8b\x08\xff", "must be unpacked"),
        (
            "half.jsonl",
            b"{\"session_id\":\"a\",\"steps\":[]}\n{\"session\n",
            "line 2 is no recorded session: EOF while parsing a string at line 1 column 9; mend",
        ),
    ];
    for (name, bytes, words) in cases {
        let user = User::with([(name, bytes)]);
        let ran = user.vtcode(["replay", name]).run().await.exits(2);
        assert!(ran.stderr.contains(words), "{name}: {ran}");
        assert_eq!(ran.stdout, "", "{name}");
    }
    let user = User::new();
    let ran = user.vtcode(["replay", "none.jsonl"]).run().await.exits(2);
    assert!(ran.stderr.contains("cannot read `none.jsonl`"), "{ran}");
}
