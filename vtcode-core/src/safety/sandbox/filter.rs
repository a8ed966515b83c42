//! The system calls that commands are refused: whether they reach the network comes in, a program
//! for the kernel's filter goes out.
//! Written out rather than by a crate: a refusal must be an error and never a kill, also for a call
//! in another architecture's numbering, and one filter needs two kinds of refusal.
//! Never refuses what a build, a test or an interpreter needs.

/// One instruction of the kernel's filter machine, laid out as the kernel reads it.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Instruction {
    code: u16,
    /// Instructions skipped when a comparison holds, and when not.
    yes: u8,
    no: u8,
    value: u32,
}

/// A filter that can be installed.
#[derive(Debug)]
pub(super) struct Program(Vec<Instruction>);

#[cfg(target_arch = "x86_64")]
const ARCHITECTURE: u32 = 0xc000_003e;
#[cfg(target_arch = "aarch64")]
const ARCHITECTURE: u32 = 0xc000_00b7;

/// Numbers from here are calls of the x32 interface, which has copies of all the others.
#[cfg(target_arch = "x86_64")]
const X32: u32 = 0x4000_0000;

const LOAD: u16 = 0x20;
const EQUAL: u16 = 0x15;
#[cfg(target_arch = "x86_64")]
const AT_LEAST: u16 = 0x35;
const ANY_BIT: u16 = 0x45;
const RETURN: u16 = 0x06;

const ALLOW: u32 = 0x7fff_0000;
const ERROR: u32 = 0x0005_0000;

/// Where the kernel puts the call's number, its numbering and its arguments.
const NUMBER: u32 = 0;
const NUMBERING: u32 = 4;
const fn argument(n: u32) -> u32 {
    // The lower half; both architectures are little-endian.
    16 + 8 * n
}

/// Looking into other processes, changing mounts and namespaces, the kernel itself, its keys, and
/// the two that do other calls' work past this filter or widen what a flaw can reach.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_pidfd_getfd,
    libc::SYS_kcmp,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_move_mount,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_open_tree,
    libc::SYS_mount_setattr,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_unshare,
    libc::SYS_setns,
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_reboot,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_adjtimex,
    libc::SYS_clock_adjtime,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    libc::SYS_nfsservctl,
];

#[cfg(target_arch = "x86_64")]
const REFUSED_HERE: &[libc::c_long] =
    &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS__sysctl];
#[cfg(target_arch = "aarch64")]
const REFUSED_HERE: &[libc::c_long] = &[];

const NEW_NAMESPACES: u32 = (libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWCGROUP) as u32;

/// Typing into the terminal as if the user did.
const TERMINAL_INPUT: [u32; 2] = [libc::TIOCSTI as u32, libc::TIOCLINUX as u32];

impl Program {
    /// Builds the program. Only sockets of these families can be made: what is not listed, such as
    /// a virtual machine's line to its host, is in no network namespace.
    pub(super) fn new(families: &[i32]) -> Self {
        let mut program = vec![
            load(NUMBERING),
            // A program of another architecture works, but for what it asks of the kernel.
            jump(EQUAL, ARCHITECTURE, 1, 0),
            refuse(libc::EPERM),
            load(NUMBER),
        ];
        #[cfg(target_arch = "x86_64")]
        program.extend([jump(AT_LEAST, X32, 0, 1), refuse(libc::ENOSYS)]);
        for number in REFUSED.iter().chain(REFUSED_HERE) {
            program.extend([call_is_or_skip(*number, 1), refuse(libc::EPERM)]);
        }
        // Its flags lie in memory, where no filter can see them; the C library then uses `clone`.
        program.extend([call_is_or_skip(libc::SYS_clone3, 1), refuse(libc::ENOSYS)]);
        program.extend([
            call_is_or_skip(libc::SYS_clone, 4),
            load(argument(0)),
            jump(ANY_BIT, NEW_NAMESPACES, 0, 1),
            refuse(libc::EPERM),
            allow(),
        ]);
        let [first, second] = TERMINAL_INPUT;
        program.extend([
            call_is_or_skip(libc::SYS_ioctl, 5),
            load(argument(1)),
            jump(EQUAL, first, 1, 0),
            jump(EQUAL, second, 0, 1),
            refuse(libc::EPERM),
            allow(),
        ]);
        // The agent's limits: without a process namespace a command could end it by them.
        program.extend([
            call_is_or_skip(libc::SYS_prlimit64, 4),
            load(argument(0)),
            jump(EQUAL, 0, 1, 0),
            refuse(libc::EPERM),
            allow(),
        ]);
        let count = families.len() as u8;
        program.extend([call_is_or_skip(libc::SYS_socket, count + 2), load(argument(0))]);
        for (n, family) in (0..).zip(families) {
            program.push(jump(EQUAL, family.cast_unsigned(), count - n, 0));
        }
        program.push(refuse(libc::EPERM));
        program.push(allow());
        Self(program)
    }

    pub(super) fn instructions(&self) -> &[Instruction] {
        &self.0
    }
}

fn load(offset: u32) -> Instruction {
    Instruction { code: LOAD, yes: 0, no: 0, value: offset }
}

/// Skips `yes` instructions when the comparison of what was loaded holds, else `no`.
fn jump(code: u16, value: u32, yes: u8, no: u8) -> Instruction {
    Instruction { code, yes, no, value }
}

/// Goes on when the call has this number, else skips.
fn call_is_or_skip(number: libc::c_long, skip: u8) -> Instruction {
    jump(EQUAL, (number as i32).cast_unsigned(), 0, skip)
}

fn refuse(errno: i32) -> Instruction {
    Instruction { code: RETURN, yes: 0, no: 0, value: ERROR | errno.cast_unsigned() }
}

fn allow() -> Instruction {
    Instruction { code: RETURN, yes: 0, no: 0, value: ALLOW }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel would answer: an error number, or 0.
    fn verdict(program: &Program, numbering: u32, number: i64, arguments: [u32; 2]) -> u32 {
        let (mut at, mut loaded) = (0usize, 0u32);
        loop {
            let Instruction { code, yes, no, value } = program.0[at];
            at += 1;
            let holds = match code {
                LOAD => {
                    loaded = match value {
                        NUMBER => (number as i32).cast_unsigned(),
                        NUMBERING => numbering,
                        16 => arguments[0],
                        24 => arguments[1],
                        other => panic!("loads {other}"),
                    };
                    continue;
                }
                RETURN if value == ALLOW => return 0,
                RETURN => return value & 0xffff,
                EQUAL => loaded == value,
                ANY_BIT => loaded & value != 0,
                _ => loaded >= value,
            };
            at += usize::from(if holds { yes } else { no });
        }
    }

    #[test]
    fn what_is_refused_is_an_error_and_the_rest_goes_through() {
        let program = Program::new(&[libc::AF_UNIX, libc::AF_INET]);
        let ask = |number, arguments| verdict(&program, ARCHITECTURE, number, arguments);
        let eperm = libc::EPERM.cast_unsigned();
        for number in REFUSED.iter().chain(REFUSED_HERE) {
            assert_eq!(ask(*number, [0, 0]), eperm, "{number}");
        }
        assert_eq!(ask(libc::SYS_clone3, [0, 0]), libc::ENOSYS.cast_unsigned());
        assert_eq!(ask(libc::SYS_clone, [libc::SIGCHLD.cast_unsigned(), 0]), 0);
        assert_eq!(ask(libc::SYS_clone, [libc::CLONE_NEWUSER.cast_unsigned(), 0]), eperm);
        assert_eq!(ask(libc::SYS_ioctl, [0, libc::TIOCGWINSZ as u32]), 0);
        assert_eq!(ask(libc::SYS_prlimit64, [0, 7]), 0);
        assert_eq!(ask(libc::SYS_prlimit64, [4711, 7]), eperm);
        for input in TERMINAL_INPUT {
            assert_eq!(ask(libc::SYS_ioctl, [0, input]), eperm);
        }
        for (family, answer) in [
            (libc::AF_UNIX, 0),
            (libc::AF_INET, 0),
            (libc::AF_INET6, eperm),
            (libc::AF_VSOCK, eperm),
        ] {
            assert_eq!(ask(libc::SYS_socket, [family.cast_unsigned(), 0]), answer, "{family}");
        }
        for number in [libc::SYS_read, libc::SYS_openat, libc::SYS_execve, libc::SYS_connect] {
            assert_eq!(ask(number, [0, 0]), 0);
        }
    }

    #[test]
    fn calls_in_another_numbering_are_refused() {
        let program = Program::new(&[libc::AF_UNIX]);
        let other = ARCHITECTURE ^ 1;
        assert_eq!(verdict(&program, other, 3, [0, 0]), libc::EPERM.cast_unsigned());
        #[cfg(target_arch = "x86_64")]
        {
            let x32 = i64::from(X32) | libc::SYS_ptrace;
            assert_eq!(verdict(&program, ARCHITECTURE, x32, [0, 0]), libc::ENOSYS.cast_unsigned());
        }
    }
}
