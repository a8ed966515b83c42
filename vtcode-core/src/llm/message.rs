//! The conversation's types, the same for every wire: messages in, deltas out.
//! Plain data; rendering is `llm::provider`'s, sending is `llm::optimized_client`'s.

mod image;

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::config::dialect::Effort;
use crate::core::memory_pool::StringLoan;
use crate::tools::tool::ToolSpec;

pub use image::{IMAGE_TOKENS, Image, ImageError, ImageKind, ImageRules, Images, MAX_IMAGE_BYTES};

/// One message of a conversation. The system prompt is not a message; it stands in [`Setup`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "role", rename_all = "snake_case")]
pub enum Message {
    /// What the user says.
    User {
        /// The words.
        text: String,
        /// What they are about.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        images: Vec<Image>,
    },
    /// What the model said, in the order in which it said it.
    Assistant {
        /// Its parts.
        parts: Vec<Part>,
    },
    /// The results of the calls of the assistant message before, in the order asked.
    Tool {
        /// One for each call.
        results: Vec<ToolAnswer>,
    },
}

impl Message {
    /// Returns what a user says in words alone.
    pub fn user(text: impl Into<String>) -> Self {
        Self::User { text: text.into(), images: Vec::new() }
    }

    /// Returns its images.
    pub fn images(&self) -> &[Image] {
        match self {
            Self::User { images, .. } => images,
            _ => &[],
        }
    }
}

/// A task, or what to do next.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prompt {
    /// The words.
    pub text: String,
    /// The images that they are about.
    pub images: Vec<Image>,
}

impl From<Prompt> for Message {
    fn from(Prompt { text, images }: Prompt) -> Self {
        Self::User { text, images }
    }
}

impl From<String> for Prompt {
    fn from(text: String) -> Self {
        Self { text, images: Vec::new() }
    }
}

impl From<&str> for Prompt {
    fn from(text: &str) -> Self {
        text.to_owned().into()
    }
}

/// A piece of an assistant message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Part {
    /// Words for the user.
    Text {
        /// The words.
        text: String,
    },
    /// The model's thinking, kept because some wires want it back unchanged.
    Reasoning {
        /// The thinking; empty when the provider sends it sealed.
        text: String,
        /// The provider's seal over it, if it gave one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        signature: Option<String>,
        /// True when `signature` holds sealed content instead of a seal over `text`.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        redacted: bool,
    },
    /// A tool call.
    ToolCall(ToolCall),
}

impl Part {
    /// Returns about how many bytes it holds.
    pub fn bytes(&self) -> usize {
        match self {
            Self::Text { text } => text.len(),
            Self::Reasoning { text, signature, .. } => {
                text.len() + signature.as_ref().map_or(0, String::len)
            }
            Self::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.len(),
        }
    }
}

/// A tool call as the model wrote it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolCall {
    /// The provider's id; the answer names it.
    pub id: String,
    /// The tool's name.
    pub name: String,
    /// The arguments' text as streamed; not proven to be JSON.
    pub arguments: String,
}

/// What the model reads in answer to a call.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ToolAnswer {
    /// The id of the call.
    pub call_id: String,
    /// The tool's name.
    pub name: String,
    /// The result.
    pub text: String,
    /// True when the call failed.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_error: bool,
}

impl ToolAnswer {
    /// Returns the answer to a call whose result was lost to an interruption.
    pub fn interrupted(call: &ToolCall, may_have_run: bool) -> Self {
        let text = if may_have_run {
            "interrupted: this call had started and may have run, wholly or in part; look at what \
             it left before you decide whether to repeat it"
        } else {
            "interrupted: this call never started"
        };
        Self {
            call_id: call.id.clone(),
            name: call.name.clone(),
            text: text.to_owned(),
            is_error: true,
        }
    }
}

/// Returns the tool calls among the parts of an answer, in order.
pub fn tool_calls(parts: &[Part]) -> impl Iterator<Item = &ToolCall> {
    parts.iter().filter_map(|part| match part {
        Part::ToolCall(call) => Some(call),
        _ => None,
    })
}

/// Returns the words among the parts of an answer, without thinking and tool calls.
pub fn words(parts: &[Part]) -> String {
    let texts = parts.iter().filter_map(|part| match part {
        Part::Text { text } => Some(text.as_str()),
        _ => None,
    });
    texts.collect()
}

/// What a streamed answer is made of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More words for the user.
    Text(StringLoan),
    /// More thinking.
    Reasoning(StringLoan),
    /// A finished part of the answer, in order. Text and reasoning parts repeat what their deltas
    /// said; a tool call comes the moment its arguments are complete, and only here.
    Part(Part),
    /// Token counts, as far as they are known; a later one replaces an earlier one.
    Usage(Usage),
    /// The model is done; nothing that counts comes after.
    Finish(FinishReason),
}

/// One attempt of a logical request: what a provider may bill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Attempt {
    /// Counts the attempts of the request, from 1.
    pub attempt: u32,
    /// The model that was asked; older journals do not tell.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub model: String,
    /// How it ended.
    pub outcome: Outcome,
    /// The tokens that the provider reported before its end.
    pub usage: Usage,
    /// What they cost, in US dollars, where the model's price is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost_usd: Option<f64>,
    /// From the request sent to the first byte of the answer; none if none came.
    #[serde(rename = "first_byte_us", default, with = "crate::core::event::micros_if_any")]
    pub first_byte: Option<Duration>,
    /// From the request sent to the end.
    #[serde(rename = "took_us", with = "crate::core::event::micros")]
    pub took: Duration,
    /// What it took to take the answer's bytes apart, where that is measured; zero elsewhere.
    #[serde(rename = "parse_us", default, with = "crate::core::event::micros")]
    pub parse: Duration,
}

impl Attempt {
    /// Returns how long each token of the answer took, from its first byte on; none where nothing is
    /// known of them.
    pub fn per_token(&self) -> Option<Duration> {
        let tokens = u32::try_from(self.usage.output_tokens).ok()?;
        self.took.saturating_sub(self.first_byte?).checked_div(tokens)
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Outcome {
    /// The answer is complete.
    Done,
    /// Whoever asked did not wait for its end.
    Cancelled,
    /// No connection came about.
    Unreachable,
    /// A clock ran out.
    Stalled,
    /// The provider limits the rate.
    RateLimited,
    /// The provider refused the request, the key or the model.
    Refused,
    /// The provider failed.
    Failed,
    /// The connection broke, or the answer was not what it should be.
    Broken,
    /// It is the answer to an identical request that was on its way, which is billed there.
    Shared,
    /// It is an answer that was kept.
    Kept,
    /// Of two requests for the same answer the other one began first.
    Overtaken,
}

impl Outcome {
    /// Every way.
    pub const ALL: [Self; 11] = [
        Self::Done,
        Self::Cancelled,
        Self::Unreachable,
        Self::Stalled,
        Self::RateLimited,
        Self::Refused,
        Self::Failed,
        Self::Broken,
        Self::Shared,
        Self::Kept,
        Self::Overtaken,
    ];
}

/// Why the model stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FinishReason {
    /// It said all it wanted to.
    Stop,
    /// It waits for tool results.
    ToolCalls,
    /// The output limit cut it off.
    Length,
    /// The provider's filter or the model itself refused.
    Refusal,
    /// A reason this version does not know.
    Other,
}

/// Token counts of one request, or a sum of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Usage {
    /// All input tokens, cached ones included.
    pub input_tokens: u64,
    /// Input tokens that the provider took from its cache.
    pub cached_input_tokens: u64,
    /// Output tokens, thinking included.
    pub output_tokens: u64,
}

impl std::ops::AddAssign for Usage {
    fn add_assign(&mut self, other: Self) {
        self.input_tokens += other.input_tokens;
        self.cached_input_tokens += other.cached_input_tokens;
        self.output_tokens += other.output_tokens;
    }
}

/// What a request carries besides its messages; constant over a session.
#[derive(Debug, Clone, Default)]
pub struct Setup {
    /// The model's name.
    pub model: String,
    /// The system prompt; may be empty.
    pub system: String,
    /// The tools offered, in a fixed order.
    pub tools: Vec<ToolSpec>,
    /// Output tokens asked for where the wire demands a number.
    pub max_output_tokens: u32,
    /// Whether somebody chose that number: then it is asked for on every wire.
    pub max_output_chosen: bool,
    /// The session's id, by which a provider finds what it has cached; may be empty.
    pub session_id: String,
    /// How freely the model chooses its words, from 0; the provider's default if not set.
    pub temperature: Option<f32>,
    /// How hard the model should think; nothing is said of it if not set.
    pub effort: Option<Effort>,
    /// The JSON schema that the answer must fit. Asked for where server and model can be held to
    /// it, so what comes must be checked all the same.
    pub answer_schema: Option<Arc<Value>>,
}

/// Whether a model calls tools in its answer.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum ToolChoice {
    /// As it sees fit.
    #[default]
    Auto,
    /// It answers in words.
    None,
    /// It calls at least one. Where a server does not hold its model to that but to a schema, it is
    /// asked for the call as JSON, which is heard as a call; where neither helps, the model may
    /// still answer in words.
    Required,
    /// It calls the tool of this name.
    Tool(String),
}

/// A request of the library's user: some messages and an optional system prompt.
#[derive(Debug, Clone, Default)]
pub struct LLMRequest {
    /// The system prompt; may be empty.
    pub system: String,
    /// The messages.
    pub messages: Vec<Message>,
    /// The tools offered, in a fixed order. Nothing runs them: whoever asked answers the calls.
    pub tools: Vec<ToolSpec>,
    /// Whether the model calls one of them.
    pub tool_choice: ToolChoice,
    /// The JSON schema that the answer must fit; see [`Setup::answer_schema`].
    pub answer_schema: Option<Arc<Value>>,
    /// How freely the model chooses its words, from 0; the client's if not set. At 0 a whole
    /// answer is kept, and given again to the very same request.
    pub temperature: Option<f32>,
    /// Which of several answers to the same question this one asks for. Requests that are the same
    /// share an answer while it is on its way, or get one that was kept; two that differ in this
    /// number alone never do. It is not sent.
    pub sample: u32,
}

impl LLMRequest {
    /// Returns a request that asks one question.
    pub fn from_prompt(prompt: impl Into<Prompt>) -> Self {
        let messages = vec![prompt.into().into()];
        Self { messages, ..Self::default() }
    }
}

/// A whole answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LLMResponse {
    /// Its parts, in order.
    pub parts: Vec<Part>,
    /// Why the model stopped.
    pub finish: FinishReason,
    /// The tokens that it used; all zero where it was kept, or another request pays for it.
    pub usage: Usage,
}

impl LLMResponse {
    /// Returns the words of the answer, without thinking and tool calls.
    pub fn text(&self) -> String {
        words(&self.parts)
    }
}
