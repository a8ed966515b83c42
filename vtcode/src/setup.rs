//! From arguments, files and the environment to the parts of a session.

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context as _;
use clap::ValueEnum;
use vtcode_core::config::endpoint::Endpoint;
use vtcode_core::config::env::Env;
use vtcode_core::config::layers::Settings;
use vtcode_core::config::reload::Reload;
use vtcode_core::config::safety::SandboxMode;
use vtcode_core::core::journal::Sessions;
use vtcode_core::core::memory_pool::global_pool;
use vtcode_core::core::optimized_agent::prompt::{self, Environment};
use vtcode_core::llm::optimized_client::{Folders, OptimizedLLMClient, Route};
use vtcode_core::llm::{discover, models};
use vtcode_core::safety::permissions::Permissions;
use vtcode_core::safety::policy::Policy;
use vtcode_core::safety::sandbox::{self, SandboxPlan};
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin;
use vtcode_core::tools::builtin::run_command::{Check, CheckPlan};
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

use crate::approval;
use crate::args::{Common, Sandbox};
use crate::exec::note;
use crate::exit::Usage;

/// Returns the settings for a workspace.
pub(crate) fn settings(cwd: &Path, common: Option<&Common>, env: &Env) -> anyhow::Result<Settings> {
    Ok(reloadable(cwd, common, env)?.0)
}

/// Returns the settings for a workspace, and what looks whether they have changed.
pub(crate) fn reloadable(
    cwd: &Path,
    common: Option<&Common>,
    env: &Env,
) -> anyhow::Result<(Settings, Reload)> {
    let command_line = common.map(command_line).unwrap_or_default();
    let reload = Reload::begin(cwd, command_line, env)?;
    let mut settings = reload.settings().clone();
    settings.safety.unleashed = common.is_some_and(|common| common.yolo);
    // A rule that cannot be used is told at the start, whatever the run would have done.
    Policy::new(&settings.safety.permissions)?;
    // The pool is the process's, not a session's.
    global_pool().set_limits(settings.limits.pool);
    Ok((settings, reload))
}

fn command_line(common: &Common) -> Vec<(&'static str, String, &'static str)> {
    let number = |value: Option<u64>| value.map(|n| n.to_string());
    // `--yolo` says both: no sandbox.
    let sandbox = common.sandbox.or(common.yolo.then_some(Sandbox::Off));
    [
        ("provider", common.provider.clone(), "--provider"),
        ("model", common.model.clone(), "--model"),
        ("base_url", common.base_url.clone(), "--base-url"),
        (
            "client.fallback",
            (!common.fallback.is_empty()).then(|| common.fallback.join(" ")),
            "--fallback",
        ),
        ("effort", common.effort.as_ref().map(word), "--effort"),
        ("limits.max_turns", number(common.max_turns), "--max-turns"),
        ("limits.max_tokens", number(common.max_tokens), "--max-tokens"),
        ("limits.max_cost_usd", common.max_cost.map(|usd| usd.to_string()), "--max-cost"),
        ("limits.max_wall_s", number(common.max_wall), "--max-wall"),
        (
            "sandbox.mode",
            sandbox.as_ref().map(word),
            if common.yolo { "--yolo" } else { "--sandbox" },
        ),
        ("sandbox.network", common.allow_network.then(|| "true".into()), "--allow-network"),
        ("permissions.approval", common.ask_for_approval.as_ref().map(word), "--ask-for-approval"),
        ("check.command", common.check.clone(), "--check"),
        ("preset", common.preset.clone(), "--preset"),
        ("client.cache", common.cache.then(|| "true".into()), "--cache"),
        ("optimization.profiling.enabled", common.profile.then(|| "true".into()), "--profile"),
    ]
    .into_iter()
    .filter_map(|(key, value, option)| Some((key, value?, option)))
    .collect()
}

/// Returns a choice's word, which is the configuration's, too.
fn word(choice: &impl ValueEnum) -> String {
    let value = choice.to_possible_value().expect("no choice is hidden");
    value.get_name().to_owned()
}

/// Returns the folder to work in, canonical.
pub(crate) fn folder(cd: Option<&Path>) -> anyhow::Result<PathBuf> {
    let folder = match cd {
        Some(dir) => dir.to_owned(),
        None => std::env::current_dir().context("the current folder cannot be found")?,
    };
    let usable = folder.canonicalize().and_then(|dir| {
        if dir.is_dir() { Ok(dir) } else { Err(io::Error::from(io::ErrorKind::NotADirectory)) }
    });
    usable.map_err(|e| Usage(format!("cannot work in `{}`: {e}", folder.display())).into())
}

/// Returns the endpoint that was chosen and those to which requests go when it fails, and settles
/// what depends on the model. What cannot be used here is told.
pub(crate) fn routes(
    endpoint: Endpoint,
    settings: &mut Settings,
    env: &Env,
) -> anyhow::Result<Vec<Route>> {
    settle(settings, &endpoint)?;
    let fallbacks = discover::fallbacks(settings, env, &endpoint)?;
    fallbacks.left_out.iter().for_each(|text| note(text));
    let routes = discover::routes(settings, endpoint, fallbacks.endpoints);
    let unpriced = routes.iter().find(|route| route.limits.price.is_none());
    if let (Some(_), Some(route)) = (settings.limits.agent.max_cost_usd, unpriced) {
        let model = &route.endpoint.model;
        return Err(Usage(format!(
            "nobody knows what the fallback `{model}` costs, so the bound on costs cannot be kept: \
             set input and output of [models.\"{model}\"] (US dollars for a million tokens), or \
             bound the tokens (--max-tokens)"
        ))
        .into());
    }
    Ok(routes)
}

/// Returns the client for some endpoints; it shares its rate limits with the user's other sessions.
pub(crate) fn client(routes: Vec<Route>, env: &Env) -> anyhow::Result<OptimizedLLMClient> {
    let sessions = sessions(env)?;
    let (rate, answers) = (sessions.rate_dir(), sessions.answers_dir());
    let folders = Folders { rate: Some(&rate), answers: Some(&answers) };
    Ok(OptimizedLLMClient::with_routes(routes, folders)?)
}

/// Settles what depends on the model; a bound on costs that cannot be kept is an error.
pub(crate) fn settle(settings: &mut Settings, endpoint: &Endpoint) -> Result<(), Usage> {
    models::settle(settings, endpoint);
    let agent = &settings.limits.agent;
    if agent.max_cost_usd.is_some() && agent.price.is_none() {
        return Err(Usage(format!(
            "nobody knows what `{}` costs, so the bound on costs cannot be kept: set price.input \
             and price.output (US dollars for a million tokens), or bound the tokens (--max-tokens)",
            endpoint.model
        )));
    }
    Ok(())
}

/// Returns the sessions of this user.
pub(crate) fn sessions(env: &Env) -> anyhow::Result<Sessions> {
    let dir = env.state_dir().ok_or_else(|| {
        Usage("no place for sessions: set HOME or XDG_STATE_HOME to an absolute path".to_owned())
    })?;
    Ok(Sessions::below(&dir))
}

/// Returns the sandbox that the settings ask for. What of it the system does not enforce is told.
pub(crate) fn sandbox(
    workspace: &Workspace,
    settings: &Settings,
    env: &Env,
) -> Result<sandbox::Sandbox, Usage> {
    let made = quiet_sandbox(workspace, settings, env)?;
    if let Some(lacks) = made.lacks() {
        let _ = writeln!(io::stderr(), "vtcode: {lacks}");
    }
    Ok(made)
}

/// Does the same without a word.
pub(crate) fn quiet_sandbox(
    workspace: &Workspace,
    settings: &Settings,
    env: &Env,
) -> Result<sandbox::Sandbox, Usage> {
    let variables: Vec<_> = env.vars().map(|(name, value)| (name.clone(), value.clone())).collect();
    let made = sandbox::Sandbox::new(&SandboxPlan {
        settings: &settings.safety.sandbox,
        workspace,
        build: None,
        private: env.state_dir().into_iter().chain(env.config_dir()).collect(),
        env: &variables,
    });
    made.map_err(|error| Usage(crate::exit::words(&error.into())))
}

/// Returns the check that runs after edits, if the settings ask for one. One that was asked for and
/// cannot be run is told.
pub(crate) fn check(
    workspace: &Workspace,
    registry: &OptimizedToolRegistry,
    settings: &Settings,
    env: &Env,
) -> Option<Check> {
    let checks = &settings.checks;
    if settings.limits.agent.checks.run_cpu.is_zero() {
        if let Some(command) = &checks.command {
            let _ = writeln!(
                io::stderr(),
                "vtcode: the check `{}` is not run: the preset, check.run_cpu_s or \
                 optimization.agent_execution turns checks off (vtcode config show)",
                crate::terminal::clean(command)
            );
        }
        return None;
    }
    let check = Check::new(CheckPlan {
        command: checks.command.as_deref(),
        detect: checks.detect,
        safety: &settings.safety,
        permissions: registry.permissions(),
        workspace,
        private: env.state_dir().into_iter().chain(env.config_dir()).collect(),
        env: env.vars().map(|(name, value)| (name.clone(), value.clone())).collect(),
        result_bytes: settings.limits.agent.checks.result_bytes,
    });
    check.unwrap_or_else(|error| {
        let words = crate::exit::words(&error.into());
        let _ = writeln!(io::stderr(), "vtcode: {words}");
        None
    })
}

/// Returns the built-in tools over a workspace, with what decides over their calls.
pub(crate) fn registry(
    workspace: &Arc<Workspace>,
    spool_dir: PathBuf,
    sandbox: sandbox::Sandbox,
    settings: &Settings,
    env: &Env,
) -> anyhow::Result<Arc<OptimizedToolRegistry>> {
    let limits = &settings.limits.tools;
    let variables = env.vars().map(|(name, value)| (name.clone(), value.clone()));
    let confined = sandbox.mode() != SandboxMode::Off;
    let tools = builtin::all(workspace, spool_dir, variables, Arc::new(sandbox), limits);
    let mut permissions =
        Permissions::new(&settings.safety, Arc::clone(workspace))?.confined(confined);
    if let Some(approver) = approval::on_terminal(settings.safety.approval) {
        permissions = permissions.with_approver(approver);
    }
    let registry = OptimizedToolRegistry::with_tools(tools, limits.clone());
    Ok(Arc::new(registry.with_permissions(Arc::new(permissions))))
}

/// Returns the system prompt for a workspace.
pub(crate) fn system_prompt(
    workspace: &Workspace,
    registry: &OptimizedToolRegistry,
    env: &Env,
) -> String {
    let environment = Environment {
        cwd: workspace.root().to_owned(),
        os: std::env::consts::OS.to_owned(),
        date: today(),
        top_level: top_level(workspace.root()),
        git: workspace.root().ancestors().any(|dir| dir.join(".git").exists()),
    };
    let user = env.config_dir();
    let instructions = prompt::instructions(workspace.root(), user.as_deref());
    prompt::assemble(&registry.specs(), &environment, &instructions)
}

/// The names at the top of a folder that are told to the model.
const TOP_LEVEL_NAMES: usize = 40;

fn top_level(root: &Path) -> String {
    let Ok(entries) = std::fs::read_dir(root) else { return String::new() };
    // A folder of a million files must not hold up the start.
    let mut names: Vec<String> = entries
        .take(10 * TOP_LEVEL_NAMES)
        .flatten()
        .map(|entry| {
            let slash = if entry.file_type().is_ok_and(|t| t.is_dir()) { "/" } else { "" };
            // A file name is the repository's: it must not look like a line of ours.
            let name = entry.file_name().to_string_lossy().replace(char::is_control, "?");
            format!("{name}{slash}")
        })
        .filter(|name| name != ".git/")
        .collect();
    names.sort_unstable();
    if names.len() > TOP_LEVEL_NAMES {
        names.truncate(TOP_LEVEL_NAMES);
        names.push("…".to_owned());
    }
    names.join(" ")
}

/// Returns the time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Returns today in UTC, as `YYYY-MM-DD`.
fn today() -> String {
    date(now_ms() / 86_400_000)
}

/// Returns the date of a day counted from 1970-01-01 (Howard Hinnant's `civil_from_days`).
fn date(day: u64) -> String {
    let z = day + 719_468;
    let era = z / 146_097;
    let doe = z % 146_097;
    let yoe = (doe - doe / 1460 + doe / 36_524 - doe / 146_096) / 365;
    let doy = doe - (365 * yoe + yoe / 4 - yoe / 100);
    let mp = (5 * doy + 2) / 153;
    let d = doy - (153 * mp + 2) / 5 + 1;
    let m = if mp < 10 { mp + 3 } else { mp - 9 };
    let y = yoe + era * 400 + u64::from(m <= 2);
    format!("{y:04}-{m:02}-{d:02}")
}

#[cfg(test)]
mod tests {
    use super::date;

    #[test]
    fn days_become_dates() {
        assert_eq!(date(0), "1970-01-01");
        assert_eq!(date(11_016), "2000-02-29");
        assert_eq!(date(20_780), "2026-11-23");
    }
}
