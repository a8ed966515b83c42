//! What a run may do to the machine, as the user wrote it: which sandbox commands run in, which
//! commands are allowed, asked about or denied, and how much is kept for undo. Plain data; the
//! rooms of `safety` obey it.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// What commands may touch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SandboxMode {
    /// Nothing may be written but the temporary folder.
    ReadOnly,
    /// The workspace, the temporary folder and declared caches may be written.
    #[default]
    WorkspaceWrite,
    /// Everything that the user may.
    Off,
}

/// When somebody is asked before a command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Approval {
    /// Nobody is asked: what would be a question is decided by the sandbox's reach.
    #[default]
    Never,
    /// For what the sandbox would not contain.
    OnRequest,
    /// For everything that is not proven harmless.
    Untrusted,
}

/// The sandbox's settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SandboxSettings {
    /// What commands may touch.
    pub mode: SandboxMode,
    /// Whether commands reach the network.
    pub network: bool,
    /// Further folders that commands may write, such as a tool's cache; `~/` is the home folder.
    pub write: Vec<PathBuf>,
    /// Processes and threads that commands may add to those of the user.
    pub max_processes: u64,
    /// The largest file that a command may write, in bytes.
    pub max_file_bytes: u64,
}

impl Default for SandboxSettings {
    fn default() -> Self {
        Self {
            mode: SandboxMode::default(),
            network: false,
            write: Vec::new(),
            max_processes: 2048,
            max_file_bytes: 8 << 30,
        }
    }
}

/// The user's rules: each is a prefix of a parsed argument list, such as `git diff`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PermissionRules {
    /// Commands that run without a question.
    pub allow: Vec<String>,
    /// Commands that are asked about.
    pub ask: Vec<String>,
    /// Commands that never run.
    pub deny: Vec<String>,
}

/// Everything of this page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SafetySettings {
    /// The sandbox.
    pub sandbox: SandboxSettings,
    /// The user's rules.
    pub permissions: PermissionRules,
    /// When somebody is asked.
    pub approval: Approval,
    /// Whether every command runs unasked and unconfined (`--yolo`).
    pub unleashed: bool,
    /// Bytes kept of one session's changed files, so that they can be restored.
    pub undo_bytes: u64,
}

impl Default for SafetySettings {
    fn default() -> Self {
        Self {
            sandbox: SandboxSettings::default(),
            permissions: PermissionRules::default(),
            approval: Approval::default(),
            unleashed: false,
            undo_bytes: 256 << 20,
        }
    }
}

/// Words for a mode or an approval that there is not.
#[derive(Debug, thiserror::Error)]
#[error("must be {0}")]
pub struct NoSuchWord(&'static str);

impl SandboxMode {
    /// The words that stand for the modes.
    pub const WORDS: &'static str = "`read-only`, `workspace-write` or `off`";
}

impl Approval {
    /// The words that stand for the approvals.
    pub const WORDS: &'static str = "`never`, `on-request` or `untrusted`";
}

impl fmt::Display for SandboxMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ReadOnly => "read-only",
            Self::WorkspaceWrite => "workspace-write",
            Self::Off => "off",
        })
    }
}

impl FromStr for SandboxMode {
    type Err = NoSuchWord;

    /// Returns the mode that a word stands for. Fails for any other than those of
    /// [`SandboxMode::WORDS`].
    fn from_str(word: &str) -> Result<Self, NoSuchWord> {
        let modes = [Self::ReadOnly, Self::WorkspaceWrite, Self::Off];
        modes.into_iter().find(|mode| mode.to_string() == word).ok_or(NoSuchWord(Self::WORDS))
    }
}

impl fmt::Display for Approval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::OnRequest => "on-request",
            Self::Untrusted => "untrusted",
        })
    }
}

impl FromStr for Approval {
    type Err = NoSuchWord;

    /// Returns the approval that a word stands for. Fails for any other than those of
    /// [`Approval::WORDS`].
    fn from_str(word: &str) -> Result<Self, NoSuchWord> {
        let all = [Self::Never, Self::OnRequest, Self::Untrusted];
        all.into_iter().find(|approval| approval.to_string() == word).ok_or(NoSuchWord(Self::WORDS))
    }
}
