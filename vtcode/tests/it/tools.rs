//! Each tool once, from the model's call to the text that the model reads.

use expect_test::{Expect, expect};
use serde_json::{Value, json};
use vtcode_testkit::{Reply, ScriptedModel, TempWorkspace, call, say};

use crate::user::{User, last_result, results};

const FILES: [(&str, &str); 3] = [
    ("Cargo.toml", "[package]\nname = \"sum\"\n"),
    ("src/lib.rs", "pub fn sum(a: u32, b: u32) -> u32 {\n    a - b\n}\n"),
    ("src/deep/notes.md", "sum is wrong\n"),
];

/// Runs one call, compares what the model reads, and returns the folder.
async fn one(name: &str, arguments: Value, read: Expect) -> TempWorkspace {
    let user = User::with(FILES);
    let model = ScriptedModel::start(vec![call(name, arguments), say("Done.")]).await;
    user.exec(&model, "go").run().await.exits(0);
    read.assert_eq(&last_result(&model));
    user.folder
}

#[tokio::test]
async fn read_file() {
    let files =
        json!({"files": [{"path": "src/lib.rs", "start": 2, "end": 2}, {"path": "Cargo.toml"}]});
    one(
        "read_file",
        files,
        expect![[r#"
        == src/lib.rs (lines 2-2 of 3)
        2	    a - b
        == Cargo.toml (lines 1-2 of 2)
        1	[package]
        2	name = "sum"
    "#]],
    )
    .await;
}

#[tokio::test]
async fn list_files() {
    one(
        "list_files",
        json!({"depth": 3}),
        expect![[r"
        Cargo.toml
        src/
          deep/
            notes.md
          lib.rs
    "]],
    )
    .await;
}

#[tokio::test]
async fn grep_file() {
    one(
        "grep_file",
        json!({"pattern": "sum", "glob": "*.rs"}),
        expect![[r"
        src/lib.rs
        1:pub fn sum(a: u32, b: u32) -> u32 {
        (1 match in 1 file)
    "]],
    )
    .await;
}

#[tokio::test]
async fn edit_file() {
    let edit = json!({"path": "src/lib.rs", "old_text": "a - b", "new_text": "a + b"});
    let folder = one(
        "edit_file",
        edit,
        expect![[r"
            edited src/lib.rs: 1 replacement, +1 -1 lines
            1	pub fn sum(a: u32, b: u32) -> u32 {
            2	    a + b
            3	}"]],
    )
    .await;
    assert!(folder.read("src/lib.rs").contains("    a + b\n"));
}

#[tokio::test]
async fn write_file() {
    let write = json!({"path": "tests/new.rs", "content": "#[test]\nfn t() {}\n"});
    let folder = one("write_file", write, expect!["created tests/new.rs: 2 lines"]).await;
    assert_eq!(folder.read("tests/new.rs"), "#[test]\nfn t() {}\n");
}

#[tokio::test]
async fn apply_patch() {
    let patch = "*** Begin Patch\n*** Update File: src/lib.rs\n@@\n-    a - b\n+    a + b\n\
                 *** Delete File: src/deep/notes.md\n*** End Patch\n";
    let folder = one(
        "apply_patch",
        json!({"patch": patch}),
        expect![[r"
            applied to 2 files
            M src/lib.rs +1 -1
            D src/deep/notes.md +0 -1"]],
    )
    .await;
    assert!(folder.read("src/lib.rs").contains("    a + b\n"));
    assert_eq!(folder.snapshot().len(), 2);
}

#[tokio::test]
async fn run_command() {
    let command = json!({"command": "cat Cargo.toml; echo oops >&2; false"});
    one(
        "run_command",
        command,
        expect![[r#"
        [package]
        name = "sum"
        oops
        [exit code 1]"#]],
    )
    .await;
}

#[tokio::test]
async fn run_command_ends_at_its_deadline() {
    let command = json!({"command": "echo begun; sleep 1000", "timeout_ms": 300});
    one(
        "run_command",
        command,
        expect![[r"
        error: begun
        [ended at its deadline of 300 ms; for more time give timeout_ms]"]],
    )
    .await;
}

#[tokio::test]
async fn a_long_output_is_kept_where_read_file_finds_it() {
    let user = User::new();
    let model = ScriptedModel::start_with(|request, number| -> Reply {
        match number {
            0 => call("run_command", json!({"command": "seq 100001 120000"})),
            1 => {
                let result = results(request).pop().unwrap();
                let path = spool_path(&result).to_owned();
                call("read_file", json!({"path": path, "start": 10_000, "end": 10_001}))
            }
            _ => say("Done."),
        }
    })
    .await;
    user.exec(&model, "go").run().await.exits(0);
    let told = results(&model.requests()[2]);
    assert!(told[0].len() < 17 * 1024, "{} bytes", told[0].len());
    assert!(told[0].starts_with("100001\n") && told[0].contains("\n120000\n"), "{}", told[0]);
    assert!(told[0].ends_with("[exit code 0]"), "{}", told[0]);
    assert!(
        told[1].contains("10000\t110000\n") && told[1].contains("10001\t110001"),
        "{}",
        told[1]
    );
    let spool = user.session().join("spool");
    let whole = std::fs::read_to_string(spool_path(&told[0])).unwrap();
    assert_eq!(whole.lines().count(), 20_000);
    assert_eq!(std::fs::read_dir(spool).unwrap().count(), 1);

    // It can still be read when the session goes on.
    let path = spool_path(&told[0]).to_owned();
    let model = ScriptedModel::start(vec![
        call("read_file", json!({"path": path, "start": 20_000})),
        call("write_file", json!({"path": path, "content": "mine"})),
        say("Done."),
    ])
    .await;
    let url = model.openai_url();
    user.vtcode(["resume", "--last", "--base-url", &url, "more"]).run().await.exits(0);
    let told = results(&model.requests()[2]);
    assert!(told[2].contains("20000\t120000"), "{}", told[2]);
    assert!(told[3].contains("may be read but not written"), "{}", told[3]);
}

/// Returns the path of the spooled output that a result names.
fn spool_path(result: &str) -> &str {
    let at = result.find("/spool/").unwrap_or_else(|| panic!("no path in {result}"));
    let begin = result[..at].rfind(|c: char| c.is_whitespace() || c == '=').map_or(0, |i| i + 1);
    let end = result[at..].find(".txt").unwrap() + at + ".txt".len();
    &result[begin..end]
}

#[tokio::test]
async fn no_tool_leaves_the_folder() {
    let user = User::with([("inside.txt", "inside\n"), ("dir/file.txt", "x\n")]);
    let outside = TempWorkspace::with([("secret.txt", "secret\n")]);
    let secret = outside.path().join("secret.txt");
    std::os::unix::fs::symlink(&secret, user.folder.path().join("link.txt")).unwrap();
    std::os::unix::fs::symlink(outside.path(), user.folder.path().join("linked")).unwrap();
    let name = outside.path().file_name().unwrap().to_str().unwrap();
    let ways = [
        format!("../{name}/secret.txt"),
        format!("dir/../../{name}/secret.txt"),
        secret.display().to_string(),
        "link.txt".to_owned(),
        "linked/secret.txt".to_owned(),
        "/etc/passwd".to_owned(),
        "~/.ssh/id_rsa".to_owned(),
    ];
    let before = (user.folder.snapshot(), outside.snapshot());
    for way in &ways {
        let patch =
            format!("*** Begin Patch\n*** Update File: {way}\n@@\n-secret\n+mine\n*** End Patch\n");
        let delete = format!("*** Begin Patch\n*** Delete File: {way}\n*** End Patch\n");
        let moved = format!(
            "*** Begin Patch\n*** Update File: inside.txt\n*** Move to: {way}\n@@\n-inside\n+mine\n*** End Patch\n"
        );
        let calls = [
            call("read_file", json!({"path": way})),
            call("list_files", json!({"path": way})),
            call("grep_file", json!({"pattern": "s", "path": way})),
            call("edit_file", json!({"path": way, "old_text": "secret", "new_text": "mine"})),
            call("apply_patch", json!({"patch": patch})),
            call("apply_patch", json!({"patch": delete})),
            // A tilde is a name like any other; to move there would be allowed.
            call(
                "apply_patch",
                json!({"patch": if way.starts_with('~') { &patch } else { &moved }}),
            ),
        ];
        let count = calls.len();
        let all = calls.into_iter().reduce(Reply::and).unwrap();
        let model = ScriptedModel::start(vec![all, say("Done.")]).await;
        user.exec(&model, "go").run().await.exits(0);
        let told = results(&model.requests()[1]);
        assert_eq!(told.len(), count);
        for (number, result) in told.iter().enumerate() {
            assert!(!result.contains("secret\n") && !result.contains("root:"), "{way}: {result}");
            assert!(
                !result.contains("edited") && !result.contains("mine"),
                "{way} {number}: {result}"
            );
        }
        assert_eq!((user.folder.snapshot(), outside.snapshot()), before, "{way}");
    }
    let write = |way: &String| call("write_file", json!({"path": way, "content": "mine"}));
    let all = ways[..6].iter().map(write).reduce(Reply::and).unwrap();
    let model = ScriptedModel::start(vec![all, say("Done.")]).await;
    user.exec(&model, "go").run().await.exits(0);
    assert!(results(&model.requests()[1]).iter().all(|result| result.contains("refused: ")));
    assert_eq!((user.folder.snapshot(), outside.snapshot()), before);
}

#[tokio::test]
async fn a_command_has_no_input_and_no_colours() {
    let user = User::new();
    let command = "cat; echo \"[$TERM] [$NO_COLOR] [$PAGER]\"; test -t 0 || echo no terminal";
    let model =
        ScriptedModel::start(vec![call("run_command", json!({"command": command})), say("Done.")])
            .await;
    user.exec(&model, "-").stdin("the prompt").run().await.exits(0);
    assert_eq!(last_result(&model), "[dumb] [1] [cat]\nno terminal\n[exit code 0]");
}
