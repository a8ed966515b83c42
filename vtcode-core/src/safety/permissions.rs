//! The one check that every tool call passes: what a call would touch and which command it would
//! run come in; it runs, is refused with words for the model, or waits for somebody's answer.
//! Joins the policy's judgement of a command with when the user wants to be asked and with what
//! the sandbox contains. Never runs anything, and never lets a question go unanswered: without
//! anybody to ask it is a refusal.
//!
//! A tool that runs a command answers for it by the command: the policy judges that, and the paths
//! of its effect are what the command reads. Every other tool answers by the paths of its effect,
//! which must lie in the workspace. A tool whose effect is opaque and that names no command is as
//! unproven as a command of which nothing is known.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Component, Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};

use tokio::sync::Semaphore;

use crate::config::safety::{Approval, PermissionRules, SafetySettings, SandboxMode};
use crate::safety::policy::{Class, Judgement, Policy, RuleError, Verdict};
use crate::safety::workspace::{Workspace, WorkspaceError};
use crate::tools::tool::{Effect, ToolError};

/// What decides over the calls of one session.
pub struct Permissions {
    /// Another one takes its place when the user's rules change while a session runs.
    policy: RwLock<Arc<Policy>>,
    approval: Approval,
    /// Whether commands run in a sandbox that holds what is unproven.
    confined: bool,
    /// Whether the user lets commands reach the network.
    network: bool,
    unleashed: bool,
    /// Opened at the first use where the current folder stands for it.
    workspace: OnceLock<Option<Arc<Workspace>>>,
    approver: Option<Approver>,
    /// What was allowed for the rest of this run.
    granted: Mutex<HashSet<String>>,
    /// One question at a time: the answer to the one before may be the answer to this.
    asking: Semaphore,
}

/// Answers questions. It is called for one question at a time per conflicting call, before the
/// call takes a slot; who drops the future withdraws the question.
pub type Approver =
    Arc<dyn Fn(Question) -> Pin<Box<dyn Future<Output = Answer> + Send>> + Send + Sync>;

/// May this call run?
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// The tool.
    pub tool: String,
    /// The command line that it would run, as the model wrote it: it may hold anything.
    pub command: Option<String>,
    /// What is known of it.
    pub class: Class,
    /// What made it a question: the name of a built-in rule, or the user's rule with its list.
    pub rule: String,
    /// Why, in words.
    pub reason: String,
}

/// What somebody says to a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// This call may run.
    Once,
    /// So may the very same command for the rest of this run. Not one that begins alike: what
    /// follows may be the harm (`git push` and `git push --force`).
    Always,
    /// It may not.
    No,
}

/// What becomes of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    Run,
    Ask(Box<Question>),
}

/// What a call says of itself.
#[derive(Debug, Clone)]
pub(crate) struct Asked<'a> {
    pub(crate) tool: &'a str,
    pub(crate) effect: &'a Effect,
    pub(crate) command: Option<Cow<'a, str>>,
}

impl Permissions {
    /// Builds the check for a workspace as the user configured it. Fails on a rule that cannot be
    /// used.
    pub fn new(settings: &SafetySettings, workspace: Arc<Workspace>) -> Result<Self, RuleError> {
        Ok(Self {
            policy: RwLock::new(Arc::new(Policy::new(&settings.permissions)?)),
            approval: settings.approval,
            confined: settings.sandbox.mode != SandboxMode::Off,
            network: settings.sandbox.network,
            unleashed: settings.unleashed,
            workspace: OnceLock::from(Some(workspace)),
            approver: None,
            granted: Mutex::default(),
            asking: Semaphore::new(1),
        })
    }

    /// Returns the check for a workspace with everything at its default: nobody is asked, and what
    /// the sandbox would not contain is refused.
    pub fn for_workspace(workspace: Arc<Workspace>) -> Self {
        Self { workspace: OnceLock::from(Some(workspace)), ..Self::default() }
    }

    /// Returns a check that lets everything pass, for a container of its own.
    pub fn unleashed() -> Self {
        Self { unleashed: true, ..Self::default() }
    }

    /// Says whether commands truly run in a sandbox.
    #[must_use]
    pub fn confined(mut self, confined: bool) -> Self {
        self.confined = confined;
        self
    }

    /// Lets somebody answer.
    #[must_use]
    pub fn with_approver(mut self, approver: Approver) -> Self {
        self.approver = Some(approver);
        self
    }

    /// Returns whether a sandbox holds what commands do, and nothing is let pass unjudged.
    pub fn is_confined(&self) -> bool {
        self.confined && !self.unleashed
    }

    /// Lets other rules of the user's hold for the calls that come from now on. Fails on one that
    /// cannot be used, and then those from before go on holding.
    pub fn set_rules(&self, rules: &PermissionRules) -> Result<(), RuleError> {
        let policy = Arc::new(Policy::new(rules)?);
        *self.policy.write().unwrap_or_else(PoisonError::into_inner) = policy;
        Ok(())
    }

    /// Decides over a call; an error is a refusal that the model reads.
    pub(crate) fn decide(&self, asked: &Asked<'_>) -> Result<Decision, ToolError> {
        if self.unleashed {
            return Ok(Decision::Run);
        }
        let judgement = if let Some(command) = &asked.command {
            self.judge(command)
        } else {
            self.check_paths(asked.effect)?;
            if !asked.effect.opaque {
                return Ok(Decision::Run);
            }
            unknown_tool()
        };
        let refused = |why: &str| {
            let command = asked.command.as_ref().map_or("this call", |_| "this command");
            let reason = &judgement.reason;
            ToolError::Refused { reason: format!("{command} {why}: {reason}") }
        };
        match (judgement.verdict, self.approval) {
            (Verdict::Allow, _) => Ok(Decision::Run),
            (Verdict::Deny, _) => Err(refused("is never run")),
            (Verdict::Ask, Approval::Never | Approval::OnRequest) if self.contained(&judgement) => {
                Ok(Decision::Run)
            }
            (Verdict::Ask, Approval::Never) => Err(refused(match judgement.class {
                Class::Unproven if !self.confined => {
                    "needs the sandbox, which is off, or a rule of the user's"
                }
                _ => "needs the user's permission, and nobody is asked",
            })),
            (Verdict::Ask, _) if self.approver.is_none() => {
                Err(refused("needs the user's permission, and there is nobody to ask"))
            }
            (Verdict::Ask, _)
                if asked.command.as_ref().is_some_and(|c| self.granted().contains(&**c)) =>
            {
                Ok(Decision::Run)
            }
            (Verdict::Ask, _) => Ok(Decision::Ask(Box::new(Question {
                tool: asked.tool.to_owned(),
                command: asked.command.as_deref().map(str::to_owned),
                class: judgement.class,
                rule: judgement.rule,
                reason: judgement.reason,
            }))),
        }
    }

    /// Asks, unless an answer to an earlier question says enough by now.
    pub(crate) async fn ask(&self, question: Question) -> Result<(), ToolError> {
        let Some(approver) = &self.approver else { return Err(declined(&question)) };
        // It is never closed.
        let _turn = self.asking.acquire().await;
        if question.command.as_ref().is_some_and(|command| self.granted().contains(command)) {
            return Ok(());
        }
        match approver(question.clone()).await {
            Answer::Once => Ok(()),
            Answer::Always => {
                self.granted().extend(question.command);
                Ok(())
            }
            Answer::No => Err(declined(&question)),
        }
    }

    fn judge(&self, command: &str) -> Judgement {
        let workspace = self.workspace();
        let root = workspace.map_or(Path::new("/"), |workspace| workspace.root());
        // Any policy is a whole one.
        let policy = Arc::clone(&self.policy.read().unwrap_or_else(PoisonError::into_inner));
        policy.judge(command, root)
    }

    /// Returns whether the sandbox keeps what a command may do where it belongs. A command of
    /// which only the network is known stays there, too, once the user lets commands reach it: to
    /// be asked again for what was just allowed says nothing.
    fn contained(&self, judgement: &Judgement) -> bool {
        let reaches = match judgement.class {
            Class::None | Class::Unproven => true,
            Class::Escalates => judgement.network && self.network,
            Class::Destructive => false,
        };
        self.confined && reaches && !judgement.by_user
    }

    /// Refuses an effect on what lies outside the workspace.
    fn check_paths(&self, effect: &Effect) -> Result<(), ToolError> {
        let reads = effect.reads.iter().map(|path| (path, false));
        for (path, writes) in reads.chain(effect.writes.iter().map(|path| (path, true))) {
            let Some(workspace) = self.workspace() else {
                let reason = "there is no workspace: the current folder cannot be opened";
                return Err(ToolError::Refused { reason: reason.to_owned() });
            };
            let Some(text) = path.to_str() else {
                let path = path.to_string_lossy().into_owned();
                return Err(WorkspaceError::Unusable { path, why: "it is not UTF-8" }.into());
            };
            let resolved = workspace.resolve(text)?;
            climbs_from_link(workspace, path)?;
            let reached = if writes { resolved.check_write() } else { resolved.check_read() };
            if let Err(error) = reached
                && let refused @ ToolError::Refused { .. } = resolved.explain(&error)
            {
                return Err(refused);
            }
        }
        Ok(())
    }

    fn workspace(&self) -> Option<&Arc<Workspace>> {
        let here = || Workspace::open(Path::new(".")).ok().map(Arc::new);
        self.workspace.get_or_init(here).as_ref()
    }

    fn granted(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        // A list of rules is whole after any panic.
        self.granted.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Permissions {
    /// The check for the current folder, with everything at its default.
    fn default() -> Self {
        let settings = SafetySettings::default();
        Self {
            policy: RwLock::default(),
            approval: settings.approval,
            confined: settings.sandbox.mode != SandboxMode::Off,
            network: settings.sandbox.network,
            unleashed: false,
            workspace: OnceLock::new(),
            approver: None,
            granted: Mutex::default(),
            asking: Semaphore::new(1),
        }
    }
}

/// Refuses `..` after a link: on the text it leads back to where the link stands, for whoever opens
/// the path to above where the link points.
fn climbs_from_link(workspace: &Workspace, path: &Path) -> Result<(), WorkspaceError> {
    let mut before = PathBuf::new();
    for part in path.components() {
        if part == Component::ParentDir
            && let Some(text) = before.to_str().filter(|text| !text.is_empty())
        {
            let folder = workspace.resolve(text)?;
            if folder.identity() != folder.absolute() {
                return Err(WorkspaceError::Link { path: path.display().to_string() });
            }
        }
        before.push(part);
    }
    Ok(())
}

fn unknown_tool() -> Judgement {
    Judgement {
        verdict: Verdict::Ask,
        class: Class::Unproven,
        network: false,
        by_user: false,
        rule: "opaque-tool".to_owned(),
        reason: "the tool does not say what it would touch".to_owned(),
        effect: Effect::opaque(),
    }
}

fn declined(question: &Question) -> ToolError {
    let what = question.command.as_ref().map_or("this call", |_| "this command");
    ToolError::Refused {
        reason: format!("the user does not want {what} to run; do without it or ask what to do"),
    }
}

impl std::fmt::Debug for Permissions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Permissions")
            .field("approval", &self.approval)
            .field("confined", &self.confined)
            .field("unleashed", &self.unleashed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
