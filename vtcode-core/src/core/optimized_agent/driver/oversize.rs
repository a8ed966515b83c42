//! Results that are too long to be given whole, from whatever tool: the text goes to a file of the
//! session, its beginning and its end to the model, with the file's name. Never ends a call: what
//! cannot be written is said.

use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::tools::async_pipeline::ToolResult;

/// A tool of ours keeps to the bound of a result by itself, give or take a note; so many times that
/// is too long for any.
const TIMES_RESULT: usize = 4;

/// Where such results go.
#[derive(Debug, Clone)]
pub(super) struct Oversize {
    spool_dir: Option<Arc<Path>>,
    result_bytes: usize,
}

impl Oversize {
    pub(super) fn new(spool_dir: Option<PathBuf>, result_bytes: usize) -> Self {
        Self { spool_dir: spool_dir.map(Arc::from), result_bytes }
    }

    /// Returns whether a result is too long to be given whole.
    pub(super) fn is_too_long(&self, result: &ToolResult) -> bool {
        let most = self.result_bytes.saturating_mul(TIMES_RESULT);
        result.result.as_ref().is_ok_and(|output| output.text.len() > most)
    }

    /// Returns such a result as the model gets it.
    pub(super) async fn bounded(self, mut result: ToolResult) -> ToolResult {
        let Ok(output) = &mut result.result else { return result };
        let (text, id) = (std::mem::take(&mut output.text), result.request_id.clone());
        let cut = tokio::task::spawn_blocking(move || self.cut(&text, &id)).await;
        output.text = cut.unwrap_or_else(|_| "[the result is too long and was lost]".to_owned());
        result
    }

    fn cut(&self, text: &str, id: &str) -> String {
        let kept = match &self.spool_dir {
            Some(dir) => match spool(dir, id, text) {
                Ok(path) => format!("all of it: {}", path.display()),
                Err(error) => format!("the rest could not be kept: {error}"),
            },
            None => "the rest is not kept".to_owned(),
        };
        let half = self.result_bytes / 2;
        let is_boundary = |at: &usize| text.is_char_boundary(*at);
        let start = &text[..(0..=half).rev().find(is_boundary).unwrap_or(0)];
        let end = &text[(text.len() - half..=text.len()).find(is_boundary).unwrap_or(text.len())..];
        let left_out = text.len() - start.len() - end.len();
        format!("{start}\n[… {left_out} bytes left out; {kept}]\n{end}")
    }
}

/// Writes it to a file that only the user may read. A call has one result, and one id in a session.
fn spool(dir: &Path, id: &str, text: &str) -> io::Result<PathBuf> {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    let stem: String = id.chars().take(64).map(safe).collect();
    // As the workspace names it.
    let path = dir.canonicalize()?.join(format!("{stem}.result.txt"));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
    file.write_all(text.as_bytes())?;
    Ok(path)
}
