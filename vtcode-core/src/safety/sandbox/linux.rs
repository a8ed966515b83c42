//! The sandbox on Linux: what a session's commands share is set up once; each command gets orders,
//! a supervisor and a leash.
//! Never runs without Landlock; namespaces are used where the system allows them.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus};
use std::sync::{Arc, OnceLock};

use rustix::fs::{FlockOperation, Mode, OFlags};

use super::filter::Program;
use super::grants::{Asker, DEVICE, Grant, READ, WRITE, grants, handled};
use super::guarded::Guard;
use super::kernel::{self, Fresh, Heard, Namespaces, Orders, TAME};
use super::{Part, SandboxError, SandboxPlan};
use crate::config::safety::SandboxMode;

/// The first version of Landlock that keeps a command from cutting files short; before it, one that
/// may not write a file could still empty it.
const ENOUGH: u32 = 3;
/// The version that keeps signals and abstract sockets inside.
const SCOPES: u32 = 6;
const SCOPED: u64 = 3;
/// The version that knows TCP.
const NET: u32 = 4;
const TCP: u64 = 3;

/// Process ids below this are the kernel's to keep free, and no bound may be lower.
const LEAST_PIDS: u64 = 301;

/// File systems that each command gets anew where it may mount.
const FRESH: &[Fresh] = &[
    Fresh {
        kind: c"proc",
        at: c"/proc",
        options: c"",
        flags: TAME | libc::MS_NOEXEC,
        rights: READ,
    },
    Fresh {
        kind: c"tmpfs",
        at: c"/dev/shm",
        options: c"mode=1777,size=50%",
        flags: TAME | libc::MS_NOEXEC,
        rights: WRITE,
    },
    Fresh {
        kind: c"devpts",
        at: c"/dev/pts",
        options: c"newinstance,ptmxmode=0666,mode=0600",
        flags: libc::MS_NOSUID | libc::MS_NOEXEC,
        rights: DEVICE,
    },
];

/// What a session's commands share.
#[derive(Debug)]
pub(super) struct Confinement {
    abi: u32,
    network: bool,
    namespaces: Result<Arc<Namespaces>, io::Error>,
    grants: Vec<Grant>,
    program: Arc<Program>,
    max_processes: u64,
    max_file_bytes: u64,
    /// Folders that commands may write, in which some paths are not theirs.
    roots: Vec<PathBuf>,
    hidden: Vec<CString>,
    tmp: Tmp,
    kept: OnceLock<Arc<OwnedFd>>,
}

/// The session's own temporary folder, removed with it. It is locked while its session lives, so
/// that what a killed one left can be told from the others and is removed by the next.
#[derive(Debug)]
struct Tmp {
    path: PathBuf,
    _lock: OwnedFd,
}

/// How the names of temporary folders begin; the rest of each is as long as an id.
const PREFIX: &str = "vtcode-";
const ID: usize = 32;

impl Tmp {
    fn make(place: &Path) -> io::Result<Self> {
        let place = place.canonicalize()?;
        Self::clean(&place);
        loop {
            let path = place.join(format!("{PREFIX}{}", uuid::Uuid::now_v7().simple()));
            std::fs::DirBuilder::new().mode(0o700).create(&path)?;
            // Another that starts may have taken it for a dead one's before it was locked.
            if let Ok(lock) = Self::lock(&path)
                && path.exists()
            {
                return Ok(Self { path, _lock: lock });
            }
        }
    }

    fn lock(path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let fd = rustix::fs::open(path, flags, Mode::empty())?;
        if rustix::fs::fstat(&fd)?.st_uid != rustix::process::geteuid().as_raw() {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        rustix::fs::flock(&fd, FlockOperation::NonBlockingLockExclusive)?;
        Ok(fd)
    }

    /// Removes the folders whose sessions are dead.
    fn clean(place: &Path) {
        for entry in std::fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let id = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
            let is_id = |id: &str| id.len() == ID && id.bytes().all(|b| b.is_ascii_hexdigit());
            if id.is_some_and(is_id) && Self::lock(&entry.path()).is_ok() {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

impl Drop for Tmp {
    fn drop(&mut self) {
        // What cannot be removed now is tried again by the next session.
        let _ = std::fs::remove_dir_all(&self.path);
    }
}

impl Confinement {
    pub(super) fn new(plan: &SandboxPlan<'_>, wanted: bool) -> Result<Self, SandboxError> {
        let abi = kernel::landlock_abi();
        if abi < ENOUGH {
            let why = match abi {
                0 => "this kernel has no Landlock (Linux 6.2 or later, `landlock` among its LSMs)",
                _ => "this kernel's Landlock is too old (Linux 6.2 or later is needed)",
            };
            return Err(SandboxError::Unsupported { why: why.to_owned() });
        }
        let failed = |what| move |cause| SandboxError::Failed { what, cause };
        let tmp =
            Tmp::make(&std::env::temp_dir()).map_err(failed("no temporary folder can be made"))?;
        let settings = plan.settings;
        let grants = grants(&Asker {
            settings,
            workspace: plan.workspace,
            build: plan.build,
            private: &plan.private,
            env: plan.env,
            tmp: &tmp.path,
            abi,
        });
        let namespaces = if wanted {
            kernel::make_namespaces(!settings.network).map(Arc::new)
        } else {
            Err(io::ErrorKind::Unsupported.into())
        };
        let inet = settings.network || namespaces.is_ok();
        let families: &[i32] = if inet {
            &[libc::AF_UNIX, libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK]
        } else {
            &[libc::AF_UNIX]
        };
        let writable = plan.workspace.folders().filter(|(_, writable)| *writable);
        let roots: Vec<_> = match settings.mode {
            SandboxMode::WorkspaceWrite => writable.map(|(path, _)| path.to_owned()).collect(),
            _ => Vec::new(),
        };
        let made = Self {
            abi,
            network: settings.network,
            namespaces,
            grants,
            program: Arc::new(Program::new(families)),
            max_processes: settings.max_processes,
            max_file_bytes: settings.max_file_bytes,
            hidden: hidden(plan),
            roots,
            tmp,
            kept: OnceLock::new(),
        };
        Ok(made)
    }

    pub(super) fn tmp(&self) -> &Path {
        &self.tmp.path
    }

    pub(super) fn guard(&self) -> Guard {
        Guard::of(&self.roots, self.namespaces.is_ok())
    }

    /// Starts a command. It returns when the command's program runs, or could not be run.
    pub(super) fn spawn(&self, command: &mut Command) -> io::Result<(Child, Leash)> {
        let (ours, theirs) = kernel::pair()?;
        let namespaces = self.namespaces.as_ref().ok().map(Arc::clone);
        let root = rustix::process::geteuid().is_root();
        let counted = counts_each_namespace(rustix::system::uname().release().to_bytes());
        let orders = Orders {
            control: theirs,
            ruleset: Some(match namespaces {
                Some(_) => Arc::new(self.ruleset(true)?),
                None => self.kept_ruleset()?,
            }),
            read_only: self.read_only(),
            hidden: self.hidden.clone(),
            fresh: FRESH,
            pid_max: counted.then(|| self.max_processes.max(LEAST_PIDS).to_string().into_bytes()),
            processes: self.processes(namespaces.is_some()),
            file_bytes: self.max_file_bytes,
            program: Some(Arc::clone(&self.program)),
            count: (root && !(counted && namespaces.is_some()))
                .then(|| i16::try_from(self.max_processes).unwrap_or(i16::MAX)),
            namespaces,
        };
        kernel::obey(command, orders);
        let child = command.spawn()?;
        Ok((child, Leash { control: ours }))
    }

    /// Returns the limit of processes. The kernel counts those of the user in the namespace, or all
    /// of the user's; it never counts root's.
    fn processes(&self, own: bool) -> Option<u64> {
        if own {
            return Some(self.max_processes);
        }
        // How many the user has takes long to find out. All of the machine's are more.
        let load = std::fs::read_to_string("/proc/loadavg").ok()?;
        let all: u64 = load.split(['/', ' ']).nth(4)?.parse().ok()?;
        Some(all + self.max_processes)
    }

    /// Returns the rules of every command where none has mounts of its own: to add them costs more
    /// than to obey them. // bench: sandbox, without namespaces
    fn kept_ruleset(&self) -> io::Result<Arc<OwnedFd>> {
        if let Some(kept) = self.kept.get() {
            return Ok(Arc::clone(kept));
        }
        let made = Arc::new(self.ruleset(false)?);
        Ok(Arc::clone(self.kept.get_or_init(|| made)))
    }

    /// Makes rules. A command with namespaces adds those for its own mounts.
    fn ruleset(&self, own_net: bool) -> io::Result<OwnedFd> {
        let net = if self.abi >= NET && !self.network && !own_net { TCP } else { 0 };
        let scoped = if self.abi >= SCOPES { SCOPED } else { 0 };
        let ruleset = kernel::new_ruleset(self.abi, handled(self.abi), net, scoped)?;
        for grant in &self.grants {
            kernel::allow(ruleset.as_raw_fd(), grant.path.as_raw_fd(), grant.rights)?;
        }
        Ok(ruleset)
    }

    /// Returns what of the writable folders is read-only and there.
    fn read_only(&self) -> Vec<CString> {
        let paths = self.roots.iter().flat_map(|root| {
            [".git/hooks", ".git/config", ".git/config.worktree", ".git/commondir", "vtcode.toml"]
                .map(|name| root.join(name))
        });
        // A link is left alone: it could lead anywhere by the time it is mounted.
        let there = paths.filter(|path| path.symlink_metadata().is_ok_and(|m| !m.is_symlink()));
        there.filter_map(|path| text(&path)).collect()
    }

    pub(super) fn parts(&self) -> Vec<Part> {
        const NAMESPACES: &str = "allow user namespaces: user.max_user_namespaces above 0, \
             kernel.apparmor_restrict_unprivileged_userns=0 (Ubuntu), a container's seccomp profile \
             that lets `unshare` through";
        const NEWER: &str = "Linux 6.12 or later";
        let part = |name, enforced, meaning: String| {
            let mend = if name == "scopes" { NEWER } else { NAMESPACES };
            Part { name, enforced, meaning, mend: (!enforced).then_some(mend) }
        };
        let why = match &self.namespaces {
            Ok(_) => String::new(),
            Err(e) => format!("user namespaces are not allowed here: {e}"),
        };
        let own = self.namespaces.is_ok();
        let or = |yes: &str, no: &str| {
            if own { yes.to_owned() } else { format!("{no}; {why}") }
        };
        let mut parts = vec![
            part(
                "landlock",
                true,
                format!("version {}: commands use the files that are granted alone", self.abi),
            ),
            part(
                "mount namespace",
                own,
                or(
                    "git's hooks and configuration are read-only",
                    "git's hooks and configuration are looked after when a command has ended",
                ),
            ),
            part(
                "process namespace",
                own,
                or(
                    "commands see and end their own processes alone",
                    "a supervisor ends what a command leaves, unless somebody kills it",
                ),
            ),
        ];
        if !self.network {
            parts.push(part(
                "network namespace",
                own,
                or(
                    "commands reach nothing but each other",
                    "commands can make no network connection, not even to each other",
                ),
            ));
        }
        parts.push(part(
            "scopes",
            self.abi >= SCOPES || own,
            "signals and sockets without a path stay among the commands (Linux 6.12)".to_owned(),
        ));
        parts.push(part(
            "system call filter",
            true,
            "what could undo the rest is refused".to_owned(),
        ));
        parts.push(part(
            "supervisor",
            true,
            "everything that a command started dies with it, and with the agent".to_owned(),
        ));
        parts
    }
}

/// Returns the folders whose sockets lead to the system's services, unless something that is
/// granted lies below.
fn hidden(plan: &SandboxPlan<'_>) -> Vec<CString> {
    let in_use = |dir: &Path| {
        let granted = plan.workspace.folders().map(|(path, _)| path.to_owned());
        let granted = granted.chain(plan.settings.write.iter().cloned());
        let mut granted = granted.chain([std::env::temp_dir()]);
        granted.any(|path| path.starts_with(dir))
            || plan.env.iter().any(|(name, value)| {
                name == "PATH" && std::env::split_paths(value).any(|path| path.starts_with(dir))
            })
    };
    let run = Path::new("/run");
    let usable = run.is_dir() && !in_use(run) && !Path::new("/run/current-system").exists();
    // With the network open, names are looked up by way of a file there.
    let usable = usable && !plan.settings.network;
    if usable { text(run).into_iter().collect() } else { Vec::new() }
}

/// Returns whether a kernel of this release bounds the process ids of each namespace (6.14).
/// Before, the same file bounds those of the machine, and root may write it from any namespace.
fn counts_each_namespace(release: &[u8]) -> bool {
    let mut numbers = release.split(|byte| !byte.is_ascii_digit()).map(|digits| {
        std::str::from_utf8(digits).ok().and_then(|digits| digits.parse::<u32>().ok())
    });
    let version = numbers.next().flatten().zip(numbers.next().flatten());
    version.is_some_and(|version| version >= (6, 14))
}

/// Returns a path as the system takes it; none when no path can be so.
fn text(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// The hold on everything that a command started. Dropping it ends all of that.
#[derive(Debug)]
pub struct Leash {
    control: OwnedFd,
}

/// What a look at a leash gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The command ended so; what it left may live on.
    Ended(ExitStatus),
    /// Nothing yet.
    None,
    /// Everything has ended.
    Gone,
}

impl Leash {
    /// Has the supervisor send a signal to the command's group; `SIGKILL` ends everything.
    pub fn signal(&self, signal: rustix::process::Signal) {
        // Nobody to hear it has nobody to send it to.
        kernel::send(self.control.as_raw_fd(), signal.as_raw());
    }

    /// Looks for news without waiting. The descriptor is readable when there are some.
    pub fn news(&self) -> News {
        use std::os::unix::process::ExitStatusExt;
        match kernel::receive(self.control.as_raw_fd()) {
            Heard::Number(status) => News::Ended(ExitStatus::from_raw(status)),
            Heard::Nothing => News::None,
            Heard::Gone => News::Gone,
        }
    }
}

impl AsFd for Leash {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.control.as_fd()
    }
}

impl AsRawFd for Leash {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.control.as_raw_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_own_bound_of_processes_is_never_written() {
        for release in [&b"6.13.9"[..], b"5.14.0-611.el9.x86_64", b"6.8.0-60-generic", b"6", b""] {
            assert!(!counts_each_namespace(release), "{}", release.escape_ascii());
        }
        for release in [&b"6.14.0"[..], b"6.14-rc1", b"6.18.44-fc-v657", b"7.0.1"] {
            assert!(counts_each_namespace(release), "{}", release.escape_ascii());
        }
    }

    #[test]
    fn what_a_killed_agent_left_is_removed_by_the_next_and_a_living_ones_is_not() {
        let place = tempfile::tempdir().unwrap();
        let living = Tmp::make(place.path()).unwrap();
        let dead = place.path().join(format!("{PREFIX}{}", uuid::Uuid::now_v7().simple()));
        std::fs::create_dir_all(dead.join("folder")).unwrap();
        let others = place.path().join("vtcode-of-the-user");
        std::fs::create_dir(&others).unwrap();
        let next = Tmp::make(place.path()).unwrap();
        assert!(!dead.exists());
        assert!(living.path.exists() && next.path.exists() && others.exists());
    }
}
