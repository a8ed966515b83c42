//! A process group that a command runs in: a spawned leader comes in, its exit status goes out.
//! The group's number is only ever signalled while it cannot have passed to somebody else.
//! Never leaves a living group behind: dropping it kills.

use std::io::{self, Write};
use std::os::fd::OwnedFd;
#[cfg(target_os = "linux")]
use std::path::Path;
use std::process::{Child, Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::{Errno, retry_on_intr};
use rustix::process::{
    Pid, Signal, WaitId, WaitIdOptions, kill_process_group, test_kill_process_group, waitid,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::time::Instant;

use super::REAP;

/// How often a group without a leader is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A process group and its leader. The leader stays unreaped until [`ProcessGroup::reap`], so until then
/// the group's number is its own, even when all of it has died. (`tokio::process` reaps as soon as
/// it sees the exit, and its `kill_on_drop` reaches the leader only.)
///
/// It may be shared, so that whoever ends the session can end it without waiting for its task.
#[derive(Debug)]
pub(in super::super) struct ProcessGroup {
    id: Pid,
    /// Readable when the leader has exited.
    exit: AsyncFd<OwnedFd>,
    leader: Mutex<Leader>,
}

#[derive(Debug)]
struct Leader {
    process: Child,
    reaped: bool,
    /// The leader is reaped and others may live.
    rest: bool,
}

impl ProcessGroup {
    /// Starts `command`, which must ask for `process_group(0)`.
    pub(super) fn spawn(command: &mut Command) -> io::Result<Self> {
        let mut process = command.spawn()?;
        let id = Pid::from_child(&process);
        match exit_of(id).and_then(watch) {
            Ok(exit) => {
                let leader = Mutex::new(Leader { process, reaped: false, rest: false });
                Ok(Self { id, exit, leader })
            }
            Err(e) => {
                // Nothing could tell us when it ends. Dying takes no time worth a thread.
                let _ = kill_process_group(id, Signal::KILL);
                let _ = process.wait();
                Err(e)
            }
        }
    }

    /// Returns the leader, unless it is reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        let pid = u32::try_from(self.id.as_raw_pid()).ok();
        pid.filter(|_| !self.leader().reaped)
    }

    /// Waits until the leader has exited. Safe to drop and call again.
    pub(super) async fn exited(&self) {
        // An error means that the runtime shuts down: then nothing is awaited any more.
        let _ = self.exit.readable().await;
    }

    /// Sends `signal` to every process of the group, unless its leader is reaped: the number may
    /// be somebody else's by then.
    pub(super) fn signal(&self, signal: Signal) {
        if !self.leader().reaped {
            // An error means that there is nobody to signal, or nobody that we may.
            let _ = kill_process_group(self.id, signal);
        }
    }

    /// Takes the status of the exited leader. None when the system gave it to somebody else
    /// (`SIGCHLD` ignored by whoever started us).
    pub(super) fn reap(&self) -> Option<ExitStatus> {
        self.leader().reap()
    }

    /// Gives what is left of the group after [`ProcessGroup::reap`] `patience` to end, kills it, and
    /// returns whether there was something to kill.
    ///
    /// The system does not give the number to a new process while the group has a member. When it
    /// has none, the number was free for the few instructions since [`ProcessGroup::reap`], and numbers
    /// are handed out in turn. Still, nothing is killed on that assumption alone: a member must
    /// belong to our own session, as all that we started does.
    pub(super) async fn end_the_rest(&self, patience: Duration) -> bool {
        let rest = test_kill_process_group(self.id).is_ok();
        self.leader().rest = rest;
        if !rest {
            return false;
        }
        // Rare from here on: a member lives, or is about to end (its output was closed first), or
        // is dead and waits for its parent to notice. Nothing tells when a group is empty, so we
        // look now and then.
        let until = Instant::now() + patience;
        while living_member(self.id) {
            if Instant::now() >= until {
                self.kill_rest(&mut self.leader());
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.leader().rest = false;
        false
    }

    /// Kills whatever lives in the group, and blocks for up to `patience` to reap its leader.
    pub(super) fn kill(&self, patience: Duration) {
        let mut leader = self.leader();
        if leader.reaped {
            if leader.rest && living_member(self.id) {
                self.kill_rest(&mut leader);
            }
            return;
        }
        let _ = kill_process_group(self.id, Signal::KILL);
        let mut exit = [PollFd::new(&self.exit, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        let ready = retry_on_intr(|| rustix::event::poll(&mut exit, patience.as_ref()));
        if ready.is_ok_and(|ready| ready > 0) {
            leader.reap();
        }
    }

    fn kill_rest(&self, leader: &mut Leader) {
        leader.rest = false;
        let _ = kill_process_group(self.id, Signal::KILL);
    }

    fn leader(&self) -> MutexGuard<'_, Leader> {
        // Nothing panics while it is held, and its flags are true at any time.
        self.leader.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Leader {
    fn reap(&mut self) -> Option<ExitStatus> {
        self.reaped = true;
        self.process.wait().ok()
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        self.kill(REAP);
    }
}

/// Returns what becomes readable when our child `id` has exited; it stays to be reaped.
pub(super) fn exit_of(id: Pid) -> io::Result<OwnedFd> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{PidfdFlags, pidfd_open};
        if let Ok(exit) = pidfd_open(id, PidfdFlags::NONBLOCK) {
            return Ok(exit);
        }
    }
    exit_by_thread(id)
}

/// Does the same where there is no pidfd (other systems, and containers that forbid it): a thread
/// waits. It lives as long as the child does, which is never longer than the group.
fn exit_by_thread(id: Pid) -> io::Result<OwnedFd> {
    let (reader, mut writer) = io::pipe()?;
    let wait = move || {
        let exited = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while matches!(waitid(WaitId::Pid(id), exited), Err(Errno::INTR)) {}
        // A byte rather than only an end: a child started meanwhile might hold a copy of `writer`
        // for a moment. An error means that nobody waits any more.
        let _ = writer.write_all(b"x");
    };
    std::thread::Builder::new().name("exit".to_owned()).spawn(wait)?;
    Ok(reader.into())
}

/// Registers a descriptor with the runtime.
// What replaces the deprecated function is unsafe, for the sake of types that may change or close
// their descriptor meanwhile. `OwnedFd` cannot, so here the old one is as sound, and we keep ours.
#[expect(deprecated, reason = "the replacement needs `unsafe`, which buys nothing for an OwnedFd")]
pub(super) fn watch<T: std::os::fd::AsRawFd>(exit: T) -> io::Result<AsyncFd<T>> {
    AsyncFd::with_interest(exit, Interest::READABLE)
}

/// Returns whether a process of group `group` and of our session lives.
#[cfg(target_os = "linux")]
fn living_member(group: Pid) -> bool {
    // Not from `getsid`: it says 0 in a container whose session began outside, which is no `Pid`.
    let stat_of = |process: &Path| std::fs::read_to_string(process.join("stat")).ok();
    let own = stat_of(Path::new("/proc/self"));
    let group = group.as_raw_nonzero().get();
    let Some(own) = own.as_deref().and_then(Stat::parse) else { return false };
    let Ok(processes) = std::fs::read_dir("/proc") else { return false };
    processes.flatten().any(|process| {
        let stat = stat_of(&process.path());
        stat.as_deref().and_then(Stat::parse).is_some_and(|other| {
            other.alive && other.group == group && other.session == own.session
        })
    })
}

/// Returns whether the group has a member. Without `/proc` its session is not asked for, and a
/// dead one that its parent did not notice yet may count.
#[cfg(not(target_os = "linux"))]
fn living_member(group: Pid) -> bool {
    test_kill_process_group(group).is_ok()
}

/// What one `/proc/<pid>/stat` says. A group or session that began outside our container is 0.
#[cfg(target_os = "linux")]
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    alive: bool,
    group: i32,
    session: i32,
}

#[cfg(target_os = "linux")]
impl Stat {
    /// Reads `pid (name) state parent group session …`.
    fn parse(stat: &str) -> Option<Self> {
        // The name may hold anything, `)` included.
        let (_, rest) = stat.rsplit_once(") ")?;
        let mut fields = rest.split(' ');
        let alive = !matches!(fields.next()?, "Z" | "X" | "x");
        let mut number = || fields.next()?.parse::<i32>().ok();
        let _parent = number()?;
        Some(Self { alive, group: number()?, session: number()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn a_stat_tells_group_session_and_life_also_of_a_session_from_outside_the_container() {
        let stat = |alive, group, session| Some(Stat { alive, group, session });
        assert_eq!(Stat::parse("77 (a) b (c) S 1 40 7 0 -1 4194304"), stat(true, 40, 7));
        assert_eq!(Stat::parse("77 (a) Z 1 40 7 0"), stat(false, 40, 7));
        assert_eq!(Stat::parse("2 (sh) R 1 0 0 0 -1"), stat(true, 0, 0));
        assert_eq!(Stat::parse(""), None);
        assert_eq!(Stat::parse("77 (a) S 1 40"), None);
    }

    /// A child that exits with 3 once its input ends.
    fn waiting_child() -> Child {
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "read x; exit 3"]).stdin(std::process::Stdio::piped());
        command.spawn().unwrap()
    }

    fn is_readable(exit: &OwnedFd, wait: &Timespec) -> bool {
        let mut exit = [PollFd::new(exit, PollFlags::IN)];
        retry_on_intr(|| rustix::event::poll(&mut exit, Some(wait))).unwrap() > 0
    }

    #[test]
    fn every_way_to_see_an_exit_sees_it_and_leaves_the_status_to_be_taken() {
        for exit_of in [exit_of, exit_by_thread] {
            let mut child = waiting_child();
            let exit = exit_of(Pid::from_child(&child)).unwrap();
            assert!(!is_readable(&exit, &Timespec { tv_sec: 0, tv_nsec: 0 }));
            drop(child.stdin.take());
            assert!(is_readable(&exit, &Timespec { tv_sec: 60, tv_nsec: 0 }));
            assert_eq!(child.wait().unwrap().code(), Some(3));
        }
    }

    #[tokio::test]
    async fn the_runtime_is_woken_by_the_thread() {
        let mut child = waiting_child();
        let exit = exit_by_thread(Pid::from_child(&child)).and_then(watch).unwrap();
        drop(child.stdin.take());
        let seen = tokio::time::timeout(Duration::from_secs(60), exit.readable()).await;
        drop(seen.expect("it hangs").unwrap());
        assert_eq!(child.wait().unwrap().code(), Some(3));
    }

    #[tokio::test]
    async fn a_group_killed_from_outside_is_reaped_and_never_signalled_again() {
        use std::os::unix::process::{CommandExt, ExitStatusExt};
        let group = ProcessGroup::spawn(Command::new("sleep").arg("60").process_group(0)).unwrap();
        group.kill(Duration::from_secs(60));
        assert!(group.leader().reaped);
        assert!(test_kill_process_group(group.id).is_err());
        group.kill(REAP);
        group.signal(Signal::KILL);
        group.exited().await;
        assert_eq!(group.reap().and_then(|status| status.signal()), Some(9));
    }
}
