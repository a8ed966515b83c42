//! The memory of a process and its descendants: a process id comes in, the most that was resident
//! at once comes out, sampled every millisecond from `/proc`.
//! Never counts the pages of a child that has not yet become a program of its own.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process, kill_process_group};

const INTERVAL: Duration = Duration::from_millis(1);

/// `PF_FORKNOEXEC` of the kernel's `sched.h`: forked, and still its parent's program.
const FORKED_ONLY: u64 = 0x40;

/// A thread that samples until told to stop.
#[derive(Debug)]
pub(super) struct Watch {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<Option<u64>>,
}

impl Watch {
    /// Watches a process and its descendants; `others` are processes that cannot belong to it,
    /// because they were there before.
    pub(super) fn start(root: u32, others: HashSet<u32>) -> Self {
        let (stop, stopped) = mpsc::channel();
        let mut tree = Tree { root, members: HashSet::from([root]), others };
        let thread = std::thread::spawn(move || {
            let mut peak = None;
            loop {
                peak = peak.max(tree.resident_bytes());
                if stopped.recv_timeout(INTERVAL) != Err(RecvTimeoutError::Timeout) {
                    return peak;
                }
            }
        });
        Self { stop, thread }
    }

    /// Returns the peak in bytes; `None` where there is no `/proc`.
    pub(super) fn stop(self) -> Option<u64> {
        drop(self.stop);
        self.thread
            .join()
            .expect("the thread only reads files, and takes what it cannot read as gone")
    }
}

/// Returns the ids of all processes; none where there is no `/proc`.
pub(super) fn processes() -> HashSet<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect()
}

/// Kills a process, which leads its own group, with all its descendants.
pub(super) fn kill_tree(root: u32) {
    let mut tree = Tree { root, members: HashSet::from([root]), others: HashSet::new() };
    tree.scan();
    let pid = |id: u32| Pid::from_raw(i32::try_from(id).ok()?);
    // Whatever is gone already needs no killing.
    if let Some(root) = pid(root) {
        let _ = kill_process_group(root, Signal::KILL);
    }
    for member in tree.members.into_iter().filter_map(pid) {
        let _ = kill_process(member, Signal::KILL);
    }
}

/// A process and its descendants. One that was seen stays a member when its parent is gone.
#[derive(Debug)]
struct Tree {
    root: u32,
    members: HashSet<u32>,
    others: HashSet<u32>,
}

impl Tree {
    /// Returns what is resident now: the sum over the processes, and for the root at least what was
    /// resident in it before the first sample or between two.
    fn resident_bytes(&mut self) -> Option<u64> {
        let stats = self.scan();
        let mut sum = 0;
        let mut root_peak = None;
        for (pid, stat) in &stats {
            let parent = stats.get(&stat.parent);
            let shares = parent.is_some_and(|parent| parent.virtual_bytes == stat.virtual_bytes);
            if stat.forked_only && shares {
                continue;
            }
            let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { continue };
            sum += kib(&status, "VmRSS:").unwrap_or(0) * 1024;
            if *pid == self.root {
                root_peak = kib(&status, "VmHWM:").map(|kib| kib * 1024);
            }
        }
        root_peak.map(|peak| peak.max(sum)).or((sum > 0).then_some(sum))
    }

    /// Looks for new members, and returns all that live.
    fn scan(&mut self) -> HashMap<u32, Stat> {
        let mut stats: HashMap<u32, Stat> = processes()
            .into_iter()
            .filter(|pid| !self.others.contains(pid))
            .filter_map(|pid| {
                let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
                Some((pid, Stat::parse(&stat)?))
            })
            .collect();
        // Children may be listed before their parents, so until nobody is found any more.
        loop {
            let child = |(pid, stat): (&u32, &Stat)| {
                let new = self.members.contains(&stat.parent) && !self.members.contains(pid);
                new.then_some(*pid)
            };
            let children: Vec<u32> = stats.iter().filter_map(child).collect();
            if children.is_empty() {
                break;
            }
            self.members.extend(children);
        }
        // A stranger stays one: a parent is only ever lost, not won.
        self.others.extend(stats.keys().filter(|pid| !self.members.contains(pid)));
        stats.retain(|pid, _| self.members.contains(pid));
        stats
    }
}

/// What `/proc/PID/stat` says.
#[derive(Debug, PartialEq, Eq)]
struct Stat {
    parent: u32,
    forked_only: bool,
    virtual_bytes: u64,
}

impl Stat {
    fn parse(line: &str) -> Option<Self> {
        // The name stands in parentheses, and may itself have some.
        let (_, fields) = line.rsplit_once(')')?;
        let fields: Vec<_> = fields.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            parent: u32::try_from(number(1)?).ok()?,
            forked_only: number(6)? & FORKED_ONLY != 0,
            virtual_bytes: number(20)?,
        })
    }
}

/// Returns the number in a line of `/proc/PID/status`.
fn kib(status: &str, name: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_move_the_fields() {
        let line = "77 (a) b) S 12 77 77 0 -1 4194368 1 2 3 4 5 6 7 8 20 0 3 0 99 104857600 512 1";
        let stat = Stat { parent: 12, forked_only: true, virtual_bytes: 104_857_600 };
        assert_eq!(Stat::parse(line), Some(stat));
        assert_eq!(Stat::parse("77 (gone"), None);
        assert_eq!(Stat::parse("77 (short) S 1"), None);
    }

    #[test]
    fn kernel_threads_have_no_memory() {
        let status = "Name:\tx\nVmHWM:\t    2048 kB\nVmRSS:\t 1024 kB\n";
        assert_eq!(kib(status, "VmRSS:"), Some(1024));
        assert_eq!(kib(status, "VmHWM:"), Some(2048));
        assert_eq!(kib("Name:\tkthreadd\n", "VmRSS:"), None);
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_grandchild_is_counted_and_killed() {
        use std::io::{BufRead as _, BufReader};
        use std::os::unix::process::CommandExt as _;
        use std::process::{Command, Stdio};

        let mut child = Command::new("bash")
            .args(["-c", "bash -c 'echo $$; sleep 600; true'; true"])
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let grandchild: u32 = line.trim().parse().unwrap();

        let root = child.id();
        let mut tree = Tree { root, members: HashSet::from([root]), others: HashSet::new() };
        let alone = {
            let status = fs::read_to_string(format!("/proc/{root}/status")).unwrap();
            kib(&status, "VmRSS:").unwrap() * 1024
        };
        let all = tree.resident_bytes().unwrap();
        assert!(tree.members.contains(&grandchild));
        assert!(all > alone, "{all} for all, {alone} for the first");

        kill_tree(root);
        assert!(!child.wait().unwrap().success());
        let gone = || match fs::read_to_string(format!("/proc/{grandchild}/stat")) {
            Ok(stat) => stat.contains(") Z "),
            Err(_) => true,
        };
        while !gone() {
            std::thread::yield_now();
        }
    }
}
