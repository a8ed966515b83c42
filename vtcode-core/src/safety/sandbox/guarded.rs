//! What a writable folder holds that is run or obeyed later without a question: git's hooks and
//! configuration and our own. How it was before a command comes in; what the command changed of it
//! is undone, and told.
//! A read-only mount comes first where there are namespaces; this finds what goes round it.
//! Never follows a link that a command made.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};

/// A larger file is not kept, and so not restored.
const KEPT_BYTES: u64 = 1 << 20;

/// What git obeys in its folder besides the hooks. `commondir` names another folder whose
/// configuration and hooks count instead.
const OBEYED: &[&str] = &["config", "config.worktree", "commondir"];

/// What a configuration may hold that a command made together with its repository.
const HARMLESS: &[&str] = &[
    "core.repositoryformatversion",
    "core.filemode",
    "core.bare",
    "core.logallrefupdates",
    "core.ignorecase",
    "core.precomposeunicode",
    "core.symlinks",
    "extensions.objectformat",
    "user.name",
    "user.email",
    "remote.url",
    "remote.fetch",
    "branch.remote",
    "branch.merge",
    "init.defaultbranch",
];

const PLAIN_CONFIG: &[u8] =
    b"[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n";

/// How the folders were before a command.
#[derive(Debug)]
pub struct Guard {
    roots: Vec<Before>,
    /// What was there is mounted read-only.
    mounted: bool,
}

#[derive(Debug)]
struct Before {
    root: PathBuf,
    settings: Kept,
    git: Option<Git>,
}

#[derive(Debug)]
struct Git {
    /// Which folder it was, or none: a file that names the folder.
    folder: Option<(u64, u64)>,
    /// The file that names the folder.
    file: Kept,
    /// What git obeys in the folder, in the order of [`OBEYED`].
    obeyed: Vec<Kept>,
    /// The folder's own `hooks` when they are no folder: a link to the user's elsewhere.
    hooks_link: Kept,
    hooks: BTreeMap<OsString, Kept>,
}

#[derive(Debug, PartialEq, Eq)]
enum Kept {
    Missing,
    File(Vec<u8>, u32),
    Link(PathBuf),
    /// A folder, or too large to keep.
    Other,
}

impl Kept {
    fn of(path: &Path) -> Self {
        let Ok(data) = path.symlink_metadata() else { return Self::Missing };
        if data.is_symlink() {
            return fs::read_link(path).map_or(Self::Other, Self::Link);
        }
        if !data.is_file() || data.len() > KEPT_BYTES {
            return Self::Other;
        }
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let mut bytes = Vec::new();
        let read = fs::OpenOptions::new().read(true).custom_flags(flags).open(path);
        let read = read.and_then(|file| {
            io::Read::read_to_end(&mut io::Read::take(file, KEPT_BYTES + 1), &mut bytes)
        });
        if read.is_ok() { Self::File(bytes, data.mode() & 0o7777) } else { Self::Other }
    }

    /// Puts it back; true when it had to be.
    fn put_back(&self, path: &Path) -> bool {
        if *self == Self::Other || Self::of(path) == *self {
            return false;
        }
        clear(path);
        if let Self::Link(target) = self {
            return std::os::unix::fs::symlink(target, path).is_ok();
        }
        if let Self::File(bytes, mode) = self {
            let put = || {
                let mut file = fs::OpenOptions::new().write(true).create_new(true).open(path)?;
                io::Write::write_all(&mut file, bytes)?;
                file.set_permissions(fs::Permissions::from_mode(*mode))
            };
            return put().is_ok();
        }
        true
    }
}

/// Removes a file or link, and of a folder everything.
fn clear(path: &Path) {
    if path.symlink_metadata().is_ok_and(|data| data.is_dir()) {
        let _ = fs::remove_dir_all(path);
    } else {
        let _ = fs::remove_file(path);
    }
}

/// A folder that was opened without following a link, and a path that stays in it.
struct Held {
    fd: OwnedFd,
}

impl Held {
    fn open(path: &Path) -> Option<Self> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::PATH;
        Some(Self { fd: rustix::fs::open(path, flags, Mode::empty()).ok()? })
    }

    fn path(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.fd.as_raw_fd()))
    }

    fn names(&self) -> Vec<OsString> {
        let entries = fs::read_dir(self.path("")).into_iter().flatten().flatten();
        entries.map(|entry| entry.file_name()).collect()
    }

    fn id(&self) -> Option<(u64, u64)> {
        let stat = rustix::fs::fstat(&self.fd).ok()?;
        Some((stat.st_dev, stat.st_ino))
    }
}

impl Guard {
    pub(super) fn of(roots: &[PathBuf], mounted: bool) -> Self {
        let before = |root: &PathBuf| Before {
            root: root.clone(),
            settings: Kept::of(&root.join("vtcode.toml")),
            git: Git::of(root),
        };
        Self { roots: roots.iter().map(before).collect(), mounted }
    }

    /// Undoes what was changed, and returns what that was, each path relative to its folder. A file
    /// that had more than 1 MiB is not put back.
    pub fn undo(&self) -> Vec<String> {
        self.roots.iter().flat_map(|before| before.undo(self.mounted)).collect()
    }
}

impl Git {
    fn of(root: &Path) -> Option<Self> {
        let path = root.join(".git");
        let Some(held) = Held::open(&path) else {
            return match Kept::of(&path) {
                Kept::Missing => None,
                file => Some(Self { file, ..Self::none() }),
            };
        };
        let hooks = Held::open(&held.path("hooks")).map(|hooks| {
            let names = hooks.names().into_iter();
            names.map(|name| (name.clone(), Kept::of(&hooks.path("").join(name)))).collect()
        });
        let hooks_link = match Kept::of(&held.path("hooks")) {
            Kept::Other => Kept::Missing,
            link => link,
        };
        Some(Self {
            folder: held.id(),
            file: Kept::Missing,
            obeyed: OBEYED.iter().map(|name| Kept::of(&held.path(name))).collect(),
            hooks_link,
            hooks: hooks.unwrap_or_default(),
        })
    }

    fn none() -> Self {
        Self {
            folder: None,
            file: Kept::Missing,
            obeyed: Vec::new(),
            hooks_link: Kept::Missing,
            hooks: BTreeMap::new(),
        }
    }
}

impl Before {
    fn undo(&self, mounted: bool) -> Vec<String> {
        let mut told = Vec::new();
        // What is mounted read-only was changed by somebody else, such as the user.
        let safe = mounted && self.settings != Kept::Missing;
        if !safe && self.settings.put_back(&self.root.join("vtcode.toml")) {
            told.push("vtcode.toml".to_owned());
        }
        let path = self.root.join(".git");
        let held = Held::open(&path);
        match (&self.git, held) {
            (None, Some(held)) => undo_in_new(&held, &mut told),
            // A file or link that names another repository, and what that one runs.
            (None, None) => {
                if path.symlink_metadata().is_ok() {
                    clear(&path);
                    told.push(".git".to_owned());
                }
            }
            (Some(git), Some(held)) if git.folder.is_some() => {
                let same = mounted && git.folder == held.id();
                for (name, kept) in OBEYED.iter().zip(&git.obeyed) {
                    let safe = same && *kept != Kept::Missing;
                    if !safe && kept.put_back(&held.path(name)) {
                        told.push(format!(".git/{name}"));
                    }
                }
                git.undo_hooks(&held, same, &mut told);
            }
            (Some(git), None) if git.folder.is_some() => {
                if path.symlink_metadata().is_ok() {
                    clear(&path);
                    told.push(".git".to_owned());
                }
            }
            (Some(git), _) => {
                if git.file.put_back(&path) {
                    told.push(".git".to_owned());
                }
            }
        }
        told
    }
}

impl Git {
    fn undo_hooks(&self, held: &Held, same: bool, told: &mut Vec<String>) {
        if same && !self.hooks.is_empty() {
            return;
        }
        let path = held.path("hooks");
        if self.hooks_link != Kept::Missing {
            if self.hooks_link.put_back(&path) {
                told.push(".git/hooks".to_owned());
            }
            return;
        }
        if path.symlink_metadata().is_err() {
            return;
        }
        let Some(hooks) = Held::open(&path) else {
            clear(&path);
            told.push(".git/hooks".to_owned());
            return;
        };
        let now = hooks.names();
        for name in now.iter().filter(|name| !self.hooks.contains_key(*name)) {
            if !is_sample(name) {
                clear(&hooks.path("").join(name));
                told.push(format!(".git/hooks/{}", name.display()));
            }
        }
        for (name, kept) in &self.hooks {
            if kept.put_back(&hooks.path("").join(name)) {
                told.push(format!(".git/hooks/{}", name.display()));
            }
        }
    }
}

fn undo_in_new(held: &Held, told: &mut Vec<String>) {
    Git::none().undo_hooks(held, false, told);
    for name in OBEYED.iter().filter(|name| **name != "config") {
        if Kept::Missing.put_back(&held.path(name)) {
            told.push(format!(".git/{name}"));
        }
    }
    let path = held.path("config");
    match Kept::of(&path) {
        Kept::Missing => {}
        Kept::File(bytes, _) if is_harmless(&bytes) => {}
        _ => {
            if Kept::File(PLAIN_CONFIG.to_vec(), 0o644).put_back(&path) {
                told.push(".git/config".to_owned());
            }
        }
    }
}

/// Git runs no hook of such a name.
fn is_sample(name: &OsString) -> bool {
    Path::new(name).extension().is_some_and(|extension| extension == "sample")
}

/// Returns whether a configuration holds nothing that git would run.
fn is_harmless(config: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(config) else { return false };
    let mut section = String::new();
    text.lines().map(str::trim).filter(|line| !line.is_empty()).all(|line| {
        if let Some(rest) = line.strip_prefix('[') {
            let Some(name) = rest.strip_suffix(']') else { return false };
            section = name.split([' ', '.']).next().unwrap_or_default().to_ascii_lowercase();
            return true;
        }
        let key = line.split('=').next().unwrap_or_default().trim().to_ascii_lowercase();
        // A line that goes on in the next one is none of git's own.
        !line.ends_with('\\') && HARMLESS.contains(&format!("{section}.{key}").as_str())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_configuration_that_runs_something_is_not_harmless() {
        assert!(is_harmless(PLAIN_CONFIG));
        assert!(is_harmless(b"[remote \"o\"]\n\turl = x\n\tfetch = +a:b\n"));
        for config in [
            "[core]\nfsmonitor = evil",
            "[core]\nhooksPath = evil",
            "[core] fsmonitor = evil",
            "[alias]\nst = !evil",
            "[include]\npath = evil",
            "[core]\nbare = false \\\n",
        ] {
            assert!(!is_harmless(config.as_bytes()), "{config}");
        }
    }
}
