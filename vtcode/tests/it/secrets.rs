//! A key goes to its provider and nowhere else.

use std::path::Path;

use serde_json::json;
use vtcode_testkit::{Fault, ScriptedModel, call, fail, say};

use crate::user::{PROVIDERS, User, base_url};

const KEY: &str = "sk-very-secret-0123456789";

/// Returns the files below a folder that hold the key.
fn holding(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(holding(&path));
        } else if String::from_utf8_lossy(&std::fs::read(&path).unwrap()).contains(KEY) {
            found.push(path.display().to_string());
        }
    }
    found
}

#[tokio::test]
async fn no_output_and_no_file_ever_holds_it() {
    for provider in PROVIDERS {
        let user = User::new();
        let telltale = move |status| Fault::Status {
            code: status,
            headers: vec![("retry-after".to_owned(), "0".to_owned())],
            body: format!("{{\"error\":{{\"message\":\"bad key {KEY}\"}}}}"),
        };
        let model = ScriptedModel::start_with(move |_, number| match number % 3 {
            0 => fail(telltale(500)),
            1 => call("run_command", json!({"command": "env; export -p; seq 1 9999"})),
            _ => fail(telltale(401)),
        })
        .await;
        let url = base_url(provider, &model);
        let variable = match provider {
            "anthropic" => "ANTHROPIC_API_KEY",
            "gemini" => "GEMINI_API_KEY",
            _ => "OPENAI_API_KEY",
        };
        for json in [false, true] {
            let args = ["exec", "--provider", provider, "--base-url", &url, "hi"];
            let exec = user.vtcode(args).env(variable, KEY).args(json.then_some("--json"));
            let ran = exec.run().await.exits(3).says("bad key [key]");
            assert!(!ran.to_string().contains(KEY), "{ran}");
        }
        let requests = model.requests();
        assert!(requests.iter().all(|r| r.headers.iter().any(|(_, value)| value.contains(KEY))));
        assert!(requests.iter().all(|r| !String::from_utf8_lossy(&r.body).contains(KEY)));
        assert!(requests.iter().all(|r| !r.path.contains(KEY)));
        assert_eq!(holding(user.home.path()), [""; 0]);
        assert_eq!(holding(user.folder.path()), [""; 0]);
    }
}

#[tokio::test]
async fn what_is_shown_of_the_configuration_holds_no_key() {
    let user = User::new();
    for command in [["config", "show"], ["config", "check"], ["prompt", "show"]] {
        let ran = user.vtcode(command).env("OPENAI_API_KEY", KEY).run().await.exits(0);
        assert!(!ran.to_string().contains(KEY), "{ran}");
    }
}

#[tokio::test]
async fn a_key_of_another_provider_is_not_sent() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    user.exec(&model, "hi").env("ANTHROPIC_API_KEY", KEY).run().await.exits(0);
    let headers = &model.requests()[0].headers;
    assert!(headers.iter().all(|(_, value)| !value.contains(KEY)), "{headers:?}");
}

#[tokio::test]
async fn a_repository_cannot_have_a_file_of_the_users_quoted() {
    let user = User::new();
    let secret = user.home.path().join("secret");
    std::fs::write(&secret, "hush:hush\n").unwrap();
    std::os::unix::fs::symlink(&secret, user.folder.path().join("vtcode.toml")).unwrap();
    let ran = user.vtcode(["config", "check"]).run().await.exits(2).says("a link out of");
    assert!(!ran.stderr.contains("hush"), "{ran}");
}

#[tokio::test]
async fn a_file_of_keys_serves_the_user_alone_and_nothing_else_sees_them() {
    use std::os::unix::fs::PermissionsExt;

    let user = User::new();
    let model = ScriptedModel::start(vec![
        call("run_command", json!({"command": "env; export -p"})),
        say("Done."),
    ])
    .await;
    user.configure("");
    let file = user.config().join("credentials.toml");
    std::fs::write(&file, format!("OPENAI_API_KEY = \"{KEY}\"\nANTHROPIC_API_KEY = \"no\"\n"))
        .unwrap();
    let mode = |mode| std::fs::set_permissions(&file, PermissionsExt::from_mode(mode)).unwrap();
    let exec =
        || user.vtcode(["exec", "--provider=openai", "--base-url", &model.openai_url(), "hi"]);

    mode(0o640);
    let ran = exec().run().await.exits(2).says("chmod 600");
    assert!(!ran.to_string().contains(KEY), "{ran}");
    assert!(model.requests().is_empty());

    mode(0o600);
    let ran = exec().run().await.exits(0);
    assert!(!ran.to_string().contains(KEY), "{ran}");
    let bearer = format!("Bearer {KEY}");
    let requests = model.requests();
    assert!(requests.iter().all(|request| request.header("authorization") == Some(&bearer)));
    assert!(requests.iter().all(|r| !String::from_utf8_lossy(&r.body).contains(KEY)));
    assert_eq!(holding(&user.state()), [""; 0]);
    assert_eq!(holding(user.folder.path()), [""; 0]);

    // What is wrong with it is told without what stands in it.
    std::fs::write(&file, format!("OPENAI_API_KEY = {KEY}")).unwrap();
    let ran = exec().run().await.exits(2).says("line 1");
    assert!(!ran.to_string().contains(KEY), "{ran}");
}

#[tokio::test]
async fn what_a_session_leaves_and_what_is_told_of_it_holds_no_key() {
    for provider in PROVIDERS {
        let user = User::with([("shot.png", b"\x89PNG\r\n\x1a\n\0".as_slice())]);
        let model = ScriptedModel::start(vec![
            fail(Fault::Status {
                code: 500,
                headers: vec![("retry-after".to_owned(), "0".to_owned())],
                body: format!("{{\"error\":{{\"message\":\"seen {KEY}\"}}}}"),
            }),
            call("run_command", json!({"command": "env; cat /proc/self/environ"})),
            say("Done."),
        ])
        .await;
        let url = base_url(provider, &model);
        let variable = match provider {
            "anthropic" => "ANTHROPIC_API_KEY",
            "gemini" => "GEMINI_API_KEY",
            _ => "OPENAI_API_KEY",
        };
        let args =
            ["exec", "--provider", provider, "--base-url", &url, "--model", "scripted", "hi"];
        let out = user.home.path().join("report");
        let profiles = ["html", "json", "trace.json"].map(|kind| out.with_extension(kind));
        let mut exec = user.vtcode(args).args(["-i", "shot.png", "--profile", "--cache"]);
        for profile in &profiles {
            exec = exec.arg("--profile-out").arg(profile);
        }
        let ran = exec.env(variable, KEY).env("VTCODE_PROFILING_ENABLED", "true").run().await;
        let ran = ran.exits(0);
        assert!(!ran.to_string().contains(KEY), "{ran}");
        assert!(profiles.iter().all(|profile| profile.exists()));
        for told in [
            &["sessions"][..],
            &["context"],
            &["context", "--json"],
            &["models"],
            &["doctor", "--offline"],
            &["perf", "report", "--json"],
            &["undo", "--list"],
        ] {
            let ran = user.vtcode(told).env(variable, KEY).run().await;
            assert!(!ran.to_string().contains(KEY), "{told:?}: {ran}");
        }
        assert_eq!(holding(user.home.path()), [""; 0]);
        assert_eq!(holding(user.folder.path()), [""; 0]);
    }
}
