//! Random changes of a tree, by others, by the built-in tools and by commands, and reads through a
//! pipeline that keeps results, held against one that keeps none: never a different text.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use super::kept::{look, seen};
use super::*;
use crate::safety::permissions::Permissions;
use crate::safety::workspace::Workspace;
use crate::tools::builtin;
use crate::tools::tool::Detail;
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
        0..4 => fs::write(&file, numbers.of(&TEXTS)),
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

/// Texts of few lengths, as [`change`] writes them.
const TEXTS: [&str; 4] = ["one\n", "two\n", "fn three\n", "fn fours\n"];

/// Returns a call of a tool that changes a file; most of them fit what the file holds.
fn edit(root: &Path, numbers: &mut Numbers) -> (&'static str, Value) {
    let (file, text) = (numbers.of(&FILES), numbers.of(&TEXTS));
    let old = fs::read_to_string(root.join(file)).unwrap_or_else(|_| text.to_owned());
    let (old, new) = (old.trim_end(), numbers.of(&TEXTS).trim_end());
    let patch = |hunks: String| {
        ("apply_patch", json!({"patch": format!("*** Begin Patch\n{hunks}*** End Patch\n")}))
    };
    match numbers.below(6) {
        0 | 1 => ("write_file", json!({"path": file, "content": text})),
        2 => ("edit_file", json!({"path": file, "old_text": old, "new_text": new})),
        3 => patch(format!("*** Update File: {file}\n@@\n-{old}\n+{new}\n")),
        4 => {
            let to = numbers.of(&FILES);
            patch(format!("*** Update File: {file}\n*** Move to: {to}\n@@\n-{old}\n+{new}\n"))
        }
        _ if numbers.below(2) == 0 => patch(format!("*** Delete File: {file}\n")),
        _ => patch(format!("*** Add File: {file}\n+{old}\n")),
    }
}

/// Returns a command line that changes something, and often tries to hide it: the size, the time of
/// the change and the name stay as they were.
fn command(numbers: &mut Numbers) -> String {
    let (file, other) = (numbers.of(&FILES), numbers.of(&FILES));
    let (folder, place) = (numbers.of(&FOLDERS[..4]), numbers.of(&FOLDERS[..4]));
    let text = numbers.of(&TEXTS).trim_end();
    match numbers.below(12) {
        0 => format!("mv {file} {other}"),
        1 => format!("mv -T {folder} {place}"),
        2 => format!("ln -sfn {file} link"),
        3 => format!("ln -sfn {folder} link"),
        4 => format!("chmod {} {file}", numbers.of(&["644", "600", "000"])),
        5 => format!("chmod {} {folder}", numbers.of(&["755", "700", "000", "311"])),
        6 => format!("rm -f {file}"),
        7 => format!("mkdir -p {folder}; rmdir {place}"),
        8 => format!("printf '{text}\\n' > {file}"),
        9 => format!("cp -p {file} {other}"),
        10 => format!(
            "cp -p {file} ../kept && printf '{text}\\n' > {file} && touch -r ../kept {file}"
        ),
        _ => format!("touch -d '2020-01-01 00:00:00' {file} {folder}"),
    }
}

/// Returns a read.
fn read(root: &Path, numbers: &mut Numbers) -> (&'static str, Value) {
    let (file, folder) = (numbers.of(&FILES), numbers.of(&FOLDERS));
    match numbers.below(9) {
        0 => ("read_file", json!({"path": file})),
        1 => ("read_file", json!({"files": [{"path": file}, {"path": numbers.of(&FILES)}]})),
        2 => ("list_files", json!({"path": folder})),
        3 => ("list_files", json!({"path": folder, "depth": 3})),
        4 => ("grep_file", json!({"path": folder, "pattern": "fn|o"})),
        5 => ("grep_file", json!({"pattern": "one", "mode": "files"})),
        6 => ("grep_file", json!({"path": file, "pattern": "t", "context": 1})),
        7 => ("look", json!({"path": root.join(folder)})),
        _ => ("look", json!({"path": root.join(file)})),
    }
}

fn reader(root: &Path, limits: ToolLimits) -> AsyncToolPipeline {
    let workspace = Arc::new(Workspace::open(root).unwrap());
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    let off = Arc::new(crate::safety::sandbox::Sandbox::off());
    let mut tools = builtin::all(&workspace, root.join("../spool"), path, off, &limits);
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
    let registry = OptimizedToolRegistry::with_tools(tools, limits)
        .with_permissions(Arc::new(Permissions::unleashed()));
    AsyncToolPipeline::with_registry(Arc::new(registry))
}

/// A run of so many steps.
struct Sequence {
    root: std::path::PathBuf,
    keeps: AsyncToolPipeline,
    oracle: AsyncToolPipeline,
    /// What changed something: calls that succeeded, by tool.
    changed: std::collections::BTreeMap<&'static str, u32>,
    calls: u64,
}

impl Sequence {
    async fn submit(&mut self, tool: &str, args: Value) -> String {
        self.calls += 1;
        let request = request(&self.calls.to_string(), tool, args);
        self.keeps.submit_request(request).await.unwrap()
    }

    /// Changes something through a tool, and perhaps reads, all handed in together: each read was
    /// asked for after the change, so it sees it.
    async fn change(
        &mut self,
        numbers: &mut Numbers,
        (tool, args): (&'static str, Value),
        at: &str,
    ) {
        if tool == "edit_file" {
            // It changes only what was read as it is.
            let id = self.submit("read_file", json!({"path": args["path"]})).await;
            within(self.keeps.wait_result(&id)).await;
        }
        let change = self.submit(tool, args.clone()).await;
        let mut reads = Vec::new();
        for _ in 0..numbers.below(3) {
            let (tool, args) = read(&self.root, numbers);
            reads.push((self.submit(tool, args.clone()).await, tool, args));
        }
        let done = within(self.keeps.wait_result(&change)).await;
        let worked = match done.result.as_ref().map(|output| (&output.detail, output.is_error)) {
            Ok((Detail::Command { exit_code, .. }, _)) => *exit_code == Some(0),
            Ok((_, is_error)) => !is_error,
            Err(_) => false,
        };
        *self.changed.entry(tool).or_default() += u32::from(worked);
        for (id, read, of) in reads {
            let kept = words(within(self.keeps.wait_result(&id)).await);
            // A look names no file in its effect, and a hint is sought beyond what the call asks
            // for: these may come before the change.
            if read != "look" && !kept.contains("there is no `") {
                let at = format!("{at}: after {tool} {args}");
                self.compare(kept, read, of, &at).await;
            }
        }
    }

    async fn compare(&self, kept: String, tool: &str, args: Value, at: &str) {
        self.oracle.submit_request(request("ask", tool, args.clone())).await.unwrap();
        let fresh = words(within(self.oracle.wait_result("ask")).await);
        assert_eq!(kept, fresh, "{at}: {tool} {args}");
    }
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
    let mut sequence = Sequence {
        keeps: reader(&root, Limits::full().tools),
        oracle: reader(&root, Limits::plain().tools),
        root: root.clone(),
        changed: std::collections::BTreeMap::new(),
        calls: 0,
    };
    for step in 0..steps {
        let at = format!("step {step} of seed {seed}");
        match numbers.below(100) {
            0..18 => change(&root, &mut numbers),
            18..20 => settle(&root),
            20..24 => {
                let call = edit(&root, &mut numbers);
                sequence.change(&mut numbers, call, &at).await;
            }
            // Few: a process takes as long as many reads.
            24 => {
                let call = ("run_command", json!({"command": command(&mut numbers)}));
                sequence.change(&mut numbers, call, &at).await;
            }
            _ => {
                let (tool, args) = read(&root, &mut numbers);
                let id = sequence.submit(tool, args.clone()).await;
                let kept = words(within(sequence.keeps.wait_result(&id)).await);
                sequence.compare(kept, tool, args, &at).await;
            }
        }
    }
    let Sequence { keeps, oracle, changed, .. } = sequence;
    let metrics = keeps.get_metrics().await;
    let (hits, stale) = (metrics.cache_hits, metrics.stale_rejected);
    println!("{steps} steps of seed {seed}: {hits} hits, {stale} stale; changed by {changed:?}");
    assert!(hits > 0 && stale > 0, "nothing was put to the test");
    assert_eq!(changed.len(), 4, "a tool was never called: {changed:?}");
    assert!(changed.values().all(|n| *n > 0), "a tool never changed anything: {changed:?}");
    assert_eq!(oracle.get_metrics().await.cache_hits, 0);
}
