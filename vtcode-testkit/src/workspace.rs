//! Temporary workspaces: files come in as pairs of path and content, a folder that is gone after
//! the test comes out, with a picture of everything in it to compare.
//! Never follows a link, and panics where a test has nothing better to do than to fail.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Component, Path, PathBuf};

use tempfile::TempDir;

/// A folder with files in it, without a repository. Dropping it removes it.
#[derive(Debug)]
pub struct TempWorkspace {
    /// Canonical, as the temporary folder may itself be reached by a link.
    path: PathBuf,
    _dir: TempDir,
}

impl TempWorkspace {
    /// Makes a workspace of these files.
    pub fn with<P: AsRef<Path>, C: AsRef<[u8]>>(files: impl IntoIterator<Item = (P, C)>) -> Self {
        let dir = tempfile::Builder::new().prefix("vtcode-").tempdir();
        let dir = dir.expect("a test needs a temporary folder that can be written");
        let path = dir.path().canonicalize().expect("the folder was just made");
        let workspace = Self { path, _dir: dir };
        for (path, content) in files {
            workspace.write(path, content);
        }
        workspace
    }

    /// Makes an empty workspace.
    pub fn empty() -> Self {
        Self::with::<&str, &str>([])
    }

    /// Returns the folder's canonical path.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns a file's text.
    pub fn read(&self, path: impl AsRef<Path>) -> String {
        let path = self.inside(path.as_ref());
        fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()))
    }

    /// Writes a file, and makes the folders above it.
    pub fn write(&self, path: impl AsRef<Path>, content: impl AsRef<[u8]>) {
        let path = self.inside(path.as_ref());
        let folder = path.parent().expect("a path inside the folder has a parent");
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, content))
            .unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Returns every file's bytes by its path in the workspace, with `/` between folders. A link
    /// counts as a file that says where it leads; empty folders do not count.
    pub fn snapshot(&self) -> BTreeMap<String, Vec<u8>> {
        let mut files = BTreeMap::new();
        let mut folders = vec![self.path.clone()];
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(&folder)
                .unwrap_or_else(|error| panic!("cannot list {}: {error}", folder.display()));
            for entry in entries {
                let path = entry.expect("the folder was just opened").path();
                let kind = fs::symlink_metadata(&path)
                    .unwrap_or_else(|error| panic!("cannot look at {}: {error}", path.display()))
                    .file_type();
                if kind.is_dir() {
                    folders.push(path);
                    continue;
                }
                let content = if kind.is_symlink() {
                    fs::read_link(&path).map(|to| format!("link to {}", to.display()).into_bytes())
                } else if kind.is_file() {
                    fs::read(&path)
                } else {
                    // To read a pipe would wait for its writer.
                    Ok(b"neither file nor link".to_vec())
                };
                let content = content
                    .unwrap_or_else(|error| panic!("cannot read {}: {error}", path.display()));
                files.insert(self.name(&path), content);
            }
        }
        files
    }

    fn name(&self, path: &Path) -> String {
        let path = path.strip_prefix(&self.path).expect("it was listed below the folder");
        let parts: Vec<_> = path.iter().map(|part| part.to_string_lossy()).collect();
        parts.join("/")
    }

    fn inside(&self, path: &Path) -> PathBuf {
        let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
        assert!(plain, "{} is not a plain path inside the workspace", path.display());
        self.path.join(path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_there_until_the_workspace_is_dropped() {
        let workspace = TempWorkspace::with([("src/main.rs", "fn main() {}\n"), ("README", "hi")]);
        assert_eq!(workspace.read("src/main.rs"), "fn main() {}\n");
        assert_eq!(workspace.path(), workspace.path().canonicalize().unwrap());

        workspace.write("src/deep/new.rs", b"\xff");
        let snapshot = workspace.snapshot();
        let names: Vec<_> = snapshot.keys().collect();
        assert_eq!(names, ["README", "src/deep/new.rs", "src/main.rs"]);
        assert_eq!(snapshot["src/deep/new.rs"], b"\xff");

        let path = workspace.path().to_owned();
        drop(workspace);
        assert!(!path.exists());
    }

    #[cfg(unix)]
    #[test]
    fn a_snapshot_tells_a_link_from_what_it_leads_to() {
        let workspace = TempWorkspace::with([("a", "same")]);
        std::os::unix::fs::symlink("a", workspace.path().join("b")).unwrap();
        std::os::unix::fs::symlink(".", workspace.path().join("loop")).unwrap();
        let snapshot = workspace.snapshot();
        assert_eq!(snapshot["a"], b"same");
        assert_eq!(snapshot["b"], b"link to a");
        assert_eq!(snapshot.len(), 3);
        assert!(TempWorkspace::empty().snapshot().is_empty());
    }

    #[test]
    #[should_panic(expected = "not a plain path inside")]
    fn a_test_cannot_write_outside_by_mistake() {
        TempWorkspace::empty().write("../outside", "");
    }
}
