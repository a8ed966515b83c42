//! The walls round the files: a path's text comes in, a [`WorkspacePath`] that cannot leave the
//! workspace goes out, and every file operation of every tool is a method on it.
//! Never follows a link out, and never trusts a check that was made on a name before it was opened.

use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, Read, Write};
use std::ops::Deref;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid};
use rustix::io::Errno;

use crate::safety::preimage::{self, Announced, Found, Preimages, State};
use crate::tools::tool::ToolError;

mod beneath;
mod folder;
mod put;
mod versions;

use beneath::LOCATE;
pub use folder::{EntryKind, Folder};
pub use versions::Versions;

pub use crate::tools::witness::Version;

/// The largest file that is read whole, in bytes: to edit a larger one costs more, in memory for
/// its lines above all, than the command that does it better.
pub const WHOLE_BYTES: usize = 8 * 1024 * 1024;

/// The longest path that the system takes, and how much of a longer one is repeated.
const PATH_BYTES: usize = 4096;
const PATH_SHOWN_CHARS: usize = 80;

/// The folders that tools may touch.
#[derive(Debug)]
pub struct Workspace {
    roots: Roots,
    versions: Versions,
}

type Roots = Arc<Ground>;

/// The folders, the main one first, and who is told of each change in them.
#[derive(Debug)]
struct Ground {
    folders: Vec<Arc<Root>>,
    preimages: Option<Arc<Preimages>>,
}

impl Deref for Ground {
    type Target = [Arc<Root>];

    fn deref(&self) -> &Self::Target {
        &self.folders
    }
}

#[derive(Debug)]
struct Root {
    /// Canonical.
    path: PathBuf,
    /// The path as the user wrote it, made absolute, where that is another one.
    alias: Option<PathBuf>,
    dir: OwnedFd,
    writable: bool,
}

/// Why a path was refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkspaceError {
    /// It lies outside.
    #[error("`{path}` is outside the workspace `{root}`; use a path inside it")]
    Outside {
        /// The path as asked for.
        path: String,
        /// The main folder.
        root: String,
    },
    /// A link on the way leads outside.
    #[error("a link in `{path}` leads outside the workspace `{root}`; use a path inside it")]
    LeadsOutside {
        /// The path as asked for.
        path: String,
        /// The main folder.
        root: String,
    },
    /// A link on the way cannot be followed.
    #[error("a link in `{path}` cannot be followed; use the path that it points to")]
    Link {
        /// The path as asked for.
        path: String,
    },
    /// It may be read only.
    #[error("`{path}` may be read but not written")]
    ReadOnly {
        /// The path as asked for.
        path: String,
    },
    /// It is git's own.
    #[error("`{path}` belongs to git, which runs what stands there; change it with git")]
    Git {
        /// The path as asked for.
        path: String,
    },
    /// It cannot be a path.
    #[error("`{path}` is not a usable path: {why}")]
    Unusable {
        /// The path as asked for.
        path: String,
        /// What is wrong with it.
        why: &'static str,
    },
    /// It is not the version that was expected.
    #[error("`{path}` was changed by somebody else in this moment; try again")]
    Changed {
        /// The path as asked for.
        path: String,
    },
    /// A folder of the workspace itself cannot be opened.
    #[error("cannot open the folder `{path}`")]
    Root {
        /// The folder.
        path: String,
        /// The system's answer.
        #[source]
        cause: io::Error,
    },
}

impl From<WorkspaceError> for ToolError {
    fn from(error: WorkspaceError) -> Self {
        Self::Refused { reason: error.to_string() }
    }
}

impl Workspace {
    /// Opens the folder `root`; tools may read and write below it. Fails when it is no folder or
    /// cannot be opened.
    pub fn open(root: &Path) -> Result<Self, WorkspaceError> {
        let folders = vec![Arc::new(Root::open(root, true)?)];
        let roots = Arc::new(Ground { folders, preimages: None });
        Ok(Self { roots, versions: Versions::default() })
    }

    /// Opens the folder `root`, below which nothing may be written. Fails as [`Workspace::open`]
    /// does.
    pub fn open_to_read(root: &Path) -> Result<Self, WorkspaceError> {
        let folders = vec![Arc::new(Root::open(root, false)?)];
        let roots = Arc::new(Ground { folders, preimages: None });
        Ok(Self { roots, versions: Versions::default() })
    }

    /// Adds another folder; its paths are given absolute. One that lies inside another folder
    /// decides alone whether what is below it may be written. Fails as [`Workspace::open`] does.
    pub fn with_dir(mut self, dir: &Path, writable: bool) -> Result<Self, WorkspaceError> {
        let root = Arc::new(Root::open(dir, writable)?);
        let folders = self.roots.iter().cloned().chain([root]).collect();
        self.roots = Arc::new(Ground { folders, preimages: self.roots.preimages.clone() });
        Ok(self)
    }

    /// Keeps what is at a path before each change of it, so that it can be taken back.
    #[must_use]
    pub fn with_preimages(mut self, preimages: Arc<Preimages>) -> Self {
        let folders = self.roots.folders.clone();
        self.roots = Arc::new(Ground { folders, preimages: Some(preimages) });
        self
    }

    /// Returns the main folder, canonical.
    pub fn root(&self) -> &Path {
        &self.roots[0].path
    }

    /// Returns the folders whose files may be changed, none of them inside another one.
    pub(in crate::safety) fn writable_folders(&self) -> Vec<PathBuf> {
        let paths = || self.roots.iter().filter(|root| root.writable).map(|root| &root.path);
        let alone = |path: &PathBuf| !paths().any(|other| path != other && path.starts_with(other));
        paths().filter(|path| alone(path)).cloned().collect()
    }

    /// Returns who keeps what is changed, if anybody does.
    pub fn preimages(&self) -> Option<&Arc<Preimages>> {
        self.roots.preimages.as_ref()
    }

    /// Returns all folders, canonical, and whether they may be written; the main one first.
    pub fn folders(&self) -> impl Iterator<Item = (&Path, bool)> {
        self.roots.iter().map(|root| (root.path.as_path(), root.writable))
    }

    /// Returns what the model has seen of each file.
    pub fn versions(&self) -> &Versions {
        &self.versions
    }

    /// Resolves a path that a model named: relative to the main folder, or absolute below any of
    /// the folders. `.` and `..` are resolved on the text, so they cannot lead out; links are
    /// judged by the kernel when the path is opened. Fails for a path that is empty, holds a NUL,
    /// is longer than 4096 bytes, begins with `~` or lies outside; whether something is there does
    /// not matter.
    pub fn resolve(&self, path: &str) -> Result<WorkspacePath, WorkspaceError> {
        let unusable = |why| WorkspaceError::Unusable { path: path.to_owned(), why };
        let asked = Path::new(path);
        if path.is_empty() {
            return Err(unusable("it is empty; `.` is the workspace"));
        }
        if path.contains('\0') {
            // Not every wire takes a NUL.
            let path = path.replace('\0', "␀");
            return Err(WorkspaceError::Unusable { path, why: "it holds a NUL byte" });
        }
        // A model that mixes up its arguments names a whole file's content: it is not repeated.
        if path.len() > PATH_BYTES {
            let path = path.chars().take(PATH_SHOWN_CHARS).chain(['…']).collect();
            return Err(WorkspaceError::Unusable { path, why: "it is longer than a path can be" });
        }
        // A shell would have replaced it. Taken as a name it would make a folder that one careless
        // `rm -r ~` later is mistaken for the real one.
        if asked.components().next() == Some(Component::Normal(OsStr::new("~"))) {
            return Err(unusable("`~` is not the home folder here; use a path in the workspace"));
        }
        let outside = || WorkspaceError::Outside {
            path: path.to_owned(),
            root: self.root().display().to_string(),
        };
        let clean = normalize(asked).ok_or_else(outside)?;
        let absolute =
            if asked.is_absolute() { unalias(&self.roots, clean) } else { self.root().join(clean) };
        place(&self.roots, &absolute).ok_or_else(outside)
    }

    /// Returns an absolute path that we wrote down ourselves, whatever bytes are in its name.
    pub(in crate::safety) fn at(&self, absolute: &Path) -> Result<WorkspacePath, WorkspaceError> {
        let found = normalize(absolute).and_then(|clean| place(&self.roots, &clean));
        found.ok_or_else(|| WorkspaceError::Outside {
            path: absolute.display().to_string(),
            root: self.root().display().to_string(),
        })
    }
}

/// Resolves `.` and `..` on the text; none when it climbs above its start.
fn normalize(path: &Path) -> Option<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Prefix(_) => return None,
            Component::RootDir => clean.push("/"),
            Component::CurDir => {}
            Component::ParentDir => {
                if !clean.pop() {
                    return None;
                }
            }
            Component::Normal(name) => clean.push(name),
        }
    }
    Some(clean)
}

/// Replaces the user's spelling of a folder of the workspace by the canonical one.
fn unalias(roots: &Roots, absolute: PathBuf) -> PathBuf {
    if roots.iter().any(|root| absolute.starts_with(&root.path)) {
        return absolute;
    }
    let spelled = roots.iter().filter_map(|root| {
        let rest = absolute.strip_prefix(root.alias.as_ref()?).ok()?;
        Some((rest.as_os_str().len(), root.path.join(rest)))
    });
    spelled.min_by_key(|(rest, _)| *rest).map_or(absolute, |(_, path)| path)
}

/// Returns the path below the innermost folder that holds it, so that a read-only folder inside a
/// writable one stays so.
fn place(roots: &Roots, absolute: &Path) -> Option<WorkspacePath> {
    let root = roots
        .iter()
        .filter(|root| absolute.starts_with(&root.path))
        .max_by_key(|root| root.path.as_os_str().len())?;
    let rel = absolute.strip_prefix(&root.path).ok()?.to_owned();
    Some(WorkspacePath { roots: Arc::clone(roots), root: Arc::clone(root), rel })
}

impl Root {
    fn open(path: &Path, writable: bool) -> Result<Self, WorkspaceError> {
        let failed = |cause| WorkspaceError::Root { path: path.display().to_string(), cause };
        let canonical = path.canonicalize().map_err(failed)?;
        // `..` after a link cannot be resolved on the text, so such a spelling is no alias.
        let alias = std::path::absolute(path).ok().filter(|spelled| {
            *spelled != canonical && !spelled.components().any(|c| c == Component::ParentDir)
        });
        let dir = rustix::fs::open(
            &canonical,
            OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::RDONLY,
            Mode::empty(),
        )
        .map_err(|e| failed(e.into()))?;
        Ok(Self { path: canonical, alias, dir, writable })
    }
}

/// A path inside the workspace. Its operations never leave it, whatever is swapped meanwhile. Where
/// the walls refuse one, its error holds a [`WorkspaceError`]; [`WorkspacePath::explain`] has the
/// words for that and for every other.
#[derive(Debug, Clone)]
pub struct WorkspacePath {
    roots: Roots,
    root: Arc<Root>,
    /// Normalized; empty for the folder itself.
    rel: PathBuf,
}

impl WorkspacePath {
    /// Returns the path as people and models see it: relative in the main folder, else absolute.
    pub fn display(&self) -> String {
        let absolute = self.absolute();
        match absolute.strip_prefix(&self.roots[0].path) {
            Ok(rel) if rel.as_os_str().is_empty() => ".".to_owned(),
            Ok(rel) => rel.display().to_string(),
            Err(_) => absolute.display().to_string(),
        }
    }

    /// Returns the absolute path, links in it not resolved. For effects and messages; opening by
    /// this name would give up what this type proves.
    pub fn absolute(&self) -> PathBuf {
        // Joining nothing would end the path with a slash.
        if self.rel.as_os_str().is_empty() {
            return self.root.path.clone();
        }
        self.root.path.join(&self.rel)
    }

    /// Returns the absolute path with the links in it resolved as far as it is there: the same for
    /// every name of one place. For comparing only; it proves nothing about what is opened next.
    pub fn identity(&self) -> PathBuf {
        let absolute = self.absolute();
        let real = absolute.ancestors().find_map(|there| {
            let real = there.canonicalize().ok()?;
            let rest = absolute.strip_prefix(there).ok()?;
            Some(if rest.as_os_str().is_empty() { real } else { real.join(rest) })
        });
        real.unwrap_or(absolute)
    }

    /// Returns the path of an entry of this folder.
    #[must_use]
    pub fn child(&self, name: &OsStr) -> Self {
        Self { rel: self.rel.join(name), ..self.clone() }
    }

    /// Returns the folder above; none above a folder of the workspace itself.
    pub fn above(&self) -> Option<Self> {
        Some(Self { rel: self.rel.parent()?.to_owned(), ..self.clone() })
    }

    /// Returns the folders from the workspace's own down to the one above this path.
    pub fn folders_above(&self) -> impl Iterator<Item = Self> {
        let mut above: Vec<_> = std::iter::successors(self.above(), Self::above).collect();
        above.reverse();
        above.into_iter()
    }

    /// Returns what the model should read when an operation on this path failed.
    pub fn explain(&self, error: &io::Error) -> ToolError {
        match error.get_ref().and_then(|cause| cause.downcast_ref()) {
            Some(WorkspaceError::Changed { .. }) => return ToolError::Failed(error.to_string()),
            Some(_) => return ToolError::Refused { reason: error.to_string() },
            None => {}
        }
        let path = self.display();
        ToolError::Failed(match error.kind() {
            io::ErrorKind::NotFound => format!("there is no `{path}`"),
            io::ErrorKind::PermissionDenied => format!("the system denies access to `{path}`"),
            io::ErrorKind::NotADirectory => {
                format!("`{path}` cannot be: a part of it is a file, not a folder")
            }
            _ => format!("`{path}`: {error}"),
        })
    }

    /// Opens for reading, whatever is there. Never blocks on a FIFO and never opens a terminal as
    /// ours. Fails when nothing is there, it may not be read, or a link leads out.
    pub fn open(&self) -> io::Result<File> {
        self.open_with(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY).map(File::from)
    }

    /// Opens a regular file for reading and refuses everything else. Fails as [`Self::open`] does,
    /// too.
    pub fn open_file(&self) -> io::Result<(File, Metadata)> {
        regular(self.open_with(OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)?)
    }

    /// Opens a folder. Fails as [`Self::open`] does, and when it is none.
    pub fn open_folder(&self) -> io::Result<Folder> {
        self.open_with(OFlags::RDONLY | OFlags::DIRECTORY).map(Folder::new)
    }

    /// Refuses what cannot be read here whatever is done to it: a link on the way leads out. It
    /// proves nothing about what is opened next. Fails when nothing is there, too.
    pub fn check_read(&self) -> io::Result<()> {
        self.open_with(LOCATE).map(drop)
    }

    /// Refuses what cannot be written here: a link on the way leads out, the folder may only be
    /// read, it is git's. It proves nothing about what is opened next. Fails when nothing is there,
    /// too.
    pub fn check_write(&self) -> io::Result<()> {
        match self.parent(false) {
            Ok((parent, _)) => self.check_writable(&parent)?,
            Err(e)
                if e.get_ref()
                    .is_some_and(<dyn std::error::Error + Send + Sync>::is::<WorkspaceError>) =>
            {
                return Err(e);
            }
            // The folder itself, or one that is not there yet: as the folder around it.
            Err(_) if !self.root.writable => {
                let refused = WorkspaceError::ReadOnly { path: self.display() };
                return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
            }
            Err(_) => {}
        }
        self.check_read()
    }

    /// Returns whether something is there. A link to nothing is nothing. Fails when that cannot be
    /// found out: a link leads out, or a folder on the way is closed to us or is a file.
    pub fn exists(&self) -> io::Result<bool> {
        Ok(self.version()?.is_some())
    }

    /// Returns the version of what is there; none if nothing is. Fails as [`Self::exists`] does.
    pub fn version(&self) -> io::Result<Option<Version>> {
        match self.open_with(LOCATE) {
            Ok(found) => Ok(Some(Version::of(&File::from(found).metadata()?))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(e),
        }
    }

    /// Returns whether the path itself is a link; one on the way to it does not count. Fails
    /// when a folder on the way is there but cannot be opened, and for a folder of the workspace
    /// itself.
    pub fn is_link(&self) -> io::Result<bool> {
        let (parent, name) = match self.parent(false) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(false),
            other => other?,
        };
        let stat = look(&parent, &name)?;
        Ok(stat.is_some_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink()))
    }

    /// Reads a whole regular file and the version it had. Fails as [`Self::open_file`] does, for
    /// more than [`WHOLE_BYTES`], and when more or less came than it said that it holds, unless it
    /// said that it is empty.
    pub fn read(&self) -> io::Result<(Vec<u8>, Version)> {
        let (file, stat) = self.open_file()?;
        let too_large = |bytes: u64| {
            let why = format!("{bytes} bytes are too many to take whole; use a command");
            Err(io::Error::new(io::ErrorKind::FileTooLarge, why))
        };
        if stat.len() > WHOLE_BYTES as u64 {
            return too_large(stat.len());
        }
        let mut content = Vec::with_capacity(stat.len() as usize + 1);
        file.take(WHOLE_BYTES as u64 + 1).read_to_end(&mut content)?;
        if content.len() > WHOLE_BYTES {
            return too_large(content.len() as u64);
        }
        // Somebody emptied it to write it anew, or writes on: what came is not all of it. Files of
        // the kernel's own making say that they are empty.
        if stat.len() > 0 && content.len() as u64 != stat.len() {
            return Err(self.changed());
        }
        // The version from before: what is written while we read must count as not seen.
        Ok((content, Version::of(&stat)))
    }

    /// Writes a whole file if it is still the `expected` version; none: if nothing is there.
    ///
    /// The content goes into a temporary file beside it, which is then renamed over it, so that no
    /// reader ever sees half of it. Keeps the mode, and where we may the owner, of what it
    /// replaces; makes missing folders; through a link it writes what the link points to. Other
    /// names of the same file (hard links) keep the old content. Returns the version written. Fails
    /// when it is not that version, when it may not be written here or is git's, when what is there
    /// is write-protected, no regular file or a link to nothing, and when the system cannot write.
    pub fn write_if(&self, expected: Option<Version>, content: &[u8]) -> io::Result<Version> {
        self.write_mode_if(expected, content, None)
    }

    /// Writes, and fails, as [`Self::write_if`] does, and gives the file the permissions of the
    /// lowest nine bits of `mode`; without a mode it is the very same.
    pub fn write_mode_if(
        &self,
        expected: Option<Version>,
        content: &[u8],
        mode: Option<u32>,
    ) -> io::Result<Version> {
        match self.link_target()? {
            Some(target) => target.replace(expected, content, mode, false),
            None => self.replace(expected, content, mode, false),
        }
    }

    /// Removes a file, or a link but not what it points to, if it is still the `expected` version.
    /// Fails when it is not, when nothing or a folder is there, when it is write-protected or
    /// git's, and when it may not be written here.
    pub fn remove_if(&self, expected: Version) -> io::Result<()> {
        let (parent, name) = self.parent(false)?;
        self.check_writable(&parent)?;
        let Some(stat) = look(&parent, &name)? else { return Err(Errno::NOENT.into()) };
        unprotected(stat.st_mode)?;
        if Version::of_stat(&stat) != expected {
            return Err(self.changed());
        }
        self.announced(&parent, &name, State::Absent, || {
            Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::empty())?)
        })
    }

    /// Removes an empty folder. Fails when it is none or holds something, when it is git's or one
    /// of the workspace itself, and when it may not be written here.
    pub fn remove_folder(&self) -> io::Result<()> {
        let (parent, name) = self.parent(false)?;
        self.check_writable(&parent)?;
        self.announced(&parent, &name, State::Absent, || {
            Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::REMOVEDIR)?)
        })
    }

    /// Tells what is about to become of a name, and does it.
    fn announced<T>(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        after: State,
        change: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        let Some(preimages) = &self.roots.preimages else { return change() };
        let announced = preimages.announce(self.key(name), find(parent, name), after);
        told(preimages, &announced, change)
    }

    /// Returns a name for what will take this place once it is whole, and writes it down: a process
    /// that dies before leaves a file of that name.
    fn aside(&self) -> String {
        let name = preimage::aside_name();
        if let Some(preimages) = &self.roots.preimages {
            preimages.sets_aside(self.key(OsStr::new(&name)));
        }
        name
    }

    /// Returns the one name of this place: no links in the folders above it.
    fn key(&self, name: &OsStr) -> PathBuf {
        self.above().map_or_else(PathBuf::new, |above| above.identity()).join(name)
    }

    fn replace(
        &self,
        expected: Option<Version>,
        content: &[u8],
        mode: Option<u32>,
        restores: bool,
    ) -> io::Result<Version> {
        let (parent, name) = self.parent(true)?;
        self.check_writable(&parent)?;
        let old = look(&parent, &name)?;
        if let Some(old) = old {
            let kind = FileType::from_raw_mode(old.st_mode);
            if kind.is_symlink() && !restores {
                return Err(self.refusal(Errno::LOOP.into()));
            }
            if !kind.is_file() && !kind.is_symlink() {
                return Err(not_regular(kind));
            }
            // The rename would succeed all the same, and the user's protection would be gone.
            if !restores {
                unprotected(old.st_mode)?;
            }
        }
        let mode = mode.or(old.map(|stat| stat.st_mode)).map(|mode| mode & 0o777);
        // Not made from `name`, which may already be as long as a name can be.
        let temporary = self.aside();
        let file = rustix::fs::openat(
            &parent,
            &temporary,
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW,
            Mode::from_raw_mode(mode.unwrap_or(0o666)),
        )?;
        let mut file = File::from(file);
        let written = (|| {
            if let Some(old) = old {
                keep_owner(&file, &old)?;
            }
            if let Some(mode) = mode {
                rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?;
            }
            file.write_all(content)?;
            let after = || Ok::<_, io::Error>(State::of_content(content, file.metadata()?.mode()));
            let after = if self.roots.preimages.is_some() { after()? } else { State::Absent };
            self.announced(&parent, &name, after, || {
                // Looked at last: what is kept is then what was replaced.
                let now = look(&parent, &name)?.map(|stat| Version::of_stat(&stat));
                if now != expected {
                    return Err(self.changed());
                }
                Ok(rustix::fs::renameat(&parent, &temporary, &parent, &name)?)
            })?;
            Ok(Version::of(&file.metadata()?))
        })();
        if written.is_err() {
            // The temporary file is ours alone; that it cannot be removed changes nothing.
            let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
        }
        written
    }

    /// Returns the error of an operation that found another version than it expected.
    pub fn changed(&self) -> io::Error {
        io::Error::other(WorkspaceError::Changed { path: self.display() })
    }

    /// Returns what the link at this path points to; none if there is no link.
    fn link_target(&self) -> io::Result<Option<Self>> {
        if !self.is_link()? {
            return Ok(None);
        }
        // Asked first, for its error: a loop, a way out, or a link to nothing.
        self.open_with(LOCATE).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => io::Error::other("a link to something that does not exist"),
            _ => e,
        })?;
        self.real().map(Some)
    }

    /// Returns the same place by a name without links, if that lies inside. This proves nothing,
    /// because the links may change after they were looked up: it only gives another name, which
    /// is opened under the same walls.
    fn real(&self) -> io::Result<Self> {
        let name = self.absolute().canonicalize()?;
        place(&self.roots, &name).ok_or_else(|| self.refusal(Errno::XDEV.into()))
    }

    /// Refuses unless the innermost folder of the workspace that holds `parent` may be written.
    fn check_writable(&self, parent: &OwnedFd) -> io::Result<()> {
        // Hooks, filters and the like: with a line in `.git/config`, `git status` runs anything,
        // and it is held for a reader.
        let real = place(&self.roots, &self.identity());
        if real.is_some_and(|real| real.rel.iter().any(|name| name.eq_ignore_ascii_case(".git"))) {
            let path = self.display();
            let refused = WorkspaceError::Git { path };
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, refused));
        }
        if self.roots.iter().all(|root| root.writable) {
            return Ok(());
        }
        // Climbs from where the file truly is: a link may have led from one folder of the
        // workspace into another, and then the path's text names the wrong one.
        let read_only = || {
            io::Error::new(
                io::ErrorKind::PermissionDenied,
                WorkspaceError::ReadOnly { path: self.display() },
            )
        };
        let identity = |fd: &OwnedFd| -> io::Result<_> {
            let stat = rustix::fs::fstat(fd)?;
            Ok((stat.st_dev, stat.st_ino))
        };
        let mut roots = Vec::new();
        for root in self.roots.iter() {
            roots.push((identity(&root.dir)?, root.writable));
        }
        let up = LOCATE | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let mut here = rustix::fs::openat(parent, ".", up, Mode::empty())?;
        let mut place = identity(&here)?;
        loop {
            if let Some((_, writable)) = roots.iter().find(|(root, _)| *root == place) {
                return if *writable { Ok(()) } else { Err(read_only()) };
            }
            here = rustix::fs::openat(&here, "..", up, Mode::empty())?;
            let above = identity(&here)?;
            if above == place {
                return Err(self.refusal(Errno::XDEV.into()));
            }
            place = above;
        }
    }

    /// Opens the folder above, and makes it if asked.
    fn parent(&self, create: bool) -> io::Result<(OwnedFd, OsString)> {
        let (Some(above), Some(name)) = (self.above(), self.rel.file_name()) else {
            return Err(io::Error::new(io::ErrorKind::IsADirectory, "the workspace itself"));
        };
        let flags = OFlags::DIRECTORY | LOCATE;
        let opened = match above.open_with(flags) {
            Err(e) if create && e.kind() == io::ErrorKind::NotFound => {
                let (grandparent, dir) = above.parent(true)?;
                self.check_writable(&grandparent)?;
                let made = above.announced(&grandparent, &dir, NEW_FOLDER, || {
                    Ok(rustix::fs::mkdirat(&grandparent, &dir, Mode::from_raw_mode(0o777))?)
                });
                match made {
                    Err(e) if !is(&e, Errno::EXIST) => return Err(e),
                    _ => above.open_with(flags),
                }
            }
            other => other,
        };
        Ok((opened?, name.to_owned()))
    }

    fn open_with(&self, flags: OFlags) -> io::Result<OwnedFd> {
        let refused = match beneath::open(self.root.dir.as_fd(), &self.rel, flags) {
            Err(e) if is(&e, Errno::XDEV) || is(&e, Errno::LOOP) => e,
            other => return other,
        };
        // An absolute link may still point inside, and a system without the kernel's help
        // refuses every link: try once more by the name without links.
        match self.real() {
            Ok(real) => beneath::open(real.root.dir.as_fd(), &real.rel, flags)
                .map_err(|error| self.refusal(error)),
            Err(outside) if outside.kind() == io::ErrorKind::PermissionDenied => Err(outside),
            Err(_) => Err(self.refusal(refused)),
        }
    }

    /// Gives the kernel's refusals the words that a model needs.
    fn refusal(&self, error: io::Error) -> io::Error {
        let path = self.display();
        let reason = if is(&error, Errno::XDEV) {
            let root = self.roots[0].path.display().to_string();
            WorkspaceError::LeadsOutside { path, root }
        } else if is(&error, Errno::LOOP) {
            WorkspaceError::Link { path }
        } else {
            return error;
        };
        io::Error::new(io::ErrorKind::PermissionDenied, reason)
    }
}

fn is(error: &io::Error, errno: Errno) -> bool {
    Errno::from_io_error(error) == Some(errno)
}

/// Makes a change that was announced, and says so if it fails.
fn told<T>(
    preimages: &Preimages,
    announced: &Announced,
    change: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    let changed = change();
    if changed.is_err() {
        preimages.cancel(announced);
    }
    changed
}

/// What is made above a new file; the permissions are the system's choice.
const NEW_FOLDER: State = State::Folder { mode: 0o777 };

/// Finds what is at a name in a folder, without following it.
fn find(parent: &OwnedFd, name: &OsStr) -> Found {
    let unreadable = |error: io::Error| Found::File { file: Err(error), bytes: 0, mode: 0 };
    let stat = match look(parent, name) {
        Ok(Some(stat)) => stat,
        Ok(None) => return Found::Absent,
        Err(error) => return unreadable(error),
    };
    let mode = stat.st_mode;
    match FileType::from_raw_mode(mode) {
        FileType::Directory => Found::Folder { mode },
        FileType::Symlink => match rustix::fs::readlinkat(parent, name, Vec::new()) {
            Ok(target) => Found::Link { target: OsString::from_vec(target.into_bytes()).into() },
            Err(error) => unreadable(error.into()),
        },
        FileType::RegularFile => {
            let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let opened = rustix::fs::openat(parent, name, flags, Mode::empty());
            match opened.map_err(io::Error::from).and_then(regular) {
                Ok((file, stat)) => {
                    Found::File { file: Ok(file), bytes: stat.len(), mode: stat.mode() }
                }
                Err(error) => unreadable(error),
            }
        }
        _ => Found::Other,
    }
}

/// Looks at a name in a folder without following it.
fn look(parent: &OwnedFd, name: &OsStr) -> io::Result<Option<Stat>> {
    match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Lets only through what somebody may write.
fn unprotected(mode: u32) -> io::Result<()> {
    if mode & 0o222 == 0 {
        return Err(io::Error::other(format!("write-protected (mode {:04o})", mode & 0o7777)));
    }
    Ok(())
}

/// Gives a new file the owner of the one that it replaces, as far as we may: whoever runs us as
/// root over his own folder wants to keep his files.
fn keep_owner(file: &File, old: &Stat) -> io::Result<()> {
    let new = rustix::fs::fstat(file)?;
    if (new.st_uid, new.st_gid) != (old.st_uid, old.st_gid) {
        let (owner, group) = (Uid::from_raw(old.st_uid), Gid::from_raw(old.st_gid));
        if rustix::fs::fchown(file, Some(owner), Some(group)).is_err() {
            // Without the right to give it away, its group may still be one of ours.
            let _ = rustix::fs::fchown(file, None, Some(group));
        }
    }
    Ok(())
}

/// Lets only a regular file through.
fn regular(opened: OwnedFd) -> io::Result<(File, Metadata)> {
    let file = File::from(opened);
    let stat = file.metadata()?;
    if !stat.is_file() {
        return Err(not_regular(FileType::from_raw_mode(stat.mode())));
    }
    Ok((file, stat))
}

fn not_regular(kind: FileType) -> io::Error {
    use io::ErrorKind::{InvalidInput, IsADirectory};
    match kind {
        FileType::Directory => io::Error::new(IsADirectory, "a folder, not a file"),
        FileType::Fifo => io::Error::new(InvalidInput, "a pipe, not a file"),
        FileType::Socket => io::Error::new(InvalidInput, "a socket, not a file"),
        _ => io::Error::new(InvalidInput, "a device, not a file"),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::sync::atomic::{AtomicBool, Ordering};

    use proptest::prelude::*;

    use super::*;

    /// The kernel's own files give less than they say that they hold, as one does that somebody
    /// empties while it is read.
    #[cfg(target_os = "linux")]
    #[test]
    fn what_gives_less_than_it_holds_is_not_taken_for_whole() {
        let folder = Path::new("/sys/kernel/mm/transparent_hugepage");
        let Ok(workspace) = Workspace::open(folder) else {
            eprintln!("SKIPPED: there is no {}", folder.display());
            return;
        };
        let path = workspace.resolve("enabled").unwrap();
        let error = path.read().unwrap_err();
        assert!(path.explain(&error).to_string().contains("was changed by somebody else"));
    }

    /// A workspace `in` with a neighbour `out` that holds a secret.
    struct Place {
        dir: tempfile::TempDir,
        workspace: Workspace,
    }

    /// Ends the other thread's loop, also when this one panics.
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    const SECRET: &[u8] = b"secret";

    fn place() -> Place {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("in/sub")).unwrap();
        fs::create_dir(dir.path().join("out")).unwrap();
        fs::write(dir.path().join("out/secret"), SECRET).unwrap();
        fs::write(dir.path().join("in/file"), "content").unwrap();
        fs::write(dir.path().join("in/sub/file"), "below").unwrap();
        let workspace = Workspace::open(&dir.path().join("in")).unwrap();
        Place { dir, workspace }
    }

    impl Place {
        fn root(&self) -> PathBuf {
            self.dir.path().join("in")
        }

        fn out(&self) -> PathBuf {
            self.dir.path().join("out")
        }

        fn path(&self, path: &str) -> WorkspacePath {
            self.workspace.resolve(path).unwrap()
        }

        fn refused(&self, path: &str) -> String {
            self.workspace.resolve(path).unwrap_err().to_string()
        }

        fn secret_is_safe(&self) {
            assert_eq!(fs::read(self.out().join("secret")).unwrap(), SECRET);
            assert_eq!(fs::read_dir(self.out()).unwrap().count(), 1, "nothing new outside");
        }
    }

    impl WorkspacePath {
        /// Writes over whatever is there.
        fn write(&self, content: &[u8]) -> io::Result<Version> {
            self.write_if(self.version()?, content)
        }

        /// Removes whatever is there.
        fn remove(&self) -> io::Result<()> {
            let (parent, name) = self.parent(false)?;
            let stat = look(&parent, &name)?.ok_or(io::ErrorKind::NotFound)?;
            self.remove_if(Version::of_stat(&stat))
        }
    }

    fn told(path: &WorkspacePath, error: &io::Error) -> String {
        path.explain(error).to_string()
    }

    #[test]
    fn a_path_that_leaves_on_its_text_is_refused() {
        let place = place();
        for path in ["..", "../out/secret", "sub/../../out/secret", "/etc/passwd", "/", "/.."] {
            let refused = place.refused(path);
            assert!(
                refused.starts_with(&format!("`{path}` is outside the workspace")),
                "{refused}"
            );
        }
        // A folder whose name begins like ours is another one.
        let twin = format!("{}-twin", place.workspace.root().display());
        assert!(place.refused(&twin).contains("outside the workspace"));
        let through_proc = format!("/proc/self/root{}/file", place.workspace.root().display());
        assert!(place.refused(&through_proc).contains("outside the workspace"));
    }

    #[test]
    fn what_is_no_path_is_refused() {
        let place = place();
        assert_eq!(place.refused(""), "`` is not a usable path: it is empty; `.` is the workspace");
        assert_eq!(place.refused("a\0b"), "`a␀b` is not a usable path: it holds a NUL byte");
        let content = "é".repeat(100_000);
        let refused = place.refused(&content);
        assert!(refused.ends_with("…` is not a usable path: it is longer than a path can be"));
        assert!(refused.len() < 300, "{}", refused.len());
        assert!(place.refused("~").contains("not the home folder"));
        assert!(place.refused("~/x").contains("not the home folder"));
        assert_eq!(place.path("./~/x").display(), "~/x");
        assert_eq!(place.path("~backup").display(), "~backup");
    }

    #[test]
    fn one_place_has_one_name_however_it_is_written() {
        let place = place();
        let absolute = place.workspace.root().join("sub/file");
        for path in [
            "sub/file",
            "./sub//file",
            "sub/file/",
            "sub/./file/.",
            "sub/../sub/file",
            "new/../sub/file",
            absolute.to_str().unwrap(),
        ] {
            let path = place.path(path);
            assert_eq!(path.display(), "sub/file");
            assert_eq!(path.absolute(), absolute);
            assert_eq!(path.read().unwrap().0, b"below");
        }
        assert_eq!(place.path(".").display(), ".");
        assert_eq!(place.path("sub/..").absolute(), place.workspace.root());
        assert_eq!(place.path("sub...").display(), "sub...", "dots are a name like others");
        assert_eq!(place.path("...").display(), "...");
    }

    #[test]
    fn the_users_spelling_of_the_workspace_is_understood() {
        let place = place();
        let alias = place.dir.path().join("alias");
        symlink(place.root(), &alias).unwrap();
        let workspace = Workspace::open(&alias).unwrap();
        let named = workspace.resolve(alias.join("sub/file").to_str().unwrap()).unwrap();
        assert_eq!(named.display(), "sub/file");
        assert_eq!(named.absolute(), workspace.root().join("sub/file"));
        assert!(workspace.resolve(alias.join("../out").to_str().unwrap()).is_err());
        // Under either spelling a read-only folder inside stays what it is.
        let workspace = workspace.with_dir(&place.root().join("sub"), false).unwrap();
        let named = workspace.resolve(alias.join("sub/file").to_str().unwrap()).unwrap();
        assert!(named.write(b"x").is_err());
    }

    #[test]
    fn links_that_lead_out_are_refused_whatever_is_done_with_them() {
        let place = place();
        let root = place.root();
        symlink(place.out(), root.join("folder")).unwrap();
        symlink("../out", root.join("relative")).unwrap();
        symlink(place.out().join("secret"), root.join("direct")).unwrap();
        symlink(place.out().join("new"), root.join("dangling")).unwrap();
        symlink("folder/secret", root.join("twice")).unwrap();
        symlink("/proc/self/root", root.join("magic")).unwrap();
        let paths = [
            "folder/secret",
            "folder/new",
            "folder/new/deeper",
            "relative/secret",
            "direct",
            "dangling",
            "twice",
            "magic/etc/passwd",
        ];
        for path in paths.map(|path| place.path(path)) {
            let name = path.display();
            for error in [
                path.open().unwrap_err(),
                path.open_file().unwrap_err(),
                path.open_folder().unwrap_err(),
                path.read().unwrap_err(),
                path.exists().unwrap_err(),
                path.write(b"overwritten").unwrap_err(),
            ] {
                let told = told(&path, &error);
                assert!(told.contains(" leads outside the workspace"), "{name}: {told}");
            }
            // To remove a link is to change the folder that holds it.
            assert_eq!(path.remove().is_ok(), !name.contains('/'), "{name}");
        }
        place.secret_is_safe();
    }

    #[test]
    fn links_that_stay_inside_work_and_survive_a_write() {
        let place = place();
        let root = place.root();
        symlink("sub", root.join("folder")).unwrap();
        symlink("folder/../file", root.join("up")).unwrap();
        symlink(root.join("sub/file"), root.join("absolute")).unwrap();
        for (link, target) in
            [("folder/file", "sub/file"), ("up", "file"), ("absolute", "sub/file")]
        {
            place.path(link).write(link.as_bytes()).unwrap();
            assert_eq!(place.path(target).read().unwrap().0, link.as_bytes());
            assert_eq!(place.path(link).read().unwrap(), place.path(target).read().unwrap());
        }
        for link in ["folder", "up", "absolute"] {
            assert!(root.join(link).is_symlink(), "{link}");
        }
        place.path("up").remove().unwrap();
        assert!(place.path("file").exists().unwrap(), "only the link is gone");
    }

    #[test]
    fn a_loop_and_a_link_to_nothing_say_so() {
        let place = place();
        symlink("loop", place.root().join("loop")).unwrap();
        symlink("nothing", place.root().join("dangling")).unwrap();
        let path = place.path("loop");
        let told_loop = told(&path, &path.read().unwrap_err());
        assert!(told_loop.contains("cannot be followed"), "{told_loop}");
        let path = place.path("dangling");
        assert!(!path.exists().unwrap());
        let told_nothing = told(&path, &path.write(b"x").unwrap_err());
        assert_eq!(told_nothing, "`dangling`: a link to something that does not exist");
    }

    #[test]
    fn what_was_changed_in_between_is_neither_overwritten_nor_removed() {
        let place = place();
        let path = place.path("file");
        let (_, seen) = path.read().unwrap();
        fs::write(place.root().join("file"), "theirs").unwrap();
        let new = place.path("new/file");
        fs::create_dir(place.root().join("new")).unwrap();
        fs::write(place.root().join("new/file"), "theirs").unwrap();
        for (path, result) in [
            (&path, path.write_if(Some(seen), b"ours").map(drop)),
            (&path, path.write_if(None, b"ours").map(drop)),
            (&path, path.remove_if(seen)),
            (&new, new.write_if(None, b"ours").map(drop)),
            (&new, new.write_if(Some(seen), b"ours").map(drop)),
        ] {
            let told = told(path, &result.unwrap_err());
            assert!(told.ends_with("was changed by somebody else in this moment; try again"));
            assert!(!told.starts_with("refused"), "{told}");
            assert_eq!(path.read().unwrap().0, b"theirs");
        }
        fs::remove_file(place.root().join("file")).unwrap();
        assert!(path.write_if(Some(seen), b"ours").is_err(), "it is gone");
        assert!(!path.exists().unwrap());
        path.write_if(None, b"ours").unwrap();
        let entries = fs::read_dir(place.root()).unwrap().count();
        assert_eq!(entries, 3, "no temporary file is left");
    }

    #[test]
    fn a_file_has_one_identity_whatever_links_lead_to_it() {
        let place = place();
        symlink("sub", place.root().join("folder")).unwrap();
        symlink("sub/file", place.root().join("link")).unwrap();
        symlink("gone", place.root().join("dangling")).unwrap();
        let identity = |path: &str| place.path(path).identity();
        for (name, real) in [
            ("link", "sub/file"),
            ("folder/file", "sub/file"),
            ("folder/new/deeper", "sub/new/deeper"),
            ("dangling", "dangling"),
            (".", "."),
        ] {
            assert_eq!(identity(name), place.path(real).absolute(), "{name}");
        }
        let versions = place.workspace.versions();
        let version = place.path("link").read().unwrap().1;
        versions.saw(&place.path("link"), version);
        assert_eq!(versions.last_seen(&place.path("folder/file")), Some(version));
        versions.forget(&place.path("sub/file"));
        assert_eq!(versions.last_seen(&place.path("link")), None);
    }

    #[test]
    fn a_file_keeps_its_owner_when_root_writes_it() {
        let place = place();
        let file = place.root().join("file");
        if std::os::unix::fs::chown(&file, Some(1234), Some(2345)).is_err() {
            // Only root can give files away, and only then is there something to see.
            return;
        }
        place.path("file").write(b"new").unwrap();
        let stat = fs::metadata(file).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (1234, 2345));
    }

    #[test]
    fn what_git_runs_is_not_written() {
        let place = place();
        fs::create_dir_all(place.root().join("sub/.git/hooks")).unwrap();
        fs::write(place.root().join("sub/.git/config"), "").unwrap();
        symlink("sub/.git", place.root().join("innocent")).unwrap();
        symlink("sub/.git/config", place.root().join("settings")).unwrap();
        for path in [
            "sub/.git/config",
            "sub/.git/hooks/pre-commit",
            "sub/.GIT/new",
            ".git",
            ".git/config",
            "innocent/hooks/pre-commit",
            "settings",
        ] {
            let path = place.path(path);
            let refused = told(&path, &path.write(b"x").unwrap_err());
            assert!(refused.contains("belongs to git"), "{refused}");
        }
        assert!(place.path("innocent/config").remove().is_err());
        assert!(!place.root().join(".git").exists());
        place.path(".gitignore").write(b"x").unwrap();
        assert_eq!(place.path("sub/.git/config").read().unwrap().0, b"");
    }

    #[test]
    fn a_hard_link_is_parted_by_a_write() {
        // A hard link cannot be told from the file itself. It can be read, but what stands outside
        // under another name is never changed.
        let place = place();
        fs::hard_link(place.out().join("secret"), place.root().join("hard")).unwrap();
        place.path("hard").write(b"mine").unwrap();
        place.secret_is_safe();
    }

    #[test]
    fn a_write_keeps_the_mode_and_makes_missing_folders() {
        let place = place();
        let script = place.root().join("file");
        for mode in [0o755, 0o600, 0o664] {
            fs::set_permissions(&script, fs::Permissions::from_mode(mode)).unwrap();
            let version = place.path("file").write(b"#!/bin/sh\n").unwrap();
            let stat = fs::metadata(&script).unwrap();
            assert_eq!(stat.mode() & 0o7777, mode);
            assert_eq!(version, Version::of(&stat));
        }
        place.path("a/b/c/new").write(b"deep").unwrap();
        assert_eq!(fs::read(place.root().join("a/b/c/new")).unwrap(), b"deep");
        let longest = "n".repeat(255);
        place.path(&longest).write(b"x").unwrap();
        assert!(place.path(&longest).exists().unwrap());
    }

    #[test]
    fn a_failed_write_leaves_nothing_behind() {
        let place = place();
        let names = || {
            let mut names: Vec<_> =
                fs::read_dir(place.root()).unwrap().map(|e| e.unwrap().file_name()).collect();
            names.sort();
            names
        };
        let before = names();
        let path = place.path("sub");
        assert_eq!(told(&path, &path.write(b"x").unwrap_err()), "`sub`: a folder, not a file");
        let path = place.path("file/below");
        let cannot = told(&path, &path.write(b"x").unwrap_err());
        assert!(cannot.ends_with("a part of it is a file, not a folder"), "{cannot}");
        let path = place.path(".");
        assert_eq!(told(&path, &path.write(b"x").unwrap_err()), "`.`: the workspace itself");
        assert!(place.path(&"n".repeat(256)).write(b"x").is_err());
        assert!(place.path("sub").remove().is_err(), "a folder is not removed");
        // The name is taken by a folder after the temporary file was written: only the rename fails.
        let file = place.path("file");
        fs::set_permissions(place.root().join("file"), fs::Permissions::from_mode(0o444)).unwrap();
        let protected = told(&file, &file.write(b"x").unwrap_err());
        assert_eq!(protected, "`file`: write-protected (mode 0444)");
        assert_eq!(names(), before);
    }

    #[test]
    fn a_rename_that_fails_takes_its_temporary_file_along() {
        let place = place();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            // Takes the name away between the look and the rename, again and again.
            scope.spawn(|| {
                let name = place.root().join("contested");
                while !stop.load(Ordering::Relaxed) {
                    let _ = fs::create_dir_all(name.join("full"));
                    let _ = fs::remove_dir_all(&name);
                }
            });
            let path = place.path("contested");
            for _ in 0..2000 {
                let _ = path.write(b"x");
                let _ = path.remove();
            }
        });
        let left = fs::read_dir(place.root()).unwrap().map(|e| e.unwrap().file_name());
        let left: Vec<_> = left.filter(|name| name.to_string_lossy().contains("vtcode")).collect();
        assert_eq!(left, Vec::<OsString>::new());
    }

    #[test]
    fn a_read_only_folder_refuses_writes_however_it_is_reached() {
        let place = place();
        fs::create_dir(place.root().join("sub/deep")).unwrap();
        symlink("sub", place.root().join("link")).unwrap();
        symlink("sub/file", place.root().join("direct")).unwrap();
        let Place { dir, workspace } = place;
        let workspace = workspace
            .with_dir(&dir.path().join("in/sub"), false)
            .and_then(|workspace| workspace.with_dir(&dir.path().join("out"), false))
            .unwrap();
        let out = workspace.resolve(dir.path().join("out/secret").to_str().unwrap()).unwrap();
        assert_eq!(out.read().unwrap().0, SECRET);
        assert_eq!(out.display(), out.absolute().display().to_string());
        let mut paths = vec![out];
        for path in
            ["sub/file", "sub/new", "sub/a/b", "sub/deep/new", "link/file", "link/new", "direct"]
        {
            paths.push(workspace.resolve(path).unwrap());
        }
        for path in paths {
            let refused = told(&path, &path.write(b"x").unwrap_err());
            assert!(refused.ends_with("may be read but not written"), "{refused}");
            if path.display() != "direct" {
                let refused = path.remove().unwrap_err();
                let gone = refused.kind() == io::ErrorKind::NotFound;
                assert!(gone || told(&path, &refused).ends_with("not written"), "{refused}");
            }
        }
        assert_eq!(fs::read(dir.path().join("in/sub/file")).unwrap(), b"below");
        assert!(!dir.path().join("in/sub/a").exists(), "no folder was made either");
        workspace.resolve("file").unwrap().write(b"but this one may").unwrap();
        assert_eq!(workspace.resolve("sub/file").unwrap().display(), "sub/file");
    }

    #[test]
    fn a_writable_folder_inside_a_read_only_one_may_be_written() {
        let place = place();
        let (dir, out) = (place.dir.path(), place.out());
        fs::create_dir(out.join("cache")).unwrap();
        let workspace = Workspace::open(&dir.join("in"))
            .and_then(|workspace| workspace.with_dir(&out, false))
            .and_then(|workspace| workspace.with_dir(&out.join("cache"), true))
            .unwrap();
        let path = |name: &str| workspace.resolve(out.join(name).to_str().unwrap()).unwrap();
        path("cache/new/file").write(b"x").unwrap();
        assert!(path("new").write(b"x").is_err());
    }

    #[test]
    fn what_is_no_file_is_refused_without_waiting() {
        let place = place();
        let pipe = place.root().join("pipe");
        rustix::fs::mkfifoat(rustix::fs::CWD, &pipe, Mode::from_raw_mode(0o600)).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(place.root().join("socket")).unwrap();
        let path = place.path("pipe");
        assert_eq!(told(&path, &path.read().unwrap_err()), "`pipe`: a pipe, not a file");
        assert_eq!(told(&path, &path.write(b"x").unwrap_err()), "`pipe`: a pipe, not a file");
        assert!(place.path("socket").read().is_err());
        assert_eq!(place.path("sub").read().unwrap_err().kind(), io::ErrorKind::IsADirectory);
        let huge = fs::File::create(place.root().join("huge")).unwrap();
        huge.set_len(1 << 40).unwrap();
        assert_eq!(place.path("huge").read().unwrap_err().kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn nothing_gets_out_while_folders_are_swapped_for_links() {
        let place = place();
        let root = place.root();
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _stop = Stop(&stop);
            fs::create_dir(root.join("swapped")).unwrap();
            fs::write(root.join("swapped/secret"), "inside").unwrap();
            symlink("../out", root.join("other")).unwrap();
            scope.spawn(|| {
                let (one, other) = (root.join("swapped"), root.join("other"));
                let (here, swap) = (rustix::fs::CWD, rustix::fs::RenameFlags::EXCHANGE);
                while !stop.load(Ordering::Relaxed) {
                    rustix::fs::renameat_with(here, &one, here, &other, swap).unwrap();
                }
            });
            let path = place.path("swapped/secret");
            let (mut read, mut refused) = (0, 0);
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(60);
            for round in 0.. {
                match path.read() {
                    Ok((content, _)) => {
                        assert_ne!(content, SECRET);
                        read += 1;
                    }
                    Err(error) => {
                        refused += u32::from(error.kind() == io::ErrorKind::PermissionDenied);
                    }
                }
                let _ = path.write(b"written");
                let _ = place.path("swapped/new").write(b"new");
                let _ = path.remove();
                let _ = path.write(b"written");
                if let Ok(folder) = place.path("swapped").open_folder() {
                    let file = folder.open_file(OsStr::new("secret"));
                    let mut content = Vec::new();
                    if let Ok((mut file, _)) = file {
                        file.read_to_end(&mut content).unwrap();
                    }
                    assert_ne!(content, SECRET);
                }
                // Long enough to have met both sides of the swap.
                if round > 2000 && read > 20 && refused > 20 {
                    break;
                }
                assert!(std::time::Instant::now() < deadline, "{read} read, {refused} refused");
            }
        });
        place.secret_is_safe();
    }

    #[test]
    fn the_walk_without_the_kernels_help_holds_the_same_walls() {
        let place = place();
        let root = place.root();
        symlink("../out", root.join("folder")).unwrap();
        symlink("sub", root.join("inside")).unwrap();
        symlink("file", root.join("link")).unwrap();
        let dir = &place.workspace.roots[0].dir;
        let read = OFlags::RDONLY | OFlags::CLOEXEC;
        for flags in [read, LOCATE | OFlags::CLOEXEC] {
            let walk = |path: &str| beneath::walk(dir.as_fd(), Path::new(path), flags);
            for path in ["", ".", "file", "sub", "sub/file"] {
                assert!(walk(path).is_ok(), "{path}");
            }
            for path in ["folder", "folder/secret", "inside", "inside/file", "link"] {
                let error = walk(path).unwrap_err();
                assert!(is(&error, Errno::LOOP), "{path}: {error}");
            }
            for path in ["..", "sub/../..", "/etc/passwd"] {
                let error = walk(path).unwrap_err();
                assert!(is(&error, Errno::XDEV), "{path}: {error}");
            }
            assert!(is(&walk("gone").unwrap_err(), Errno::NOENT));
            assert!(is(&walk("file/below").unwrap_err(), Errno::NOTDIR));
        }
        let mut found = String::new();
        let file = beneath::walk(dir.as_fd(), Path::new("sub/file"), read).unwrap();
        File::from(file).read_to_string(&mut found).unwrap();
        assert_eq!(found, "below");
    }

    #[test]
    fn a_folder_tells_its_entries_and_follows_none() {
        let place = place();
        symlink("../out", place.root().join("link")).unwrap();
        let folder = place.path(".").open_folder().unwrap();
        let mut entries: Vec<_> = folder.entries().unwrap().map(Result::unwrap).collect();
        entries.sort();
        let kinds = [
            ("file".into(), EntryKind::File),
            ("link".into(), EntryKind::Link),
            ("sub".into(), EntryKind::Folder),
        ];
        assert_eq!(entries, kinds);
        assert_eq!(folder.link_target(OsStr::new("link")).unwrap(), "../out");
        assert!(folder.open_folder(OsStr::new("link")).is_err());
        assert!(folder.open_file(OsStr::new("link")).is_err());
        assert!(folder.open_file(OsStr::new("sub")).is_err());
        assert!(
            folder.open_folder(OsStr::new("sub")).unwrap().open_file(OsStr::new("file")).is_ok()
        );
    }

    #[test]
    fn a_workspace_that_is_not_there_says_so() {
        let place = place();
        for path in [place.root().join("gone"), place.root().join("file")] {
            let error = Workspace::open(&path).unwrap_err();
            assert!(matches!(error, WorkspaceError::Root { .. }), "{error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_opens_anything_outside(
            parts in prop::collection::vec(
                prop::sample::select(vec![
                    "..", ".", "", "sub", "file", "out", "secret", "in", "swap", "back", "~", "...",
                    "ROOT", "/", "proc", "self", "root", "cwd", "\0", "é", " ",
                ]),
                0..8,
            ),
            absolute: bool,
            random in ".{0,12}",
        ) {
            let place = place();
            symlink("../out", place.root().join("swap")).unwrap();
            symlink("..", place.root().join("sub/back")).unwrap();
            let root = place.workspace.root().to_str().unwrap().to_owned();
            let mut text = parts.join("/").replace("ROOT", &root);
            if absolute {
                text.insert(0, '/');
            }
            for text in [text.clone(), format!("{text}{random}"), format!("{root}/{text}"), random] {
                let Ok(path) = place.workspace.resolve(&text) else { continue };
                prop_assert!(path.absolute().starts_with(place.workspace.root()));
                if let Ok((content, _)) = path.read() {
                    prop_assert_ne!(content, SECRET);
                }
                if let Ok(folder) = path.open_folder() {
                    // A name like it may have been made inside.
                    let mut found = Vec::new();
                    if let Ok((mut file, _)) = folder.open_file(OsStr::new("secret")) {
                        file.read_to_end(&mut found).unwrap();
                    }
                    prop_assert_ne!(found, SECRET, "{:?}", text);
                }
                let _ = path.write(b"x");
                let _ = path.remove();
                place.secret_is_safe();
            }
        }
    }
}
