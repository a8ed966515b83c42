//! Where a model is reached: wire format, base URL, model name and key.
//! A plain value, resolved by `config::layers` or by the caller of the library.
//! Never prints the key.

use std::fmt;
use std::str::FromStr;

use secrecy::SecretString;

use crate::config::dialect::{Dialect, Quirks};
use crate::config::env::Env;
use crate::config::layers::Settings;

pub mod known;

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
     `gemini`, a server that is known ({known}), or one of your own: [providers.{0}] in your file",
    known = known_names()
)]
pub struct UnknownProvider(pub String);

impl FromStr for Wire {
    type Err = UnknownProvider;

    /// Returns the wire format of a name. Fails where none has it, also for the name of a server
    /// that is known.
    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|wire| wire.as_str() == name);
        known.ok_or_else(|| UnknownProvider(name.to_owned()))
    }
}

fn known_names() -> String {
    let names: Vec<_> = known::KNOWN.iter().map(|known| format!("`{}`", known.name)).collect();
    names.join(", ")
}

/// Returns whether the habits of a server are known under a name.
pub fn has_quirks(name: &str) -> bool {
    known::named(name).is_some()
}

/// One model behind one server.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The name under which it was chosen: a wire's, a known server's or one of the user's.
    pub provider: String,
    /// How to talk to it.
    pub wire: Wire,
    /// For `openai` and `responses` it ends in `/v1`; for `anthropic` and `gemini` it is the server's
    /// root. No trailing slash.
    pub base_url: String,
    /// The model's name as the server knows it.
    pub model: String,
    /// Sent to this endpoint only; local servers need none. `Debug` prints it redacted.
    pub key: Option<SecretString>,
    /// What server and model take beyond what the wire says.
    pub dialect: Dialect,
}

impl Endpoint {
    /// Returns an endpoint without a key; what is known of its server holds. The base URL is taken
    /// as it is.
    pub fn new(wire: Wire, base_url: impl Into<String>, model: impl Into<String>) -> Self {
        let base_url = base_url.into();
        let quirks = known::at(&base_url).map_or_else(Quirks::default, |known| known.quirks);
        let dialect = Dialect { quirks, ..Dialect::default() };
        let (provider, model) = (wire.to_string(), model.into());
        Self { provider, wire, base_url, model, key: None, dialect }
    }

    /// Sets the key.
    #[must_use]
    pub fn with_key(self, key: impl Into<SecretString>) -> Self {
        Self { key: Some(key.into()), ..self }
    }
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
    #[error("no key for `{provider}`: set {variable}, or choose another provider (--provider)")]
    NoKey {
        /// The provider.
        provider: String,
        /// The variable that would hold it.
        variable: String,
    },
    /// The provider has no model of its own choice.
    #[error("`{provider}` serves many models: say which one (-m MODEL)")]
    NoModel {
        /// The provider.
        provider: String,
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

/// Chooses the endpoint: what is set, then the keys in the environment, then a local server. Asks
/// none of them. Fails for a provider that nobody knows, for a base URL that is none, for a key
/// that is missing where requests go to the provider's own address, for a header whose variable is
/// not set, and for a server with a name where no model is chosen.
pub fn choose(settings: &Settings, env: &Env) -> Result<Choice, NoProvider> {
    let wire = match &settings.provider {
        Some(name) => match name.parse::<Wire>() {
            // The user's own word for a server goes before ours.
            Ok(wire) if !settings.named.providers.contains_key(name) => Some(wire),
            _ => return by_name(name, settings, env).map(Choice::Endpoint),
        },
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
        let (provider, variable) = (wire.to_string(), home.key_variable.to_owned());
        return Err(NoProvider::NoKey { provider, variable });
    }
    let model = settings.model.clone().unwrap_or_else(|| home.model.to_owned());
    Ok(Choice::Endpoint(Endpoint { key, ..Endpoint::new(wire, base_url, model) }))
}

/// Returns one of the endpoints to which requests go when `first` fails: `provider/model`,
/// `provider` alone, or `/model` of the same provider. Its address and its key are its own: what
/// was set for the first one is not meant for it. Fails as [`choose`] does.
pub fn fallback(
    entry: &str,
    first: &Endpoint,
    settings: &Settings,
    env: &Env,
) -> Result<Endpoint, NoProvider> {
    let (provider, model) = entry.split_once('/').unwrap_or((entry, ""));
    let model = Some(model.to_owned()).filter(|model| !model.is_empty());
    if let ("", Some(model)) = (provider, &model) {
        let model = model.clone();
        return Ok(Endpoint { model, ..first.clone() });
    }
    let mut own = settings.clone();
    (own.provider, own.model, own.base_url) = (Some(provider.to_owned()), model, None);
    match choose(&own, env)? {
        Choice::Endpoint(endpoint) => Ok(endpoint),
        Choice::Local { .. } => Err(UnknownProvider(entry.to_owned()).into()),
    }
}

/// Returns the endpoint of a server that has a name: one of the user's, or a known one.
fn by_name(name: &str, settings: &Settings, env: &Env) -> Result<Endpoint, NoProvider> {
    let (own, known) = (settings.named.providers.get(name), known::named(name));
    let (wire, place, key_env) = match (own, known) {
        (Some(own), _) => (own.wire, &*own.base_url, own.key_env.as_deref()),
        (None, Some(known)) => (Wire::OpenAiChat, known.base_url, known.key_env),
        (None, None) => return Err(UnknownProvider(name.to_owned()).into()),
    };
    let place = check_url(place)?;
    // An address that was set before the server was chosen is that of another server, which must
    // not get this one's key.
    let moved = settings.base_url.as_deref().filter(|_| settings.is_later("base_url", "provider"));
    let base_url = moved.map_or_else(|| Ok(place.clone()), check_url)?;
    let key = match key_env {
        None => None,
        Some(variable) => match env.text(variable) {
            Some(key) => Some(SecretString::from(key)),
            None if base_url != place => None,
            None => {
                let (provider, variable) = (name.to_owned(), variable.to_owned());
                return Err(NoProvider::NoKey { provider, variable });
            }
        },
    };
    let model = settings.model.clone().or_else(|| own?.model.clone());
    let model = model.ok_or_else(|| NoProvider::NoModel { provider: name.to_owned() })?;
    let mut endpoint = Endpoint::new(wire, base_url, model);
    name.clone_into(&mut endpoint.provider);
    endpoint.key = key;
    if let Some(known) = own.and_then(|own| known::named(own.quirks.as_ref()?)).or(known) {
        endpoint.dialect.quirks = known.quirks;
    }
    for (header, value) in own.iter().flat_map(|own| &own.headers) {
        let value = match value.strip_prefix('$') {
            Some(variable) => env.text(variable).ok_or_else(|| NoProvider::NoKey {
                provider: name.to_owned(),
                variable: variable.to_owned(),
            })?,
            None => value,
        };
        endpoint.dialect.headers.push((header.clone(), SecretString::from(value)));
    }
    Ok(endpoint)
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

    fn with_file(text: &str, options: &[(&'static str, &str)]) -> Settings {
        let sources = crate::config::layers::Sources {
            user_file: Some(("/u.toml".into(), text.to_owned())),
            workspace_file: None,
            command_line: options.iter().map(|(k, v)| (*k, (*v).to_owned(), "--x")).collect(),
        };
        Settings::resolve(&sources, &Env::default()).unwrap()
    }

    #[test]
    fn a_known_server_is_chosen_by_its_name_and_has_its_own_key() {
        let chosen_as = |provider, model, env: &[(&str, &str)]| {
            let mut settings = set(Some(provider), None);
            settings.model = Some(String::from(model)).filter(|model| !model.is_empty());
            chosen(&settings, env)
        };
        let keys = [("GROQ_API_KEY", "k1"), ("OPENAI_API_KEY", "k2")];
        assert_eq!(chosen_as("groq", "x", &keys), "openai https://api.groq.com/openai/v1 x k1");
        assert_eq!(chosen_as("ollama", "x", &keys), "openai http://127.0.0.1:11434/v1 x none");
        assert_eq!(
            chosen_as("mistral", "x", &keys),
            "no key for `mistral`: set MISTRAL_API_KEY, or choose another provider (--provider)"
        );
        assert_eq!(
            chosen_as("groq", "", &keys),
            "`groq` serves many models: say which one (-m MODEL)"
        );
    }

    #[test]
    fn a_server_of_the_users_is_a_few_lines() {
        let file = "[providers.work]\nwire = \"anthropic\"\nbase_url = \"https://gate.example/\"\n\
                    key_env = \"GATE_KEY\"\nmodel = \"m\"\nheaders = { x-team = \"$TEAM\", x-a = \"b\" }";
        let settings = with_file(file, &[("provider", "work")]);
        let env = [("GATE_KEY", "k1"), ("TEAM", "t1")];
        assert_eq!(chosen(&settings, &env), "anthropic https://gate.example m k1");
        let Ok(Choice::Endpoint(endpoint)) = choose(&settings, &env.into_iter().collect()) else {
            panic!("it is chosen")
        };
        let headers: Vec<_> = endpoint
            .dialect
            .headers
            .iter()
            .map(|(name, value)| (name.as_str(), value.expose_secret()))
            .collect();
        assert_eq!(headers, [("x-a", "b"), ("x-team", "t1")]);
        assert_eq!(endpoint.provider, "work");
        assert!(!format!("{endpoint:?}").contains("t1"), "{endpoint:?}");
        assert!(chosen(&settings, &env[..1]).contains("set TEAM"));

        let file = "[providers.openai]\nbase_url = \"http://127.0.0.1:9/v1\"\nquirks = \"mistral\"";
        let settings = with_file(file, &[("provider", "openai"), ("model", "m")]);
        assert_eq!(chosen(&settings, &[]), "openai http://127.0.0.1:9/v1 m none");
        let Ok(Choice::Endpoint(endpoint)) = choose(&settings, &Env::default()) else {
            panic!("it is chosen")
        };
        assert_eq!(endpoint.dialect.quirks, known::named("mistral").unwrap().quirks);
    }

    #[test]
    fn the_key_of_a_named_server_does_not_go_to_an_address_that_was_meant_for_another() {
        let env = [("GROQ_API_KEY", "k1")];
        let file = "base_url = \"http://other.example/v1\"\nmodel = \"m\"";
        let settings = with_file(file, &[("provider", "groq")]);
        assert_eq!(chosen(&settings, &env), "openai https://api.groq.com/openai/v1 m k1");
        let both = [("provider", "groq"), ("base_url", "http://127.0.0.1:9/v1")];
        assert_eq!(chosen(&with_file(file, &both), &env), "openai http://127.0.0.1:9/v1 m k1");
    }

    #[test]
    fn a_fallback_has_an_address_and_a_key_of_its_own() {
        let file = "base_url = \"http://127.0.0.1:9\"\nmodel = \"m\"\n\
                    [providers.work]\nbase_url = \"http://127.0.0.1:7/v1\"\nkey_env = \"W_KEY\"\n\
                    model = \"w\"";
        let settings = with_file(file, &[("provider", "anthropic")]);
        let env: Env = [("ANTHROPIC_API_KEY", "k1"), ("OPENAI_API_KEY", "k2"), ("W_KEY", "k3")]
            .into_iter()
            .collect();
        let Ok(Choice::Endpoint(first)) = choose(&settings, &env) else { panic!("it is chosen") };
        let of = |entry| match fallback(entry, &first, &settings, &env) {
            Ok(e) => {
                let key = e.key.as_ref().map_or("none", |key| key.expose_secret());
                format!("{} {} {} {key}", e.wire, e.base_url, e.model)
            }
            Err(error) => error.to_string(),
        };
        assert_eq!(of("/other"), "anthropic http://127.0.0.1:9 other k1");
        assert_eq!(of("openai/gpt-5"), "openai https://api.openai.com/v1 gpt-5 k2");
        assert_eq!(
            of("anthropic"),
            format!("anthropic https://api.anthropic.com {ANTHROPIC_MODEL} k1")
        );
        assert_eq!(of("work"), "openai http://127.0.0.1:7/v1 w k3");
        assert_eq!(of("work/a/b:7b"), "openai http://127.0.0.1:7/v1 a/b:7b k3");
        assert!(of("gemini/x").contains("no key for `gemini`"));
        for unknown in ["acme/x", "", "/"] {
            assert!(of(unknown).starts_with("unknown provider"), "{unknown}: {}", of(unknown));
        }
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
