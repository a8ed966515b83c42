//! What users say in tables of their own naming: `[models."NAME"]` of a model, `[providers.NAME]` of
//! a server. A table of the file comes in, plain data goes out; every field is checked.
//! Never from a workspace's file: a folder must not redirect requests, name keys or hide costs.

use std::collections::BTreeMap;

use crate::config::dialect::{Effort, ModelFacts, Thinking};
use crate::config::endpoint::Wire;
use crate::config::layers::{ConfigError, Origin, OwnPrice};

/// What stands in such tables.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Named {
    /// What the user says of models, by their names.
    pub models: BTreeMap<String, OwnModel>,
    /// The user's servers, by the names that they gave them.
    pub providers: BTreeMap<String, OwnProvider>,
}

/// What the user says of a model; what is left out is as the list has it.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct OwnModel {
    context_window: Option<u64>,
    max_output: Option<u32>,
    price: OwnPrice,
    images: Option<bool>,
    temperature: Option<bool>,
    thinking: Option<Thinking>,
}

impl OwnModel {
    fn show(&self) -> Vec<(&'static str, String)> {
        let number = |n: Option<u64>| n.map(|n| n.to_string());
        let price = |n: Option<f64>| n.map(|n| n.to_string());
        let word = self.thinking.and_then(thinking_word);
        [
            ("context_window", number(self.context_window)),
            ("max_output", number(self.max_output.map(u64::from))),
            ("input", price(self.price.input)),
            ("cached", price(self.price.cached)),
            ("output", price(self.price.output)),
            ("images", self.images.map(|takes| takes.to_string())),
            ("temperature", self.temperature.map(|takes| takes.to_string())),
            ("effort", word.map(quoted)),
        ]
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)))
        .collect()
    }

    /// Lays it over what is known.
    pub fn over(&self, facts: &mut ModelFacts) {
        facts.context_window = self.context_window.or(facts.context_window);
        facts.max_output = self.max_output.or(facts.max_output);
        facts.price = self.price.over(facts.price);
        facts.images = self.images.or(facts.images);
        facts.thinking = self.thinking.unwrap_or(facts.thinking);
        if let Some(takes) = self.temperature {
            facts.fixed_temperature = !takes;
        }
    }
}

fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

/// A server of the user's.
#[derive(Clone, PartialEq, Eq)]
pub struct OwnProvider {
    /// How to talk to it.
    pub wire: Wire,
    /// Where it is reached, as written; that it is a URL is checked where it is chosen.
    pub base_url: String,
    /// The variable that holds its key; none: it needs none.
    pub key_env: Option<String>,
    /// The model that is asked when none is named.
    pub model: Option<String>,
    /// Further headers of each request. `$NAME` as a value is what that variable holds.
    pub headers: BTreeMap<String, String>,
    /// The known server whose habits it has.
    pub quirks: Option<String>,
}

impl OwnProvider {
    fn show(&self) -> Vec<(&'static str, String)> {
        let mut fields =
            vec![("wire", quoted(self.wire.as_str())), ("base_url", quoted(&self.base_url))];
        let texts = [("key_env", &self.key_env), ("model", &self.model), ("quirks", &self.quirks)];
        let said = texts.into_iter().filter_map(|(key, text)| Some((key, quoted(text.as_ref()?))));
        fields.extend(said);
        if !self.headers.is_empty() {
            let header = |(name, value): (&String, &String)| {
                let shown = if value.starts_with('$') { value } else { "[hidden]" };
                format!("{} = {}", quoted(name), quoted(shown))
            };
            let headers: Vec<_> = self.headers.iter().map(header).collect();
            fields.push(("headers", format!("{{ {} }}", headers.join(", "))));
        }
        fields
    }
}

/// Prints no header's value: it may be a key.
impl std::fmt::Debug for OwnProvider {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut shown = f.debug_struct("OwnProvider");
        for (key, value) in self.show() {
            shown.field(key, &value);
        }
        shown.finish()
    }
}

/// The tables, and what may stand in each of theirs.
const MODEL_FIELDS: &[&str] = &[
    "context_window",
    "max_output",
    "input",
    "cached",
    "output",
    "images",
    "temperature",
    "effort",
];
const PROVIDER_FIELDS: &[&str] = &["wire", "base_url", "key_env", "model", "headers", "quirks"];

impl Named {
    /// Returns the table that a key at the top of a file is.
    pub(crate) fn table(name: &str) -> Option<&'static str> {
        ["models", "providers"].into_iter().find(|table| *table == name)
    }

    /// Takes one of the tables.
    pub(crate) fn take(
        &mut self,
        name: &'static str,
        value: &toml::Value,
        origin: &Origin,
    ) -> Result<(), ConfigError> {
        if matches!(origin, Origin::WorkspaceFile(_)) {
            return Err(ConfigError::NotForWorkspace { origin: origin.clone(), key: name });
        }
        let table = Reader { origin, at: name.to_owned(), table: name };
        for (key, value) in table.table(value)? {
            let at = Reader { origin, at: format!("{name}.\"{key}\""), table: name };
            if name == "models" {
                self.models.insert(key.clone(), at.model(value)?);
            } else {
                self.providers.insert(key.clone(), at.provider(value)?);
            }
        }
        Ok(())
    }

    /// Returns each table with what it says, as a file would say it. What stands in a header may be
    /// a secret, unless it names a variable.
    pub fn show(&self) -> Vec<(String, String)> {
        let models = self.models.iter().map(|(name, model)| ("models", name, model.show()));
        let providers = self.providers.iter().map(|(name, own)| ("providers", name, own.show()));
        let written = |(table, name, fields): (&str, &String, Vec<(&str, String)>)| {
            let fields: Vec<_> =
                fields.iter().map(|(key, value)| format!("{key} = {value}")).collect();
            (format!("{table}.{}", quoted(name)), format!("{{ {} }}", fields.join(", ")))
        };
        models.chain(providers).map(written).collect()
    }

    /// Lays what the user says of a model over what is known of it.
    pub fn facts(&self, model: &str, facts: &mut ModelFacts) {
        if let Some(own) = self.models.get(model) {
            own.over(facts);
        }
    }
}

/// Reads one table, and knows where it stands.
struct Reader<'a> {
    origin: &'a Origin,
    at: String,
    table: &'static str,
}

impl Reader<'_> {
    fn model(&self, value: &toml::Value) -> Result<OwnModel, ConfigError> {
        let mut model = OwnModel::default();
        for (key, value) in self.table(value)? {
            let number = || match value {
                toml::Value::Integer(n) => u64::try_from(*n).ok().filter(|n| *n > 0),
                _ => None,
            };
            let price = || {
                let price = match value {
                    toml::Value::Float(price) => Some(*price),
                    toml::Value::Integer(price) => Some(*price as f64),
                    _ => None,
                };
                price.filter(|price| price.is_finite() && *price >= 0.0)
            };
            let wanted = match key.as_str() {
                "context_window" => {
                    model.context_window = number();
                    (model.context_window.is_none(), "a number of tokens")
                }
                "max_output" => {
                    model.max_output = number().and_then(|n| u32::try_from(n).ok());
                    (model.max_output.is_none(), "a number of tokens")
                }
                "input" | "cached" | "output" => {
                    let field = match key.as_str() {
                        "input" => &mut model.price.input,
                        "cached" => &mut model.price.cached,
                        _ => &mut model.price.output,
                    };
                    *field = price();
                    (field.is_none(), "US dollars for a million tokens")
                }
                "images" => {
                    model.images = value.as_bool();
                    (model.images.is_none(), "true or false")
                }
                "temperature" => {
                    model.temperature = value.as_bool();
                    (model.temperature.is_none(), "true (it takes one) or false")
                }
                "effort" => {
                    model.thinking = value.as_str().and_then(thinking);
                    (model.thinking.is_none(), THINKING_WORDS)
                }
                _ => return Err(self.unknown(key, MODEL_FIELDS)),
            };
            if let (true, wanted) = wanted {
                return Err(self.invalid(key, value, wanted));
            }
        }
        Ok(model)
    }

    fn provider(&self, value: &toml::Value) -> Result<OwnProvider, ConfigError> {
        let mut provider = OwnProvider {
            wire: Wire::OpenAiChat,
            base_url: String::new(),
            key_env: None,
            model: None,
            headers: BTreeMap::new(),
            quirks: None,
        };
        let table = self.table(value)?;
        for (key, value) in table {
            let text = || value.as_str().filter(|text| !text.is_empty()).map(str::to_owned);
            let wanted = match key.as_str() {
                "wire" => {
                    let wire = value.as_str().and_then(|name| name.parse().ok());
                    provider.wire = wire.unwrap_or(provider.wire);
                    (wire.is_none(), "`openai`, `responses`, `anthropic` or `gemini`")
                }
                "base_url" => {
                    provider.base_url = text().unwrap_or_default();
                    (provider.base_url.is_empty(), "a URL")
                }
                "key_env" => {
                    provider.key_env = text();
                    (provider.key_env.is_none(), "the name of the variable that holds the key")
                }
                "model" => {
                    provider.model = text();
                    (provider.model.is_none(), "the name of a model")
                }
                "quirks" => {
                    provider.quirks = text().filter(|name| super::endpoint::has_quirks(name));
                    (provider.quirks.is_none(), "the name of a server that is known by it")
                }
                "headers" => {
                    let Some(headers) = value.as_table() else {
                        return Err(self.invalid(key, value, "a table of texts"));
                    };
                    for (name, value) in headers {
                        let Some(text) = value.as_str() else {
                            return Err(self.invalid("headers", value, "a table of texts"));
                        };
                        provider.headers.insert(name.clone(), text.to_owned());
                    }
                    (false, "")
                }
                _ => return Err(self.unknown(key, PROVIDER_FIELDS)),
            };
            if let (true, wanted) = wanted {
                return Err(self.invalid(key, value, wanted));
            }
        }
        if provider.base_url.is_empty() {
            let none = toml::Value::String(String::new());
            return Err(self.invalid("base_url", &none, "a URL"));
        }
        Ok(provider)
    }

    fn table<'a>(&self, value: &'a toml::Value) -> Result<&'a toml::Table, ConfigError> {
        value.as_table().ok_or_else(|| ConfigError::Invalid {
            origin: self.origin.clone(),
            key: self.at.clone().into(),
            value: value.to_string(),
            wanted: "a table".to_owned(),
        })
    }

    fn invalid(&self, key: &str, value: &toml::Value, wanted: &str) -> ConfigError {
        ConfigError::Invalid {
            origin: self.origin.clone(),
            key: format!("{}.{key}", self.at).into(),
            // What stands there may be a key that somebody put in the wrong place.
            value: if self.table == "providers" {
                "something else".into()
            } else {
                value.to_string()
            },
            wanted: wanted.to_owned(),
        }
    }

    fn unknown(&self, key: &str, fields: &[&'static str]) -> ConfigError {
        let nearer = |a: &&&str, b: &&&str| strsim::jaro(a, key).total_cmp(&strsim::jaro(b, key));
        ConfigError::Unknown {
            origin: self.origin.clone(),
            key: format!("{}.{key}", self.at),
            nearest: fields.iter().max_by(nearer).copied().unwrap_or_default(),
        }
    }
}

const THINKING_WORDS: &str = "`none`, `levels`, `adaptive` or `budget`";

/// Returns the word for how a model is told how hard to think.
pub fn thinking_word(thinking: Thinking) -> Option<&'static str> {
    match thinking {
        Thinking::Unknown => None,
        Thinking::None => Some("none"),
        Thinking::Level { .. } => Some("levels"),
        Thinking::Adaptive => Some("adaptive"),
        Thinking::Budget { .. } => Some("budget"),
    }
}

fn thinking(word: &str) -> Option<Thinking> {
    match word {
        "none" => Some(Thinking::None),
        "levels" => Some(Thinking::Level { least: Effort::Minimal }),
        "adaptive" => Some(Thinking::Adaptive),
        "budget" => Some(Thinking::Budget { least: 1024, optional: true }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::layers::{Settings, Sources};

    fn resolve(user: &str, workspace: &str) -> Result<Settings, String> {
        let sources = Sources {
            user_file: Some(("/u.toml".into(), user.to_owned())),
            workspace_file: Some(("/w.toml".into(), workspace.to_owned())),
            command_line: Vec::new(),
        };
        Settings::resolve(&sources, &crate::config::env::Env::default())
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_the_user_says_of_a_model_goes_before_what_is_known() {
        let file = "[models.\"gpt-5\"]\ncontext_window = 7\nmax_output = 5\ninput = 3\n\
                    images = false\ntemperature = true\neffort = \"none\"";
        let named = resolve(file, "").unwrap().named;
        let mut facts = ModelFacts {
            context_window: Some(1),
            max_output: Some(2),
            fixed_temperature: true,
            price: Some(crate::config::limits::Price { input: 1.0, cached: 0.5, output: 2.0 }),
            ..ModelFacts::default()
        };
        named.facts("gpt-4", &mut facts);
        assert_eq!(facts.context_window, Some(1));
        named.facts("gpt-5", &mut facts);
        assert_eq!((facts.context_window, facts.max_output), (Some(7), Some(5)));
        let price = facts.price.unwrap();
        assert_eq!((price.input, price.cached, price.output), (3.0, 3.0, 2.0));
        assert_eq!((facts.images, facts.fixed_temperature), (Some(false), false));
        assert_eq!(facts.thinking, Thinking::None);
    }

    #[test]
    fn what_was_said_is_shown_without_what_may_be_secret() {
        let file = "[models.\"a.b\"]\ncontext_window = 7\ninput = 0.5\nimages = false\n\
                    effort = \"levels\"\n[providers.mine]\nbase_url = \"http://h/v1\"\n\
                    key_env = \"MINE_KEY\"\nheaders = { X-Auth = \"sk-secret\", X-Org = \"$ORG\" }";
        let named = resolve(file, "").unwrap().named;
        let shown: Vec<_> = named.show().into_iter().map(|(k, v)| format!("{k} = {v}")).collect();
        assert_eq!(
            shown,
            [
                r#"models."a.b" = { context_window = 7, input = 0.5, images = false, effort = "levels" }"#,
                r#"providers."mine" = { wire = "openai", base_url = "http://h/v1", key_env = "MINE_KEY", headers = { "X-Auth" = "[hidden]", "X-Org" = "$ORG" } }"#,
            ]
        );
        assert!(!format!("{named:?}").contains("sk-secret"), "{named:?}");
    }

    #[test]
    fn what_does_not_fit_is_named_with_its_place() {
        for (file, told) in [
            (
                "[models.x]\ncontext = 1",
                "unknown key `models.\"x\".context`; did you mean `context_window`?",
            ),
            (
                "[models.x]\nmax_output = -1",
                "`models.\"x\".max_output` is -1, but must be a number of tokens",
            ),
            ("[models.x]\ninput = \"a\"", "must be US dollars for a million tokens"),
            ("[models.x]\neffort = \"much\"", "must be `none`, `levels`, `adaptive` or `budget`"),
            ("models = 3", "`models` is 3, but must be a table"),
            (
                "[providers.x]\nwire = \"openai\"",
                "`providers.\"x\".base_url` is something else, but must be a URL",
            ),
            (
                "[providers.x]\nbase_url = \"http://h\"\nquirks = \"nobody\"",
                "must be the name of a server",
            ),
            ("[providers.x]\nkey = \"sk-secret\"", "did you mean `key_env`?"),
        ] {
            let error = resolve(file, "").unwrap_err();
            assert!(error.contains(told), "{file}: {error}");
            assert!(!error.contains("sk-secret"), "{error}");
        }
    }

    #[test]
    fn a_workspace_names_no_server_and_hides_no_cost() {
        for file in ["[providers.x]\nbase_url = \"http://h\"", "[models.x]\ninput = 0"] {
            let error = resolve("", file).unwrap_err();
            assert!(error.contains("can only be set by you"), "{error}");
        }
    }
}
