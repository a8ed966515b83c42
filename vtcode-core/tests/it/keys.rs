//! Every key of the configuration changes what happens: each has a test that shows it, and stands
//! here beside its name. A key without one, or a test that is gone, fails.

use std::path::Path;

use vtcode_core::config::layers::KEYS;

/// The test that proves the keys of a table one by one, with what each changes.
const OPTIMIZATIONS: &str =
    "vtcode-core/tests/it/configuration.rs every_key_of_the_optimizations_changes_what_happens";

/// Key, file and name of its test.
const PROOFS: &[(&str, &str)] = &[
    ("preset", "vtcode/tests/it/configuration.rs a_preset_lies_under_all_that_the_user_writes"),
    ("provider", "vtcode/tests/it/provider.rs keys_and_urls_of_the_environment_choose_it"),
    ("model", "vtcode/tests/it/provider.rs keys_and_urls_of_the_environment_choose_it"),
    ("base_url", "vtcode/tests/it/provider.rs keys_and_urls_of_the_environment_choose_it"),
    ("effort", "vtcode/tests/it/keys.rs what_a_request_says_and_how_long_it_may_take"),
    ("limits.max_turns", "vtcode/tests/it/limits.rs turns"),
    ("limits.max_repeats", "vtcode/tests/it/keys.rs how_often_a_model_may_repeat_itself"),
    ("limits.max_tokens", "vtcode/tests/it/limits.rs tokens"),
    (
        "limits.max_cost_usd",
        "vtcode/tests/it/limits.rs a_bound_on_costs_ends_the_task_before_the_request_that_would_pass_it",
    ),
    ("limits.max_wall_s", "vtcode/tests/it/limits.rs time_with_a_command_that_runs_on"),
    (
        "limits.command_timeout_s",
        "vtcode/tests/it/configuration.rs keys_that_bound_what_is_kept_or_run",
    ),
    (
        "limits.max_output_tokens",
        "vtcode/tests/it/provider.rs the_habits_of_a_server_are_known_by_its_name_in_a_table_of_the_users",
    ),
    (
        "context.window_tokens",
        "vtcode/tests/it/context.rs the_window_of_a_session_is_shown_and_what_leaves_it_first",
    ),
    (
        "context.folder_instructions_kb",
        "vtcode/tests/it/keys.rs which_instructions_of_folders_are_shown",
    ),
    (
        "check.command",
        "vtcode/tests/it/checks.rs a_check_that_was_asked_for_is_run_or_the_user_is_told_why_not",
    ),
    (
        "check.detect",
        "vtcode-core/tests/it/checks.rs a_crate_is_checked_by_cargo_where_it_calls_for_it",
    ),
    (
        "check.run_cpu_s",
        "vtcode-core/tests/it/checks.rs a_check_that_outgrows_its_bounds_is_ended_and_once_all_is_used_none_is_run",
    ),
    (
        "check.cpu_s",
        "vtcode-core/src/tools/builtin/run_command/check/tests.rs a_check_ends_once_it_used_its_share_of_the_processor_and_so_do_its_children",
    ),
    (
        "check.wall_s",
        "vtcode-core/tests/it/checks.rs a_check_that_outgrows_its_bounds_is_ended_and_once_all_is_used_none_is_run",
    ),
    (
        "context.compact_at_percent",
        "vtcode-core/src/core/optimized_agent/compact/tests.rs the_bounds_follow_from_the_window",
    ),
    (
        "context.compact_to_percent",
        "vtcode-core/src/core/optimized_agent/compact/tests.rs the_bounds_follow_from_the_window",
    ),
    (
        "price.input",
        "vtcode/tests/it/limits.rs a_bound_on_costs_ends_the_task_before_the_request_that_would_pass_it",
    ),
    ("price.cached", "vtcode/tests/it/configuration.rs a_price_of_the_users_is_what_a_run_costs"),
    ("price.output", "vtcode/tests/it/configuration.rs a_price_of_the_users_is_what_a_run_costs"),
    ("sandbox.mode", "vtcode/tests/it/keys.rs what_commands_may_write_reach_and_start"),
    ("sandbox.network", "vtcode/tests/it/keys.rs what_commands_may_write_reach_and_start"),
    ("sandbox.write", "vtcode/tests/it/keys.rs what_commands_may_write_reach_and_start"),
    ("sandbox.max_processes", "vtcode/tests/it/keys.rs what_commands_may_write_reach_and_start"),
    ("sandbox.max_file_mb", "vtcode/tests/it/keys.rs what_commands_may_write_reach_and_start"),
    (
        "permissions.approval",
        "vtcode/tests/it/keys.rs when_somebody_is_asked_before_a_command_runs",
    ),
    ("permissions.allow", "vtcode/tests/it/keys.rs when_somebody_is_asked_before_a_command_runs"),
    ("permissions.ask", "vtcode/tests/it/keys.rs when_somebody_is_asked_before_a_command_runs"),
    (
        "permissions.deny",
        "vtcode/tests/it/reload.rs a_command_that_the_user_denies_meanwhile_is_not_run",
    ),
    ("undo.max_mb", "vtcode/tests/it/configuration.rs keys_that_bound_what_is_kept_or_run"),
    (
        "state.max_mb",
        "vtcode/tests/it/state.rs the_oldest_outputs_go_when_the_sessions_take_too_much_and_that_is_said",
    ),
    (
        "client.fallback",
        "vtcode/tests/it/fallback.rs a_provider_that_is_not_there_is_replaced_in_one_visible_line",
    ),
    (
        "client.fallback_retry_s",
        "vtcode-core/src/llm/optimized_client/breaker.rs one_finds_out_whether_it_answers_again_and_the_others_wait_for_its_word",
    ),
    ("client.attempts", "vtcode/tests/it/failures.rs a_server_in_trouble_is_asked_again_in_sight"),
    (
        "client.connect_timeout_s",
        "vtcode-core/src/llm/optimized_client/tests.rs silence_before_the_first_byte_and_in_the_middle_runs_out",
    ),
    (
        "client.first_byte_timeout_s",
        "vtcode/tests/it/failures.rs a_stalled_answer_is_given_up_and_asked_for_again",
    ),
    (
        "client.first_byte_floor_s",
        "vtcode-core/src/llm/optimized_client/clocks.rs a_quick_endpoint_has_less_time_to_begin_and_more_the_second_time",
    ),
    (
        "client.gap_timeout_s",
        "vtcode/tests/it/failures.rs a_stalled_answer_is_given_up_and_asked_for_again",
    ),
    (
        "client.total_timeout_s",
        "vtcode/tests/it/keys.rs what_a_request_says_and_how_long_it_may_take",
    ),
    ("client.silence_notice_s", "vtcode/tests/it/client.rs a_wait_that_lasts_is_told"),
    (
        "client.hedge_budget",
        "vtcode-core/src/llm/optimized_client/tests/hedge.rs nothing_is_sent_twice_without_a_budget_or_where_it_would_cost_much",
    ),
    (
        "client.allow_http",
        "vtcode/tests/it/client.rs plain_http_to_another_machine_needs_the_users_word",
    ),
    (
        "client.ca_file",
        "vtcode-core/src/llm/optimized_client/tests/connections.rs a_server_is_trusted_by_the_authority_that_the_user_names_and_asked_once_otherwise",
    ),
    ("client.requests_per_minute", "vtcode-core/tests/it/rate.rs a_wait_is_told_and_counted"),
    ("client.burst", "vtcode-core/tests/it/rate.rs a_wait_is_told_and_counted"),
    (
        "client.input_tokens_per_minute",
        "vtcode-core/tests/it/rate.rs tokens_are_settled_by_what_the_answer_says",
    ),
    (
        "client.output_tokens_per_minute",
        "vtcode-core/tests/it/configuration.rs a_bound_on_the_answers_tokens_makes_requests_wait",
    ),
    ("client.temperature", "vtcode/tests/it/keys.rs what_a_request_says_and_how_long_it_may_take"),
    ("client.cache", "vtcode/tests/it/client.rs with_cache_the_same_task_is_asked_once"),
    (
        "client.cache_disk_mb",
        "vtcode/tests/it/configuration.rs keys_that_bound_what_is_kept_or_run",
    ),
    (
        "client.share_kb",
        "vtcode-core/src/llm/optimized_client/tests/shared.rs requests_that_differ_or_may_not_share_are_sent_each",
    ),
    (
        "predict.max_attached_tokens",
        "vtcode-core/tests/it/attachments.rs nothing_is_attached_where_it_is_off",
    ),
    (
        "predict.second_tokens",
        "vtcode-core/src/core/optimized_agent/predict/tests.rs a_guess_is_worth_its_tokens_from_its_break_even_on",
    ),
    (
        "optimization.tool_registry.hot_cache_size",
        "vtcode-core/tests/allocations.rs a_validator_that_is_kept_is_not_compiled_again",
    ),
    (
        "optimization.agent_execution.max_memory_mb",
        "vtcode-core/tests/it/memory.rs caches_go_first_then_calls_are_refused_in_words_that_the_model_reads",
    ),
    (
        "optimization.agent_execution.enable_performance_prediction",
        "vtcode-core/tests/it/attachments.rs nothing_is_attached_where_it_is_off",
    ),
    (
        "optimization.profiling.enable_regression_testing",
        "vtcode/tests/it/configuration.rs a_profiled_run_is_held_against_those_before_it",
    ),
];

/// Says what is wrong with a proof, if something is.
fn fault(root: &Path, proof: &str) -> Option<String> {
    let (file, test) = proof.split_once(' ').expect("a file and a name");
    let Ok(text) = std::fs::read_to_string(root.join(file)) else {
        return Some(format!("there is no {file}"));
    };
    let found = text.contains(&format!("fn {test}("));
    (!found).then(|| format!("there is no test `{test}` in {file}"))
}

#[test]
fn every_key_has_a_proof_that_it_changes_what_happens() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let mut faults = Vec::new();
    for key in KEYS {
        let proof = PROOFS.iter().find(|(name, _)| *name == key.name).map(|(_, proof)| *proof);
        let of_table = key.name.starts_with("optimization.").then_some(OPTIMIZATIONS);
        match proof.or(of_table) {
            Some(proof) => faults.extend(fault(root, proof).map(|why| (key.name, why))),
            None => faults.push((key.name, "no test is named that shows what it changes".into())),
        }
    }
    assert!(faults.is_empty(), "{faults:#?}");
    assert!(fault(root, "vtcode-core/tests/it/keys.rs no_such_test").is_some());
    for (name, _) in PROOFS {
        assert!(KEYS.iter().any(|key| key.name == *name), "there is no key `{name}`");
    }
}
