//! Everything that one command started: a spawned leader comes in, its exit status goes out.
//! In a sandbox a supervisor holds it all on a [`Leash`]; without one it is the leader's process
//! group, and what makes a session of its own gets away.
//! Never leaves living behind what it can reach: dropping it kills.

use std::io;
use std::process::{Command, ExitStatus};
use std::time::Duration;

use rustix::process::Signal;

use crate::safety::sandbox::Sandbox;

#[cfg(target_os = "linux")]
mod leashed;
mod process_group;

#[cfg(target_os = "linux")]
use leashed::Leashed;
use process_group::ProcessGroup;

/// The longest that a drop blocks for a killed leader to die. It takes well under a millisecond
/// unless the machine is overloaded or the process is stuck in the kernel.
pub(super) const REAP: Duration = Duration::from_millis(50);

/// A command and what it started. It may be shared, so that whoever ends the session can end it
/// without waiting for its task.
#[derive(Debug)]
pub(super) enum Group {
    Loose(ProcessGroup),
    #[cfg(target_os = "linux")]
    Leashed(Leashed),
}

impl Group {
    /// Starts `command`, which must ask for `process_group(0)`.
    pub(super) fn spawn(command: &mut Command, sandbox: &Sandbox) -> io::Result<Self> {
        #[cfg(target_os = "linux")]
        if let Some(started) = sandbox.spawn(command) {
            let (supervisor, leash) = started?;
            return Leashed::new(supervisor, leash).map(Self::Leashed);
        }
        #[cfg(not(target_os = "linux"))]
        let _ = sandbox;
        ProcessGroup::spawn(command).map(Self::Loose)
    }

    /// Returns the process above all that the command started, if it is not reaped.
    pub(super) fn pid(&self) -> Option<u32> {
        match self {
            Self::Loose(group) => group.pid(),
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.pid(),
        }
    }

    /// Waits until the leader has exited. Safe to drop and call again.
    pub(super) async fn exited(&self) {
        match self {
            Self::Loose(group) => group.exited().await,
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.exited().await,
        }
    }

    /// Sends `signal` to every process of the group, unless its leader is reaped. `KILL` reaches
    /// all that is on the leash.
    pub(super) fn signal(&self, signal: Signal) {
        match self {
            Self::Loose(group) => group.signal(signal),
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.signal(signal),
        }
    }

    /// Takes the status of the exited leader. None when it cannot be known.
    pub(super) fn reap(&self) -> Option<ExitStatus> {
        match self {
            Self::Loose(group) => group.reap(),
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.reap(),
        }
    }

    /// Gives what is left after [`Group::reap`] `patience` to end, kills it, and returns whether
    /// there was something to kill.
    pub(super) async fn end_the_rest(&self, patience: Duration) -> bool {
        match self {
            Self::Loose(group) => group.end_the_rest(patience).await,
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.end_the_rest(patience).await,
        }
    }

    /// Kills whatever lives, and blocks for up to `patience` until it is reaped.
    pub(super) fn kill(&self, patience: Duration) {
        match self {
            Self::Loose(group) => group.kill(patience),
            #[cfg(target_os = "linux")]
            Self::Leashed(group) => group.kill(patience),
        }
    }
}
