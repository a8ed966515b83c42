//! What the sessions take of the disk: the folder comes in, bytes and counts go out.
//! Never opens a file, and makes nothing.

use std::io;
use std::path::{Path, PathBuf};

/// What all sessions together use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DiskUsage {
    /// Where they lie, whether it is there or not.
    pub path: PathBuf,
    /// How many there are.
    pub sessions: usize,
    /// The bytes of their files.
    pub bytes: u64,
    /// The bytes that may still be written there, if the system tells.
    pub free_bytes: Option<u64>,
}

pub(super) fn of(dir: &Path, sessions: usize) -> io::Result<DiskUsage> {
    let mut bytes = 0;
    let mut open = vec![dir.to_owned()];
    while let Some(folder) = open.pop() {
        let entries = match std::fs::read_dir(&folder) {
            // Another process may delete a session meanwhile.
            Err(e) if e.kind() == io::ErrorKind::NotFound => continue,
            other => other?,
        };
        for entry in entries {
            let entry = entry?;
            match entry.metadata() {
                Ok(stat) if stat.is_dir() => open.push(entry.path()),
                Ok(stat) => bytes += stat.len(),
                Err(_) => {}
            }
        }
    }
    let there = dir.ancestors().find(|dir| dir.is_dir());
    let free = there.and_then(|dir| rustix::fs::statvfs(dir).ok());
    let free_bytes = free.map(|free| free.f_bavail.saturating_mul(free.f_frsize));
    Ok(DiskUsage { path: dir.to_owned(), sessions, bytes, free_bytes })
}
