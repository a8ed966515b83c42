//! Where a model is reached: wire format, base URL, model name and key.
//! A plain value, resolved by `config::layers` or by the caller of the library.
//! Never prints the key.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;

use crate::config::env::Env;
use crate::config::layers::Settings;

/// A wire format that a provider speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Wire {
    /// OpenAI Chat Completions (`/chat/completions`), also spoken by most local servers.
    OpenAiChat,
    /// OpenAI Responses (`/responses`).
    OpenAiResponses,
    /// Anthropic Messages (`/v1/messages`).
    Anthropic,
    /// Google Gemini (`/v1beta/models/…:streamGenerateContent`).
    Gemini,
}

impl Wire {
    /// Every wire format, in the order in which they are listed to users.
    pub const ALL: [Self; 4] =
        [Self::OpenAiChat, Self::OpenAiResponses, Self::Anthropic, Self::Gemini];

    /// Returns the name used in configuration and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai",
            Self::OpenAiResponses => "responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
        }
    }
}

impl fmt::Display for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A provider name that no wire format is known for.
#[derive(Debug, thiserror::Error)]
#[error(
    "unknown provider `{0}`: use `openai` (also for compatible servers), `responses`, `anthropic` or \
     `gemini`"
)]
pub struct UnknownProvider(pub String);

impl FromStr for Wire {
    type Err = UnknownProvider;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|wire| wire.as_str() == name);
        known.ok_or_else(|| UnknownProvider(name.to_owned()))
    }
}

/// One model behind one server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// How to talk to it.
    pub wire: Wire,
    /// For `openai` and `responses` it ends in `/v1`; for `anthropic` and `gemini` it is the server's
    /// root. No trailing slash.
    pub base_url: String,
    /// The model's name as the server knows it.
    pub model: String,
    /// Sent to this endpoint only; local servers need none. `Debug` prints it redacted.
    pub key: Option<SecretString>,
}

/// Tells where requests go, without the key.
impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.wire, self.base_url, self.model)
    }
}

/// Model used when none is chosen.
const OPENAI_MODEL: &str = "gpt-5.1";
const ANTHROPIC_MODEL: &str = "claude-sonnet-4-5";
const GEMINI_MODEL: &str = "gemini-2.5-pro";

/// Where a wire's own provider is reached, and the variables that say otherwise.
struct Home {
    key_variable: &'static str,
    base_variable: &'static str,
    public_url: &'static str,
    model: &'static str,
}

impl Home {
    fn of(wire: Wire) -> Self {
        match wire {
            Wire::OpenAiChat | Wire::OpenAiResponses => Self {
                key_variable: "OPENAI_API_KEY",
                base_variable: "OPENAI_BASE_URL",
                public_url: "https://api.openai.com/v1",
                model: OPENAI_MODEL,
            },
            Wire::Anthropic => Self {
                key_variable: "ANTHROPIC_API_KEY",
                base_variable: "ANTHROPIC_BASE_URL",
                public_url: "https://api.anthropic.com",
                model: ANTHROPIC_MODEL,
            },
            Wire::Gemini => Self {
                key_variable: "GEMINI_API_KEY",
                base_variable: "GEMINI_BASE_URL",
                public_url: "https://generativelanguage.googleapis.com",
                model: GEMINI_MODEL,
            },
        }
    }
}

/// What the settings and the environment say about the provider.
#[derive(Debug, Clone)]
pub enum Choice {
    /// A provider is chosen.
    Endpoint(Endpoint),
    /// None is: a local server may answer, with this model if one was named.
    Local {
        /// The model's name.
        model: Option<String>,
    },
}

/// Why no provider can be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoProvider {
    /// The name is not known.
    #[error(transparent)]
    Unknown(#[from] UnknownProvider),
    /// The provider wants a key and there is none.
    #[error("no key for `{wire}`: set {variable}, or choose another provider (--provider)")]
    NoKey {
        /// The provider.
        wire: Wire,
        /// The variable that would hold it.
        variable: &'static str,
    },
    /// The base URL is none.
    #[error("`{url}` is not a base URL: {why}")]
    BadUrl {
        /// The URL as written.
        url: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// Nothing is configured and no local server answers.
    #[error(
        "no model to talk to. Any of these will do:\n  \
         export ANTHROPIC_API_KEY=…           Anthropic\n  \
         export OPENAI_API_KEY=…              OpenAI\n  \
         export GEMINI_API_KEY=…              Google\n  \
         ollama serve                         a local server on port 11434 (LM Studio: 1234, llama.cpp: 8080)\n  \
         vtcode exec --base-url URL -m MODEL  any OpenAI-compatible server\n  \
         vtcode demo                          see it work with a recorded model: no key, no network"
    )]
    Nothing,
}

/// Chooses the endpoint: what is set, then the keys in the environment, then a local server.
pub fn choose(settings: &Settings, env: &Env) -> Result<Choice, NoProvider> {
    let wire = match &settings.provider {
        Some(name) => Some(name.parse::<Wire>()?),
        None => match &settings.base_url {
            // A server that somebody names speaks Chat Completions more often than not.
            Some(_) if env.text("ANTHROPIC_API_KEY").is_none() => Some(Wire::OpenAiChat),
            Some(url) if is_openai_style(url) => Some(Wire::OpenAiChat),
            _ if env.text("ANTHROPIC_API_KEY").is_some() => Some(Wire::Anthropic),
            _ if env.text("OPENAI_API_KEY").is_some() => Some(Wire::OpenAiChat),
            _ if env.text("GEMINI_API_KEY").is_some() => Some(Wire::Gemini),
            _ if env.text("OPENAI_BASE_URL").is_some() => Some(Wire::OpenAiChat),
            _ => None,
        },
    };
    let Some(wire) = wire else {
        return Ok(Choice::Local { model: settings.model.clone() });
    };
    let home = Home::of(wire);
    let base_url = settings
        .base_url
        .as_deref()
        .or_else(|| env.text(home.base_variable))
        .unwrap_or(home.public_url);
    let base_url = check_url(base_url)?;
    let key = env.text(home.key_variable).map(SecretString::from);
    if key.is_none() && base_url == home.public_url {
        return Err(NoProvider::NoKey { wire, variable: home.key_variable });
    }
    let model = settings.model.clone().unwrap_or_else(|| home.model.to_owned());
    Ok(Choice::Endpoint(Endpoint { wire, base_url, model, key }))
}

fn is_openai_style(url: &str) -> bool {
    url.trim_end_matches('/').ends_with("/v1")
}

/// Returns the URL without trailing slashes.
fn check_url(url: &str) -> Result<String, NoProvider> {
    let bad = |why| NoProvider::BadUrl { url: url.to_owned(), why };
    let rest = url
        .strip_prefix("http://")
        .or_else(|| url.strip_prefix("https://"))
        .ok_or_else(|| bad("it must begin with https:// or http://"))?;
    if rest.is_empty() || rest.starts_with('/') {
        return Err(bad("it names no host"));
    }
    if rest.contains(['?', '#', ' ']) || rest.split('/').next().is_some_and(|h| h.contains('@')) {
        return Err(bad("it may hold no query, fragment, space or password"));
    }
    Ok(url.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn set(provider: Option<&str>, base_url: Option<&str>) -> Settings {
        let mut settings = Settings::default();
        settings.provider = provider.map(str::to_owned);
        settings.base_url = base_url.map(str::to_owned);
        settings
    }

    fn chosen(settings: &Settings, env: &[(&str, &str)]) -> String {
        match choose(settings, &env.iter().copied().collect()) {
            Ok(Choice::Endpoint(e)) => {
                let key = e.key.as_ref().map_or("none", |key| key.expose_secret());
                format!("{} {} {} {key}", e.wire, e.base_url, e.model)
            }
            Ok(Choice::Local { .. }) => "local".to_owned(),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn keys_in_the_environment_choose_the_provider_in_order() {
        let none = set(None, None);
        assert_eq!(chosen(&none, &[]), "local");
        let openai = ("OPENAI_API_KEY", "k1");
        let anthropic = ("ANTHROPIC_API_KEY", "k2");
        assert_eq!(
            chosen(&none, &[openai]),
            format!("openai https://api.openai.com/v1 {OPENAI_MODEL} k1")
        );
        assert_eq!(
            chosen(&none, &[openai, anthropic]),
            format!("anthropic https://api.anthropic.com {ANTHROPIC_MODEL} k2")
        );
        assert_eq!(
            chosen(&set(Some("openai"), None), &[openai, anthropic]),
            format!("openai https://api.openai.com/v1 {OPENAI_MODEL} k1")
        );
        let gemini = ("GEMINI_API_KEY", "k3");
        let google = format!("gemini https://generativelanguage.googleapis.com {GEMINI_MODEL} k3");
        assert_eq!(chosen(&none, &[gemini]), google);
        assert_eq!(
            chosen(&none, &[gemini, openai]),
            format!("openai https://api.openai.com/v1 {OPENAI_MODEL} k1")
        );
        assert_eq!(chosen(&none, &[gemini, ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")]), google);
    }

    #[test]
    fn the_wires_that_no_key_chooses_have_names() {
        for wire in Wire::ALL {
            assert_eq!(wire.as_str().parse::<Wire>().unwrap(), wire);
        }
        let key = ("OPENAI_API_KEY", "k1");
        assert_eq!(
            chosen(&set(Some("responses"), None), &[key]),
            format!("responses https://api.openai.com/v1 {OPENAI_MODEL} k1")
        );
        assert_eq!(
            chosen(&set(Some("gemini"), None), &[("GEMINI_BASE_URL", "http://127.0.0.1:9/")]),
            format!("gemini http://127.0.0.1:9 {GEMINI_MODEL} none")
        );
        assert_eq!(
            chosen(&set(Some("gemini"), None), &[key]),
            "no key for `gemini`: set GEMINI_API_KEY, or choose another provider (--provider)"
        );
    }

    #[test]
    fn a_base_url_needs_no_key_and_decides_the_wire_when_nothing_else_does() {
        let local = set(None, Some("http://127.0.0.1:9/v1/"));
        assert_eq!(
            chosen(&local, &[("ANTHROPIC_API_KEY", "k")]),
            format!("openai http://127.0.0.1:9/v1 {OPENAI_MODEL} none")
        );
        let root = set(None, Some("http://127.0.0.1:9"));
        assert_eq!(
            chosen(&root, &[("ANTHROPIC_API_KEY", "k")]),
            format!("anthropic http://127.0.0.1:9 {ANTHROPIC_MODEL} k")
        );
        assert_eq!(
            chosen(&set(None, None), &[("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")]),
            format!("openai http://127.0.0.1:9/v1 {OPENAI_MODEL} none")
        );
    }

    #[test]
    fn what_cannot_work_says_what_to_do() {
        assert_eq!(
            chosen(&set(Some("anthropic"), None), &[]),
            "no key for `anthropic`: set ANTHROPIC_API_KEY, or choose another provider (--provider)"
        );
        assert!(chosen(&set(Some("acme"), None), &[]).starts_with("unknown provider `acme`"));
        for url in ["localhost:8080", "http://", "https:///v1", "http://u:p@h/v1", "http://h/v1?x"]
        {
            let error = chosen(&set(None, Some(url)), &[]);
            assert!(error.contains("is not a base URL"), "{url}: {error}");
        }
    }

    #[test]
    fn no_debug_output_holds_a_key() {
        let env: Env = [("OPENAI_API_KEY", "sk-very-secret")].into_iter().collect();
        let choice = choose(&set(None, None), &env).unwrap();
        assert!(!format!("{choice:?} {env:?}").contains("very-secret"));
    }
}
