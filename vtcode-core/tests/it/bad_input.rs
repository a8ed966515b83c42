//! What a workspace should not hold but may: every tool answers within its deadline, in words, and
//! leaves everything as it was.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use vtcode_core::config::endpoint::Wire;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::ToolError;

use crate::session::{Session, full, within};

async fn answer(registry: &OptimizedToolRegistry, tool: &str, args: Value) -> String {
    match within(registry.execute_tool_optimized(tool, args)).await {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    }
}

/// Everything below a folder: type and mode, size, time of the last change, and what it holds.
type Tree = BTreeMap<PathBuf, (u32, u64, (i64, i64), Vec<u8>)>;

fn tree(folder: &Path) -> Tree {
    let mut all = Tree::new();
    let mut left = vec![folder.to_owned()];
    while let Some(path) = left.pop() {
        let stat = fs::symlink_metadata(&path).unwrap();
        let holds = if stat.is_dir() {
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
            Vec::new()
        } else if stat.is_symlink() {
            fs::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
        } else if stat.is_file() && stat.len() < 1 << 20 {
            fs::read(&path).unwrap()
        } else {
            Vec::new()
        };
        let changed_at = (stat.mtime(), stat.mtime_nsec());
        all.insert(path, (stat.mode(), stat.len(), changed_at, holds));
    }
    all
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
    let before = tree(session.workspace.path());
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
    assert_eq!(tree(session.workspace.path()), before);
}

#[tokio::test]
async fn a_pattern_without_end_is_refused_or_searched_in_bounds() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let line = "a".repeat(20_000);
    fs::write(session.workspace.path().join("long.txt"), line).unwrap();
    let registry = session.registry();
    let before = tree(session.workspace.path());
    let many: Vec<_> = (0..5_000).map(|n| format!("word{n}")).collect();
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
    assert_eq!(tree(session.workspace.path()), before);
}

#[tokio::test]
async fn a_folder_of_very_many_files_is_answered_in_bounds() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let many = session.workspace.path().join("many");
    fs::create_dir(&many).unwrap();
    for n in 0..10_000 {
        File::create(many.join(n.to_string())).unwrap();
    }
    let registry = session.registry();
    let before = tree(session.workspace.path());
    for (tool, args) in [
        ("list_files", json!({"path": "many"})),
        ("read_file", json!({"path": "many"})),
        ("read_file", json!({"path": "many/none"})),
        ("grep_file", json!({"pattern": "x", "path": "many"})),
    ] {
        let told = answer(&registry, tool, args).await;
        assert!(!told.is_empty() && told.len() < 20_000, "{tool}: {}", told.len());
    }
    assert_eq!(tree(session.workspace.path()), before);
}

/// Arguments with a value in every place that a schema has.
fn filled(schema: &Value) -> Value {
    match schema["type"].as_str().unwrap() {
        "object" => {
            let fields = schema["properties"].as_object().into_iter().flatten();
            fields.map(|(name, schema)| (name.clone(), filled(schema))).collect()
        }
        "array" => json!([filled(&schema["items"])]),
        "string" => schema["enum"].get(0).cloned().unwrap_or_else(|| json!("a.txt")),
        "integer" => json!(1),
        "boolean" => json!(false),
        other => panic!("no value for {other}"),
    }
}

/// Returns where every value in a value stands, itself first.
fn places(value: &Value, at: &str) -> Vec<String> {
    let below: Vec<_> = match value {
        Value::Object(fields) => fields.iter().map(|(name, v)| (name.clone(), v)).collect(),
        Value::Array(items) => items.iter().enumerate().map(|(n, v)| (n.to_string(), v)).collect(),
        _ => Vec::new(),
    };
    let below = below.into_iter().flat_map(|(name, value)| places(value, &format!("{at}/{name}")));
    std::iter::once(at.to_owned()).chain(below).collect()
}

/// What stands in one place, and what a model may put there instead.
fn bent(args: &Value, at: &str) -> Vec<Value> {
    let deep = |wrap: &dyn Fn(Value) -> Value| (0..200).fold(json!("x"), |inner, _| wrap(inner));
    let values = [
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(i64::MIN),
        json!(u64::MAX),
        json!(1e308),
        json!(""),
        json!("\0"),
        json!("a\0b\u{feff}\u{202e}\n"),
        json!("../".repeat(100)),
        json!("é".repeat(20_000)),
        json!([]),
        json!({}),
        deep(&|inner| json!([inner])),
        deep(&|inner| json!({"x": inner})),
    ];
    let mut all: Vec<Value> = values
        .into_iter()
        .map(|value| {
            let mut args = args.clone();
            *args.pointer_mut(at).unwrap() = value;
            args
        })
        .collect();
    let there = args.pointer(at).unwrap();
    for name in there.as_object().into_iter().flat_map(serde_json::Map::keys) {
        let mut without = args.clone();
        let fields = without.pointer_mut(at).unwrap().as_object_mut().unwrap();
        let value = fields.remove(name).unwrap();
        all.push(without.clone());
        without.pointer_mut(at).unwrap()[format!("{name}_\0")] = value;
        all.push(without);
    }
    if there.is_object() {
        let mut more = args.clone();
        more.pointer_mut(at).unwrap()["long".repeat(10_000)] = json!([]);
        all.push(more);
    }
    all
}

#[tokio::test]
async fn arguments_bent_in_any_place_are_answered_in_words_and_refused_ones_do_nothing() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let registry = session.registry();
    let specs = registry.specs();
    assert_eq!(specs.len(), 9, "every tool is tried");
    let (mut refused, mut faults) = (0, Vec::new());
    for spec in specs {
        let args = filled(&spec.parameters);
        for args in places(&args, "").iter().flat_map(|at| bent(&args, at)) {
            let shown: String = args.to_string().chars().take(300).collect();
            let shown = format!("{} {shown}", spec.name);
            let before = tree(session.workspace.path());
            let (told, limit_bytes) =
                match within(registry.execute_tool_optimized(&spec.name, args)).await {
                    Ok(output) => (output.text, 40_000),
                    Err(ToolError::BadArguments { problem, .. }) => {
                        refused += 1;
                        assert!(problem.contains('`'), "{shown} names no field: {problem}");
                        assert_eq!(tree(session.workspace.path()), before, "{shown}");
                        (problem, 4_500)
                    }
                    Err(error) => (error.to_string(), 20_000),
                };
            if told.len() > limit_bytes || told.contains('\0') || told.contains("crashed") {
                faults.push(format!("{shown}: {}", told.chars().take(300).collect::<String>()));
            }
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    assert!(refused > 100, "{refused}");
}

/// How a file is changed under the tools.
#[derive(Debug, Clone, Copy)]
enum Swap {
    Rename,
    InPlace,
}

/// One of the two versions of a file, with its mark edited any number of times.
fn is_whole(content: &str) -> bool {
    let rest = content.strip_prefix("mark").map(|rest| rest.trim_start_matches('!'));
    rest.is_some_and(|rest| {
        rest == format!("\n{}", "a\n".repeat(90_000))
            || rest == format!("\n{}", "b\n".repeat(70_000))
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_changes_while_it_is_read_and_edited_is_never_torn() {
    let session = Session::new(Wire::OpenAiChat, full(), Vec::new()).await;
    let (path, other) = (session.workspace.path().join("s"), session.state.path().join("other"));
    let versions =
        [format!("mark\n{}", "a\n".repeat(90_000)), format!("mark\n{}", "b\n".repeat(70_000))];
    for swap in [Swap::Rename, Swap::InPlace] {
        fs::write(&path, &versions[0]).unwrap();
        let registry = session.registry();
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for version in versions.iter().cycle() {
                    if over.load(Ordering::Relaxed) {
                        return;
                    }
                    let found = fs::read_to_string(&path).unwrap();
                    assert!(is_whole(&found), "{swap:?}: torn, {} bytes", found.len());
                    match swap {
                        Swap::Rename => {
                            fs::write(&other, version).unwrap();
                            fs::rename(&other, &path).unwrap();
                        }
                        Swap::InPlace => fs::write(&path, version).unwrap(),
                    }
                }
            });
            let calls = async {
                for _ in 0..60 {
                    let read = answer(&registry, "read_file", json!({"path": "s", "end": 9})).await;
                    if matches!(swap, Swap::Rename) {
                        let (a, b) = (read.contains("\ta\n"), read.contains("\tb\n"));
                        let lines = if a { "of 90001)" } else { "of 70001)" };
                        assert!(a != b && read.contains(lines), "{read}");
                    }
                    let args = json!({"path": "s", "old_text": "mark", "new_text": "mark!"});
                    let told = answer(&registry, "edit_file", args).await;
                    let fits = told.starts_with("edited s: 1 replacement");
                    let empty = matches!(swap, Swap::InPlace) && told.contains("is not in it");
                    assert!(fits || told.contains("changed") || empty, "{swap:?}: {told}");
                }
                over.store(true, Ordering::Relaxed);
            };
            tokio::task::block_in_place(|| tokio::runtime::Handle::current().block_on(calls));
        });
        assert!(is_whole(&fs::read_to_string(&path).unwrap()), "{swap:?}");
        let left = fs::read_dir(session.workspace.path()).unwrap();
        let left = left.filter(|e| e.as_ref().unwrap().file_name().as_bytes().ends_with(b".tmp"));
        assert_eq!(left.count(), 0, "{swap:?}");
    }
}
