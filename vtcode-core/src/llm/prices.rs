//! What tokens cost, by model: list prices of 2025-11, in US dollars for a million tokens.
//! A price that is not known is not guessed.

use crate::config::endpoint::Wire;
use crate::config::limits::Price;
use crate::llm::message::Usage;

struct Listed {
    wire: Wire,
    /// The beginning of the model's name; the longest that fits counts.
    model: &'static str,
    price: Price,
}

const fn price(wire: Wire, model: &'static str, input: f64, cached: f64, output: f64) -> Listed {
    Listed { wire, model, price: Price { input, cached, output } }
}

const PRICES: &[Listed] = &[
    price(Wire::Anthropic, "claude-opus-4-5", 5.0, 0.5, 25.0),
    price(Wire::Anthropic, "claude-opus-4", 15.0, 1.5, 75.0),
    price(Wire::Anthropic, "claude-sonnet-4", 3.0, 0.3, 15.0),
    price(Wire::Anthropic, "claude-haiku-4-5", 1.0, 0.1, 5.0),
    price(Wire::OpenAiChat, "gpt-5.1", 1.25, 0.125, 10.0),
    price(Wire::OpenAiChat, "gpt-5-mini", 0.25, 0.025, 2.0),
    price(Wire::OpenAiChat, "gpt-5-nano", 0.05, 0.005, 0.4),
    price(Wire::OpenAiChat, "gpt-5", 1.25, 0.125, 10.0),
    price(Wire::OpenAiChat, "gpt-4.1-mini", 0.4, 0.1, 1.6),
    price(Wire::OpenAiChat, "gpt-4.1", 2.0, 0.5, 8.0),
    price(Wire::OpenAiChat, "gpt-4o-mini", 0.15, 0.075, 0.6),
    price(Wire::OpenAiChat, "gpt-4o", 2.5, 1.25, 10.0),
    // Of Gemini's two prices the one for up to 200 000 tokens of input.
    price(Wire::Gemini, "gemini-3-pro", 2.0, 0.2, 12.0),
    price(Wire::Gemini, "gemini-2.5-pro", 1.25, 0.125, 10.0),
    price(Wire::Gemini, "gemini-2.5-flash-lite", 0.1, 0.01, 0.4),
    price(Wire::Gemini, "gemini-2.5-flash", 0.3, 0.03, 2.5),
];

/// Returns the list price of a model; none when it is not known.
pub fn listed(wire: Wire, model: &str) -> Option<Price> {
    // Both wires lead to the same models.
    let wire = if wire == Wire::OpenAiResponses { Wire::OpenAiChat } else { wire };
    let fits = |listed: &&Listed| listed.wire == wire && model.starts_with(listed.model);
    let listed = PRICES.iter().filter(fits).max_by_key(|listed| listed.model.len())?;
    Some(listed.price)
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

    #[test]
    fn cached_tokens_cost_less_and_the_longest_name_counts() {
        let usage =
            Usage { input_tokens: 1_000_000, cached_input_tokens: 500_000, output_tokens: 100_000 };
        let cost =
            |wire, model| listed(wire, model).map(|price| (price.of(usage) * 1e4).round() / 1e4);
        assert_eq!(cost(Wire::Anthropic, "claude-opus-4-5-20251101"), Some(5.25));
        assert_eq!(cost(Wire::OpenAiChat, "gpt-5-mini"), Some(0.3375));
        assert_eq!(cost(Wire::OpenAiResponses, "gpt-5-mini"), Some(0.3375));
        assert_eq!(cost(Wire::Gemini, "gemini-2.5-flash-lite"), Some(0.095));
        assert_eq!(cost(Wire::OpenAiChat, "llama3"), None);
        assert_eq!(cost(Wire::OpenAiChat, "claude-opus-4-5"), None);
    }
}
