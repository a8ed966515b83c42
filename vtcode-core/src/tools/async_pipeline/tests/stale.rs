//! Random changes of a tree, and reads through a pipeline that keeps results, held against one that
//! keeps none: never a different text.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::kept::{look, seen};
use super::*;
use crate::safety::workspace::Workspace;
use crate::tools::builtin;
use crate::tools::witness::{Evidence, Version};

/// Numbers that look random and are the same for the same seed.
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n
    }

    fn of<'a>(&mut self, all: &[&'a str]) -> &'a str {
        all[self.below(all.len())]
    }
}

const FILES: [&str; 7] = ["a", "b", "d/x", "d/y", "e/x", "link", "e/deep/z"];
const FOLDERS: [&str; 5] = ["d", "e", "e/deep", "link", "."];

/// Makes one change; one that cannot be made changes nothing.
fn change(root: &Path, numbers: &mut Numbers) {
    let file = root.join(numbers.of(&FILES));
    let other = root.join(numbers.of(&FILES));
    let folder = root.join(numbers.of(&FOLDERS[..4]));
    let _ = match numbers.below(10) {
        // Few texts of few lengths, so that a change that keeps the size is common.
        0..4 => fs::write(&file, numbers.of(&["one\n", "two\n", "fn three\n", "fn fours\n"])),
        4 => fs::rename(&file, &other),
        5 => {
            let _ = fs::remove_file(root.join("link"));
            symlink(numbers.of(&["a", "b", "d", "e", "missing", "link"]), root.join("link"))
        }
        6 => {
            let mode = [0o644, 0o600, 0o755, 0o000][numbers.below(4)];
            fs::set_permissions(&file, fs::Permissions::from_mode(mode))
        }
        7 => fs::create_dir_all(&folder),
        8 => fs::remove_file(&file),
        _ if numbers.below(4) == 0 => fs::remove_dir_all(&folder),
        _ => fs::rename(&folder, root.join(numbers.of(&FOLDERS[..4]))),
    };
}

/// Waits until the clock has moved on so far that the latest change can be told from the next.
fn settle(root: &Path) {
    let probe = root.join("../clock");
    fs::write(&probe, "").unwrap();
    let version = Version::of(&fs::metadata(&probe).unwrap());
    loop {
        let mut evidence = Evidence::begin();
        evidence.add(&probe, Some(version));
        if evidence.can_tell() {
            return;
        }
        std::thread::yield_now();
    }
}

fn reader(root: &Path, limits: ToolLimits) -> AsyncToolPipeline {
    let workspace = Arc::new(Workspace::open(root).unwrap());
    let mut tools = builtin::all(
        &workspace,
        root.join("../spool"),
        [],
        Arc::new(crate::safety::sandbox::Sandbox::off()),
        &limits,
    );
    let looks = probe("look", |args, _| async move {
        let path = args["path"].as_str().unwrap();
        if !Path::new(path).is_dir() {
            return look(path);
        }
        let evidence = seen(path);
        let names = fs::read_dir(path).into_iter().flatten().flatten().map(|e| e.file_name());
        let mut names: Vec<_> = names.collect();
        names.sort();
        Ok(ToolOutput { evidence, ..ToolOutput::text(format!("{names:?}")) })
    });
    tools.push(Arc::new(looks.repeatable()));
    AsyncToolPipeline::with_registry(Arc::new(OptimizedToolRegistry::with_tools(tools, limits)))
}

#[tokio::test]
async fn no_sequence_of_changes_ever_gives_a_stale_answer() {
    let steps = std::env::var("VTCODE_PROPERTY_STEPS").ok().and_then(|steps| steps.parse().ok());
    let seed = std::env::var("VTCODE_PROPERTY_SEED").ok().and_then(|seed| seed.parse().ok());
    let (steps, seed) = (steps.unwrap_or(3_000), seed.unwrap_or(0x9E37_79B9));
    let mut numbers = Numbers(seed);
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("work");
    fs::create_dir(&root).unwrap();
    let (keeps, oracle) =
        (reader(&root, Limits::full().tools), reader(&root, Limits::plain().tools));
    let ask = async |pipeline: &AsyncToolPipeline, tool: &str, args: Value| {
        pipeline.submit_request(request("ask", tool, args)).await.unwrap();
        words(within(pipeline.wait_result("ask")).await)
    };
    for step in 0..steps {
        match numbers.below(50) {
            0..12 => change(&root, &mut numbers),
            12 => settle(&root),
            _ => {
                let (file, folder) = (numbers.of(&FILES), numbers.of(&FOLDERS));
                let (tool, args) = match numbers.below(6) {
                    0 => ("read_file", json!({"path": file})),
                    1 => ("list_files", json!({"path": folder})),
                    2 => ("grep_file", json!({"path": folder, "pattern": "fn|o"})),
                    3 => ("grep_file", json!({"pattern": "one", "mode": "files"})),
                    4 => ("look", json!({"path": root.join(folder)})),
                    _ => ("look", json!({"path": root.join(file)})),
                };
                let kept = ask(&keeps, tool, args.clone()).await;
                let fresh = ask(&oracle, tool, args.clone()).await;
                assert_eq!(kept, fresh, "step {step} of seed {seed}: {tool} {args}");
            }
        }
    }
    let metrics = keeps.get_metrics().await;
    println!("{} hits, {} stale", metrics.cache_hits, metrics.stale_rejected);
    assert!(metrics.cache_hits > 0 && metrics.stale_rejected > 0, "nothing was put to the test");
    assert_eq!(oracle.get_metrics().await.cache_hits, 0);
}
