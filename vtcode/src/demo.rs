//! `vtcode demo`: a recorded model drives the real engine, tools and HTTP client on a copy of a
//! sample whose test fails, until it passes. Only the model's words are recorded.

use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::json;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::env::Env;
use vtcode_core::config::layers::Settings;
use vtcode_core::core::optimized_agent::End;
use vtcode_core::llm::optimized_client::Route;
use vtcode_testkit::{Reply, Request, ScriptedModel, call, say};

use crate::args::Demo;
use crate::exec::{self, Report, Reporting};
use crate::exit::{Exit, Usage};
use crate::setup;
use crate::terminal::{Screen, Terminal, clean, file_change};

const PROMPT: &str = "The test of this crate fails. Find out why and repair it.";

const SAMPLE: &[(&str, &str)] = &[
    ("Cargo.toml", include_str!("../sample/Cargo.toml")),
    ("Cargo.lock", include_str!("../sample/Cargo.lock")),
    ("README.md", include_str!("../sample/README.md")),
    ("src/lib.rs", include_str!("../sample/src/lib.rs")),
    ("src/parse.rs", include_str!("../sample/src/parse.rs")),
    ("src/ranges.rs", include_str!("../sample/src/ranges.rs")),
    ("tests/print_dialog.rs", include_str!("../sample/tests/print_dialog.rs")),
];

/// How long the recorded model thinks and pauses between words: about a tenth of a real one.
const THINKS: Duration = Duration::from_millis(400);
const PAUSES: Duration = Duration::from_millis(12);

/// Runs the demo.
pub(crate) async fn run(args: Demo) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let terminal = Terminal::new(Screen::Stdout, env.text("NO_COLOR").is_some());
    line(
        "This is a demo: the model's words are recorded; the engine, its tools and its HTTP client are real.",
    );

    let scratch = tempfile::Builder::new().prefix("vtcode-demo-").tempdir()?;
    let folder = scratch.path().join("sample");
    match &args.sample {
        Some(dir) => copy(dir, &folder)
            .map_err(|e| Usage(format!("cannot copy `{}`: {e}", dir.display())))?,
        None => unpack(&folder)?,
    }
    let gave_up = Arc::new(AtomicBool::new(false));
    let model = recorded_model(Arc::clone(&gave_up)).await;
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "recorded");
    line(&format!("folder: {}", folder.display()));
    line(&format!("model:  recorded, served on {}", model.openai_url()));
    line(&format!("task:   {PROMPT}\n"));

    // The demo's session ends with its folder; the user's own sessions stay as they are.
    let state = scratch.path().join("state");
    let env: Env = env
        .vars()
        .filter(|(name, _)| *name != "XDG_STATE_HOME" && *name != "RUST_BACKTRACE")
        .map(|(name, value)| (name.clone(), value.clone()))
        .chain([("XDG_STATE_HOME".into(), state.into_os_string())])
        .collect();
    let folder = setup::folder(Some(&folder))?;
    let limits = Settings::default().limits.client;
    let session = exec::begin(
        folder.clone(),
        Vec::new(),
        setup::client(vec![Route { endpoint, limits }], &env)?,
        Settings::default(),
        &env,
    )?;
    let report = exec::work(session, PROMPT.into(), Reporting::Terminal(terminal)).await?;
    model.shutdown().await;
    let exit = conclude(&report, gave_up.load(Ordering::Acquire));
    if args.keep {
        let kept = scratch.keep();
        line(&format!("kept: {}", kept.join("sample").display()));
    }
    line(
        "End of the demo: the model was recorded, everything else was real. Next: vtcode exec \"…\" with a model of yours.",
    );
    Ok(exit)
}

fn conclude(report: &Report, gave_up: bool) -> Exit {
    let Report { outcome, profile } = report;
    let exit = match &outcome.end {
        Some(End::Done(text)) => {
            line(&format!("\n{}\n", clean(text.trim())));
            if gave_up { Exit::Failed } else { Exit::Done }
        }
        end => {
            let why = end.as_ref().map_or_else(String::new, ToString::to_string);
            line(&format!("\nthe demo did not get to its end: {}\n", clean(&why)));
            Exit::of(end.as_ref())
        }
    };
    for change in &outcome.changes {
        line(&format!("changed: {}", clean(&file_change(change))));
    }
    let _ = write!(io::stdout(), "{}", profile.table());
    exit
}

fn line(text: &str) {
    // Who closed the pipe has seen enough.
    let _ = writeln!(io::stdout(), "{text}");
}

/// Starts the recorded model. Its words never change; only its last ones depend on whether the
/// test passed, so that it does not claim what is not so.
async fn recorded_model(gave_up: Arc<AtomicBool>) -> ScriptedModel {
    let words = recording();
    ScriptedModel::start_with(move |request: &Request, number: usize| {
        let reply = words.get(number).cloned().unwrap_or_else(|| {
            if repaired(request) {
                say("The test passes now. `merge` had two faults: it took the ranges in the order \
                     typed, so a later but smaller page was never merged, and it joined only \
                     ranges that overlap, not those that touch (1-3 and 4). It sorts first now and \
                     joins a range that begins right after the last one.")
            } else {
                gave_up.store(true, Ordering::Release);
                say("I did not see the test fail and then pass. This model is recorded: its edits \
                     suit the bundled sample and its test needs cargo. See the results above.")
            }
        });
        reply.delay(THINKS).pace(PAUSES)
    })
    .await
}

fn recording() -> Vec<Reply> {
    let test = || {
        call("run_command", json!({"command": "cargo test --offline --quiet --test print_dialog"}))
    };
    vec![
        say("I look at what there is and let the test say what is wrong.")
            .and(call("grep_file", json!({"pattern": "merge|touch", "path": "."})))
            .and(test()),
        call("read_file", json!({"files": [{"path": "src/ranges.rs", "start": 1, "end": 20}, {"path": "tests/print_dialog.rs"}]})),
        say("The ranges are merged in the order typed; they must be sorted first.")
            .and(call(
                "edit_file",
                json!({
                    "path": "src/ranges.rs",
                    "old_text": "    let mut merged: Vec<RangeInclusive<u32>> = Vec::new();\n    for range in ranges {",
                    "new_text": "    let mut sorted = ranges.to_vec();\n    sorted.sort_by_key(|range| *range.start());\n    let mut merged: Vec<RangeInclusive<u32>> = Vec::new();\n    for range in &sorted {",
                }),
            ))
            .and(test()),
        say("One step further: the order is right now, but 1-3 and 4 touch and stay apart.")
            .and(call(
                "edit_file",
                json!({
                    "path": "src/ranges.rs",
                    "old_text": "range.start() <= last.end()",
                    "new_text": "*range.start() <= last.end().saturating_add(1)",
                }),
            ))
            .and(test()),
    ]
}

/// Returns whether the results in the conversation say that the test failed at first, that every
/// edit was made, and that the test passes now.
fn repaired(request: &Request) -> bool {
    let body = request.json();
    let messages = body["messages"].as_array().map(Vec::as_slice).unwrap_or_default();
    let results = messages.iter().filter(|message| message["role"] == "tool");
    // What stands behind a result unasked is no part of it.
    let own = |text: &str| text.split("\n[vtcode attached, unasked: ").next().map(str::to_owned);
    let results: Vec<String> =
        results.filter_map(|message| own(message["content"].as_str()?)).collect();
    let passed = |text: &str| text.contains("test result: ok") && text.ends_with("[exit code 0]");
    // In the order of the recording: search, test, read, edit, test, edit, test.
    let [_, before, _, first, _, second, after] = &results[..] else { return false };
    let edited = |text: &str| text.starts_with("edited ");
    !passed(before) && edited(first) && edited(second) && passed(after)
}

fn unpack(folder: &Path) -> anyhow::Result<()> {
    for (path, text) in SAMPLE {
        let path = folder.join(path);
        let dir = path.parent().context("a sample file has a folder")?;
        std::fs::create_dir_all(dir)?;
        std::fs::write(path, text)?;
    }
    Ok(())
}

/// Copies a folder without what is built or belongs to git; links are left out.
fn copy(from: &Path, to: &Path) -> io::Result<()> {
    std::fs::create_dir_all(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let (name, kind) = (entry.file_name(), entry.file_type()?);
        let target = to.join(&name);
        if kind.is_dir() && !["target", ".git", "node_modules"].iter().any(|skip| name == *skip) {
            copy(&entry.path(), &target)?;
        } else if kind.is_file() {
            std::fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}
