//! Checks of a workspace: a command that the user named, or one that the folder's files call for,
//! comes in; whether it passes, and what it says, goes out.
//! Runs confined more tightly than any command of the model: of the workspace nothing may be written
//! but its build folder, and no network is reached. Never runs where the model's own command would
//! be a question, and never uses more of the processor than it is allowed.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::plain::Unescape;
use super::{Background, End, GRACE, RunCommand, without_secrets};
use crate::config::safety::{SafetySettings, SandboxMode, SandboxSettings};
use crate::core::event::CheckEnd;
use crate::core::resources;
use crate::safety::permissions::{Asked, Decision, Permissions};
use crate::safety::sandbox::{Sandbox, SandboxError, SandboxPlan};
use crate::safety::workspace::{Workspace, WorkspaceError};
use crate::tools::builtin::lines::{first, last};
use crate::tools::tool::{Effect, ToolError};

/// How often it is looked how much of the processor a running check has used.
const LOOK: Duration = Duration::from_millis(200);

/// Cargo's build folder, if the workspace has one: it is warm, and the model's builds use it, too.
const BUILD: &str = "target";

/// The largest file that is read to find out which tools a folder uses.
const MARKER_BYTES: u64 = 256 * 1024;

/// What a check is made from.
#[derive(Debug)]
pub struct CheckPlan<'a> {
    /// The command that the user named, if any.
    pub command: Option<&'a str>,
    /// Whether the folder's files may call for one where the user named none.
    pub detect: bool,
    /// What the user lets commands do.
    pub safety: &'a SafetySettings,
    /// What decides over the model's commands.
    pub permissions: &'a Permissions,
    /// The folders to check.
    pub workspace: &'a Workspace,
    /// The folders of our own state and configuration.
    pub private: Vec<PathBuf>,
    /// The environment, from which secrets are taken out here.
    pub env: Vec<(OsString, OsString)>,
    /// About how many bytes are kept of what a check says: three quarters from its beginning, the
    /// rest from its end.
    pub result_bytes: usize,
}

/// Why there is no check although one was asked for.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NoCheck {
    /// What decides over the model's commands refuses it.
    #[error("`{command}` is not run as a check")]
    NotAllowed {
        /// The check.
        command: String,
        /// Why not.
        #[source]
        cause: ToolError,
    },
    /// Somebody would have to be asked each time.
    #[error("`{command}` is not run as a check: you would be asked each time; allow it by a rule")]
    Question {
        /// The check.
        command: String,
    },
    /// It cannot be confined.
    #[error("checks cannot be confined, so none is run")]
    Unconfined(#[from] SandboxError),
    /// The folder cannot be opened.
    #[error(transparent)]
    Workspace(#[from] WorkspaceError),
}

/// A command that tells whether the workspace is sound.
#[derive(Debug)]
pub struct Check {
    command: String,
    /// Whether the folder's files called for it, and not the user.
    detected: bool,
    result_bytes: usize,
    tool: RunCommand,
}

/// What came of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How it ended.
    pub end: CheckEnd,
    /// Its exit code, if it came to one.
    pub exit_code: Option<i32>,
    /// What it said, as far as it is kept: all of it, or its beginning and its end.
    pub text: String,
    /// What it and all that it started used of the processor.
    pub cpu: Duration,
    /// How long it ran.
    pub ran: Duration,
}

impl Checked {
    /// One that gave nothing to go by.
    pub(crate) fn unusable() -> Self {
        Self {
            end: CheckEnd::Unusable,
            exit_code: None,
            text: String::new(),
            cpu: Duration::ZERO,
            ran: Duration::ZERO,
        }
    }
}

impl Check {
    /// Makes the check that is asked for; none where none is, or where the folder calls for none.
    /// Fails when the permissions refuse the command or would ask about it, when a folder cannot be
    /// opened, and when the command cannot be confined.
    pub fn new(plan: CheckPlan<'_>) -> Result<Option<Self>, NoCheck> {
        let env = without_secrets(plan.env);
        let root = plan.workspace.root();
        let detected = plan.command.is_none();
        let command = match plan.command {
            Some(command) => Some(command.to_owned()),
            None if plan.detect => detect(root, &env),
            None => None,
        };
        let Some(command) = command else { return Ok(None) };
        let effect = Effect::opaque();
        let asked = Asked { tool: "check", effect: &effect, command: Some((&command).into()) };
        match plan.permissions.decide(&asked) {
            Ok(Decision::Run) => {}
            Ok(Decision::Ask(_)) => return Err(NoCheck::Question { command }),
            Err(cause) => return Err(NoCheck::NotAllowed { command, cause }),
        }
        let mut workspace = Workspace::open_to_read(root)?;
        for (dir, _) in plan.workspace.folders().skip(1) {
            workspace = workspace.with_dir(dir, false)?;
        }
        let build = workspace.resolve(BUILD).ok().filter(|build| {
            root.join("Cargo.toml").is_file()
                && build.is_link().is_ok_and(|link| !link)
                && build.open_folder().is_ok()
        });
        let given = &plan.safety.sandbox;
        let mode = match given.mode {
            SandboxMode::ReadOnly => SandboxMode::ReadOnly,
            // Without a sandbox for the model's commands, a check has its own all the same.
            SandboxMode::WorkspaceWrite | SandboxMode::Off => SandboxMode::WorkspaceWrite,
        };
        let settings = SandboxSettings { mode, network: false, ..given.clone() };
        let sandbox = Sandbox::new(&SandboxPlan {
            settings: &settings,
            workspace: &workspace,
            build: build.as_ref(),
            private: plan.private,
            env: &env,
        })?;
        let mut env = env;
        if !env.iter().any(|(name, _)| name == "CARGO_TARGET_DIR") {
            let tmp = sandbox.variables().into_iter().find(|(name, _)| name == "TMPDIR");
            let place = build.map(|build| build.absolute().into_os_string());
            let place = place.or(tmp.map(|(_, tmp)| Path::new(&tmp).join(BUILD).into_os_string()));
            env.extend(place.map(|place| ("CARGO_TARGET_DIR".into(), place)));
        }
        let (workspace, sandbox) = (Arc::new(workspace), Arc::new(sandbox));
        let bytes = plan.result_bytes;
        // It keeps no output in files and runs nothing in the background.
        let none = PathBuf::new();
        let tool =
            RunCommand::new(workspace, none, env, bytes, Arc::<Background>::default(), sandbox);
        Ok(Some(Self { command, detected, result_bytes: bytes, tool }))
    }

    /// Returns the command.
    pub fn command(&self) -> &str {
        &self.command
    }

    /// Runs it, until it used `cpu` of the processor, which is looked at every 200 ms, or took
    /// `wall` in all. One that cannot be started is [`CheckEnd::Unusable`]. Dropping the future
    /// ends all that it started.
    pub async fn run(&self, cpu: Duration, wall: Duration, cancel: &CancellationToken) -> Checked {
        let started = Instant::now();
        let Ok(mut running) = self.tool.spawn(&self.command, GRACE) else {
            return Checked::unusable();
        };
        let mut shown = Shown::new(self.result_bytes);
        let mut take = |bytes: &[u8]| shown.take(bytes);
        let (group, used) = (Arc::clone(&running.group), Used::default());
        let over = async {
            let _ = tokio::time::timeout(wall, used.reaches(cpu, &group)).await;
        };
        let end = running.follow(&mut take, over, cancel).await;
        // Before it is reaped, and its account is closed.
        used.look(&group).await;
        let (status, _) = running.end(end, &mut take).await;
        drop(running);
        let (cpu_used, text) = (used.get(), shown.text());
        let (end, exit_code) = match end {
            End::Interrupted => (CheckEnd::Interrupted, None),
            End::Deadline if cpu_used >= cpu => (CheckEnd::OverBudget, None),
            End::Deadline => (CheckEnd::OutOfTime, None),
            End::Exited | End::Lingering => self.verdict(status, &text),
        };
        Checked { end, exit_code, text, cpu: cpu_used, ran: started.elapsed() }
    }

    fn verdict(&self, status: Option<ExitStatus>, text: &str) -> (CheckEnd, Option<i32>) {
        let code = status.and_then(|status| status.code());
        let end = match code {
            Some(0) => CheckEnd::Passed,
            // What says nothing of any file is no word on the code: a missing package, a folder
            // that may not be written. Of their own command users know what its failure means.
            Some(_) if !self.detected || names_a_place(text) => CheckEnd::Failed,
            _ => CheckEnd::Unusable,
        };
        (end, code)
    }
}

/// What a running check has used of the processor, in microseconds.
#[derive(Debug, Default)]
struct Used(AtomicU64);

impl Used {
    fn get(&self) -> Duration {
        Duration::from_micros(self.0.load(Ordering::Relaxed))
    }

    /// Returns when so much was used.
    async fn reaches(&self, cpu: Duration, group: &Group) {
        while self.get() < cpu {
            tokio::time::sleep(LOOK).await;
            self.look(group).await;
        }
    }

    async fn look(&self, group: &Group) {
        let Some(pid) = group.pid() else { return };
        let looked = tokio::task::spawn_blocking(move || resources::cpu_of_tree(pid)).await;
        if let Ok(Some(cpu)) = looked {
            let micros = u64::try_from(cpu.as_micros()).unwrap_or(u64::MAX);
            // What ends without being waited for takes its account with it.
            self.0.fetch_max(micros, Ordering::Relaxed);
        }
    }
}

/// The beginning and the end of what a check says.
struct Shown {
    unescape: Unescape,
    head: String,
    tail: String,
    cut: bool,
    head_bytes: usize,
    tail_bytes: usize,
}

impl Shown {
    fn new(bytes: usize) -> Self {
        let tail_bytes = bytes / 4;
        let head_bytes = bytes - tail_bytes;
        let (unescape, head, tail) = (Unescape::default(), String::new(), String::new());
        Self { unescape, head, tail, cut: false, head_bytes, tail_bytes }
    }

    fn take(&mut self, bytes: &[u8]) {
        let mut text = String::new();
        self.unescape.push(bytes, &mut text);
        // A line that overwrites another is one of its own here.
        let text = text.replace('\r', "\n");
        let fits = first(&text, self.head_bytes - self.head.len().min(self.head_bytes));
        let fits = if self.tail.is_empty() { fits } else { "" };
        self.head.push_str(fits);
        self.tail.push_str(&text[fits.len()..]);
        if self.tail.len() > 2 * self.tail_bytes {
            self.tail = last(&self.tail, self.tail_bytes).to_owned();
            self.cut = true;
        }
    }

    fn text(mut self) -> String {
        self.unescape.finish(&mut self.tail);
        if self.tail.len() > self.tail_bytes {
            self.tail = last(&self.tail, self.tail_bytes).to_owned();
            self.cut = true;
        }
        if !self.cut {
            return (self.head + &self.tail).trim_end().to_owned();
        }
        // Whole lines on both sides of the cut, where there are any.
        let head = self.head.rsplit_once('\n').map_or(self.head.as_str(), |(head, _)| head);
        let tail = self.tail.split_once('\n').map_or(self.tail.as_str(), |(_, tail)| tail);
        format!("{head}\n[… cut here …]\n{tail}").trim_end().to_owned()
    }
}

/// Returns whether a text names a line of a file, as compilers do: `a.rs:1`, `a.ts(1,2)`.
fn names_a_place(text: &str) -> bool {
    text.split_whitespace().filter(|word| !word.contains("://")).any(|word| {
        word.match_indices([':', '(']).any(|(at, _)| {
            let before = &word[..at];
            let name = before.rsplit('/').next().unwrap_or(before);
            word[at + 1..].starts_with(|c: char| c.is_ascii_digit())
                && name.contains('.')
                && name.bytes().any(|byte| byte.is_ascii_alphabetic())
        })
    })
}

/// Returns the quick check that a folder's files call for, if its program is installed.
fn detect(root: &Path, env: &[(OsString, OsString)]) -> Option<String> {
    let is_there = |name: &str| root.join(name).is_file();
    let installed = |name: &str| {
        let path = env.iter().rev().find(|(variable, _)| variable == OsStr::new("PATH"));
        let mut dirs = path.into_iter().flat_map(|(_, dirs)| std::env::split_paths(dirs));
        // A relative entry would let the workspace choose the program.
        dirs.any(|dir| dir.is_absolute() && !dir.starts_with(root) && dir.join(name).is_file())
    };
    let uses_ruff = || {
        let project = root.join("pyproject.toml");
        let small = project.metadata().is_ok_and(|m| m.is_file() && m.len() <= MARKER_BYTES);
        is_there("ruff.toml")
            || is_there(".ruff.toml")
            || (small
                && std::fs::read_to_string(project).is_ok_and(|text| text.contains("[tool.ruff")))
    };
    let command = if is_there("Cargo.toml") && is_there("Cargo.lock") && installed("cargo") {
        "cargo check --offline --locked --quiet --message-format short"
    } else if is_there("tsconfig.json") && installed("tsc") {
        "tsc --noEmit --pretty false"
    } else if is_there("go.mod") && installed("go") {
        "go vet ./..."
    } else if uses_ruff() && installed("ruff") {
        "ruff check --no-cache --output-format concise"
    } else {
        return None;
    };
    Some(command.to_owned())
}

#[cfg(test)]
mod tests;
