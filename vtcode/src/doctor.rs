//! `vtcode doctor`: looks at everything that a task needs and says what works, what does not and
//! what mends it. Ends as `vtcode exec` would. Prints no key and nothing of one, and changes nothing.

use std::io::{self, IsTerminal as _, Write as _};
use std::path::Path;

use serde_json::json;
use vtcode_core::config::endpoint::{self, Choice, Wire};
use vtcode_core::config::env::Env;
use vtcode_core::config::layers::{Origin, Settings};
use vtcode_core::llm::discover;
use vtcode_core::safety::sandbox::Part;
use vtcode_core::safety::workspace::Workspace;

use crate::args::Doctor;
use crate::exit::{self, Exit};
use crate::setup;
use crate::terminal::{clean, one_line};

/// One thing that was looked at.
struct Finding {
    part: &'static str,
    status: Status,
    what: String,
    mend: Option<&'static str>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Status {
    Ok,
    /// A task works, but with less.
    Note,
    /// No task works.
    Problem,
}

/// Everything that was found, and how a task would end for it.
struct Findings {
    all: Vec<Finding>,
    exit: Exit,
}

impl Findings {
    fn ok(&mut self, part: &'static str, what: impl Into<String>) {
        self.all.push(Finding { part, status: Status::Ok, what: what.into(), mend: None });
    }

    fn note(&mut self, part: &'static str, what: impl Into<String>, mend: &'static str) {
        let (status, mend) = (Status::Note, Some(mend));
        self.all.push(Finding { part, status, what: what.into(), mend });
    }

    fn problem(&mut self, part: &'static str, what: String, mend: &'static str, exit: Exit) {
        // A task ends at the first of them.
        if self.exit == Exit::Done {
            self.exit = exit;
        }
        self.all.push(Finding { part, status: Status::Problem, what, mend: Some(mend) });
    }

    fn error(&mut self, part: &'static str, error: &anyhow::Error, mend: &'static str) {
        self.problem(part, exit::words(error), mend, exit::of_error(error));
    }
}

/// Runs `vtcode doctor`.
pub(crate) async fn run(args: &Doctor) -> anyhow::Result<Exit> {
    let env = Env::of_process();
    let mut findings = Findings { all: Vec::new(), exit: Exit::Done };
    if let Some(settings) = configuration(&env, &mut findings) {
        provider(&settings, &env, args.offline, &mut findings).await;
        state(&settings, &env, &mut findings);
        sandbox(&settings, &env, &mut findings);
    }
    terminal(&env, &mut findings);
    let mut out = io::stdout().lock();
    for Finding { part, status, what, mend } in &findings.all {
        let line = if args.json {
            let status = match status {
                Status::Ok => "ok",
                Status::Note => "note",
                Status::Problem => "problem",
            };
            json!({"type": "finding", "part": part, "status": status, "what": what, "mend": mend})
                .to_string()
        } else {
            let mark = match status {
                Status::Ok => "✓",
                Status::Note => "!",
                Status::Problem => "✗",
            };
            let mend = mend.map(|mend| format!("\n  → {mend}")).unwrap_or_default();
            let what = what.replace('\n', "\n  ");
            clean(&format!("{mark} {part}: {what}{mend}"))
        };
        // Who closed the pipe has seen enough.
        let _ = writeln!(out, "{line}");
    }
    Ok(findings.exit)
}

/// Looks at the folder and the files that configure it.
fn configuration(env: &Env, findings: &mut Findings) -> Option<Settings> {
    let cwd = match setup::folder(None) {
        Ok(cwd) => cwd,
        Err(error) => {
            findings.error("folder", &error, "go to a folder that exists");
            return None;
        }
    };
    findings.ok("folder", one_line(&cwd.display().to_string()));
    match setup::settings(&cwd, None, env) {
        Ok(settings) => {
            let user = env.config_dir().map(|dir| dir.join("vtcode.toml"));
            let files: Vec<_> = [user, Some(cwd.join("vtcode.toml"))]
                .into_iter()
                .flatten()
                .filter(|path| path.is_file())
                .map(|path| one_line(&path.display().to_string()))
                .collect();
            let read = if files.is_empty() { "no file".to_owned() } else { files.join(", ") };
            findings.ok("configuration", format!("read {read}"));
            Some(settings)
        }
        Err(error) => {
            let mend = "mend the file or variable that it names; `vtcode config check` says more";
            findings.error("configuration", &error, mend);
            None
        }
    }
}

/// Looks at who would be asked, and whether he answers.
async fn provider(settings: &Settings, env: &Env, offline: bool, findings: &mut Findings) {
    let endpoint = match endpoint::choose(settings, env) {
        Ok(Choice::Local { .. }) if offline => {
            findings.note(
                "provider",
                "none is chosen; a local server was not looked for (--offline)",
                "set a key, or start a local server such as `ollama serve`",
            );
            return;
        }
        Ok(_) => discover::endpoint(settings, env).await.map_err(Into::into),
        Err(error) => Err(error.into()),
    };
    let endpoint = match endpoint {
        Ok(endpoint) => endpoint,
        Err(error) => {
            let mend = "set a key or choose another provider; `vtcode demo` needs neither";
            findings.error("provider", &error, mend);
            return;
        }
    };
    let origin = |key: &str| {
        let mut values = settings.show();
        let origin = values.find(|(known, ..)| known.name == key).map(|(.., origin)| origin);
        origin.filter(|origin| !matches!(origin, Origin::Default)).map(ToString::to_string)
    };
    let (key, url) = match endpoint.wire {
        Wire::Anthropic => ("ANTHROPIC_API_KEY", "ANTHROPIC_BASE_URL"),
        _ => ("OPENAI_API_KEY", "OPENAI_BASE_URL"),
    };
    let variable = |name: &str| env.text(name).map(|_| format!("${name}"));
    let from = origin("provider").or_else(|| origin("base_url"));
    let from = from.or_else(|| variable(key)).or_else(|| variable(url));
    let from = from.unwrap_or_else(|| "a local server that answers".to_owned());
    findings.ok("provider", format!("{} at {}, from {from}", endpoint.wire, endpoint.base_url));
    let from = origin("model").unwrap_or_else(|| "not chosen by you".to_owned());
    findings.ok("model", format!("{} ({from})", endpoint.model));
    match endpoint.key {
        Some(_) => findings.ok("key", format!("set in ${key}")),
        None => {
            findings.note("key", "none; a local server needs none", "set it if the server asks");
        }
    }
    if offline {
        return;
    }
    match discover::reach(&endpoint.base_url).await {
        Ok(()) => findings.ok("reach", "the server answers"),
        Err(why) => {
            let what = format!("cannot reach {}: {why}", endpoint.base_url);
            let mend = "start the server, mend the network or the URL, or choose another provider";
            findings.problem("reach", what, mend, Exit::Provider);
        }
    }
}

/// Looks at where sessions are kept.
fn state(settings: &Settings, env: &Env, findings: &mut Findings) {
    const MEND: &str = "make it yours and writable, or set XDG_STATE_HOME to a folder that is";
    const FEW_BYTES: u64 = 64 << 20;
    let usage = setup::sessions(env).and_then(|sessions| Ok(sessions.disk_usage()?));
    let usage = match usage {
        Ok(usage) => usage,
        Err(error) => {
            findings.error("state", &error, MEND);
            return;
        }
    };
    let path = one_line(&usage.path.display().to_string());
    let there = usage.path.ancestors().find(|dir| dir.exists()).unwrap_or(Path::new("/"));
    // A file without a name: nothing is left behind, however this ends.
    if let Err(error) = tempfile::tempfile_in(there) {
        findings.problem(
            "state",
            format!("`{path}` cannot be written: {error}"),
            MEND,
            Exit::Failed,
        );
        return;
    }
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let free = usage.free_bytes.map_or_else(|| "unknown".to_owned(), mib);
    let sessions = if usage.sessions == 1 { "session" } else { "sessions" };
    let used = format!("{} {sessions}, {}", usage.sessions, mib(usage.bytes));
    findings.ok("state", format!("{path}: {used}; free: {free}"));
    if usage.free_bytes.is_some_and(|free| free < FEW_BYTES) {
        let mend = "free some space, or `vtcode sessions delete` what is not needed any more";
        findings.note("space", format!("only {free} are left for sessions"), mend);
    }
    findings.ok("undo", format!("keeps up to {} of a session", mib(settings.safety.undo_bytes)));
}

/// Looks at what holds commands back, part by part.
fn sandbox(settings: &Settings, env: &Env, findings: &mut Findings) {
    let made = setup::folder(None).and_then(|cwd| {
        let workspace = Workspace::open(&cwd)?;
        Ok(setup::quiet_sandbox(&workspace, settings, env)?)
    });
    let made = match made {
        Ok(made) => made,
        Err(error) => {
            let mend = "use a kernel with Landlock, or `--sandbox off` where nothing can be harmed";
            findings.error("sandbox", &error, mend);
            return;
        }
    };
    findings.ok("sandbox", format!("commands run in mode {}", made.mode()));
    for Part { name, meaning, mend, .. } in made.parts() {
        match mend {
            None => findings.ok(name, meaning),
            Some(mend) => findings.note(name, meaning, mend),
        }
    }
}

/// Looks at where progress is shown.
fn terminal(env: &Env, findings: &mut Findings) {
    if !io::stderr().is_terminal() {
        findings.ok("terminal", "none; progress is plain text on stderr");
        return;
    }
    let color = if env.text("NO_COLOR").is_some() { "no color (NO_COLOR)" } else { "color" };
    let size = terminal_size::terminal_size_of(io::stderr());
    let size = size.map_or_else(
        || "size unknown".to_owned(),
        |(width, height)| format!("{} × {}", width.0, height.0),
    );
    findings.ok("terminal", format!("{size}, {color}"));
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find_map(|name| env.text(name));
    let locale = locale.unwrap_or_default().to_ascii_lowercase();
    if !locale.contains("utf-8") && !locale.contains("utf8") {
        let what = "the locale is not UTF-8; some signs may look wrong";
        findings.note("terminal", what, "set LANG to a UTF-8 locale such as C.UTF-8");
    }
}
