//! Measures searches over a generated tree of 5,000 files: one after the other, as one batch, and
//! `grep -rn` where there is one. Takes no arguments, prints medians, and leaves nothing behind.

use std::fmt::Write;
use std::hint::black_box;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin::grep_file::GrepFile;
use vtcode_core::tools::tool::{CallContext, Tool};

const FOLDERS: usize = 250;
const FILES_PER_FOLDER: usize = 20;
const ROUNDS: usize = 15;

/// What a model asks for when it looks round: most of it is in few files.
const PATTERNS: [(&str, [&str; 5]); 3] = [
    (
        "names",
        [r"fn handle_\d+7\b", "struct Session9", "TODO", "impl Display for", r"Error::Timeout\("],
    ),
    (
        "shapes",
        [
            r"pub(\(crate\))? fn \w+_99\(",
            r"\w+::new\(\d{4}\)",
            r"(?i)fixme",
            r"^use .*Hash(Map|Set)",
            r"\.unwrap\(\)$",
        ],
    ),
    ("common", ["let ", r"fn \w+", "Session", "return", "value_7"]),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let dir = tempfile::tempdir()?;
    generate(dir.path())?;
    let workspace = Arc::new(Workspace::open(dir.path())?);
    let tool = GrepFile::new(workspace, 16 * 1024);
    let context = CallContext {
        call_id: "bench".into(),
        cancel: CancellationToken::new(),
        timeout: Duration::from_secs(600),
        progress: None,
    };
    for (name, patterns) in PATTERNS {
        let args = patterns.map(|pattern| json!({"pattern": pattern, "mode": "content"}));
        let calls: Vec<&Value> = args.iter().collect();
        let (mut single, mut alone, mut batch) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            let begun = Instant::now();
            let mut results = Vec::new();
            for args in &calls {
                let begun = Instant::now();
                results.push(tool.call(args, &context).await?);
                single.push(begun.elapsed());
            }
            alone.push(begun.elapsed());
            let begun = Instant::now();
            let together = tool.call_batch(&calls, &context).await;
            batch.push(begun.elapsed());
            for (result, together) in results.iter().zip(together) {
                assert_eq!(result.text, together?.text);
            }
        }
        let (alone, batch) = (median(&mut alone), median(&mut batch));
        println!(
            "{name}: one {:.1?}, five alone {alone:.1?}, five as a batch {batch:.1?}: {:.2} times",
            median(&mut single),
            alone.as_secs_f64() / batch.as_secs_f64(),
        );
    }
    let mut grep = Vec::new();
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        let mut command = Command::new("grep");
        command.args(["-rnE", "struct Session9"]).arg(dir.path()).stdout(Stdio::null());
        if command.status().is_err() {
            return Ok(());
        }
        grep.push(begun.elapsed());
    }
    println!("grep -rnE: {:.1?}", median(&mut grep));
    Ok(())
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort_unstable();
    black_box(times[times.len() / 2])
}

/// Writes the tree: some 30 MB of lines like those of a program.
fn generate(root: &Path) -> std::io::Result<()> {
    // A generator that gives the same tree each time.
    let mut state = 7_u64;
    let mut next = |below: u64| {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    std::fs::write(root.join(".gitignore"), "target/\n*.log\n/dist\n")?;
    for folder in 0..FOLDERS {
        let dir = root.join(format!("crate{}/src/module{folder}", folder % 12));
        std::fs::create_dir_all(&dir)?;
        for file in 0..FILES_PER_FOLDER {
            let mut text = String::from("use std::sync::Arc;\n\n");
            for _ in 0..10 + next(290) {
                let n = next(100_000);
                let _ = match next(40) {
                    0 => writeln!(text, "pub fn handle_{n}(value: u64) -> Result<u64, Error> {{"),
                    1 => writeln!(text, "}}\n"),
                    2 if n < 4000 => writeln!(text, "// TODO: look at value_{n} again"),
                    3 if n < 4000 => writeln!(text, "use std::collections::HashMap;"),
                    4 if n < 2000 => writeln!(text, "struct Session{n} {{ value: u64 }}"),
                    5 if n < 2000 => writeln!(text, "impl Display for Session{n} {{"),
                    6 if n < 2000 => writeln!(text, "    Err(Error::Timeout({n}))"),
                    _ => writeln!(text, "    let value_{n} = compute(&state, {n}, other);"),
                };
            }
            std::fs::write(dir.join(format!("file{file}.rs")), text)?;
        }
    }
    Ok(())
}
