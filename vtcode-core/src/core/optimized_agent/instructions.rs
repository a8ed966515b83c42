//! The instructions of folders below the workspace: what calls touched comes in, the folders whose
//! `AGENTS.md` the model has not seen yet go out, from the top down.
//! They are the repository's words, shown as such: they permit nothing. Reads nothing itself.

use std::collections::HashSet;
use std::path::{Component, Path};

use serde_json::json;

use super::attachments::{MARK, READ};
use super::prompt::INSTRUCTIONS;
use crate::llm::message::{Message, ToolAnswer, ToolCall, tool_calls};
use crate::tools::optimized_registry::OptimizedToolRegistry;

/// What stands after the path of such a file.
const OF: &str = "`, the project's instructions for what lies in `";

/// Folders that are remembered; with more, all are looked at again.
const REMEMBERED: usize = 16 * 1024;

/// Folders that hold what others wrote: their instructions are not the project's.
const FOREIGN: [&str; 5] = ["node_modules", "vendor", "third_party", "site-packages", "target"];

/// What the model has seen of folders' instructions.
#[derive(Debug, Default)]
pub(super) struct FolderInstructions {
    /// Folders that were looked at, relative to the workspace.
    seen: HashSet<String>,
    /// The calls of the latest answer that may touch something below a folder.
    calls: Vec<ToolCall>,
}

impl FolderInstructions {
    /// Returns the state after a conversation.
    pub(super) fn after(messages: &[Message]) -> Self {
        let mut instructions = Self::default();
        for message in messages {
            instructions.take(message);
            let Message::Tool { results } = message else { continue };
            for result in results {
                instructions.seen.extend(shown(&result.text).map(str::to_owned));
            }
        }
        instructions
    }

    /// Takes a message that joins the conversation.
    pub(super) fn take(&mut self, message: &Message) {
        if let Message::Assistant { parts } = message {
            let below = tool_calls(parts).filter(|call| call.arguments.contains('/'));
            self.calls = below.cloned().collect();
        }
    }

    /// Returns the folders that these results are the first to touch a file below, the outermost
    /// first, and takes them as looked at.
    pub(super) fn touched(
        &mut self,
        registry: &OptimizedToolRegistry,
        results: &[ToolAnswer],
    ) -> Vec<String> {
        if self.calls.is_empty() {
            return Vec::new();
        }
        let worked = |call: &&ToolCall| {
            results.iter().any(|result| result.call_id == call.id && !result.is_error)
        };
        let calls = std::mem::take(&mut self.calls);
        let mut folders = Vec::new();
        for call in calls.iter().filter(worked) {
            for folder in folders_of(registry, call) {
                if !self.seen.contains(&folder) {
                    self.seen.insert(folder.clone());
                    folders.push(folder);
                }
            }
        }
        folders.sort_by_key(|folder| folder.matches('/').count());
        if self.seen.len() > REMEMBERED {
            self.seen.clear();
        }
        folders
    }

    /// A folder could not be looked at.
    pub(super) fn forget(&mut self, folder: &str) {
        self.seen.remove(folder);
    }
}

/// Returns the file with a folder's instructions.
pub(super) fn file_of(folder: &str) -> String {
    format!("{folder}/{INSTRUCTIONS}")
}

/// Returns the block that shows a folder's instructions.
pub(super) fn block(folder: &str, text: &str) -> String {
    format!("{MARK}`{}{OF}{folder}/`]\n{text}", file_of(folder))
}

/// Returns the folders whose instructions a result shows.
fn shown(text: &str) -> impl Iterator<Item = &str> {
    text.split(MARK).skip(1).filter_map(|block| {
        let (path, rest) = block.strip_prefix('`')?.split_once('`')?;
        let folder = path.strip_suffix(INSTRUCTIONS)?.strip_suffix('/')?;
        OF.strip_prefix('`').is_some_and(|of| rest.starts_with(of)).then_some(folder)
    })
}

/// Returns the folders below the workspace in which a call's files lie, the outermost first.
fn folders_of(registry: &OptimizedToolRegistry, call: &ToolCall) -> Vec<String> {
    let Ok(args) = serde_json::from_str(&call.arguments) else { return Vec::new() };
    let (Ok(tool), Ok(read)) = (registry.get(&call.name), registry.get(READ)) else {
        return Vec::new();
    };
    // Where a command goes is known only once it has gone there.
    if tool.runs_a_command(&args) {
        return Vec::new();
    }
    let here = read.effect(&json!({"path": "."})).reads;
    let Some(root) = here.first() else { return Vec::new() };
    let effect = tool.effect(&args);
    let paths = effect.reads.iter().chain(&effect.writes);
    let below = paths.filter_map(|path| path.strip_prefix(root).ok()?.parent());
    let mut folders: Vec<String> = Vec::new();
    for folder in below.flat_map(Path::ancestors).filter_map(own) {
        if !folders.contains(&folder) {
            folders.push(folder);
        }
    }
    folders.sort_by_key(|folder| folder.matches('/').count());
    folders
}

/// Returns a folder's name, if it is below the workspace and the project's own.
fn own(folder: &Path) -> Option<String> {
    let is_own = |part: Component<'_>| {
        let Component::Normal(name) = part else { return false };
        name.to_str().is_some_and(|name| !name.starts_with('.') && !FOREIGN.contains(&name))
    };
    let text = folder.to_str().filter(|text| !text.is_empty() && !text.contains('`'))?;
    folder.components().all(is_own).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_found_again_and_a_file_that_quotes_it_is_not() {
        let text = format!("1\tfn a() {{}}{}", block("src/net", "Use tabs."));
        assert_eq!(shown(&text).collect::<Vec<_>>(), ["src/net"]);
        let file = format!("ok{MARK}`src/AGENTS.md`; it need not be read again]\n1\tUse tabs.");
        assert_eq!(shown(&file).count(), 0);
    }

    #[test]
    fn folders_of_others_have_no_say() {
        assert_eq!(own(Path::new("src/net")).as_deref(), Some("src/net"));
        for folder in ["", "node_modules/left-pad", ".git/x", "a/vendor/b", "a/../b"] {
            assert_eq!(own(Path::new(folder)), None, "{folder}");
        }
    }
}
