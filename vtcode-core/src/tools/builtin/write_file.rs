//! `write_file`: a path and a whole content in, one line about what it replaced out.
//! Creates the file and the folders above it, or replaces a file that the model knows.
//! Never overwrites work that the model has not seen.

use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::Workspace;
use crate::tools::builtin::blocking::{go_on, writing};
use crate::tools::builtin::lines::{self, plural};
use crate::tools::builtin::{change, spec};
use crate::tools::tool::{
    CallContext, ChangeKind, Detail, Effect, FileChange, Tool, ToolError, ToolFuture, ToolOutput,
    ToolSpec, parse_args,
};

const NAME: &str = "write_file";

/// Lines shown of a file that was not overwritten.
const SHOWN_LINES: usize = 12;

/// Writes whole files.
#[derive(Debug)]
pub struct WriteFile {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    path: String,
    content: String,
}

impl WriteFile {
    /// Returns the tool for the files of `workspace`.
    pub fn new(workspace: Arc<Workspace>) -> Self {
        let description = "Create a file and its folders, or replace a whole file that you have \
                           read. To change part of a file, use edit_file.";
        Self { spec: spec::<Args>(NAME, description), workspace }
    }
}

impl Tool for WriteFile {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        parse_args::<Args>(NAME, args)
            .and_then(|args| Ok(self.workspace.resolve(&args.path)?))
            .map_or_else(|_| Effect::default(), |path| Effect::write(path.absolute()))
    }

    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let args = parse_args::<Args>(NAME, args)?;
            let workspace = Arc::clone(&self.workspace);
            writing(NAME, context, move |cancel| write(&workspace, &args, cancel)).await
        })
    }
}

fn write(
    workspace: &Workspace,
    args: &Args,
    cancel: &CancellationToken,
) -> Result<ToolOutput, ToolError> {
    let path = workspace.resolve(&args.path)?;
    let name = path.display();
    let versions = workspace.versions();
    let before = change::read(&path)?;
    if let Some((old, version)) = &before {
        if old == args.content.as_bytes() {
            versions.saw(&path, *version);
            return Ok(ToolOutput::text(format!("unchanged: {name} already has this content")));
        }
        let seen = versions.last_seen(&path);
        // An empty file holds nothing that could be lost.
        if seen != Some(*version) && !old.is_empty() {
            // The model has now been told; the same call again is its decision.
            versions.saw(&path, *version);
            return Err(refusal(&name, old, seen.is_some()));
        }
    }
    go_on(NAME, cancel)?;
    let expected = before.as_ref().map(|(_, version)| *version);
    let written = path.write_if(expected, args.content.as_bytes());
    let version = written.map_err(|error| path.explain(&error))?;
    versions.saw(&path, version);

    let old = before.as_ref().map(|(old, _)| String::from_utf8_lossy(old));
    let diff = lines::diff(old.as_deref().unwrap_or_default(), &args.content);
    let lines = plural(lines::lines_of(&args.content).len(), "line");
    let (text, kind) = match old {
        None => (format!("created {name}: {lines}"), ChangeKind::Add),
        Some(_) => (format!("replaced {name}: {diff}, now {lines}"), ChangeKind::Update),
    };
    let change = FileChange { path: name, kind, added: diff.added, removed: diff.removed };
    Ok(ToolOutput {
        text,
        is_error: false,
        detail: Detail::Files { changes: vec![change] },
        evidence: None,
    })
}

fn refusal(name: &str, old: &[u8], seen: bool) -> ToolError {
    let why =
        if seen { "was changed after you last saw it" } else { "exists and you have not read it" };
    let what = match std::str::from_utf8(old) {
        Ok(text) if !old.contains(&0) => {
            let lines = lines::lines_of(text).len();
            let first = 0..lines.min(SHOWN_LINES);
            let shown = lines::show(text, std::slice::from_ref(&first), 0);
            let (lines, span) = (plural(lines, "line"), lines::span(&first));
            format!("It has {lines}, {} bytes; {span}:\n{shown}", old.len())
        }
        _ => format!("It holds {} bytes that are not text.", old.len()),
    };
    ToolError::Failed(format!(
        "`{name}` {why}, so it was not overwritten. Read it, or change parts of it with edit_file; \
         to replace it all the same, make the same call again. {what}"
    ))
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{Place, call, changes, context, fails, says};

    fn tool(files: &[(&str, &str)]) -> (Place, WriteFile) {
        let place = Place::with(files);
        let tool = WriteFile::new(Arc::clone(&place.workspace));
        (place, tool)
    }

    #[tokio::test]
    async fn creates_a_file_and_the_folders_above_it() {
        let (place, tool) = tool(&[]);
        let args = json!({"path": "src/deep/a.rs", "content": "one\ntwo\n"});
        let output = call(&tool, args).await.unwrap();
        assert_eq!(output.text, "created src/deep/a.rs: 2 lines");
        let change = &changes(&output)[0];
        assert_eq!((change.kind, change.added, change.removed), (ChangeKind::Add, 2, 0));
        assert_eq!(place.get("src/deep/a.rs"), "one\ntwo\n");
    }

    #[tokio::test]
    async fn what_it_wrote_or_read_it_may_replace() {
        let (place, tool) = tool(&[("read", "1\n2\n")]);
        place.read("read");
        assert_eq!(
            says(&tool, json!({"path": "read", "content": "1\n3\n4"})).await,
            "replaced read: +2 -1, now 3 lines"
        );
        assert_eq!(
            says(&tool, json!({"path": "read", "content": ""})).await,
            "replaced read: +0 -3, now 0 lines"
        );
        assert_eq!(place.get("read"), "");
    }

    #[tokio::test]
    async fn a_file_never_read_is_not_overwritten_at_first() {
        let (place, tool) = tool(&[("a", "precious\nwork\n")]);
        let args = json!({"path": "a", "content": "x\n"});
        expect![[r"
            `a` exists and you have not read it, so it was not overwritten. Read it, or change parts of it with edit_file; to replace it all the same, make the same call again. It has 2 lines, 14 bytes; lines 1-2:
            1	precious
            2	work"]]
        .assert_eq(&fails(&tool, args.clone()).await);
        assert_eq!(place.get("a"), "precious\nwork\n");
        says(&tool, args).await;
        assert_eq!(place.get("a"), "x\n");
    }

    #[tokio::test]
    async fn a_file_changed_since_it_was_read_is_not_overwritten_at_first() {
        let (place, tool) = tool(&[("a", "1\n")]);
        place.read("a");
        place.put("a", b"\xff\0");
        let args = json!({"path": "a", "content": "x\n"});
        let text = fails(&tool, args.clone()).await;
        assert!(text.starts_with("`a` was changed after you last saw it"), "{text}");
        assert!(text.ends_with("It holds 2 bytes that are not text."), "{text}");
        // It changes once more before the second try.
        place.put("a", b"2\n");
        fails(&tool, args.clone()).await;
        says(&tool, args).await;
        assert_eq!(place.get("a"), "x\n");
    }

    #[tokio::test]
    async fn the_same_content_is_not_written_again() {
        let (place, tool) = tool(&[("a", "1\n")]);
        let before = std::fs::metadata(place.path("a")).unwrap().modified().unwrap();
        let output = call(&tool, json!({"path": "a", "content": "1\n"})).await.unwrap();
        assert_eq!(output.text, "unchanged: a already has this content");
        assert_eq!(output.detail, Detail::Plain);
        assert_eq!(std::fs::metadata(place.path("a")).unwrap().modified().unwrap(), before);
        // The model now knows the content, so it may replace it.
        says(&tool, json!({"path": "a", "content": "2\n"})).await;
    }

    #[tokio::test]
    async fn an_empty_file_holds_nothing_to_lose() {
        let (place, tool) = tool(&[("a", "")]);
        says(&tool, json!({"path": "a", "content": "x"})).await;
        assert_eq!(place.get("a"), "x");
    }

    #[tokio::test]
    async fn places_that_cannot_be_written_are_named() {
        let (place, tool) = tool(&[("a", "1\n")]);
        std::fs::create_dir(place.path("folder")).unwrap();
        place.link_out();
        let before = place.tree();
        let said = |path: &str| fails(&tool, json!({"path": path, "content": "x"}));
        assert_eq!(said("folder").await, "`folder`: a folder, not a file");
        let text = said("a/b").await;
        assert!(text.contains("a part of it is a file"), "{text}");
        assert!(said("out/x").await.starts_with("refused: "), "{}", said("out/x").await);
        assert!(said("../x").await.starts_with("refused: "));
        assert!(said(".").await.contains("a folder, not a file"));
        assert!(said("nul\0").await.starts_with("refused: "));
        assert_eq!(place.tree(), before);
    }

    #[tokio::test]
    async fn a_cancelled_call_writes_nothing() {
        let (place, tool) = tool(&[]);
        let context = context();
        context.cancel.cancel();
        let args = json!({"path": "a", "content": "1"});
        let outcome = tool.call(&args, &context).await;
        assert!(matches!(outcome, Err(ToolError::Cancelled { .. })), "{outcome:?}");
        assert!(!place.path("a").exists());
    }
}
