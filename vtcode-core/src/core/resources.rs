//! What this process has used of the machine: readings of /proc and of the kernel's accounts come
//! out. The only reader of either.
//! What a system does not tell is zero or none; a reading never fails.

use std::fs;
use std::io::Read as _;
use std::time::Duration;

use serde::{Deserialize, Serialize};

mod machine;
mod tree;
mod usage;

pub use machine::Machine;
pub use tree::cpu_of_tree;

/// What the process has used since it started, and what it holds now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resources {
    /// Processor time in our own code, all threads together, in microseconds where it is written.
    #[serde(rename = "cpu_user_us", with = "crate::core::event::micros")]
    pub cpu_user: Duration,
    /// Processor time in the kernel on our behalf, in microseconds where it is written.
    #[serde(rename = "cpu_system_us", with = "crate::core::event::micros")]
    pub cpu_system: Duration,
    /// Processor time of child processes that ended, in microseconds where it is written.
    #[serde(rename = "children_cpu_us", with = "crate::core::event::micros")]
    pub children_cpu: Duration,
    /// Bytes of memory that are resident now.
    pub resident_bytes: u64,
    /// The most bytes that were resident.
    pub peak_resident_bytes: u64,
    /// Times that a thread gave the processor away: it waited.
    pub waits: u64,
    /// Times that the processor was taken from a thread.
    pub preemptions: u64,
    /// Page faults that read from a disk.
    pub major_faults: u64,
    /// Open descriptors now; none where the system does not tell.
    pub open_files: Option<u64>,
    /// Bytes that calls such as `read` gave us: files, pipes and sockets.
    pub bytes_read: u64,
    /// Bytes that calls such as `write` took from us.
    pub bytes_written: u64,
}

impl Resources {
    /// Reads all of it; some 20 µs.
    pub fn read() -> Self {
        let (own, children) = (usage::own(), usage::children());
        let io = fs::read_to_string("/proc/self/io").unwrap_or_default();
        Self {
            cpu_user: own.user,
            cpu_system: own.system,
            children_cpu: children.user + children.system,
            resident_bytes: resident_bytes(),
            peak_resident_bytes: own.peak_resident_bytes,
            waits: own.waits,
            preemptions: own.preemptions,
            major_faults: own.major_faults,
            // The folder that is read is itself open meanwhile.
            open_files: fs::read_dir("/proc/self/fd")
                .ok()
                .map(|dir| (dir.count() as u64).max(1) - 1),
            bytes_read: number_after(&io, "rchar:"),
            bytes_written: number_after(&io, "wchar:"),
        }
    }

    /// Returns the processor time of this process, its children's left out.
    pub fn cpu(&self) -> Duration {
        self.cpu_user + self.cpu_system
    }

    /// Returns what was used since an earlier reading; what is held stays as it is now.
    #[must_use]
    pub fn since(&self, earlier: &Self) -> Self {
        Self {
            cpu_user: self.cpu_user.saturating_sub(earlier.cpu_user),
            cpu_system: self.cpu_system.saturating_sub(earlier.cpu_system),
            children_cpu: self.children_cpu.saturating_sub(earlier.children_cpu),
            waits: self.waits.saturating_sub(earlier.waits),
            preemptions: self.preemptions.saturating_sub(earlier.preemptions),
            major_faults: self.major_faults.saturating_sub(earlier.major_faults),
            bytes_read: self.bytes_read.saturating_sub(earlier.bytes_read),
            bytes_written: self.bytes_written.saturating_sub(earlier.bytes_written),
            ..*self
        }
    }
}

/// Returns the bytes of memory that are resident now; 0 where the system does not tell. Some 3 µs.
pub fn resident_bytes() -> u64 {
    // Pages: all, resident, shared, … Read into place: it is asked for before each request and call.
    let mut statm = [0; 256];
    let read = fs::File::open("/proc/self/statm").and_then(|mut file| file.read(&mut statm));
    let statm = str::from_utf8(&statm[..read.unwrap_or(0)]).unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

fn number_after(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn what_is_used_shows_and_what_was_used_before_does_not() {
        let before = Resources::read();
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![7; 300_000]).unwrap();
        assert_eq!(fs::read(file.path()).unwrap().len(), 300_000);
        let held = std::hint::black_box(vec![1_u8; 64 << 20]);
        let mut n = 0_u64;
        while Resources::read().since(&before).cpu() < Duration::from_millis(5) {
            n = std::hint::black_box(n + 1);
        }
        let used = Resources::read().since(&before);
        assert!(used.bytes_written >= 300_000 && used.bytes_read >= 300_000, "{used:?}");
        assert!(used.resident_bytes >= held.len() as u64, "{used:?}");
        assert!(used.peak_resident_bytes >= held.len() as u64, "{used:?}");
        assert!(used.open_files.is_some_and(|files| files >= 3), "{used:?}");
        assert!(used.cpu() < before.cpu() + Duration::from_secs(600), "{used:?}");
    }

    #[test]
    fn what_is_not_told_is_zero() {
        assert_eq!(number_after("rchar: 12\nwchar: x\n", "rchar:"), 12);
        assert_eq!(number_after("rchar: 12\nwchar: x\n", "wchar:"), 0);
        assert_eq!(number_after("", "rchar:"), 0);
    }
}
