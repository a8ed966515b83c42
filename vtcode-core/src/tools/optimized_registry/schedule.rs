//! Which calls may overlap: each waits for the earlier ones whose effects conflict with its own.
//! Two names of one file are one file: links are followed before two calls are said to be apart.

use std::cell::OnceCell;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::tools::tool::Effect;

/// The calls that wait or run, in the order submitted.
#[derive(Debug, Default)]
pub(in crate::tools) struct Schedule {
    entries: Mutex<Vec<Entry>>,
}

#[derive(Debug)]
struct Entry {
    number: u64,
    claim: Claim,
    /// For those that wait: cancelled when the call is over. Who waits for a token is woken in the
    /// order it came; the receivers of a `watch` channel are woken in any, and then two calls that
    /// waited for the same one would take their slots by chance.
    over: Option<CancellationToken>,
}

/// What a call touches, by the names it gave, and by where these lead.
#[derive(Debug)]
struct Claim {
    named: Effect,
    /// Looked at only when it decides something: a look costs a system call for each folder.
    led: OnceCell<Effect>,
}

/// A call's place in the schedule; dropping it lets the ones behind it go.
#[derive(Debug)]
pub(in crate::tools) struct Turn {
    schedule: Arc<Schedule>,
    number: u64,
    before: Vec<CancellationToken>,
}

impl Schedule {
    /// Enters a call behind all that were entered before.
    pub(in crate::tools) fn enter(self: &Arc<Self>, effect: Effect) -> Turn {
        let claim = Claim { named: effect, led: OnceCell::new() };
        let mut entries = self.lock();
        let before = entries
            .iter_mut()
            .filter(|entry| entry.claim.conflicts(&claim))
            .map(|entry| entry.over.get_or_insert_default().clone())
            .collect();
        let number = entries.last().map_or(0, |last| last.number + 1);
        entries.push(Entry { number, claim, over: None });
        drop(entries);
        Turn { schedule: Arc::clone(self), number, before }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        // The list is whole after any panic: each use makes one change.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    fn conflicts(&self, other: &Self) -> bool {
        if self.named.is_read_only() && other.named.is_read_only() {
            return false;
        }
        self.named.conflicts(&other.named) || self.led().conflicts(other.led())
    }

    fn led(&self) -> &Effect {
        self.led.get_or_init(|| {
            let led = |paths: &[PathBuf]| paths.iter().map(|path| leads_to(path)).collect();
            let Effect { reads, writes, opaque } = &self.named;
            Effect { reads: led(reads), writes: led(writes), opaque: *opaque }
        })
    }
}

/// The longest path that the system takes; what is longer is no file.
const PATH_BYTES: usize = 4096;
/// As many links as the system follows.
const LINKS: usize = 40;

/// Returns where a path leads: without links, whether or not there is something at its end.
fn leads_to(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    for _ in 0..LINKS {
        if path.as_os_str().len() > PATH_BYTES {
            return path;
        }
        if let Ok(real) = path.canonicalize() {
            return real;
        }
        // A link to nothing: who writes it makes what it names.
        let (Ok(target), Some(folder)) = (path.read_link(), path.parent()) else { break };
        path = folder.join(target);
    }
    match (path.parent(), path.file_name()) {
        (Some(folder), Some(name)) => leads_to(folder).join(name),
        _ => path,
    }
}

impl Turn {
    /// Waits until every earlier conflicting call is over.
    pub(in crate::tools) async fn ready(&self) {
        for before in &self.before {
            before.cancelled().await;
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut entries = self.schedule.lock();
        let at = entries.iter().position(|entry| entry.number == self.number);
        let over = at.and_then(|at| entries.remove(at).over);
        drop(entries);
        // Told last: who comes now need not look at this one any more.
        if let Some(over) = over {
            over.cancel();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use futures_util::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn those_that_wait_for_the_same_call_go_on_in_the_order_submitted() {
        for _ in 0..20 {
            let schedule = Arc::new(Schedule::default());
            let first = schedule.enter(Effect::opaque());
            let (went, mut order) = tokio::sync::mpsc::channel(20);
            for number in 0..20 {
                let (turn, went) = (schedule.enter(Effect::read("a")), went.clone());
                tokio::spawn(async move {
                    turn.ready().await;
                    went.try_send(number).unwrap();
                });
            }
            drop(went);
            tokio::task::yield_now().await;
            assert!(order.try_recv().is_err(), "nobody goes before the first");
            drop(first);
            for number in 0..20 {
                assert_eq!(order.recv().await, Some(number));
            }
        }
    }

    #[test]
    fn a_file_reached_through_a_link_is_the_same_file() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        std::fs::create_dir(at("folder")).unwrap();
        symlink("folder", at("link")).unwrap();
        symlink("new", at("to-nothing")).unwrap();
        symlink("loop", at("loop")).unwrap();
        let waits = |first: Effect, second: Effect| {
            let schedule = Arc::new(Schedule::default());
            let _first = schedule.enter(first);
            schedule.enter(second).ready().now_or_never().is_none()
        };
        let (read, write) = (|name| Effect::read(at(name)), |name| Effect::write(at(name)));
        for (a, b, same) in [
            ("folder/x", "link/x", true),
            ("folder/x", "link", true),
            ("link/new/x", "folder/new", true),
            ("to-nothing", "new", true),
            ("to-nothing", "folder", false),
            ("link/x", "folder/y", false),
            ("loop", "loop/x", true),
            ("loop/x", "folder", false),
        ] {
            assert_eq!(waits(write(a), read(b)), same, "{a} {b}");
            assert_eq!(waits(read(b), write(a)), same, "{a} {b}");
            assert!(!waits(read(a), read(b)), "{a} {b}");
        }
        let long = at(&"a/".repeat(100_000));
        assert!(waits(Effect::write(&long), Effect::read(&long)));
    }
}
