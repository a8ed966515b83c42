//! A command on a leash: its supervisor comes in, the command's exit status goes out.
//! The supervisor ends when everything that the command started has, so its end is theirs.
//! Never leaves anything behind: dropping it kills.

use std::io;
use std::os::fd::OwnedFd;
use std::process::{Child, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::retry_on_intr;
use rustix::process::{Pid, Signal};
use tokio::io::unix::AsyncFd;

use super::REAP;
use super::process_group::{exit_of, watch};
use crate::safety::sandbox::{Leash, News};

#[derive(Debug)]
pub(in super::super) struct Leashed {
    leash: AsyncFd<Leash>,
    /// Readable when everything has ended.
    gone: AsyncFd<OwnedFd>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    supervisor: Child,
    reaped: bool,
    /// The command has ended, or all has.
    ended: bool,
    status: Option<ExitStatus>,
}

impl Leashed {
    pub(super) fn new(mut supervisor: Child, leash: Leash) -> io::Result<Self> {
        let watched = exit_of(Pid::from_child(&supervisor))
            .and_then(watch)
            .and_then(|gone| Ok((gone, watch(leash)?)));
        match watched {
            Ok((gone, leash)) => {
                let state = State { supervisor, reaped: false, ended: false, status: None };
                Ok(Self { leash, gone, state: Mutex::new(state) })
            }
            Err(e) => {
                // The leash is dropped, which ends everything.
                let _ = supervisor.wait();
                Err(e)
            }
        }
    }

    pub(super) fn pid(&self) -> Option<u32> {
        let state = self.state();
        (!state.reaped).then(|| state.supervisor.id())
    }

    pub(super) async fn exited(&self) {
        while !self.look() {
            // An error means that the runtime shuts down: then nothing is awaited any more.
            let Ok(mut ready) = self.leash.readable().await else { return };
            if self.look() {
                return;
            }
            ready.clear_ready();
        }
    }

    /// Returns whether the command has ended.
    fn look(&self) -> bool {
        let mut state = self.state();
        if !state.ended {
            match self.leash.get_ref().news() {
                News::None => {}
                News::Ended(status) => (state.ended, state.status) = (true, Some(status)),
                News::Gone => state.ended = true,
            }
        }
        state.ended
    }

    pub(super) fn signal(&self, signal: Signal) {
        self.leash.get_ref().signal(signal);
    }

    pub(super) fn reap(&self) -> Option<ExitStatus> {
        self.look();
        self.state().status
    }

    pub(super) async fn end_the_rest(&self, patience: Duration) -> bool {
        let gone = tokio::time::timeout(patience, self.gone.readable()).await.is_ok();
        self.kill(REAP);
        !gone
    }

    pub(super) fn kill(&self, patience: Duration) {
        let mut state = self.state();
        if state.reaped {
            return;
        }
        self.signal(Signal::KILL);
        let mut gone = [PollFd::new(&self.gone, PollFlags::IN)];
        let patience = Timespec::try_from(patience).ok();
        let ready = retry_on_intr(|| rustix::event::poll(&mut gone, patience.as_ref()));
        if ready.is_ok_and(|ready| ready > 0) {
            state.reaped = true;
            // It has ended: this does not wait.
            let _ = state.supervisor.wait();
        }
        drop(state);
        self.look();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it is held, and its fields are true at any time.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Leashed {
    fn drop(&mut self) {
        self.kill(REAP);
    }
}
