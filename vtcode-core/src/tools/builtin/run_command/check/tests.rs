use super::*;
use crate::config::limits::Limits;
use crate::config::safety::{Approval, PermissionRules};
use crate::tools::builtin::testing::Place;

/// A guard against hanging, far beyond what anything here takes.
const LONG: Duration = Duration::from_secs(60);

fn env() -> Vec<(OsString, OsString)> {
    let mut env: Vec<_> =
        std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME").collect();
    env.push(("SOME_API_KEY".into(), "hunter2".into()));
    env
}

fn safety(mode: SandboxMode, approval: Approval) -> SafetySettings {
    let sandbox = SandboxSettings { mode, ..SandboxSettings::default() };
    SafetySettings { sandbox, approval, ..SafetySettings::default() }
}

/// Makes a check as the program does.
fn make(
    place: &Place,
    command: Option<&str>,
    safety: &SafetySettings,
) -> Result<Option<Check>, NoCheck> {
    let permissions = Permissions::new(safety, Arc::clone(&place.workspace)).unwrap();
    Check::new(CheckPlan {
        command,
        detect: true,
        safety,
        permissions: &permissions,
        workspace: &place.workspace,
        private: Vec::new(),
        env: env(),
        result_bytes: Limits::full().agent.checks.result_bytes,
    })
}

/// The check, where commands can be confined on this machine; else says that it cannot be tried.
fn check(place: &Place, command: &str) -> Option<Check> {
    let safety = safety(SandboxMode::WorkspaceWrite, Approval::Never);
    match make(place, Some(command), &safety) {
        Err(NoCheck::Unconfined(error)) => {
            println!("not tried: {error}");
            None
        }
        made => made.unwrap(),
    }
}

async fn run(check: &Check, cpu: Duration, wall: Duration) -> Checked {
    let cancel = CancellationToken::new();
    let run = check.run(cpu, wall, &cancel);
    tokio::time::timeout(LONG, run).await.expect("it hangs")
}

#[tokio::test]
async fn what_a_check_says_and_how_it_ends_comes_back() {
    let place = Place::with(&[("a.txt", "alpha\n")]);
    let Some(check) = check(&place, "cat a.txt; echo \"[$SOME_API_KEY]\"; exit 3") else { return };
    let checked = run(&check, LONG, LONG).await;
    assert_eq!((checked.end, checked.exit_code), (CheckEnd::Failed, Some(3)));
    assert_eq!(checked.text, "alpha\n[]");
}

#[tokio::test]
async fn of_the_workspace_a_check_writes_nothing_but_the_build_folder() {
    let place = Place::with(&[("Cargo.toml", ""), ("target/old", ""), ("src/a.rs", "fn a() {}\n")]);
    let script = "echo x > src/a.rs; echo x > new; mv src/a.rs src/b.rs; echo built > target/new; \
                  echo \"$CARGO_TARGET_DIR\"; cat target/new src/a.rs 2>&1";
    let Some(check) = check(&place, script) else { return };
    let checked = run(&check, LONG, LONG).await;
    let root = place.workspace.root();
    assert_eq!(std::fs::read_to_string(root.join("src/a.rs")).unwrap(), "fn a() {}\n");
    assert!(!root.join("new").exists());
    assert_eq!(std::fs::read_to_string(root.join("target/new")).unwrap(), "built\n");
    assert!(checked.text.contains(&root.join("target").display().to_string()), "{checked:?}");
}

#[tokio::test]
async fn a_build_folder_that_leads_elsewhere_is_not_written() {
    let place = Place::with(&[("Cargo.toml", ""), ("src/a.rs", "fn a() {}\n")]);
    let root = place.workspace.root();
    std::os::unix::fs::symlink("src", root.join("target")).unwrap();
    let script = "echo x > target/a.rs; echo x > \"$CARGO_TARGET_DIR\"/b.rs; pwd";
    let Some(check) = check(&place, script) else { return };
    run(&check, LONG, LONG).await;
    assert_eq!(std::fs::read_to_string(root.join("src/a.rs")).unwrap(), "fn a() {}\n");
    assert!(!root.join("src/b.rs").exists());
}

#[tokio::test]
async fn a_check_reaches_no_network() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let place = Place::with(&[("a.txt", "")]);
    let mut safety = safety(SandboxMode::WorkspaceWrite, Approval::Never);
    // Even where the model's commands do.
    safety.sandbox.network = true;
    let script = format!("echo hello > /dev/tcp/127.0.0.1/{port} && echo reached");
    let Ok(Some(check)) = make(&place, Some(&script), &safety) else { return };
    let checked = run(&check, LONG, LONG).await;
    assert!(!checked.text.contains("reached"), "{checked:?}");
    listener.set_nonblocking(true).unwrap();
    assert!(listener.accept().is_err());
}

#[tokio::test]
async fn a_check_ends_once_it_used_its_share_of_the_processor_and_so_do_its_children() {
    let place = Place::with(&[("a.txt", "")]);
    let Some(check) = check(&place, "(while :; do :; done) & while :; do :; done") else { return };
    let checked = run(&check, Duration::from_millis(300), LONG).await;
    assert_eq!(checked.end, CheckEnd::OverBudget);
    assert!(checked.cpu >= Duration::from_millis(300), "{checked:?}");
}

#[tokio::test]
async fn a_check_that_sleeps_ends_when_it_took_too_long_and_one_that_is_not_wanted_at_once() {
    let place = Place::with(&[("a.txt", "")]);
    let Some(check) = check(&place, "echo began; sleep 600") else { return };
    let checked = run(&check, LONG, Duration::from_millis(50)).await;
    assert_eq!((checked.end, checked.exit_code), (CheckEnd::OutOfTime, None));
    let cancel = CancellationToken::new();
    cancel.cancel();
    let checked = tokio::time::timeout(LONG, check.run(LONG, LONG, &cancel)).await.unwrap();
    assert_eq!(checked.end, CheckEnd::Interrupted);
}

#[tokio::test]
async fn a_daemon_that_a_check_leaves_is_killed() {
    let place = Place::with(&[("Cargo.toml", ""), ("target/x", "")]);
    // A session of its own, no output of ours held, and the signals that can be are ignored.
    let script = "setsid sh -c 'trap \"\" TERM HUP INT; exec >/dev/null 2>&1; \
                  while :; do echo alive > target/beat; sleep 0.01; done' & \
                  while [ ! -e target/beat ]; do sleep 0.01; done";
    let Some(check) = check(&place, script) else { return };
    let checked = run(&check, LONG, LONG).await;
    assert_eq!(checked.end, CheckEnd::Passed, "{checked:?}");
    let beat = place.workspace.root().join("target/beat");
    std::fs::remove_file(&beat).unwrap();
    // Nothing tells that nobody writes any more; it wrote a hundred times a second.
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!beat.exists(), "it lives on");
}

#[tokio::test]
async fn a_flood_of_output_is_kept_at_both_ends_alone() {
    let place = Place::with(&[("a.txt", "")]);
    let Some(check) = check(&place, "seq 1 200000; exit 1") else { return };
    let checked = run(&check, LONG, LONG).await;
    assert!(checked.text.starts_with("1\n2\n3\n"), "{}", checked.text);
    assert!(checked.text.ends_with("\n199999\n200000"), "{}", checked.text);
    assert!(checked.text.contains("\n[… cut here …]\n"), "{}", checked.text);
    assert!(checked.text.len() < 2200, "{}", checked.text.len());
}

#[test]
fn a_check_runs_only_where_the_same_command_of_the_model_would_unasked() {
    let place = Place::with(&[("Makefile", "")]);
    let command = Some("make check");
    let all = SandboxMode::WorkspaceWrite;
    let untrusted = make(&place, command, &safety(all, Approval::Untrusted));
    assert!(matches!(untrusted, Err(NoCheck::NotAllowed { .. } | NoCheck::Question { .. })));
    // Without a sandbox nothing holds the model's command, so a rule is needed.
    let open = safety(SandboxMode::Off, Approval::Never);
    assert!(matches!(make(&place, command, &open), Err(NoCheck::NotAllowed { .. })));
    let network = make(&place, Some("curl http://example.com"), &safety(all, Approval::Never));
    assert!(matches!(network, Err(NoCheck::NotAllowed { .. })));
    let mut denied = safety(all, Approval::Never);
    denied.permissions = PermissionRules { deny: vec!["make".into()], ..Default::default() };
    assert!(matches!(make(&place, command, &denied), Err(NoCheck::NotAllowed { .. })));
}

#[test]
fn the_folders_files_call_for_a_check_only_if_its_program_is_installed_outside_of_it() {
    let place = Place::with(&[
        ("Cargo.toml", ""),
        ("Cargo.lock", ""),
        ("pyproject.toml", "[tool.ruff]\n"),
        ("bin/cargo", ""),
    ]);
    let root = place.workspace.root();
    let programs = place.outside().join("programs");
    std::fs::create_dir_all(&programs).unwrap();
    let path = |dirs: &[&Path]| {
        let joined = std::env::join_paths(dirs).unwrap();
        vec![(OsString::from("PATH"), joined)]
    };
    assert_eq!(detect(root, &path(&[&programs])), None);
    assert_eq!(detect(root, &path(&[&root.join("bin"), Path::new("bin"), &programs])), None);
    std::fs::write(programs.join("ruff"), "").unwrap();
    let ruff = detect(root, &path(&[&programs])).unwrap();
    assert!(ruff.starts_with("ruff check"), "{ruff}");
    std::fs::write(programs.join("cargo"), "").unwrap();
    let cargo = detect(root, &path(&[&programs])).unwrap();
    assert!(cargo.starts_with("cargo check --offline --locked"), "{cargo}");
    std::fs::remove_file(root.join("Cargo.lock")).unwrap();
    assert!(detect(root, &path(&[&programs])).unwrap().starts_with("ruff"));
}

#[test]
fn only_what_names_a_line_of_a_file_is_a_word_on_the_code() {
    for yes in [
        "src/main.rs:2:5: error[E0425]: no value",
        "src/a.ts(3,5): error TS2304: no name",
        "vet: ./main.go:5:2: undefined",
        "a.py:1:1: F401",
    ] {
        assert!(names_a_place(yes), "{yes}");
    }
    for no in [
        "error: no matching package named `serde` found",
        "error: failed to get `serde` as a dependency (https://index.crates.io:443)",
        "bash: line 1: tsc: command not found",
        "took 0.3:1 s",
        "",
    ] {
        assert!(!names_a_place(no), "{no}");
    }
}
