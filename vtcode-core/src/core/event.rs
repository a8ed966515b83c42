//! The only way out of the engine: what happened, in order, with times.
//! The journal, the terminal, JSON lines and the profiler all read this one stream.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::core::memory_pool::StringLoan;
use crate::llm::message::{Attempt, FinishReason, Image, Message, Outcome, Part, Usage};
use crate::tools::tool::Detail;

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Time since the engine started, in microseconds where it is written.
    #[serde(rename = "at_us", with = "micros")]
    pub at: Duration,
    /// What happened.
    #[serde(flatten)]
    pub kind: EventKind,
}

/// What every later run of a session must know to go on with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionHeader {
    /// The version of the records that follow; see [`crate::core::journal`].
    pub format: u32,
    /// The session's id.
    pub session_id: String,
    /// When it began, in milliseconds since 1970.
    pub started_at_ms: u64,
    /// The workspace.
    pub cwd: PathBuf,
    /// Further folders that tools may touch.
    #[serde(default)]
    pub add_dirs: Vec<PathBuf>,
    /// The provider's name.
    pub provider: String,
    /// Where it was reached.
    pub base_url: String,
    /// The model's name.
    pub model: String,
    /// The system prompt, kept so that a later run sends the same bytes.
    pub system: String,
}

/// Names what a request began with, so that a later one can be held against it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prefix {
    /// How many messages it held.
    pub messages: usize,
    /// A hash of where it went: wire, address and model.
    pub endpoint: ShortHash,
    /// A hash of what stood before the messages: system prompt and tools.
    pub head: ShortHash,
    /// A hash of all of it.
    pub hash: ShortHash,
}

/// The first eight bytes of a hash, sixteen hexadecimal digits where it is written: enough to tell
/// prefixes apart. It guards against mistakes, not against an attacker.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ShortHash(u64);

impl From<blake3::Hash> for ShortHash {
    fn from(hash: blake3::Hash) -> Self {
        let first = hash.as_bytes().first_chunk().expect("a hash has 32 bytes");
        Self(u64::from_be_bytes(*first))
    }
}

impl std::str::FromStr for ShortHash {
    type Err = std::num::ParseIntError;

    fn from_str(digits: &str) -> Result<Self, Self::Err> {
        u64::from_str_radix(digits, 16).map(Self)
    }
}

impl std::fmt::Display for ShortHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl std::fmt::Debug for ShortHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

impl Serialize for ShortHash {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for ShortHash {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let digits = std::borrow::Cow::<str>::deserialize(deserializer)?;
        digits.parse().map_err(serde::de::Error::custom)
    }
}

/// Why a request does not begin with what the one before it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum PrefixChange {
    /// It goes to another model or server.
    Model,
    /// The system prompt or the tools are others.
    Setup,
    /// Older messages left the model's window.
    Compaction,
    /// An image of the session is gone from its folder: words stand in its place.
    ImageLost,
    /// Nobody knows: a fault of ours.
    Unexplained,
}

/// Why older messages leave the model's window.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum CompactionCause {
    /// The next request would fill more of the window than it may.
    Window,
    /// The provider said that a request is too long.
    TooLong,
}

/// Tokens that a provider should have had in its cache and read anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
#[non_exhaustive]
pub enum CacheMiss {
    /// The pause before the request was longer than providers keep anything.
    Expired {
        /// Tokens of the request before.
        expected: u64,
        /// Tokens that came out of the cache.
        reported: u64,
    },
    /// The request began otherwise than the one before.
    ChangedPrefix {
        /// Tokens of the request before.
        expected: u64,
        /// Tokens that came out of the cache.
        reported: u64,
    },
    /// The provider did not keep it, or did not find it.
    Provider {
        /// Tokens of the request before.
        expected: u64,
        /// Tokens that came out of the cache.
        reported: u64,
    },
}

impl CacheMiss {
    /// Returns the tokens that were read anew.
    pub fn tokens(self) -> u64 {
        let (Self::Expired { expected, reported }
        | Self::ChangedPrefix { expected, reported }
        | Self::Provider { expected, reported }) = self;
        expected.saturating_sub(reported)
    }
}

impl std::fmt::Display for CacheMiss {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let why = match self {
            Self::Expired { .. } => "the pause was longer than it keeps them",
            Self::ChangedPrefix { .. } => "the request began otherwise than the one before",
            Self::Provider { .. } => "it did not find them",
        };
        write!(f, "the provider read {} tokens anew: {why}", self.tokens())
    }
}

/// Whose failure an error is, and so who can mend it. What follows from each stands in
/// docs/recovery.md.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum ErrorClass {
    /// What the model said cannot be used: it says it anew.
    Model,
    /// The provider cannot be reached, refuses or fails.
    Provider,
    /// A tool could not do what was asked.
    Tool,
    /// It is not allowed.
    Policy,
    /// The machine lacks what it takes: place, files, time for one more call.
    Environment,
    /// A fault of VT Code.
    Ours,
}

/// A file that was shown before it was asked for.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct AttachedFile {
    /// Its path.
    pub path: String,
    /// The first and the last line shown; none: all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lines: Option<(u32, u32)>,
    /// The tokens it took, about: the text shown at 4 bytes each.
    pub tokens: u64,
    /// How likely it seemed that it would be asked for, from 0 to 1.
    pub probability: f32,
}

/// What is shown unasked.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttachedKind {
    /// Files that the model is likely to ask for.
    #[default]
    Guess,
    /// The instructions of folders that were touched for the first time.
    Instructions,
    /// What a check after edits said.
    Check,
}

impl AttachedKind {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference to the field")]
    fn is_guess(&self) -> bool {
        *self == Self::Guess
    }
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CheckEnd {
    /// The workspace is sound.
    Passed,
    /// It is not.
    Failed,
    /// It says nothing about the workspace: it could not run, or lacks what it needs.
    Unusable,
    /// A newer edit, or a command of the model's, made it pointless.
    Superseded,
    /// The prompt ended first.
    Interrupted,
    /// It took too long.
    OutOfTime,
    /// It used as much of the processor as it may.
    OverBudget,
}

/// What became of an attached file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum AttachmentEnd {
    /// The model worked with it and did not have to ask.
    Used,
    /// The model asked for it all the same: nothing was saved.
    Asked,
    /// The model did without it.
    Unused,
}

/// What happened.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
#[non_exhaustive]
pub enum EventKind {
    /// The session exists; the first event of its life.
    SessionStarted(SessionHeader),
    /// A later run goes on with it, perhaps with another model.
    SessionResumed {
        /// The provider's name.
        provider: String,
        /// Where it is reached.
        base_url: String,
        /// The model's name.
        model: String,
    },
    /// Work on a prompt begins.
    PromptStarted {
        /// The user's words.
        text: String,
        /// The images with them; the journal keeps their bytes in files.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<Image>,
    },
    /// A model request goes out.
    RequestSent {
        /// Counts the requests of this prompt, from 1. 0: it asks for a summary.
        turn: u32,
        /// The size of its body, in bytes.
        body_bytes: usize,
        /// What it begins with; older journals do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        prefix: Option<Prefix>,
    },
    /// The model is asked to sum up what came before, because the next request would not fit.
    Compacting {
        /// The input tokens that it would have had, about.
        input_tokens: u64,
    },
    /// Older messages left the model's window; [`EventKind::ViewChanged`] follows.
    Compacted {
        /// Why.
        cause: CompactionCause,
        /// Results in whose place a pointer stands now.
        put_aside: usize,
        /// Messages that were summed up in one.
        summed_up: usize,
        /// The input tokens that the next request would have had, as far as it can be told.
        before: u64,
        /// The input tokens that it has.
        after: u64,
    },
    /// From here on, requests hold these messages and what follows, in place of all before. Told
    /// between two requests. What was before stays in the journal.
    ViewChanged {
        /// The messages.
        messages: Vec<Message>,
    },
    /// A request does not begin with what the one before it was.
    PrefixChanged {
        /// Why.
        change: PrefixChange,
    },
    /// The provider read tokens anew that it should have had.
    CacheMissed(CacheMiss),
    /// The answer to a request begins.
    FirstByte,
    /// An attempt failed; another follows after a wait.
    Retry {
        /// The attempt that follows, from 2.
        attempt: u32,
        /// The wait before it, in microseconds where it is written.
        #[serde(rename = "wait_us", with = "micros")]
        wait: Duration,
        /// Why the last one failed.
        cause: String,
    },
    /// A request goes to another endpoint than the one before it: that one failed, or it is its
    /// turn again.
    EndpointChanged {
        /// The attempt that follows, from 1.
        attempt: u32,
        /// The provider's name.
        provider: String,
        /// Where it is reached.
        base_url: String,
        /// The model's name.
        model: String,
        /// Why.
        cause: String,
    },
    /// A request waits before it goes out.
    Waiting {
        /// How long, in microseconds where it is written.
        #[serde(rename = "wait_us", with = "micros")]
        wait: Duration,
        /// What for.
        cause: String,
    },
    /// Nothing has come from the model for a while, and it is still waited for.
    ModelWaiting {
        /// The clock that runs, in words.
        clock: String,
        /// For how long, in microseconds where it is written.
        #[serde(rename = "elapsed_us", with = "micros")]
        elapsed: Duration,
        /// How long that may be, in microseconds where it is written.
        #[serde(rename = "limit_us", with = "micros")]
        limit: Duration,
    },
    /// An attempt ended, well or not: a line of the ledger.
    AttemptEnded(Attempt),
    /// More words of the answer.
    TextDelta {
        /// The words.
        text: StringLoan,
    },
    /// More thinking.
    ReasoningDelta {
        /// The words.
        text: StringLoan,
    },
    /// A part of the answer is complete: text, thinking or a tool call.
    Part {
        /// All of it.
        part: Part,
    },
    /// The last answer was not of the kind asked for; the model is told so and answers again.
    AnswerSentBack {
        /// What it is told.
        text: String,
    },
    /// The answer to a request is complete.
    ResponseEnded {
        /// Why the model stopped.
        finish: FinishReason,
        /// What this request used.
        usage: Usage,
    },
    /// A call was handed to the pipeline: from here on it may have run.
    ToolStarted {
        /// The call's id.
        call_id: String,
        /// The tool.
        name: String,
        /// The arguments' text as the model wrote it; not written again, the call's part holds it.
        #[serde(skip)]
        arguments: String,
    },
    /// A running call printed something.
    ToolProgress {
        /// The call's id.
        call_id: String,
        /// What it printed.
        text: String,
    },
    /// A call gave its result. Calls finish in any order; the model reads them in the order asked.
    ToolFinished {
        /// The call's id.
        call_id: String,
        /// The tool.
        name: String,
        /// What the model reads.
        text: String,
        /// True when the call failed.
        is_error: bool,
        /// Whose failure it was, if it was one; older journals do not tell.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<ErrorClass>,
        /// What it did.
        detail: Detail,
        /// How long it waited for its turn in the pipeline, in microseconds where it is written.
        #[serde(rename = "waited_us", with = "micros")]
        waited: Duration,
        /// How long it ran, in microseconds where it is written.
        #[serde(rename = "ran_us", with = "micros")]
        ran: Duration,
    },
    /// Something was shown after the results of a step that the model had not asked for.
    Attached {
        /// The call after whose result they stand.
        call_id: String,
        /// What the model reads there.
        text: String,
        /// Each of them.
        files: Vec<AttachedFile>,
        /// What was shown.
        #[serde(default, skip_serializing_if = "AttachedKind::is_guess")]
        what: AttachedKind,
    },
    /// A check of the workspace began, because something was edited.
    CheckStarted {
        /// Its command.
        command: String,
    },
    /// A check of the workspace ended.
    CheckEnded {
        /// Its command.
        command: String,
        /// How.
        end: CheckEnd,
        /// Its exit code, if it came to one.
        exit_code: Option<i32>,
        /// What it used of the processor, in microseconds where it is written.
        #[serde(rename = "cpu_us", with = "micros")]
        cpu: Duration,
        /// How long it ran, in microseconds where it is written.
        #[serde(rename = "ran_us", with = "micros")]
        ran: Duration,
    },
    /// It is known whether an attached file was of use: a line of their ledger.
    AttachmentSettled {
        /// The file.
        path: String,
        /// The tokens it took.
        tokens: u64,
        /// What became of it.
        end: AttachmentEnd,
        /// The time of the step that was not needed, in microseconds where it is written.
        #[serde(rename = "saved_us", with = "micros")]
        saved: Duration,
    },
    /// Too few attached files were of use: none is attached any more in this session.
    PredictionStopped {
        /// The share that was of use, from 0 to 1.
        precision: f32,
        /// The share from which on it pays, from 0 to 1.
        needed: f32,
    },
    /// Something the user should know that stops nothing.
    Warning {
        /// The words.
        message: String,
    },
    /// The user's own settings changed while the session runs, and what of it holds from now on.
    SettingsChanged {
        /// The words.
        message: String,
    },
    /// What became of all model requests of the run so far; told before a prompt's end.
    ClientCounts {
        /// The counts.
        counts: ClientCounts,
    },
    /// What became of all tool calls of the session so far; told before a prompt's end.
    ToolCounts {
        /// The counts.
        counts: ToolCounts,
    },
    /// What the engine itself did in the turn so far, since this was last told; only where it is
    /// measured.
    OwnWork {
        /// The times.
        work: OwnWork,
    },
    /// Work on the prompt ended well.
    PromptFinished {
        /// What all its requests used.
        usage: Usage,
    },
    /// Work on the prompt ended otherwise.
    PromptFailed {
        /// Why, and what to do.
        error: String,
        /// Whose failure it was; none when a limit or the user ended it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        class: Option<ErrorClass>,
        /// What all its requests used.
        usage: Usage,
    },
}

/// Time that the engine spent on work of its own; each in microseconds where it is written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnWork {
    /// Making requests' bytes.
    #[serde(rename = "render_us", default, with = "micros")]
    pub render: Duration,
    /// Writing the journal.
    #[serde(rename = "journal_us", default, with = "micros")]
    pub journal: Duration,
    /// Taking answers' bytes apart.
    #[serde(rename = "parse_us", default, with = "micros")]
    pub parse: Duration,
    /// Looking whether kept results still hold.
    #[serde(rename = "cache_check_us", default, with = "micros")]
    pub cache_check: Duration,
}

impl std::ops::AddAssign for OwnWork {
    fn add_assign(&mut self, other: Self) {
        self.render += other.render;
        self.journal += other.journal;
        self.parse += other.parse;
        self.cache_check += other.cache_check;
    }
}

/// What became of model requests, added up. Times are in microseconds where they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCounts {
    /// Logical requests that were sent.
    pub requests: u64,
    /// Their attempts, by how they ended.
    pub attempts: Vec<(Outcome, u64)>,
    /// Requests answered with an answer that was kept.
    pub kept: u64,
    /// Requests that shared the answer to an identical one.
    pub shared: u64,
    /// Waits for a rate limit.
    pub waits: u64,
    /// Their time.
    #[serde(rename = "waited_us", with = "micros")]
    pub waited: Duration,
    /// Requests sent a second time because the answer was late.
    pub hedges: u64,
    /// Of these, the ones whose second request began first.
    pub hedges_won: u64,
    /// Requests that left an endpoint for another one.
    #[serde(default)]
    pub failovers: u64,
    /// Connections that were opened.
    pub connections_opened: u64,
    /// Of these, the ones that stood before their request.
    pub connections_opened_ahead: u64,
    /// Attempts over a connection that was there.
    pub connections_reused: u64,
    /// Half of the answers began within this time.
    #[serde(rename = "first_byte_p50_us", with = "micros")]
    pub first_byte_p50: Duration,
    /// 95 of 100 did.
    #[serde(rename = "first_byte_p95_us", with = "micros")]
    pub first_byte_p95: Duration,
    /// 99 of 100 did.
    #[serde(rename = "first_byte_p99_us", with = "micros")]
    pub first_byte_p99: Duration,
    /// How often the answers on the disk could not be read or kept.
    #[serde(default)]
    pub disk_failures: u64,
    /// Requests whose place in the rate limits other runs could not see.
    #[serde(default)]
    pub limits_unshared: u64,
}

/// What became of tool calls, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCounts {
    /// Calls that were taken and do not run yet.
    pub waiting: u64,
    /// Calls that run.
    pub running: u64,
    /// Calls answered with a kept result.
    pub cache_hits: u64,
    /// Calls that took their result from an identical one that ran already.
    pub shared: u64,
    /// Kept results that were found to be out of date, and not served.
    pub stale_rejected: u64,
    /// Calls refused because too many waited.
    pub overloaded: u64,
    /// Tools that the catalog did not take.
    #[serde(default)]
    pub not_taken: u64,
    /// How many batches of each size ran, from 1; the last counts all larger ones, too.
    pub batch_sizes: Vec<u64>,
    /// Each tool that was called.
    pub tools: Vec<ToolCount>,
}

/// What became of one tool's calls. Times are in microseconds where they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCount {
    /// The tool.
    pub name: String,
    /// Calls that ran.
    pub ran: u64,
    /// Calls whose result was an error, whether or not they ran.
    pub failed: u64,
    /// Of these, calls that reached their deadline.
    pub timed_out: u64,
    /// Of these, calls that were interrupted.
    pub cancelled: u64,
    /// Half ran at most this long.
    #[serde(rename = "p50_us", with = "micros")]
    pub p50: Duration,
    /// 95 of 100 ran at most this long.
    #[serde(rename = "p95_us", with = "micros")]
    pub p95: Duration,
    /// 99 of 100 ran at most this long.
    #[serde(rename = "p99_us", with = "micros")]
    pub p99: Duration,
}

impl EventKind {
    /// Returns whether the journal keeps it: what a later run needs, and what happened when.
    pub fn is_durable(&self) -> bool {
        !matches!(
            self,
            Self::TextDelta { .. }
                | Self::ReasoningDelta { .. }
                | Self::ToolProgress { .. }
                | Self::Compacting { .. }
                | Self::CheckStarted { .. }
                | Self::ModelWaiting { .. }
        )
    }
}

pub(crate) mod micros {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(d: &Duration, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_u64(u64::try_from(d.as_micros()).unwrap_or(u64::MAX))
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Duration, D::Error> {
        u64::deserialize(d).map(Duration::from_micros)
    }
}

pub(crate) mod micros_if_any {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    #[expect(clippy::ref_option, reason = "serde passes a reference to the field")]
    pub(crate) fn serialize<S: Serializer>(d: &Option<Duration>, s: S) -> Result<S::Ok, S::Error> {
        match d {
            Some(d) => super::micros::serialize(d, s),
            None => s.serialize_none(),
        }
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        d: D,
    ) -> Result<Option<Duration>, D::Error> {
        Ok(Option::<u64>::deserialize(d)?.map(Duration::from_micros))
    }
}
