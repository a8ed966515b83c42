//! The whole output of one command in a file: bytes come in, a path and how much it holds go out.
//! The file is ours alone to read. Never grows beyond its bound, and a disk that is full ends the
//! file, not the command.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The most that one file holds.
pub(super) const MAX_BYTES: u64 = 256 * 1024 * 1024;

/// Calls of one session whose ids look alike when reduced to what a file name may hold.
const NAMESAKES: usize = 1000;

#[derive(Debug)]
pub(super) struct Spool {
    path: PathBuf,
    file: File,
    written: u64,
    max: u64,
    /// Why it does not hold everything.
    stopped: Option<String>,
}

impl Spool {
    /// Makes the file for call `id` in `dir`, and `dir` if it is missing.
    pub(super) fn create(dir: &Path, id: &str, max: u64) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        // The model will name the path to `read_file`, which compares it with canonical roots.
        let dir = dir.canonicalize()?;
        let stem: String = id
            .chars()
            .take(64)
            .map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' })
            .collect();
        for namesake in 0..NAMESAKES {
            let path = dir.join(match namesake {
                0 => format!("{stem}.txt"),
                n => format!("{stem}.{n}.txt"),
            });
            match OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path) {
                Ok(file) => return Ok(Self { path, file, written: 0, max, stopped: None }),
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(e),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Appends, as far as the bound and the disk allow. Goes to the page cache, at the speed of
    /// memory; handing the bytes to another thread would cost more than that.
    pub(super) fn write(&mut self, bytes: &[u8]) {
        if self.stopped.is_some() || bytes.is_empty() {
            return;
        }
        let room = usize::try_from(self.max - self.written).unwrap_or(usize::MAX);
        let part = &bytes[..bytes.len().min(room)];
        match self.file.write_all(part) {
            Ok(()) => self.written += part.len() as u64,
            Err(e) => self.stopped = Some(e.to_string()),
        }
        if part.len() < bytes.len() && self.stopped.is_none() {
            self.stopped = Some(format!("more than {} bytes are not kept", self.max));
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns why it does not hold the whole output, if so.
    pub(super) fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Removes it: all of the output found another place.
    pub(super) fn discard(self) {
        // One file too many does no harm.
        let _ = std::fs::remove_file(self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn nobody_else_can_read_it_and_no_id_leads_out_of_the_folder() {
        let dir = tempfile::tempdir().unwrap();
        let spool_dir = dir.path().join("deep/spool");
        let spool = Spool::create(&spool_dir, "../../etc/p w\0d", MAX_BYTES).unwrap();
        assert_eq!(spool.path().parent().unwrap(), spool_dir.canonicalize().unwrap());
        assert_eq!(spool.path().file_name().unwrap(), "______etc_p_w_d.txt");
        let mode = |path: &Path| path.metadata().unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(spool.path()), 0o600);
        assert_eq!(mode(&spool_dir), 0o700);
    }

    #[test]
    fn namesakes_do_not_overwrite_each_other() {
        let dir = tempfile::tempdir().unwrap();
        let mut first = Spool::create(dir.path(), "a/b", MAX_BYTES).unwrap();
        first.write(b"first");
        let second = Spool::create(dir.path(), "a:b", MAX_BYTES).unwrap();
        assert_ne!(first.path(), second.path());
        assert_eq!(std::fs::read(first.path()).unwrap(), b"first");
    }

    #[test]
    fn it_stops_at_its_bound_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let mut spool = Spool::create(dir.path(), "c", 10).unwrap();
        spool.write(b"0123456789");
        assert_eq!(spool.stopped(), None);
        spool.write(b"x");
        spool.write(b"y");
        assert_eq!(spool.stopped(), Some("more than 10 bytes are not kept"));
        assert_eq!(std::fs::read(spool.path()).unwrap(), b"0123456789");
    }
}
