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
/// long an answer is asked for. That is the most that the model can write, up to
/// [`MAX_OUTPUT_ASKED`]; where that is not known, a server for Chat Completions is asked for 8,192
/// tokens at most.
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

/// Returns every model of the table, as wire, the beginning of its name, and what is known of it.
pub fn all() -> impl Iterator<Item = (Wire, &'static str, ModelFacts)> {
    table::all()
}

/// A model of the list.
#[derive(Debug, Clone, PartialEq)]
pub struct Listed {
    /// Its name; in a row of the built-in list, the beginning of the names that it holds for.
    pub name: String,
    /// Whose wire it is reached over; none for one that only the user knows.
    pub wire: Option<Wire>,
    /// What is known of it.
    pub facts: ModelFacts,
    /// Whether the user's file says something of it.
    pub own: bool,
}

/// Returns all that is known: the built-in list with what the user says laid over it, then the
/// models that only the user names.
pub fn list(settings: &Settings) -> Vec<Listed> {
    let own = &settings.named.models;
    let mut listed: Vec<_> = all()
        .map(|(wire, name, mut facts)| {
            settings.own_facts(name, &mut facts);
            let own = own.contains_key(name);
            Listed { name: name.to_owned(), wire: Some(wire), facts, own }
        })
        .collect();
    for name in own.keys().filter(|name| all().all(|(_, row, _)| row != name.as_str())) {
        // A longer name of a model that is listed is that model.
        let wires = [Wire::Anthropic, Wire::OpenAiChat, Wire::Gemini];
        let wire = wires.into_iter().find(|wire| table::find(*wire, name).is_some());
        let facts = of(wire.unwrap_or(Wire::OpenAiChat), name, settings);
        listed.push(Listed { name: name.clone(), wire, facts, own: true });
    }
    listed
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
    fn the_users_file_goes_before_the_list_and_adds_to_it() {
        let file = "[models.\"gpt-5\"]\nimages = false\n[models.\"gpt-5-mini-mine\"]\ninput = 9\n\
                    [models.\"llama\"]\ncontext_window = 8192\n";
        let sources = crate::config::layers::Sources {
            user_file: Some(("/u.toml".into(), file.to_owned())),
            ..Default::default()
        };
        let settings = Settings::resolve(&sources, &crate::config::env::Env::default()).unwrap();
        let listed = list(&settings);
        let named = |name: &str| listed.iter().find(|listed| listed.name == name).unwrap();
        assert_eq!(listed.len(), all().count() + 2);
        assert_eq!((named("gpt-5").own, named("gpt-5").facts.images), (true, Some(false)));
        assert!(!named("gpt-5.1").own && named("gpt-5.1").facts.images == Some(true));
        let mine = named("gpt-5-mini-mine");
        assert_eq!((mine.wire, mine.facts.context_window), (Some(Wire::OpenAiChat), Some(400_000)));
        assert_eq!(mine.facts.price.map(|price| price.input), Some(9.0));
        let llama = named("llama");
        assert_eq!((llama.wire, llama.facts.context_window), (None, Some(8192)));
        assert_eq!(llama.facts.max_output, None);
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
