//! What a tool is: a name, a schema, the effect of a call, and the call itself.
//! Plain data and one trait; which tools exist is the registry's, when they run the pipeline's.

use std::borrow::Cow;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::core::event::ErrorClass;
use crate::tools::witness::Evidence;

mod function;

pub use function::{FunctionTool, tool_fn};

/// A tool as the model sees it.
#[derive(Debug, Clone, PartialEq)]
pub struct ToolSpec {
    /// The name that calls use.
    pub name: Cow<'static, str>,
    /// What it does, in words for the model.
    pub description: Cow<'static, str>,
    /// The JSON schema of its arguments.
    pub parameters: Value,
}

/// What a call does to the world, as far as it can be told before it runs. Paths are absolute;
/// a folder stands for everything below it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effect {
    /// Files and folders it reads.
    pub reads: Vec<PathBuf>,
    /// Files and folders it writes.
    pub writes: Vec<PathBuf>,
    /// True when it may do anything: a command not proven harmless.
    pub opaque: bool,
}

impl Effect {
    /// Returns the effect of reading `path`.
    pub fn read(path: impl Into<PathBuf>) -> Self {
        Self { reads: vec![path.into()], ..Self::default() }
    }

    /// Returns the effect of writing `path`.
    pub fn write(path: impl Into<PathBuf>) -> Self {
        Self { writes: vec![path.into()], ..Self::default() }
    }

    /// Returns the effect of a call that may do anything.
    pub fn opaque() -> Self {
        Self { opaque: true, ..Self::default() }
    }

    /// Returns whether the call changes nothing.
    pub fn is_read_only(&self) -> bool {
        !self.opaque && self.writes.is_empty()
    }

    /// Returns whether two calls may not overlap in time.
    pub fn conflicts(&self, other: &Self) -> bool {
        if self.is_read_only() && other.is_read_only() {
            return false;
        }
        if self.opaque || other.opaque {
            return true;
        }
        let touches = |writes: &[PathBuf], paths: &[PathBuf]| {
            writes.iter().any(|w| paths.iter().any(|p| overlaps(w, p)))
        };
        touches(&self.writes, &other.writes)
            || touches(&self.writes, &other.reads)
            || touches(&other.writes, &self.reads)
    }
}

fn overlaps(a: &Path, b: &Path) -> bool {
    a.starts_with(b) || b.starts_with(a)
}

/// What a finished call gives: the text for the model and the facts for everyone else.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ToolOutput {
    /// What the model reads.
    pub text: String,
    /// True when the call did not do what was asked (a command's exit code other than 0 is not
    /// such a failure: the model asked to run it and it ran).
    pub is_error: bool,
    /// What happened, for people and records.
    pub detail: Detail,
    /// What the result was read from, if that is all it depends on: the same call gives the same
    /// result while the evidence holds. None when nobody can tell.
    pub evidence: Option<Evidence>,
}

impl ToolOutput {
    /// Returns an output without further detail.
    pub fn text(text: impl Into<String>) -> Self {
        Self { text: text.into(), ..Self::default() }
    }
}

/// What a call did, beyond its text.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Detail {
    /// Nothing worth a line of its own.
    #[default]
    Plain,
    /// A short count for the person who watches, such as `3 matches in 2 files`.
    Summary {
        /// The line.
        line: String,
    },
    /// A command ran.
    Command {
        /// Its exit code; none when a signal or the deadline ended it.
        exit_code: Option<i32>,
        /// Bytes it printed.
        output_bytes: u64,
        /// Where the whole output lies when it was too long to be given whole.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        spool: Option<PathBuf>,
    },
    /// Files changed.
    Files {
        /// Each file once.
        changes: Vec<FileChange>,
    },
}

/// One changed file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileChange {
    /// Its path, relative to the workspace where it lies inside.
    pub path: String,
    /// What happened to it.
    pub kind: ChangeKind,
    /// Lines added.
    pub added: u32,
    /// Lines removed.
    pub removed: u32,
}

/// What happened to a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChangeKind {
    /// It is new.
    Add,
    /// Its content changed.
    Update,
    /// It is gone.
    Delete,
}

/// Takes a piece of output while a call runs.
pub type Progress = Arc<dyn Fn(&str) + Send + Sync>;

/// What a running call may use of the session.
#[derive(Clone)]
pub struct CallContext {
    /// The call's id, unique in the session; empty where calls of a batch run.
    pub call_id: Arc<str>,
    /// Cancelled when the call must end at once.
    pub cancel: CancellationToken,
    /// How long the call may run; its end is enforced by the pipeline, which drops the future.
    pub timeout: Duration,
    /// Takes output while it appears; for people only. None where calls of a batch run.
    pub progress: Option<Progress>,
}

impl fmt::Debug for CallContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CallContext")
            .field("call_id", &self.call_id)
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

/// The future of a call.
pub type ToolFuture<'a> = Pin<Box<dyn Future<Output = Result<ToolOutput, ToolError>> + Send + 'a>>;

/// The future of a batch of calls.
pub type BatchFuture<'a> =
    Pin<Box<dyn Future<Output = Vec<Result<ToolOutput, ToolError>>> + Send + 'a>>;

/// The future of a tool's end.
pub type CloseFuture<'a> = Pin<Box<dyn Future<Output = ()> + Send + 'a>>;

/// Something a model can call.
pub trait Tool: Send + Sync + 'static {
    /// Returns the tool as the model sees it; always the same.
    fn spec(&self) -> &ToolSpec;

    /// Returns what a call with these arguments would do. Arguments it cannot read have no effect,
    /// because their call fails.
    fn effect(&self, args: &Value) -> Effect;

    /// Returns the shell command line that a call with these arguments would run, if it runs one:
    /// the call is then judged by it.
    fn command<'a>(&self, _args: &'a Value) -> Option<Cow<'a, str>> {
        None
    }

    /// Returns the deadline that the arguments ask for, if any; the pipeline caps it at
    /// `max_timeout` of its limits.
    fn timeout(&self, _args: &Value) -> Option<Duration> {
        None
    }

    /// Returns whether calls with the same arguments give the same result as long as no file
    /// changes: such calls may share one run, and their results may be kept.
    fn is_repeatable(&self) -> bool {
        false
    }

    /// Returns how many bytes the call would read, as far as a look tells; none where it would read
    /// nothing, or where nobody can tell. Looks at the disk: ask where that may wait.
    fn bytes(&self, _args: &Value) -> Option<u64> {
        None
    }

    /// Returns whether what the call would read is for those alone who ask for it, so that nobody
    /// makes the call for them: it lies behind a link, or the project keeps it out of its history.
    /// Looks at the disk: ask where that may wait.
    fn on_request_only(&self, _args: &Value) -> bool {
        false
    }

    /// Takes note that what the call gave was shown to nobody, so that it does not count as known.
    fn unshown(&self, _args: &Value) {}

    /// Returns the batch that a call belongs to: calls of one batch that wait at the same time run
    /// as one [`Tool::call_batch`]. None when it runs alone, as do critical calls and those that
    /// are not read-only in any case.
    fn batch(&self, _args: &Value) -> Option<String> {
        None
    }

    /// Runs the call. Dropping the future ends it: nothing it started stays behind. Fails when the
    /// call cannot do its work; the model reads the error as the result. A panic becomes one, too.
    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a>;

    /// Runs several calls of one batch as one, with one result for each, in their order. A call
    /// that fails does not keep the others from their results; a panic, or another number of
    /// results, fails them all.
    fn call_batch<'a>(
        &'a self,
        calls: &'a [&'a Value],
        context: &'a CallContext,
    ) -> BatchFuture<'a> {
        Box::pin(async move {
            let mut results = Vec::with_capacity(calls.len());
            for args in calls {
                results.push(self.call(args, context).await);
            }
            results
        })
    }

    /// Ends what calls left running; asked at the session's end, when no call runs any more.
    /// Nothing of the tool is left once the future is done.
    fn close(&self) -> CloseFuture<'_> {
        Box::pin(std::future::ready(()))
    }
}

/// Why a call gave no result. The model reads it as a result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ToolError {
    /// No such tool.
    #[error("no tool named `{name}`{}", nearest.as_ref().map(|n| format!("; did you mean `{n}`?")).unwrap_or_default())]
    Unknown {
        /// The name asked for.
        name: String,
        /// The tool with the nearest name.
        nearest: Option<String>,
    },
    /// The arguments do not fit the schema.
    #[error("bad arguments for `{name}`: {problem}")]
    BadArguments {
        /// The tool.
        name: String,
        /// What is wrong and what would be right.
        problem: String,
    },
    /// The call was refused: by the workspace's walls, the policy or the user.
    #[error("refused: {reason}")]
    Refused {
        /// Why, and what would be allowed.
        reason: String,
    },
    /// The call did not end in time.
    #[error("`{name}` did not finish within {limit:?}")]
    TimedOut {
        /// The tool.
        name: String,
        /// Its deadline.
        limit: Duration,
    },
    /// Too many calls wait already.
    #[error("not run: {waiting} calls are waiting already; ask for fewer at once")]
    Overloaded {
        /// How many wait.
        waiting: usize,
    },
    /// The session was interrupted.
    #[error("`{name}` was interrupted before it finished")]
    Cancelled {
        /// The tool.
        name: String,
    },
    /// The tool panicked.
    #[error("the tool crashed: {what}; this is a fault of VT Code")]
    Crashed {
        /// Its last words.
        what: String,
    },
    /// Its start could not be recorded, so it did not run.
    #[error("not run, because it could not be recorded: {cause}")]
    Unrecorded {
        /// The system's answer.
        #[source]
        cause: std::io::Error,
    },
    /// The call could not do its work; the text says why and what to do.
    #[error("{0}")]
    Failed(String),
}

impl ToolError {
    /// Returns whose failure it is; none when the user interrupted the call.
    pub fn class(&self) -> Option<ErrorClass> {
        match self {
            Self::Unknown { .. } | Self::BadArguments { .. } => Some(ErrorClass::Model),
            Self::Refused { .. } => Some(ErrorClass::Policy),
            Self::TimedOut { .. } | Self::Failed(_) => Some(ErrorClass::Tool),
            Self::Overloaded { .. } | Self::Unrecorded { .. } => Some(ErrorClass::Environment),
            Self::Crashed { .. } => Some(ErrorClass::Ours),
            Self::Cancelled { .. } => None,
        }
    }
}

/// Reads the arguments of the tool `name` into its own type. Fails with
/// [`ToolError::BadArguments`], whose message a model can repair from, when they do not fit the
/// type.
pub fn parse_args<'a, T: Deserialize<'a>>(name: &str, args: &'a Value) -> Result<T, ToolError> {
    let parsed = T::deserialize(args)
        .map_err(|e| ToolError::BadArguments { name: name.to_owned(), problem: e.to_string() });
    #[cfg(test)]
    PARSED.set(Some(parsed.is_ok()));
    parsed
}

/// Reads a field that may be left out; many models write null for what they leave out.
pub(in crate::tools) fn or_default<'de, D, T>(value: D) -> Result<T, D::Error>
where
    D: serde::Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Option::deserialize(value).map(Option::unwrap_or_default)
}

#[cfg(test)]
thread_local! {
    /// Whether this thread's latest [`parse_args`] succeeded.
    pub(in crate::tools) static PARSED: std::cell::Cell<Option<bool>> = const { std::cell::Cell::new(None) };
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const TREE: [&str; 7] = ["/", "/a", "/a/b", "/a/b/c", "/a/bc", "/d", "/d/b"];

    fn effect() -> impl Strategy<Value = Effect> {
        let paths = || {
            let path = prop::sample::select(TREE.to_vec()).prop_map(PathBuf::from);
            prop::collection::vec(path, 0..3)
        };
        (paths(), paths(), prop::bool::weighted(0.1)).prop_map(|(reads, writes, opaque)| Effect {
            reads,
            writes,
            opaque,
        })
    }

    /// Everything in the tree that a path stands for, itself and what lies below it.
    fn covered(paths: &[PathBuf]) -> BTreeSet<&'static str> {
        let below = |path: &str, folder: &str| {
            folder == "/" || path == folder || path.starts_with(&format!("{folder}/"))
        };
        let covers = |path: &str| paths.iter().any(|p| below(path, p.to_str().unwrap()));
        TREE.into_iter().filter(|path| covers(path)).collect()
    }

    proptest! {
        #[test]
        fn calls_conflict_when_one_changes_what_the_other_touches(a in effect(), b in effect()) {
            let (a_writes, b_writes) = (covered(&a.writes), covered(&b.writes));
            let (a_reads, b_reads) = (covered(&a.reads), covered(&b.reads));
            let expected = a.opaque
                || b.opaque
                || !a_writes.is_disjoint(&b_writes)
                || !a_writes.is_disjoint(&b_reads)
                || !b_writes.is_disjoint(&a_reads);
            prop_assert_eq!(a.conflicts(&b), expected);
            prop_assert_eq!(b.conflicts(&a), expected);
        }
    }

    #[test]
    fn a_name_that_begins_like_a_folder_is_not_below_it() {
        assert!(Effect::write("/src").conflicts(&Effect::read("/src/main.rs")));
        assert!(Effect::write("/src/main.rs").conflicts(&Effect::read("/src")));
        assert!(!Effect::write("/src").conflicts(&Effect::read("/src2")));
        assert!(!Effect::read("/src").conflicts(&Effect::read("/src")));
        assert!(Effect::opaque().conflicts(&Effect::default()));
    }
}
