//! Where the state of the limits lies: in a small file that all processes of the user share, or in
//! this process alone. A change goes in, the changed state stays. A crash cannot leave the file
//! locked (the system lets go of its lock) or torn (it has a checksum).

use std::fs::File;
use std::io;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::fs::{FlockOperation, OFlags, flock};
use rustix::io::Errno;

use super::State;

/// How long a lock is awaited that somebody holds. It is held for microseconds, unless its holder
/// is stopped in its middle.
const PATIENCE: Duration = Duration::from_millis(100);
const LOOK: Duration = Duration::from_millis(1);
const LOOKS: u32 = 100;

/// The words of a state, behind their checksum.
const WORDS: usize = State::WORDS;
const BYTES: usize = 8 * (WORDS + 1);

/// The state of one account's limits.
#[derive(Debug)]
pub(super) struct Record {
    shared: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    /// Open while it can be used.
    file: Option<File>,
    /// The state, as far as this process knows.
    own: State,
}

impl Record {
    /// Returns a record of this process alone.
    pub(super) fn private() -> Self {
        Self { shared: None, inner: Mutex::default() }
    }

    /// Returns a record in a file that is made when it is first needed.
    pub(super) fn shared(path: PathBuf) -> Self {
        Self { shared: Some(path), inner: Mutex::default() }
    }

    /// Changes the state. A file that cannot be used does not hold up anybody: the state goes on
    /// in this process alone, and the error says why.
    pub(super) async fn change<T>(
        &self,
        change: impl Fn(&mut State) -> T,
    ) -> (T, Result<(), io::Error>) {
        let until = tokio::time::Instant::now() + PATIENCE;
        loop {
            match self.try_change(&change) {
                Ok(value) => return (value, Ok(())),
                Err(error) if is_busy(&error) && tokio::time::Instant::now() < until => {
                    tokio::time::sleep(LOOK).await;
                }
                Err(error) => return (change(&mut self.inner().own), Err(error)),
            }
        }
    }

    /// Changes the state without a wait. Whoever holds it does so for microseconds; if it is not
    /// free after some looks, the change is known to this process alone.
    pub(super) fn change_now(&self, change: impl Fn(&mut State)) {
        for _ in 0..LOOKS {
            match self.try_change(&change) {
                Err(error) if is_busy(&error) => std::thread::yield_now(),
                Ok(()) => return,
                Err(_) => break,
            }
        }
        change(&mut self.inner().own);
    }

    fn try_change<T>(&self, change: impl Fn(&mut State) -> T) -> io::Result<T> {
        let mut inner = self.inner();
        let Some(path) = &self.shared else { return Ok(change(&mut inner.own)) };
        // A file that somebody removed is nobody's any more.
        if inner.file.as_ref().is_none_or(|file| file.metadata().is_ok_and(|m| m.nlink() == 0)) {
            inner.file = Some(open(path)?);
        }
        let Inner { file: Some(file), own } = &mut *inner else {
            return Err(io::Error::from(io::ErrorKind::NotFound));
        };
        flock(&*file, FlockOperation::NonBlockingLockExclusive)?;
        let changed = read(file).map(|state| {
            // One that nobody wrote yet, or that is torn, begins with what we know.
            *own = state.unwrap_or(*own);
            change(own)
        });
        let changed = changed.and_then(|value| write(file, own).map(|()| value));
        // Closing would do the same; the file stays open.
        let _ = flock(&*file, FlockOperation::Unlock);
        changed
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Any state is a valid one.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_busy(error: &io::Error) -> bool {
    error.raw_os_error() == Some(Errno::WOULDBLOCK.raw_os_error())
}

fn open(path: &Path) -> io::Result<File> {
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    }
    let file = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        // A pipe in its place would hold us up; a link would lead elsewhere.
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Returns the state in the file; none in a new or a torn one.
fn read(file: &File) -> io::Result<Option<State>> {
    let mut bytes = [0; BYTES];
    match file.read_exact_at(&mut bytes, 0) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let (sum, words) = bytes.split_at(8);
    if sum != checksum(words) {
        return Ok(None);
    }
    let mut state = [0; WORDS];
    for (word, bytes) in state.iter_mut().zip(words.chunks_exact(8)) {
        *word = u64::from_le_bytes(bytes.try_into().expect("a chunk of 8 bytes"));
    }
    Ok(Some(State::from_words(state)))
}

fn write(file: &File, state: &State) -> io::Result<()> {
    let mut bytes = [0; BYTES];
    for (word, bytes) in state.words().iter().zip(bytes[8..].chunks_exact_mut(8)) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    let sum = checksum(&bytes[8..]);
    bytes[..8].copy_from_slice(&sum);
    file.write_all_at(&bytes, 0)
}

/// Names the layout, too: another version's file is a torn one.
fn checksum(words: &[u8]) -> [u8; 8] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"vtcode rate 1").update(words);
    let hash = hasher.finalize();
    hash.as_bytes()[..8].try_into().expect("a hash has 32 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(state: &mut State) -> u64 {
        state.blocked_until += 1;
        state.blocked_until
    }

    #[tokio::test]
    async fn two_records_of_one_file_see_each_others_changes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("rate/a");
        let (one, two) = (Record::shared(path.clone()), Record::shared(path));
        for n in 0..10 {
            let (seen, result) = if n % 2 == 0 { &one } else { &two }.change(count).await;
            result.unwrap();
            assert_eq!(seen, n + 1);
        }
    }

    #[tokio::test]
    async fn many_threads_lose_no_change() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let record = Record::shared(path.clone());
            tasks.spawn_blocking(move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
                runtime.unwrap().block_on(async {
                    for _ in 0..200 {
                        record.change(count).await.1.unwrap();
                    }
                });
            });
        }
        while let Some(done) = tasks.join_next().await {
            done.unwrap();
        }
        assert_eq!(Record::shared(path).change(count).await.0, 8 * 200 + 1);
    }

    #[tokio::test]
    async fn a_torn_file_begins_anew_and_a_removed_one_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let one = Record::shared(path.clone());
        one.change(count).await.1.unwrap();
        std::fs::write(&path, [7; 30]).unwrap();
        // It knows itself how far it was.
        assert_eq!(one.change(count).await.0, 2);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(one.change(count).await.0, 3);
        assert_eq!(Record::shared(path).change(count).await.0, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_stopped_holds_up_nobody_for_long() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        let holder = open(&path).unwrap();
        flock(&holder, FlockOperation::LockExclusive).unwrap();
        let record = Record::shared(path);
        let (seen, result) = record.change(count).await;
        assert!(is_busy(&result.unwrap_err()));
        assert_eq!(seen, 1);
        drop(holder);
        let (seen, result) = record.change(count).await;
        result.unwrap();
        assert_eq!(seen, 2);
    }

    #[tokio::test]
    async fn what_is_no_file_is_an_error_and_the_state_goes_on_here() {
        let dir = tempfile::tempdir().unwrap();
        for (n, path) in [dir.path().to_owned(), "/dev/null/x".into()].into_iter().enumerate() {
            let record = Record::shared(path);
            for seen in 1..4 {
                let (value, result) = record.change(count).await;
                assert_eq!(value, seen, "{n}");
                result.unwrap_err();
            }
        }
    }
}
