//! Contents by their hash: an open file goes in, its hash comes out, and later the content again.
//! A content is in the store whole or not at all. Never holds more bytes than its quota.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Files up to this are held in memory while they are kept; larger ones pass through in pieces.
const PIECE_BYTES: usize = 1 << 20;

/// The contents of one session.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    quota_bytes: u64,
    /// None until it was counted.
    used_bytes: Option<u64>,
}

/// Why a content was not kept.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotKept {
    #[error("the {} MiB kept for undo are used up (`undo.max_mb`)", quota_bytes >> 20)]
    Full { quota_bytes: u64 },
    #[error("cannot read it: {0}")]
    Unreadable(#[source] io::Error),
    #[error("cannot write `{}`: {cause}", path.display())]
    Unwritable {
        path: PathBuf,
        #[source]
        cause: io::Error,
    },
}

/// The hash and length of a content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) hash: String,
    pub(super) bytes: u64,
}

impl Kept {
    /// Returns what keeping this content would give.
    pub(super) fn of(content: &[u8]) -> Self {
        let hash = blake3::hash(content).to_hex().to_string();
        Self { hash, bytes: content.len() as u64 }
    }
}

impl Store {
    /// Returns the store in a folder, which is made when the first content comes.
    pub(super) fn new(dir: PathBuf, quota_bytes: u64) -> Self {
        Self { dir, quota_bytes, used_bytes: None }
    }

    /// Hashes a content without keeping it.
    pub(super) fn hash(file: &mut File) -> io::Result<Kept> {
        let mut hasher = blake3::Hasher::new();
        let mut piece = Vec::new();
        let mut bytes = 0;
        while next(file, &mut piece)? > 0 {
            hasher.update(&piece);
            bytes += piece.len() as u64;
        }
        Ok(Kept { hash: hasher.finalize().to_hex().to_string(), bytes })
    }

    /// Keeps a content that is in memory.
    pub(super) fn keep_bytes(&mut self, content: &[u8]) -> Result<Kept, NotKept> {
        let kept = Kept::of(content);
        if !self.holds(&kept) {
            self.write(&kept.hash, kept.bytes, |file| file.write_all(content))?;
        }
        Ok(kept)
    }

    /// Keeps what is left to read of a file of about `bytes` bytes.
    ///
    /// It is copied, not linked: a command may write into the old file while a link holds it, and
    /// a link would carry the file's owner and mode into the session's folder. Not synced either:
    /// a dead process loses nothing, and what a dead machine tore is noticed by its hash.
    // bench: preimage/edit, 100 kB
    pub(super) fn keep(&mut self, file: &mut File, bytes: u64) -> Result<Kept, NotKept> {
        // What cannot fit is not read.
        self.check(bytes)?;
        let mut first = Vec::new();
        next(file, &mut first).map_err(NotKept::Unreadable)?;
        if first.len() < PIECE_BYTES {
            return self.keep_bytes(&first);
        }
        let (path, mut copy) = self.temporary()?;
        let unwritable = |cause| NotKept::Unwritable { path: path.clone(), cause };
        let copied = (|| {
            let mut hasher = blake3::Hasher::new();
            let mut bytes = 0;
            let mut piece = first;
            while !piece.is_empty() {
                bytes += piece.len() as u64;
                self.check(bytes)?;
                hasher.update(&piece);
                copy.write_all(&piece).map_err(unwritable)?;
                next(file, &mut piece).map_err(NotKept::Unreadable)?;
            }
            let kept = Kept { hash: hasher.finalize().to_hex().to_string(), bytes };
            if self.holds(&kept) {
                let _ = std::fs::remove_file(&path);
            } else {
                std::fs::rename(&path, self.path(&kept.hash)).map_err(unwritable)?;
                *self.used() += kept.bytes;
            }
            Ok(kept)
        })();
        if copied.is_err() {
            let _ = std::fs::remove_file(&path);
        }
        copied
    }

    /// Returns a content, if it is there and still the one that was kept.
    pub(super) fn content(&self, hash: &str) -> io::Result<Vec<u8>> {
        let content = std::fs::read(self.path(hash))?;
        if Kept::of(&content).hash != hash {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "what was kept is damaged"));
        }
        Ok(content)
    }

    /// Returns the bytes that are kept.
    pub(super) fn used_bytes(&mut self) -> u64 {
        *self.used()
    }

    /// Returns whether a content is there.
    pub(super) fn has(&self, hash: &str, bytes: u64) -> bool {
        self.holds(&Kept { hash: hash.to_owned(), bytes })
    }

    fn holds(&self, kept: &Kept) -> bool {
        // A content of another length was torn by a machine that died.
        let there = std::fs::symlink_metadata(self.path(&kept.hash));
        there.is_ok_and(|stat| stat.is_file() && stat.len() == kept.bytes)
    }

    fn check(&mut self, more: u64) -> Result<(), NotKept> {
        let quota_bytes = self.quota_bytes;
        if self.used().saturating_add(more) > quota_bytes {
            return Err(NotKept::Full { quota_bytes });
        }
        Ok(())
    }

    fn used(&mut self) -> &mut u64 {
        let dir = &self.dir;
        self.used_bytes.get_or_insert_with(|| {
            let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
            entries.filter_map(|entry| Some(entry.metadata().ok()?.len())).sum()
        })
    }

    fn write(
        &mut self,
        hash: &str,
        bytes: u64,
        fill: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), NotKept> {
        self.check(bytes)?;
        let (path, mut file) = self.temporary()?;
        let filled = fill(&mut file).and_then(|()| std::fs::rename(&path, self.path(hash)));
        if let Err(cause) = filled {
            let _ = std::fs::remove_file(&path);
            return Err(NotKept::Unwritable { path, cause });
        }
        *self.used() += bytes;
        Ok(())
    }

    fn temporary(&self) -> Result<(PathBuf, File), NotKept> {
        let path = self.dir.join(format!("{}.tmp", uuid::Uuid::now_v7().simple()));
        let open = || OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path);
        let opened = open().or_else(|e| {
            if e.kind() != io::ErrorKind::NotFound {
                return Err(e);
            }
            private_dir(&self.dir)?;
            open()
        });
        opened
            .map(|file| (path.clone(), file))
            .map_err(|cause| NotKept::Unwritable { path: path.clone(), cause })
    }

    fn path(&self, hash: &str) -> PathBuf {
        // A hash that was read from the log must not name another place.
        self.dir.join(hash.replace(|c: char| !c.is_ascii_alphanumeric(), "_"))
    }
}

/// Makes a folder and those above it that only its owner may open.
pub(super) fn private_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// Reads the next piece; empty at the end.
fn next(file: &mut File, piece: &mut Vec<u8>) -> io::Result<usize> {
    piece.clear();
    file.take(PIECE_BYTES as u64).read_to_end(piece)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> (File, u64) {
        let file = File::open(path).unwrap();
        let bytes = file.metadata().unwrap().len();
        (file, bytes)
    }

    #[test]
    fn a_content_is_kept_once_and_comes_back_whatever_its_size() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path().join("contents"), 64 << 20);
        let mut total = 0;
        for bytes in [0, 1, PIECE_BYTES - 1, PIECE_BYTES, 3 * PIECE_BYTES + 7] {
            let content: Vec<u8> = (0..bytes).map(|n| (n % 251) as u8).collect();
            std::fs::write(dir.path().join("file"), &content).unwrap();
            for _ in 0..2 {
                let (mut file, len) = open(&dir.path().join("file"));
                let kept = store.keep(&mut file, len).unwrap();
                assert_eq!(kept, Kept::of(&content));
                assert_eq!(store.content(&kept.hash).unwrap(), content);
                let (mut file, _) = open(&dir.path().join("file"));
                assert_eq!(Store::hash(&mut file).unwrap(), kept);
            }
            total += bytes as u64;
            assert_eq!(store.used_bytes(), total);
        }
        assert_eq!(Store::new(dir.path().join("contents"), 0).used_bytes(), total, "counted anew");
        assert_eq!(std::fs::read_dir(dir.path().join("contents")).unwrap().count(), 5);
    }

    #[test]
    fn what_does_not_fit_leaves_nothing_behind() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path().join("contents"), 100);
        std::fs::write(dir.path().join("file"), [1; 101]).unwrap();
        let (mut file, len) = open(&dir.path().join("file"));
        let refused = store.keep(&mut file, len);
        assert!(matches!(refused, Err(NotKept::Full { .. })), "{refused:?}");
        // It grew after it was looked at.
        let refused = store.keep(&mut file, 1);
        assert!(matches!(refused, Err(NotKept::Full { .. })), "{refused:?}");
        assert!(!dir.path().join("contents").exists());
        store.keep_bytes(&[2; 100]).unwrap();
        assert!(store.keep_bytes(&[3; 1]).is_err());
        store.keep_bytes(&[2; 100]).unwrap();
    }

    #[test]
    fn a_damaged_content_is_never_given() {
        let dir = tempfile::tempdir().unwrap();
        let mut store = Store::new(dir.path().to_owned(), 100);
        let kept = store.keep_bytes(b"content").unwrap();
        std::fs::write(dir.path().join(&kept.hash), b"c0ntent").unwrap();
        assert!(store.content(&kept.hash).is_err());
        std::fs::write(dir.path().join(&kept.hash), b"torn").unwrap();
        store.keep_bytes(b"content").unwrap();
        assert_eq!(store.content(&kept.hash).unwrap(), b"content", "a torn one is kept again");
        assert!(store.content("../secret").is_err());
    }
}
