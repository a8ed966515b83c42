//! A user: a home, a folder to work in and the program come in; what the program printed, how it
//! ended and what it left behind come out. Nothing of the environment of the tests gets through.

use std::ffi::OsStr;
use std::fmt;
use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use vtcode_testkit::{Request, ScriptedModel, TempWorkspace};

/// Far beyond what anything here takes: it ends a test that would hang.
const HANGS: Duration = Duration::from_secs(120);

/// Waits for what must come.
pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let done = tokio::time::timeout(HANGS, future).await;
    done.unwrap_or_else(|_| panic!("hangs: {what}"))
}

/// A person with a home and a folder to work in.
pub(crate) struct User {
    pub(crate) home: TempDir,
    pub(crate) folder: TempWorkspace,
}

impl User {
    /// Returns a user whose folder is empty.
    pub(crate) fn new() -> Self {
        Self::with::<&str, &str>([])
    }

    /// Returns a user whose folder holds these files.
    pub(crate) fn with<P: AsRef<Path>, C: AsRef<[u8]>>(
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Self {
        let home = tempfile::Builder::new().prefix("vtcode-home-").tempdir().unwrap();
        std::fs::create_dir(home.path().join("tmp")).unwrap();
        Self { home, folder: TempWorkspace::with(files) }
    }

    /// Returns the state folder, whether it is there or not.
    pub(crate) fn state(&self) -> PathBuf {
        self.home.path().join("state/vtcode")
    }

    /// Returns the user's configuration folder, whether it is there or not.
    pub(crate) fn config(&self) -> PathBuf {
        self.home.path().join("config/vtcode")
    }

    /// Writes the user's own `vtcode.toml`.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::create_dir_all(self.config()).unwrap();
        std::fs::write(self.config().join("vtcode.toml"), text).unwrap();
    }

    /// Returns the ids of the folders below `sessions`.
    pub(crate) fn session_ids(&self) -> Vec<String> {
        let Ok(entries) = std::fs::read_dir(self.state().join("sessions")) else { return vec![] };
        let dirs = entries.map(|entry| entry.unwrap()).filter(|e| e.file_type().unwrap().is_dir());
        let mut ids: Vec<_> = dirs.map(|e| e.file_name().into_string().unwrap()).collect();
        ids.sort_unstable();
        ids
    }

    /// Returns the folder of the only session.
    pub(crate) fn session(&self) -> PathBuf {
        let ids = self.session_ids();
        assert_eq!(ids.len(), 1, "{ids:?}");
        self.state().join("sessions").join(&ids[0])
    }

    /// Returns the records of the only session.
    pub(crate) fn journal(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.session().join("journal.jsonl")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// Returns a call of the program in the user's folder.
    pub(crate) fn vtcode<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Program {
        self.program(env!("CARGO_BIN_EXE_vtcode"), args)
    }

    /// Returns a call of another program, in the same surroundings.
    pub(crate) fn program<S: AsRef<OsStr>>(
        &self,
        program: &str,
        args: impl IntoIterator<Item = S>,
    ) -> Program {
        let home = self.home.path();
        let mut command = Command::new(program);
        command
            .args(args)
            .current_dir(self.folder.path())
            .env_clear()
            .env("PATH", path())
            .env("HOME", home)
            .env("XDG_STATE_HOME", home.join("state"))
            .env("XDG_CONFIG_HOME", home.join("config"))
            .env("TMPDIR", home.join("tmp"))
            // Programs that a command runs may want a place of their own.
            .env("CARGO_HOME", home.join("cargo"))
            .env("LC_ALL", "C.UTF-8")
            .kill_on_drop(true);
        // The whole suite can be run with files attached to results: docs/replay.md.
        if let Some(tokens) = std::env::var_os("VTCODE_SUITE_ATTACHED_TOKENS") {
            command.env("VTCODE_MAX_ATTACHED_TOKENS", tokens).env("VTCODE_SECOND_TOKENS", "20000");
        }
        // And with every optimization off: docs/config.md, presets.
        if let Some(preset) = std::env::var_os("VTCODE_SUITE_PRESET") {
            command.env("VTCODE_PRESET", preset);
        }
        Program { command, stdin: None }
    }

    /// Returns `vtcode exec` with this prompt and model.
    pub(crate) fn exec(&self, model: &ScriptedModel, prompt: &str) -> Program {
        self.vtcode(["exec", "--model", "scripted", "--base-url", &model.openai_url(), prompt])
    }

    /// Returns `vtcode exec` over one of the [`PROVIDERS`].
    pub(crate) fn exec_on(&self, provider: &str, model: &ScriptedModel, prompt: &str) -> Program {
        let url = base_url(provider, model);
        let args = ["exec", "--model=scripted", "--provider", provider, "--base-url", &url, prompt];
        self.vtcode(args)
    }
}

/// Every wire format, by the name that the command line knows.
pub(crate) const PROVIDERS: [&str; 4] = ["openai", "responses", "anthropic", "gemini"];

/// Returns where a model is reached over a wire.
pub(crate) fn base_url(provider: &str, model: &ScriptedModel) -> String {
    match provider {
        "openai" | "responses" => model.openai_url(),
        "anthropic" => model.anthropic_url(),
        _ => model.gemini_url(),
    }
}

/// The search path, with the very tools that built this test in front: a proxy that chooses a
/// toolchain would look for it in the home.
fn path() -> std::ffi::OsString {
    let own = Path::new(env!("CARGO")).parent().map(Path::to_owned);
    let inherited = std::env::var_os("PATH").unwrap_or_default();
    std::env::join_paths(own.into_iter().chain(std::env::split_paths(&inherited))).unwrap()
}

/// A program about to run.
pub(crate) struct Program {
    command: Command,
    stdin: Option<Vec<u8>>,
}

impl Program {
    pub(crate) fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command.arg(arg);
        self
    }

    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.command.args(args);
        self
    }

    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn without_env(mut self, name: &str) -> Self {
        self.command.env_remove(name);
        self
    }

    pub(crate) fn in_folder(mut self, folder: impl AsRef<Path>) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn stdin(mut self, bytes: impl Into<Vec<u8>>) -> Self {
        self.stdin = Some(bytes.into());
        self
    }

    /// Starts it.
    pub(crate) fn start(mut self) -> Running {
        let stdin = if self.stdin.is_some() { Stdio::piped() } else { Stdio::null() };
        self.command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = self.command.spawn().unwrap();
        if let (Some(bytes), Some(mut stdin)) = (self.stdin, child.stdin.take()) {
            // The program may end without reading it.
            tokio::spawn(async move { stdin.write_all(&bytes).await });
        }
        Running {
            stdout: child.stdout.take().map(BufReader::new),
            stderr: child.stderr.take().map(BufReader::new),
            child,
            seen_stdout: String::new(),
            seen_stderr: String::new(),
        }
    }

    /// Runs it to its end.
    pub(crate) async fn run(self) -> Ran {
        self.start().end().await
    }
}

/// A program that runs.
pub(crate) struct Running {
    child: Child,
    stdout: Option<BufReader<ChildStdout>>,
    stderr: Option<BufReader<ChildStderr>>,
    seen_stdout: String,
    seen_stderr: String,
}

impl Running {
    /// Reads stdout until a line holds `words`, and returns that line.
    pub(crate) async fn stdout_says(&mut self, words: &str) -> String {
        until(self.stdout.as_mut().unwrap(), &mut self.seen_stdout, words).await
    }

    /// Reads stderr until a line holds `words`, and returns that line.
    pub(crate) async fn stderr_says(&mut self, words: &str) -> String {
        until(self.stderr.as_mut().unwrap(), &mut self.seen_stderr, words).await
    }

    /// Closes our end of its stdout.
    pub(crate) fn close_stdout(&mut self) {
        self.stdout = None;
    }

    /// Returns its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id().expect("it was not waited for yet")
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.id()).unwrap()).unwrap()
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn end(mut self) -> Ran {
        let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
        let ended = async {
            let out = async {
                if let Some(pipe) = &mut self.stdout {
                    pipe.read_to_end(&mut stdout).await.unwrap();
                }
            };
            let err = async {
                if let Some(pipe) = &mut self.stderr {
                    pipe.read_to_end(&mut stderr).await.unwrap();
                }
            };
            tokio::join!(out, err, self.child.wait()).2.unwrap()
        };
        let status = soon("the program's end", ended).await;
        let text = |seen: String, rest: Vec<u8>| seen + &String::from_utf8(rest).unwrap();
        Ran {
            status,
            stdout: text(self.seen_stdout, stdout),
            stderr: text(self.seen_stderr, stderr),
        }
    }
}

async fn until(
    pipe: &mut (impl tokio::io::AsyncBufRead + Unpin),
    seen: &mut String,
    words: &str,
) -> String {
    soon(words, async {
        loop {
            let mut line = String::new();
            let read = pipe.read_line(&mut line).await.unwrap();
            assert!(read > 0, "it ended without saying `{words}`:\n{seen}");
            seen.push_str(&line);
            if line.contains(words) {
                return line.trim_end().to_owned();
            }
        }
    })
    .await
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Ran {
    status: ExitStatus,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl fmt::Display for Ran {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { status, stdout, stderr } = self;
        write!(f, "{status}\n--- stdout\n{stdout}\n--- stderr\n{stderr}")
    }
}

impl Ran {
    /// Asserts the exit code, and that nothing panicked on the way.
    #[track_caller]
    pub(crate) fn exits(self, code: i32) -> Self {
        assert_eq!(self.status.code(), Some(code), "{self}");
        assert!(!self.stderr.contains("panicked"), "{self}");
        self
    }

    /// Returns the exit code, if no signal ended it.
    pub(crate) fn code(&self) -> Option<i32> {
        self.status.code()
    }

    /// Asserts that stderr holds `words`.
    #[track_caller]
    pub(crate) fn says(self, words: &str) -> Self {
        assert!(self.stderr.contains(words), "no `{words}` in:\n{self}");
        self
    }

    /// Asserts what stdout is, all of it.
    #[track_caller]
    pub(crate) fn prints(self, stdout: &str) -> Self {
        assert_eq!(self.stdout, stdout, "{self}");
        self
    }

    /// Returns the JSON lines of stdout; every one of them must be an object with a type.
    #[track_caller]
    pub(crate) fn lines(&self) -> Vec<Value> {
        let line = |line: &str| -> Value {
            let value = serde_json::from_str(line);
            let value: Value = value.unwrap_or_else(|e| panic!("{e} in `{line}`:\n{self}"));
            assert!(value["type"].is_string(), "{line}");
            value
        };
        assert!(self.stdout.is_empty() || self.stdout.ends_with('\n'), "{self}");
        self.stdout.lines().map(line).collect()
    }
}

/// Returns the results of tool calls in a request, in order, on either wire, without what stands
/// behind them unasked.
pub(crate) fn results(request: &Request) -> Vec<String> {
    let body = request.json();
    let text = |value: &Value| {
        let text = value.as_str().unwrap_or_default();
        text.split("\n[vtcode attached, unasked: ").next().unwrap_or_default().to_owned()
    };
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let mut results = Vec::new();
    for message in list(&body["messages"]) {
        if message["role"] == "tool" {
            results.push(text(&message["content"]));
        }
        let blocks = list(&message["content"]).into_iter();
        let blocks = blocks.filter(|block| block["type"] == "tool_result");
        results.extend(blocks.map(|block| text(&block["content"])));
    }
    let items = list(&body["input"]).into_iter();
    let items = items.filter(|item| item["type"] == "function_call_output");
    results.extend(items.map(|item| text(&item["output"])));
    for part in list(&body["contents"]).iter().flat_map(|content| list(&content["parts"])) {
        let response = &part["functionResponse"]["response"];
        results.extend(["output", "error"].iter().filter_map(|key| response.get(key)).map(text));
    }
    results
}

/// Returns the result of the last call in the last request.
pub(crate) fn last_result(model: &ScriptedModel) -> String {
    let requests = model.requests();
    results(requests.last().expect("no request came")).pop().expect("no result in the request")
}

/// Returns the system prompt of a request.
pub(crate) fn system(request: &Request) -> String {
    let body = request.json();
    let chat = body["messages"][0]["content"].as_str();
    chat.or(body["system"][0]["text"].as_str()).unwrap().to_owned()
}
