//! What the user wrote of the optimizations: switches and sizes come in, from a program, a file or
//! the environment, and [`Limits`] go out. The keys, their ranges and their variables stand in the
//! one table of [`layers`](super::layers), and so does what a preset says.
//! Nothing below reads a switch: "off" is a number.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::config::env::Env;
use crate::config::layers::{ConfigError, KEYS, Key, Origin, Settings, Sources};
use crate::config::limits::{Limits, PoolLimits};

mod preset;

pub use preset::Preset;

/// The section of the keys.
const SECTION: &str = "optimization.";

/// Every switch and size of the optimizations.
///
/// ```
/// use vtcode_core::config::optimization::{MemoryPoolConfig, OptimizationConfig};
///
/// let config = OptimizationConfig {
///     memory_pool: MemoryPoolConfig { enabled: false, ..Default::default() },
///     ..Default::default()
/// };
/// config.validate()?;
/// assert_eq!(config.limits().pool.buffers, 0);
/// # Ok::<(), vtcode_core::config::layers::ConfigError>(())
/// ```
#[derive(Debug, Clone, Default, PartialEq)]
pub struct OptimizationConfig {
    /// Buffers that are used again.
    pub memory_pool: MemoryPoolConfig,
    /// Tools and their slots.
    pub tool_registry: ToolRegistryConfig,
    /// Batches and kept results.
    pub async_pipeline: AsyncPipelineConfig,
    /// The model's client.
    pub llm_client: LLMClientConfig,
    /// The agent's loop.
    pub agent_execution: AgentExecutionConfig,
    /// Measurements.
    pub profiling: ProfilingConfig,
    /// Where the values came from, as far as they were read, and what could not be used.
    pub origins: Origins,
}

/// Where values came from, and what of them could not be used.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Origins {
    /// The value as it was read, beside its origin: a program may have changed it since.
    read: BTreeMap<&'static str, (Origin, String)>,
    faults: Vec<ConfigError>,
}

/// Buffers that are used again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPoolConfig {
    /// Whether any is kept.
    pub enabled: bool,
    /// Strings and byte buffers that each thread keeps.
    pub max_string_pool_size: usize,
    /// Strings of a returned JSON value that are kept, at most.
    pub max_value_pool_size: usize,
    /// Lists of strings that each thread keeps.
    pub max_vec_pool_size: usize,
}

impl Default for MemoryPoolConfig {
    fn default() -> Self {
        let PoolLimits { buffers, lists, strings_of_a_value, .. } = PoolLimits::FULL;
        Self {
            enabled: true,
            max_string_pool_size: buffers,
            max_value_pool_size: strings_of_a_value,
            max_vec_pool_size: lists,
        }
    }
}

/// Tools and their slots.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToolRegistryConfig {
    /// Calls that run at the same time.
    pub max_concurrent_tools: usize,
    /// Compiled argument validators that are kept.
    pub hot_cache_size: usize,
    /// False: no validator is kept and no statistics are recorded.
    pub use_optimized_registry: bool,
}

impl Default for ToolRegistryConfig {
    fn default() -> Self {
        let tools = Limits::full().tools;
        Self {
            max_concurrent_tools: tools.max_concurrent,
            hot_cache_size: tools.validators_kept,
            use_optimized_registry: true,
        }
    }
}

/// Batches and kept results.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsyncPipelineConfig {
    /// Similar calls that may run as one.
    pub max_batch_size: usize,
    /// Milliseconds that a call of low priority may wait for company.
    pub batch_timeout_ms: u64,
    /// False: each call runs alone.
    pub enable_batching: bool,
    /// False: no result of a read is kept or shared.
    pub enable_caching: bool,
}

impl Default for AsyncPipelineConfig {
    fn default() -> Self {
        let tools = Limits::full().tools;
        Self {
            max_batch_size: tools.max_batch,
            batch_timeout_ms: u64::try_from(tools.batch_timeout.as_millis()).unwrap_or(u64::MAX),
            enable_batching: true,
            enable_caching: true,
        }
    }
}

/// The model's client.
#[derive(Debug, Clone, PartialEq)]
pub struct LLMClientConfig {
    /// Connections that are kept while nothing goes over them.
    pub connection_pool_size: usize,
    /// Whole answers at temperature 0 that are kept.
    pub response_cache_size: usize,
    /// Requests a second; 0 sets no limit.
    pub rate_limit_rps: f64,
    /// False: each request makes a connection of its own.
    pub enable_connection_pooling: bool,
}

impl Default for LLMClientConfig {
    fn default() -> Self {
        let client = Limits::full().client;
        Self {
            connection_pool_size: client.idle_connections,
            response_cache_size: client.answers.entries,
            rate_limit_rps: 0.0,
            enable_connection_pooling: true,
        }
    }
}

/// The agent's loop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentExecutionConfig {
    /// False: the serial loop.
    pub use_optimized_loop: bool,
    /// MiB that a session may keep in memory.
    pub max_memory_mb: u64,
    /// False: no file is attached before it is asked for.
    pub enable_performance_prediction: bool,
}

impl Default for AgentExecutionConfig {
    fn default() -> Self {
        let max_memory_mb = Limits::full().agent.max_memory_bytes >> 20;
        Self { use_optimized_loop: true, enable_performance_prediction: true, max_memory_mb }
    }
}

/// Measurements.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProfilingConfig {
    /// Whether a run is measured, and ends with its profile.
    pub enabled: bool,
    /// Milliseconds between two readings of memory, processor time and descriptors.
    pub monitor_interval_ms: u64,
    /// Whether a profiled run is held against those before it.
    pub enable_regression_testing: bool,
}

impl Default for ProfilingConfig {
    fn default() -> Self {
        let interval = Limits::full().profiling.monitor_interval;
        Self {
            enabled: false,
            monitor_interval_ms: u64::try_from(interval.as_millis()).unwrap_or(u64::MAX),
            enable_regression_testing: false,
        }
    }
}

impl OptimizationConfig {
    /// Returns the configuration to develop with: it measures.
    pub fn development() -> Self {
        Self::preset(Preset::Development)
    }

    /// Returns the configuration to run many sessions with.
    pub fn production() -> Self {
        Self::preset(Preset::Production)
    }

    /// Returns the configuration with everything off.
    pub fn debug() -> Self {
        Self::preset(Preset::Debug)
    }

    /// Returns the configuration of a preset.
    pub fn preset(preset: Preset) -> Self {
        let mut settings = Settings::default();
        settings.take_preset(preset);
        Self { origins: Origins::default(), ..settings.optimization }
    }

    /// Returns the configuration as the environment of this process says. What cannot be used stays
    /// as shipped; [`validate`](Self::validate) tells of it.
    pub fn from_env() -> Self {
        Self::of_variables(&Env::of_process())
    }

    /// Returns the configuration as these variables say, in the same way.
    pub fn of_variables(env: &Env) -> Self {
        let (mut settings, mut faults) = (Settings::default(), Vec::new());
        let preset = KEYS.iter().filter(|key| key.name == "preset");
        // The preset comes first, whatever stands where in the table.
        for key in preset.chain(keys()) {
            faults.extend(settings.take_variable(key, env).err());
            if let Some(preset) = settings.preset.filter(|_| key.name == "preset") {
                settings.take_preset(preset);
            }
        }
        Self::read(settings, faults)
    }

    /// Returns the configuration that a `vtcode.toml` with this text says; its other keys must be
    /// right, too. Fails when the text is no TOML, names a key that there is not, or gives one a
    /// value that does not fit it.
    pub fn from_toml_str(text: &str) -> Result<Self, ConfigError> {
        let user_file = Some((PathBuf::from("vtcode.toml"), text.to_owned()));
        let sources = Sources { user_file, ..Sources::default() };
        Ok(Self::read(Settings::resolve(&sources, &Env::default())?, Vec::new()))
    }

    /// Checks every value against its range. Fails on the first that does not fit, those that the
    /// environment gave before all others. The error names the key, the value, what would fit and
    /// the place that the value came from.
    pub fn validate(&self) -> Result<(), ConfigError> {
        if let Some(fault) = self.origins.faults.first() {
            return Err(fault.clone());
        }
        let settings = Settings::with(self.clone());
        for key in keys() {
            let value = key.value(&settings);
            let origin = match self.origins.read.get(key.name) {
                Some((origin, read)) if *read == value => origin.clone(),
                _ => Origin::Program,
            };
            key.check(&value, origin)?;
        }
        Ok(())
    }

    /// Returns the numbers that the runtime obeys; what is not configured here is as shipped.
    pub fn limits(&self) -> Limits {
        let mut limits = Limits::full();
        self.join(&mut limits);
        limits
    }

    /// Turns switches and sizes into numbers, once: a switch holds against a number of the same
    /// part, whichever was written first.
    pub(crate) fn join(&self, limits: &mut Limits) {
        let pool = &self.memory_pool;
        limits.pool = PoolLimits {
            buffers: pool.max_string_pool_size,
            lists: pool.max_vec_pool_size,
            strings_of_a_value: pool.max_value_pool_size,
            ..limits.pool
        };
        if !pool.enabled {
            limits.pool = PoolLimits::NONE;
        }

        let (registry, pipeline) = (&self.tool_registry, &self.async_pipeline);
        let serial = !self.agent_execution.use_optimized_loop;
        let tools = &mut limits.tools;
        tools.max_concurrent = if serial { 1 } else { registry.max_concurrent_tools };
        let optimized = registry.use_optimized_registry;
        tools.validators_kept = if optimized { registry.hot_cache_size } else { 0 };
        tools.statistics = optimized;
        let batches = pipeline.enable_batching && !serial;
        tools.max_batch = if batches { pipeline.max_batch_size } else { 1 };
        tools.batch_timeout = Duration::from_millis(pipeline.batch_timeout_ms);
        tools.share_reads = pipeline.enable_caching;
        if !pipeline.enable_caching {
            tools.cache.entries = 0;
        }

        let client = &self.llm_client;
        let pooled = client.enable_connection_pooling;
        limits.client.idle_connections = if pooled { client.connection_pool_size } else { 0 };
        limits.client.answers.entries = client.response_cache_size;
        if client.response_cache_size == 0 {
            limits.client.shared_bytes = 0;
        }
        limits.client.rate.add_requests_per_second(client.rate_limit_rps);

        if serial {
            limits.agent.calls_started_mid_stream = 0;
            limits.agent.history_window_bytes = usize::MAX;
        }
        limits.agent.max_memory_bytes = self.agent_execution.max_memory_mb.saturating_mul(1 << 20);
        if serial || !self.agent_execution.enable_performance_prediction {
            limits.agent.attached_tokens = 0;
            limits.agent.checks.run_cpu = Duration::ZERO;
        }
        limits.agent.measured = self.profiling.enabled;
        limits.client.measured = self.profiling.enabled;
        limits.tools.measured = self.profiling.enabled;
        limits.profiling.monitor_interval =
            Duration::from_millis(self.profiling.monitor_interval_ms);
    }

    fn read(settings: Settings, faults: Vec<ConfigError>) -> Self {
        let origins = settings.show().filter(|(key, ..)| key.name.starts_with(SECTION));
        let read = origins.map(|(key, value, origin)| (key.name, (origin.clone(), value)));
        let origins = Origins { read: read.collect(), faults };
        Self { origins, ..settings.optimization }
    }
}

/// The keys of this section, in the order of the table.
fn keys() -> impl Iterator<Item = &'static Key> {
    KEYS.iter().filter(|key| key.name.starts_with(SECTION))
}

#[cfg(test)]
mod tests;
