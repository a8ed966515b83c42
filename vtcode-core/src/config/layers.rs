//! What the user wrote, in layers: defaults < preset < user file < workspace file < environment <
//! command line. One table knows every key, its range, its variable and its reader; each value remembers
//! where it came from. Never reads a file itself: texts come in, [`Settings`] go out.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::dialect::{Effort, ModelFacts};
use crate::config::env::Env;
use crate::config::limits::{Limits, Price};
use crate::config::named::Named;
use crate::config::optimization::{OptimizationConfig, Preset};
use crate::config::safety::{Approval, SafetySettings, SandboxMode};

/// What a run is set to.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings {
    /// The provider's name, if one was chosen.
    pub provider: Option<String>,
    /// The model's name, if one was chosen.
    pub model: Option<String>,
    /// The base URL, if one was chosen.
    pub base_url: Option<String>,
    /// The named configuration that it starts from, if one was chosen.
    pub preset: Option<Preset>,
    /// The switches and sizes of the optimizations.
    pub optimization: OptimizationConfig,
    /// The numbers that the runtime obeys.
    pub limits: Limits,
    /// What the run may do to the machine.
    pub safety: SafetySettings,
    /// Where requests go when the provider fails, in order, each as `provider/model`.
    pub fallback: Vec<String>,
    /// What is checked after edits.
    pub checks: CheckSettings,
    /// What the user says that tokens cost.
    pub price: OwnPrice,
    /// What the user says of models and servers, by their names.
    pub named: Named,
    origins: BTreeMap<&'static str, Origin>,
}

/// What is checked after edits, as the user wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CheckSettings {
    /// The command, if the user named one.
    pub command: Option<String>,
    /// Whether the folder's files may call for one where the user named none.
    pub detect: bool,
}

/// What the user says that tokens cost, in US dollars for a million of them.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnPrice {
    /// Input tokens.
    pub input: Option<f64>,
    /// Input tokens out of the provider's cache.
    pub cached: Option<f64>,
    /// Output tokens.
    pub output: Option<f64>,
}

impl OwnPrice {
    /// Returns the price that holds: this one over the listed one. None when neither says all; a
    /// cached token costs what a fresh one does unless somebody knows better.
    pub fn over(self, listed: Option<Price>) -> Option<Price> {
        let input = self.input.or(listed.map(|price| price.input))?;
        let output = self.output.or(listed.map(|price| price.output))?;
        let listed_cached = listed.filter(|_| self.input.is_none()).map(|price| price.cached);
        Some(Price { input, cached: self.cached.or(listed_cached).unwrap_or(input), output })
    }
}

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Origin {
    /// It is as shipped.
    Default,
    /// A named configuration.
    Preset(Preset),
    /// The user's file.
    UserFile(PathBuf),
    /// The workspace's file.
    WorkspaceFile(PathBuf),
    /// A variable of the environment.
    Environment(&'static str),
    /// An option of the command line.
    CommandLine(&'static str),
    /// The program that embeds the library.
    Program,
}

impl Origin {
    fn layer(&self) -> u8 {
        match self {
            Self::Default | Self::Preset(_) => 0,
            Self::UserFile(_) => 1,
            Self::WorkspaceFile(_) => 2,
            Self::Environment(_) => 3,
            Self::CommandLine(_) | Self::Program => 4,
        }
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Preset(preset) => write!(f, "preset {preset}"),
            Self::Program => f.write_str("the program"),
            Self::UserFile(path) | Self::WorkspaceFile(path) => path.display().fmt(f),
            Self::Environment(name) => write!(f, "${name}"),
            Self::CommandLine(option) => f.write_str(option),
        }
    }
}

/// A configuration that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// The file is not TOML.
    #[error("{origin}: {what}")]
    Syntax {
        /// The file.
        origin: Origin,
        /// The parser's words.
        what: String,
    },
    /// No such key.
    #[error("{origin}: unknown key `{key}`; did you mean `{nearest}`?")]
    Unknown {
        /// The file.
        origin: Origin,
        /// The key as written.
        key: String,
        /// The key with the nearest name.
        nearest: &'static str,
    },
    /// The value does not fit the key.
    #[error("{origin}: `{key}` is {value}, but must be {wanted}")]
    Invalid {
        /// Where it stands.
        origin: Origin,
        /// The key.
        key: Cow<'static, str>,
        /// The value as written.
        value: String,
        /// What would fit.
        wanted: String,
    },
    /// A workspace's file may not set this.
    #[error(
        "{origin}: `{key}` can only be set by you, in your own file, the environment or the \
         command line: a file that comes with a folder must not redirect your requests or raise \
         a permission"
    )]
    NotForWorkspace {
        /// The file.
        origin: Origin,
        /// The key.
        key: &'static str,
    },
}

/// A key of the configuration.
pub struct Key {
    /// Its dotted name.
    pub name: &'static str,
    /// Its variable in the environment.
    pub env: Option<&'static str>,
    /// What it means, with its unit.
    pub doc: &'static str,
    /// Whether a workspace's file may set it.
    pub workspace: bool,
    kind: Kind,
    get: fn(&Settings) -> String,
}

#[derive(Clone, Copy)]
enum Kind {
    Text(fn(&mut Settings, String)),
    Switch(fn(&mut Settings, bool)),
    Number {
        min: u64,
        max: u64,
        set: fn(&mut Settings, u64),
    },
    /// A number of at least 0 that need not be whole.
    Decimal(fn(&mut Settings, f64)),
    /// One of some words; `set` says whether there is such a word.
    Word {
        words: &'static str,
        set: fn(&mut Settings, &str) -> bool,
    },
    /// Several texts: an array in a file, separated by `:` elsewhere.
    List(fn(&mut Settings, Vec<String>)),
    /// Several names: an array in a file, separated by spaces elsewhere.
    Names(fn(&mut Settings, Vec<String>)),
}

impl Key {
    fn named(name: &str) -> Option<&'static Self> {
        KEYS.iter().find(|key| key.name == name)
    }

    /// Returns what fits the key, in words.
    pub fn wanted(&self) -> String {
        match self.kind {
            Kind::Text(_) => "text".to_owned(),
            Kind::Switch(_) => "true or false".to_owned(),
            Kind::Number { min, max: u64::MAX, .. } => format!("a whole number from {min}"),
            Kind::Number { min, max, .. } => format!("a whole number from {min} to {max}"),
            Kind::Decimal(_) => "a number from 0".to_owned(),
            Kind::Word { words, .. } => words.to_owned(),
            Kind::List(_) | Kind::Names(_) => "a list of texts".to_owned(),
        }
    }

    /// Returns its value among some settings, as it is shown.
    pub fn value(&self, settings: &Settings) -> String {
        (self.get)(settings)
    }

    /// Says whether a value fits it, as text.
    pub(crate) fn check(&self, value: &str, origin: Origin) -> Result<(), ConfigError> {
        Settings::default().set(self, &Value::Text(value.to_owned()), origin)
    }

    /// Returns the value as shipped, as it is shown.
    pub fn shipped(&self) -> String {
        (self.get)(&Settings::default())
    }

    /// Returns the value as shipped, as TOML; none where only leaving the key out says the same.
    pub fn shipped_toml(&self) -> Option<String> {
        let shipped = self.shipped();
        let mut settings = Settings::default();
        settings.set(self, &Value::Text(shipped.clone()), Origin::Default).ok()?;
        settings.origins.clear();
        (settings == Settings::default()).then(|| match self.kind {
            Kind::Text(_) | Kind::Word { .. } => toml::Value::String(shipped).to_string(),
            Kind::Switch(_) | Kind::Number { .. } | Kind::Decimal(_) => shipped,
            Kind::List(_) | Kind::Names(_) => "[]".to_owned(),
        })
    }
}

fn seconds(d: Option<Duration>) -> String {
    d.map_or_else(|| "unlimited".to_owned(), |d| d.as_secs().to_string())
}

fn own_price(price: Option<f64>) -> String {
    price.map_or_else(|| "the list price".to_owned(), |price| price.to_string())
}

fn unlimited(number: Option<u64>) -> String {
    number.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
}

fn list<T: fmt::Display>(texts: impl IntoIterator<Item = T>) -> String {
    let texts: Vec<String> = texts.into_iter().map(|text| text.to_string()).collect();
    texts.join(":")
}

fn chosen(value: Option<&String>) -> String {
    value.cloned().unwrap_or_else(|| "not chosen".to_owned())
}

/// Every key, in the order in which it is shown.
pub const KEYS: &[Key] = &[
    Key {
        name: "preset",
        env: Some("VTCODE_PRESET"),
        doc: "what to start from: `development` measures, `production` keeps more for many sessions, `debug` has every optimization off",
        workspace: true,
        kind: Kind::Word {
            words: Preset::WORDS,
            set: |s, v| v.parse().map(|preset| s.preset = Some(preset)).is_ok(),
        },
        get: |s| s.preset.map_or_else(|| "not chosen".to_owned(), |preset| preset.to_string()),
    },
    Key {
        name: "provider",
        env: Some("VTCODE_PROVIDER"),
        doc: "who is asked: a wire (`openai`: Chat Completions, also for compatible servers; `responses`: OpenAI Responses; `anthropic`; `gemini`), a known server such as `ollama` or `openrouter`, or one of `[providers]` in your file",
        workspace: true,
        kind: Kind::Text(|s, v| s.provider = Some(v)),
        get: |s| chosen(s.provider.as_ref()),
    },
    Key {
        name: "model",
        env: Some("VTCODE_MODEL"),
        doc: "the model's name as the provider knows it",
        workspace: true,
        kind: Kind::Text(|s, v| s.model = Some(v)),
        get: |s| chosen(s.model.as_ref()),
    },
    Key {
        name: "base_url",
        env: Some("VTCODE_BASE_URL"),
        doc: "where the provider is reached; ends in `/v1` for `openai` and `responses`, the server's root for `anthropic` and `gemini`",
        workspace: false,
        kind: Kind::Text(|s, v| s.base_url = Some(v)),
        get: |s| chosen(s.base_url.as_ref()),
    },
    Key {
        name: "effort",
        env: Some("VTCODE_EFFORT"),
        doc: "how hard the model should think; nothing is sent unless it is set, nor to a model that does not think",
        workspace: true,
        kind: Kind::Word {
            words: Effort::WORDS,
            set: |s, v| v.parse().map(|effort| s.limits.client.effort = Some(effort)).is_ok(),
        },
        get: |s| s.limits.client.effort.map_or_else(|| "the model's".to_owned(), |e| e.to_string()),
    },
    Key {
        name: "limits.max_turns",
        env: Some("VTCODE_MAX_TURNS"),
        doc: "model requests a prompt may take",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 100_000,
            set: |s, v| s.limits.agent.max_turns = v as u32,
        },
        get: |s| s.limits.agent.max_turns.to_string(),
    },
    Key {
        name: "limits.max_repeats",
        env: Some("VTCODE_MAX_REPEATS"),
        doc: "answers in a row that may only repeat calls whose results are known, before you are asked or the task fails",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 100_000,
            set: |s, v| s.limits.agent.max_repeats = v as u32,
        },
        get: |s| s.limits.agent.max_repeats.to_string(),
    },
    Key {
        name: "limits.max_tokens",
        env: Some("VTCODE_MAX_TOKENS"),
        doc: "input and output tokens a prompt may use",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: u64::MAX,
            set: |s, v| s.limits.agent.max_tokens = Some(v),
        },
        get: |s| unlimited(s.limits.agent.max_tokens),
    },
    Key {
        name: "limits.max_cost_usd",
        env: Some("VTCODE_MAX_COST_USD"),
        doc: "US dollars a prompt may cost",
        workspace: true,
        kind: Kind::Decimal(|s, v| s.limits.agent.max_cost_usd = Some(v)),
        get: |s| {
            s.limits.agent.max_cost_usd.map_or_else(|| "unlimited".to_owned(), |n| n.to_string())
        },
    },
    Key {
        name: "limits.max_wall_s",
        env: Some("VTCODE_MAX_WALL_S"),
        doc: "seconds a run may take",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 31_536_000,
            set: |s, v| s.limits.agent.max_wall = Some(Duration::from_secs(v)),
        },
        get: |s| seconds(s.limits.agent.max_wall),
    },
    Key {
        name: "limits.command_timeout_s",
        env: Some("VTCODE_COMMAND_TIMEOUT_S"),
        doc: "seconds a command may run when the model names no deadline",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| {
                s.limits.tools.timeout = Duration::from_secs(v);
                s.limits.tools.max_timeout = s.limits.tools.max_timeout.max(s.limits.tools.timeout);
            },
        },
        get: |s| seconds(Some(s.limits.tools.timeout)),
    },
    Key {
        name: "limits.max_output_tokens",
        env: Some("VTCODE_MAX_OUTPUT_TOKENS"),
        doc: "output tokens asked for; unless it is set, what the model can (up to 32000) where the wire demands a number or the server's own bound is low, else nothing",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 1_000_000,
            set: |s, v| {
                s.limits.client.max_output_tokens = v as u32;
                s.limits.client.max_output_chosen = true;
            },
        },
        get: |s| s.limits.client.max_output_tokens.to_string(),
    },
    Key {
        name: "context.window_tokens",
        env: Some("VTCODE_CONTEXT_WINDOW_TOKENS"),
        doc: "the tokens that the model's window holds, where the table of models does not know it or a server was started with fewer",
        workspace: true,
        kind: Kind::Number {
            min: 1024,
            max: 100_000_000,
            set: |s, v| s.limits.agent.context.window_tokens = Some(v),
        },
        get: |s| {
            let window = s.limits.agent.context.window_tokens;
            window.map_or_else(|| "the model's".to_owned(), |n| n.to_string())
        },
    },
    Key {
        name: "context.compact_at_percent",
        env: Some("VTCODE_CONTEXT_COMPACT_AT_PERCENT"),
        doc: "percent of the window that a request may fill before older messages leave it; 0: only once the provider says that a request is too long",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 95,
            set: |s, v| s.limits.agent.context.compact_at_percent = v as u8,
        },
        get: |s| s.limits.agent.context.compact_at_percent.to_string(),
    },
    Key {
        name: "context.compact_to_percent",
        env: Some("VTCODE_CONTEXT_COMPACT_TO_PERCENT"),
        doc: "percent of the window that is filled once older messages have left it",
        workspace: true,
        kind: Kind::Number {
            min: 5,
            max: 90,
            set: |s, v| s.limits.agent.context.compact_to_percent = v as u8,
        },
        get: |s| s.limits.agent.context.compact_to_percent.to_string(),
    },
    Key {
        name: "price.input",
        env: Some("VTCODE_PRICE_INPUT"),
        doc: "input tokens, in US dollars for a million; where it is set, it replaces the list price",
        workspace: false,
        kind: Kind::Decimal(|s, v| s.price.input = Some(v)),
        get: |s| own_price(s.price.input),
    },
    Key {
        name: "price.cached",
        env: Some("VTCODE_PRICE_CACHED"),
        doc: "input tokens out of the provider's cache, in US dollars for a million; where it is set, it replaces the list price",
        workspace: false,
        kind: Kind::Decimal(|s, v| s.price.cached = Some(v)),
        get: |s| own_price(s.price.cached),
    },
    Key {
        name: "price.output",
        env: Some("VTCODE_PRICE_OUTPUT"),
        doc: "output tokens, in US dollars for a million; where it is set, it replaces the list price",
        workspace: false,
        kind: Kind::Decimal(|s, v| s.price.output = Some(v)),
        get: |s| own_price(s.price.output),
    },
    Key {
        name: "sandbox.mode",
        env: Some("VTCODE_SANDBOX"),
        doc: "what commands may touch",
        workspace: false,
        kind: Kind::Word {
            words: SandboxMode::WORDS,
            set: |s, v| v.parse().map(|mode| s.safety.sandbox.mode = mode).is_ok(),
        },
        get: |s| s.safety.sandbox.mode.to_string(),
    },
    Key {
        name: "sandbox.network",
        env: Some("VTCODE_SANDBOX_NETWORK"),
        doc: "true: commands reach the network",
        workspace: false,
        kind: Kind::Switch(|s, on| s.safety.sandbox.network = on),
        get: |s| s.safety.sandbox.network.to_string(),
    },
    Key {
        name: "sandbox.write",
        env: Some("VTCODE_SANDBOX_WRITE"),
        doc: "further folders that commands may write, such as a tool's cache; `~/` is your home",
        workspace: false,
        kind: Kind::List(|s, v| {
            s.safety.sandbox.write = v.into_iter().map(PathBuf::from).collect();
        }),
        get: |s| list(s.safety.sandbox.write.iter().map(|path| path.display())),
    },
    Key {
        name: "sandbox.max_processes",
        env: Some("VTCODE_SANDBOX_MAX_PROCESSES"),
        doc: "processes and threads that commands may add to yours",
        workspace: false,
        kind: Kind::Number {
            min: 16,
            max: 1_000_000,
            set: |s, v| s.safety.sandbox.max_processes = v,
        },
        get: |s| s.safety.sandbox.max_processes.to_string(),
    },
    Key {
        name: "sandbox.max_file_mb",
        env: Some("VTCODE_SANDBOX_MAX_FILE_MB"),
        doc: "MiB of the largest file that a command may write",
        workspace: false,
        kind: Kind::Number {
            min: 1,
            max: 1 << 30,
            set: |s, v| s.safety.sandbox.max_file_bytes = v << 20,
        },
        get: |s| (s.safety.sandbox.max_file_bytes >> 20).to_string(),
    },
    Key {
        name: "permissions.approval",
        env: Some("VTCODE_ASK_FOR_APPROVAL"),
        doc: "when somebody is asked before a command runs",
        workspace: false,
        kind: Kind::Word {
            words: Approval::WORDS,
            set: |s, v| v.parse().map(|approval| s.safety.approval = approval).is_ok(),
        },
        get: |s| s.safety.approval.to_string(),
    },
    Key {
        name: "permissions.allow",
        env: None,
        doc: "commands that run without a question, each the beginning of an argument list: `git diff`",
        workspace: false,
        kind: Kind::List(|s, v| s.safety.permissions.allow = v),
        get: |s| list(&s.safety.permissions.allow),
    },
    Key {
        name: "permissions.ask",
        env: None,
        doc: "commands that are asked about, whatever else allows them",
        workspace: false,
        kind: Kind::List(|s, v| s.safety.permissions.ask = v),
        get: |s| list(&s.safety.permissions.ask),
    },
    Key {
        name: "permissions.deny",
        env: None,
        doc: "commands that never run",
        workspace: false,
        kind: Kind::List(|s, v| s.safety.permissions.deny = v),
        get: |s| list(&s.safety.permissions.deny),
    },
    Key {
        name: "undo.max_mb",
        env: Some("VTCODE_UNDO_MAX_MB"),
        doc: "MiB kept of one session's changed files, for `vtcode undo`",
        workspace: false,
        kind: Kind::Number { min: 1, max: 1 << 20, set: |s, v| s.safety.undo_bytes = v << 20 },
        get: |s| (s.safety.undo_bytes >> 20).to_string(),
    },
    Key {
        name: "state.max_mb",
        env: Some("VTCODE_STATE_MAX_MB"),
        doc: "MiB that all sessions together may take of the disk; the oldest long outputs go first, then what undo keeps, then whole sessions",
        workspace: false,
        kind: Kind::Number { min: 1, max: 1 << 30, set: |s, v| s.limits.state_bytes = v << 20 },
        get: |s| (s.limits.state_bytes >> 20).to_string(),
    },
    Key {
        name: "client.attempts",
        env: Some("VTCODE_CLIENT_ATTEMPTS"),
        doc: "attempts of one model request, the first included",
        workspace: true,
        kind: Kind::Number { min: 1, max: 20, set: |s, v| s.limits.client.attempts = v as u32 },
        get: |s| s.limits.client.attempts.to_string(),
    },
    Key {
        name: "client.connect_timeout_s",
        env: Some("VTCODE_CONNECT_TIMEOUT_S"),
        doc: "seconds until the connection must stand",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 600,
            set: |s, v| s.limits.client.connect = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.connect)),
    },
    Key {
        name: "client.first_byte_timeout_s",
        env: Some("VTCODE_FIRST_BYTE_TIMEOUT_S"),
        doc: "seconds from the request to the answer's first byte, at most; once twenty answers came, four times what 99 of 100 of them took holds, if it is less",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| s.limits.client.first_byte = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.first_byte)),
    },
    Key {
        name: "client.first_byte_floor_s",
        env: Some("VTCODE_FIRST_BYTE_FLOOR_S"),
        doc: "seconds that an answer's first byte may take, however quick the answers before it were",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| s.limits.client.first_byte_floor = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.first_byte_floor)),
    },
    Key {
        name: "client.gap_timeout_s",
        env: Some("VTCODE_GAP_TIMEOUT_S"),
        doc: "seconds a streamed answer may pause",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| s.limits.client.gap = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.gap)),
    },
    Key {
        name: "client.total_timeout_s",
        env: Some("VTCODE_TOTAL_TIMEOUT_S"),
        doc: "seconds a model request may take, its retries and its waits included",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 604_800,
            set: |s, v| s.limits.client.total = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.total)),
    },
    Key {
        name: "client.silence_notice_s",
        env: Some("VTCODE_SILENCE_NOTICE_S"),
        doc: "seconds of silence after which you are told what is waited for; 0: never",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 86_400,
            set: |s, v| s.limits.client.silence = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.silence)),
    },
    Key {
        name: "client.fallback",
        env: Some("VTCODE_FALLBACK"),
        doc: "where a request goes when the provider fails before it has answered, in order: each `provider/model`, `provider` (its own model) or `/model` (another model of the same provider); `provider` is a word that --provider takes. In the variable they are separated by spaces",
        workspace: false,
        kind: Kind::Names(|s, v| s.fallback = v),
        get: |s| s.fallback.join(" "),
    },
    Key {
        name: "client.fallback_retry_s",
        env: Some("VTCODE_FALLBACK_RETRY_S"),
        doc: "a provider that failed is asked again after this long, and after twice as long each time that it fails again",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 600,
            set: |s, v| s.limits.client.breaker.open = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.client.breaker.open)),
    },
    Key {
        name: "client.hedge_budget",
        env: Some("VTCODE_HEDGE_BUDGET"),
        doc: "the share of requests, such as 0.05, that may be sent a second time when the answer begins later than 95 of 100 did; the first to begin counts, both may be billed. 0: none",
        workspace: false,
        kind: Kind::Decimal(|s, v| s.limits.client.hedge_budget = v),
        get: |s| s.limits.client.hedge_budget.to_string(),
    },
    Key {
        name: "client.allow_http",
        env: Some("VTCODE_ALLOW_HTTP"),
        doc: "true: requests may go over plain http:// to another machine, where everybody on the way reads the key and the code",
        workspace: false,
        kind: Kind::Switch(|s, on| s.limits.client.plain_http = on),
        get: |s| s.limits.client.plain_http.to_string(),
    },
    Key {
        name: "client.ca_file",
        env: Some("VTCODE_CA_FILE"),
        doc: "a file of certificates (PEM) of authorities that are trusted besides the system's",
        workspace: false,
        kind: Kind::Text(|s, v| s.limits.client.ca_file = Some(v.into())),
        get: |s| {
            let file = s.limits.client.ca_file.as_ref();
            chosen(file.map(|path| path.display().to_string()).as_ref())
        },
    },
    Key {
        name: "client.requests_per_minute",
        env: Some("VTCODE_REQUESTS_PER_MINUTE"),
        doc: "requests a minute, all sessions of this machine together",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 1_000_000,
            set: |s, v| s.limits.client.rate.requests_per_minute = Some(v),
        },
        get: |s| unlimited(s.limits.client.rate.requests_per_minute),
    },
    Key {
        name: "client.burst",
        env: Some("VTCODE_BURST"),
        doc: "requests that may go at once after a pause; a minute's worth if not set",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 1_000_000,
            set: |s, v| s.limits.client.rate.burst = Some(v),
        },
        get: |s| unlimited(s.limits.client.rate.burst),
    },
    Key {
        name: "client.input_tokens_per_minute",
        env: Some("VTCODE_INPUT_TOKENS_PER_MINUTE"),
        doc: "input tokens a minute, those out of the provider's cache not counted",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 1_000_000_000_000,
            set: |s, v| s.limits.client.rate.input_tokens_per_minute = Some(v),
        },
        get: |s| unlimited(s.limits.client.rate.input_tokens_per_minute),
    },
    Key {
        name: "client.output_tokens_per_minute",
        env: Some("VTCODE_OUTPUT_TOKENS_PER_MINUTE"),
        doc: "output tokens a minute",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 1_000_000_000_000,
            set: |s, v| s.limits.client.rate.output_tokens_per_minute = Some(v),
        },
        get: |s| unlimited(s.limits.client.rate.output_tokens_per_minute),
    },
    Key {
        name: "client.temperature",
        env: Some("VTCODE_TEMPERATURE"),
        doc: "how freely the model chooses its words; 0: as little as it can. Not every model takes one",
        workspace: true,
        kind: Kind::Decimal(|s, v| s.limits.client.temperature = Some(v as f32)),
        get: |s| {
            s.limits
                .client
                .temperature
                .map_or_else(|| "the provider's".to_owned(), |n| n.to_string())
        },
    },
    Key {
        name: "client.cache",
        env: Some("VTCODE_CACHE"),
        doc: "true: the answer to the very same request is given again, at any temperature and in later runs; for replays and evaluations. At temperature 0 it always is",
        workspace: true,
        kind: Kind::Switch(|s, on| s.limits.client.keep_all_answers = on),
        get: |s| s.limits.client.keep_all_answers.to_string(),
    },
    Key {
        name: "client.cache_disk_mb",
        env: Some("VTCODE_CACHE_DISK_MB"),
        doc: "MiB of answers that are kept on the disk; 0: none",
        workspace: false,
        kind: Kind::Number {
            min: 0,
            max: 1 << 20,
            set: |s, v| s.limits.client.answers_on_disk.bytes = v << 20,
        },
        get: |s| (s.limits.client.answers_on_disk.bytes >> 20).to_string(),
    },
    Key {
        name: "client.share_kb",
        env: Some("VTCODE_SHARE_KB"),
        doc: "identical requests that are on their way at once share one; so many KiB of its answer are kept for whoever comes later. 0: each request is its own",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 1 << 20,
            set: |s, v| s.limits.client.shared_bytes = (v << 10) as usize,
        },
        get: |s| (s.limits.client.shared_bytes >> 10).to_string(),
    },
    Key {
        name: "optimization.memory_pool.enabled",
        env: Some("VTCODE_MEMORY_POOL_ENABLED"),
        doc: "false: no buffer is kept to be used again",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.memory_pool.enabled = on),
        get: |s| s.optimization.memory_pool.enabled.to_string(),
    },
    Key {
        name: "optimization.memory_pool.max_string_pool_size",
        env: Some("VTCODE_MAX_STRING_POOL_SIZE"),
        doc: "strings and byte buffers that each thread keeps to be used again, together at most 1 MiB",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 65_536,
            set: |s, v| s.optimization.memory_pool.max_string_pool_size = v as usize,
        },
        get: |s| s.optimization.memory_pool.max_string_pool_size.to_string(),
    },
    Key {
        name: "optimization.memory_pool.max_value_pool_size",
        env: Some("VTCODE_MAX_VALUE_POOL_SIZE"),
        doc: "parts of a returned JSON value that are looked at for strings to keep",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 65_536,
            set: |s, v| s.optimization.memory_pool.max_value_pool_size = v as usize,
        },
        get: |s| s.optimization.memory_pool.max_value_pool_size.to_string(),
    },
    Key {
        name: "optimization.memory_pool.max_vec_pool_size",
        env: Some("VTCODE_MAX_VEC_POOL_SIZE"),
        doc: "lists of strings that each thread keeps to be used again",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 65_536,
            set: |s, v| s.optimization.memory_pool.max_vec_pool_size = v as usize,
        },
        get: |s| s.optimization.memory_pool.max_vec_pool_size.to_string(),
    },
    Key {
        name: "optimization.llm_client.connection_pool_size",
        env: Some("VTCODE_CONNECTION_POOL_SIZE"),
        doc: "connections to the provider that are kept while nothing goes over them",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 4096,
            set: |s, v| s.optimization.llm_client.connection_pool_size = v as usize,
        },
        get: |s| s.optimization.llm_client.connection_pool_size.to_string(),
    },
    Key {
        name: "optimization.llm_client.enable_connection_pooling",
        env: Some("VTCODE_ENABLE_CONNECTION_POOLING"),
        doc: "false: each request makes a connection of its own",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.llm_client.enable_connection_pooling = on),
        get: |s| s.optimization.llm_client.enable_connection_pooling.to_string(),
    },
    Key {
        name: "optimization.llm_client.response_cache_size",
        env: Some("VTCODE_RESPONSE_CACHE_SIZE"),
        doc: "whole answers that are kept in memory for the very same request, at temperature 0 or with `client.cache`; 0 keeps none, on the disk neither, and shares none",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 65_536,
            set: |s, v| s.optimization.llm_client.response_cache_size = v as usize,
        },
        get: |s| s.optimization.llm_client.response_cache_size.to_string(),
    },
    Key {
        name: "optimization.llm_client.rate_limit_rps",
        env: Some("VTCODE_RATE_LIMIT_RPS"),
        doc: "requests a second, all sessions of this machine together; 0 sets no limit. The lower of this and `client.requests_per_minute` holds",
        workspace: true,
        kind: Kind::Decimal(|s, v| s.optimization.llm_client.rate_limit_rps = v),
        get: |s| s.optimization.llm_client.rate_limit_rps.to_string(),
    },
    Key {
        name: "optimization.tool_registry.max_concurrent_tools",
        env: Some("VTCODE_MAX_CONCURRENT_TOOLS"),
        doc: "tool calls that run at the same time",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 256,
            set: |s, v| s.optimization.tool_registry.max_concurrent_tools = v as usize,
        },
        get: |s| s.optimization.tool_registry.max_concurrent_tools.to_string(),
    },
    Key {
        name: "optimization.tool_registry.hot_cache_size",
        env: Some("VTCODE_HOT_CACHE_SIZE"),
        doc: "compiled argument validators that are kept; 0: compiled at each call",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 4096,
            set: |s, v| s.optimization.tool_registry.hot_cache_size = v as usize,
        },
        get: |s| s.optimization.tool_registry.hot_cache_size.to_string(),
    },
    Key {
        name: "optimization.tool_registry.use_optimized_registry",
        env: Some("VTCODE_USE_OPTIMIZED_REGISTRY"),
        doc: "false: no validator is kept and no statistics are recorded",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.tool_registry.use_optimized_registry = on),
        get: |s| s.optimization.tool_registry.use_optimized_registry.to_string(),
    },
    Key {
        name: "optimization.async_pipeline.max_batch_size",
        env: Some("VTCODE_MAX_BATCH_SIZE"),
        doc: "similar calls that may run as one",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 256,
            set: |s, v| s.optimization.async_pipeline.max_batch_size = v as usize,
        },
        get: |s| s.optimization.async_pipeline.max_batch_size.to_string(),
    },
    Key {
        name: "optimization.async_pipeline.batch_timeout_ms",
        env: Some("VTCODE_BATCH_TIMEOUT_MS"),
        doc: "milliseconds that a call of low priority may wait for company; no other call waits",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 60_000,
            set: |s, v| s.optimization.async_pipeline.batch_timeout_ms = v,
        },
        get: |s| s.optimization.async_pipeline.batch_timeout_ms.to_string(),
    },
    Key {
        name: "optimization.async_pipeline.enable_batching",
        env: Some("VTCODE_ENABLE_BATCHING"),
        doc: "false: each call runs alone",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.async_pipeline.enable_batching = on),
        get: |s| s.optimization.async_pipeline.enable_batching.to_string(),
    },
    Key {
        name: "optimization.async_pipeline.enable_caching",
        env: Some("VTCODE_ENABLE_CACHING"),
        doc: "false: no result of a read is kept or shared",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.async_pipeline.enable_caching = on),
        get: |s| s.optimization.async_pipeline.enable_caching.to_string(),
    },
    Key {
        name: "optimization.agent_execution.use_optimized_loop",
        env: Some("VTCODE_USE_OPTIMIZED_LOOP"),
        doc: "false: the serial loop; no call starts while the answer still streams, one runs at a time, and nothing is attached",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.agent_execution.use_optimized_loop = on),
        get: |s| s.optimization.agent_execution.use_optimized_loop.to_string(),
    },
    Key {
        name: "optimization.agent_execution.max_memory_mb",
        env: Some("VTCODE_MAX_MEMORY_MB"),
        doc: "MiB that a session may keep in memory: from 80 % on, caches are shed; from 95 % on, calls and prompts are refused; beyond it, the prompt ends",
        workspace: true,
        kind: Kind::Number {
            min: 32,
            max: 1 << 20,
            set: |s, v| s.optimization.agent_execution.max_memory_mb = v,
        },
        get: |s| s.optimization.agent_execution.max_memory_mb.to_string(),
    },
    Key {
        name: "optimization.agent_execution.enable_performance_prediction",
        env: Some("VTCODE_ENABLE_PERFORMANCE_PREDICTION"),
        doc: "false: no file is attached to a result before the model asks for it",
        workspace: true,
        kind: Kind::Switch(|s, on| {
            s.optimization.agent_execution.enable_performance_prediction = on;
        }),
        get: |s| s.optimization.agent_execution.enable_performance_prediction.to_string(),
    },
    Key {
        name: "predict.max_attached_tokens",
        env: Some("VTCODE_MAX_ATTACHED_TOKENS"),
        doc: "tokens of files that may be attached to the results of one step, where that gains more than it costs; 0 attaches none",
        workspace: true,
        kind: Kind::Number { min: 0, max: 100_000, set: |s, v| s.limits.agent.attached_tokens = v },
        get: |s| s.limits.agent.attached_tokens.to_string(),
    },
    Key {
        name: "predict.second_tokens",
        env: Some("VTCODE_SECOND_TOKENS"),
        doc: "what a second of your time is worth in input tokens, when a guess is weighed against its tokens; 0: only what saves money is attached",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 1_000_000,
            set: |s, v| s.limits.agent.second_tokens = v as u32,
        },
        get: |s| s.limits.agent.second_tokens.to_string(),
    },
    Key {
        name: "check.command",
        env: Some("VTCODE_CHECK_COMMAND"),
        doc: "a quick check, such as `cargo check --quiet`, that runs in a sandbox of its own after edits while the model thinks; what is new in its outcome is attached to the next result",
        workspace: false,
        kind: Kind::Text(|s, v| s.checks.command = Some(v)),
        get: |s| chosen(s.checks.command.as_ref()),
    },
    Key {
        name: "check.detect",
        env: Some("VTCODE_CHECK_DETECT"),
        doc: "true: where no check is named, the folder's files may call for one: `cargo check`, `tsc`, `go vet` or `ruff check`, if it is installed. Such a check runs code of the folder, such as build scripts",
        workspace: false,
        kind: Kind::Switch(|s, on| s.checks.detect = on),
        get: |s| s.checks.detect.to_string(),
    },
    Key {
        name: "check.run_cpu_s",
        env: Some("VTCODE_CHECK_RUN_CPU_S"),
        doc: "seconds of processor time that all checks of one run may use; 0: none is run",
        workspace: false,
        kind: Kind::Number {
            min: 0,
            max: 86_400,
            set: |s, v| s.limits.agent.checks.run_cpu = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.agent.checks.run_cpu)),
    },
    Key {
        name: "check.cpu_s",
        env: Some("VTCODE_CHECK_CPU_S"),
        doc: "seconds of processor time that one check may use before it is ended",
        workspace: false,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| s.limits.agent.checks.cpu = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.agent.checks.cpu)),
    },
    Key {
        name: "check.wall_s",
        env: Some("VTCODE_CHECK_WALL_S"),
        doc: "seconds that one check may take before it is ended",
        workspace: false,
        kind: Kind::Number {
            min: 1,
            max: 86_400,
            set: |s, v| s.limits.agent.checks.wall = Duration::from_secs(v),
        },
        get: |s| seconds(Some(s.limits.agent.checks.wall)),
    },
    Key {
        name: "context.folder_instructions_kb",
        env: Some("VTCODE_FOLDER_INSTRUCTIONS_KB"),
        doc: "KiB of the `AGENTS.md` of folders below the workspace that may be attached to the results of a step that first touches files there; 0: none",
        workspace: true,
        kind: Kind::Number {
            min: 0,
            max: 1024,
            set: |s, v| s.limits.agent.instructions_bytes = (v << 10) as usize,
        },
        get: |s| (s.limits.agent.instructions_bytes >> 10).to_string(),
    },
    Key {
        name: "optimization.profiling.enabled",
        env: Some("VTCODE_PROFILING_ENABLED"),
        doc: "end a run with the table of where its time went",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.profiling.enabled = on),
        get: |s| s.optimization.profiling.enabled.to_string(),
    },
    Key {
        name: "optimization.profiling.monitor_interval_ms",
        env: Some("VTCODE_MONITOR_INTERVAL_MS"),
        doc: "milliseconds between two readings of memory, processor time and descriptors in a profile; they are taken when something happens, never by a timer",
        workspace: true,
        kind: Kind::Number {
            min: 1,
            max: 3_600_000,
            set: |s, v| s.optimization.profiling.monitor_interval_ms = v,
        },
        get: |s| s.optimization.profiling.monitor_interval_ms.to_string(),
    },
    Key {
        name: "optimization.profiling.enable_regression_testing",
        env: Some("VTCODE_ENABLE_REGRESSION_TESTING"),
        doc: "hold a profiled run against those before it, and say when our own work per turn has become slower",
        workspace: true,
        kind: Kind::Switch(|s, on| s.optimization.profiling.enable_regression_testing = on),
        get: |s| s.optimization.profiling.enable_regression_testing.to_string(),
    },
];

/// What the layers are made of.
#[derive(Default)]
pub struct Sources {
    /// The user's file and its text.
    pub user_file: Option<(PathBuf, String)>,
    /// The workspace's file and its text.
    pub workspace_file: Option<(PathBuf, String)>,
    /// Key, value and option of each setting on the command line.
    pub command_line: Vec<(&'static str, String, &'static str)>,
}

/// Prints where they are and not what they say: a header of the user's file may hold a key.
impl std::fmt::Debug for Sources {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let path = |file: &Option<(PathBuf, String)>| file.as_ref().map(|(path, _)| path.clone());
        let options: Vec<_> = self.command_line.iter().map(|(key, _, _)| *key).collect();
        f.debug_struct("Sources")
            .field("user_file", &path(&self.user_file))
            .field("workspace_file", &path(&self.workspace_file))
            .field("command_line", &options)
            .finish()
    }
}

impl Settings {
    /// Returns the settings as shipped, but for these.
    pub(crate) fn with(optimization: OptimizationConfig) -> Self {
        Self { optimization, ..Self::default() }
    }

    /// Lays the layers over each other. Fails on the first text that is no TOML, key that there is
    /// not, value that does not fit, or key that a workspace's file may not set. Panics when the
    /// command line names a key that there is not.
    pub fn resolve(sources: &Sources, env: &Env) -> Result<Self, ConfigError> {
        let mut settings = Self::default();
        settings.lay(sources, env)?;
        // Which preset holds is known when all layers are laid, but it lies under them.
        if let Some(preset) = settings.preset {
            settings = Self::default();
            settings.take_preset(preset);
            settings.lay(sources, env)?;
        }
        settings.optimization.join(&mut settings.limits);
        Ok(settings)
    }

    fn lay(&mut self, sources: &Sources, env: &Env) -> Result<(), ConfigError> {
        if let Some((path, text)) = &sources.user_file {
            self.take_file(text, &Origin::UserFile(path.clone()))?;
        }
        if let Some((path, text)) = &sources.workspace_file {
            self.take_file(text, &Origin::WorkspaceFile(path.clone()))?;
        }
        for key in KEYS {
            self.take_variable(key, env)?;
        }
        for (name, value, option) in &sources.command_line {
            let key = Key::named(name).expect("the options name keys of the table");
            self.set(key, &Value::Text(value.clone()), Origin::CommandLine(option))?;
        }
        Ok(())
    }

    /// Lays a preset.
    pub(crate) fn take_preset(&mut self, preset: Preset) {
        self.preset = Some(preset);
        for (name, value) in preset.values() {
            let key = Key::named(name).expect("a preset names keys of the table");
            let value = Value::Text((*value).to_owned());
            self.set(key, &value, Origin::Preset(preset)).expect("a preset's values fit");
        }
    }

    /// Takes a key's variable, if it is set.
    pub(crate) fn take_variable(&mut self, key: &Key, env: &Env) -> Result<(), ConfigError> {
        let Some((name, value)) = key.env.and_then(|name| Some((name, env.text(name)?))) else {
            return Ok(());
        };
        self.set(key, &Value::Text(value.to_owned()), Origin::Environment(name))
    }

    /// Returns every key with its value and where it came from.
    pub fn show(&self) -> impl Iterator<Item = (&'static Key, String, &Origin)> {
        KEYS.iter().map(|key| {
            let origin = self.origins.get(key.name).unwrap_or(&Origin::Default);
            (key, (key.get)(self), origin)
        })
    }

    /// Returns whether a layer set a key.
    pub fn is_set(&self, name: &str) -> bool {
        self.origins.contains_key(name)
    }

    /// Returns whether a key was set in the same layer as another one, or in a later one.
    pub fn is_later(&self, name: &str, than: &str) -> bool {
        let layer = |name: &str| self.origins.get(name).map_or(0, Origin::layer);
        layer(name) >= layer(than)
    }

    /// Lays what the user says of a model over what is known of it.
    pub fn own_facts(&self, model: &str, facts: &mut ModelFacts) {
        self.named.facts(model, facts);
        facts.price = self.price.over(facts.price);
    }

    fn take_file(&mut self, text: &str, origin: &Origin) -> Result<(), ConfigError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            // The place and not the line itself: what stands there may be a key.
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
            let what = format!("line {line}, column {column}: {}", error.message());
            ConfigError::Syntax { origin: origin.clone(), what }
        })?;
        self.take_table("", &table, origin)
    }

    fn take_table(
        &mut self,
        prefix: &str,
        table: &toml::Table,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            let below = format!("{name}.");
            if let Some(key) = Key::named(&name) {
                if matches!(origin, Origin::WorkspaceFile(_)) && !key.workspace {
                    let origin = origin.clone();
                    return Err(ConfigError::NotForWorkspace { origin, key: key.name });
                }
                self.set(key, &Value::Toml(value), origin.clone())?;
            } else if let toml::Value::Table(inner) = value
                && KEYS.iter().any(|key| key.name.starts_with(&below))
            {
                self.take_table(&below, inner, origin)?;
            } else if let Some(table) = Named::table(&name) {
                self.named.take(table, value, origin)?;
            } else {
                return Err(ConfigError::Unknown {
                    origin: origin.clone(),
                    nearest: nearest(&name),
                    key: name,
                });
            }
        }
        Ok(())
    }

    fn set(&mut self, key: &Key, value: &Value<'_>, origin: Origin) -> Result<(), ConfigError> {
        let fits = match key.kind {
            Kind::Text(set) => value.text().map(|text| set(self, text.to_owned())),
            Kind::Switch(set) => value.switch().map(|on| set(self, on)),
            Kind::Number { min, max, set } => {
                let number = value.number().filter(|number| (min..=max).contains(number));
                number.map(|number| set(self, number))
            }
            Kind::Decimal(set) => value.decimal().map(|number| set(self, number)),
            Kind::Word { set, .. } => {
                value.text().and_then(|word| set(self, word.trim()).then_some(()))
            }
            Kind::List(set) => value.list(':').map(|texts| set(self, texts)),
            Kind::Names(set) => value.list(' ').map(|names| set(self, names)),
        };
        if fits.is_none() {
            let (value, wanted) = (value.shown(), key.wanted());
            return Err(ConfigError::Invalid { origin, key: key.name.into(), value, wanted });
        }
        self.origins.insert(key.name, origin);
        Ok(())
    }
}

/// A value as it was written: typed in a file, text elsewhere.
enum Value<'a> {
    Toml(&'a toml::Value),
    Text(String),
}

impl Value<'_> {
    fn text(&self) -> Option<&str> {
        match self {
            Self::Toml(value) => value.as_str(),
            Self::Text(text) => Some(text),
        }
    }

    fn switch(&self) -> Option<bool> {
        match self {
            Self::Toml(value) => value.as_bool(),
            Self::Text(text) => match text.as_str() {
                "true" | "1" | "yes" | "on" => Some(true),
                "false" | "0" | "no" | "off" => Some(false),
                _ => None,
            },
        }
    }

    fn number(&self) -> Option<u64> {
        match self {
            Self::Toml(value) => value.as_integer().and_then(|n| u64::try_from(n).ok()),
            Self::Text(text) => text.trim().parse().ok(),
        }
    }

    fn decimal(&self) -> Option<f64> {
        let number = match self {
            Self::Toml(toml::Value::Float(number)) => *number,
            Self::Toml(value) => value.as_integer()? as f64,
            Self::Text(text) => text.trim().parse().ok()?,
        };
        (number.is_finite() && number >= 0.0).then_some(number)
    }

    fn list(&self, separator: char) -> Option<Vec<String>> {
        match self {
            Self::Toml(value) => {
                value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
            }
            Self::Text(text) => Some(
                text.split(separator).filter(|text| !text.is_empty()).map(str::to_owned).collect(),
            ),
        }
    }

    fn shown(&self) -> String {
        match self {
            Self::Toml(value) => value.to_string(),
            Self::Text(text) => format!("`{text}`"),
        }
    }
}

fn nearest(name: &str) -> &'static str {
    // People get the last word of a key right or wrong more often than its section.
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    let score = |key: &Key| {
        // A little less for the last word alone: a key of the same section comes first.
        strsim::jaro(key.name, name).max(0.95 * strsim::jaro(&last(key.name), &last(name)))
    };
    let best = KEYS.iter().max_by(|a, b| score(a).total_cmp(&score(b)));
    best.map_or("", |key| key.name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(user: &str, workspace: &str, env: &[(&str, &str)]) -> Result<Settings, String> {
        let sources = Sources {
            user_file: Some(("/home/u/vtcode.toml".into(), user.to_owned())),
            workspace_file: Some(("/w/vtcode.toml".into(), workspace.to_owned())),
            command_line: Vec::new(),
        };
        Settings::resolve(&sources, &env.iter().copied().collect()).map_err(|e| e.to_string())
    }

    #[test]
    fn a_later_layer_wins_and_each_value_knows_where_it_came_from() {
        let mut sources = Sources {
            user_file: Some(("/u.toml".into(), "model = \"a\"\n[limits]\nmax_turns = 5".into())),
            workspace_file: Some(("/w.toml".into(), "limits.max_turns = 6".into())),
            command_line: Vec::new(),
        };
        let env: Env = [("VTCODE_MODEL", "b")].into_iter().collect();
        let settings = Settings::resolve(&sources, &env).unwrap();
        assert_eq!(settings.model.as_deref(), Some("b"));
        assert_eq!(settings.limits.agent.max_turns, 6);
        sources.command_line.push(("limits.max_turns", "7".into(), "--max-turns"));
        let settings = Settings::resolve(&sources, &env).unwrap();
        assert_eq!(settings.limits.agent.max_turns, 7);
        let shown: Vec<String> = settings
            .show()
            .take(6)
            .map(|(key, value, origin)| format!("{} = {value} ({origin})", key.name))
            .collect();
        expect_test::expect![[r"
            preset = not chosen (default)
            provider = not chosen (default)
            model = b ($VTCODE_MODEL)
            base_url = not chosen (default)
            effort = the model's (default)
            limits.max_turns = 7 (--max-turns)"]]
        .assert_eq(&shown.join("\n"));
    }

    #[test]
    fn a_switch_becomes_a_number_whatever_else_was_written() {
        let file = "[optimization]\nasync_pipeline.enable_batching = false\n\
                    async_pipeline.max_batch_size = 9\nasync_pipeline.enable_caching = false\n\
                    tool_registry.use_optimized_registry = false\ntool_registry.hot_cache_size = 4";
        let tools = resolve(file, "", &[]).unwrap().limits.tools;
        assert_eq!((tools.max_batch, tools.cache.entries, tools.share_reads), (1, 0, false));
        assert_eq!((tools.validators_kept, tools.statistics), (0, false));

        let serial = resolve("", "", &[("VTCODE_USE_OPTIMIZED_LOOP", "false")]).unwrap().limits;
        assert_eq!((serial.tools.max_concurrent, serial.tools.max_batch), (1, 1));
        assert_eq!(serial.agent.calls_started_mid_stream, 0);
        assert_eq!(serial.agent.attached_tokens, 0);
        let file = "optimization.agent_execution.enable_performance_prediction = false\n\
                    predict.max_attached_tokens = 900";
        assert_eq!(resolve(file, "", &[]).unwrap().limits.agent.attached_tokens, 0);
        let file = "[predict]\nmax_attached_tokens = 900\nsecond_tokens = 7";
        let agent = resolve(file, "", &[]).unwrap().limits.agent;
        assert_eq!((agent.attached_tokens, agent.second_tokens), (900, 7));

        let file = "client.requests_per_minute = 90\n[optimization.llm_client]\n\
                    enable_connection_pooling = false\nconnection_pool_size = 9\n\
                    response_cache_size = 7\nrate_limit_rps = 2.5";
        let client = resolve(file, "", &[]).unwrap().limits.client;
        assert_eq!((client.idle_connections, client.answers.entries), (0, 7));
        assert_eq!(client.rate.requests_per_minute, Some(90));
        let rps = |value| {
            let limits = resolve("", "", &[("VTCODE_RATE_LIMIT_RPS", value)]).unwrap().limits;
            limits.client.rate.requests_per_minute
        };
        assert_eq!([rps("2.5"), rps("0.001"), rps("0")], [Some(150), Some(1), None]);

        let seed = "[optimization.tool_registry]\nmax_concurrent_tools = 4\nhot_cache_size = 16\n\
                    use_optimized_registry = true\n[optimization.async_pipeline]\n\
                    max_batch_size = 5\nbatch_timeout_ms = 100\nenable_batching = true\n\
                    enable_caching = true";
        let tools = resolve(seed, "", &[]).unwrap().limits.tools;
        assert_eq!((tools.max_concurrent, tools.max_batch, tools.statistics), (4, 5, true));
    }

    #[test]
    fn an_unknown_key_names_the_nearest() {
        let error = resolve("[limits]\nmax_turn = 5", "", &[]).unwrap_err();
        assert_eq!(
            error,
            "/home/u/vtcode.toml: unknown key `limits.max_turn`; did you mean `limits.max_turns`?"
        );
        let error = resolve("[limit]\nmax_turns = 5", "", &[]).unwrap_err();
        assert!(error.contains("unknown key `limit`"), "{error}");
    }

    #[test]
    fn a_wrong_value_names_the_range_and_the_place() {
        let error = resolve("", "[limits]\nmax_turns = 0", &[]).unwrap_err();
        assert_eq!(
            error,
            "/w/vtcode.toml: `limits.max_turns` is 0, but must be a whole number from 1 to 100000"
        );
        let error = resolve("", "", &[("VTCODE_PROFILING_ENABLED", "maybe")]).unwrap_err();
        assert_eq!(
            error,
            "$VTCODE_PROFILING_ENABLED: `optimization.profiling.enabled` is `maybe`, but must be \
             true or false"
        );
        let error = resolve("model = 3", "", &[]).unwrap_err();
        assert_eq!(error, "/home/u/vtcode.toml: `model` is 3, but must be text");
    }

    #[test]
    fn a_workspace_cannot_redirect_requests() {
        let error = resolve("", "base_url = \"https://evil.example/v1\"", &[]).unwrap_err();
        assert!(error.starts_with("/w/vtcode.toml: `base_url` can only be set by you"), "{error}");
    }

    #[test]
    fn text_that_is_not_toml_is_an_error_with_its_place() {
        let error = resolve("= 3", "", &[]).unwrap_err();
        assert!(error.starts_with("/home/u/vtcode.toml: "), "{error}");
    }

    #[test]
    fn every_key_is_named_once_and_has_a_reader() {
        for (n, key) in KEYS.iter().enumerate() {
            assert!(
                KEYS[..n]
                    .iter()
                    .all(|k| k.name != key.name && (k.env.is_none() || k.env != key.env)),
                "{}",
                key.name
            );
            let mut settings = Settings::default();
            let before = (key.get)(&settings);
            let other = match key.kind {
                Kind::Text(_) => "other".to_owned(),
                Kind::Switch(_) => (before == "false").to_string(),
                Kind::Number { min, .. } => (min + 1).to_string(),
                Kind::Decimal(_) => "1.5".to_owned(),
                Kind::Word { words, .. } => {
                    let mut words = words.split('`').skip(1).step_by(2);
                    words.find(|word| *word != before).unwrap().to_owned()
                }
                Kind::List(_) => "a:b c".to_owned(),
                Kind::Names(_) => "a/b:c d".to_owned(),
            };
            settings.set(key, &Value::Text(other.clone()), Origin::Default).unwrap();
            assert_eq!((key.get)(&settings), other, "{}", key.name);
            let changed = Settings { origins: BTreeMap::new(), ..settings };
            assert_ne!(changed, Settings::default(), "{}", key.name);
        }
    }
}
