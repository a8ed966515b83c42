//! What the tools that change files share: a path in, its text and the version that it had out,
//! and what a text that is not in it was most likely meant to be.
//! Never decides what to write, and writes nothing itself.

use std::io;

use crate::safety::workspace::{Version, Workspace, WorkspacePath};
use crate::tools::tool::ToolError;

mod closest;

pub(super) use closest::{closest, difference, plain};

/// Reads a file of any content; none when nothing is there.
pub(super) fn read(path: &WorkspacePath) -> Result<Option<(Vec<u8>, Version)>, ToolError> {
    match path.read() {
        Ok(read) => Ok(Some(read)),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(path.explain(&e)),
    }
}

/// Takes the bytes of a file as text, or says why they are none.
pub(super) fn text(path: &WorkspacePath, bytes: Vec<u8>) -> Result<String, ToolError> {
    let refused = |what: String| {
        ToolError::Failed(format!("`{}` {what}; change it with a command", path.display()))
    };
    let line = |at: usize| memchr::memchr_iter(b'\n', &bytes[..at]).count() + 1;
    if let Some(at) = memchr::memchr(0, &bytes) {
        return Err(refused(format!("is binary (a NUL byte on line {})", line(at))));
    }
    if let Err(e) = std::str::from_utf8(&bytes) {
        let at = e.valid_up_to();
        return Err(refused(format!(
            "is not UTF-8 (byte 0x{:02x} on line {})",
            bytes[at],
            line(at)
        )));
    }
    Ok(String::from_utf8(bytes).expect("checked on the line above"))
}

/// Returns whether the model knows an older state of the file than `version`.
pub(super) fn is_stale(workspace: &Workspace, path: &WorkspacePath, version: Version) -> bool {
    workspace.versions().last_seen(path).is_some_and(|seen| seen != version)
}
