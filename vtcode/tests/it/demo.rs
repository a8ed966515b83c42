//! `demo`: the whole way with no key and no network, on a sample whose test really fails.

use std::path::{Path, PathBuf};

use rustix::process::Signal;

use crate::user::{Ran, User};

const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sample");

/// Copies the bundled sample, changed by `change`, into the user's folder.
fn sample(user: &User, change: impl Fn(&str, String) -> String) -> PathBuf {
    for path in [
        "Cargo.toml",
        "Cargo.lock",
        "src/lib.rs",
        "src/parse.rs",
        "src/ranges.rs",
        "tests/print_dialog.rs",
    ] {
        let text = std::fs::read_to_string(Path::new(SAMPLE).join(path)).unwrap();
        user.folder.write(Path::new("sample").join(path), change(path, text));
    }
    user.folder.path().join("sample")
}

/// Runs the sample's tests.
async fn tests(user: &User, folder: &Path) -> Ran {
    user.program("cargo", ["test", "--offline", "--quiet"]).in_folder(folder).run().await
}

/// Returns what the model said at the end: the words between the last result and the profile.
fn claims_success(ran: &Ran) -> bool {
    ran.stdout.contains("The test passes now")
}

#[track_caller]
fn says_that_it_is_recorded(ran: &Ran) {
    let lines: Vec<_> = ran.stdout.lines().collect();
    let (first, last) = (lines.first().unwrap(), lines.last().unwrap());
    assert!(first.contains("recorded") && last.contains("recorded"), "{ran}");
}

/// Returns what is left of the runs in the temporary folder.
fn left(user: &User) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(user.home.path().join("tmp")).unwrap();
    entries.map(|entry| entry.unwrap().path()).collect()
}

#[tokio::test]
async fn the_sample_fails_before_and_passes_after() {
    let user = User::new();
    let before = sample(&user, |_, text| text);
    tests(&user, &before).await.exits(101);

    let demo = user.vtcode(["demo", "--keep"]).without_env("XDG_STATE_HOME");
    let ran = demo.without_env("XDG_CONFIG_HOME").env("HOME", "/dev/null/nowhere").run().await;
    let ran = ran.exits(0);
    says_that_it_is_recorded(&ran);
    assert!(claims_success(&ran), "{ran}");
    assert!(ran.stdout.contains("changed: src/ranges.rs"), "{ran}");
    assert!(!ran.stdout.contains('\x1b'), "{ran}");
    let kept = ran.stdout.lines().find_map(|line| line.strip_prefix("kept: "));
    let kept = Path::new(kept.unwrap_or_else(|| panic!("{ran}"))).to_owned();
    tests(&user, &kept).await.exits(0);
    assert_ne!(
        std::fs::read(kept.join("src/ranges.rs")).unwrap(),
        std::fs::read(before.join("src/ranges.rs")).unwrap()
    );
    assert_eq!(
        std::fs::read(kept.join("tests/print_dialog.rs")).unwrap(),
        std::fs::read(before.join("tests/print_dialog.rs")).unwrap(),
        "the test itself is as it was"
    );
}

#[tokio::test]
async fn a_changed_copy_gives_different_results_and_nothing_is_left() {
    let user = User::new();
    let copy = sample(&user, |path, text| match path {
        "tests/print_dialog.rs" => text.replace("what_was_typed_becomes", "another_name_for_this"),
        "src/ranges.rs" => text.replace("overlap or touch", "overlap or touch each other"),
        _ => text,
    });
    let before = user.folder.snapshot();
    let ran = user.vtcode(["demo", "--sample"]).arg(copy).run().await.exits(0);
    says_that_it_is_recorded(&ran);
    assert!(ran.stdout.contains("another_name_for_this"), "the test's own words: {ran}");
    assert!(!ran.stdout.contains("what_was_typed_becomes"), "{ran}");
    assert!(claims_success(&ran), "{ran}");
    assert_eq!(user.folder.snapshot(), before, "the demo works on a copy");
    assert_eq!(left(&user), [""; 0].map(PathBuf::from));
    assert!(!user.state().exists());
}

#[tokio::test]
async fn an_edit_that_does_not_fit_fails_in_sight() {
    let user = User::new();
    let copy = sample(&user, |path, text| match path {
        "src/ranges.rs" => {
            text.replace("range.start() <= last.end()", "last.end() >= range.start()")
        }
        _ => text,
    });
    let ran = user.vtcode(["demo", "--sample"]).arg(copy).run().await.exits(1);
    says_that_it_is_recorded(&ran);
    assert!(ran.stdout.contains("`src/ranges.rs` was not changed"), "{ran}");
    assert!(
        !claims_success(&ran) && ran.stdout.contains("I did not see the test fail and then pass"),
        "{ran}"
    );
    assert_eq!(left(&user), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_sample_that_was_repaired_before_is_not_claimed_as_ours() {
    let user = User::new();
    let copy = sample(&user, |path, text| match path {
        "tests/print_dialog.rs" => "#[test]\nfn nothing_to_repair() {}\n".to_owned(),
        "src/ranges.rs" => text.replace("for range in ranges {", "for range in ranges.iter() {"),
        _ => text,
    });
    let ran = user.vtcode(["demo", "--sample"]).arg(copy).run().await.exits(1);
    assert!(!claims_success(&ran), "{ran}");
}

#[tokio::test]
async fn without_cargo_nothing_is_claimed() {
    let user = User::new();
    let ran = user.vtcode(["demo"]).env("PATH", "/dev/null").run().await.exits(1);
    says_that_it_is_recorded(&ran);
    assert!(ran.stdout.contains("exit code 127"), "{ran}");
    assert!(!claims_success(&ran), "{ran}");
}

#[tokio::test]
async fn a_sample_that_is_no_folder_is_a_usage_error() {
    let user = User::with([("file", "")]);
    for none in ["nowhere", "file"] {
        let ran = user.vtcode(["demo", "--sample", none]).run().await.exits(2).says(none);
        assert!(!claims_success(&ran), "{ran}");
    }
    assert_eq!(left(&user), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn leaving_it_leaves_nothing() {
    let user = User::new();
    let mut running = user.vtcode(["demo"]).start();
    running.stdout_says("● run_command").await;
    running.signal(Signal::INT);
    let ran = running.end().await.exits(130);
    assert!(!claims_success(&ran), "{ran}");
    assert_eq!(left(&user), [""; 0].map(PathBuf::from));
    assert!(!user.state().exists());
}
