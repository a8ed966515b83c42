//! The kernel's account of a process; there is no safe binding for it among our dependencies.
#![expect(unsafe_code, reason = "getrusage fills a structure that it is given")]

use std::time::Duration;

/// What `getrusage` tells.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Usage {
    pub(super) user: Duration,
    pub(super) system: Duration,
    pub(super) peak_resident_bytes: u64,
    pub(super) waits: u64,
    pub(super) preemptions: u64,
    pub(super) major_faults: u64,
}

pub(super) fn own() -> Usage {
    read(libc::RUSAGE_SELF)
}

/// Of children that ended and were waited for.
pub(super) fn children() -> Usage {
    read(libc::RUSAGE_CHILDREN)
}

fn read(who: libc::c_int) -> Usage {
    // SAFETY: the structure holds numbers alone, for which all zero is a value.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: the kernel writes no more than the structure it is given.
    if unsafe { libc::getrusage(who, &raw mut usage) } != 0 {
        return Usage::default();
    }
    let number = |n: libc::c_long| u64::try_from(n).unwrap_or(0);
    let time = |t: libc::timeval| {
        let micros = u64::try_from(t.tv_usec).unwrap_or(0);
        Duration::from_secs(u64::try_from(t.tv_sec).unwrap_or(0)) + Duration::from_micros(micros)
    };
    // Linux counts in KiB, the BSDs' descendants in bytes.
    let unit = if cfg!(target_vendor = "apple") { 1 } else { 1024 };
    Usage {
        user: time(usage.ru_utime),
        system: time(usage.ru_stime),
        peak_resident_bytes: number(usage.ru_maxrss) * unit,
        waits: number(usage.ru_nvcsw),
        preemptions: number(usage.ru_nivcsw),
        major_faults: number(usage.ru_majflt),
    }
}
