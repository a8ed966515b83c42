//! Named configurations: each is a list of keys and values, laid over what is shipped and under
//! everything that the user writes.

use std::fmt;
use std::str::FromStr;

/// A named configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Preset {
    /// It measures.
    Development,
    /// For many sessions at once.
    Production,
    /// Everything is off.
    Debug,
}

impl Preset {
    /// Every preset.
    pub const ALL: [Self; 3] = [Self::Development, Self::Production, Self::Debug];

    /// The words for them.
    pub(crate) const WORDS: &'static str = "`development`, `production` or `debug`";

    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Development => "development",
            Self::Production => "production",
            Self::Debug => "debug",
        }
    }

    /// Returns what it sets: each key's dotted name, and its value as text.
    pub fn values(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::Development => &[
                ("optimization.profiling.enabled", "true"),
                ("optimization.profiling.enable_regression_testing", "true"),
            ],
            Self::Production => &[
                ("optimization.memory_pool.max_string_pool_size", "128"),
                ("optimization.tool_registry.hot_cache_size", "64"),
                ("optimization.llm_client.connection_pool_size", "32"),
                ("optimization.llm_client.response_cache_size", "256"),
            ],
            Self::Debug => &[
                ("optimization.memory_pool.enabled", "false"),
                ("optimization.tool_registry.use_optimized_registry", "false"),
                ("optimization.async_pipeline.enable_batching", "false"),
                ("optimization.async_pipeline.enable_caching", "false"),
                ("optimization.llm_client.enable_connection_pooling", "false"),
                ("optimization.llm_client.response_cache_size", "0"),
                ("optimization.agent_execution.use_optimized_loop", "false"),
                ("optimization.agent_execution.enable_performance_prediction", "false"),
            ],
        }
    }
}

impl fmt::Display for Preset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No preset has this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a preset is {}", Preset::WORDS)]
pub struct NoSuchPreset;

impl FromStr for Preset {
    type Err = NoSuchPreset;

    /// Returns the preset of a name. Fails where none has it.
    fn from_str(name: &str) -> Result<Self, NoSuchPreset> {
        Self::ALL.into_iter().find(|preset| preset.name() == name).ok_or(NoSuchPreset)
    }
}
