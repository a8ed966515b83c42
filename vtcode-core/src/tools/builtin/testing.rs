//! A small workspace on disk, and calls of one tool in it, for the tests of the built-in tools.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::Workspace;
use crate::tools::tool::{CallContext, Detail, FileChange, Tool, ToolError, ToolOutput};
use crate::tools::witness::Evidence;

/// A folder with a workspace in it and room for things outside.
pub(super) struct Place {
    dir: tempfile::TempDir,
    pub(super) workspace: Arc<Workspace>,
}

impl Place {
    /// Makes a workspace of these files.
    pub(super) fn with(files: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("work");
        fs::create_dir(&root).unwrap();
        let place = Self { workspace: Arc::new(Workspace::open(&root).unwrap()), dir };
        for (path, content) in files {
            place.put(path, content);
        }
        place
    }

    /// The workspace's folder.
    pub(super) fn root(&self) -> PathBuf {
        self.dir.path().join("work")
    }

    /// The folder that holds the workspace.
    pub(super) fn outside(&self) -> &Path {
        self.dir.path()
    }

    /// A file's path on disk.
    pub(super) fn path(&self, path: &str) -> PathBuf {
        self.root().join(path)
    }

    /// Writes a file and the folders above it, as somebody else would: into a new file, then
    /// renamed.
    pub(super) fn put(&self, path: &str, content: impl AsRef<[u8]>) {
        let (path, temporary) = (self.path(path), self.dir.path().join("temporary"));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, path).unwrap();
    }

    pub(super) fn get(&self, path: &str) -> String {
        String::from_utf8(fs::read(self.path(path)).unwrap()).unwrap()
    }

    /// Makes a link `out` to the folder outside, in which there is a file `secret`.
    pub(super) fn link_out(&self) {
        fs::write(self.outside().join("secret"), "fn secret\n").unwrap();
        symlink(self.outside(), self.path("out")).unwrap();
    }

    /// Lets the model see a file as it is now.
    pub(super) fn read(&self, path: &str) {
        let path = self.workspace.resolve(path).unwrap();
        self.workspace.versions().saw(&path, path.read().unwrap().1);
    }

    /// Returns everything in the workspace and outside: files with their content, links and
    /// folders by name.
    pub(super) fn tree(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let mut tree = Vec::new();
        let mut folders = vec![self.dir.path().to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap() {
                let entry = entry.unwrap();
                let kind = entry.file_type().unwrap();
                if kind.is_dir() {
                    folders.push(entry.path());
                }
                let content =
                    if kind.is_file() { fs::read(entry.path()).unwrap() } else { Vec::new() };
                tree.push((entry.path(), content));
            }
        }
        tree.sort();
        tree
    }
}

/// A context with time enough.
pub(super) fn context() -> CallContext {
    CallContext {
        call_id: "call".into(),
        cancel: CancellationToken::new(),
        timeout: Duration::from_secs(60),
        progress: None,
    }
}

/// Calls a tool.
pub(super) async fn call(tool: &impl Tool, args: Value) -> Result<ToolOutput, ToolError> {
    tool.call(&args, &context()).await
}

/// Calls a tool and returns what the model reads.
pub(super) async fn text(tool: &impl Tool, args: Value) -> String {
    match call(tool, args).await {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    }
}

/// Returns what the model reads when the call succeeds.
pub(super) async fn says(tool: &impl Tool, args: Value) -> String {
    call(tool, args).await.unwrap().text
}

/// Returns what the model reads when the call fails.
pub(super) async fn fails(tool: &impl Tool, args: Value) -> String {
    call(tool, args).await.unwrap_err().to_string()
}

/// Returns the files that a call changed.
pub(super) fn changes(output: &ToolOutput) -> &[FileChange] {
    match &output.detail {
        Detail::Files { changes } => changes,
        other => panic!("no changes: {other:?}"),
    }
}

/// Runs calls as one batch and asserts that each result is what the call gives alone.
pub(super) async fn same_as_alone(tool: &impl Tool, calls: &[Value]) {
    let together = tool.call_batch(&calls.iter().collect::<Vec<_>>(), &context()).await;
    assert_eq!(together.len(), calls.len());
    for (args, together) in calls.iter().zip(together) {
        match (together, call(tool, args.clone()).await) {
            (Ok(together), Ok(alone)) => {
                assert_eq!(together.text, alone.text, "{args}");
                assert_eq!(together.detail, alone.detail, "{args}");
                assert_eq!(together.is_error, alone.is_error, "{args}");
                let [together, alone] = [together, alone].map(|output| output.evidence);
                let len = |evidence: Option<Evidence>| evidence.map(|evidence| evidence.len());
                assert_eq!(len(together), len(alone), "{args}");
            }
            (Err(together), Err(alone)) => {
                assert_eq!(together.to_string(), alone.to_string(), "{args}");
            }
            (together, alone) => panic!("{args}: {together:?} is not {alone:?}"),
        }
    }
}
