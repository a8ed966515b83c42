//! What the model has seen of each file, so that an edit made on old knowledge is noticed.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
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

    /// Writes them to a file of the session's, whole, for when it goes on. Fails when that, or the
    /// one beside it that becomes it, cannot be written.
    pub fn save(&self, file: &Path) -> io::Result<()> {
        // A name that is no text is left out: the model is asked to read that file again.
        let seen: Vec<(String, Version)> = self
            .lock()
            .iter()
            .filter_map(|(path, version)| Some((path.to_str()?.to_owned(), *version)))
            .collect();
        let part = file.with_extension("part");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600);
        options.open(&part)?.write_all(&serde_json::to_vec(&seen)?)?;
        fs::rename(&part, file)
    }

    /// Takes up what an earlier run of the session saved. Where that is lost or damaged, as when
    /// the run was killed, nothing was seen: the model reads a file again before it replaces it.
    pub fn load(&self, file: &Path) {
        let Ok(file) = File::open(file) else { return };
        let seen: Result<Vec<(PathBuf, Version)>, _> =
            serde_json::from_reader(BufReader::new(file));
        self.lock().extend(seen.unwrap_or_default());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<PathBuf, Version>> {
        // The map is whole after any panic: each method makes one change.
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::safety::workspace::Workspace;

    #[test]
    fn what_was_seen_is_known_when_the_session_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a"), "a").unwrap();
        let open = || Workspace::open(folder.path()).unwrap();
        let kept = folder.path().join("seen.json");
        let (before, version) = (open(), Version::of(&fs::metadata(folder.path()).unwrap()));
        before.versions().saw(&before.resolve("a").unwrap(), version);
        before.versions().save(&kept).unwrap();

        let after = open();
        after.versions().load(&kept);
        let path = after.resolve("a").unwrap();
        assert_eq!(after.versions().last_seen(&path), Some(version));

        for damaged in ["", "[", "{}", "[[\"a\",1]]"] {
            fs::write(&kept, damaged).unwrap();
            let after = open();
            after.versions().load(&kept);
            assert_eq!(after.versions().last_seen(&path), None);
        }
    }
}
