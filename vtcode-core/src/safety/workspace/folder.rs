//! A folder that was proven to lie inside: its entries and what is opened by their names come
//! out. Never follows a link, so a tree walked through it cannot lead anywhere else.

use std::ffi::{CStr, OsStr, OsString};
use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};

use super::regular;
use crate::tools::witness::Version;

/// An open folder inside the workspace.
#[derive(Debug)]
pub struct Folder {
    dir: OwnedFd,
}

/// What an entry of a folder is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A folder.
    Folder,
    /// A symbolic link, whatever it points to.
    Link,
    /// A pipe, socket or device.
    Other,
}

impl Folder {
    pub(super) fn new(dir: OwnedFd) -> Self {
        Self { dir }
    }

    /// Returns its descriptor, for whoever grants what lies below it.
    pub(in crate::safety) fn into_fd(self) -> OwnedFd {
        self.dir
    }

    /// Returns the entries in the order the system keeps them, without `.` and `..`. Fails when the
    /// folder cannot be read, at once or at any entry.
    pub fn entries(&self) -> io::Result<impl Iterator<Item = io::Result<(OsString, EntryKind)>>> {
        let entries = rustix::fs::Dir::read_from(&self.dir)?;
        Ok(entries.filter_map(move |entry| {
            let entry = match entry {
                Ok(entry) => entry,
                Err(error) => return Some(Err(error.into())),
            };
            let name = entry.file_name();
            if name == c"." || name == c".." {
                return None;
            }
            let kind = match entry.file_type() {
                FileType::Unknown => self.kind(name),
                known => kind_of(known),
            };
            Some(Ok((OsString::from_vec(name.to_bytes().to_vec()), kind)))
        }))
    }

    /// Returns the folder's own version, which changes with the set of its names. Fails when the
    /// system cannot tell it.
    pub fn version(&self) -> io::Result<Version> {
        Ok(Version::of_stat(&rustix::fs::fstat(&self.dir)?))
    }

    /// Opens a regular file for reading. Fails when the entry is none, a link to one included, or
    /// may not be read. Where assertions are on, panics on a name that holds a `/`.
    pub fn open_file(&self, name: &OsStr) -> io::Result<(File, Metadata)> {
        regular(self.open(name, OFlags::NONBLOCK | OFlags::NOCTTY)?)
    }

    /// Opens a folder. Fails when the entry is none, a link to one included, or may not be read.
    /// Where assertions are on, panics on a name that holds a `/`.
    pub fn open_folder(&self, name: &OsStr) -> io::Result<Self> {
        self.open(name, OFlags::DIRECTORY).map(Self::new)
    }

    /// Returns the text of a link. Fails when the entry is none.
    pub fn link_target(&self, name: &OsStr) -> io::Result<OsString> {
        let target = rustix::fs::readlinkat(&self.dir, name, Vec::new())?;
        Ok(OsString::from_vec(target.into_bytes()))
    }

    fn open(&self, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
        debug_assert!(!name.as_bytes().contains(&b'/'), "an entry's name has one component");
        let flags = flags | OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(rustix::fs::openat(self.dir.as_fd(), name, flags, Mode::empty())?)
    }

    /// Asks for what the file system did not tell with the name.
    fn kind(&self, name: &CStr) -> EntryKind {
        rustix::fs::statat(&self.dir, name, AtFlags::SYMLINK_NOFOLLOW)
            .map_or(EntryKind::Other, |stat| kind_of(FileType::from_raw_mode(stat.st_mode)))
    }
}

fn kind_of(kind: FileType) -> EntryKind {
    match kind {
        FileType::RegularFile => EntryKind::File,
        FileType::Directory => EntryKind::Folder,
        FileType::Symlink => EntryKind::Link,
        _ => EntryKind::Other,
    }
}
