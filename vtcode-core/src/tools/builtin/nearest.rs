//! Says what a model may have meant: takes a path that is not there, gives the answer that names
//! its neighbours. Looks at a bounded number of names, and never at what lies outside.

use std::collections::VecDeque;
use std::ffi::OsStr;
use std::sync::Arc;

use similar::TextDiff;
use tokio_util::sync::CancellationToken;

use crate::safety::workspace::{EntryKind, WorkspacePath};
use crate::tools::builtin::walk::{self, Ignores};
use crate::tools::tool::ToolError;
use crate::tools::witness::Evidence;

/// How many names are looked at, over all folders and in one.
const NAMES: usize = 20_000;
const NAMES_PER_FOLDER: usize = 5_000;

/// How many paths of the same name are compared; there may be a `mod.rs` in every folder.
const SAME_NAMES: usize = 200;

/// How many are suggested.
const SUGGESTIONS: usize = 4;

/// How alike names must be, 1 being the same.
const ALIKE: f32 = 0.7;

/// Returns the answer to a call that names a path that is not there.
pub(super) fn missing(path: &WorkspacePath, cancel: &CancellationToken) -> ToolError {
    let mut text = format!("there is no `{}`", path.display());
    let near: Vec<_> = nearest(path, cancel).iter().map(|near| format!("`{near}`")).collect();
    if !near.is_empty() {
        text.push_str("; did you mean ");
        text.push_str(&near.join(", "));
        text.push('?');
    }
    ToolError::Failed(text)
}

/// Returns the same name elsewhere, then names alike in the nearest folder that is there.
fn nearest(path: &WorkspacePath, cancel: &CancellationToken) -> Vec<String> {
    let mut near = same_name(path, cancel);
    near.truncate(SUGGESTIONS - 1);
    for alike in alike(path, cancel) {
        if !near.contains(&alike) {
            near.push(alike);
        }
    }
    near.truncate(SUGGESTIONS);
    near
}

/// Returns the paths that end in the same name, first those that share most of the folders above.
fn same_name(path: &WorkspacePath, cancel: &CancellationToken) -> Vec<String> {
    let wanted = path.absolute();
    let (Some(name), Some(top)) = (wanted.file_name(), path.folders_above().next()) else {
        return Vec::new();
    };
    let name = name.to_string_lossy().to_lowercase();
    let mut found = Vec::new();
    // What is suggested is a failure's text, which nobody keeps.
    let unused = &mut Evidence::begin();
    // Breadth first: what lies near the top is more likely meant.
    let mut left = NAMES;
    let mut folders = VecDeque::from([(top, None::<Arc<Ignores>>)]);
    while let Some((at, above)) = folders.pop_front() {
        if left == 0 || found.len() >= SAME_NAMES {
            break;
        }
        let Ok(folder) = at.open_folder() else { continue };
        let here = at.absolute();
        let rules = match above {
            Some(above) => above.enter(&folder, &here, unused),
            None => Ignores::of(&at, unused),
        };
        let look_at = left.min(NAMES_PER_FOLDER);
        let Ok(read) = walk::entries(&folder, &here, &rules, look_at, look_at, unused, cancel)
        else {
            continue;
        };
        // An empty folder costs, too.
        left = left.saturating_sub(read.kept.len() + 1);
        for (entry, kind) in read.kept {
            let child = at.child(&entry);
            if entry.to_string_lossy().to_lowercase() == name {
                let absolute = child.absolute();
                let pairs = absolute.iter().rev().zip(wanted.iter().rev()).skip(1);
                found.push((pairs.take_while(|(a, b)| a == b).count(), child.display()));
            }
            if kind == EntryKind::Folder {
                folders.push_back((child, Some(Arc::clone(&rules))));
            }
        }
    }
    found.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
    found.into_iter().map(|(_, name)| name).collect()
}

/// Returns the names most like the first part of `path` that is not there, where it should be.
fn alike(path: &WorkspacePath, cancel: &CancellationToken) -> Vec<String> {
    let mut missing = path.clone();
    let (above, folder) = loop {
        let Some(above) = missing.above() else { return Vec::new() };
        match above.open_folder() {
            Ok(folder) => break (above, folder),
            Err(_) => missing = above,
        }
    };
    let wanted = missing.absolute();
    let wanted = wanted.file_name().unwrap_or(OsStr::new("")).to_string_lossy().to_lowercase();
    let rules = Ignores::default();
    let read = walk::entries(
        &folder,
        &above.absolute(),
        &rules,
        NAMES_PER_FOLDER,
        NAMES_PER_FOLDER,
        &mut Evidence::begin(),
        cancel,
    );
    let mut scored: Vec<(f32, String)> = read
        .unwrap_or_default()
        .kept
        .iter()
        .filter_map(|(name, _)| {
            let text = name.to_string_lossy().to_lowercase();
            // Lengths far apart cannot be alike; this spares the comparison.
            if text.len().abs_diff(wanted.len()) > wanted.len().max(4) {
                return None;
            }
            let score = TextDiff::from_chars(wanted.as_str(), text.as_str()).ratio();
            (score >= ALIKE).then(|| (score, above.child(name).display()))
        })
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0).then_with(|| a.1.cmp(&b.1)));
    scored.into_iter().map(|(_, name)| name).take(SUGGESTIONS).collect()
}
