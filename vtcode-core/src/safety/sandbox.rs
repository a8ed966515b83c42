//! Commands on a leash: settings and folders come in, processes that can use those and little else
//! go out, with a [`Leash`] on everything that they start.
//! Files are kept by Landlock, the network by a namespace or a filter, other processes by a process
//! namespace or a supervisor; all of it is in force before a command's first instruction.
//! Never asks and never decides whether a command runs: it holds what runs.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Child, Command};

use crate::config::safety::{SandboxMode, SandboxSettings};
use crate::safety::workspace::{Workspace, WorkspacePath};

#[cfg(target_os = "linux")]
mod filter;
#[cfg(target_os = "linux")]
mod grants;
#[cfg(target_os = "linux")]
mod guarded;
#[cfg(target_os = "linux")]
mod kernel;
#[cfg(target_os = "linux")]
mod linux;

/// What a sandbox is made from.
#[derive(Debug)]
pub struct SandboxPlan<'a> {
    /// The user's settings.
    pub settings: &'a SandboxSettings,
    /// The folders to work in.
    pub workspace: &'a Workspace,
    /// A folder in them that is written whatever the mode, for what a build leaves.
    pub build: Option<&'a WorkspacePath>,
    /// The folders of our own state and configuration, which no command sees.
    pub private: Vec<PathBuf>,
    /// The environment of the commands; it names the home folder and the tools.
    pub env: &'a [(OsString, OsString)],
}

/// Why there is no sandbox.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SandboxError {
    /// The kernel cannot keep commands from files.
    #[error(
        "commands cannot be confined: {why}; `--sandbox off` runs them with all that you may do"
    )]
    Unsupported {
        /// What is missing.
        why: String,
    },
    /// The kernel could, but did not.
    #[error("cannot set up the sandbox: {what}")]
    Failed {
        /// What was tried.
        what: &'static str,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
}

/// One part of a sandbox, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// Whether it is in force.
    pub enforced: bool,
    /// What that means.
    pub meaning: String,
    /// How it would come into force; none when it is.
    pub mend: Option<&'static str>,
}

/// The confinement of a session's commands.
#[derive(Debug)]
pub struct Sandbox {
    mode: SandboxMode,
    /// Why no command may run.
    refusal: Option<String>,
    #[cfg(target_os = "linux")]
    linux: Option<linux::Confinement>,
}

impl Sandbox {
    /// Sets up what the commands of a session share. Where namespaces are not allowed the rest
    /// holds alone; [`Sandbox::lacks`] says so. Unless the mode is off, fails where the system has
    /// no Landlock of version 3 or later (Linux 6.2), or no temporary folder can be made.
    pub fn new(plan: &SandboxPlan<'_>) -> Result<Self, SandboxError> {
        Self::with_namespaces(plan, true)
    }

    /// Does the same as where namespaces are not allowed: for tests and readings of that. Fails as
    /// [`Sandbox::new`] does.
    pub fn without_namespaces(plan: &SandboxPlan<'_>) -> Result<Self, SandboxError> {
        Self::with_namespaces(plan, false)
    }

    #[cfg(target_os = "linux")]
    fn with_namespaces(plan: &SandboxPlan<'_>, wanted: bool) -> Result<Self, SandboxError> {
        let mode = plan.settings.mode;
        if mode == SandboxMode::Off {
            return Ok(Self::off());
        }
        let linux = Some(linux::Confinement::new(plan, wanted)?);
        Ok(Self { mode, refusal: None, linux })
    }

    #[cfg(not(target_os = "linux"))]
    fn with_namespaces(plan: &SandboxPlan<'_>, _wanted: bool) -> Result<Self, SandboxError> {
        if plan.settings.mode == SandboxMode::Off {
            return Ok(Self::off());
        }
        let why = format!("there is no sandbox for {} yet", std::env::consts::OS);
        Err(SandboxError::Unsupported { why })
    }

    /// Returns one in which no command starts, for who goes on without commands.
    pub fn refusing(error: &SandboxError) -> Self {
        let refusal = Some(error.to_string());
        Self { mode: SandboxMode::default(), refusal, ..Self::off() }
    }

    /// Returns one that holds nothing back.
    pub fn off() -> Self {
        Self {
            mode: SandboxMode::Off,
            refusal: None,
            #[cfg(target_os = "linux")]
            linux: None,
        }
    }

    /// Returns what commands may touch.
    pub fn mode(&self) -> SandboxMode {
        self.mode
    }

    /// Returns its parts, and of each whether it is in force.
    pub fn parts(&self) -> Vec<Part> {
        #[cfg(target_os = "linux")]
        if let Some(linux) = &self.linux {
            return linux.parts();
        }
        let off = "off: commands may do all that you may";
        let meaning = self.refusal.clone().unwrap_or_else(|| off.to_owned());
        let mend = Some("give `--sandbox workspace-write`, or take `sandbox.mode` out");
        vec![Part { name: "sandbox", enforced: false, meaning, mend }]
    }

    /// Returns in one line what was asked for and is not in force; none when all of it is.
    pub fn lacks(&self) -> Option<String> {
        let missing: Vec<_> = match self.mode {
            SandboxMode::Off => return None,
            _ => self.parts().into_iter().filter(|part| !part.enforced).collect(),
        };
        let missing: Vec<_> =
            missing.iter().map(|part| format!("{} ({})", part.name, part.meaning)).collect();
        (!missing.is_empty()).then(|| format!("not enforced: {}", missing.join("; ")))
    }

    /// Returns variables that commands get besides their own.
    pub fn variables(&self) -> Vec<(OsString, OsString)> {
        #[cfg(target_os = "linux")]
        if let Some(linux) = &self.linux {
            return vec![("TMPDIR".into(), linux.tmp().into())];
        }
        Vec::new()
    }

    /// Looks at what no command may change for good, before one starts; none when it may.
    pub fn guard(&self) -> Option<Guard> {
        #[cfg(target_os = "linux")]
        return self.linux.as_ref().map(linux::Confinement::guard);
        #[cfg(not(target_os = "linux"))]
        None
    }

    /// Returns what commands may do, for a model whose command failed as it does when refused,
    /// which its `output` tells; none when nothing is held back.
    pub fn hint(&self, output: &str) -> Option<&'static str> {
        const SIGNS: [&str; 7] = [
            "Permission denied",
            "Operation not permitted",
            "Read-only file system",
            "Device or resource busy",
            "could not lock config file",
            "Network is unreachable",
            "resolve host",
        ];
        if self.mode == SandboxMode::Off || !SIGNS.iter().any(|sign| output.contains(sign)) {
            return None;
        }
        Some(match self.mode {
            SandboxMode::ReadOnly => {
                "[this may be the sandbox: commands write only below $TMPDIR and reach no network]"
            }
            _ => {
                "[this may be the sandbox: commands write only in the workspace and below $TMPDIR, \
                 not git's hooks and configuration (no `git config`, `git remote add` or `git push -u` \
                 here: name the remote and the branch, or give `git -c KEY=VALUE`), and reach no \
                 network unless it was allowed]"
            }
        })
    }

    /// Starts `command` confined, in a session of its own; none when it holds nothing back, and
    /// then `command` was not started. Blocks until its program runs. Fails when the program cannot
    /// be started or any part of the confinement cannot be put in force, and always in one of
    /// [`Sandbox::refusing`].
    pub fn spawn(&self, command: &mut Command) -> Option<io::Result<(Child, Leash)>> {
        if let Some(why) = &self.refusal {
            return Some(Err(io::Error::other(why.clone())));
        }
        #[cfg(target_os = "linux")]
        if let Some(linux) = &self.linux {
            return Some(linux.spawn(command));
        }
        let _ = command;
        None
    }
}

#[cfg(target_os = "linux")]
pub use guarded::Guard;
#[cfg(target_os = "linux")]
pub use linux::{Leash, News};

/// There is none on this system.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub enum Leash {}

/// There is none on this system.
#[cfg(not(target_os = "linux"))]
#[derive(Debug)]
pub enum Guard {}

#[cfg(not(target_os = "linux"))]
impl Guard {
    /// Undoes nothing.
    pub fn undo(&self) -> Vec<String> {
        match *self {}
    }
}

/// Keeps other processes of this user from looking into this one, commands above all. To be called
/// before anything secret is read. Does nothing elsewhere than on Linux, and does not tell when the
/// kernel refuses.
pub fn hide_memory() {
    #[cfg(target_os = "linux")]
    kernel::hide_memory();
}
