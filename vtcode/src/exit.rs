//! Exit codes, the same for every command.

use std::process::ExitCode;

use vtcode_core::config::endpoint::{NoProvider, UnknownProvider};
use vtcode_core::config::files::SettingsError;
use vtcode_core::core::journal::JournalError;
use vtcode_core::core::optimized_agent::{End, FailureKind};
use vtcode_core::llm::optimized_client::LlmError;
use vtcode_core::safety::policy::RuleError;
use vtcode_core::safety::workspace::WorkspaceError;

/// How the program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Exit {
    Done = 0,
    /// The task failed.
    Failed = 1,
    /// Wrong arguments or configuration.
    Usage = 2,
    /// No provider, no key, or refused by it.
    Provider = 3,
    /// A limit was reached.
    Limit = 4,
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// Returns the exit code of a run that ended like this.
    pub(crate) fn of(end: Option<&End>) -> Self {
        match end {
            Some(End::Done(_)) => Self::Done,
            Some(End::Failed(failure)) if failure.kind == FailureKind::Provider => Self::Provider,
            Some(End::Limit(_)) => Self::Limit,
            Some(End::Interrupted) => Self::Interrupted,
            _ => Self::Failed,
        }
    }
}

/// An error that the user's arguments or configuration caused.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Usage(pub(crate) String);

/// The user asked twice to stop.
#[derive(Debug, thiserror::Error)]
#[error("stopped at once; the journal holds what was done")]
pub(crate) struct Killed;

/// Writes an error and its causes; some say themselves what caused them.
pub(crate) fn words(error: &anyhow::Error) -> String {
    let mut words = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if words.is_empty() {
            words = cause;
        } else if !words.ends_with(&cause) {
            words = format!("{words}: {cause}");
        }
    }
    words
}

/// Returns the exit code of a command that could not do its work.
pub(crate) fn of_error(error: &anyhow::Error) -> Exit {
    let session = error.downcast_ref::<JournalError>();
    let endpoint = error.downcast_ref::<LlmError>();
    let usage = error.is::<Usage>()
        || error.is::<SettingsError>()
        || error.is::<RuleError>()
        // The only paths that are opened here are the folders that a run works in.
        || error.is::<WorkspaceError>()
        || matches!(endpoint, Some(LlmError::Endpoint { .. }))
        || matches!(session, Some(JournalError::Unknown { .. } | JournalError::Ambiguous { .. }));
    if error.is::<Killed>() {
        return Exit::Interrupted;
    }
    match error.downcast_ref::<NoProvider>() {
        Some(NoProvider::Unknown(UnknownProvider(_)) | NoProvider::BadUrl { .. }) => Exit::Usage,
        Some(_) => Exit::Provider,
        None if usage => Exit::Usage,
        None => Exit::Failed,
    }
}
