//! The ceiling of a session's memory: what is refused, in which words, and that a long session's
//! memory does not grow.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use serde_json::json;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{EventKind, SessionHeader};
use vtcode_core::core::journal::{self, Sessions};
use vtcode_core::core::memory_budget::{Account, MemoryBudget};
use vtcode_core::core::optimized_agent::{End, EngineError, Limit, OptimizedAgentEngine};
use vtcode_core::llm::message::Message;
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::{CallContext, Tool, ToolOutput};
use vtcode_testkit::{ScriptedModel, call, say};

use crate::session::{Probe, Session, full, plain, small, within};

const CEILING: u64 = 1 << 20;

fn resident_and_results(session: &Session) -> Vec<String> {
    let results = session.replay().messages.into_iter().filter_map(|message| match message {
        Message::Tool { results } => Some(results),
        _ => None,
    });
    results.flatten().map(|answer| answer.text).collect()
}

#[tokio::test]
async fn caches_go_first_then_calls_are_refused_in_words_that_the_model_reads() {
    static RESIDENT: AtomicU64 = AtomicU64::new(0);
    for limits in [full(), plain()] {
        RESIDENT.store(0, Ordering::SeqCst);
        let grows = || call("grows", json!({}));
        let read = || call("read_file", json!({"path": "a.txt"}));
        let replies = vec![read(), grows(), read(), grows(), grows(), say("I stop here.")];
        let budget = MemoryBudget::new(CEILING, || RESIDENT.load(Ordering::SeqCst));
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&calls);
        let tool = Probe::new("grows", move |_: CallContext| {
            // 85, then 96 of 100.
            let nth = counted.fetch_add(1, Ordering::SeqCst);
            RESIDENT.store(CEILING / 100 * [85, 96][nth.min(1)], Ordering::SeqCst);
            async move { Ok(ToolOutput::text(format!("grown {nth}"))) }
        });
        let caches = limits.tools.cache.entries > 0;
        let session = Session::new(Wire::OpenAiChat, limits, replies).await.tool(tool);
        let session = session.memory(budget.clone());
        let outcome = session.run(&["go"]).await;
        assert_eq!(outcome.end, Some(End::Done("I stop here.".to_owned())));
        let results = resident_and_results(&session);
        assert_eq!(calls.load(Ordering::SeqCst), 2, "the third is not run: {results:?}");
        let why = "not run, because there is no memory left for it: ";
        assert!(results[4].starts_with(why), "{results:?}");
        assert!(results[4].contains("max_memory_mb"), "{results:?}");
        let metrics = session.metrics();
        assert_eq!(metrics.cache_hits, 0, "what was read first was shed, cached: {caches}");
        assert!(budget.used().shed > 0 && budget.used().refused == 1, "{budget:?}");
        // The run is over, and charges nothing any more.
        assert_eq!(budget.charged(Account::History), 0);
        assert_eq!(budget.charged(Account::ToolOutput), 0);
    }
}

#[tokio::test]
async fn what_is_kept_is_charged_while_it_is_kept() {
    const PROMPTS: u64 = 10;
    const LONG: u64 = 3_000;
    for (limits, is_small) in [(full(), false), (plain(), false), (small(), true)] {
        let tool = Probe::new("says", |_: CallContext| async {
            Ok(ToolOutput::text("x".repeat(LONG as usize)))
        });
        let says = |n| [call("says", json!({"n": n})), say("Done.")];
        let session = Session::new(Wire::OpenAiChat, limits, (0..PROMPTS).flat_map(says).collect());
        let budget = MemoryBudget::new(64 * CEILING, || 0);
        let (sent, finished) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let (looks, sents, finishes) = (budget.clone(), Arc::clone(&sent), Arc::clone(&finished));
        let session = session.await.tool(tool).memory(budget).on_event(move |event| {
            let charged = |account| looks.charged(account);
            match event.kind {
                EventKind::RequestSent { .. } => {
                    sents.lock().unwrap().push(charged(Account::History));
                }
                EventKind::ToolFinished { .. } => {
                    finishes.lock().unwrap().push(charged(Account::ToolOutput));
                }
                _ => {}
            }
        });
        session.run(&["go"; PROMPTS as usize]).await;
        let (sent, finished) = (sent.lock().unwrap(), finished.lock().unwrap());
        // A result, until the next request holds it.
        assert_eq!(*finished, [LONG; PROMPTS as usize]);
        assert_eq!(sent.len() as u64, 2 * PROMPTS);
        let with_prompt = sent.iter().step_by(2);
        let with_result = sent.iter().skip(1).step_by(2);
        assert!((1..LONG).contains(&sent[0]), "{sent:?}");
        assert!(with_result.zip(with_prompt).all(|(after, before)| after - before > LONG));
        // What lies in a file by then is not in memory, and not charged.
        let charged = sent.last().unwrap();
        let bound = if is_small { 1..3 * LONG } else { PROMPTS * LONG..PROMPTS * 2 * LONG };
        assert!(bound.contains(charged), "{sent:?}");
    }
}

#[tokio::test]
async fn a_prompt_is_refused_by_an_error_and_waits_within_the_ceiling() {
    static RESIDENT: AtomicU64 = AtomicU64::new(0);
    let session = Session::new(Wire::OpenAiChat, full(), vec![say("Done.")]).await;
    let budget = MemoryBudget::new(CEILING, || RESIDENT.load(Ordering::SeqCst));
    let session = session.memory(budget.clone());
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    engine.submit("one").await.unwrap();
    assert_eq!(budget.charged(Account::Prompts), 3);
    let long = "x".repeat(CEILING as usize);
    assert!(matches!(engine.submit(long).await, Err(EngineError::Memory(_))));
    RESIDENT.store(CEILING, Ordering::SeqCst);
    assert!(matches!(engine.submit("two").await, Err(EngineError::Memory(_))));
    RESIDENT.store(0, Ordering::SeqCst);
    engine.close_input();
    let outcome = within(engine.start()).await.unwrap();
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    assert_eq!(budget.charged(Account::Prompts), 0);
    pipeline.shutdown().await;
}

#[tokio::test]
async fn beyond_the_ceiling_the_prompt_ends_with_what_was_done() {
    static RESIDENT: AtomicU64 = AtomicU64::new(0);
    let tool = Probe::new("grows", |_: CallContext| {
        RESIDENT.store(CEILING + 1, Ordering::SeqCst);
        async { Ok(ToolOutput::text("grown")) }
    });
    let replies = vec![call("grows", json!({})), say("never")];
    let session = Session::new(Wire::Anthropic, full(), replies).await.tool(tool);
    let session = session.memory(MemoryBudget::new(CEILING, || RESIDENT.load(Ordering::SeqCst)));
    let outcome = session.run(&["go"]).await;
    assert!(matches!(outcome.end, Some(End::Limit(Limit::Memory(_)))), "{outcome:?}");
    assert_eq!(session.model.requests().len(), 1);
    assert_eq!(resident_and_results(&session), ["grown"]);
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_ended() {
    let long = "All work and no play. ".repeat(100_000);
    let session = Session::new(Wire::OpenAiChat, full(), vec![say(&long)]).await;
    let session = session.memory(MemoryBudget::new(CEILING, || 0));
    let outcome = session.run(&["go"]).await;
    assert!(matches!(outcome.end, Some(End::Limit(Limit::Memory(_)))), "{outcome:?}");
    // What was said until then is kept.
    let Some(Message::Assistant { parts }) = session.replay().messages.pop() else { panic!() };
    let kept = format!("{parts:?}").len();
    assert!(kept > CEILING as usize / 2 && kept < long.len(), "{kept}");
}

#[tokio::test]
async fn a_result_of_any_tool_is_bounded_and_kept_whole_in_a_file() {
    let lines: Vec<_> = (0..200_000).map(|n| format!("{n}é\n")).collect();
    let text: Arc<str> = lines.concat().into();
    let whole = Arc::clone(&text);
    let tool = Probe::new("long", move |_: CallContext| {
        let text = whole.to_string();
        async { Ok(ToolOutput::text(text)) }
    });
    let replies = vec![call("long", json!({})), say("Done.")];
    let session = Session::new(Wire::Gemini, full(), replies).await.tool(tool);
    session.run(&["go"]).await;
    let result = resident_and_results(&session).remove(0);
    let bound = full().tools.result_bytes + 400;
    assert!(result.len() < bound, "{}", result.len());
    assert!(result.starts_with("0é\n1é\n") && result.ends_with("199999é\n"));
    let path = result.split_once("all of it: ").unwrap().1.split_once(']').unwrap().0;
    assert_eq!(std::fs::read_to_string(path).unwrap(), *text);
    // Without a place for it, the rest is gone, and that is said.
    std::fs::remove_dir_all(session.journal_path().with_file_name("spool")).unwrap();
}

/// The model's address, in the process that works.
const URL: &str = "VTCODE_SOAK_URL";
/// How many turns the session takes, if not the few of a test.
const TURNS: &str = "VTCODE_SOAK_TURNS";
const OUTPUT_BYTES: usize = 1_000_000;
/// What lies between two readings.
const READING: usize = 10;

/// A session of many turns, each with 1 MB of output, in a process of its own.
#[tokio::test]
async fn memory_and_descriptors_do_not_grow_over_a_long_session() {
    let turns = std::env::var(TURNS).map_or(240, |turns| turns.parse().unwrap());
    if let Ok(url) = std::env::var(URL) {
        return soak(&url, turns).await;
    }
    let model = ScriptedModel::start_with(move |_, number| {
        if number < turns { call("big", json!({"n": number})) } else { say("Done.") }
    })
    .await
    .keeping_bodies(1);
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "memory::memory_and_descriptors_do_not_grow_over_a_long_session"])
        .args(["--nocapture", "--test-threads=1"])
        .env(URL, model.openai_url())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let stdout = BufReader::new(child.stdout.take().unwrap());
    let lines = tokio::task::spawn_blocking(move || {
        let lines: Vec<String> = stdout.lines().map(Result::unwrap).collect();
        (child.wait().unwrap(), lines)
    });
    let (status, lines) = lines.await.unwrap();
    assert!(status.success(), "{status}: {}", lines.join("\n"));
    let readings: Vec<[u64; 2]> = lines
        .iter()
        .filter_map(|line| line.split_once("reading ")?.1.split_once(' '))
        .map(|(kib, files)| [kib, files].map(|number| number.trim().parse().unwrap()))
        .collect();
    assert_eq!(readings.len(), turns / READING);
    let quarter = |nth: usize| &readings[readings.len() * nth / 4..readings.len() * (nth + 1) / 4];
    let mean = |nth: usize| {
        quarter(nth).iter().map(|reading| reading[0]).sum::<u64>() / quarter(nth).len() as u64
    };
    let peak = lines.iter().find_map(|line| line.split_once("peak ")).unwrap().1;
    println!("{turns} turns, KiB: {:?}, peak {peak}", [0, 1, 2, 3].map(mean));
    // A turn's own bytes are in memory for a moment; 1 MB of output a turn, kept, would be 100 MB.
    assert!(mean(3) < mean(1) + 8 * 1024, "{:?}", [0, 1, 2, 3].map(mean));
    let files = |nth: usize| quarter(nth).iter().map(|reading| reading[1]).max();
    assert!(files(3) <= files(1).map(|files| files + 1), "{readings:?}");
    assert_eq!(model.requests().len(), turns + 1);
}

/// Works in this process, and prints what it holds after every few calls.
async fn soak(url: &str, turns: usize) {
    let state = tempfile::tempdir().unwrap();
    let sessions = Sessions::below(state.path());
    let mut limits = Limits::full();
    limits.agent.max_turns = u32::MAX;
    limits.agent.history_window_bytes = 32 * 1024;
    limits.agent.max_memory_bytes = 256 << 20;
    limits.tools.result_bytes = 256;
    let endpoint = Endpoint::new(Wire::OpenAiChat, url, "scripted");
    let header = SessionHeader {
        format: journal::FORMAT,
        session_id: "soak".to_owned(),
        started_at_ms: 1,
        cwd: state.path().to_owned(),
        add_dirs: Vec::new(),
        provider: "openai".to_owned(),
        base_url: url.to_owned(),
        model: "scripted".to_owned(),
        system: "Work.".to_owned(),
    };
    let journal = sessions.create(header).unwrap();
    let spool_dir = journal.spool_dir();
    let big = Probe::new("big", |_: CallContext| async {
        Ok(ToolOutput::text("0123456789".repeat(OUTPUT_BYTES / 10)))
    });
    let tools: Vec<Arc<dyn Tool>> = vec![Arc::new(big)];
    let registry = OptimizedToolRegistry::with_tools(tools, limits.tools.clone());
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone()).unwrap();
    let calls = Mutex::new(0_usize);
    let engine = OptimizedAgentEngine::new("soak", Arc::clone(&pipeline), Arc::new(client))
        .with_limits(limits.agent.clone())
        .with_journal(journal)
        .on_event(move |event| {
            let EventKind::ToolFinished { text, .. } = &event.kind else { return };
            assert!(text.contains("bytes left out; all of it: "), "{text}");
            let mut calls = calls.lock().unwrap();
            *calls += 1;
            if calls.is_multiple_of(READING) {
                let files = std::fs::read_dir("/proc/self/fd").unwrap().count();
                println!("reading {} {files}", kib("VmRSS:"));
                // The disk need not hold 10 GB for this.
                for spooled in std::fs::read_dir(&spool_dir).unwrap() {
                    std::fs::remove_file(spooled.unwrap().path()).unwrap();
                }
            }
        });
    engine.submit("go").await.unwrap();
    engine.close_input();
    let outcome = engine.start().await.unwrap();
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{:?}", engine.memory());
    assert_eq!(outcome.turns as usize, turns + 1);
    pipeline.shutdown().await;
    println!("peak {} {:?}", kib("VmHWM:"), engine.memory());
    std::io::stdout().flush().unwrap();
}

fn kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
