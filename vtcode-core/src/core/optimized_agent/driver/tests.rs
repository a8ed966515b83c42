//! What the driver decides without a model; whole runs stand in `tests/it/engine.rs`.

use std::sync::Mutex;
use std::time::Duration;

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use super::calls::read_arguments;
use super::stream::failure;
use super::*;
use crate::config::endpoint::{Endpoint, Wire};
use crate::config::limits::Limits;
use crate::core::optimized_agent::{FailureKind, lock};
use crate::llm::optimized_client::{Clock, LlmError, OptimizedLLMClient};
use crate::llm::provider::DecodeError;
use crate::safety::permissions::Permissions;
use crate::safety::workspace::Workspace;
use crate::tools::async_pipeline::AsyncToolPipeline;
use crate::tools::builtin;
use crate::tools::optimized_registry::OptimizedToolRegistry;

#[test]
fn arguments_are_one_object_or_none() {
    for empty in ["", " \n", "{}"] {
        assert_eq!(read_arguments(empty), Ok(serde_json::json!({})), "{empty:?}");
    }
    assert_eq!(read_arguments(" {\"a\": 1} "), Ok(serde_json::json!({"a": 1})));
    let deep = "[".repeat(10_000);
    for broken in ["{", "[]", "null", "1", "\"{}\"", "{}{}", "{\"a\": 1", deep.as_str()] {
        let answer = read_arguments(broken).unwrap_err();
        assert!(answer.contains("one JSON object"), "{answer}");
    }
}

#[test]
fn an_error_that_passes_is_the_streams_only_once_the_answer_began() {
    let interrupted = || LlmError::Interrupted { url: String::new(), cause: String::new() };
    let early = || LlmError::Stream(DecodeError::EndedEarly);
    let garbage = || LlmError::Stream(DecodeError::Malformed { what: String::new() });
    let timed_out =
        |clock| LlmError::TimedOut { url: String::new(), clock, after: Duration::from_secs(1) };
    let auth = || LlmError::Auth { status: 401, message: String::new() };
    let kind = |error: LlmError, began| failure(&error, began).kind;

    for began in [interrupted(), early(), timed_out(Clock::Gap)] {
        assert_eq!(kind(began, true), FailureKind::Stream);
    }
    for not_begun in [interrupted(), early(), timed_out(Clock::FirstByte)] {
        assert_eq!(kind(not_begun, false), FailureKind::Unavailable);
    }
    // The client does not ask again for what it cannot read.
    assert_eq!(kind(garbage(), false), FailureKind::Stream);
    assert_eq!(kind(timed_out(Clock::Total), true), FailureKind::Unavailable);
    assert_eq!(kind(timed_out(Clock::Connect), false), FailureKind::Provider);
    assert_eq!(kind(auth(), false), FailureKind::Provider);
}

/// Runs calls with an effect and one without, and returns what the results say and what is in the
/// folder at the end.
async fn effects(journal: Journal, limits: Limits) -> (Vec<String>, Vec<String>) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("a.txt"), "alpha\n").unwrap();
    let calls = call("write_file", json!({"path": "b.txt", "content": "b"}))
        .and(call("run_command", json!({"command": "touch c.txt"})))
        .and(call("read_file", json!({"path": "a.txt"})));
    let model = ScriptedModel::start(vec![calls, say("Done.")]).await;
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone()).unwrap();
    let workspace = Arc::new(Workspace::open(folder.path()).unwrap());
    let path = std::env::var_os("PATH").map(|path| ("PATH".into(), path));
    let spool = tempfile::tempdir().unwrap();
    let tools = builtin::all(
        &workspace,
        spool.path().to_owned(),
        path,
        Arc::new(crate::safety::sandbox::Sandbox::off()),
        &limits.tools,
    );
    let permissions = Arc::new(Permissions::for_workspace(workspace));
    let registry =
        OptimizedToolRegistry::with_tools(tools, limits.tools).with_permissions(permissions);
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let results = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&results);
    let engine = OptimizedAgentEngine::new("test", Arc::clone(&pipeline), Arc::new(client))
        .with_journal(journal)
        .on_event(move |event| {
            if let EventKind::ToolFinished { name, text, .. } = &event.kind {
                lock(&told).push(format!("{name}: {text}"));
            }
        });
    engine.submit("go").await.unwrap();
    engine.close_input();
    let run = tokio::time::timeout(Duration::from_secs(60), engine.start());
    run.await.expect("this hangs").unwrap();
    pipeline.shutdown().await;
    let names = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<_> =
        names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    let mut results = std::mem::take(&mut *lock(&results));
    results.sort();
    (results, names)
}

#[tokio::test]
async fn nothing_is_changed_before_the_journal_is_on_the_disk() {
    for limits in [Limits::full(), Limits::plain()] {
        // What is written to a pipe is kept, but a pipe cannot be synced.
        let (_reader, writer) = std::io::pipe().unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writer));
        let (results, names) = effects(Journal::on(file), limits.clone()).await;
        assert_eq!(names, ["a.txt"], "an effect came first");
        assert!(
            results[0].contains("alpha"),
            "a call without effect waits for no disk: {results:?}"
        );
        for (result, tool) in results[1..].iter().zip(["run_command", "write_file"]) {
            let not_run = format!("{tool}: not run, because it could not be recorded: ");
            assert!(result.starts_with(&not_run), "{results:?}");
        }

        let file = tempfile::tempfile().unwrap();
        let (_, names) = effects(Journal::on(file), limits).await;
        assert_eq!(names, ["a.txt", "b.txt", "c.txt"]);
    }
}
