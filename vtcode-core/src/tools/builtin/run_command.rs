//! Runs one shell command: its text comes in, what it printed and how it ended go out.
//! The command gets a process group of its own, no input and no terminal; whatever still lives in
//! the group when the call ends, however it ends, is killed; a command asked for as long-lived is
//! handed to [`Background`] instead.
//! Never waits past the deadline, never holds more output in memory than it returns.

use std::ffi::OsString;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::PathBuf;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use rustix::process::Signal;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::safety::policy::command_effect;
use crate::safety::preimage::Covered;
use crate::safety::sandbox::{Guard, Sandbox};
use crate::safety::workspace::Workspace;
use crate::tools::builtin::spec;
use crate::tools::tool::{
    CallContext, CloseFuture, Detail, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec,
    parse_args,
};

mod background;
mod check;
mod environment;
mod group;
mod output;
mod plain;
mod spool;

pub use background::Background;
pub use check::{Check, CheckPlan, Checked, NoCheck};
pub use environment::without_secrets;

use background::{Ended, Job, Started};
use group::{Group, REAP};
use output::Output;

const NAME: &str = "run_command";

/// How long a command may take to end after it was asked to, before it is killed.
const GRACE: Duration = Duration::from_millis(200);

/// The same for a long-lived command, which may have more to put in order.
const LONG_GRACE: Duration = Duration::from_secs(2);

/// How long a long-lived command may take to print something before its start is told.
const FIRST: Duration = Duration::from_millis(200);

/// How long its end is awaited after that: what fails prints why and then exits.
const SETTLE: Duration = Duration::from_millis(50);

/// How long output is awaited from what a command left behind when its shell exited.
const LINGER: Duration = Duration::from_millis(100);

/// How long a killed process may take to die. Only one that is stuck in the kernel takes it all.
const DYING: Duration = Duration::from_secs(1);

/// One read of the pipe; as much as a pipe holds unless somebody made it larger.
const READ_BYTES: usize = 64 * 1024;

const ENDED: &str = "[what it left running in the background was ended]";
const ESCAPED: &str =
    "[what it left running in the background was ended, except for what made its own session]";

/// The tool `run_command`.
#[derive(Debug)]
pub struct RunCommand {
    spec: ToolSpec,
    workspace: Arc<Workspace>,
    shell: PathBuf,
    env: Vec<(OsString, OsString)>,
    spool_dir: PathBuf,
    result_bytes: usize,
    background: Arc<Background>,
    sandbox: Arc<Sandbox>,
    /// The constants of these names, but for tests that must not depend on the machine's speed.
    grace: Duration,
    long_grace: Duration,
    linger: Duration,
    first: Duration,
    settle: Duration,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    command: String,
    /// Give it for what takes minutes, such as a build
    timeout_ms: Option<u64>,
    /// Let it run on; see command_output
    background: Option<bool>,
}

/// Why reading ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The shell exited and nothing holds its output any more.
    Exited,
    /// The shell exited, but something it started still holds its output.
    Lingering,
    Deadline,
    Interrupted,
}

impl RunCommand {
    /// Builds the tool. `env` is the whole environment of the commands, without secrets (see
    /// [`without_secrets`]). `spool_dir` is made when the first output longer than `result_bytes`
    /// appears, or the first long-lived command starts, and holds what is left out of the results.
    /// `background` takes the long-lived commands, `sandbox` confines all of them.
    pub fn new(
        workspace: Arc<Workspace>,
        spool_dir: PathBuf,
        env: Vec<(OsString, OsString)>,
        result_bytes: usize,
        background: Arc<Background>,
        sandbox: Arc<Sandbox>,
    ) -> Self {
        let shell = environment::find_shell(&env);
        let mut env = environment::plain(env);
        env.extend(sandbox.variables());
        Self {
            spec: spec::<Args>(
                NAME,
                "Run a bash command line in the workspace's root folder; stdout and stderr come \
                 back together, with the exit code. It has no input and no terminal. Every call is \
                 a new shell: `cd` and variables do not last, and what it leaves running is ended \
                 with the call: for a server give `background`.",
            ),
            workspace,
            shell,
            env,
            spool_dir,
            result_bytes,
            background,
            sandbox,
            grace: GRACE,
            long_grace: LONG_GRACE,
            linger: LINGER,
            first: FIRST,
            settle: SETTLE,
        }
    }

    /// Keeps what a command may change, unless it is proven to change nothing.
    async fn cover(&self, command: &str) -> Option<Covered> {
        let preimages = Arc::clone(self.workspace.preimages()?);
        if !command_effect(command, self.workspace.root()).opaque {
            return None;
        }
        let workspace = Arc::clone(&self.workspace);
        // It fails only if it panicked, and then nothing is kept.
        tokio::task::spawn_blocking(move || preimages.before_command(&workspace)).await.ok()
    }

    /// Finds out what a command changed.
    async fn uncover(&self) {
        let Some(preimages) = self.workspace.preimages().map(Arc::clone) else { return };
        let _ = tokio::task::spawn_blocking(move || preimages.after_command()).await;
    }

    fn spawn(&self, command: &str, grace: Duration) -> Result<Running, ToolError> {
        let cannot = |cause: std::io::Error| self.cannot_start(command, &cause);
        let (reader, writer) = std::io::pipe().map_err(cannot)?;
        let receiver = Receiver::from_owned_fd(reader.into()).map_err(cannot)?;
        // Without a sandbox `process_group` and nothing that needs code between fork and exec: std
        // then starts the shell with posix_spawn, which does not copy our page tables.
        let mut shell = Command::new(&self.shell);
        shell
            .arg("-c")
            .arg(command)
            .current_dir(self.workspace.root())
            .env_clear()
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .process_group(0)
            .stdin(Stdio::null())
            // One pipe for both, so that their order is kept.
            .stdout(writer.try_clone().map_err(cannot)?)
            .stderr(writer);
        // `shell` holds our write ends; they close with it on return, or EOF would never come.
        let guard = self.sandbox.guard();
        let group = Group::spawn(&mut shell, &self.sandbox).map_err(cannot)?;
        Ok(Running {
            group: Arc::new(group),
            guard,
            receiver,
            buffer: vec![0; READ_BYTES],
            exited: false,
            closed: false,
            grace,
            linger: self.linger,
            covered: None,
        })
    }

    /// Tells what a sandbox allows when a command failed as it does when refused.
    fn with_hint(&self, status: Option<ExitStatus>, mut output: ToolOutput) -> ToolOutput {
        if status.is_some_and(|status| !status.success())
            && let Some(hint) = self.sandbox.hint(&output.text)
        {
            output.text.push('\n');
            output.text.push_str(hint);
        }
        output
    }

    fn cannot_start(&self, command: &str, cause: &std::io::Error) -> ToolError {
        let root = self.workspace.root();
        if command.contains('\0') {
            return ToolError::BadArguments {
                name: NAME.to_owned(),
                problem: "`command` holds a NUL byte".to_owned(),
            };
        }
        if cause.kind() == std::io::ErrorKind::ArgumentListTooLong {
            return ToolError::Failed(format!(
                "the command is too long for the system ({} bytes): write it to a file and run that",
                command.len()
            ));
        }
        if !root.is_dir() {
            return ToolError::Failed(format!(
                "cannot run commands: the folder `{}` is gone",
                root.display()
            ));
        }
        ToolError::Failed(format!("cannot start `{}`: {cause}", self.shell.display()))
    }

    async fn run(
        &self,
        args: Args,
        covered: Option<Covered>,
        context: &CallContext,
    ) -> Result<ToolOutput, ToolError> {
        let deadline = tokio::time::sleep(context.timeout);
        let mut output = Output::new(
            self.result_bytes,
            &self.spool_dir,
            &context.call_id,
            context.progress.clone(),
        );
        let mut running = self.spawn(&args.command, self.grace)?;
        running.covered = covered;
        let mut take = |bytes: &[u8]| output.take(bytes);
        let end = running.follow(&mut take, deadline, &context.cancel).await;
        let (status, note) = running.end(end, &mut take).await;
        if running.covered.take().is_some() {
            self.uncover().await;
        }
        let note = match end {
            End::Exited | End::Lingering => note,
            End::Deadline => Some(format!(
                "[ended at its deadline of {} ms; for more time give timeout_ms]",
                context.timeout.as_millis()
            )),
            End::Interrupted => Some("[interrupted]".to_owned()),
        };
        let undone = running.undo();
        let note = match (undone, note) {
            (Some(undone), Some(note)) => Some(format!("{undone}\n{note}")),
            (undone, note) => undone.or(note),
        };
        Ok(self.with_hint(status, result(status, end, note, output)))
    }

    /// Starts a long-lived command and returns its id with what it printed at once.
    async fn start(
        &self,
        args: Args,
        covered: Option<Covered>,
        context: &CallContext,
    ) -> Result<ToolOutput, ToolError> {
        let job = self.background.start(|id| {
            let mut running = self.spawn(&args.command, self.long_grace)?;
            running.covered = covered;
            let output = Output::long_lived(self.result_bytes, &self.spool_dir, id);
            // The deadline of the call counts for the command if the model asked for it.
            let limit = args.asked_ms().map(|_| context.timeout);
            Ok(Started { running, output, limit })
        })?;
        // Dropped before its end, the call leaves nothing behind: nobody would know of it.
        let mut start = Start { job, told: false };
        let job = &start.job;
        let begun = async {
            let _ = tokio::time::timeout(self.first, job.news()).await;
            let _ = tokio::time::timeout(self.settle, job.end()).await;
        };
        if context.cancel.run_until_cancelled(begun).await.is_none() {
            return Err(ToolError::Cancelled { name: NAME.to_owned() });
        }
        let runs = match job.spool() {
            Some(path) => format!("runs; all it prints is kept in {}", path.display()),
            None => "runs".to_owned(),
        };
        let (mut output, ended) = job.tell(&runs, context);
        if let Some(Ended { exit_code, output_bytes, spool, .. }) = ended {
            output.detail = Detail::Command { exit_code, output_bytes, spool };
        }
        start.told = true;
        Ok(output)
    }
}

impl Args {
    /// Returns the deadline asked for. Models write 0 for "none".
    fn asked_ms(&self) -> Option<u64> {
        self.timeout_ms.filter(|ms| *ms > 0)
    }

    fn is_background(&self) -> bool {
        self.background.unwrap_or_default()
    }
}

/// The start of a long-lived command. The command dies with it until the model was told.
struct Start {
    job: Arc<Job>,
    told: bool,
}

impl Drop for Start {
    fn drop(&mut self) {
        if !self.told {
            self.job.kill();
        }
    }
}

impl Tool for RunCommand {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, args: &Value) -> Effect {
        let Ok(args) = parse_args::<Args>(NAME, args) else { return Effect::default() };
        let mut effect = command_effect(&args.command, self.workspace.root());
        if args.is_background() && !effect.opaque {
            // Its file; and so several are started in their order, which their ids follow.
            effect.writes.push(self.spool_dir.clone());
        }
        effect
    }

    fn close(&self) -> CloseFuture<'_> {
        Box::pin(self.background.close())
    }

    fn command<'a>(&self, args: &'a Value) -> Option<std::borrow::Cow<'a, str>> {
        args.get("command")?.as_str().map(Into::into)
    }

    fn timeout(&self, args: &Value) -> Option<Duration> {
        parse_args::<Args>(NAME, args).ok()?.asked_ms().map(Duration::from_millis)
    }

    /// Runs the command. The result comes a short grace after `context.timeout` at the latest,
    /// with what was printed so far; the same holds for a cancelled call.
    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let args: Args = parse_args(NAME, args)?;
            if context.cancel.is_cancelled() {
                return Err(ToolError::Cancelled { name: NAME.to_owned() });
            }
            let covered = self.cover(&args.command).await;
            if args.is_background() {
                self.start(args, covered, context).await
            } else {
                self.run(args, covered, context).await
            }
        })
    }
}

/// A command and its output. Dropping it kills the command.
struct Running {
    group: Arc<Group>,
    /// How it was before the command what no command may change.
    guard: Option<Guard>,
    receiver: Receiver,
    buffer: Vec<u8>,
    /// The shell's exit was seen (not yet reaped).
    exited: bool,
    /// Nobody holds the other end of the pipe, or it broke.
    closed: bool,
    grace: Duration,
    linger: Duration,
    /// What it changes is looked for until this is dropped.
    covered: Option<Covered>,
}

impl Running {
    /// Reads until the command ends or has to.
    async fn follow(
        &mut self,
        take: &mut impl FnMut(&[u8]),
        deadline: impl Future<Output = ()>,
        cancel: &CancellationToken,
    ) -> End {
        let linger = tokio::time::sleep(Duration::ZERO);
        tokio::pin!(deadline, linger);
        while !(self.exited && self.closed) {
            // In this order, so that a flood of output cannot keep the others from being seen.
            tokio::select! {
                biased;
                () = cancel.cancelled(), if !self.exited => return End::Interrupted,
                () = &mut deadline, if !self.exited => return End::Deadline,
                () = &mut linger, if self.exited => return End::Lingering,
                () = self.group.exited(), if !self.exited => {
                    self.exited = true;
                    linger.as_mut().reset(Instant::now() + self.linger);
                }
                read = self.receiver.read(&mut self.buffer), if !self.closed => {
                    match read {
                        Ok(0) | Err(_) => self.closed = true,
                        Ok(n) => take(&self.buffer[..n]),
                    }
                }
            }
        }
        End::Exited
    }

    /// Brings the whole group to its end and returns the shell's status, if it could be learned,
    /// and what became of what it left running.
    async fn end(
        &mut self,
        end: End,
        take: &mut impl FnMut(&[u8]),
    ) -> (Option<ExitStatus>, Option<String>) {
        match end {
            End::Exited => {
                let status = self.group.reap();
                let killed = self.group.end_the_rest(self.linger).await;
                (status, killed.then(|| ENDED.to_owned()))
            }
            End::Lingering => {
                self.group.signal(Signal::KILL);
                self.settle(take).await;
                let note = if self.closed { ENDED } else { ESCAPED };
                (self.group.reap(), Some(note.to_owned()))
            }
            End::Deadline | End::Interrupted => {
                self.group.signal(Signal::TERM);
                // A stopped process takes its signals when it goes on.
                self.group.signal(Signal::CONT);
                self.settle(take).await;
                self.group.signal(Signal::KILL);
                if !self.exited {
                    self.exited = tokio::time::timeout(DYING, self.group.exited()).await.is_ok();
                }
                self.drain(take);
                let status = if self.exited { self.group.reap() } else { None };
                (status, None)
            }
        }
    }

    /// Reads on until the group is gone, for the grace at most.
    async fn settle(&mut self, take: &mut impl FnMut(&[u8])) {
        let grace = tokio::time::sleep(self.grace);
        tokio::pin!(grace);
        while !(self.exited && self.closed) {
            tokio::select! {
                biased;
                () = &mut grace => break,
                () = self.group.exited(), if !self.exited => self.exited = true,
                read = self.receiver.read(&mut self.buffer), if !self.closed => {
                    match read {
                        Ok(0) | Err(_) => self.closed = true,
                        Ok(n) => take(&self.buffer[..n]),
                    }
                }
            }
        }
    }

    /// Takes what the pipe holds, once: somebody out of reach may write for ever.
    fn drain(&mut self, take: &mut impl FnMut(&[u8])) {
        if let Ok(n) = self.receiver.try_read(&mut self.buffer) {
            take(&self.buffer[..n]);
        }
    }
}

impl Running {
    /// Undoes what the command changed and may not, once, when it has ended; returns what that was.
    fn undo(&mut self) -> Option<String> {
        let undone = self.guard.take()?.undo();
        (!undone.is_empty())
            .then(|| format!("[undone, as no command may change it: {}]", undone.join(", ")))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.group.kill(REAP);
        self.undo();
    }
}

fn result(
    status: Option<ExitStatus>,
    end: End,
    note: Option<String>,
    output: Output,
) -> ToolOutput {
    let (mut text, output_bytes, spool) = output.finish();
    let cut_short = matches!(end, End::Deadline | End::Interrupted);
    let how = how_it_ended(status);
    let how = if text.is_empty() { format!("[no output, {how}]") } else { format!("[{how}]") };
    let notes = match note {
        // That a signal ended it is known from the note.
        Some(note) if cut_short => note,
        Some(note) => format!("{note}\n{how}"),
        None => how,
    };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&notes);
    let exit_code = if cut_short { None } else { status.and_then(|s| s.code()) };
    ToolOutput {
        text,
        is_error: cut_short,
        detail: Detail::Command { exit_code, output_bytes, spool },
        evidence: None,
    }
}

fn how_it_ended(status: Option<ExitStatus>) -> String {
    match status.map(|s| (s.code(), s.signal())) {
        Some((Some(code), _)) => format!("exit code {code}"),
        Some((None, Some(signal))) => format!("killed by signal {signal}"),
        _ => "exit code unknown".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use expect_test::expect;
    use serde_json::json;

    use super::*;
    use crate::tools::builtin::testing::{self, Place};

    /// A guard against hanging, far beyond what anything here takes.
    const LONG: Duration = Duration::from_secs(60);

    struct Room {
        place: Place,
        tool: RunCommand,
    }

    fn room() -> Room {
        room_with(Vec::new(), 16 * 1024)
    }

    fn room_with(mut env: Vec<(OsString, OsString)>, result_bytes: usize) -> Room {
        let place = Place::with(&[]);
        env.push(("PATH".into(), std::env::var_os("PATH").unwrap()));
        let spool_dir = place.outside().join("spool");
        let tool = RunCommand::new(
            Arc::clone(&place.workspace),
            spool_dir,
            env,
            result_bytes,
            Arc::default(),
            Arc::new(Sandbox::off()),
        );
        Room { place, tool }
    }

    fn context(timeout: Duration) -> CallContext {
        CallContext { timeout, ..testing::context() }
    }

    /// A context that collects progress and calls `seen` with all of it so far.
    fn watching(timeout: Duration, seen: impl Fn(&str) + Send + Sync + 'static) -> CallContext {
        let all = Mutex::new(String::new());
        let mut context = context(timeout);
        context.progress = Some(Arc::new(move |piece: &str| {
            let mut all = all.lock().unwrap();
            all.push_str(piece);
            seen(&all);
        }));
        context
    }

    impl Room {
        async fn call(
            &self,
            command: &str,
            context: &CallContext,
        ) -> Result<ToolOutput, ToolError> {
            let args = json!({ "command": command });
            tokio::time::timeout(LONG, self.tool.call(&args, context)).await.expect("it hangs")
        }

        async fn run(&self, command: &str) -> ToolOutput {
            self.call(command, &context(LONG)).await.unwrap()
        }

        async fn text(&self, command: &str) -> String {
            self.run(command).await.text
        }
    }

    /// The state letter of a process, if there is one.
    pub(super) fn state(pid: &str) -> Option<char> {
        let pid: u32 = pid.trim().parse().unwrap();
        if cfg!(target_os = "linux") {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            return stat.rsplit_once(") ")?.1.chars().next();
        }
        let ps = Command::new("ps").args(["-o", "stat=", "-p", &pid.to_string()]).output().unwrap();
        ps.stdout.first().map(|letter| char::from(*letter))
    }

    /// Waits until the process is dead (a zombie counts: its parent is not ours to hurry).
    pub(super) async fn assert_dies(pid: &str) {
        let dead = async {
            while !matches!(state(pid), None | Some('Z')) {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::time::timeout(LONG, dead).await.expect("it lives on");
    }

    fn first_line(text: &str) -> &str {
        text.lines().next().unwrap()
    }

    fn kill(pid: &str) {
        let pid = rustix::process::Pid::from_raw(pid.trim().parse().unwrap()).unwrap();
        rustix::process::kill_process(pid, Signal::KILL).unwrap();
    }

    #[tokio::test]
    async fn what_is_printed_comes_in_order_and_then_how_it_ended() {
        let room = room();
        assert_eq!(
            room.text("echo a; echo b >&2; printf c; exit 3").await,
            "a\nb\nc\n[exit code 3]"
        );
        assert_eq!(room.text("true").await, "[no output, exit code 0]");
        assert_eq!(room.text("").await, "[no output, exit code 0]");
        assert_eq!(room.text("kill -9 $$").await, "[no output, killed by signal 9]");
        assert_eq!(
            room.text("pwd -P").await,
            format!("{}\n[exit code 0]", room.tool.workspace.root().display())
        );
        assert_eq!(room.text("no-such-program 2>/dev/null").await, "[no output, exit code 127]");
    }

    #[tokio::test]
    async fn a_failing_command_is_a_result_not_an_error() {
        let output = room().run("echo no; exit 7").await;
        assert!(!output.is_error);
        assert_eq!(
            output.detail,
            Detail::Command { exit_code: Some(7), output_bytes: 3, spool: None }
        );
    }

    #[tokio::test]
    async fn there_is_no_input_to_wait_for() {
        assert_eq!(room().text("cat; echo done").await, "done\n[exit code 0]");
    }

    #[tokio::test]
    async fn the_environment_is_what_was_given_with_plain_output_settings() {
        let room = room_with(
            vec![
                ("GREETING".into(), "hi".into()),
                ("FORCE_COLOR".into(), "1".into()),
                ("PAGER".into(), "less".into()),
            ],
            16 * 1024,
        );
        let text = room.text("env | cut -d= -f1 | sort; echo $GREETING $PAGER $TERM").await;
        let plain = "GH_PAGER\nGIT_CONFIG_COUNT\nGIT_CONFIG_KEY_0\nGIT_CONFIG_KEY_1\n\
                     GIT_CONFIG_VALUE_0\nGIT_CONFIG_VALUE_1\nGIT_OPTIONAL_LOCKS\nGIT_PAGER\nGIT_TERMINAL_PROMPT\nGREETING\n\
                     NO_COLOR\nPAGER\nPATH\nPWD\nSHLVL\nTERM\n_\nhi cat dumb\n[exit code 0]";
        assert_eq!(text, plain);
    }

    #[tokio::test]
    async fn a_command_that_closes_its_output_is_awaited() {
        assert_eq!(
            room().text("exec >&- 2>&-; sleep 0.2; exit 3").await,
            "[no output, exit code 3]"
        );
    }

    #[tokio::test]
    async fn colours_progress_bars_and_broken_text_are_made_plain() {
        let text = room().text(r"printf '\e[31mred\e[0m\n1%%\r99%%\rdone\n\xff\x00|\n'").await;
        assert_eq!(text, "red\ndone\n\u{fffd}␀|\n[exit code 0]");
    }

    #[tokio::test]
    async fn a_character_in_two_pieces_stays_whole_in_progress_and_result() {
        let seen = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&seen);
        let context = watching(LONG, move |text| *all.lock().unwrap() = text.to_owned());
        let room = room();
        let command = r"printf '5 \xe2'; sleep 0.1; printf '\x82\xac\r6'";
        let text = room.call(command, &context).await.unwrap().text;
        assert_eq!(text, "6\n[exit code 0]");
        assert_eq!(*seen.lock().unwrap(), "5 €\r6");
    }

    #[tokio::test]
    async fn progress_comes_while_the_command_runs() {
        let room = room();
        let flag = room.tool.workspace.root().join("flag");
        let context = watching(LONG, move |text| {
            if text.contains("waiting") {
                std::fs::write(&flag, "").unwrap();
            }
        });
        let command = "echo waiting; until [ -e flag ]; do sleep 0.01; done; echo seen";
        let text = room.call(command, &context).await.unwrap().text;
        assert_eq!(text, "waiting\nseen\n[exit code 0]");
    }

    #[tokio::test]
    async fn long_output_is_cut_in_the_middle_and_kept_whole_in_a_file() {
        let room = room_with(Vec::new(), 1000);
        let output = room.run("seq 1 200000").await;
        let whole = (1..=200_000).map(|n| n.to_string() + "\n").collect::<String>();
        let Detail::Command { exit_code: Some(0), output_bytes, spool: Some(spool) } =
            output.detail
        else {
            panic!("{:?}", output.detail);
        };
        assert_eq!(output_bytes, whole.len() as u64);
        assert_eq!(std::fs::read_to_string(&spool).unwrap(), whole);
        assert!(spool.starts_with(room.place.outside().join("spool").canonicalize().unwrap()));
        assert!(output.text.starts_with("1\n2\n"));
        assert!(output.text.ends_with("199999\n200000\n[exit code 0]"));
        assert!(output.text.len() < 1300);
        // The line it names is the first that is missing.
        let note = output.text.lines().find(|line| line.starts_with('[')).unwrap();
        let start: usize =
            note.rsplit_once("start=").unwrap().1.trim_end_matches(']').parse().unwrap();
        assert_eq!(output.text.lines().nth(start - 2), Some((start - 1).to_string().as_str()));
        assert_eq!(output.text.lines().nth(start - 1), Some(note));
    }

    #[tokio::test]
    async fn at_the_deadline_the_group_dies_and_what_was_printed_stays() {
        let context = context(Duration::from_secs(1));
        let output = room().call("sleep 60 & echo $!; wait", &context).await.unwrap();
        let pid = first_line(&output.text);
        assert_eq!(
            output.text,
            format!("{pid}\n[ended at its deadline of 1000 ms; for more time give timeout_ms]")
        );
        assert!(output.is_error);
        assert!(matches!(output.detail, Detail::Command { exit_code: None, .. }));
        assert_dies(pid).await;
    }

    #[tokio::test]
    async fn reading_ends_at_the_deadline_whoever_holds_the_pipe() {
        let context = context(Duration::from_secs(1));
        let output = room().call("setsid sleep 60 & echo $!; wait", &context).await.unwrap();
        assert!(output.text.contains("[ended at its deadline"), "{}", output.text);
        kill(first_line(&output.text));
    }

    #[tokio::test]
    async fn a_flood_does_not_outlast_the_deadline() {
        let room = room_with(Vec::new(), 1000);
        let output = room.call("yes", &context(Duration::from_secs(1))).await.unwrap();
        assert!(output.text.starts_with("y\ny\n"));
        assert!(output.text.ends_with("timeout_ms]"));
    }

    /// Runs `command`, which prints its process id first, and interrupts it when `ready` says so of
    /// what was printed and of that process's state.
    async fn interrupted(room: &Room, command: &str, ready: fn(&str, char) -> bool) -> String {
        let printed = Arc::new(Mutex::new(String::new()));
        let all = Arc::clone(&printed);
        let context = watching(LONG, move |text| *all.lock().unwrap() = text.to_owned());
        let interrupt = async {
            loop {
                let printed = printed.lock().unwrap().clone();
                if printed.ends_with('\n')
                    && state(first_line(&printed)).is_some_and(|state| ready(&printed, state))
                {
                    context.cancel.cancel();
                    return;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        let (result, ()) = tokio::join!(room.call(command, &context), interrupt);
        result.unwrap().text
    }

    #[tokio::test]
    async fn a_command_may_say_goodbye() {
        let mut room = room();
        room.tool.grace = LONG;
        let command = "trap 'echo bye; exit' TERM; echo $$; echo up; while :; do sleep 0.01; done";
        let text = interrupted(&room, command, |text, _| text.contains("up")).await;
        assert!(text.ends_with("bye\n[interrupted]"), "{text}");
    }

    #[tokio::test]
    async fn a_command_that_will_not_end_is_killed() {
        let room = room();
        for stubborn in [
            "trap '' TERM; echo $$; echo up; while :; do sleep 0.1; done",
            "trap '' TERM; (echo $BASHPID; echo up; while :; do sleep 0.1; done)",
        ] {
            let text = interrupted(&room, stubborn, |text, _| text.contains("up")).await;
            assert!(text.ends_with("up\n[interrupted]"), "{text}");
            assert_dies(first_line(&text)).await;
        }
    }

    #[tokio::test]
    async fn a_stopped_command_ends_like_others() {
        let mut room = room();
        for (command, grace) in [
            // It would wait for ever for its TERM if nothing let it go on.
            ("trap 'echo bye; exit' TERM; echo $$; kill -STOP $$", LONG),
            ("trap '' TERM; echo $$; kill -STOP $$; while :; do sleep 0.1; done", GRACE),
        ] {
            room.tool.grace = grace;
            let text = interrupted(&room, command, |_, state| state == 'T').await;
            assert_eq!(text.contains("bye"), grace == LONG, "{text}");
            assert_dies(first_line(&text)).await;
        }
    }

    #[tokio::test]
    async fn an_interrupted_command_ends_at_once_with_what_it_printed() {
        let cancel = CancellationToken::new();
        let trigger = cancel.clone();
        let mut context = watching(LONG, move |text| {
            if text.contains("up") {
                trigger.cancel();
            }
        });
        context.cancel = cancel;
        let output = room().call("echo $$; echo up; sleep 60", &context).await.unwrap();
        let pid = first_line(&output.text);
        assert_eq!(output.text, format!("{pid}\nup\n[interrupted]"));
        assert!(output.is_error);
        assert_eq!(state(pid), None, "not even a zombie is left");

        let late = room().call("touch late", &context).await;
        assert!(matches!(late, Err(ToolError::Cancelled { .. })), "{late:?}");
    }

    #[tokio::test]
    async fn a_dropped_call_leaves_nothing_running() {
        let (send, mut receive) = tokio::sync::mpsc::unbounded_channel();
        let context = watching(LONG, move |text| {
            if text.ends_with("up\n") {
                send.send(text.to_owned()).unwrap();
            }
        });
        let room = room();
        let args = json!({ "command": "trap '' TERM; sleep 60 & echo $!; echo $$; echo up; wait" });
        let call = room.tool.call(&args, &context);
        let printed = tokio::select! {
            ended = call => panic!("{ended:?}"),
            printed = receive.recv() => printed.unwrap(),
        };
        for pid in printed.lines().take(2) {
            assert_dies(pid).await;
        }
    }

    #[tokio::test]
    async fn a_call_dropped_while_it_waits_for_the_background_leaves_nothing_running() {
        let mut room = room();
        room.tool.linger = LONG;
        let pid_file = room.tool.workspace.root().join("pid");
        let leader_file = room.tool.workspace.root().join("leader");
        let args = json!({
            "command": "echo $$ > leader; sleep 60 >/dev/null 2>&1 & echo $! > new; mv new pid"
        });
        let context = context(LONG);
        let read = |file| std::fs::read_to_string(file).unwrap_or_default();
        let left = async {
            while !pid_file.exists() || state(&read(&leader_file)).is_some() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            ended = room.tool.call(&args, &context) => panic!("{ended:?}"),
            () = left => {}
        }
        assert_dies(&read(&pid_file)).await;
    }

    #[tokio::test]
    async fn what_is_left_in_the_background_is_ended_and_the_model_is_told() {
        for command in [
            "sleep 60 & echo $!",
            "sleep 60 >/dev/null 2>&1 & echo $!",
            "(trap '' TERM HUP; sleep 60) & echo $!",
            "(yes >/dev/null &); sleep 60 & echo $!",
        ] {
            let output = room().run(command).await;
            let pid = first_line(&output.text);
            assert_eq!(
                output.text,
                format!("{pid}\n[what it left running in the background was ended]\n[exit code 0]")
            );
            assert!(!output.is_error);
            assert_dies(pid).await;
        }
    }

    #[tokio::test]
    async fn what_left_the_group_cannot_hold_up_the_result() {
        let command = "setsid bash -c 'echo $$; touch flag; exec sleep 60' &
                       until [ -e flag ]; do sleep 0.01; done";
        let text = room().text(command).await;
        assert!(text.contains("except for what made its own session"), "{text}");
        assert!(text.ends_with("[exit code 0]"), "{text}");
        kill(first_line(&text));
    }

    #[tokio::test]
    async fn a_flood_from_the_background_cannot_hold_up_the_result() {
        let room = room_with(Vec::new(), 1000);
        let text = room.text("yes & echo $!").await;
        assert!(text.ends_with("was ended]\n[exit code 0]"), "{text}");
    }

    #[tokio::test]
    async fn output_that_comes_just_after_the_shell_is_not_lost() {
        let mut room = room();
        room.tool.linger = LONG;
        let text = room.text("(sleep 0.02; echo late) & echo early").await;
        assert_eq!(text, "early\nlate\n[exit code 0]");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn many_at_once_do_not_mix() {
        let room = Arc::new(room());
        let calls: Vec<_> = (0..40)
            .map(|n| {
                let room = Arc::clone(&room);
                tokio::spawn(async move { (n, room.text(&format!("echo {n}; exit {n}")).await) })
            })
            .collect();
        for call in calls {
            let (n, text) = call.await.unwrap();
            let ending =
                if n == 0 { "[exit code 0]".to_owned() } else { format!("[exit code {n}]") };
            assert_eq!(text, format!("{n}\n{ending}"));
        }
    }

    #[tokio::test]
    async fn a_command_that_cannot_start_says_why() {
        let room = room();
        let long = room.call(&format!("echo {}", "x".repeat(1_000_000)), &context(LONG)).await;
        assert!(long.unwrap_err().to_string().contains("too long for the system (1000005 bytes)"));
        let nul = room.call("echo \0", &context(LONG)).await;
        assert!(matches!(nul, Err(ToolError::BadArguments { .. })), "{nul:?}");
        std::fs::remove_dir(room.tool.workspace.root()).unwrap();
        let gone = room.call("ls", &context(LONG)).await;
        assert!(gone.unwrap_err().to_string().ends_with("work` is gone"));
    }

    #[tokio::test]
    async fn a_deadline_beyond_the_clock_is_none() {
        let output = room().call("echo a", &context(Duration::MAX)).await.unwrap();
        assert_eq!(output.text, "a\n[exit code 0]");
    }

    #[tokio::test]
    async fn arguments_are_read_strictly_and_a_deadline_of_nothing_is_none() {
        let room = room();
        let timeout = |args: Value| room.tool.timeout(&args);
        assert_eq!(
            timeout(json!({"command": "ls", "timeout_ms": 5000})),
            Some(Duration::from_secs(5))
        );
        assert_eq!(timeout(json!({"command": "ls", "timeout_ms": 0})), None);
        assert_eq!(timeout(json!({"command": "ls", "timeout_ms": -1})), None);
        assert_eq!(timeout(json!({"command": "ls"})), None);
        for args in
            [json!({}), json!([]), json!({"command": 1}), json!({"command": "ls", "cwd": "x"})]
        {
            let result = room.tool.call(&args, &context(LONG)).await;
            assert!(matches!(result, Err(ToolError::BadArguments { .. })), "{args} {result:?}");
        }
    }

    #[test]
    fn the_scheduler_is_told_what_a_command_does() {
        let room = room();
        let effect = |args: Value| room.tool.effect(&args);
        assert_eq!(effect(json!({"command": "ls"})), Effect::read(room.tool.workspace.root()));
        assert_eq!(effect(json!({"command": "ls > x"})), Effect::opaque());
        assert_eq!(effect(json!({})), Effect::default());
    }

    #[test]
    fn the_model_sees_a_small_schema() {
        expect![[r#"{"additionalProperties":false,"properties":{"background":{"description":"Let it run on; see command_output","type":"boolean"},"command":{"type":"string"},"timeout_ms":{"description":"Give it for what takes minutes, such as a build","minimum":0,"type":"integer"}},"required":["command"],"type":"object"}"#]].assert_eq(&room().tool.spec().parameters.to_string());
    }
}
