//! The system calls of the sandbox: what the parent prepared comes in, a confined process goes out.
//! The only file of the library with `unsafe`: what runs between fork and exec may neither allocate
//! nor take a lock, and several calls have no safe binding.
//! Never decides what is allowed: that stands in [`Orders`] before the fork.
#![allow(unsafe_code, reason = "code between fork and exec, and calls without a safe binding")]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::sync::Arc;

use libc::{c_int, c_long, c_ulong, c_void};

use super::filter::{Instruction, Program};

/// Everything that a child does to itself before its first instruction.
#[derive(Debug)]
pub(super) struct Orders {
    /// The supervisor's end of the control socket.
    pub(super) control: OwnedFd,
    pub(super) namespaces: Option<Arc<Namespaces>>,
    pub(super) ruleset: Option<Arc<OwnedFd>>,
    /// Bind-mounted on themselves, read-only; each exists.
    pub(super) read_only: Vec<CString>,
    /// Hidden behind an empty folder; each exists.
    pub(super) hidden: Vec<CString>,
    /// Mounts of the child's own, with the rights that it has there.
    pub(super) fresh: &'static [Fresh],
    /// The most process ids of the call's own namespace, as text; none where the kernel has but one
    /// number for the whole machine, which root would change for everybody.
    pub(super) pid_max: Option<Vec<u8>>,
    pub(super) processes: Option<u64>,
    pub(super) file_bytes: u64,
    pub(super) program: Option<Arc<Program>>,
    /// Whether the supervisor has to count processes, because nothing else bounds them.
    pub(super) count: Option<i16>,
}

/// A file system that every command gets anew.
#[derive(Debug)]
pub(super) struct Fresh {
    pub(super) kind: &'static CStr,
    pub(super) at: &'static CStr,
    pub(super) options: &'static CStr,
    pub(super) flags: c_ulong,
    pub(super) rights: u64,
}

/// The namespaces that the commands of a session share.
#[derive(Debug)]
pub(super) struct Namespaces {
    user: OwnedFd,
    ipc: OwnedFd,
    net: Option<OwnedFd>,
}

#[repr(C)]
struct RulesetAttr {
    handled_access_fs: u64,
    handled_access_net: u64,
    scoped: u64,
}

#[repr(C, packed)]
struct PathBeneath {
    allowed_access: u64,
    parent_fd: i32,
}

const RULE_PATH_BENEATH: c_int = 1;
const RULESET_VERSION: c_ulong = 1;

fn checked(returned: c_long) -> io::Result<c_long> {
    if returned < 0 { Err(io::Error::last_os_error()) } else { Ok(returned) }
}

/// Returns the version of Landlock's interface; 0 when the kernel has none.
pub(super) fn landlock_abi() -> u32 {
    // SAFETY: with this flag the call takes no pointer and returns a number.
    let abi = unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, 0usize, 0usize, RULESET_VERSION)
    };
    u32::try_from(abi).unwrap_or(0)
}

/// Makes an empty ruleset that handles these rights.
pub(super) fn new_ruleset(abi: u32, files: u64, net: u64, scoped: u64) -> io::Result<OwnedFd> {
    let attr = RulesetAttr { handled_access_fs: files, handled_access_net: net, scoped };
    let size: usize = match abi {
        0..4 => 8,
        4 | 5 => 16,
        _ => 24,
    };
    // SAFETY: `attr` lives during the call and is at least `size` bytes long.
    let fd = checked(unsafe {
        libc::syscall(libc::SYS_landlock_create_ruleset, &raw const attr, size, 0usize)
    })?;
    // SAFETY: the kernel just gave us this descriptor, and nobody else knows of it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Allows `rights` below what `path` refers to. Also called between fork and exec.
pub(super) fn allow(ruleset: RawFd, path: RawFd, rights: u64) -> io::Result<()> {
    let attr = PathBeneath { allowed_access: rights, parent_fd: path };
    // SAFETY: `attr` lives during the call and has the layout of this kind of rule.
    checked(unsafe {
        libc::syscall(
            libc::SYS_landlock_add_rule,
            ruleset,
            RULE_PATH_BENEATH,
            &raw const attr,
            0usize,
        )
    })
    .map(drop)
}

/// Returns whether this process may be looked into no more by others of its user.
pub(super) fn hide_memory() -> bool {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) == 0 }
}

/// Makes `command` follow `orders` between fork and exec.
pub(super) fn obey(command: &mut Command, orders: Orders) {
    // SAFETY: `enter` allocates nothing, takes no lock and uses nothing of the parent's but the
    // memory that `orders` owns, which the fork copied.
    unsafe { command.pre_exec(move || orders.enter()) };
}

/// Makes the namespaces of a session. None of them outlives the descriptors returned and the
/// commands inside.
pub(super) fn make_namespaces(own_net: bool) -> io::Result<Namespaces> {
    let (uid, gid) = (rustix::process::geteuid(), rustix::process::getegid());
    let uid_map = format!("{uid} {uid} 1\n", uid = uid.as_raw());
    let gid_map = format!("{gid} {gid} 1\n", gid = gid.as_raw());
    let (ours, theirs) = pair()?;
    // SAFETY: the child runs `hold` alone, which neither allocates nor returns.
    let child = unsafe { fork() }?;
    if child == 0 {
        hold(theirs.as_raw_fd(), own_net, uid_map.as_bytes(), gid_map.as_bytes());
    }
    drop(theirs);
    let mut answer = [0u8; 4];
    // SAFETY: `answer` is as long as said.
    let read = unsafe { libc::recv(ours.as_raw_fd(), answer.as_mut_ptr().cast(), 4, 0) };
    let made = if read == 4 { i32::from_ne_bytes(answer) } else { libc::EIO };
    let made = if made == 0 {
        let open = |name: &str| {
            let file = std::fs::File::open(format!("/proc/{child}/ns/{name}"))?;
            Ok::<_, io::Error>(OwnedFd::from(file))
        };
        let net = if own_net { open("net").map(Some) } else { Ok(None) };
        open("user").and_then(|user| Ok(Namespaces { user, ipc: open("ipc")?, net: net? }))
    } else {
        Err(io::Error::from_raw_os_error(made))
    };
    drop(ours);
    let mut status = 0;
    // SAFETY: waits for our own child; `status` is ours.
    while unsafe { libc::waitpid(child, &raw mut status, 0) } < 0
        && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
    {}
    made
}

/// Makes a pair of connected sockets that no program inherits.
pub(super) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut fds = [0; 2];
    let kind = libc::SOCK_SEQPACKET | libc::SOCK_CLOEXEC;
    // SAFETY: `fds` has room for the two descriptors.
    checked(unsafe { libc::socketpair(libc::AF_UNIX, kind, 0, fds.as_mut_ptr()) }.into())?;
    // SAFETY: both were just made, and nobody else knows of them.
    Ok(unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) })
}

/// Sends a number without waiting; false when nobody takes it.
pub(super) fn send(socket: RawFd, number: i32) -> bool {
    let bytes = number.to_ne_bytes();
    let flags = libc::MSG_NOSIGNAL | libc::MSG_DONTWAIT;
    // SAFETY: `bytes` lives during the call and is as long as said.
    unsafe { libc::send(socket, bytes.as_ptr().cast(), bytes.len(), flags) == 4 }
}

/// What a look at a socket gave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Heard {
    Number(i32),
    Nothing,
    /// The other end is closed.
    Gone,
}

/// Takes a number without waiting.
pub(super) fn receive(socket: RawFd) -> Heard {
    let mut bytes = [0u8; 4];
    // SAFETY: `bytes` is as long as said.
    let n = unsafe { libc::recv(socket, bytes.as_mut_ptr().cast(), 4, libc::MSG_DONTWAIT) };
    match n {
        4 => Heard::Number(i32::from_ne_bytes(bytes)),
        n if n < 0 && matches!(errno(), libc::EAGAIN | libc::EINTR) => Heard::Nothing,
        _ => Heard::Gone,
    }
}

fn errno() -> c_int {
    // SAFETY: the pointer is to this thread's own variable.
    unsafe { *libc::__errno_location() }
}

/// Copies this process, without the handlers that the C library's `fork` would run.
///
/// # Safety
/// The child of a process with threads may only do what a signal handler may.
unsafe fn fork() -> io::Result<libc::pid_t> {
    // SAFETY: plain fork semantics: no flag shares memory, so no stack is needed.
    let pid = checked(unsafe {
        libc::syscall(libc::SYS_clone, libc::SIGCHLD as c_ulong, 0usize, 0usize, 0usize, 0usize)
    })?;
    Ok(pid as libc::pid_t)
}

fn exit(code: c_int) -> ! {
    // SAFETY: ends the process at once, without running anything of ours.
    unsafe { libc::_exit(code) }
}

/// The child that makes the namespaces: waits in them until they were taken hold of.
fn hold(control: RawFd, own_net: bool, uid_map: &[u8], gid_map: &[u8]) -> ! {
    block_signals();
    // Copies of other sessions' sockets would keep those from ending.
    // SAFETY: takes numbers only.
    unsafe { libc::dup2(control, 0) };
    close_all_from(1);
    let control = 0;
    let made = in_namespaces(own_net, uid_map, gid_map);
    send(control, made.err().and_then(|e| e.raw_os_error()).unwrap_or(0));
    let mut byte = 0u8;
    // SAFETY: waits until the parent closes its end, or dies.
    unsafe { libc::recv(control, (&raw mut byte).cast(), 1, 0) };
    exit(0)
}

fn in_namespaces(own_net: bool, uid_map: &[u8], gid_map: &[u8]) -> io::Result<()> {
    let net = if own_net { libc::CLONE_NEWNET } else { 0 };
    // The maps belong to whoever may look into us, and that nobody may if our parent forbade it.
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 1, 0, 0, 0) };
    // SAFETY: we have one thread, as every forked child does.
    checked(unsafe { libc::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWIPC | net) }.into())?;
    write(c"/proc/self/setgroups", b"deny")?;
    write(c"/proc/self/uid_map", uid_map)?;
    write(c"/proc/self/gid_map", gid_map)?;
    if own_net {
        loopback_up()?;
    }
    // Some systems let anybody make namespaces and then nothing be done in them.
    // SAFETY: as above.
    checked(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID) }.into())?;
    keep_mounts_to_ourselves()
}

fn write(path: &CStr, bytes: &[u8]) -> io::Result<()> {
    // SAFETY: `path` ends with a NUL, `bytes` is as long as said, and the descriptor is ours.
    unsafe {
        let fd = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        checked(fd.into())?;
        let written = checked(libc::write(fd, bytes.as_ptr().cast(), bytes.len()) as c_long);
        libc::close(fd);
        written.map(drop)
    }
}

fn loopback_up() -> io::Result<()> {
    // SAFETY: `request` is what these two calls read and write, and the descriptor is ours.
    unsafe {
        let socket = libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
        checked(socket.into())?;
        let mut request: libc::ifreq = std::mem::zeroed();
        for (to, from) in request.ifr_name.iter_mut().zip(c"lo".to_bytes()) {
            // Signed on one architecture and not on the other; both hold ASCII.
            *to = libc::c_char::try_from(*from).unwrap_or_default();
        }
        request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
        let up = checked(libc::ioctl(socket, libc::SIOCSIFFLAGS as _, &raw const request).into());
        libc::close(socket);
        up.map(drop)
    }
}

fn keep_mounts_to_ourselves() -> io::Result<()> {
    mount(None, c"/", None, libc::MS_REC | libc::MS_PRIVATE, None)
}

fn mount(
    source: Option<&CStr>,
    at: &CStr,
    kind: Option<&CStr>,
    flags: c_ulong,
    options: Option<&CStr>,
) -> io::Result<()> {
    let pointer = |text: Option<&CStr>| text.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: each pointer is null or to a text that ends with a NUL.
    checked(
        unsafe {
            libc::mount(
                pointer(source),
                at.as_ptr(),
                pointer(kind),
                flags,
                pointer(options).cast::<c_void>(),
            )
        }
        .into(),
    )
    .map(drop)
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    user_ns: u64,
}

const MOUNT_ATTR_RDONLY: u64 = 1;

/// Makes what is at `path` read-only for whoever shares our mounts.
fn mount_read_only(path: &CStr) -> io::Result<()> {
    mount(Some(path), path, None, libc::MS_BIND, None)?;
    let attr = MountAttr { set: MOUNT_ATTR_RDONLY, clear: 0, propagation: 0, user_ns: 0 };
    // SAFETY: `path` ends with a NUL, and `attr` is as long as said.
    checked(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            libc::AT_FDCWD,
            path.as_ptr(),
            0usize,
            &raw const attr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// Everything from here on runs in a forked child: no allocation, no lock, no panic.
impl Orders {
    /// Runs in the child of std's fork. It, or its child, becomes the supervisor and never returns;
    /// what returns is the process that becomes the command.
    fn enter(&self) -> io::Result<()> {
        let control = self.control.as_raw_fd();
        block_signals();
        let Some(namespaces) = &self.namespaces else {
            // SAFETY: takes numbers only.
            checked(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }.into())?;
            // SAFETY: we are a forked child ourselves and go on as one.
            let child = unsafe { fork() }?;
            if child != 0 {
                supervise(control, child, Reach::Children, self.count);
            }
            return self.confine();
        };
        namespaces.join()?;
        // SAFETY: we have one thread.
        checked(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWPID) }.into())?;
        // SAFETY: as above.
        let init = unsafe { fork() }?;
        if init != 0 {
            outlive(init);
        }
        die_with_parent();
        // SAFETY: as above.
        let child = unsafe { fork() }?;
        if child != 0 {
            supervise(control, child, Reach::Namespace, self.count);
        }
        self.confine()
    }

    /// Runs in the process that becomes the command.
    fn confine(&self) -> io::Result<()> {
        // Its own session: without a controlling terminal, `/dev/tty` cannot be opened.
        // SAFETY: takes nothing.
        checked(unsafe { libc::setsid() }.into())?;
        // SAFETY: marks what we inherited from whoever started the agent; nothing is closed yet.
        unsafe {
            libc::syscall(libc::SYS_close_range, 3usize, u32::MAX as usize, CLOSE_RANGE_CLOEXEC);
        }
        if self.namespaces.is_some() {
            self.mount_all()?;
            if let Some(pid_max) = &self.pid_max {
                // Where it may not be written the limit below holds.
                let _ = write(c"/proc/sys/kernel/pid_max", pid_max);
            }
        }
        limit(libc::RLIMIT_CORE, 0)?;
        limit(libc::RLIMIT_FSIZE, self.file_bytes)?;
        if let Some(processes) = self.processes {
            limit(libc::RLIMIT_NPROC, processes)?;
        }
        if self.program.is_some() {
            drop_capabilities();
        }
        // SAFETY: takes numbers only.
        checked(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }.into())?;
        if let Some(ruleset) = &self.ruleset {
            // SAFETY: takes a descriptor and a number.
            checked(unsafe {
                libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0usize)
            })?;
        }
        // Last of what resets it.
        die_with_parent();
        unblock_signals();
        match &self.program {
            Some(program) => install(program.instructions()),
            None => Ok(()),
        }
    }

    fn mount_all(&self) -> io::Result<()> {
        keep_mounts_to_ourselves()?;
        for path in &self.hidden {
            mount(None, path, Some(c"tmpfs"), libc::MS_RDONLY | TAME, Some(c"size=4k,mode=755"))?;
        }
        for path in &self.read_only {
            match mount_read_only(path) {
                // It went away since the parent looked. What appears is looked at afterwards.
                Err(e) if e.raw_os_error() == Some(libc::ENOENT) => {}
                done => done?,
            }
        }
        for fresh in self.fresh {
            // Where it may not be mounted, such as a `proc` in some containers, the old one stays,
            // and Landlock allows of it what it did.
            let options = Some(fresh.options);
            if mount(None, fresh.at, Some(fresh.kind), fresh.flags, options).is_err() {
                continue;
            }
            let Some(ruleset) = &self.ruleset else { continue };
            // SAFETY: the path ends with a NUL, and the descriptor is ours.
            unsafe {
                let fd = libc::open(fresh.at.as_ptr(), libc::O_PATH | libc::O_CLOEXEC);
                checked(fd.into())?;
                let allowed = allow(ruleset.as_raw_fd(), fd, fresh.rights);
                libc::close(fd);
                allowed?;
            }
        }
        Ok(())
    }
}

/// No devices, no set-user-id programs.
pub(super) const TAME: c_ulong = libc::MS_NOSUID | libc::MS_NODEV;

const CLOSE_RANGE_CLOEXEC: usize = 4;

impl Namespaces {
    fn join(&self) -> io::Result<()> {
        // SAFETY: takes a descriptor and a number; we have one thread.
        let join = |fd: &OwnedFd, kind| unsafe {
            checked(libc::setns(fd.as_raw_fd(), kind).into()).map(drop)
        };
        // The user's first: it gives the right to join the others.
        join(&self.user, libc::CLONE_NEWUSER)?;
        join(&self.ipc, libc::CLONE_NEWIPC)?;
        self.net.as_ref().map_or(Ok(()), |net| join(net, libc::CLONE_NEWNET))
    }
}

fn die_with_parent() {
    // SAFETY: takes numbers only.
    unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL, 0, 0, 0) };
}

fn block_signals() {
    // SAFETY: `all` is ours. A handler of the parent's must not run in a copy of it.
    unsafe {
        let mut all = std::mem::zeroed();
        libc::sigfillset(&raw mut all);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const all, std::ptr::null_mut());
    }
}

fn unblock_signals() {
    // SAFETY: `none` is ours.
    unsafe {
        let mut none = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn limit(what: libc::__rlimit_resource_t, most: u64) -> io::Result<()> {
    // SAFETY: `limits` is ours. One that is lower already stays.
    unsafe {
        let mut limits: libc::rlimit = std::mem::zeroed();
        checked(libc::getrlimit(what, &raw mut limits).into())?;
        limits.rlim_max = limits.rlim_max.min(most);
        limits.rlim_cur = limits.rlim_cur.min(most);
        checked(libc::setrlimit(what, &raw const limits).into()).map(drop)
    }
}

#[repr(C)]
struct CapabilityHeader {
    version: u32,
    pid: c_int,
}

/// Gives up every capability. A process that has none to give up, such as a user's outside of a
/// namespace, is told so by errors that say nothing more.
fn drop_capabilities() {
    const VERSION_3: u32 = 0x2008_0522;
    // SAFETY: takes numbers; the header and the data have the layout and length of this version.
    unsafe {
        for capability in 0..64 {
            if libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) != 0 {
                break;
            }
        }
        libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
        let header = CapabilityHeader { version: VERSION_3, pid: 0 };
        let none = [[0u32; 3]; 2];
        libc::syscall(libc::SYS_capset, &raw const header, none.as_ptr());
    }
}

fn install(instructions: &[Instruction]) -> io::Result<()> {
    let program = libc::sock_fprog {
        len: instructions.len() as libc::c_ushort,
        filter: instructions.as_ptr().cast::<libc::sock_filter>().cast_mut(),
    };
    // SAFETY: the program lives during the call, is as long as said, and is only read.
    checked(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER as usize,
            0usize,
            &raw const program,
        )
    })
    .map(drop)
}

/// The process outside of the namespace: ends when the namespace is gone, so that its end says so.
fn outlive(init: libc::pid_t) -> ! {
    close_all_from(0);
    hide_memory();
    let mut status = 0;
    // SAFETY: waits for our own child.
    while unsafe { libc::waitpid(init, &raw mut status, 0) } < 0 && errno() == libc::EINTR {}
    exit(0)
}

fn close_all_from(first: usize) {
    // SAFETY: this process uses none of them any more.
    unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX as usize, 0usize) };
}

/// What dies with a supervisor.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Everything in its process namespace, by the kernel.
    Namespace,
    /// All that is left to it as the reaper of its descendants, by its own hand.
    Children,
}

/// Room for what the kernel tells of a supervisor's children.
const LISTED: usize = 4096;

/// Watches over a command: tells its status, hands signals on, reaps what it leaves, and ends it all
/// when told to or when the other end of `control` closes, as it does when the agent dies.
fn supervise(control: RawFd, command: libc::pid_t, reach: Reach, count: Option<i16>) -> ! {
    // SAFETY: all that follow take numbers, or pointers to what is ours and as long as said; the
    // descriptors are this process's own.
    unsafe {
        libc::dup2(control, 0);
        let children = libc::open(c"/proc/thread-self/children".as_ptr(), libc::O_RDONLY);
        if children > 0 {
            libc::dup2(children, 1);
        } else {
            libc::close(1);
        }
        close_all_from(2);
        libc::prctl(libc::PR_SET_NAME, c"vtcode-leash".as_ptr());
        hide_memory();
        let mut ends: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut ends);
        libc::sigaddset(&raw mut ends, libc::SIGCHLD);
        let ended = libc::signalfd(-1, &raw const ends, libc::SFD_NONBLOCK);
        let before = all_tasks();
        let mut command_ended = false;
        loop {
            loop {
                let mut status = 0;
                let pid = libc::waitpid(-1, &raw mut status, libc::WNOHANG);
                if pid == command {
                    command_ended = true;
                    send(0, status);
                } else if pid < 0 && errno() == libc::ECHILD {
                    exit(0);
                } else if pid <= 0 {
                    break;
                }
            }
            let mut ready = [
                libc::pollfd { fd: 0, events: libc::POLLIN, revents: 0 },
                libc::pollfd { fd: ended, events: libc::POLLIN, revents: 0 },
            ];
            let patience = if count.is_some() { COUNT_MS } else { -1 };
            libc::poll(ready.as_mut_ptr(), 2, patience);
            let mut seen: libc::signalfd_siginfo = std::mem::zeroed();
            libc::read(ended, (&raw mut seen).cast(), size_of_val(&seen));
            let too_many =
                count.is_some_and(|most| more_than(all_tasks().wrapping_sub(before), most));
            match receive(0) {
                _ if too_many => {}
                Heard::Nothing => continue,
                Heard::Number(signal) if signal != libc::SIGKILL => {
                    if !command_ended {
                        libc::kill(-command, signal);
                    }
                    continue;
                }
                Heard::Number(_) | Heard::Gone => {}
            }
            if reach == Reach::Namespace {
                let mut status = 0;
                if !command_ended {
                    libc::kill(-command, libc::SIGKILL);
                    if libc::waitpid(command, &raw mut status, 0) == command {
                        send(0, status);
                    }
                }
                // The kernel kills whatever lives in a namespace without its first process.
                exit(0);
            }
            end_children(command, &mut command_ended);
        }
    }
}

/// A machine that has fewer than before wraps round.
fn more_than(added: u16, most: i16) -> bool {
    added.cast_signed() > most
}

/// Returns how many processes and threads the machine has, as far as 16 bits hold it.
fn all_tasks() -> u16 {
    // SAFETY: `info` is ours.
    unsafe {
        let mut info: libc::sysinfo = std::mem::zeroed();
        libc::sysinfo(&raw mut info);
        info.procs
    }
}

/// How often processes are counted where nothing else bounds them, in milliseconds.
const COUNT_MS: c_int = 100;

/// Kills children until none is left. The children of a dead one become ours, and so the next.
unsafe fn end_children(command: libc::pid_t, command_ended: &mut bool) -> ! {
    let mut list = [0u8; LISTED];
    // SAFETY: as in `supervise`.
    unsafe {
        if !*command_ended {
            libc::kill(-command, libc::SIGKILL);
        }
        loop {
            let n = libc::pread(1, list.as_mut_ptr().cast(), LISTED, 0);
            let n = usize::try_from(n).unwrap_or(0).min(LISTED);
            // A number that is cut off at the end of the room is another process's.
            let whole = if n == LISTED {
                list.iter().rposition(|byte| *byte == b' ').map_or(0, |at| at + 1)
            } else {
                n
            };
            let mut pid: libc::pid_t = 0;
            for byte in &list[..whole] {
                if byte.is_ascii_digit() {
                    pid = pid.wrapping_mul(10).wrapping_add(i32::from(byte - b'0'));
                } else {
                    if pid > 1 {
                        libc::kill(pid, libc::SIGKILL);
                    }
                    pid = 0;
                }
            }
            let mut status = 0;
            let mut dead = libc::waitpid(-1, &raw mut status, 0);
            while dead > 0 {
                if dead == command {
                    *command_ended = true;
                    send(0, status);
                }
                dead = libc::waitpid(-1, &raw mut status, libc::WNOHANG);
            }
            if dead < 0 && errno() == libc::ECHILD {
                exit(0);
            }
        }
    }
}
