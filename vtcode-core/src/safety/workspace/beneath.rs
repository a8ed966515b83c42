//! Opens a name below an open folder, and never anything outside it: the kernel does it in one
//! step where it can, a walk from folder to folder does it elsewhere.
//! Says only that it refused; what that means to a model is said by the room.

use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

/// Flags that open a name only to point at it. Elsewhere than on Linux that means to read it.
#[cfg(target_os = "linux")]
pub(super) const LOCATE: OFlags = OFlags::PATH;
#[cfg(not(target_os = "linux"))]
pub(super) const LOCATE: OFlags = OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOCTTY);

/// How often an open is tried again that the kernel could not decide because something was
/// renamed under it.
#[cfg(target_os = "linux")]
const TRIES: u32 = 64;

/// Opens `rel` below `dir`. Links are followed as long as they stay below; one that leads out
/// gives `EXDEV`. Where the kernel has no such call every link gives `ELOOP`.
#[cfg(target_os = "linux")]
pub(super) fn open(dir: BorrowedFd<'_>, rel: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    use rustix::fs::ResolveFlags;
    let rel = if rel.as_os_str().is_empty() { Path::new(".") } else { rel };
    let flags = flags | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let mut last = Errno::AGAIN;
    for _ in 0..TRIES {
        match rustix::fs::openat2(dir, rel, flags, Mode::empty(), resolve) {
            Ok(found) => return Ok(found),
            Err(again @ (Errno::AGAIN | Errno::INTR)) => last = again,
            // Old container runtimes answer EPERM to calls they do not know.
            Err(Errno::NOSYS | Errno::PERM) => return walk(dir, rel, flags),
            Err(other) => return Err(other.into()),
        }
    }
    Err(last.into())
}

/// Opens `rel` below `dir`; every link gives `ELOOP`.
#[cfg(not(target_os = "linux"))]
pub(super) fn open(dir: BorrowedFd<'_>, rel: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    walk(dir, rel, flags | OFlags::CLOEXEC)
}

/// Opens `rel` one component at a time, each below the folder opened before, so that no name is
/// looked up twice. Refuses every link, because following one safely needs the kernel's help.
pub(super) fn walk(dir: BorrowedFd<'_>, rel: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let on_the_way = LOCATE | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut names = Vec::new();
    for component in rel.components() {
        match component {
            Component::Normal(name) => names.push(name),
            Component::CurDir => {}
            _ => return Err(Errno::XDEV.into()),
        }
    }
    let Some((last, folders)) = names.split_last() else {
        return Ok(rustix::fs::openat(dir, ".", flags, Mode::empty())?);
    };
    let mut here = None;
    for (name, flags) in folders.iter().map(|name| (name, on_the_way)).chain([(last, flags)]) {
        let above = here.as_ref().map_or(dir, std::os::fd::AsFd::as_fd);
        let found = rustix::fs::openat(above, *name, flags | OFlags::NOFOLLOW, Mode::empty());
        let next = match found {
            // To locate a link is no error to the kernel: it hands out the link itself.
            Ok(next) if FileType::from_raw_mode(rustix::fs::fstat(&next)?.st_mode).is_symlink() => {
                return Err(Errno::LOOP.into());
            }
            Ok(next) => next,
            // Which error a link gives differs by system and flags.
            Err(error) => {
                let is_link = rustix::fs::statat(above, *name, AtFlags::SYMLINK_NOFOLLOW)
                    .is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode).is_symlink());
                return Err(if is_link { Errno::LOOP } else { error }.into());
            }
        };
        here = Some(next);
    }
    Ok(here.expect("there is at least the last name"))
}
