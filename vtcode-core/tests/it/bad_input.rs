//! What a workspace should not hold but may: every tool answers within its deadline, in words, and
//! leaves everything as it was.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;

use serde_json::{Value, json};
use vtcode_core::config::endpoint::Wire;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

use crate::session::{Session, full, within};

async fn answer(registry: &OptimizedToolRegistry, tool: &str, args: Value) -> String {
    match within(registry.execute_tool_optimized(tool, args)).await {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    }
}

#[tokio::test]
async fn pipes_devices_loops_and_huge_files_are_answered_by_every_tool() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let at = |name: &str| session.workspace.path().join(name);
    let made = std::process::Command::new("mkfifo").arg(at("pipe")).status().unwrap();
    assert!(made.success());
    symlink("/dev/zero", at("zero")).unwrap();
    symlink("loop", at("loop")).unwrap();
    File::create(at("huge")).unwrap().set_len(2 << 30).unwrap();
    fs::write(session.workspace.path().join(OsStr::from_bytes(b"odd\xff")), "alpha\n").unwrap();
    let registry = session.registry();
    let names = |()| {
        let names = fs::read_dir(session.workspace.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let before = names(());
    for file in ["pipe", "zero", "loop", "huge"] {
        for (tool, args) in [
            ("read_file", json!({"path": file})),
            ("edit_file", json!({"path": file, "old_text": "a", "new_text": "b"})),
            ("apply_patch", json!({"patch": format!("*** Update File: {file}\n-a\n+b\n")})),
            ("grep_file", json!({"pattern": "alpha", "path": file})),
            ("list_files", json!({"path": file})),
        ] {
            let told = answer(&registry, tool, args).await;
            assert!(!told.is_empty() && told.len() < 20_000, "{tool} {file}: {told}");
        }
    }
    for (tool, args) in [
        ("list_files", json!({"path": "."})),
        ("grep_file", json!({"pattern": "alpha", "mode": "files"})),
    ] {
        assert!(answer(&registry, tool, args).await.contains("a.txt"), "{tool}");
    }
    assert_eq!(names(()), before);
    assert_eq!(fs::metadata(at("huge")).unwrap().len(), 2 << 30);
}

#[tokio::test]
async fn a_pattern_without_end_is_refused_or_searched_in_bounds() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let line = "a".repeat(50_000);
    fs::write(session.workspace.path().join("long.txt"), line).unwrap();
    let registry = session.registry();
    let many: Vec<_> = (0..20_000).map(|n| format!("word{n}")).collect();
    for pattern in [
        "((a{1000}){1000}){1000}".to_owned(),
        "(a*)*(a*)*(a*)*b".to_owned(),
        "(a|aa|a?)+$b".to_owned(),
        many.join("|"),
        "(".repeat(10_000),
        "\\pL{900}\\pN{900}".to_owned(),
    ] {
        let told = answer(&registry, "grep_file", json!({"pattern": pattern})).await;
        let shown: String = pattern.chars().take(30).collect();
        assert!(!told.is_empty() && told.len() < 40_000, "{shown}: {}", told.len());
    }
}

#[tokio::test]
async fn a_folder_of_very_many_files_is_answered_in_bounds() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let many = session.workspace.path().join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..100_000 {
        File::create(many.join(n.to_string())).unwrap();
    }
    let registry = session.registry();
    for (tool, args) in [
        ("list_files", json!({"path": "many"})),
        ("read_file", json!({"path": "many"})),
        ("read_file", json!({"path": "many/none"})),
        ("grep_file", json!({"pattern": "x", "path": "many"})),
    ] {
        let told = answer(&registry, tool, args).await;
        assert!(!told.is_empty() && told.len() < 20_000, "{tool}: {}", told.len());
    }
}
