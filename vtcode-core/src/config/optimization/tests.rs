use super::*;

/// The block of the design document, as it stands there.
const SEED: &str = "
[optimization.memory_pool]
enabled = true
max_string_pool_size = 64
max_value_pool_size = 32

[optimization.tool_registry]
max_concurrent_tools = 4
hot_cache_size = 16
use_optimized_registry = true

[optimization.async_pipeline]
max_batch_size = 5
batch_timeout_ms = 100
enable_batching = true
enable_caching = true

[optimization.llm_client]
connection_pool_size = 4
response_cache_size = 50
rate_limit_rps = 10.0
enable_connection_pooling = true

[optimization.agent_execution]
use_optimized_loop = true
max_memory_mb = 1024

[optimization.profiling]
enabled = false
monitor_interval_ms = 100
enable_regression_testing = false
";

fn env(variables: &[(&str, &str)]) -> OptimizationConfig {
    OptimizationConfig::of_variables(&variables.iter().copied().collect())
}

#[test]
fn as_shipped_is_full_and_debug_is_plain() {
    assert_eq!(OptimizationConfig::default().limits(), Limits::full());
    assert_eq!(OptimizationConfig::debug().limits(), Limits::plain());
}

#[test]
fn every_preset_can_be_used_and_says_what_it_is_for() {
    for preset in Preset::ALL {
        let config = OptimizationConfig::preset(preset);
        config.validate().unwrap();
        assert_ne!(config, OptimizationConfig::default(), "{preset}");
    }
    assert!(OptimizationConfig::development().profiling.enabled);
    let kept = |config: OptimizationConfig| {
        let limits = config.limits();
        let (tools, client) = (limits.tools, limits.client);
        let answers = client.answers.entries;
        (limits.pool.buffers, tools.validators_kept, client.idle_connections, answers)
    };
    assert_eq!(kept(OptimizationConfig::production()), (128, 64, 32, 256));
    assert_eq!(kept(OptimizationConfig::development()), kept(OptimizationConfig::default()));
    assert!(OptimizationConfig::development().profiling.enable_regression_testing);
    let debug = OptimizationConfig::debug();
    assert!(!debug.async_pipeline.enable_batching);
    assert!(!debug.agent_execution.enable_performance_prediction);
    let production = OptimizationConfig::production();
    assert!(!production.profiling.enabled && production.memory_pool.enabled);
}

#[test]
fn the_design_documents_block_is_taken_whole() {
    let config = OptimizationConfig::from_toml_str(SEED).unwrap();
    config.validate().unwrap();
    let limits = config.limits();
    assert_eq!((limits.pool.buffers, limits.pool.strings_of_a_value), (64, 32));
    assert_eq!((limits.tools.max_concurrent, limits.tools.validators_kept), (4, 16));
    assert_eq!((limits.client.idle_connections, limits.client.answers.entries), (4, 50));
    assert_eq!(limits.client.rate.requests_per_minute, Some(600));
    let short = "[optimization]\nmemory_pool.enabled = true\n\
                 tool_registry.use_optimized_registry = true\n\
                 agent_execution.use_optimized_loop = true";
    assert_eq!(OptimizationConfig::from_toml_str(short).unwrap().limits(), Limits::full());
}

#[test]
fn a_file_that_cannot_be_used_says_what_is_wrong() {
    let error = |text: &str| OptimizationConfig::from_toml_str(text).unwrap_err().to_string();
    assert_eq!(
        error("optimization.memory_pool.max_string_pool_size = -1"),
        "vtcode.toml: `optimization.memory_pool.max_string_pool_size` is -1, but must be a whole \
         number from 0 to 65536"
    );
    assert!(error("optimization.memory_pool.enable = true").contains("did you mean"));
}

#[test]
fn the_environment_never_fails_and_its_faults_are_told() {
    let config = env(&[
        ("VTCODE_MEMORY_POOL_ENABLED", "perhaps"),
        ("VTCODE_MAX_CONCURRENT_TOOLS", "8"),
        ("VTCODE_PROFILING_ENABLED", "true"),
    ]);
    assert_eq!((config.memory_pool.enabled, config.profiling.enabled), (true, true));
    assert_eq!(config.tool_registry.max_concurrent_tools, 8);
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "$VTCODE_MEMORY_POOL_ENABLED: `optimization.memory_pool.enabled` is `perhaps`, but must be \
         true or false"
    );
    let config = env(&[("VTCODE_PRESET", "debug"), ("VTCODE_MEMORY_POOL_ENABLED", "true")]);
    config.validate().unwrap();
    assert!(config.memory_pool.enabled, "a variable holds against the preset");
    assert!(!config.agent_execution.use_optimized_loop);
    let error = env(&[("VTCODE_PRESET", "fast")]).validate().unwrap_err().to_string();
    assert_eq!(
        error,
        "$VTCODE_PRESET: `preset` is `fast`, but must be `development`, `production` or `debug`"
    );
}

#[test]
fn a_value_that_a_program_sets_is_checked_as_one_that_was_read() {
    let mut config = env(&[("VTCODE_MAX_CONCURRENT_TOOLS", "8")]);
    config.tool_registry.max_concurrent_tools = 0;
    assert_eq!(
        config.validate().unwrap_err().to_string(),
        "the program: `optimization.tool_registry.max_concurrent_tools` is `0`, but must be a whole \
         number from 1 to 256"
    );
    for rps in [-1.0, f64::NAN, f64::INFINITY] {
        let llm_client = LLMClientConfig { rate_limit_rps: rps, ..Default::default() };
        let config = OptimizationConfig { llm_client, ..Default::default() };
        let error = config.validate().unwrap_err().to_string();
        assert!(error.contains("rate_limit_rps"), "{error}");
        // Who does not validate gets limits all the same.
        config.limits();
    }
}
