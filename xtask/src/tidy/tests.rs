//! Whole repositories: one that breaks every rule, and our own.

use std::fs;

use super::*;

/// A repository in which nothing is to be put right, with these files on top.
fn repository(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    config_docs::write_below(dir.path()).unwrap();
    let sound = [
        (".gitignore", "/target"),
        ("ARCHITECTURE.md", "## Layers\n    2 agent   1 pipeline, safety\n    0 event"),
        ("vtcode-core/Cargo.toml", "[dev-dependencies]\nvtcode-testkit.workspace = true"),
        ("vtcode-core/src/lib.rs", "//! x\npub mod core;\npub mod safety;\npub mod tools;"),
        ("vtcode-core/src/core.rs", "//! x\npub mod agent;\npub mod event;"),
        ("vtcode-core/src/core/agent.rs", "//! x\nuse crate::core::event::Event;\nmod turn;"),
        ("vtcode-core/src/core/agent/turn.rs", "//! x\nuse crate::tools::pipeline::Pipeline;"),
        ("vtcode-core/src/core/event.rs", "//! x\npub struct Event;"),
        ("vtcode-core/src/safety.rs", "//! x\nuse std::fs;"),
        ("vtcode-core/src/tools.rs", "//! x\npub mod pipeline;"),
        ("vtcode-core/src/tools/pipeline.rs", "//! x\nuse crate::safety;"),
        ("target/debug/mod.rs", "use crate::nothing;"),
    ];
    for (path, text) in sound.iter().chain(files) {
        let path = dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn findings(files: &[(&str, &str)]) -> String {
    findings_below(repository(files).path())
}

fn findings_below(root: &Path) -> String {
    let findings = Tree::read(root).unwrap().findings().unwrap();
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

#[test]
fn a_sound_repository_has_no_findings() {
    assert_eq!(findings(&[]), "");
}

#[test]
fn a_room_that_names_a_higher_one_is_found_however_it_names_it() {
    let event = "//! x
use crate::core::{
    event::Event,
    agent::Agent,
};
use super::agent;
fn f(_: &crate::tools::pipeline::Pipeline) {}
use crate::core;
#[cfg(test)]
mod tests {
    use crate::core::agent::Agent;
}";
    expect_test::expect![[r"
        vtcode-core/src/core/event.rs:4: event (layer 0) names agent (layer 2) as `crate::core::agent::Agent`
        vtcode-core/src/core/event.rs:6: event (layer 0) names agent (layer 2) as `crate::core::agent`
        vtcode-core/src/core/event.rs:7: event (layer 0) names pipeline (layer 1) as `crate::tools::pipeline::Pipeline`
        vtcode-core/src/core/event.rs:8: event names `crate::core`, which is in no room of ARCHITECTURE.md's layers"]]
    .assert_eq(&findings(&[("vtcode-core/src/core/event.rs", event)]));
}

#[test]
fn code_without_a_room_is_found() {
    expect_test::expect![[r"
        vtcode-core/src/core/pool.rs: is in no room of ARCHITECTURE.md's layers; list its room there
        vtcode-core/src/tools.rs:3: holds code, but is only the door to the rooms behind it; give the code a room"]]
    .assert_eq(&findings(&[
        ("vtcode-core/src/core/pool.rs", "//! x\nuse crate::core::agent::Agent;"),
        ("vtcode-core/src/tools.rs", "//! x\npub mod pipeline;\nfn f() {}"),
    ]));
}

#[test]
fn what_breaks_a_habit_is_found() {
    let bad = "use std::io;
#[ignore = \"slow\"]
#[cfg_attr(miri, ignore)]
fn f() { todo!(); }
struct OptimizedThing;
mod optimized_registry {}
fn g() -> core::fmt::Result { unimplemented!(\"x\") }
use crate::{safety, core::event}; fn swap() { core::mem::swap(vtcode_core::core::x(), a) }
// SAFETY: explained, but in the wrong file.
unsafe fn h() {}
#[cfg(test)]
mod tests { fn t() { todo!() } fn optimized_t() {} }";
    let own = "//! x
#![expect(unsafe_code)]
unsafe fn declared() {}
fn f() {
    // SAFETY: for this and that
    // reason.
    let _x =
        unsafe { declared() };
    unsafe { declared() };
}";
    expect_test::expect![[r"
        vtcode-core/src/safety/bad.rs:1: does not open with `//!`: what comes in, what goes out, what it never does
        vtcode-core/src/safety/bad.rs:2: ignores a test; assert today's wrong answer and say why
        vtcode-core/src/safety/bad.rs:3: ignores a test; assert today's wrong answer and say why
        vtcode-core/src/safety/bad.rs:4: `todo!` is not finished
        vtcode-core/src/safety/bad.rs:5: `OptimizedThing` says that it is optimized; name what it does
        vtcode-core/src/safety/bad.rs:7: `unimplemented!` is not finished
        vtcode-core/src/safety/bad.rs:7: says `core::`; write `std::` or `crate::core::`
        vtcode-core/src/safety/bad.rs:8: says `core::`; write `std::` or `crate::core::`
        vtcode-core/src/safety/bad.rs:10: is unsafe in a file without `#![expect(unsafe_code)]`; give it its own
        vtcode-core/src/safety/deep/mod.rs: is a mod.rs; name the file after its module
        vtcode-core/src/safety/own.rs:9: is unsafe without a `// SAFETY:` line"]].assert_eq(&findings(&[
        ("vtcode-core/src/safety/bad.rs", bad),
        ("vtcode-core/src/safety/own.rs", own),
        ("vtcode-core/src/safety/deep/mod.rs", "//! x"),
        ("vtcode/sample/src/lib.rs", "todo!()"),
    ]));
}

#[test]
fn what_breaks_a_package_s_promise_is_found() {
    expect_test::expect![[r"
        vtcode/src/main.rs:2: names `reqwest`; HTTP is the engine's
        vtcode-core/Cargo.toml: has vtcode-testkit as a dependency; only tests may have it"]]
    .assert_eq(&findings(&[
        ("vtcode-core/Cargo.toml", "[dependencies]\nvtcode-testkit.workspace = true"),
        ("vtcode/src/main.rs", "//! reqwest\nuse reqwest::Client;\n// hyper\nfn main() {}"),
    ]));
}

#[test]
fn documents_that_lead_nowhere_are_found() {
    let readme = "# Title
[good](docs/config.md#configuration), [folder](docs), [line](vtcode-core/src/lib.rs#L2), [self](#title)
[gone](gone.md), [built](target/debug/mod.rs), [out](../x.md), [web](https://example.com/gone)
[no heading](docs/config.md#gone), [no line](vtcode-core/src/lib.rs#L200), [no title](#gone)
    cargo test gone_test
    cargo test pipeline";
    expect_test::expect![[r"
        .ci/run: does not give `cargo test --workspace`, and nothing but it
        README.md: does not give `cargo test --workspace`, and nothing but it
        README.md:3: links to `../x.md`, which is outside the repository
        README.md:3: links to `gone.md`, which is not in the repository
        README.md:3: links to `target/debug/mod.rs`, which is not in the repository
        README.md:4: links to `#gone`, but there is no `gone` in that file
        README.md:4: links to `docs/config.md#gone`, but there is no `gone` in that file
        README.md:4: links to `vtcode-core/src/lib.rs#L200`, but there is no `L200` in that file
        README.md:5: runs the tests named `gone_test`, but there are none
        docs/config.md: is stale; `cargo xtask config-docs` writes it anew"]]
    .assert_eq(&findings(&[
        ("README.md", readme),
        ("docs/config.md", "# Configuration"),
        (".ci/run", "cargo test --workspaces"),
    ]));
}

#[test]
fn a_repository_that_cannot_be_judged_is_an_error() {
    let error =
        |files| Tree::read(repository(files).path()).and_then(|t| t.findings()).unwrap_err();
    let broken = error(&[("vtcode-core/src/safety.rs", "fn f( {")]);
    assert!(format!("{broken:#}").starts_with("vtcode-core/src/safety.rs: no Rust"), "{broken:#}");
    let broken = error(&[("ARCHITECTURE.md", "# No layers")]);
    assert!(format!("{broken:#}").starts_with("ARCHITECTURE.md: no indented list"), "{broken:#}");
}

#[test]
fn this_repository_is_tidy() {
    assert_eq!(findings_below(crate::root()), "");
}
