//! What the model has seen of each file, so that an edit made on old knowledge is noticed.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use super::WorkspacePath;
use crate::tools::witness::Version;

/// The version of each file that the model saw last, whatever name it used.
#[derive(Debug, Default)]
pub struct Versions {
    seen: Mutex<HashMap<PathBuf, Version>>,
}

impl Versions {
    /// Records that the model has seen, or itself written, this version.
    pub fn saw(&self, path: &WorkspacePath, version: Version) {
        let path = path.identity();
        self.lock().insert(path, version);
    }

    /// Returns the version that the model saw last; none if it never saw the file.
    pub fn last_seen(&self, path: &WorkspacePath) -> Option<Version> {
        let path = path.identity();
        self.lock().get(&path).copied()
    }

    /// Forgets a file that is gone.
    pub fn forget(&self, path: &WorkspacePath) {
        let path = path.identity();
        self.lock().remove(&path);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Version>> {
        // The map is whole after any panic: each method makes one change.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
