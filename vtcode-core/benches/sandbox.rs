//! What the sandbox costs a command, and what a flood of output costs in memory: each kind of
//! sandbox and none run `true` in turns, in one process. Asserts nothing: a figure is read, not
//! obeyed. Give a number to hold that many MiB besides: a start copies the agent's page tables.

#[cfg(not(target_os = "linux"))]
fn main() {
    println!("there is no sandbox for this system");
}

#[cfg(target_os = "linux")]
fn main() {
    linux::main();
}

#[cfg(target_os = "linux")]
mod linux {
    use std::ffi::OsString;
    use std::fs;
    use std::path::Path;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::{Duration, Instant};

    use serde_json::json;
    use tokio_util::sync::CancellationToken;
    use vtcode_core::config::safety::SandboxSettings;
    use vtcode_core::safety::sandbox::{Sandbox, SandboxPlan};
    use vtcode_core::safety::workspace::Workspace;
    use vtcode_core::tools::builtin::run_command::RunCommand;
    use vtcode_core::tools::tool::{CallContext, Tool};

    const ROUNDS: usize = 300;
    const FLOOD: &str = "yes | head -c 1G";

    fn tool(dir: &Path, make: impl Fn(&SandboxPlan<'_>) -> Sandbox) -> RunCommand {
        let workspace = Arc::new(Workspace::open(dir).expect("the folder was just made"));
        let env: Vec<(OsString, OsString)> =
            std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME").collect();
        let settings = SandboxSettings::default();
        let plan = SandboxPlan {
            settings: &settings,
            workspace: &workspace,
            build: None,
            private: Vec::new(),
            env: &env,
        };
        let sandbox = make(&plan);
        if let Some(lacks) = sandbox.lacks() {
            println!("  ({lacks})");
        }
        let spool = dir.join("spool");
        RunCommand::new(workspace, spool, env, 16 << 10, Arc::default(), Arc::new(sandbox))
    }

    async fn run(tool: &RunCommand, command: &str) -> Duration {
        let context = CallContext {
            call_id: "call".into(),
            timeout: Duration::from_secs(600),
            cancel: CancellationToken::new(),
            progress: None,
        };
        let args = json!({ "command": command });
        let began = Instant::now();
        let output = tool.call(&args, &context).await.expect("it starts");
        let took = began.elapsed();
        assert!(output.text.ends_with("exit code 0]"), "{}", output.text);
        took
    }

    /// The memory of this process and of its descendants that run no program of their own, in
    /// KiB; what is shared counts once.
    fn ours() -> u64 {
        let own = std::process::id();
        let pss = |pid: u32| {
            let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
            let line = text.lines().find(|line| line.starts_with("Pss:"))?;
            line.split_whitespace().nth(1)?.parse::<u64>().ok()
        };
        let supervisors =
            fs::read_dir("/proc").into_iter().flatten().flatten().filter_map(|entry| {
                let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
                let name = fs::read_to_string(format!("/proc/{pid}/comm")).ok()?;
                (pid != own && (name.starts_with("vtcode-leash") || name.starts_with("sandbox-")))
                    .then(|| pss(pid))?
            });
        pss(own).unwrap_or_default() + supervisors.sum::<u64>()
    }

    pub(super) fn main() {
        let held = std::env::args().find_map(|arg| arg.parse::<usize>().ok());
        let ballast = vec![1u8; held.unwrap_or_default() << 20];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        runtime.expect("a runtime can be made").block_on(measure());
        drop(std::hint::black_box(ballast));
    }

    async fn measure() {
        let dir = tempfile::tempdir().expect("a folder can be made");
        let dir = dir.path();
        let off = tool(dir, |_| Sandbox::off());
        let bare = tool(dir, |plan| Sandbox::without_namespaces(plan).expect("Landlock is there"));
        let own = tool(dir, |plan| Sandbox::new(plan).expect("Landlock is there"));
        let tools = [("none", &off), ("without namespaces", &bare), ("with namespaces", &own)];
        let mut took: [Vec<Duration>; 3] = Default::default();
        for round in 0..ROUNDS + 20 {
            for (n, (_, tool)) in tools.iter().enumerate() {
                let time = run(tool, "true").await;
                if round >= 20 {
                    took[n].push(time);
                }
            }
        }
        for times in &mut took {
            times.sort_unstable();
        }
        let at = |n: usize, percent: usize| took[n][ROUNDS * percent / 100].as_secs_f64() * 1e3;
        println!("`true`, {ROUNDS} rounds, ms: median (5th and 95th percentile), more than none");
        for (n, (name, _)) in tools.iter().enumerate() {
            let (low, median, high) = (at(n, 5), at(n, 50), at(n, 95));
            let more = median - at(0, 50);
            println!("  {name:<20} {median:.2} ({low:.2} – {high:.2})  + {more:.2}");
        }
        println!("`{FLOOD}`: MiB of the agent and its supervisors, most seen and idle");
        for (name, tool) in tools {
            run(tool, "true").await;
            let idle = ours();
            let stop = Arc::new(AtomicBool::new(false));
            let watch = {
                let stop = Arc::clone(&stop);
                std::thread::spawn(move || {
                    let mut most = 0;
                    while !stop.load(Ordering::Relaxed) {
                        most = most.max(ours());
                        std::thread::sleep(Duration::from_millis(20));
                    }
                    most
                })
            };
            let time = run(tool, FLOOD).await;
            stop.store(true, Ordering::Relaxed);
            let most = watch.join().expect("it does not panic");
            let mib = |kib: u64| kib as f64 / 1024.0;
            let more = mib(most.saturating_sub(idle));
            println!(
                "  {name:<20} {:.1} of {:.1}: + {more:.1} in {time:.1?}",
                mib(most),
                mib(idle)
            );
            let _ = fs::remove_dir_all(dir.join("spool"));
        }
    }
}
