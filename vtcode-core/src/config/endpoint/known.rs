//! Servers that speak one of the four wires and have a name: where they are reached, which variable
//! holds their key, and what they do otherwise than the wire's documents say.
//! Read from their documents and the issues of their users in 2026-11.

use crate::config::dialect::{EffortField, IdForm, OutputLimit, Quirks, SchemaField, ThinkingBack};

/// A server that is known.
#[derive(Debug)]
pub struct Known {
    /// Its name, as `--provider` takes it.
    pub name: &'static str,
    /// Where it is reached. All of them speak Chat Completions.
    pub base_url: &'static str,
    /// The variable that holds its key; none for one of this machine.
    pub key_env: Option<&'static str>,
    /// What it does otherwise.
    pub quirks: Quirks,
}

const PLAIN: Quirks = Quirks::PLAIN;

const fn cloud(
    name: &'static str,
    base_url: &'static str,
    key_env: &'static str,
    quirks: Quirks,
) -> Known {
    Known { name, base_url, key_env: Some(key_env), quirks }
}

const fn local(name: &'static str, base_url: &'static str, quirks: Quirks) -> Known {
    // What holds the answer to a schema there is a grammar over all of it, calls included; and
    // `tool_choice: required` is taken and not honoured.
    let quirks = Quirks { schema_with_tools: false, required: false, ..quirks };
    Known { name, base_url, key_env: None, quirks }
}

/// Every known server, as its documents and the issues of its users had it in 2026-11.
pub const KNOWN: &[Known] = &[
    cloud(
        "openai",
        "https://api.openai.com/v1",
        "OPENAI_API_KEY",
        // Its thinking models refuse `max_tokens`.
        Quirks { output_limit: OutputLimit::MaxCompletionTokens, cache_key: true, ..PLAIN },
    ),
    cloud(
        "openrouter",
        "https://openrouter.ai/api/v1",
        "OPENROUTER_API_KEY",
        Quirks { effort: EffortField::Reasoning, thinking_back: ThinkingBack::Reasoning, ..PLAIN },
    ),
    cloud(
        "deepseek",
        "https://api.deepseek.com/v1",
        "DEEPSEEK_API_KEY",
        // Its own bound is 4096 tokens; an answer with calls is refused without its thinking.
        Quirks {
            low_bound: true,
            schema: SchemaField::JsonObject,
            thinking_back: ThinkingBack::ReasoningContent,
            ..PLAIN
        },
    ),
    cloud(
        "mistral",
        "https://api.mistral.ai/v1",
        "MISTRAL_API_KEY",
        // Refuses fields that it does not know, and ids that are not like its own.
        Quirks {
            stream_options: false,
            effort: EffortField::Unsent,
            ids: IdForm::NineAlphanumeric,
            ..PLAIN
        },
    ),
    cloud(
        "groq",
        "https://api.groq.com/openai/v1",
        "GROQ_API_KEY",
        // A schema excludes both tools and streaming.
        Quirks {
            output_limit: OutputLimit::MaxCompletionTokens,
            schema: SchemaField::Unsent,
            ..PLAIN
        },
    ),
    cloud(
        "xai",
        "https://api.x.ai/v1",
        "XAI_API_KEY",
        Quirks { output_limit: OutputLimit::MaxCompletionTokens, ..PLAIN },
    ),
    cloud("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY", PLAIN),
    cloud(
        "fireworks",
        "https://api.fireworks.ai/inference/v1",
        "FIREWORKS_API_KEY",
        // Its own bound is 2048 tokens.
        Quirks { low_bound: true, ..PLAIN },
    ),
    cloud(
        "cerebras",
        "https://api.cerebras.ai/v1",
        "CEREBRAS_API_KEY",
        Quirks {
            output_limit: OutputLimit::MaxCompletionTokens,
            schema_with_tools: false,
            ..PLAIN
        },
    ),
    cloud(
        "moonshot",
        "https://api.moonshot.ai/v1",
        "MOONSHOT_API_KEY",
        // Its own bound is 1024 tokens.
        Quirks {
            low_bound: true,
            effort: EffortField::Unsent,
            schema: SchemaField::JsonObject,
            thinking_back: ThinkingBack::ReasoningContent,
            ..PLAIN
        },
    ),
    cloud(
        "zai",
        "https://api.z.ai/api/paas/v4",
        "ZAI_API_KEY",
        Quirks {
            effort: EffortField::Unsent,
            schema: SchemaField::JsonObject,
            thinking_back: ThinkingBack::ReasoningContent,
            ..PLAIN
        },
    ),
    cloud(
        "dashscope",
        "https://dashscope-intl.aliyuncs.com/compatible-mode/v1",
        "DASHSCOPE_API_KEY",
        Quirks { effort: EffortField::Unsent, schema: SchemaField::JsonObject, ..PLAIN },
    ),
    local(
        "ollama",
        "http://127.0.0.1:11434/v1",
        Quirks { thinking_back: ThinkingBack::Reasoning, ..PLAIN },
    ),
    local("lmstudio", "http://127.0.0.1:1234/v1", PLAIN),
    // Refuses a request with a schema and tools.
    local(
        "llamacpp",
        "http://127.0.0.1:8080/v1",
        Quirks { thinking_back: ThinkingBack::ReasoningContent, ..PLAIN },
    ),
    Known {
        name: "vllm",
        base_url: "http://127.0.0.1:8000/v1",
        key_env: None,
        // A required call is held to its schema there.
        quirks: Quirks { schema_with_tools: false, ..PLAIN },
    },
];

/// Returns the known server of a name.
pub fn named(name: &str) -> Option<&'static Known> {
    KNOWN.iter().find(|known| known.name == name)
}

/// Returns the known server behind a base URL: of the same host, or of the same port on this
/// machine.
pub fn at(base_url: &str) -> Option<&'static Known> {
    let place = authority(base_url);
    KNOWN.iter().find(|known| {
        let own = authority(known.base_url);
        match (own.strip_prefix("127.0.0.1:"), &place) {
            (Some(port), place) => ["127.0.0.1:", "localhost:", "[::1]:"]
                .iter()
                .any(|host| place.strip_prefix(host) == Some(port)),
            (None, place) => *place == own,
        }
    })
}

fn authority(url: &str) -> String {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.split('/').next().unwrap_or_default().to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_is_known_by_its_host_or_its_port_here() {
        let name = |url| at(url).map(|known| known.name);
        assert_eq!(name("https://api.mistral.ai/v1"), Some("mistral"));
        assert_eq!(name("https://API.openai.com/v1"), Some("openai"));
        assert_eq!(name("http://localhost:11434/v1"), Some("ollama"));
        assert_eq!(name("http://[::1]:8080/v1"), Some("llamacpp"));
        assert_eq!(name("http://192.168.0.2:8080/v1"), None);
        assert_eq!(name("https://api.mistral.ai.evil.example/v1"), None);
        assert_eq!(name("https://evil.example/api.mistral.ai"), None);
    }

    #[test]
    fn names_and_places_are_known_once() {
        for (n, known) in KNOWN.iter().enumerate() {
            let other = |other: &Known| {
                other.name != known.name && authority(other.base_url) != authority(known.base_url)
            };
            assert!(KNOWN[..n].iter().all(other), "{}", known.name);
        }
        assert_eq!(PLAIN, Quirks::default());
    }
}
