//! Hostile commands in a sandbox, with namespaces and without. Each test proves that the command
//! ran, that what it tried had no effect, and, where that is safe, that it has one without a
//! sandbox.

#![cfg(target_os = "linux")]

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
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
    /// The workspace, below `dir`.
    work: &'static str,
    tool: RunCommand,
}

/// Makes a room; none, and says so, where this machine cannot.
fn room(kind: Kind) -> Option<Room> {
    room_with(kind, |_| SandboxSettings::default())
}

fn room_with(kind: Kind, settings: impl FnOnce(&Path) -> SandboxSettings) -> Option<Room> {
    room_of(kind, "work", settings)
}

/// Makes a room whose workspace is this folder of it; `out` is a further one that is added when the
/// workspace is `home`.
fn room_of(
    kind: Kind,
    work: &'static str,
    settings: impl FnOnce(&Path) -> SandboxSettings,
) -> Option<Room> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().canonicalize().unwrap();
    for folder in ["work", "home/.ssh", "state", "out"] {
        fs::create_dir_all(path.join(folder)).unwrap();
    }
    fs::write(path.join("home/.ssh/id_rsa"), "the key").unwrap();
    fs::write(path.join("home/.gitconfig"), "[user]\nname = A\nemail = a@b\n").unwrap();
    fs::write(path.join("state/journal"), "the journal").unwrap();
    let settings = settings(&path);
    let mut workspace = Workspace::open(&path.join(work)).unwrap();
    if work == "home" {
        workspace = workspace.with_dir(&path.join("out"), true).unwrap();
    }
    let workspace = Arc::new(workspace);
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
        build: None,
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
    Some(Room { dir, work, tool })
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
        fs::write(self.path(self.work).join("script.sh"), script).unwrap();
        self.call("bash script.sh", LONG).await.text
    }

    async fn call(&self, command: &str, timeout: Duration) -> ToolOutput {
        let args = json!({ "command": command });
        let (tool, context) = (&self.tool, context(timeout));
        tokio::time::timeout(2 * LONG, tool.call(&args, &context)).await.expect("it hangs").unwrap()
    }
}

/// Runs a script in each kind of sandbox.
async fn confined(script: &str, check: impl Fn(&Room, &str)) {
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        let text = room.script(&script.replace('@', room.path("").to_str().unwrap())).await;
        check(&room, &text);
    }
}

/// Runs it without one.
async fn loose(script: &str, check: impl Fn(&Room, &str)) {
    let room = room(Kind::Off).unwrap();
    let text = room.script(&script.replace('@', room.path("").to_str().unwrap())).await;
    check(&room, &text);
}

#[tokio::test]
async fn a_command_cannot_write_outside_of_its_folders() {
    let script = "echo ran; echo inside > inside; echo x > @out/file; echo x > @home/file;
                  mkdir @out/folder; echo tmp > $TMPDIR/x && cat $TMPDIR/x; ls @out";
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

#[tokio::test]
async fn keys_and_our_own_journal_cannot_be_read() {
    let script = "echo ran; cat @home/.ssh/id_rsa; cat @state/journal; cat @home/.gitconfig";
    confined(script, |_, text| {
        assert!(text.starts_with("ran\n"), "{text}");
        assert!(!text.contains("the key") && !text.contains("the journal"), "{text}");
        assert!(text.contains("name = A"), "{text}");
    })
    .await;
    loose(script, |_, text| assert!(text.contains("the key"), "{text}")).await;
}

#[tokio::test]
async fn what_git_and_we_obey_stays_as_it_was() {
    let script = "echo ran; echo evil > .git/hooks/pre-commit; echo evil > .git/config;
                  echo evil > vtcode.toml; rm .git/hooks/old; mv .git aside && cp -r aside .git;
                  echo evil > .git/hooks/pre-push; echo evil >> .git/config; true";
    let prepare = |room: &Room| {
        fs::create_dir_all(room.path("work/.git/hooks")).unwrap();
        fs::write(room.path("work/.git/config"), "mine").unwrap();
        fs::write(room.path("work/.git/hooks/old"), "mine").unwrap();
        fs::write(room.path("work/vtcode.toml"), "mine").unwrap();
    };
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        prepare(&room);
        let text = room.script(script).await;
        assert!(text.starts_with("ran\n"), "{text}");
        for file in [".git/config", ".git/hooks/old", "vtcode.toml"] {
            assert_eq!(room.get(&format!("work/{file}")), "mine", "{kind:?} {file} {text}");
        }
        assert!(!room.path("work/.git/hooks/pre-commit").exists(), "{text}");
        assert!(!room.path("work/.git/hooks/pre-push").exists(), "{text}");
        assert!(text.contains("[undone, as no command may change it: "), "{text}");
    }
    let room = room(Kind::Off).unwrap();
    prepare(&room);
    room.script(script).await;
    assert!(room.get("work/.git/hooks/pre-push").contains("evil"));
}

#[tokio::test]
async fn git_and_python_and_a_compiler_still_work() {
    let script =
        "git init -q . && echo x > x && git add x && git commit -qm one && git log --oneline
                  echo 'int main(){return 0;}' > a.c && cc a.c -o a && ./a && echo compiled
                  python3 -c 'print(40 + 2)'
                  cargo init -q --name tiny --vcs none tiny && cd tiny && cargo build -q --offline \
                  && ./target/debug/tiny";
    confined(script, |_, text| {
        for said in [" one\n", "compiled\n", "42\n", "Hello, world!\n[exit code 0]"] {
            assert!(text.contains(said), "{text}");
        }
        assert!(!text.contains("undone"), "{text}");
    })
    .await;
}

#[tokio::test]
async fn a_command_reaches_no_listener_of_ours() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let port = listener.local_addr().unwrap().port();
    let script = format!("echo ran; echo hi > /dev/tcp/127.0.0.1/{port} && echo reached; true");
    confined(&script, |_, text| {
        assert!(text.starts_with("ran\n") && !text.contains("reached"), "{text}");
    })
    .await;
    assert!(listener.accept().is_err());
    loose(&script, |_, text| assert!(text.contains("reached"), "{text}")).await;
    assert!(listener.accept().is_ok());
}

#[tokio::test]
async fn the_agents_memory_mounts_terminal_and_namespaces_are_out_of_reach() {
    let own = std::process::id();
    let script = format!(
        "echo ran; cat /proc/{own}/environ >/dev/null && echo READ; cat /proc/$PPID/environ && echo READ
         head -c1 /proc/$PPID/mem && echo READ; cat /dev/tty && echo TTY
         mount -t tmpfs none . && echo MOUNTED; unshare -Ur true && echo UNSHARED
         chroot . /bin/true && echo ROOT; echo 1 > /proc/sys/kernel/core_uses_pid && echo SYSCTL
         python3 -c 'import ctypes; print(\"ptrace\", ctypes.CDLL(None).ptrace(0,0,0,0))'; true"
    );
    confined(&script, |_, text| {
        assert!(text.starts_with("ran\n") && text.contains("ptrace -1"), "{text}");
        for done in ["READ\n", "TTY\n", "MOUNTED\n", "UNSHARED\n", "ROOT\n", "SYSCTL\n"] {
            assert!(!text.contains(done), "{done} {text}");
        }
    })
    .await;
}

/// Waits until no process has `marker` among its arguments.
async fn assert_none_runs(marker: &str) {
    let runs = || {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        processes.into_iter().any(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains(marker)
        })
    };
    let gone = async {
        while runs() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(LONG, gone).await.expect("it lives on");
}

#[tokio::test]
async fn nothing_outlives_the_end_of_a_call_or_its_deadline() {
    for (n, kind) in CONFINED.into_iter().enumerate() {
        let Some(room) = room(kind) else { continue };
        let marker = format!("6{n}{}.25", std::process::id());
        let escape = format!(
            "setsid bash -c '(trap \"\" TERM HUP; sleep {marker} & sleep {marker}) & sleep {marker}' &
             setsid -f sleep {marker} >/dev/null 2>&1; sleep 0.1; echo started"
        );
        let text = room.call(&escape, LONG).await.text;
        assert!(
            text.contains("started\n[what it left running in the background was ended]"),
            "{text}"
        );
        assert_none_runs(&marker).await;
        let text = room
            .call(&format!("{escape}; wait; sleep {marker}"), Duration::from_secs(2))
            .await
            .text;
        assert!(text.contains("started\n[ended at its deadline"), "{text}");
        assert_none_runs(&marker).await;
    }
}

#[tokio::test]
async fn the_supervisor_and_the_agent_cannot_be_killed() {
    // In the namespaces alone: without them `-1` would be everybody if the scope did not hold.
    let Some(inside) = room(Kind::Namespaces) else { return };
    let text = inside.script("kill -9 $PPID; kill -9 1; kill -9 -1; echo alive").await;
    assert!(text.contains("alive\n"), "{text}");
    let Some(bare) = room(Kind::Bare) else { return };
    let text = bare.script("kill -9 $PPID || echo refused; echo alive").await;
    assert!(text.contains("refused\nalive\n"), "{text}");
}

#[tokio::test]
async fn a_fork_bomb_and_a_huge_file_are_bounded() {
    let small = |_: &Path| SandboxSettings {
        max_processes: 320,
        max_file_bytes: 1 << 20,
        ..SandboxSettings::default()
    };
    for kind in CONFINED {
        let Some(room) = room_with(kind, small) else { continue };
        let text = room.script("echo ran; head -c 5M /dev/zero > big; ls -l big").await;
        assert!(text.starts_with("ran\n"), "{text}");
        assert_eq!(fs::metadata(room.path("work/big")).unwrap().len(), 1 << 20, "{text}");
        let bomb = "echo ran; for n in {1..1000}; do sleep 61 & done 2>err; echo all of them";
        let text = room.call(bomb, Duration::from_secs(20)).await.text;
        assert!(text.starts_with("ran\n"), "{text}");
        let refused = room.get("work/err").contains("fork") || !text.contains("all of them");
        assert!(refused, "{kind:?} {text}");
    }
}

#[tokio::test]
async fn in_read_only_mode_the_workspace_is_not_written() {
    let read_only =
        |_: &Path| SandboxSettings { mode: SandboxMode::ReadOnly, ..SandboxSettings::default() };
    for kind in CONFINED {
        let Some(room) = room_with(kind, read_only) else { continue };
        let text = room.script("cat script.sh >/dev/null && echo ran; echo x > new").await;
        assert!(text.starts_with("ran\n") && !room.path("work/new").exists(), "{text}");
        assert!(text.contains("[this may be the sandbox: "), "{text}");
    }
}

#[tokio::test]
async fn git_is_not_led_to_another_configuration_and_a_link_to_hooks_stays() {
    let script = "echo ran; mkdir -p evil/hooks; echo evil > evil/config
                  echo ../evil > .git/commondir; echo evil > .git/config.worktree; true";
    let prepare = |room: &Room| {
        fs::create_dir_all(room.path("work/.git")).unwrap();
        fs::create_dir_all(room.path("work/shared")).unwrap();
        fs::write(room.path("work/.git/config"), "mine").unwrap();
        std::os::unix::fs::symlink("../shared", room.path("work/.git/hooks")).unwrap();
    };
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        prepare(&room);
        assert!(!room.call("true", LONG).await.text.contains("undone"), "the user's link is his");
        let text = room.script(script).await;
        assert!(text.starts_with("ran\n") && text.contains(".git/commondir"), "{text}");
        for file in ["commondir", "config.worktree"] {
            assert!(!room.path("work/.git").join(file).exists(), "{file} {text}");
        }
        let link = fs::read_link(room.path("work/.git/hooks")).unwrap();
        assert_eq!(link, Path::new("../shared"), "{text}");
        let text = room.script("ln -sfn ../evil .git/hooks; echo ran").await;
        assert!(text.starts_with("ran\n"), "{text}");
        let link = fs::read_link(room.path("work/.git/hooks")).unwrap();
        assert_eq!(link, Path::new("../shared"), "{kind:?} {text}");
    }
    let room = room(Kind::Off).unwrap();
    prepare(&room);
    room.script(script).await;
    assert!(room.path("work/.git/commondir").exists());
}

#[tokio::test]
async fn the_agents_limits_cannot_be_changed() {
    let script = format!(
        "echo ran; python3 -c 'import resource as r; r.prlimit({}, r.RLIMIT_CORE, (0, 0))' \
         && echo CHANGED; ulimit -n >/dev/null && echo own",
        std::process::id()
    );
    confined(&script, |_, text| {
        assert!(text.starts_with("ran\n") && text.contains("own\n"), "{text}");
        assert!(!text.contains("CHANGED"), "{text}");
    })
    .await;
    // Its own core limit: nothing depends on it.
    loose(&script, |_, text| assert!(text.contains("CHANGED"), "{text}")).await;
}

#[tokio::test]
async fn a_refused_change_of_gits_configuration_says_what_to_do_instead() {
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        room.call("git init -q .", LONG).await;
        let text = room.call("git remote add origin x || exit 1", LONG).await.text;
        // Without a mount it is done, and undone.
        let told = text.contains("git -c KEY=VALUE") || text.contains("[undone, ");
        assert!(told, "{kind:?} {text}");
    }
}

#[tokio::test]
async fn the_network_is_there_when_the_user_says_so() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    for kind in CONFINED {
        let open = |_: &Path| SandboxSettings { network: true, ..SandboxSettings::default() };
        let Some(room) = room_with(kind, open) else { continue };
        let text =
            room.script(&format!("echo hi > /dev/tcp/127.0.0.1/{port} && echo reached")).await;
        assert!(text.starts_with("reached\n"), "{kind:?} {text}");
        // All else is held as before.
        let text = room.script(&format!("cat {}", room.path("home/.ssh/id_rsa").display())).await;
        assert!(!text.contains("the key"), "{kind:?} {text}");
    }
}

#[tokio::test]
async fn a_folder_that_the_user_names_may_be_written_and_no_other() {
    for kind in CONFINED {
        let cache = |path: &Path| SandboxSettings {
            write: vec![path.join("out")],
            ..SandboxSettings::default()
        };
        let Some(room) = room_with(kind, cache) else { continue };
        let root = room.path("");
        let root = root.display();
        room.script(&format!("echo x > {root}/out/kept; echo x > {root}/home/kept")).await;
        assert_eq!(room.get("out/kept"), "x\n", "{kind:?}");
        assert!(!room.path("home/kept").exists(), "{kind:?}");
    }
}

#[tokio::test]
async fn a_workspace_that_is_the_home_folder_does_not_give_its_keys_away() {
    for kind in CONFINED {
        let Some(room) = room_of(kind, "home", |path| {
            fs::create_dir(path.join("home/project")).unwrap();
            SandboxSettings::default()
        }) else {
            continue;
        };
        // What is made at the top of such a workspace later is granted to nobody, so no script.
        let script = "echo ran; cat ~/.ssh/id_rsa; echo x > ~/.ssh/id_rsa; echo x > project/new; echo x > ../out/new";
        let text = room.call(script, LONG).await.text;
        assert!(text.starts_with("ran\n") && !text.contains("the key"), "{kind:?} {text}");
        assert_eq!(room.get("home/.ssh/id_rsa"), "the key", "{kind:?}");
        assert_eq!(room.get("home/project/new"), "x\n", "{kind:?} {text}");
        // A folder that was added is as good as the first.
        assert_eq!(room.get("out/new"), "x\n", "{kind:?} {text}");
    }
}

#[tokio::test]
async fn a_flood_of_output_and_a_closed_one_are_taken_in_stride() {
    let flood =
        "yes | head -c 50M; echo; echo last; exec >&- 2>&-; trap '' TERM; sleep 0.1; exit 3";
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        let text = room.script(flood).await;
        assert!(text.len() < 20 * 1024, "{}", text.len());
        assert!(text.contains("last\n") && text.contains("[exit code 3]"), "{kind:?} {text}");
    }
}

#[tokio::test]
async fn a_command_line_beyond_what_the_system_takes_says_what_to_do() {
    for kind in CONFINED {
        let Some(room) = room(kind) else { continue };
        let args = json!({ "command": format!("echo {}", "x ".repeat(4 << 20)) });
        let context = context(LONG);
        let answer = room.tool.call(&args, &context).await;
        let error = answer.expect_err("the system takes less").to_string();
        assert!(error.contains("write it to a file"), "{kind:?} {error}");
        assert!(room.script("echo fine").await.contains("fine"));
    }
}

#[tokio::test]
async fn a_server_in_the_background_serves_later_commands_and_ends_with_the_session() {
    let Some(room) = room(Kind::Namespaces) else { return };
    let marker = format!("64{}.25", std::process::id());
    let server =
        format!("setsid -f sleep {marker}; exec python3 -m http.server 8123 --bind 127.0.0.1");
    let args = json!({ "command": server, "background": true });
    room.tool.call(&args, &context(LONG)).await.unwrap();
    let ask = "for n in $(seq 200); do
        python3 -c 'import urllib.request as u; print(u.urlopen(\"http://127.0.0.1:8123\").status)' \
            2>/dev/null && break; sleep 0.1; done";
    let text = room.script(ask).await;
    assert!(text.starts_with("200\n"), "{text}");
    room.tool.close().await;
    assert_none_runs(&marker).await;
}
