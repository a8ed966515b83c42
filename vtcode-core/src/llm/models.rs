//! What is known of models: a wire and a name come in, window, output limit, price and manners go
//! out. The table was read from the providers' documents in 2026-11; what stands in the user's own
//! file goes before it. What is not known is not guessed.

mod table;

pub use crate::config::dialect::ModelFacts;

use crate::config::endpoint::{Endpoint, Wire};
use crate::config::layers::Settings;
use crate::config::limits::Price;
use crate::llm::message::Usage;

pub use table::READ;

/// Output tokens asked for where the wire demands a number and nobody says another. Less than some
/// models can: what is asked for is set aside in the context window.
pub const MAX_OUTPUT_ASKED: u32 = 32_000;

/// Returns what is known of a model behind a wire: what the user says of it, then the table.
pub fn of(wire: Wire, model: &str, settings: &Settings) -> ModelFacts {
    let mut facts = listed(wire, model);
    settings.own_facts(model, &mut facts);
    facts
}

/// Fills in what the settings leave to the model that was chosen: its price, its window, and how
/// long an answer is asked for.
pub fn settle(settings: &mut Settings, endpoint: &Endpoint) {
    fill_in(settings, endpoint.wire, endpoint.dialect.facts);
}

/// Does the same for a model without an endpoint.
pub fn fill_in(settings: &mut Settings, wire: Wire, facts: ModelFacts) {
    let price = settings.price.over(facts.price);
    settings.limits.agent.price = price;
    let client = &mut settings.limits.client;
    client.price = price;
    if !client.max_output_chosen {
        client.max_output_tokens = match (facts.max_output, wire) {
            (Some(most), _) => most.min(MAX_OUTPUT_ASKED),
            // Servers of models that nobody knows refuse more than they can.
            (None, Wire::OpenAiChat) => client.max_output_tokens.min(8192),
            (None, _) => client.max_output_tokens,
        };
    }
    let context = &mut settings.limits.agent.context;
    context.window_tokens = context.window_tokens.or(facts.context_window);
    context.answer_tokens = u64::from(client.max_output_tokens);
}

/// Returns what the table says of a model. A model that is reached over another wire than its
/// maker's is the same model, but has a price and manners of the one who serves it.
pub fn listed(wire: Wire, model: &str) -> ModelFacts {
    let model = model.strip_prefix("models/").unwrap_or(model);
    if let Some(facts) = table::find(maker(wire), model) {
        return facts;
    }
    // `anthropic/claude-opus-5.5` of a server for many makers.
    let name = model.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
    let facts = [Wire::Anthropic, Wire::OpenAiChat, Wire::Gemini].into_iter().find_map(|wire| {
        table::find(wire, &name).or_else(|| table::find(wire, &name.replace('.', "-")))
    });
    facts.map_or_else(ModelFacts::default, |facts| ModelFacts {
        context_window: facts.context_window,
        max_output: facts.max_output,
        images: facts.images,
        ..ModelFacts::default()
    })
}

/// Returns every model of the table, as wire and the beginning of its name.
pub fn all() -> impl Iterator<Item = (Wire, &'static str, ModelFacts)> {
    table::all()
}

/// Both of OpenAI's wires lead to the same models.
fn maker(wire: Wire) -> Wire {
    if wire == Wire::OpenAiResponses { Wire::OpenAiChat } else { wire }
}

impl Price {
    /// Returns what tokens cost, in US dollars. What a provider adds for writing to its cache is
    /// not counted.
    pub fn of(&self, usage: Usage) -> f64 {
        let fresh = usage.input_tokens.saturating_sub(usage.cached_input_tokens);
        let million = |tokens: u64, price: f64| tokens as f64 * price / 1e6;
        million(fresh, self.input)
            + million(usage.cached_input_tokens, self.cached)
            + million(usage.output_tokens, self.output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::dialect::Thinking;

    #[test]
    fn cached_tokens_cost_less_and_the_longest_name_counts() {
        let usage =
            Usage { input_tokens: 1_000_000, cached_input_tokens: 500_000, output_tokens: 100_000 };
        let cost = |wire, model| {
            listed(wire, model).price.map(|price| (price.of(usage) * 1e4).round() / 1e4)
        };
        assert_eq!(cost(Wire::Anthropic, "claude-opus-4-5-20251101"), Some(5.25));
        assert_eq!(cost(Wire::OpenAiChat, "gpt-5-mini"), Some(0.3375));
        assert_eq!(cost(Wire::OpenAiResponses, "gpt-5-mini"), Some(0.3375));
        assert_eq!(cost(Wire::Gemini, "gemini-2.5-flash-lite"), Some(0.095));
        assert_eq!(cost(Wire::Gemini, "models/gemini-2.5-flash-lite"), Some(0.095));
        assert_eq!(cost(Wire::OpenAiChat, "llama3"), None);
        assert_eq!(cost(Wire::OpenAiChat, "claude-opus-4-5"), None);
    }

    #[test]
    fn a_model_served_by_another_has_its_window_but_not_its_price() {
        let facts = listed(Wire::OpenAiChat, "anthropic/claude-opus-4.5");
        assert_eq!((facts.context_window, facts.price), (Some(200_000), None));
        assert_eq!(facts.thinking, Thinking::Unknown);
        assert_eq!(listed(Wire::OpenAiChat, "qwen2.5-coder:7b"), ModelFacts::default());
    }

    #[test]
    fn no_row_hides_behind_another_and_each_has_its_numbers() {
        let rows: Vec<_> = all().collect();
        for (n, (wire, model, facts)) in rows.iter().enumerate() {
            assert!(rows[..n].iter().all(|(w, m, _)| (w, m) != (wire, model)), "{model}");
            assert!(facts.context_window.zip(facts.max_output).is_some_and(|(w, o)| w > o.into()));
            assert_eq!(listed(*wire, model), *facts, "{model}");
        }
    }
}
