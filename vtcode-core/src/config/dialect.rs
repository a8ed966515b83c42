//! What a server and a model take beyond what their wire format says: plain data, chosen where an
//! endpoint is chosen, obeyed where a request is rendered.
//! What is not known stands as such, so that nobody guesses.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;

use crate::config::limits::Price;

/// How one server speaks its wire, and what its model takes.
#[derive(Debug, Clone, Default)]
pub struct Dialect {
    /// What the server does otherwise than the wire's documents say.
    pub quirks: Quirks,
    /// What is known of the model.
    pub facts: ModelFacts,
    /// Further headers of each request; a value may be a secret.
    pub headers: Vec<(String, SecretString)>,
}

/// How hard a model should think.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Effort {
    /// As little as it can.
    Minimal,
    /// A little.
    Low,
    /// Some.
    Medium,
    /// A lot.
    High,
}

impl Effort {
    /// The words for them, as documents name them.
    pub const WORDS: &'static str = "`minimal`, `low`, `medium` or `high`";

    /// Returns the word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Minimal => "minimal",
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

impl fmt::Display for Effort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl FromStr for Effort {
    type Err = ();

    /// Returns the effort that a word stands for. Fails for any other than those of
    /// [`Effort::WORDS`].
    fn from_str(word: &str) -> Result<Self, Self::Err> {
        [Self::Minimal, Self::Low, Self::Medium, Self::High]
            .into_iter()
            .find(|effort| effort.as_str() == word)
            .ok_or(())
    }
}

/// What is known of a model.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct ModelFacts {
    /// Tokens of a request and its answer together.
    pub context_window: Option<u64>,
    /// Tokens of an answer, thinking included.
    pub max_output: Option<u32>,
    /// What its tokens cost.
    pub price: Option<Price>,
    /// Whether it reads images.
    pub images: Option<bool>,
    /// Whether it refuses to be told how freely it chooses its words.
    pub fixed_temperature: bool,
    /// How it is told how hard to think.
    pub thinking: Thinking,
    /// Whether its server holds an answer to a JSON schema.
    pub answer_schema: AnswerSchema,
}

/// How a model is told how hard to think.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Thinking {
    /// Nobody knows: what was asked for is sent in the wire's own field.
    #[default]
    Unknown,
    /// It does not think, and refuses to be asked to.
    None,
    /// By a level; what is below the least one is sent as that.
    Level {
        /// The least level that it knows.
        least: Effort,
    },
    /// By a level, and it thinks only when it is told that it may.
    Adaptive,
    /// By a number of tokens.
    Budget {
        /// The least that it takes, other than none at all, in tokens.
        least: u32,
        /// Whether it can do without any.
        optional: bool,
    },
}

/// Whether a server holds an answer to a JSON schema.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AnswerSchema {
    /// Nobody knows: as the server's quirks and the wire's documents say.
    #[default]
    Unknown,
    /// It does not.
    No,
    /// Only where no tool is offered.
    WithoutTools,
    /// It does.
    Yes,
}

/// What a server that speaks Chat Completions does otherwise than OpenAI's. As shipped, it is a
/// server that nobody knows: it gets what nearly all of them take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a habit of its own")]
pub struct Quirks {
    /// The field that bounds an answer.
    pub output_limit: OutputLimit,
    /// Cuts an answer off early unless it is told otherwise: those that are known, at 1024 to 4096
    /// tokens.
    pub low_bound: bool,
    /// Takes `stream_options`; the others report usage unasked, or refuse the field.
    pub stream_options: bool,
    /// The field that says how hard to think.
    pub effort: EffortField,
    /// The form in which it takes a schema for its answer.
    pub schema: SchemaField,
    /// Takes a schema while tools are offered.
    pub schema_with_tools: bool,
    /// Holds its model to a call where one is required.
    pub required: bool,
    /// The ids of calls that it takes back.
    pub ids: IdForm,
    /// The field in which it wants its thinking back, together with the calls that it led to.
    pub thinking_back: ThinkingBack,
    /// Takes `prompt_cache_key`.
    pub cache_key: bool,
}

impl Quirks {
    /// A server that nobody knows.
    pub const PLAIN: Self = Self {
        output_limit: OutputLimit::MaxTokens,
        low_bound: false,
        stream_options: true,
        effort: EffortField::ReasoningEffort,
        schema: SchemaField::JsonSchema,
        schema_with_tools: true,
        required: true,
        ids: IdForm::Any,
        thinking_back: ThinkingBack::Unsent,
        cache_key: false,
    };
}

impl Default for Quirks {
    fn default() -> Self {
        Self::PLAIN
    }
}

/// The field that bounds an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputLimit {
    /// `max_tokens`.
    MaxTokens,
    /// `max_completion_tokens`.
    MaxCompletionTokens,
}

/// The field that says how hard to think.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EffortField {
    /// None is taken.
    Unsent,
    /// `reasoning_effort`.
    ReasoningEffort,
    /// `reasoning: {"effort": …}`.
    Reasoning,
}

/// The form in which a schema for the answer is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaField {
    /// None is taken.
    Unsent,
    /// `response_format` of type `json_schema`.
    JsonSchema,
    /// `response_format` of type `json_object`: JSON is promised, its shape is not.
    JsonObject,
}

/// The ids of calls that are taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum IdForm {
    /// Any text.
    Any,
    /// Nine letters or digits.
    NineAlphanumeric,
}

/// The field in which thinking goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ThinkingBack {
    /// None.
    Unsent,
    /// `reasoning_content`.
    ReasoningContent,
    /// `reasoning`.
    Reasoning,
}
