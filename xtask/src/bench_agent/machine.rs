//! The machine that was measured on: what stands beside the figures, so that they can be compared.

use std::fs;
use std::time::SystemTime;

use serde_json::{Value, json};

/// Above this, others use the machine as well.
const QUIET_LOAD: f64 = 0.5;

#[derive(Debug, Clone)]
pub(crate) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    date: String,
    /// Runnable processes over the last minute; `None` where the system does not tell.
    load: Option<f64>,
}

impl Machine {
    /// Looks at the machine as it is now.
    pub(crate) fn now() -> Self {
        let read = |path| fs::read_to_string(path).unwrap_or_default();
        Self {
            cpu: model_name(&read("/proc/cpuinfo"))
                .unwrap_or_else(|| format!("unknown {}", std::env::consts::ARCH)),
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: format!(
                "{} {}",
                std::env::consts::OS,
                read("/proc/sys/kernel/osrelease").trim()
            ),
            date: httpdate::fmt_http_date(SystemTime::now()),
            load: load(&read("/proc/loadavg")),
        }
    }

    /// Returns the lines above the table.
    pub(crate) fn text(&self) -> String {
        let Self { cpu, cores, kernel, date, load } = self;
        let load_text = load.map_or_else(|| "unknown".to_owned(), |load| format!("{load:.2}"));
        let mut text = format!("{cpu} · {cores} cores · {kernel} · {date} · load {load_text}\n");
        if load.is_none_or(|load| load > QUIET_LOAD) {
            text.push_str(
                "warning: the machine is not quiet; times are noisy, bytes and counts are not\n",
            );
        }
        text
    }

    pub(super) fn json(&self) -> Value {
        let Self { cpu, cores, kernel, date, load } = self;
        json!({"cpu": cpu, "cores": cores, "kernel": kernel, "date": date, "load": load})
    }
}

fn model_name(cpuinfo: &str) -> Option<String> {
    let line = cpuinfo.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn load(loadavg: &str) -> Option<f64> {
    loadavg.split_ascii_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_machine_is_warned_of() {
        let machine = |load| Machine {
            cpu: "A".to_owned(),
            cores: 2,
            kernel: "linux 6".to_owned(),
            date: "today".to_owned(),
            load,
        };
        assert_eq!(machine(Some(0.25)).text(), "A · 2 cores · linux 6 · today · load 0.25\n");
        assert!(machine(Some(0.75)).text().contains("\nwarning: "));
        assert!(machine(None).text().contains("load unknown\nwarning: "));
    }

    #[test]
    fn the_first_core_and_the_last_minute_are_read() {
        let cpuinfo = "processor\t: 0\nmodel name\t: Fast CPU @ 3 GHz\nprocessor\t: 1\n";
        assert_eq!(model_name(cpuinfo).as_deref(), Some("Fast CPU @ 3 GHz"));
        assert_eq!(model_name("processor : 0\n"), None);
        assert_eq!(load("1.25 0.50 0.10 2/300 4711\n"), Some(1.25));
        assert_eq!(load(""), None);
    }
}
