//! Who may do what under which settings, and what becomes of a question.

use std::sync::atomic::{AtomicUsize, Ordering};

use crate::config::safety::{PermissionRules, SandboxSettings};

use super::*;

struct Place {
    dir: tempfile::TempDir,
    workspace: Arc<Workspace>,
}

fn place() -> Place {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("in")).unwrap();
    std::fs::write(dir.path().join("secret"), "x").unwrap();
    let workspace = Arc::new(Workspace::open(&dir.path().join("in")).unwrap());
    Place { dir, workspace }
}

impl Place {
    fn with(&self, settings: &SafetySettings) -> Permissions {
        Permissions::new(settings, Arc::clone(&self.workspace)).unwrap()
    }
}

fn settings(approval: Approval, mode: SandboxMode, network: bool) -> SafetySettings {
    SafetySettings {
        sandbox: SandboxSettings { mode, network, ..SandboxSettings::default() },
        approval,
        ..SafetySettings::default()
    }
}

fn asked<'a>(effect: &'a Effect, command: Option<&'a str>) -> Asked<'a> {
    Asked { tool: "tool", effect, command: command.map(Cow::Borrowed) }
}

/// Returns what becomes of a command: it runs, is asked about or refused.
fn becomes(permissions: &Permissions, command: &str) -> &'static str {
    match permissions.decide(&asked(&Effect::opaque(), Some(command))) {
        Ok(Decision::Run) => "run",
        Ok(Decision::Ask(_)) => "ask",
        Err(ToolError::Refused { .. }) => "refuse",
        Err(other) => panic!("{other}"),
    }
}

fn answering(answer: Answer) -> (Approver, Arc<AtomicUsize>) {
    let asked = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked);
    let approver: Approver = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move { answer })
    });
    (approver, asked)
}

#[test]
fn approval_and_sandbox_decide_what_an_ask_becomes() {
    use Approval::{Never, OnRequest, Untrusted};
    use SandboxMode::{Off, WorkspaceWrite};
    let commands = ["ls", "make", "git reset --hard", "sudo ls", "curl x", "rm -rf /"];
    let place = place();
    for (approval, mode, network, expected) in [
        (Never, WorkspaceWrite, false, ["run", "run", "refuse", "refuse", "refuse", "refuse"]),
        (Never, WorkspaceWrite, true, ["run", "run", "refuse", "refuse", "run", "refuse"]),
        (Never, Off, false, ["run", "refuse", "refuse", "refuse", "refuse", "refuse"]),
        (Never, Off, true, ["run", "refuse", "refuse", "refuse", "refuse", "refuse"]),
        (OnRequest, WorkspaceWrite, false, ["run", "run", "ask", "ask", "ask", "refuse"]),
        (OnRequest, WorkspaceWrite, true, ["run", "run", "ask", "ask", "run", "refuse"]),
        (OnRequest, Off, false, ["run", "ask", "ask", "ask", "ask", "refuse"]),
        (Untrusted, WorkspaceWrite, true, ["run", "ask", "ask", "ask", "ask", "refuse"]),
        (Untrusted, Off, false, ["run", "ask", "ask", "ask", "ask", "refuse"]),
    ] {
        let permissions = place.with(&settings(approval, mode, network));
        // Without anybody to ask, a question is a refusal.
        let alone = commands.map(|command| becomes(&permissions, command));
        assert_eq!(alone, expected.map(|e| if e == "ask" { "refuse" } else { e }));
        let permissions = permissions.with_approver(answering(Answer::Once).0);
        let got = commands.map(|command| becomes(&permissions, command));
        assert_eq!(got, expected, "{approval} {mode} network {network}");
    }
    let unleashed = SafetySettings { unleashed: true, ..settings(Never, Off, false) };
    assert_eq!(commands.map(|c| becomes(&place.with(&unleashed), c)), ["run"; 6]);
}

#[test]
fn no_sandbox_answers_what_the_user_wants_to_be_asked() {
    let place = place();
    let rules = PermissionRules {
        ask: vec!["ls".to_owned()],
        allow: vec!["sudo ls".to_owned()],
        ..PermissionRules::default()
    };
    let never = SafetySettings { permissions: rules, ..SafetySettings::default() };
    assert_eq!(becomes(&place.with(&never), "ls"), "refuse");
    assert_eq!(becomes(&place.with(&never), "ls; make"), "refuse");
    assert_eq!(becomes(&place.with(&never), "pwd"), "run");
}

#[test]
fn a_tool_whose_paths_lie_outside_is_refused_in_the_workspaces_words() {
    let place = place();
    let permissions = place.with(&SafetySettings::default());
    let root = place.workspace.root().to_owned();
    std::os::unix::fs::symlink("../secret", root.join("link")).unwrap();
    std::os::unix::fs::symlink("link", root.join("chain")).unwrap();
    std::os::unix::fs::symlink("..", root.join("up")).unwrap();
    std::fs::create_dir(root.join(".git")).unwrap();
    let decide = |effect: &Effect| {
        let decided = permissions.decide(&asked(effect, None));
        decided.map(|_| ()).map_err(|error| error.to_string())
    };
    for (path, words) in [
        (place.dir.path().join("secret"), "is outside the workspace"),
        (root.join("../secret"), "is outside the workspace"),
        ("/".into(), "is outside the workspace"),
        ("../secret".into(), "is outside the workspace"),
        (root.join("link"), "leads outside the workspace"),
        (root.join("chain"), "leads outside the workspace"),
        (root.join("up/secret"), "leads outside the workspace"),
        (root.join("up/new"), "leads outside the workspace"),
        // What opens it follows the link first; on the text it would lie inside.
        (root.join("up/../secret"), "a link in"),
        (root.join("new/../up/../secret"), "a link in"),
        ("~/x".into(), "is not the home folder here"),
        ("a\0b".into(), "NUL"),
    ] {
        for effect in [Effect::read(&path), Effect::write(&path)] {
            let refused = decide(&effect).expect_err(&path.display().to_string());
            assert!(refused.contains(words), "{}: {refused}", path.display());
        }
    }
    decide(&Effect::read(root.join(".git/config"))).unwrap();
    let refused = decide(&Effect::write(root.join(".git/config"))).unwrap_err();
    assert!(refused.contains("belongs to git"), "{refused}");
    for inside in [root.clone(), root.join("new/file"), root.join("sub/../x"), "x".into()] {
        assert_eq!(decide(&Effect::read(&inside)), Ok(()), "{}", inside.display());
    }
}

#[test]
fn a_folder_that_may_only_be_read_is_not_written() {
    let place = place();
    let kept = place.dir.path().join("kept");
    std::fs::create_dir(&kept).unwrap();
    let workspace = Workspace::open(place.workspace.root()).unwrap();
    let workspace = Arc::new(workspace.with_dir(&kept, false).unwrap());
    let permissions = Permissions::for_workspace(workspace);
    let decide = |effect: &Effect| permissions.decide(&asked(effect, None));
    decide(&Effect::read(kept.join("x"))).unwrap();
    for path in [kept.join("x"), kept.join("a/b"), kept.clone()] {
        let refused = decide(&Effect::write(&path)).unwrap_err().to_string();
        assert!(refused.contains("may be read but not written"), "{refused}");
    }
}

#[test]
fn a_tool_that_says_nothing_of_itself_is_unproven() {
    let place = place();
    let decide = |settings: &SafetySettings| {
        place.with(settings).decide(&asked(&Effect::opaque(), None)).is_ok()
    };
    assert!(decide(&settings(Approval::Never, SandboxMode::WorkspaceWrite, false)));
    assert!(!decide(&settings(Approval::Never, SandboxMode::Off, false)));
    assert!(!decide(&settings(Approval::Untrusted, SandboxMode::WorkspaceWrite, false)));
}

#[tokio::test]
async fn always_is_asked_once() {
    let place = place();
    let (approver, count) = answering(Answer::Always);
    let untrusted = settings(Approval::Untrusted, SandboxMode::WorkspaceWrite, false);
    let permissions = place.with(&untrusted).with_approver(approver);
    for command in ["cargo test", "cargo test", "cargo test --all"] {
        let decided = permissions.decide(&asked(&Effect::opaque(), Some(command))).unwrap();
        if let Decision::Ask(question) = decided {
            permissions.ask(*question).await.unwrap();
        }
    }
    assert_eq!(count.load(Ordering::SeqCst), 2);
    // Not what is chained to it.
    assert_eq!(becomes(&permissions, "cargo test && make"), "ask");
    assert_eq!(becomes(&permissions, "cargo test"), "run");
}

#[tokio::test]
async fn a_question_that_an_earlier_answer_covers_is_not_asked() {
    let place = place();
    let (approver, count) = answering(Answer::Always);
    let untrusted = settings(Approval::Untrusted, SandboxMode::WorkspaceWrite, false);
    let permissions = place.with(&untrusted).with_approver(approver);
    let question = || match permissions.decide(&asked(&Effect::opaque(), Some("make all"))) {
        Ok(Decision::Ask(question)) => *question,
        other => panic!("{other:?}"),
    };
    let (first, second) = (question(), question());
    permissions.ask(first).await.unwrap();
    permissions.ask(second).await.unwrap();
    assert_eq!(count.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn two_questions_at_once_are_asked_one_after_the_other() {
    let place = place();
    let asked_times = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&asked_times);
    // Both could be shown before either is answered.
    let approver: Approver = Arc::new(move |_| {
        counted.fetch_add(1, Ordering::SeqCst);
        Box::pin(async {
            tokio::task::yield_now().await;
            Answer::Always
        })
    });
    let untrusted = settings(Approval::Untrusted, SandboxMode::WorkspaceWrite, false);
    let permissions = place.with(&untrusted).with_approver(approver);
    let question = || match permissions.decide(&asked(&Effect::opaque(), Some("make all"))) {
        Ok(Decision::Ask(question)) => *question,
        other => panic!("{other:?}"),
    };
    let both = tokio::join!(permissions.ask(question()), permissions.ask(question()));
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(asked_times.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn no_is_a_refusal_that_the_model_reads() {
    let place = place();
    let untrusted = settings(Approval::Untrusted, SandboxMode::WorkspaceWrite, false);
    let permissions = place.with(&untrusted).with_approver(answering(Answer::No).0);
    let Ok(Decision::Ask(question)) = permissions.decide(&asked(&Effect::opaque(), Some("make")))
    else {
        panic!("not asked");
    };
    let refused = permissions.ask(*question).await.unwrap_err();
    assert!(matches!(refused, ToolError::Refused { .. }));
    assert!(refused.to_string().contains("the user does not want"), "{refused}");
}
