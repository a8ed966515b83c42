//! What undo does to a path, under the same walls as every tool: a state comes in and is there.
//! Unlike a tool it may touch what is write-protected, because it was so before, and it puts a link
//! back as a link. Never follows one.

use std::io;
use std::path::Path;

use rustix::fs::{AtFlags, Mode, OFlags};

use super::{State, WorkspacePath, find, look, told};
use crate::safety::preimage::Found;
use crate::tools::witness::Version;

impl WorkspacePath {
    /// Finds what is at this path, not following a link that is there.
    pub(in crate::safety) fn found(&self) -> io::Result<Found> {
        match self.parent(false) {
            Ok((parent, name)) => Ok(find(&parent, &name)),
            Err(e)
                if [io::ErrorKind::NotFound, io::ErrorKind::NotADirectory].contains(&e.kind()) =>
            {
                Ok(Found::Absent)
            }
            Err(e) => Err(e),
        }
    }

    /// Removes a file or a link, also a write-protected one.
    pub(in crate::safety) fn take_away(&self) -> io::Result<()> {
        let (parent, name) = self.parent(false)?;
        self.check_writable(&parent)?;
        self.announced(&parent, &name, State::Absent, || {
            Ok(rustix::fs::unlinkat(&parent, &name, AtFlags::empty())?)
        })
    }

    /// Makes a folder, and those above it.
    pub(in crate::safety) fn make_folder(&self) -> io::Result<()> {
        let (parent, name) = self.parent(true)?;
        self.check_writable(&parent)?;
        self.announced(&parent, &name, super::NEW_FOLDER, || {
            Ok(rustix::fs::mkdirat(&parent, &name, Mode::from_raw_mode(0o777))?)
        })
    }

    /// Writes a file over whatever file is there, with these permissions.
    pub(in crate::safety) fn put_file(&self, content: &[u8], mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(true)?;
        let expected = look(&parent, &name)?.map(|stat| Version::of_stat(&stat));
        self.replace(expected, content, Some(mode), true).map(drop)
    }

    /// Makes a link in place of whatever file or link is there.
    pub(in crate::safety) fn put_link(&self, target: &Path) -> io::Result<()> {
        let (parent, name) = self.parent(true)?;
        self.check_writable(&parent)?;
        let temporary = self.aside();
        rustix::fs::symlinkat(target, &parent, &temporary)?;
        let put = self.announced(&parent, &name, State::Link { target: target.to_owned() }, || {
            Ok(rustix::fs::renameat(&parent, &temporary, &parent, &name)?)
        });
        if put.is_err() {
            let _ = rustix::fs::unlinkat(&parent, &temporary, AtFlags::empty());
        }
        put
    }

    /// Gives a file or folder these permissions.
    pub(in crate::safety) fn set_mode(&self, mode: u32) -> io::Result<()> {
        let (parent, name) = self.parent(false)?;
        self.check_writable(&parent)?;
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&parent, &name, flags, Mode::empty())?;
        let now = rustix::fs::fstat(&file)?.st_mode & 0o777;
        if now == mode {
            return Ok(());
        }
        let change = || Ok(rustix::fs::fchmod(&file, Mode::from_raw_mode(mode))?);
        let Some(preimages) = &self.roots.preimages else { return change() };
        let announced = preimages.announce_mode(self.key(&name), find(&parent, &name), mode);
        told(preimages, &announced, change)
    }
}
