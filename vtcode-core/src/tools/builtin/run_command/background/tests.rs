//! Long-lived commands through the three tools. The server of most tests is `cat in`: what a test
//! writes into the FIFO `in` is what it prints, and it ends when the test closes the FIFO.

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::path::Path;

use serde_json::{Value, json};

use super::*;
use crate::safety::sandbox::Sandbox;
use crate::safety::workspace::Workspace;
use crate::tools::builtin::command_output::CommandOutput;
use crate::tools::builtin::command_stop::CommandStop;
use crate::tools::builtin::read_file::ReadFile;
use crate::tools::builtin::run_command::RunCommand;
use crate::tools::builtin::run_command::tests::{assert_dies, state};
use crate::tools::builtin::testing::{self, Place};
use crate::tools::tool::{Effect, Tool};

/// A guard against hanging, far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);
/// No call ends by its deadline before the guard fails the test.
const LONGER: Duration = Duration::from_secs(600);

struct Room {
    place: Place,
    /// What the test writes is what `cat in` prints.
    input: Option<File>,
    run: RunCommand,
    output: CommandOutput,
    stop: CommandStop,
}

fn room() -> Room {
    room_with(16 * 1024)
}

fn room_with(result_bytes: usize) -> Room {
    let place = Place::with(&[]);
    let fifo = place.path("in");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    // For both, so that opening it waits for nobody.
    let input = Some(OpenOptions::new().read(true).write(true).open(fifo).unwrap());
    let background = Arc::new(Background::default());
    let mut run = RunCommand::new(
        Arc::clone(&place.workspace),
        place.outside().join("spool"),
        vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
        result_bytes,
        Arc::clone(&background),
        Arc::new(Sandbox::off()),
    );
    // Most tests start what prints nothing of its own.
    (run.first, run.settle) = (Duration::ZERO, Duration::ZERO);
    let output = CommandOutput::new(Arc::clone(&background));
    Room { place, input, run, output, stop: CommandStop::new(background) }
}

fn context() -> CallContext {
    CallContext { timeout: LONGER, ..testing::context() }
}

async fn called(
    tool: &impl Tool,
    args: Value,
    context: &CallContext,
) -> Result<ToolOutput, ToolError> {
    tokio::time::timeout(LONG, tool.call(&args, context)).await.expect("it hangs")
}

async fn text(tool: &impl Tool, args: Value) -> String {
    match called(tool, args, &context()).await {
        Ok(output) => output.text,
        Err(error) => error.to_string(),
    }
}

impl Room {
    async fn start(&self, command: &str) -> String {
        text(&self.run, json!({"command": command, "background": true})).await
    }

    async fn look(&self, id: &str) -> String {
        text(&self.output, json!({"id": id})).await
    }

    async fn wait(&self, id: &str) -> String {
        text(&self.output, json!({"id": id, "wait_ms": 1})).await
    }

    async fn stop(&self, id: &str) -> String {
        text(&self.stop, json!({"id": id})).await
    }

    /// Starts a command and waits until what it prints ends with `end`; returns all of that.
    async fn start_until(&self, id: &str, command: &str, end: &str) -> String {
        // The first answer has as much of it as came in time.
        let mut text = self.start(command).await;
        let mut all = String::new();
        loop {
            let (news, how) = text.rsplit_once('[').unwrap();
            assert!(how.starts_with(&format!("{id} runs")), "{all}{text}");
            all.push_str(news);
            if all.ends_with(end) {
                return all;
            }
            text = self.wait(id).await;
        }
    }

    async fn wait_for_news(&self, id: &str) {
        tokio::time::timeout(LONG, self.job(id).news()).await.expect("it hangs");
    }

    async fn wait_for_end(&self, id: &str) {
        tokio::time::timeout(LONG, self.job(id).end()).await.expect("it lives on");
    }

    fn job(&self, id: &str) -> Arc<Job> {
        self.run.background.find(id).unwrap()
    }

    fn print(&self, bytes: impl AsRef<[u8]>) {
        self.input.as_ref().unwrap().write_all(bytes.as_ref()).unwrap();
    }

    /// Lets the server get to the end of its input, which it must have opened: it gave some back.
    fn close(&mut self) {
        self.input = None;
    }

    fn spool(&self, id: &str) -> String {
        let dir = self.place.outside().join("spool").canonicalize().unwrap();
        dir.join(id).with_extension("txt").display().to_string()
    }
}

#[tokio::test]
async fn each_piece_is_given_once_and_then_how_it_ended() {
    let mut room = room();
    let started = room.start("cat in; exit 3").await;
    assert_eq!(started, format!("[bg1 runs; all it prints is kept in {}]", room.spool("bg1")));
    room.print("one\n");
    assert_eq!(room.wait("bg1").await, "one\n[bg1 runs]");
    assert_eq!(room.look("bg1").await, "[bg1 runs]");
    room.print("two\nthr");
    assert_eq!(room.wait("bg1").await, "two\nthr\n[bg1 runs]");
    room.print("ee\n");
    assert_eq!(room.wait("bg1").await, "ee\n[bg1 runs]");
    room.print("last");
    room.close();
    room.wait_for_end("bg1").await;
    assert_eq!(room.look("bg1").await, "last\n[bg1 ended: exit code 3]");
    assert_eq!(room.wait("bg1").await, "[bg1 ended: exit code 3]");
    assert_eq!(room.stop("bg1").await, "[bg1 ended: exit code 3]");
    assert_eq!(std::fs::read_to_string(room.spool("bg1")).unwrap(), "one\ntwo\nthree\nlast");
}

#[tokio::test]
async fn a_wait_ends_with_the_first_output_and_not_before() {
    let room = room();
    room.start("cat in").await;
    let wait = room.wait("bg1");
    tokio::pin!(wait);
    assert!(futures_util::poll!(&mut wait).is_pending());
    room.print("now\n");
    assert_eq!(wait.await, "now\n[bg1 runs]");
}

#[tokio::test]
async fn a_wait_ends_with_the_command() {
    let mut room = room();
    room.start("cat in").await;
    room.print("it reads\n");
    room.wait("bg1").await;
    let input = room.input.take();
    let wait = room.wait("bg1");
    tokio::pin!(wait);
    assert!(futures_util::poll!(&mut wait).is_pending());
    drop(input);
    assert_eq!(wait.await, "[bg1 ended: exit code 0]");
}

#[tokio::test]
async fn a_wait_in_vain_tells_that_it_runs() {
    let room = room();
    room.start("cat in").await;
    let args = json!({"id": "bg1", "wait_ms": 20});
    assert_eq!(room.output.timeout(&args), Some(Duration::from_millis(20)));
    let context = CallContext { timeout: Duration::from_millis(20), ..context() };
    assert_eq!(called(&room.output, args, &context).await.unwrap().text, "[bg1 runs]");
    let none = json!({"id": "bg1", "wait_ms": 0});
    assert_eq!(room.output.timeout(&none), None);
    assert_eq!(text(&room.output, none).await, "[bg1 runs]");
}

#[tokio::test]
async fn an_interrupted_wait_loses_nothing() {
    let room = room();
    room.start("cat in").await;
    let context = context();
    let args = json!({"id": "bg1", "wait_ms": 1});
    let interrupt = async { context.cancel.cancel() };
    let (result, ()) = tokio::join!(called(&room.output, args.clone(), &context), interrupt);
    assert!(matches!(result, Err(ToolError::Cancelled { .. })), "{result:?}");
    room.print("kept\n");
    room.wait_for_news("bg1").await;
    let late = called(&room.output, args, &context).await;
    assert!(matches!(late, Err(ToolError::Cancelled { .. })), "{late:?}");
    assert_eq!(room.look("bg1").await, "kept\n[bg1 runs]");
}

#[tokio::test]
async fn what_fails_at_once_says_so_in_the_first_answer() {
    let mut room = room();
    (room.run.first, room.run.settle) = (LONG, LONG);
    let args = json!({"command": "echo oops >&2; exit 7", "background": true});
    let output = called(&room.run, args, &context()).await.unwrap();
    assert_eq!(output.text, "oops\n[bg1 ended: exit code 7]");
    assert!(!output.is_error);
    let Detail::Command { exit_code: Some(7), output_bytes: 5, spool: Some(_) } = output.detail
    else {
        panic!("{:?}", output.detail);
    };
    let missing = room.start("no-such-program").await;
    assert!(missing.contains("not found\n[bg2 ended: exit code 127]"), "{missing}");
    assert_eq!(room.start("").await, "[bg3 ended: exit code 0]");
    assert_eq!(room.start("kill -9 $$").await, "[bg4 ended: killed by signal 9]");
}

#[tokio::test]
async fn the_first_answer_comes_with_the_first_output() {
    let mut room = room();
    room.run.first = LONG;
    let started = room.start("echo up; cat in").await;
    let told = format!("up\n[bg1 runs; all it prints is kept in {}]", room.spool("bg1"));
    assert_eq!(started, told);
    assert_eq!(room.look("bg1").await, "[bg1 runs]");
}

#[tokio::test]
async fn a_command_that_cannot_start_takes_no_id() {
    let room = room();
    let nul = json!({"command": "echo \0", "background": true});
    let nul = called(&room.run, nul, &context()).await;
    assert!(matches!(nul, Err(ToolError::BadArguments { .. })), "{nul:?}");
    assert!(room.start("cat in").await.contains("bg1 runs"));
}

#[tokio::test]
async fn people_see_what_is_told() {
    let room = room();
    room.start("cat in").await;
    room.print("one\n");
    room.wait_for_news("bg1").await;
    let seen = Arc::new(Mutex::new(String::new()));
    let all = Arc::clone(&seen);
    let progress = Arc::new(move |text: &str| all.lock().unwrap().push_str(text));
    let context = CallContext { progress: Some(progress), ..context() };
    let output = called(&room.output, json!({"id": "bg1"}), &context).await.unwrap();
    assert_eq!(output.detail, Detail::Summary { line: "bg1 runs".to_owned() });
    assert_eq!(*seen.lock().unwrap(), "one\n");
}

#[tokio::test]
async fn a_stopped_command_may_say_goodbye() {
    let mut room = room();
    room.run.long_grace = LONG;
    room.start_until("bg1", "trap 'echo bye; exit 4' TERM; echo up; cat in", "up\n").await;
    // The shell may have a word to say about its child.
    let stopped = room.stop("bg1").await;
    assert!(stopped.ends_with("bye\n[bg1 stopped: exit code 4]"), "{stopped}");
    assert_eq!(room.stop("bg1").await, "[bg1 stopped: exit code 4]");
    assert_eq!(room.look("bg1").await, "[bg1 stopped: exit code 4]");
}

#[tokio::test]
async fn a_command_that_will_not_stop_is_killed() {
    let mut room = room();
    room.run.long_grace = Duration::from_millis(20);
    let pid = room.start_until("bg1", "trap '' TERM; echo $$; cat in", "\n").await;
    assert_eq!(room.stop("bg1").await, "[bg1 stopped: killed by signal 9]");
    assert_eq!(state(&pid), None, "not even a zombie is left");
}

#[tokio::test]
async fn two_who_stop_it_both_learn_how_it_ended() {
    let room = room();
    room.start("cat in").await;
    let (one, other) = tokio::join!(room.stop("bg1"), room.stop("bg1"));
    assert_eq!(one, "[bg1 stopped: killed by signal 15]");
    assert_eq!(one, other);
}

#[tokio::test]
async fn an_interrupted_stop_still_stops() {
    let room = room();
    room.start("cat in").await;
    let context = context();
    context.cancel.cancel();
    let result = called(&room.stop, json!({"id": "bg1"}), &context).await;
    assert!(matches!(result, Err(ToolError::Cancelled { .. })), "{result:?}");
    room.wait_for_end("bg1").await;
    assert_eq!(room.look("bg1").await, "[bg1 stopped: killed by signal 15]");
}

#[tokio::test]
async fn an_unknown_id_is_told_the_known_ones() {
    let room = room();
    assert_eq!(
        room.look("bg1").await,
        "no background command `bg1`: none was started in this session"
    );
    room.start("cat in").await;
    assert_eq!(room.stop("1").await, "no background command `1`: there is bg1; running: bg1");
    room.start("cat in").await;
    room.stop("bg1").await;
    let known = "no background command `bg9`: there are bg1 to bg2; running: bg2";
    assert_eq!(room.look("bg9").await, known);
    room.stop(" bg2 ").await;
    assert!(room.look("").await.ends_with("there are bg1 to bg2; none runs"));
}

#[tokio::test]
async fn more_than_a_few_at_once_are_refused_until_one_ends() {
    let room = room();
    for n in 1..=MAX {
        assert!(room.start("cat in").await.starts_with(&format!("[bg{n} runs;")));
    }
    let refused = "refused: 8 background commands run already (bg1, bg2, bg3, bg4, bg5, bg6, bg7, \
                   bg8); end one with command_stop";
    assert_eq!(room.start("cat in; touch ran").await, refused);
    room.stop("bg3").await;
    assert!(room.start("cat in").await.starts_with("[bg9 runs;"));
    assert!(!room.place.path("ran").exists());
}

/// Starts commands of several processes that ignore what they can, and returns the process ids of
/// the shells and of the others.
async fn stubborn(room: &Room) -> (Vec<String>, Vec<String>) {
    let command = "trap '' TERM HUP INT; sleep 600 & (sleep 600 >/dev/null 2>&1 & echo $!); \
                   echo $!; echo $$; echo up; wait";
    let (mut leaders, mut others) = (Vec::new(), Vec::new());
    for id in ["bg1", "bg2", "bg3"] {
        let printed = room.start_until(id, command, "up\n").await;
        let pids: Vec<_> = printed.lines().map(str::to_owned).collect();
        others.extend_from_slice(&pids[..2]);
        leaders.push(pids[2].clone());
    }
    assert!(leaders.iter().chain(&others).all(|pid| state(pid).is_some()));
    (leaders, others)
}

#[tokio::test]
async fn the_end_of_the_session_ends_every_process() {
    let room = room();
    let (leaders, others) = stubborn(&room).await;
    let Room { place: _place, input: _input, run, output, stop } = room;
    drop((run, stop));
    assert!(leaders.iter().all(|pid| state(pid).is_some()), "one tool is left");
    drop(output);
    // Without an await: nothing but the drop itself can have ended them.
    let until = std::time::Instant::now() + LONG;
    for pid in leaders.iter().chain(&others) {
        while !matches!(state(pid), None | Some('Z')) {
            assert!(std::time::Instant::now() < until, "it lives on");
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

#[test]
fn the_end_of_the_runtime_ends_every_process() {
    let room = room();
    let runtime = || tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let first = runtime();
    let (leaders, others) = first.block_on(stubborn(&room));
    drop(first);
    runtime().block_on(async {
        for pid in leaders.iter().chain(&others) {
            assert_dies(pid).await;
        }
    });
}

#[tokio::test]
async fn a_start_that_is_interrupted_or_dropped_leaves_nothing_behind() {
    let mut room = room();
    (room.run.first, room.run.settle) = (LONG, LONG);
    let pid_file = room.place.path("pid");
    let begun = async {
        while !pid_file.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let pid = std::fs::read_to_string(&pid_file).unwrap();
        std::fs::remove_file(&pid_file).unwrap();
        pid
    };
    let args = json!({"command": "echo $$ > new; mv new pid; cat in", "background": true});
    let cancelled = context();
    let interrupt = async {
        let pid = begun.await;
        cancelled.cancel.cancel();
        pid
    };
    let call = called(&room.run, args.clone(), &cancelled);
    let (result, pid) = tokio::join!(call, interrupt);
    assert!(matches!(result, Err(ToolError::Cancelled { .. })), "{result:?}");
    assert_dies(&pid).await;

    let context = context();
    let begun = async {
        while !pid_file.exists() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        std::fs::read_to_string(&pid_file).unwrap()
    };
    let pid = tokio::select! {
        ended = room.run.call(&args, &context) => panic!("{ended:?}"),
        pid = begun => pid,
    };
    assert_dies(&pid).await;
    room.wait_for_end("bg2").await;
    assert_eq!(room.look("bg2").await, "[bg2 ended: killed by signal 9]");
}

#[tokio::test]
async fn what_it_leaves_running_is_ended_with_it() {
    let mut room = room();
    let pid = room.start_until("bg1", "sleep 600 & echo $!; cat in", "\n").await;
    room.print("it reads\n");
    room.wait("bg1").await;
    room.close();
    room.wait_for_end("bg1").await;
    let ended = "[what it left running in the background was ended]\n[bg1 ended: exit code 0]";
    assert_eq!(room.look("bg1").await, ended);
    assert_dies(&pid).await;
}

#[tokio::test]
async fn a_deadline_that_is_asked_for_holds() {
    let room = room();
    let args = json!({"command": "cat in", "background": true, "timeout_ms": 30});
    assert_eq!(room.run.timeout(&args), Some(Duration::from_millis(30)));
    let context = CallContext { timeout: Duration::from_millis(30), ..context() };
    called(&room.run, args, &context).await.unwrap();
    room.wait_for_end("bg1").await;
    assert_eq!(room.look("bg1").await, "[bg1 ended at its deadline of 30 ms]");
}

#[tokio::test]
async fn of_much_that_is_new_the_middle_is_named_and_can_be_read() {
    let mut room = room_with(1000);
    let lines = |range: std::ops::RangeInclusive<u32>| -> String {
        range.map(|n| ["line ", &n.to_string(), "\n"].concat()).collect()
    };
    room.start("cat in").await;
    room.print(lines(1..=10));
    assert_eq!(room.wait("bg1").await, lines(1..=10) + "[bg1 runs]");
    room.print(lines(11..=4000));
    room.close();
    room.wait_for_end("bg1").await;
    let text = room.look("bg1").await;
    assert!(text.len() < 1300, "{text}");
    let (head, rest) = text.split_once("[… ").unwrap();
    let (note, tail) = rest.split_once("]\n").unwrap();
    let path = room.spool("bg1");
    let (_, range) =
        note.split_once(&format!("whole output: read_file path={path} start=")).unwrap();
    let (start, end) = range.split_once(" end=").unwrap();
    let (start, end): (u32, u32) = (start.parse().unwrap(), end.parse().unwrap());
    assert_eq!(head, lines(11..=start - 1));
    assert_eq!(tail, format!("{}[bg1 ended: exit code 0]", lines(end..=4000)));

    let workspace = Workspace::open(&room.place.root()).unwrap();
    let workspace = workspace.with_dir(Path::new(&path).parent().unwrap(), false).unwrap();
    let read = ReadFile::new(Arc::new(workspace), 1_000_000);
    let middle = text_of_lines(&text_read(&read, &path, start, end).await);
    assert_eq!(middle, lines(start..=end));
}

async fn text_read(read: &ReadFile, path: &str, start: u32, end: u32) -> String {
    text(read, json!({"path": path, "start": start, "end": end})).await
}

/// Takes the line numbers away.
fn text_of_lines(numbered: &str) -> String {
    let lines = numbered.lines().filter_map(|line| line.split_once('\t'));
    lines.map(|(_, line)| [line, "\n"].concat()).collect()
}

#[tokio::test]
async fn bytes_that_are_no_text_are_shown_as_well_as_can_be_and_kept_as_they_are() {
    let mut room = room();
    room.start("cat in").await;
    room.print(b"\x1b[31m\xff\0|\xe2\x82");
    assert_eq!(room.wait("bg1").await, "\u{fffd}␀|\n[bg1 runs]");
    room.print(b"\xac\n\xe2");
    assert_eq!(room.wait("bg1").await, "€\n[bg1 runs]");
    room.close();
    room.wait_for_end("bg1").await;
    assert_eq!(room.look("bg1").await, "\u{fffd}\n[bg1 ended: exit code 0]");
    assert_eq!(std::fs::read(room.spool("bg1")).unwrap(), b"\x1b[31m\xff\0|\xe2\x82\xac\n\xe2");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_many_look_at_is_shared_out_and_none_is_lost() {
    let room = Arc::new(room_with(1_000_000));
    let started = room.start("for n in {1..200}; do echo =========; done").await;
    let lookers: Vec<_> = (0..4)
        .map(|_| {
            let room = Arc::clone(&room);
            tokio::spawn(async move {
                let mut seen = 0;
                loop {
                    let text = room.wait("bg1").await;
                    seen += text.matches('=').count();
                    if text.contains("ended") {
                        return seen;
                    }
                }
            })
        })
        .collect();
    let mut seen = started.matches('=').count();
    for looker in lookers {
        seen += looker.await.unwrap();
    }
    assert_eq!(seen, 1800);
}

#[test]
fn the_scheduler_is_told_what_the_calls_do() {
    let room = room();
    let start = |command| room.run.effect(&json!({"command": command, "background": true}));
    assert_eq!(start("npm start"), Effect::opaque());
    let reads = start("sleep 9; ls");
    assert_eq!(reads.writes, [room.place.outside().join("spool")]);
    assert!(reads.conflicts(&start("sleep 8; pwd")), "ids follow the order asked");
    assert!(!reads.conflicts(&Effect::read(room.place.root())));
    assert_eq!(room.output.effect(&json!({"id": "bg1"})), Effect::default());
    assert_eq!(room.stop.effect(&json!({"id": "bg1"})), Effect::opaque());
    assert_eq!(room.stop.effect(&json!({})), Effect::default());
    assert!(!room.output.is_repeatable());
}

#[test]
fn all_of_it_costs_few_bytes_in_a_request() {
    let room = room();
    let bytes = |tool: &dyn Tool| {
        let spec = tool.spec();
        json!({"name": spec.name, "description": spec.description, "parameters": spec.parameters})
            .to_string()
            .len()
    };
    let argument = room.run.spec().parameters["properties"]["background"].to_string().len();
    let all = argument + bytes(&room.output) + bytes(&room.stop);
    assert!(all <= 600, "{all}");
}
