//! What git holds already: a folder comes in, which of its files are as git's index knows them and
//! the content of such a file go out.
//! Reads the index itself: to ask git which files changed runs filters that the repository names,
//! and those a command may have written a moment ago. Git is only asked for contents, which runs
//! nothing. Never changes anything of a repository.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use rustix::fs::OFlags;

/// The largest index that is read.
const INDEX_BYTES: u64 = 64 << 20;

/// The largest content that is asked for.
const CONTENT_BYTES: u64 = 64 << 20;

/// Variables that would point git at another repository.
const POINTERS: [&str; 8] = [
    "GIT_DIR",
    "GIT_WORK_TREE",
    "GIT_INDEX_FILE",
    "GIT_COMMON_DIR",
    "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES",
    "GIT_NAMESPACE",
    "GIT_CONFIG_PARAMETERS",
];

/// The index of a repository.
#[derive(Debug)]
pub(super) struct Index {
    worktree: PathBuf,
    git_dir: PathBuf,
    /// Below the worktree.
    entries: HashMap<PathBuf, Entry>,
    written: (i64, i64),
}

/// What the index knows of a file.
#[derive(Debug, PartialEq, Eq)]
struct Entry {
    changed: (u32, u32),
    modified: (u32, u32),
    inode: u32,
    mode: u32,
    bytes: u32,
    id: String,
}

impl Index {
    /// Reads the index of the repository that holds a folder; none where there is none that can
    /// be read, or where contents are not what lies in the folder.
    pub(super) fn of(folder: &Path) -> Option<Self> {
        let worktree = folder.ancestors().find(|dir| dir.join(".git").exists())?;
        let dot_git = worktree.join(".git");
        let git_dir = if dot_git.is_dir() {
            dot_git
        } else {
            let text = small(&dot_git)?;
            worktree.join(text.trim().strip_prefix("gitdir: ")?)
        };
        let (file, stat) = regular(&git_dir.join("index"))?;
        if stat.len() > INDEX_BYTES {
            return None;
        }
        let mut bytes = Vec::new();
        file.take(INDEX_BYTES).read_to_end(&mut bytes).ok()?;
        let config = small(&git_dir.join("config")).unwrap_or_default();
        let id_bytes = if config.contains("sha256") { 32 } else { 20 };
        Some(Self {
            worktree: worktree.to_owned(),
            git_dir,
            entries: parse(&bytes, id_bytes)?,
            written: (stat.mtime(), stat.mtime_nsec()),
        })
    }

    /// Returns the id of a file's content if the file is what the index knows.
    pub(super) fn holds(&self, path: &Path, stat: &Metadata) -> Option<String> {
        let entry = self.entries.get(path.strip_prefix(&self.worktree).ok()?)?;
        let executable = if stat.mode() & 0o100 != 0 { 0o100_755 } else { 0o100_644 };
        let now = Entry {
            changed: (low(stat.ctime()), low(stat.ctime_nsec())),
            modified: (low(stat.mtime()), low(stat.mtime_nsec())),
            inode: stat.ino() as u32,
            mode: executable,
            bytes: stat.len() as u32,
            id: entry.id.clone(),
        };
        // What was written in the moment in which the index was may have changed after it.
        let settled = (stat.mtime(), stat.mtime_nsec()) < self.written;
        (now == *entry && settled && stat.is_file() && stat.len() <= CONTENT_BYTES)
            .then_some(now.id)
    }

    /// Starts to ask for contents.
    pub(super) fn contents(&self) -> io::Result<Contents> {
        let mut git = Command::new("git");
        git.arg("--git-dir").arg(&self.git_dir);
        // It reads for its user, whoever the folder belongs to; and never from the network.
        git.args(["-c", "safe.directory=*", "-c", "protocol.allow=never", "--no-optional-locks"]);
        // Not below the repository: a relative entry of `PATH` would find its programs there.
        git.args(["cat-file", "--batch"]).current_dir("/");
        for name in POINTERS {
            git.env_remove(name);
        }
        // A git that does not know the first still allows no transport, whatever the repository's
        // own configuration allows; and a content is the one that its id says.
        git.env("GIT_NO_LAZY_FETCH", "1").env("GIT_ALLOW_PROTOCOL", "none");
        git.env("GIT_NO_REPLACE_OBJECTS", "1");
        git.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = git.spawn()?;
        let (stdin, stdout) = (child.stdin.take(), child.stdout.take());
        let broken = || io::Error::other("git has no pipes");
        let stdin = stdin.ok_or_else(broken)?;
        let stdout = BufReader::new(stdout.ok_or_else(broken)?);
        Ok(Contents { child, stdin, stdout })
    }
}

/// A git that is asked for contents. Dropping it ends it.
#[derive(Debug)]
pub(super) struct Contents {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Contents {
    /// Returns the content of this id.
    pub(super) fn get(&mut self, id: &str) -> io::Result<Vec<u8>> {
        writeln!(self.stdin, "{id}")?;
        let mut head = String::new();
        self.stdout.by_ref().take(1024).read_line(&mut head)?;
        let mut words = head.split_whitespace().skip(1);
        let gone = || io::Error::new(io::ErrorKind::NotFound, "git does not hold it any more");
        if words.next() != Some("blob") {
            return Err(gone());
        }
        let bytes: u64 = words.next().and_then(|word| word.parse().ok()).ok_or_else(gone)?;
        if bytes > CONTENT_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        // A line feed follows it.
        let mut content = vec![0; bytes as usize + 1];
        self.stdout.read_exact(&mut content)?;
        content.pop();
        Ok(content)
    }
}

impl Drop for Contents {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the lowest 32 bits, which are all that an index has of a time.
fn low(number: i64) -> u32 {
    number.cast_unsigned() as u32
}

/// Opens a regular file. A pipe of that name, which nobody writes to, is not waited for.
fn regular(path: &Path) -> Option<(File, Metadata)> {
    let nonblocking = OFlags::NONBLOCK.bits().cast_signed();
    let file = OpenOptions::new().read(true).custom_flags(nonblocking).open(path).ok()?;
    let stat = file.metadata().ok().filter(Metadata::is_file)?;
    Some((file, stat))
}

/// Returns the beginning of a regular file as text.
pub(super) fn small(path: &Path) -> Option<String> {
    let (file, _) = regular(path)?;
    let mut text = Vec::new();
    file.take(64 * 1024).read_to_end(&mut text).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

/// Reads an index of version 2, 3 or 4. What is in a further file (a split index) is not known,
/// and so counts as not held.
fn parse(bytes: &[u8], id_bytes: usize) -> Option<HashMap<PathBuf, Entry>> {
    let word = |at: usize| -> Option<u32> {
        Some(u32::from_be_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
    };
    let version =
        word(4).filter(|version| bytes.starts_with(b"DIRC") && (2..=4).contains(version))?;
    let mut entries = HashMap::new();
    let mut at = 12;
    let mut name: Vec<u8> = Vec::new();
    for _ in 0..word(8)? {
        let begin = at;
        let words: Vec<u32> = (0..10).map(|n| word(at + 4 * n)).collect::<Option<_>>()?;
        at += 40;
        let id = bytes.get(at..at + id_bytes)?.iter().fold(String::new(), |mut id, byte| {
            use std::fmt::Write as _;
            let _ = write!(id, "{byte:02x}");
            id
        });
        at += id_bytes;
        let flags = u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?);
        at += 2;
        if version >= 3 && flags & 0x4000 != 0 {
            at += 2;
        }
        if version == 4 {
            // So many bytes of the last name are dropped, then the rest follows.
            let mut drop = 0usize;
            loop {
                let byte = *bytes.get(at)?;
                at += 1;
                drop = (drop << 7) | usize::from(byte & 0x7f);
                if byte & 0x80 == 0 {
                    break;
                }
                drop = drop.checked_add(1)?;
            }
            name.truncate(name.len().checked_sub(drop)?);
        } else {
            name.clear();
        }
        let end = at + memchr::memchr(0, bytes.get(at..)?)?;
        name.extend_from_slice(&bytes[at..end]);
        at = if version == 4 { end + 1 } else { begin + (end - begin + 8) / 8 * 8 };
        // One in the middle of a merge has no content of its own.
        if flags & 0x3000 == 0 {
            let entry = Entry {
                changed: (words[0], words[1]),
                modified: (words[2], words[3]),
                inode: words[5],
                mode: words[6],
                bytes: words[9],
                id,
            };
            entries.insert(PathBuf::from(OsString::from_vec(name.clone())), entry);
        }
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, SystemTime};

    use super::*;

    fn git(folder: &Path, args: &[&str]) {
        let mut git = Command::new("git");
        git.current_dir(folder).env("GIT_CONFIG_GLOBAL", "/dev/null");
        let ran = git.args(args).output().unwrap();
        assert!(ran.status.success(), "{args:?}: {ran:?}");
    }

    #[test]
    fn what_git_holds_is_known_in_each_version_of_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let names = ["a", "deep/er/file.txt", "deep/er/file.txt.more", "exe"];
        let hour_ago = SystemTime::now() - Duration::from_secs(3600);
        std::fs::create_dir_all(root.join("deep/er")).unwrap();
        for name in names {
            let mut file = std::fs::File::create(root.join(name)).unwrap();
            writeln!(file, "content of {name}\0").unwrap();
            file.set_modified(hour_ago).unwrap();
        }
        git(&root, &["init", "-q"]);
        git(&root, &["add", "."]);
        for version in ["2", "4"] {
            git(&root, &["update-index", "--index-version", version]);
            let index = Index::of(&root.join("deep")).unwrap();
            let mut contents = index.contents().unwrap();
            for name in names {
                let path = root.join(name);
                let id = index.holds(&path, &path.metadata().unwrap());
                let id = id.unwrap_or_else(|| panic!("{name} is not held, version {version}"));
                assert_eq!(contents.get(&id).unwrap(), std::fs::read(&path).unwrap());
            }
            assert!(contents.get(&"0".repeat(40)).is_err());
            assert!(contents.get("HEAD:").is_err());
        }
        let index = Index::of(&root).unwrap();
        std::fs::write(root.join("a"), "content of A\0\n").unwrap();
        let stat = std::fs::metadata(root.join("a")).unwrap();
        assert_eq!(index.holds(&root.join("a"), &stat), None, "it changed, with the same length");
        assert_eq!(index.holds(&root.join("new"), &stat), None);
    }

    #[test]
    fn what_is_no_index_is_none() {
        for bytes in [&b""[..], b"DIRC", b"DIRC\0\0\0\x09\0\0\0\0", b"DIRC\0\0\0\x02\0\0\0\x05abc"]
        {
            assert!(parse(bytes, 20).is_none(), "{bytes:?}");
        }
        assert!(parse(b"DIRC\0\0\0\x02\0\0\0\0", 20).unwrap().is_empty());
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join(".git"), "gitdir: /nowhere\n").unwrap();
        assert!(Index::of(dir.path()).is_none());
    }

    #[test]
    fn a_pipe_in_the_place_of_gits_files_holds_nobody_up() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        let pipe = |path: &Path| {
            let mode = rustix::fs::Mode::RWXU;
            rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)
                .unwrap();
        };
        pipe(&root.join(".git"));
        assert!(Index::of(&root).is_none());
        std::fs::remove_file(root.join(".git")).unwrap();
        std::fs::create_dir(root.join(".git")).unwrap();
        pipe(&root.join(".git/index"));
        assert!(Index::of(&root).is_none());
        pipe(&root.join(".gitattributes"));
        assert_eq!(small(&root.join(".gitattributes")), None);
    }

    #[test]
    fn a_replaced_object_is_not_taken_for_the_content_that_the_index_names() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "-q"]);
        for (name, content) in [("a", "good"), ("b", "evil")] {
            std::fs::write(root.join(name), content).unwrap();
        }
        git(&root, &["add", "."]);
        let index = Index::of(&root).unwrap();
        let id = |name: &str| index.entries[Path::new(name)].id.clone();
        git(&root, &["replace", &id("a"), &id("b")]);
        assert_eq!(index.contents().unwrap().get(&id("a")).unwrap(), b"good");
    }

    #[test]
    fn a_content_that_is_missing_is_not_fetched_by_a_program_of_the_repository() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "-q"]);
        std::fs::write(root.join("a"), "a").unwrap();
        git(&root, &["add", "."]);
        let ran = root.join("ran");
        let url = format!("ext::touch {}", ran.display());
        for (key, value) in [
            ("core.repositoryformatversion", "1"),
            ("extensions.partialClone", "origin"),
            ("remote.origin.promisor", "true"),
            ("remote.origin.url", &*url),
            ("protocol.ext.allow", "always"),
        ] {
            git(&root, &["config", key, value]);
        }
        let index = Index::of(&root).unwrap();
        assert!(index.contents().unwrap().get(&"1".repeat(40)).is_err());
        assert!(!ran.exists());
    }
}
