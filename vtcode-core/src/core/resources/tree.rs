//! What a process and all that it started used of the processor, while they run.

use std::collections::HashMap;
use std::fs;
use std::time::Duration;

/// What /proc tells of one process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stat {
    parent: u32,
    /// Its own ticks, and those of its children that ended and were waited for.
    ticks: u64,
}

/// Returns the processor time of a process, its living descendants, and all of their children that
/// ended; none where the system does not tell. Looks at every process of the machine, some 10 µs
/// for each: ask where that may wait.
pub fn cpu_of_tree(pid: u32) -> Option<Duration> {
    let mut all: HashMap<u32, Stat> = HashMap::new();
    for entry in fs::read_dir("/proc").ok()?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // One that ends meanwhile has gone into its parent's account, or is about to.
        let stat = fs::read_to_string(entry.path().join("stat"));
        if let Some(stat) = stat.ok().and_then(|stat| parse(&stat)) {
            all.insert(pid, stat);
        }
    }
    all.contains_key(&pid).then(|| {
        let ticks: u64 =
            all.iter().filter(|(at, _)| descends(**at, pid, &all)).map(|(_, s)| s.ticks).sum();
        Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
    })
}

fn descends(mut pid: u32, from: u32, all: &HashMap<u32, Stat>) -> bool {
    // The readings are of different moments: numbers used again could make a ring.
    for _ in 0..=all.len() {
        if pid == from {
            return true;
        }
        let Some(stat) = all.get(&pid) else { return false };
        pid = stat.parent;
    }
    false
}

/// Reads a line of `/proc/PID/stat`; a name in it may hold anything but ends at the last `)`.
fn parse(stat: &str) -> Option<Stat> {
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let parent = fields.nth(1)?.parse().ok()?;
    let times: Option<Vec<u64>> = fields.skip(9).take(4).map(|n| n.parse().ok()).collect();
    Some(Stat { parent, ticks: times?.into_iter().sum() })
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read_whatever_the_process_calls_itself() {
        let line = "7 (a) b) R 3 7 7 0 -1 4194304 1 2 3 4 10 20 30 40 20 0 1 0 5";
        assert_eq!(parse(line), Some(Stat { parent: 3, ticks: 100 }));
        assert_eq!(parse("7 (a) R"), None);
        assert_eq!(parse(""), None);
    }

    #[test]
    fn what_children_and_their_children_use_is_counted() {
        let script = "(i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done); echo done; read end";
        let mut child = std::process::Command::new("sh")
            .args(["-c", script])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        let mut said = std::io::BufReader::new(child.stdout.take().unwrap());
        std::io::BufRead::read_line(&mut said, &mut String::new()).unwrap();
        let used = cpu_of_tree(child.id()).unwrap();
        drop(child.stdin.take());
        child.wait().unwrap();
        assert!(used >= Duration::from_millis(20), "{used:?}");
        assert_eq!(cpu_of_tree(child.id()), None);
    }
}
