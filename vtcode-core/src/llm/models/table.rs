//! The table of models. A row holds for every name that begins with its own; the longest counts.

use crate::config::dialect::{AnswerSchema, Effort, ModelFacts, Thinking};
use crate::config::endpoint::Wire;
use crate::config::limits::Price;

/// When the table was read from the providers' documents, as year and month.
pub const READ: &str = "2026-11";

struct Row {
    wire: Wire,
    model: &'static str,
    facts: ModelFacts,
}

/// A row: window and output limit in thousands of tokens; input, cached and output price in US
/// dollars for a million tokens.
const fn row(wire: Wire, model: &'static str, tokens: (u64, u32), price: [f64; 3]) -> Row {
    let [input, cached, output] = price;
    Row {
        wire,
        model,
        facts: ModelFacts {
            context_window: Some(tokens.0 * 1000),
            max_output: Some(tokens.1 * 1000),
            price: Some(Price { input, cached, output }),
            images: Some(true),
            fixed_temperature: false,
            thinking: Thinking::None,
            answer_schema: AnswerSchema::Yes,
        },
    }
}

impl Row {
    const fn thinking(mut self, thinking: Thinking) -> Self {
        self.facts.thinking = thinking;
        self
    }

    /// Its words are its own choice.
    const fn fixed(mut self) -> Self {
        self.facts.fixed_temperature = true;
        self
    }

    const fn schema(mut self, schema: AnswerSchema) -> Self {
        self.facts.answer_schema = schema;
        self
    }

    const fn text_only(mut self) -> Self {
        self.facts.images = Some(false);
        self
    }

    const fn unpriced(mut self) -> Self {
        self.facts.price = None;
        self
    }
}

const fn claude(model: &'static str, tokens: (u64, u32), input: f64, output: f64) -> Row {
    // What it reads from its cache costs a tenth.
    row(Wire::Anthropic, model, tokens, [input, input / 10.0, output])
}

const fn gpt(model: &'static str, tokens: (u64, u32), price: [f64; 3]) -> Row {
    row(Wire::OpenAiChat, model, tokens, price)
}

const fn gemini(model: &'static str, price: [f64; 3]) -> Row {
    row(Wire::Gemini, model, (1048, 65), price)
}

const BUDGET: Thinking = Thinking::Budget { least: 1024, optional: true };
const LEVELS: Thinking = Thinking::Level { least: Effort::Low };
const ALL_LEVELS: Thinking = Thinking::Level { least: Effort::Minimal };
const ADAPTIVE: Thinking = Thinking::Adaptive;

const ROWS: &[Row] = &[
    // From 4.6 on they think as they see fit, when told that they may; from 4.7 on they refuse a
    // temperature; from 4.5 on they hold an answer to a schema.
    claude("claude-fable-5", (1000, 128), 8.0, 40.0)
        .thinking(ADAPTIVE)
        .fixed()
        .schema(AnswerSchema::No),
    claude("claude-opus-5-5", (1000, 128), 4.0, 20.0).thinking(ADAPTIVE).fixed(),
    claude("claude-opus-5", (1000, 128), 5.0, 25.0).thinking(ADAPTIVE).fixed(),
    claude("claude-sonnet-5", (1000, 128), 2.0, 10.0).thinking(ADAPTIVE).fixed(),
    claude("claude-haiku-5", (1000, 128), 0.0, 0.0).unpriced().thinking(ADAPTIVE).fixed(),
    claude("claude-opus-4-8", (1000, 128), 5.0, 25.0).thinking(ADAPTIVE).fixed(),
    claude("claude-opus-4-7", (1000, 128), 5.0, 25.0).thinking(ADAPTIVE).fixed(),
    claude("claude-opus-4-6", (1000, 128), 5.0, 25.0).thinking(ADAPTIVE),
    claude("claude-sonnet-4-6", (1000, 64), 3.0, 15.0).thinking(ADAPTIVE),
    claude("claude-opus-4-5", (200, 64), 5.0, 25.0).thinking(LEVELS),
    claude("claude-sonnet-4-5", (200, 64), 3.0, 15.0).thinking(BUDGET),
    claude("claude-haiku-4-5", (200, 64), 1.0, 5.0).thinking(BUDGET),
    claude("claude-opus-4", (200, 32), 15.0, 75.0).thinking(BUDGET).schema(AnswerSchema::No),
    claude("claude-sonnet-4", (200, 64), 3.0, 15.0).thinking(BUDGET).schema(AnswerSchema::No),
    // OpenAI's thinking models choose their words themselves.
    gpt("gpt-5.5", (1050, 128), [0.0; 3]).unpriced().thinking(LEVELS).fixed(),
    gpt("gpt-5.4-mini", (400, 128), [0.75, 0.075, 4.5]).thinking(LEVELS).fixed(),
    gpt("gpt-5.4-nano", (400, 128), [0.0; 3]).unpriced().thinking(LEVELS).fixed(),
    gpt("gpt-5.4", (1050, 128), [2.5, 0.25, 15.0]).thinking(LEVELS).fixed(),
    gpt("gpt-5.2", (400, 128), [1.75, 0.175, 14.0]).thinking(LEVELS).fixed(),
    gpt("gpt-5.1", (400, 128), [1.25, 0.125, 10.0]).thinking(LEVELS).fixed(),
    gpt("gpt-5-mini", (400, 128), [0.25, 0.025, 2.0]).thinking(ALL_LEVELS).fixed(),
    gpt("gpt-5-nano", (400, 128), [0.05, 0.005, 0.4]).thinking(ALL_LEVELS).fixed(),
    gpt("gpt-5", (400, 128), [1.25, 0.125, 10.0]).thinking(ALL_LEVELS).fixed(),
    gpt("o4-mini", (200, 100), [1.1, 0.275, 4.4]).thinking(LEVELS).fixed(),
    gpt("o3-mini", (200, 100), [1.1, 0.55, 4.4]).thinking(LEVELS).fixed().text_only(),
    gpt("o3", (200, 100), [2.0, 0.5, 8.0]).thinking(LEVELS).fixed(),
    gpt("gpt-4.1-nano", (1047, 32), [0.1, 0.025, 0.4]),
    gpt("gpt-4.1-mini", (1047, 32), [0.4, 0.1, 1.6]),
    gpt("gpt-4.1", (1047, 32), [2.0, 0.5, 8.0]),
    gpt("gpt-4o-mini", (128, 16), [0.15, 0.075, 0.6]),
    gpt("gpt-4o", (128, 16), [2.5, 1.25, 10.0]),
    // Of Gemini's two prices the one for up to 200,000 tokens of input. Before 3 a schema and
    // tools exclude each other.
    gemini("gemini-3.5-flash", [1.5, 0.15, 9.0]).thinking(ALL_LEVELS),
    gemini("gemini-3.1-flash-lite", [0.25, 0.025, 1.5]).thinking(ALL_LEVELS),
    gemini("gemini-3.1-pro", [2.0, 0.2, 12.0]).thinking(LEVELS),
    gemini("gemini-3-pro", [2.0, 0.2, 12.0]).thinking(LEVELS),
    gemini("gemini-3", [0.0; 3]).unpriced().thinking(ALL_LEVELS),
    gemini("gemini-2.5-pro", [1.25, 0.125, 10.0])
        .thinking(Thinking::Budget { least: 128, optional: false })
        .schema(AnswerSchema::WithoutTools),
    gemini("gemini-2.5-flash-lite", [0.1, 0.01, 0.4])
        .thinking(Thinking::Budget { least: 512, optional: true })
        .schema(AnswerSchema::WithoutTools),
    gemini("gemini-2.5-flash", [0.3, 0.03, 2.5])
        .thinking(Thinking::Budget { least: 128, optional: true })
        .schema(AnswerSchema::WithoutTools),
];

/// Returns the facts of the longest row that a name begins with.
pub(super) fn find(wire: Wire, model: &str) -> Option<ModelFacts> {
    let fits = |row: &&Row| row.wire == wire && model.starts_with(row.model);
    let row = ROWS.iter().filter(fits).max_by_key(|row| row.model.len())?;
    Some(row.facts)
}

/// Returns every row.
pub(super) fn all() -> impl Iterator<Item = (Wire, &'static str, ModelFacts)> {
    ROWS.iter().map(|row| (row.wire, row.model, row.facts))
}
