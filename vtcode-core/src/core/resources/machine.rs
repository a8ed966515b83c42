//! The machine that something was measured on: what stands beside figures, so that they can be
//! compared.

use std::fs;

/// A machine, as it is now.
#[derive(Debug, Clone, PartialEq)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// Processors that this process may use.
    pub cores: usize,
    /// The system and its version.
    pub system: String,
    /// Runnable processes over the last minute; none where the system does not tell.
    pub load: Option<f64>,
}

impl Machine {
    /// Looks at this machine.
    pub fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        let cpu = read("/proc/cpuinfo");
        let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split_once(':'));
        Self {
            cpu: cpu.map_or_else(
                || format!("unknown {}", std::env::consts::ARCH),
                |(_, name)| name.trim().to_owned(),
            ),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            system: format!(
                "{} {}",
                std::env::consts::OS,
                read("/proc/sys/kernel/osrelease").trim()
            ),
            load: read("/proc/loadavg")
                .split_ascii_whitespace()
                .next()
                .and_then(|n| n.parse().ok()),
        }
    }

    /// Returns the name of its class: times on two machines of one class can be compared.
    pub fn class(&self) -> String {
        format!("{}, {} cores", self.cpu, self.cores)
    }
}
