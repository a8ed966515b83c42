//! Hostile commands in a sandbox, with namespaces and without. Each test proves that the command
//! ran, that what it tried had no effect, and, where that is safe, that it has one without a
//! sandbox.

#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;
use vtcode_core::config::safety::{SandboxMode, SandboxSettings};
use vtcode_core::safety::sandbox::{Sandbox, SandboxPlan};
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin::run_command::{Background, RunCommand};
use vtcode_core::tools::tool::{CallContext, Tool, ToolOutput};

/// A guard against hanging, far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Namespaces,
    Bare,
    Off,
}

const CONFINED: [Kind; 2] = [Kind::Namespaces, Kind::Bare];

struct Room {
    dir: TempDir,
    tool: Option<RunCommand>,
    kind: Kind,
}

/// Makes a room; none, and says so, where this machine cannot.
fn room(kind: Kind) -> Option<Room> {
    room_with(kind, |_| SandboxSettings::default())
}

fn room_with(kind: Kind, settings: impl FnOnce(&Path) -> SandboxSettings) -> Option<Room> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    for folder in ["work", "home/.ssh", "state", "out"] {
        fs::create_dir_all(path.join(folder)).unwrap();
    }
    fs::write(path.join("home/.ssh/id_rsa"), "the key").unwrap();
    fs::write(path.join("home/.gitconfig"), "[user]\nname = A\nemail = a@b\n").unwrap();
    fs::write(path.join("state/journal"), "the journal").unwrap();
    let settings = settings(&path);
    let workspace = Arc::new(Workspace::open(&path.join("work")).unwrap());
    let mut env: Vec<(OsString, OsString)> = vec![
        ("PATH".into(), std::env::var_os("PATH").unwrap()),
        ("HOME".into(), path.join("home").into()),
    ];
    // The toolchain of whoever runs the tests.
    let home = PathBuf::from(std::env::var_os("HOME").unwrap_or_default());
    for (name, folder) in
        [("CARGO_HOME", ".cargo"), ("RUSTUP_HOME", ".rustup"), ("PYENV_ROOT", ".pyenv")]
    {
        let folder = std::env::var_os(name).unwrap_or_else(|| home.join(folder).into());
        env.push((name.into(), folder));
    }
    let plan = SandboxPlan {
        settings: &settings,
        workspace: &workspace,
        private: vec![path.join("state")],
        env: &env,
    };
    let sandbox = match kind {
        Kind::Off => Ok(Sandbox::off()),
        Kind::Bare => Sandbox::without_namespaces(&plan),
        Kind::Namespaces => Sandbox::new(&plan),
    };
    let sandbox = match sandbox {
        Ok(sandbox) => sandbox,
        Err(error) => {
            eprintln!("SKIPPED: {error}");
            return None;
        }
    };
    if let (Kind::Namespaces, Some(lack)) = (kind, sandbox.lacks()) {
        eprintln!("SKIPPED with namespaces: {lack}");
        return None;
    }
    let tool = RunCommand::new(
        workspace,
        path.join("spool"),
        env,
        16 * 1024,
        Arc::new(Background::default()),
        Arc::new(sandbox),
    );
    Some(Room { dir, tool: Some(tool), kind })
}

fn context(timeout: Duration) -> CallContext {
    CallContext {
        call_id: "call".into(),
        timeout,
        cancel: CancellationToken::new(),
        progress: None,
    }
}

impl Room {
    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().canonicalize().unwrap().join(path)
    }

    fn get(&self, path: &str) -> String {
        fs::read_to_string(self.path(path)).unwrap_or_default()
    }

    /// Runs a script that lies in the workspace, as a repository's own would.
    async fn script(&self, script: &str) -> String {
        fs::write(self.path("work/script.sh"), script).unwrap();
        self.call("bash script.sh", LONG).await.text
    }

    async fn call(&self, command: &str, timeout: Duration) -> ToolOutput {
        let args = json!({ "command": command });
        let (tool, context) = (self.tool.as_ref().unwrap(), context(timeout));
        tokio::time::timeout(2 * LONG, tool.call(&args, &context)).await.expect("it hangs").unwrap()
    }
}

/// Runs a script in each kind of sandbox.
async fn confined(script: &str, check: impl Fn(&Room, &str)) {
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        let text = room.script(&script.replace("DIR", room.path("").to_str().unwrap())).await;
        check(&room, &text);
    }
}

/// Runs it without one.
async fn loose(script: &str, check: impl Fn(&Room, &str)) {
    let room = room(Kind::Off).unwrap();
    let text = room.script(&script.replace("DIR", room.path("").to_str().unwrap())).await;
    check(&room, &text);
}

#[tokio::test]
async fn a_command_cannot_write_outside_of_its_folders() {
    let script = "echo ran; echo inside > inside; echo x > DIRout/file; echo x > DIRhome/file;
                  mkdir DIRout/folder; echo tmp > $TMPDIR/x && cat $TMPDIR/x; ls DIRout";
    confined(script, |room, text| {
        assert!(text.starts_with("ran\n"), "{text}");
        assert_eq!(room.get("work/inside"), "inside\n", "{text}");
        assert!(!room.path("out/file").exists() && !room.path("home/file").exists(), "{text}");
        assert!(!room.path("out/folder").exists(), "{text}");
        assert!(text.contains("tmp\n"), "{text}");
    })
    .await;
    loose(script, |room, _| assert!(room.path("out/file").exists())).await;
}

#[tokio::test]
async fn a_command_ends_as_it_does_without_a_sandbox() {
    for kind in [Kind::Namespaces, Kind::Bare, Kind::Off] {
        let Some(room) = room(kind) else { continue };
        let text = async |command| room.call(command, LONG).await.text;
        assert_eq!(text("echo a; echo b >&2; exit 3").await, "a\nb\n[exit code 3]");
        assert_eq!(text("true").await, "[no output, exit code 0]");
        assert_eq!(text("kill -9 $$").await, "[no output, killed by signal 9]");
        assert_eq!(text("exec >&- 2>&-; sleep 0.2; exit 3").await, "[no output, exit code 3]");
        let left = text("sleep 60 & echo a").await;
        let ended = "a\n[what it left running in the background was ended]\n[exit code 0]";
        assert_eq!(left, ended);
        let late = text("(sleep 0.02; echo late) & echo early").await;
        assert_eq!(late, "early\nlate\n[exit code 0]");
    }
}
