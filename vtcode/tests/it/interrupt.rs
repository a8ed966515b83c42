//! Ctrl-C and its kin: the run ends promptly, nothing it started stays, what was done is kept.

use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};
use serde_json::json;
use vtcode_testkit::{Fault, ScriptedModel, call, say, think};

use crate::user::User;

/// Says that it runs and stays, as two processes that are found by an argument of their own: the ids
/// that a command sees need not be ours.
const STAYS: &str = "bash -c 'sleep $0; :' MARK & echo pids; sleep MARK";

/// The processes that have an argument, each held so that its number stays its own.
struct Processes(Vec<OwnedFd>);

/// Returns [`STAYS`] with an argument that no other test has, and that argument.
fn stays(number: u32) -> (String, String) {
    let mark = format!("{number}.{}", std::process::id());
    (STAYS.replace("MARK", &mark), mark)
}

impl Processes {
    /// Finds the two of [`STAYS`]: the shell says that they run a moment before they do.
    fn of(mark: &str) -> Self {
        for _ in 0..6000 {
            let found = Self::now(mark);
            if found.0.len() >= 2 {
                return found;
            }
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
        panic!("they do not run");
    }

    fn now(mark: &str) -> Self {
        let held = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|process| {
            let pid = Pid::from_raw(process.file_name().to_str()?.parse().ok()?)?;
            let line = std::fs::read(process.path().join("cmdline")).ok()?;
            let mut arguments = line.split(|byte| *byte == 0);
            arguments.any(|argument| argument == mark.as_bytes()).then_some(pid)
        });
        // One that ended meanwhile was none of those that stay.
        Self(held.filter_map(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()).collect())
    }

    /// Asserts that all of them end without anybody's further doing. What was killed may take a
    /// moment to die.
    #[track_caller]
    fn are_gone(self) {
        for process in &self.0 {
            let mut exit = [PollFd::new(process, PollFlags::IN)];
            let patience = Timespec { tv_sec: 60, tv_nsec: 0 };
            let ended = loop {
                match poll(&mut exit, Some(&patience)) {
                    Err(Errno::INTR) => {}
                    ended => break ended.unwrap(),
                }
            };
            assert_eq!(ended, 1, "a process stays");
        }
    }
}

#[tokio::test]
async fn a_running_command_is_ended_with_all_its_children() {
    for signal in [Signal::INT, Signal::TERM, Signal::HUP] {
        let (stays, mark) = stays(7001);
        let user = User::new();
        let model = ScriptedModel::start(vec![
            call("write_file", json!({"path": "done.txt", "content": "done\n"})),
            call("run_command", json!({"command": stays})),
        ])
        .await;
        let mut running = user.exec(&model, "go").start();
        let processes = {
            running.stderr_says("│ pids").await;
            Processes::of(&mark)
        };
        running.signal(signal);
        let ran = running.end().await.exits(130).prints("");
        let id = user.session_ids().remove(0);
        ran.says("vtcode: interrupted").says(&format!("vtcode resume {id}")).says("done.txt");
        processes.are_gone();

        let journal = user.journal();
        let finished: Vec<_> = journal.iter().filter(|r| r["type"] == "tool_finished").collect();
        assert_eq!(finished.len(), 2);
        assert!(finished[1]["text"].as_str().unwrap().ends_with("[interrupted]"));
        assert_eq!(journal.last().unwrap()["type"], "prompt_failed");
        let list = user.vtcode(["sessions"]).run().await.exits(0);
        assert!(list.stdout.contains("interrupted"), "{list}");
    }
}

#[tokio::test]
async fn a_command_that_ignores_signals_is_ended_all_the_same() {
    let user = User::new();
    let (stays, mark) = stays(7002);
    let stubborn = format!("trap '' INT TERM HUP; {stays}");
    let model = ScriptedModel::start(vec![call("run_command", json!({"command": stubborn}))]).await;
    let mut running = user.exec(&model, "go").start();
    let processes = {
        running.stderr_says("│ pids").await;
        Processes::of(&mark)
    };
    running.signal(Signal::INT);
    running.end().await.exits(130);
    processes.are_gone();
}

#[tokio::test]
async fn a_run_that_is_to_outlive_its_terminal_does() {
    let user = User::new();
    let wait = "echo waiting; until test -e go; do sleep 0.01; done";
    let model =
        ScriptedModel::start(vec![call("run_command", json!({"command": wait})), say("Done.")])
            .await;
    let script = "trap '' HUP; exec \"$0\" exec --model scripted --base-url \"$1\" hi";
    let url = model.openai_url();
    let nohup = user.program("/bin/sh", ["-c", script, env!("CARGO_BIN_EXE_vtcode"), &url]);
    let mut running = nohup.start();
    running.stderr_says("│ waiting").await;
    running.signal(Signal::HUP);
    std::fs::write(user.folder.path().join("go"), "").unwrap();
    running.end().await.exits(0).prints("Done.\n");
}

#[tokio::test]
async fn words_that_were_streamed_are_kept() {
    for signal in [Signal::INT, Signal::TERM] {
        let user = User::new();
        let half = think("Hm.").and(say("Half of the")).fault(Fault::StallAfterEvents(3));
        let model = ScriptedModel::start(vec![half, say("Whole.")]).await;
        let mut running = user.exec(&model, "go").arg("--json").start();
        // Thinking is whole when the first words come.
        running.stdout_says("reasoning").await;
        running.signal(signal);
        let ran = running.end().await.exits(130).says("vtcode resume");
        let lines = ran.lines();
        assert_eq!(lines.last().unwrap()["type"], "turn.failed");
        assert_eq!(lines.last().unwrap()["error"]["message"], "interrupted");

        user.vtcode(["resume", "--last", "go on"]).run().await.exits(0).prints("Whole.\n");
        let messages = model.requests()[1].json()["messages"].clone();
        assert_eq!(messages[2]["content"], "Half of the");
        assert_eq!(messages[3]["content"], "go on");
    }
}

#[tokio::test]
async fn a_model_that_says_nothing_can_be_left() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("").fault(Fault::StallAfterEvents(0))]).await;
    let running = user.exec(&model, "go").start();
    model.wait_for_requests(1).await;
    running.signal(Signal::INT);
    running.end().await.exits(130).says("interrupted");
    model.wait_until(|requests| requests[0].client_left).await;
}

#[tokio::test]
async fn timeout_which_asks_twice_at_the_same_moment_gets_an_end_in_order() {
    let user = User::new();
    let (stays, mark) = stays(7003);
    let stubborn = format!("trap '' INT TERM HUP; {stays}");
    let model = ScriptedModel::start(vec![call("run_command", json!({"command": stubborn}))]).await;
    let mut running = user.exec(&model, "go").start();
    let processes = {
        running.stderr_says("│ pids").await;
        Processes::of(&mark)
    };
    running.signal(Signal::INT);
    running.signal(Signal::TERM);
    running.end().await.exits(130).says("vtcode: interrupted").says("vtcode resume");
    processes.are_gone();
}

#[tokio::test]
async fn a_wait_for_the_next_attempt_can_be_left() {
    let user = User::new();
    let later = Fault::status(503).header("retry-after", "1000");
    let model = ScriptedModel::start(vec![vtcode_testkit::fail(later)]).await;
    let mut running = user.exec(&model, "go").start();
    running.stderr_says("attempt 2").await;
    running.signal(Signal::INT);
    running.end().await.exits(130);
}

#[tokio::test]
async fn nothing_outlives_an_agent_that_was_killed() {
    let (stays, mark) = stays(7009);
    let escapes = format!("setsid -f sleep {mark}; trap '' INT TERM HUP; {stays}");
    let user = User::new();
    let model = ScriptedModel::start(vec![call("run_command", json!({"command": escapes}))]).await;
    let mut running = user.exec(&model, "go").start();
    running.stderr_says("│ pids").await;
    let processes = Processes::of(&mark);
    running.signal(Signal::KILL);
    processes.are_gone();
}
