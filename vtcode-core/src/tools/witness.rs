//! What a result was read from: the state of each file and folder, as it was then. A result that is
//! kept is served again only while every one of its witnesses still tells the same.
//! Never reads a file's content.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

/// What tells one state of a file from another without reading it.
// One type for all numbers, because the system's differ from call to call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Version {
    device: i64,
    inode: i64,
    size_bytes: i64,
    modified_ns: i64,
    changed_ns: i64,
    mode: u32,
}

impl Version {
    /// Returns the version that a file's metadata shows.
    pub fn of(stat: &Metadata) -> Self {
        Self {
            device: bits(stat.dev()),
            inode: bits(stat.ino()),
            size_bytes: bits(stat.size()),
            modified_ns: nanos(stat.mtime(), stat.mtime_nsec()),
            changed_ns: nanos(stat.ctime(), stat.ctime_nsec()),
            mode: stat.mode(),
        }
    }

    /// Returns the version that a look at a name shows.
    pub fn of_stat(stat: &Stat) -> Self {
        Self {
            device: bits(stat.st_dev),
            inode: bits(stat.st_ino),
            size_bytes: bits(stat.st_size),
            modified_ns: nanos(stat.st_mtime, stat.st_mtime_nsec),
            changed_ns: nanos(stat.st_ctime, stat.st_ctime_nsec),
            mode: stat.st_mode,
        }
    }

    /// Returns the permissions, without what would make the file run as somebody else: the lowest
    /// nine bits of the mode.
    pub fn permissions(&self) -> u32 {
        self.mode & 0o777
    }
}

/// Returns the lowest 64 bits, of which no number of the system has more.
fn bits(number: impl Into<i128>) -> i64 {
    number.into() as i64
}

/// Returns a time since 1970. Times after the year 2262 are all the same, and later than all others.
fn nanos(seconds: impl Into<i128>, nanos: impl Into<i128>) -> i64 {
    i64::try_from(seconds.into() * 1_000_000_000 + nanos.into()).unwrap_or(i64::MAX)
}

/// Everything that a result depends on, at most 20,000 files and folders: a result that depends on
/// more is read anew, since to look at all of it costs as much. Paths are absolute. A clone shares
/// what was seen.
#[derive(Debug, Clone, PartialEq)]
pub struct Evidence {
    /// When the first of it was looked at.
    taken_at: SystemTime,
    seen: Arc<Vec<Witness>>,
    given_up: bool,
}

/// One file or folder; a folder's version changes with the set of its names.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Witness {
    /// Absolute, as it was reached; a link on the way that is swapped shows another version.
    path: Box<Path>,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Absent,
    /// Only that it is there counts.
    Present,
    At(Version),
}

/// File systems tell times in ticks of some milliseconds: a file that changed within the tick in
/// which it was read may change again and look the same.
const TICK: Duration = Duration::from_millis(20);

/// A result that depends on more is read anew: to look at all of it costs as much.
const WITNESSES: usize = 20_000;

impl Evidence {
    /// Begins to take evidence; call it before the first look at a file. What changes from here on
    /// is noticed in whichever order it is looked at, read and added.
    pub fn begin() -> Self {
        Self { taken_at: SystemTime::now(), seen: Arc::default(), given_up: false }
    }

    /// Adds a file or folder in the version that was read, or its absence.
    pub fn add(&mut self, path: impl Into<PathBuf>, version: Option<Version>) {
        self.push(path.into(), version.map_or(State::Absent, State::At));
    }

    /// Adds that something is there, whatever it holds.
    pub fn add_presence(&mut self, path: impl Into<PathBuf>) {
        self.push(path.into(), State::Present);
    }

    /// Adds what its name shows of a file or folder; its absence, too. Gives up when it cannot be
    /// looked at for any other reason. Blocks.
    pub fn look(&mut self, path: impl Into<PathBuf>) {
        let path = path.into();
        match std::fs::metadata(&path) {
            Ok(stat) => self.add(path, Some(Version::of(&stat))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.add(path, None),
            Err(_) => self.give_up(),
        }
    }

    /// Adds what could not be opened, and gives up when that is not for its own state: when too
    /// many files are open, say. Blocks.
    pub fn add_unopened(&mut self, path: impl Into<PathBuf>, error: &io::Error) {
        use io::ErrorKind::{
            InvalidInput, IsADirectory, NotADirectory, NotFound, PermissionDenied,
        };
        let own = [NotFound, PermissionDenied, NotADirectory, IsADirectory, InvalidInput];
        if own.contains(&error.kind()) || Errno::from_io_error(error) == Some(Errno::LOOP) {
            self.look(path);
        } else {
            self.give_up();
        }
    }

    /// Records that the result depends on more than can be looked at again.
    pub fn give_up(&mut self) {
        self.given_up = true;
        self.seen = Arc::default();
    }

    /// Returns the evidence if it names everything that the result depends on.
    pub fn whole(self) -> Option<Self> {
        (!self.given_up).then_some(self)
    }

    fn push(&mut self, path: PathBuf, state: State) {
        if self.seen.len() == WITNESSES {
            self.give_up();
        }
        if !self.given_up {
            let path = path.into_boxed_path();
            Arc::make_mut(&mut self.seen).push(Witness { path, state });
        }
    }

    /// Returns how many bytes of memory it takes, about, if it shares none.
    pub fn bytes(&self) -> usize {
        let paths: usize = self.seen.iter().map(|witness| witness.path.as_os_str().len()).sum();
        paths + self.seen.len() * size_of::<Witness>()
    }

    /// Returns whether it can tell an old state from a new one: nothing in it changed so shortly
    /// before it was read that a further change could hide in the same tick of the clock. File
    /// systems tell times in ticks of some milliseconds; 20 ms are taken for one.
    pub fn can_tell(&self) -> bool {
        let since_epoch = self.taken_at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let settled = since_epoch.saturating_sub(TICK).as_nanos();
        let settled = i64::try_from(settled).unwrap_or(i64::MAX);
        !self.given_up
            && self.seen.iter().all(|witness| match witness.state {
                State::At(version) => version.changed_ns < settled,
                State::Absent | State::Present => true,
            })
    }

    /// Returns whether everything is still as it was; false when it was given up. Looks at each
    /// file and folder; blocks.
    pub fn still_holds(&self) -> bool {
        let same = |witness: &Witness| match std::fs::metadata(&witness.path) {
            Ok(stat) => match witness.state {
                State::At(version) => version == Version::of(&stat),
                State::Present => true,
                State::Absent => false,
            },
            Err(error) => witness.state == State::Absent && error.kind() == io::ErrorKind::NotFound,
        };
        !self.given_up && self.seen.iter().all(same)
    }

    /// Returns how many files and folders there are to look at; none when it was given up.
    pub fn len(&self) -> usize {
        self.seen.len()
    }

    /// Returns whether there is nothing to look at.
    pub fn is_empty(&self) -> bool {
        self.seen.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence_of(path: &std::path::Path) -> Evidence {
        let mut evidence = Evidence::begin();
        evidence.add(path, std::fs::metadata(path).ok().map(|stat| Version::of(&stat)));
        evidence
    }

    #[test]
    fn a_change_an_absence_and_a_swapped_link_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::write(at("file"), "one").unwrap();
        std::fs::create_dir(at("a")).unwrap();
        std::fs::create_dir(at("b")).unwrap();
        std::fs::write(at("a/f"), "same").unwrap();
        std::fs::write(at("b/f"), "same").unwrap();
        std::os::unix::fs::symlink("a", at("link")).unwrap();

        let (file, absent) = (evidence_of(&at("file")), evidence_of(&at("absent")));
        let (names, link) = (evidence_of(folder.path()), evidence_of(&at("link/f")));
        assert!(file.still_holds() && absent.still_holds() && names.still_holds());
        assert!(link.still_holds());

        std::fs::write(at("file"), "another").unwrap();
        assert!(!file.still_holds() && names.still_holds());
        std::fs::write(at("absent"), "").unwrap();
        assert!(!absent.still_holds() && !names.still_holds());
        std::fs::remove_file(at("link")).unwrap();
        std::os::unix::fs::symlink("b", at("link")).unwrap();
        assert!(!link.still_holds());
    }

    #[test]
    fn what_changed_a_moment_before_it_was_read_cannot_be_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        std::fs::write(&path, "").unwrap();
        let mut evidence = evidence_of(&path);
        assert!(!evidence.can_tell());
        evidence.taken_at += Duration::from_secs(1);
        assert!(evidence.can_tell());
        assert!(Evidence::begin().can_tell());
    }

    #[test]
    fn what_only_has_to_be_there_may_change() {
        let folder = tempfile::tempdir().unwrap();
        let git = folder.path().join(".git");
        std::fs::create_dir(&git).unwrap();
        let mut evidence = Evidence::begin();
        evidence.add_presence(&git);
        std::fs::write(git.join("index"), "").unwrap();
        assert!(evidence.still_holds());
        std::fs::remove_dir_all(&git).unwrap();
        assert!(!evidence.still_holds());
    }

    #[test]
    fn evidence_of_too_much_or_of_what_nobody_can_look_at_is_none() {
        let mut evidence = Evidence::begin();
        for n in 0..WITNESSES {
            evidence.add(format!("/absent/{n}"), None);
        }
        let shared = evidence.clone();
        assert!(shared.clone().whole().is_some_and(|evidence| evidence.still_holds()));
        evidence.add("/one/more", None);
        assert!(!evidence.still_holds() && !evidence.can_tell() && evidence.is_empty());
        assert_eq!(evidence.whole(), None);
        assert_eq!(shared.len(), WITNESSES, "a clone has its own end");

        let unopened = |errno: Errno| {
            let mut evidence = Evidence::begin();
            evidence.add_unopened("/absent", &errno.into());
            evidence.whole()
        };
        assert!(unopened(Errno::NOENT).is_some_and(|evidence| evidence.still_holds()));
        assert!(unopened(Errno::ACCESS).is_some());
        assert_eq!(unopened(Errno::MFILE), None, "it may open the next time");
    }
}
