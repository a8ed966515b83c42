//! Values on the disk, a file each: bounded by count and bytes, with a checksum, written whole, and
//! readable by the user alone. A file that is not what was written is removed and counts as none.
//! Several processes may use one folder; the oldest files go first.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use super::Key;
use crate::config::limits::DiskLimits;

/// How each file begins; another layout gets another number.
const MAGIC: &[u8; 16] = b"vtcode cache 01\n";

/// A file that was being written for so long never will be finished.
const ABANDONED: Duration = Duration::from_secs(3600);

/// One value may take this part of the room, so that it does not drive out all others.
const LARGEST_PART: u64 = 8;

/// A folder of values.
#[derive(Debug)]
pub struct DiskCache {
    folder: PathBuf,
    limits: DiskLimits,
    /// Files and bytes that are there, as far as this process knows; none before it looked.
    held: Mutex<Option<(usize, u64)>>,
}

/// What there is for a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing.
    Nothing,
    /// A value.
    Value(Vec<u8>),
    /// A file that is not what was written; it was removed.
    Spoilt,
}

impl DiskCache {
    /// Returns the cache in a folder, which is made when the first value is kept.
    pub fn new(folder: PathBuf, limits: DiskLimits) -> Self {
        Self { folder, limits, held: Mutex::default() }
    }

    /// Returns the value that is kept for a key. Fails when its file is there and cannot be read,
    /// or is spoilt and cannot be removed.
    pub fn get(&self, key: &Key) -> io::Result<Found> {
        if self.limits.is_zero() {
            return Ok(Found::Nothing);
        }
        let path = self.path(key);
        let mut bytes = Vec::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            Err(error) => return Err(error),
        };
        (&file).take(self.largest() + 1024).read_to_end(&mut bytes)?;
        let Some(value) = unsealed(key, &bytes) else {
            fs::remove_file(&path)?;
            return Ok(Found::Spoilt);
        };
        // What is used stays longest. It may fail where the folder cannot be written, and then
        // nothing is removed either.
        let _ = file.set_modified(SystemTime::now());
        Ok(Found::Value(value.to_vec()))
    }

    /// Keeps a value, and removes others until all fit. One that is larger than an eighth of the
    /// room is not kept. Fails when the folder cannot be made or looked through, or the value's
    /// file cannot be written.
    pub fn put(&self, key: &Key, value: &[u8]) -> io::Result<()> {
        if self.limits.is_zero() || value.len() as u64 > self.largest() {
            return Ok(());
        }
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        let path = self.path(key);
        let unfinished = path.with_extension(format!("{}.tmp", std::process::id()));
        let written = write(&unfinished, key, value).and_then(|()| fs::rename(&unfinished, &path));
        if let Err(error) = written {
            let _ = fs::remove_file(&unfinished);
            return Err(error);
        }
        self.make_room((MAGIC.len() + blake3::OUT_LEN + value.len()) as u64)
    }

    fn largest(&self) -> u64 {
        self.limits.bytes / LARGEST_PART
    }

    fn path(&self, key: &Key) -> PathBuf {
        self.folder.join(blake3::Hash::from_bytes(*key).to_hex().as_str())
    }

    /// Removes the oldest files when what is held has outgrown its room.
    fn make_room(&self, added: u64) -> io::Result<()> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((files, bytes)) = held.as_mut() {
            (*files, *bytes) = (*files + 1, *bytes + added);
            if *files <= self.limits.entries && *bytes <= self.limits.bytes {
                return Ok(());
            }
        }
        let mut found = list(&self.folder)?;
        found.sort_unstable();
        let mut files = found.len();
        let mut bytes: u64 = found.iter().map(|(_, size, _)| size).sum();
        if files > self.limits.entries || bytes > self.limits.bytes {
            // With some room to spare, so that the next ones need no look around.
            let (most_files, most_bytes) = (self.limits.entries * 7 / 8, self.limits.bytes * 7 / 8);
            for (_, size, path) in &found {
                if files <= most_files && bytes <= most_bytes {
                    break;
                }
                // Another process may have been quicker.
                let _ = fs::remove_file(path);
                (files, bytes) = (files - 1, bytes - size);
            }
        }
        *held = Some((files, bytes));
        Ok(())
    }
}

/// Returns time, size and path of each value's file; removes what was never finished.
fn list(folder: &Path) -> io::Result<Vec<(SystemTime, u64, PathBuf)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        // It may be gone by now.
        let Ok(data) = fs::symlink_metadata(&path) else { continue };
        let modified = data.modified().unwrap_or(SystemTime::UNIX_EPOCH);
        if path.extension() == Some(OsStr::new("tmp")) {
            if modified.elapsed().is_ok_and(|age| age > ABANDONED) {
                let _ = fs::remove_file(&path);
            }
        } else if data.is_file() {
            found.push((modified, data.len(), path));
        }
    }
    Ok(found)
}

fn write(path: &Path, key: &Key, value: &[u8]) -> io::Result<()> {
    let mut file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
    file.write_all(MAGIC)?;
    file.write_all(seal(key, value).as_bytes())?;
    file.write_all(value)
}

/// Returns what proves a file's content, and that it stands under its own name.
fn seal(key: &Key, value: &[u8]) -> blake3::Hash {
    blake3::Hasher::new_keyed(key).update(value).finalize()
}

fn unsealed<'a>(key: &Key, bytes: &'a [u8]) -> Option<&'a [u8]> {
    let (sealed_with, value) = bytes.strip_prefix(MAGIC)?.split_first_chunk::<32>()?;
    (seal(key, value) == *sealed_with).then_some(value)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;
    use crate::core::cache::key;

    const LIMITS: DiskLimits = DiskLimits { entries: 8, bytes: 80_000 };

    fn named(n: usize) -> Key {
        key([n.to_string().as_bytes()])
    }

    fn cache(limits: DiskLimits) -> (tempfile::TempDir, DiskCache) {
        let folder = tempfile::tempdir().unwrap();
        let cache = DiskCache::new(folder.path().join("values"), limits);
        (folder, cache)
    }

    fn files(cache: &DiskCache) -> Vec<PathBuf> {
        let entries = fs::read_dir(&cache.folder).into_iter().flatten();
        entries.map(|entry| entry.unwrap().path()).collect()
    }

    #[test]
    fn a_value_is_there_for_a_later_process_and_for_the_user_alone() {
        let (_folder, cache) = cache(LIMITS);
        assert_eq!(cache.get(&named(1)).unwrap(), Found::Nothing);
        cache.put(&named(1), b"one").unwrap();
        cache.put(&named(1), b"uno").unwrap();
        let later = DiskCache::new(cache.folder.clone(), LIMITS);
        assert_eq!(later.get(&named(1)).unwrap(), Found::Value(b"uno".to_vec()));
        assert_eq!(later.get(&named(2)).unwrap(), Found::Nothing);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&cache.folder), 0o700);
        assert_eq!(files(&cache).iter().map(|file| mode(file)).collect::<Vec<_>>(), [0o600]);
    }

    #[test]
    fn whatever_happened_to_a_file_no_other_value_comes_out_and_it_is_removed() {
        let (_folder, cache) = cache(LIMITS);
        let path = cache.path(&named(1));
        cache.put(&named(1), b"a value of some length").unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(cache.get(&named(1)).unwrap(), Found::Spoilt, "cut at {cut}");
            assert!(!path.exists());
            let mut flipped = whole.clone();
            flipped[cut] ^= 1;
            fs::write(&path, &flipped).unwrap();
            assert_eq!(cache.get(&named(1)).unwrap(), Found::Spoilt, "flipped at {cut}");
        }
        // A sound file under another's name.
        fs::write(cache.path(&named(2)), &whole).unwrap();
        assert_eq!(cache.get(&named(2)).unwrap(), Found::Spoilt);
    }

    #[test]
    fn count_and_bytes_are_bounded_and_what_was_used_last_stays() {
        let (_folder, cache) = cache(LIMITS);
        let at = |n: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        for n in 0..8 {
            cache.put(&named(n), b"x").unwrap();
            let file = File::options().write(true).open(cache.path(&named(n))).unwrap();
            file.set_modified(at(n as u64)).unwrap();
        }
        cache.get(&named(0)).unwrap();
        cache.put(&named(8), b"x").unwrap();
        assert_eq!(files(&cache).len(), 7);
        assert_eq!(cache.get(&named(0)).unwrap(), Found::Value(b"x".to_vec()));
        assert_eq!(cache.get(&named(1)).unwrap(), Found::Nothing);

        for n in 0..40 {
            cache.put(&named(100 + n), &[b'x'; 9_000]).unwrap();
            let held: u64 = files(&cache).iter().map(|path| path.metadata().unwrap().len()).sum();
            assert!(held <= LIMITS.bytes && files(&cache).len() <= LIMITS.entries, "{held}");
        }
        cache.put(&named(999), &vec![b'x'; 20_000]).unwrap();
        assert_eq!(cache.get(&named(999)).unwrap(), Found::Nothing, "larger than its part");
    }

    #[test]
    fn what_was_never_finished_goes_and_what_is_being_written_stays() {
        let (_folder, cache) = cache(LIMITS);
        fs::create_dir(&cache.folder).unwrap();
        let old = cache.folder.join("old.1.tmp");
        let file = File::create(&old).unwrap();
        file.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        let fresh = cache.folder.join("fresh.2.tmp");
        File::create(&fresh).unwrap();
        cache.put(&named(1), b"one").unwrap();
        assert!(!old.exists() && fresh.exists());
    }

    #[test]
    fn no_room_is_no_cache_and_a_folder_that_cannot_be_is_told() {
        let (folder, cache) = cache(DiskLimits { bytes: 0, ..LIMITS });
        cache.put(&named(1), b"").unwrap();
        assert_eq!(cache.get(&named(1)).unwrap(), Found::Nothing);
        assert!(!cache.folder.exists());
        let file = folder.path().join("file");
        File::create(&file).unwrap();
        let cache = DiskCache::new(file, LIMITS);
        assert!(cache.put(&named(1), b"one").is_err());
        assert!(cache.get(&named(1)).is_err());
    }
}
