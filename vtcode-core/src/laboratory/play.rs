//! Plays a tape: the real engine, pipeline and client work on it, the record answers for the model
//! and the tools, and time is the record's. What came of it goes out: time, steps, tokens, cost.
//! Needs a runtime whose clock is paused; nothing of the session is done to any folder or server.
//!
//! A step of the record is left out when every call of it asks only for files that are attached and
//! unchanged, as the model would have had no reason to ask. Whether a model would truly have gone on
//! without asking, no record can tell.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use serde_json::{Value, json};

use super::tape::{Answer, TOOLS, Tape, Taped};
use crate::config::endpoint::{Endpoint, Wire};
use crate::config::limits::Limits;
use crate::core::event::{AttachedFile, Event, EventKind};
use crate::core::memory_budget::MemoryBudget;
use crate::core::optimized_agent::predict::Span;
use crate::core::optimized_agent::predict::worth::LINE_BYTES;
use crate::core::optimized_agent::{EngineError, OptimizedAgentEngine};
use crate::core::performance_profiler::Profile;
use crate::laboratory::judge::Counting;
use crate::llm::message::Usage;
use crate::llm::optimized_client::{LlmError, OptimizedLLMClient, Recorded};
use crate::safety::permissions::Permissions;
use crate::tools::async_pipeline::AsyncToolPipeline;
use crate::tools::optimized_registry::OptimizedToolRegistry;
use crate::tools::tool::{CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec};
use crate::tools::witness::Evidence;

/// How a tape is played.
#[derive(Debug, Clone, PartialEq)]
pub struct Setting {
    /// What is on and what is off.
    pub limits: Limits,
    /// What counts as asking for something attached.
    pub counting: Counting,
}

/// What came of a tape.
#[derive(Debug, Clone, PartialEq)]
pub struct Played {
    /// The time that prompts were worked on, by the record's clock.
    pub time: Duration,
    /// Of it, the time of tools with no answer due.
    pub tools: Duration,
    /// Requests, without those that the record does not have.
    pub steps: u32,
    /// Steps of the record that were left out.
    pub avoided: u32,
    /// Tokens, as far as sizes tell: those written are the record's, those of a request a fourth of
    /// its bytes. Of these, as many as the request before it had count as cached.
    pub usage: Usage,
    /// Files that were attached.
    pub attached: u32,
    /// The tokens of them.
    pub attached_tokens: u64,
    /// Of the files attached, those that a later step of the record asked for.
    pub used: u32,
    /// Whether the session stopped to attach.
    pub stopped: bool,
    /// A hash of every event with its time, in order; those of one moment in the order of their
    /// bytes. The first 16 hexadecimal digits of a BLAKE3 hash.
    pub hash: String,
}

/// Why a tape could not be played.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PlayError {
    /// The client could not be made.
    #[error(transparent)]
    Client(#[from] LlmError),
    /// The engine could not run.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The share of an answer's time until its first byte. Records do not tell it.
const FIRST_BYTE: f64 = 0.5;
/// How long a file takes that is read to be attached: no record has this read.
const ATTACHED_READ: Duration = Duration::from_millis(5);
/// Bytes of a request for each of its tokens.
const TOKEN_BYTES: usize = 4;
/// The folder in which recorded paths are thought to lie.
const FOLDER: &str = "/recorded";
/// A file whose size no record shows.
const UNKNOWN_BYTES: u64 = 8 * 1024;

/// Plays a tape. The setting's limits hold, but for these: turns and repeats have no end, requests
/// and tools have thirty days, a request is tried once, a kept result ages after thirty days, and
/// no instruction files are read. An answer's first byte comes after half of its time, and a read
/// of what is attached takes 5 ms: both are assumed, since no record tells them. Fails when the
/// client cannot be made or the engine cannot run.
pub async fn play(tape: &Tape, setting: &Setting) -> Result<Played, PlayError> {
    let deck = Arc::new(Deck::new(tape, setting.counting));
    let mut limits = setting.limits.clone();
    // The record's own end is the only one, and it may have waited for as long as it liked.
    limits.agent.max_turns = u32::MAX;
    limits.agent.max_repeats = u32::MAX;
    // No record has what such files said.
    limits.agent.instructions_bytes = 0;
    let ages = Duration::from_secs(30 * 24 * 3600);
    (limits.client.first_byte, limits.client.gap, limits.client.total) = (ages, ages, ages);
    (limits.client.first_byte_floor, limits.client.attempts) = (ages, 1);
    (limits.tools.timeout, limits.tools.max_timeout) = (ages, ages);
    limits.tools.cache.time_to_live = ages;

    let tools: Vec<Arc<dyn Tool>> = TOOLS
        .into_iter()
        .map(|name| Arc::new(TapedTool::new(name, &deck)) as Arc<dyn Tool>)
        .collect();
    let registry = OptimizedToolRegistry::with_tools(tools, limits.tools.clone())
        .with_permissions(Arc::new(Permissions::unleashed()));
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(registry)));
    let endpoint = Endpoint::new(Wire::OpenAiChat, "http://127.0.0.1:1/v1", "recorded");
    let answers = Arc::clone(&deck);
    let recorded: Recorded = Arc::new(move |bytes| answers.next_answer(bytes));
    let client = OptimizedLLMClient::with_recorded(endpoint, limits.client, recorded)?;

    let seen = Arc::new(Mutex::new(Seen::default()));
    let (told, shown) = (Arc::clone(&seen), Arc::clone(&deck));
    // How much memory this process has for all the sessions it plays is no part of any of them.
    let memory = MemoryBudget::new(limits.agent.max_memory_bytes, || 0);
    let engine =
        OptimizedAgentEngine::new(tape.id.clone(), Arc::clone(&pipeline), Arc::new(client))
            .with_limits(limits.agent)
            .with_memory(memory)
            .with_system("A recorded session is played.")
            .on_event(move |event| {
                lock(&told).take(event);
                shown.see(event);
            });
    let prompts = async {
        for prompt in &tape.prompts {
            if engine.submit(prompt.text.clone()).await.is_err() {
                break;
            }
        }
        engine.close_input();
    };
    let (outcome, ()) = tokio::join!(engine.start(), prompts);
    let outcome = outcome?;
    pipeline.shutdown().await;
    drop(engine);
    let mut seen = lock(&seen);
    let hash = seen.hash();
    let profile = &seen.profile;
    let deck = deck.state();
    Ok(Played {
        time: profile.total(),
        tools: profile.tools,
        steps: outcome.turns - deck.added,
        avoided: deck.avoided,
        usage: outcome.usage,
        attached: profile.attached.files,
        attached_tokens: profile.attached.tokens,
        used: deck.used,
        stopped: profile.attached.stopped,
        hash,
    })
}

/// What a played session told.
#[derive(Debug, Default)]
struct Seen {
    profile: Profile,
    hasher: blake3::Hasher,
    /// The events of the latest moment. Calls that end in the same moment end in no order.
    moment: (Duration, Vec<Vec<u8>>),
}

impl Seen {
    fn take(&mut self, event: &Event) {
        self.profile.take(event);
        if self.moment.0 != event.at {
            self.end_moment();
            self.moment.0 = event.at;
        }
        self.moment.1.extend(serde_json::to_vec(event));
    }

    fn end_moment(&mut self) {
        self.moment.1.sort_unstable();
        for line in self.moment.1.drain(..) {
            self.hasher.update(&line);
        }
    }

    fn hash(&mut self) -> String {
        self.end_moment();
        self.hasher.finalize().to_hex()[..16].to_owned()
    }
}

/// The tape, and how far it was played.
#[derive(Debug)]
struct Deck {
    answers: Vec<Answer>,
    sizes: HashMap<String, u64>,
    counting: Counting,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The answer that comes next.
    next: usize,
    /// The answer whose calls run, and which of them were given.
    now: Option<(usize, Vec<bool>)>,
    /// What is attached and unchanged: the lines, and whether a step asked for it.
    attached: HashMap<String, (Span, bool)>,
    used: u32,
    avoided: u32,
    added: u32,
    /// Tokens of the last request, which a provider would have in its cache.
    cached: usize,
}

impl Deck {
    fn new(tape: &Tape, counting: Counting) -> Self {
        let answers: Vec<Answer> =
            tape.prompts.iter().flat_map(|prompt| prompt.answers.iter().cloned()).collect();
        let mut sizes: HashMap<String, u64> = HashMap::new();
        for call in answers.iter().flat_map(|answer| &answer.calls) {
            if let [(path, span)] = &call.reads[..] {
                let before = match span {
                    Span::Whole => 0,
                    Span::Lines { first, .. } => u64::from(*first) * LINE_BYTES,
                };
                let known = sizes.entry(plain(path).to_owned()).or_insert(0);
                *known = (*known).max(before + call.text.len() as u64);
            }
        }
        Self { answers, sizes, counting, state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Gives the record's next answer, in pieces as they came, for a request of so many bytes.
    fn next_answer(
        &self,
        body_bytes: usize,
    ) -> std::pin::Pin<Box<dyn stream::Stream<Item = Bytes> + Send>> {
        let mut state = self.state();
        let mut at = state.next;
        let mut known = String::new();
        while let Some(answer) = self.answers.get(at)
            && self.is_needless(answer, &mut state)
        {
            state.avoided += 1;
            at += 1;
            // Who works with what was attached speaks of it, or changes it.
            for (path, _) in answer.calls.iter().flat_map(|call| &call.reads) {
                known.push_str(path);
                known.push(' ');
            }
        }
        state.next = at + 1;
        let (prompt_tokens, cached) = (body_bytes / TOKEN_BYTES, state.cached);
        state.cached = prompt_tokens;
        let nothing = Answer { words: "…".to_owned(), ..Answer::default() };
        let answer = self.answers.get(at).unwrap_or(&nothing);
        known.push_str(&answer.words);
        state.added += u32::from(answer.added);
        state.now = Some((at, vec![false; answer.calls.len()]));
        drop(state);
        let pieces = pieces(answer, &known, at, prompt_tokens, cached);
        Box::pin(stream::unfold(pieces.into_iter(), |mut pieces| async move {
            let (wait, bytes) = pieces.next()?;
            tokio::time::sleep(wait).await;
            Some((bytes, pieces))
        }))
    }

    /// Returns whether an answer asks only for what is attached.
    fn is_needless(&self, answer: &Answer, state: &mut State) -> bool {
        let mut all = !answer.calls.is_empty();
        for call in &answer.calls {
            all &= call.read_only && !call.reads.is_empty();
            for (path, span) in &call.reads {
                let Some((shown, used)) = state.attached.get_mut(plain(path)) else {
                    all = false;
                    continue;
                };
                if self.counting == Counting::File || holds(*shown, *span) {
                    state.used += u32::from(!*used);
                    *used = true;
                } else {
                    all = false;
                }
            }
        }
        all
    }

    /// Takes note of what was attached and of what changed.
    fn see(&self, event: &Event) {
        let EventKind::Attached { files, .. } = &event.kind else { return };
        let mut state = self.state();
        for AttachedFile { path, lines, .. } in files {
            let span = lines.map_or(Span::Whole, |(first, last)| Span::Lines { first, last });
            state.attached.insert(path.clone(), (span, false));
        }
    }

    fn size(&self, path: &str) -> u64 {
        self.sizes.get(plain(path)).copied().filter(|bytes| *bytes > 0).unwrap_or(UNKNOWN_BYTES)
    }

    /// Returns the record of a call of the answer at hand.
    fn record(&self, tool: &str, args: &Value, take: bool) -> Option<&Taped> {
        let mut state = self.state();
        let (at, given) = state.now.as_mut()?;
        let calls = &self.answers.get(*at)?.calls;
        let fits = |nth: &usize| calls[*nth].tool == tool && calls[*nth].args == *args;
        let nth = (0..calls.len())
            .find(|nth| !given[*nth] && fits(nth))
            .or_else(|| (0..calls.len()).find(fits))?;
        given[nth] |= take;
        let call = &calls[nth];
        if take && !call.is_error {
            for path in &call.changes {
                state.attached.remove(plain(path));
            }
        }
        Some(call)
    }
}

/// A tool that answers from the record.
struct TapedTool {
    spec: ToolSpec,
    deck: Arc<Deck>,
}

impl TapedTool {
    fn new(name: &'static str, deck: &Arc<Deck>) -> Self {
        let (name, description) = (name.into(), "A recorded tool.".into());
        let spec = ToolSpec { name, description, parameters: json!({"type": "object"}) };
        Self { spec, deck: Arc::clone(deck) }
    }
}

impl Tool for TapedTool {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        let at = |path: &str| PathBuf::from(FOLDER).join(plain(path));
        match self.deck.record(&self.spec.name, args, false) {
            Some(call) if call.read_only => Effect {
                reads: if call.reads.is_empty() {
                    vec![PathBuf::from(FOLDER)]
                } else {
                    call.reads.iter().map(|(path, _)| at(path)).collect()
                },
                ..Effect::default()
            },
            Some(call) if !call.changes.is_empty() => Effect {
                writes: call.changes.iter().map(|path| at(path)).collect(),
                ..Effect::default()
            },
            Some(_) => Effect::opaque(),
            // A read that no record has: of a file that is to be attached.
            None => Effect::read(at(args.get("path").and_then(Value::as_str).unwrap_or_default())),
        }
    }

    fn bytes(&self, args: &Value) -> Option<u64> {
        Some(self.deck.size(args.get("path")?.as_str()?))
    }

    fn is_repeatable(&self) -> bool {
        matches!(&*self.spec.name, "read_file" | "grep_file" | "list_files")
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        let record = self.deck.record(&self.spec.name, args, true);
        Box::pin(async move {
            let Some(call) = record else {
                tokio::time::sleep(ATTACHED_READ).await;
                return Ok(self.shown(args));
            };
            tokio::time::sleep(call.ran).await;
            let evidence = call.lasts.then(Evidence::begin);
            let (text, is_error) = (call.text.clone(), call.is_error);
            Ok(ToolOutput { text, is_error, evidence, ..ToolOutput::default() })
        })
    }
}

impl TapedTool {
    /// Makes up a file in its size, or the part of it that is asked for.
    fn shown(&self, args: &Value) -> ToolOutput {
        let number = |name: &str| args.get(name).and_then(Value::as_u64);
        let path = args.get("path").and_then(Value::as_str).unwrap_or_default();
        let size = self.deck.size(path);
        let bytes = match (number("start"), number("end")) {
            (Some(start), Some(end)) => size.min((end.saturating_sub(start) + 1) * LINE_BYTES),
            _ => size,
        };
        let line = "a line of code, as long as lines are on\n";
        ToolOutput::text(line.repeat((bytes as usize).div_ceil(line.len())))
    }
}

/// Returns an answer with these words as a server sends it: each piece after a wait.
fn pieces(
    answer: &Answer,
    words: &str,
    at: usize,
    prompt_tokens: usize,
    cached: usize,
) -> Vec<(Duration, Bytes)> {
    let chunk = |delta: Value, finish: Option<&str>| {
        format!(
            "data: {}\n\n",
            json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]})
        )
    };
    let mut texts = Vec::new();
    if !words.is_empty() {
        texts.push(chunk(json!({"role": "assistant", "content": words}), None));
    }
    for (nth, call) in answer.calls.iter().enumerate() {
        let function = json!({"name": call.tool, "arguments": call.args.to_string()});
        let id = format!("c{at}-{nth}");
        let call = json!({"index": nth, "id": id, "type": "function", "function": function});
        texts.push(chunk(json!({"tool_calls": [call]}), None));
    }
    let finish = if answer.calls.is_empty() { "stop" } else { "tool_calls" };
    let usage = json!({
        "prompt_tokens": prompt_tokens,
        "completion_tokens": answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": cached.min(prompt_tokens)},
    });
    let mut last = chunk(json!({}), Some(finish));
    let usage = json!({"choices": [], "usage": usage});
    let _ = write!(last, "data: {usage}\n\ndata: [DONE]\n\n");
    texts.push(last);
    let first = answer.thinks.mul_f64(FIRST_BYTE);
    let parts = (texts.len() as u32 - 1).max(1);
    let each = answer.thinks.saturating_sub(first) / parts;
    // The end follows what was said last at once.
    let end = texts.len() - 1;
    let due = |nth: usize| match nth {
        0 if end == 0 => answer.thinks,
        0 => first + each,
        nth if nth == end => Duration::ZERO,
        _ => each,
    };
    texts.into_iter().enumerate().map(|(nth, text)| (due(nth), Bytes::from(text))).collect()
}

fn holds(shown: Span, asked: Span) -> bool {
    match (shown, asked) {
        (Span::Whole, _) => true,
        (Span::Lines { .. }, Span::Whole) => false,
        (Span::Lines { first, last }, Span::Lines { first: from, last: to }) => {
            first <= from && to <= last
        }
    }
}

fn plain(path: &str) -> &str {
    path.trim_start_matches("./")
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every use leaves it whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::laboratory::corpus;

    /// Plays the whole sample.
    fn sample(limits: &Limits) -> Vec<Played> {
        let sessions = corpus::sessions(include_str!("sample.jsonl")).unwrap();
        let played = sessions.iter().map(|session| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .unwrap();
            let setting = Setting { limits: limits.clone(), counting: Counting::Lines };
            runtime.block_on(play(&Tape::of_session(session), &setting)).unwrap()
        });
        played.collect()
    }

    #[test]
    fn what_this_process_holds_has_no_say_in_a_replay() {
        let mut limits = Limits::full();
        limits.agent.attached_tokens = 3000;
        let roomy = sample(&limits);
        // Less than any process has, and more than these sessions keep.
        limits.agent.max_memory_bytes = 4 << 20;
        assert!(crate::core::resources::resident_bytes() > limits.agent.max_memory_bytes);
        assert_eq!(sample(&limits), roomy);
    }
}
