//! The rows that need a model: the scripted one on loopback, behind a proxy that delays where a
//! distance is to be felt.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::OptimizedAgentEngine;
use vtcode_core::llm::LLMRequest;
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_testkit::{ScriptedModel, call, say};

use super::{Row, block_on, processor_seconds};

/// There and back.
const ROUND_TRIP: Duration = Duration::from_millis(30);

/// Passes on what comes, half a round trip later in each direction. A new connection costs a whole
/// one before, as its handshake would; TLS, which costs one or two more, is not there.
async fn distance(listener: TcpListener, to: SocketAddr) {
    let mut open = JoinSet::new();
    while let Ok((near, _)) = listener.accept().await {
        open.spawn(async move {
            tokio::time::sleep(ROUND_TRIP).await;
            let Ok(far) = TcpStream::connect(to).await else { return };
            let _ = (near.set_nodelay(true), far.set_nodelay(true));
            let (near_read, near_write) = near.into_split();
            let (far_read, far_write) = far.into_split();
            tokio::join!(late(near_read, far_write), late(far_read, near_write));
        });
    }
}

/// Reads, and writes half a round trip later; more may be read meanwhile.
async fn late(
    mut from: impl tokio::io::AsyncRead + Unpin,
    mut to: impl tokio::io::AsyncWrite + Unpin,
) {
    let (sender, mut receiver) = mpsc::channel::<(tokio::time::Instant, Vec<u8>)>(64);
    let read = async move {
        let mut bytes = vec![0; 64 * 1024];
        while let Ok(count @ 1..) = from.read(&mut bytes).await {
            let due = tokio::time::Instant::now() + ROUND_TRIP / 2;
            if sender.send((due, bytes[..count].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let write = async move {
        while let Some((due, bytes)) = receiver.recv().await {
            tokio::time::sleep_until(due).await;
            if to.write_all(&bytes).await.is_err() {
                break;
            }
        }
        let _ = to.shutdown().await;
    };
    tokio::join!(read, write);
}

pub(super) fn llm_client(limits: &Limits) -> anyhow::Result<Row> {
    const ROUNDS: usize = 25;
    let row = Row::new(
        "llm_client",
        "what a request takes beyond its one round trip of 30 ms",
        "a connection for each request",
        "ms",
    );
    let (rounds, cpu) = block_on(async {
        let model = ScriptedModel::start_with(|_, _| say("Yes.")).await;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}/v1", listener.local_addr()?);
        let mut tasks = JoinSet::new();
        tasks.spawn(distance(listener, model.address()));
        let client = |idle_connections| {
            let mut limits = limits.client.clone();
            limits.idle_connections = limits.idle_connections.min(idle_connections);
            OptimizedLLMClient::with_endpoint(Endpoint::new(Wire::OpenAiChat, &url, "m"), limits)
        };
        let (kept, fresh) = (client(usize::MAX)?, client(0)?);
        let timed = async |client: &OptimizedLLMClient| {
            let began = Instant::now();
            client.chat_optimized(LLMRequest::from_prompt("Well?")).await?;
            let beyond = began.elapsed().saturating_sub(ROUND_TRIP);
            anyhow::Ok((beyond.as_secs_f64() * 1e3).max(0.001))
        };
        timed(&kept).await?;
        let (mut rounds, mut cpu) = (Vec::new(), (0.0, 0.0));
        for _ in 0..ROUNDS {
            let began = processor_seconds();
            let other = timed(&fresh).await?;
            let between = processor_seconds();
            rounds.push((Some(other), timed(&kept).await?));
            cpu = (cpu.0 + between - began, cpu.1 + processor_seconds() - between);
        }
        tasks.shutdown().await;
        model.shutdown().await;
        anyhow::Ok((rounds, cpu))
    })??;
    // The model and the distance are this process, too, on both sides alike.
    Ok(Row { rounds, cpu, ..row }.quoted("codex opens a connection for each request"))
}

/// The moments of a session of so many turns that read one file each, in milliseconds.
#[derive(Default)]
struct Turns {
    sent: Option<Instant>,
    ended: Option<Instant>,
    /// From an answer's end to the next request.
    gaps: Vec<f64>,
    /// From a request to the next one, the model's own time included.
    whole: Vec<f64>,
}

async fn session(limits: &Limits, turns: usize) -> anyhow::Result<Turns> {
    let folder = tempfile::tempdir()?;
    for turn in 0..turns {
        std::fs::write(folder.path().join(format!("{turn}.rs")), "fn main() {}\n")?;
    }
    let model = ScriptedModel::start_with(move |_, number| {
        if number < turns {
            call("read_file", json!({"path": format!("{number}.rs")}))
        } else {
            say("Done.")
        }
    })
    .await;
    let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "m");
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits.client.clone())?;
    let workspace = Arc::new(Workspace::open(folder.path())?);
    let off = Arc::new(Sandbox::off());
    let tools = builtin::all(&workspace, folder.path().join("spool"), [], off, &limits.tools);
    let permissions = Arc::new(Permissions::for_workspace(workspace));
    let registry = OptimizedToolRegistry::with_tools(tools, limits.tools.clone());
    let registry = Arc::new(registry.with_permissions(permissions));
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(registry));
    let found: Arc<Mutex<Turns>> = Arc::default();
    let note = Arc::clone(&found);
    let engine = OptimizedAgentEngine::new("bench", Arc::clone(&pipeline), Arc::new(client))
        .with_limits(limits.agent.clone())
        .on_event(move |event| {
            let mut found = note.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            let ms = |since: Instant| (now - since).as_secs_f64() * 1e3;
            match event.kind {
                EventKind::ResponseEnded { .. } => found.ended = Some(now),
                EventKind::RequestSent { .. } => {
                    let (sent, ended) = (found.sent.replace(now), found.ended.take());
                    found.whole.extend(sent.map(ms));
                    found.gaps.extend(ended.map(ms));
                }
                _ => {}
            }
        });
    engine.submit("Read.").await?;
    engine.close_input();
    engine.start().await?;
    pipeline.shutdown().await;
    model.shutdown().await;
    let found = std::mem::take(&mut *found.lock().unwrap_or_else(PoisonError::into_inner));
    Ok(found)
}

pub(super) fn turn_gap(limits: &Limits) -> anyhow::Result<Row> {
    let row = Row::new(
        "turn_gap",
        "an answer's end to the next request, one file read between",
        "",
        "ms",
    );
    let turns = block_on(session(limits, 60))??;
    let rounds = turns.gaps.into_iter().map(|gap| (None, gap)).collect();
    Ok(Row { rounds, ..row }.quoted(
        "with a `cat` or `grep` started between: pi 9.8 ms, claude 32, gemini 35, cline 48, codex 53, opencode 152",
    ))
}

/// The loop as it was once: it looked every 10 ms for a prompt, every 50 for an answer and every
/// 100 for the end of its tools.
async fn polled_turn() -> f64 {
    let began = Instant::now();
    for ms in [10, 50, 100] {
        tokio::time::sleep(Duration::from_millis(ms)).await;
    }
    began.elapsed().as_secs_f64() * 1e3
}

pub(super) fn agent_loop_polling(limits: &Limits) -> anyhow::Result<Row> {
    let row = Row::new(
        "agent_loop_polling",
        "a turn with a model and a tool that take no time",
        "a loop that polls every 10, 50 and 100 ms",
        "ms",
    );
    // Without processor time: ours is a turn of a whole session, the other side's turn does nothing.
    let rounds = block_on(async {
        let mut rounds = Vec::new();
        for _ in 0..11 {
            let other = polled_turn().await;
            let mut own = session(limits, 3).await?.whole;
            rounds.push((Some(other), own.pop().unwrap_or_default()));
        }
        anyhow::Ok(rounds)
    })??;
    Ok(Row { rounds, ..row })
}
