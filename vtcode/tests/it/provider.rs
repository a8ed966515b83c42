//! Which provider is asked: options, files, the environment, or none.

use vtcode_testkit::{ScriptedModel, Wire, say};

use crate::user::User;

const KEY: &str = "sk-test-0123456789";

/// A name, variables, and the wire and the key that they lead to.
type Case<'a> = (&'a str, &'a [(&'a str, &'a str)], Wire, &'a str);

#[tokio::test]
async fn keys_and_urls_of_the_environment_choose_it() {
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let (chat, root) = (model.openai_url(), model.anthropic_url());
    let cases: [Case<'_>; 10] = [
        ("key and url", &[("OPENAI_API_KEY", KEY), ("OPENAI_BASE_URL", &chat)], Wire::Chat, KEY),
        ("url alone", &[("OPENAI_BASE_URL", &chat)], Wire::Chat, ""),
        (
            "the other provider",
            &[("ANTHROPIC_API_KEY", KEY), ("ANTHROPIC_BASE_URL", &root)],
            Wire::Messages,
            KEY,
        ),
        ("google", &[("GEMINI_API_KEY", KEY), ("GEMINI_BASE_URL", &root)], Wire::Gemini, KEY),
        (
            "google after the others",
            &[
                ("GEMINI_API_KEY", "sk-other"),
                ("GEMINI_BASE_URL", "http://127.0.0.1:9"),
                ("OPENAI_API_KEY", KEY),
                ("OPENAI_BASE_URL", &chat),
            ],
            Wire::Chat,
            KEY,
        ),
        (
            "the other wire of the same provider",
            &[
                ("VTCODE_PROVIDER", "responses"),
                ("OPENAI_API_KEY", KEY),
                ("OPENAI_BASE_URL", &chat),
            ],
            Wire::Responses,
            KEY,
        ),
        (
            "both, the first wins",
            &[
                ("OPENAI_API_KEY", "sk-other"),
                ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
                ("ANTHROPIC_API_KEY", KEY),
                ("ANTHROPIC_BASE_URL", &root),
            ],
            Wire::Messages,
            KEY,
        ),
        (
            "ours over both",
            &[
                ("ANTHROPIC_API_KEY", "sk-other"),
                ("ANTHROPIC_BASE_URL", "http://127.0.0.1:9"),
                ("OPENAI_API_KEY", KEY),
                ("VTCODE_PROVIDER", "openai"),
                ("VTCODE_BASE_URL", &chat),
            ],
            Wire::Chat,
            KEY,
        ),
        (
            "our url over theirs",
            &[
                ("OPENAI_API_KEY", KEY),
                ("OPENAI_BASE_URL", "http://127.0.0.1:9/v1"),
                ("VTCODE_BASE_URL", &chat),
            ],
            Wire::Chat,
            KEY,
        ),
        (
            "our provider with its own url",
            &[
                ("OPENAI_API_KEY", "sk-other"),
                ("VTCODE_PROVIDER", "anthropic"),
                ("ANTHROPIC_API_KEY", KEY),
                ("ANTHROPIC_BASE_URL", &root),
            ],
            Wire::Messages,
            KEY,
        ),
    ];
    for (number, (name, vars, wire, key)) in cases.into_iter().enumerate() {
        let user = User::new();
        let exec = vars.iter().fold(user.vtcode(["exec", "hi"]), |e, (k, v)| e.env(k, v));
        exec.env("VTCODE_MODEL", "chosen").run().await.exits(0).prints("Done.\n");
        let request = model.requests().swap_remove(number);
        assert_eq!(request.wire, Some(wire), "{name}");
        let named = match wire {
            Wire::Gemini => request.path == "/v1beta/models/chosen:streamGenerateContent?alt=sse",
            _ => request.json()["model"] == "chosen",
        };
        assert!(named, "{name}");
        let bearer = request.header("authorization");
        let sent = request
            .header("x-api-key")
            .or(request.header("x-goog-api-key"))
            .or(bearer.map(|value| value.strip_prefix("Bearer ").unwrap()));
        assert_eq!(sent.unwrap_or_default(), key, "{name}");
    }
}

#[tokio::test]
async fn the_command_line_wins_over_the_environment_and_that_over_the_files() {
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let user = User::with([("vtcode.toml", "model = \"workspace\"\n")]);
    user.configure(&format!("model = \"user\"\nbase_url = \"{}\"\n", model.openai_url()));
    let exec = || user.vtcode(["exec", "hi"]);
    exec().run().await.exits(0);
    exec().env("VTCODE_MODEL", "environment").run().await.exits(0);
    let all = exec().env("VTCODE_MODEL", "environment").args(["-m", "option"]);
    all.run().await.exits(0);
    let asked: Vec<_> = model.requests().iter().map(|r| r.json()["model"].clone()).collect();
    assert_eq!(asked, ["workspace", "environment", "option"]);
}

#[tokio::test]
async fn a_server_of_the_users_own_is_chosen_by_its_name_also_when_the_session_goes_on() {
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let user = User::new();
    let table = "wire = \"anthropic\"\nkey_env = \"WORK_KEY\"\nmodel = \"big\"\n\
                 headers = { x-team = \"$TEAM\" }";
    let url = model.anthropic_url();
    user.configure(&format!("[providers.work]\nbase_url = \"{url}\"\n{table}\n"));
    let exec = user.vtcode(["exec", "hi", "--provider", "work"]);
    exec.run().await.exits(3).says("WORK_KEY");
    let keys =
        |program: crate::user::Program| program.env("WORK_KEY", KEY).env("TEAM", "blue-0123");
    let exec = user.vtcode(["exec", "hi", "--provider", "work", "--effort", "low"]);
    keys(exec).run().await.exits(0).prints("Done.\n");
    keys(user.vtcode(["resume", "--last", "more"])).run().await.exits(0).prints("Done.\n");
    for request in model.requests() {
        assert_eq!(request.wire, Some(Wire::Messages));
        assert_eq!(request.header("x-api-key"), Some(KEY));
        assert_eq!(request.header("x-team"), Some("blue-0123"));
        assert_eq!(request.json()["model"], "big");
    }
    assert_eq!(model.requests()[0].json()["thinking"]["budget_tokens"], 2048);
    let journal = std::fs::read_to_string(user.session().join("journal.jsonl")).unwrap();
    assert!(!journal.contains("blue-0123") && !journal.contains(KEY));
}

#[tokio::test]
async fn the_habits_of_a_server_are_known_by_its_name_in_a_table_of_the_users() {
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let user = User::new();
    user.configure(&format!(
        "limits.max_output_tokens = 77\n[providers.own]\nbase_url = \"{}\"\nquirks = \"mistral\"\n",
        model.openai_url()
    ));
    let exec = user.vtcode(["exec", "hi", "--provider", "own", "-m", "m", "--effort", "high"]);
    exec.run().await.exits(0);
    let request = model.requests()[0].json().clone();
    assert_eq!(request["max_tokens"], 77);
    assert!(request.get("stream_options").is_none(), "{request}");
    assert!(request.get("reasoning_effort").is_none(), "{request}");
}

#[tokio::test]
async fn a_folder_cannot_redirect_the_requests() {
    let thief = ScriptedModel::start(vec![]).await;
    let text = format!("[providers.openai]\nbase_url = \"{}\"\n", thief.openai_url());
    let user = User::with([("vtcode.toml", text)]);
    let exec = user.vtcode(["exec", "hi", "--provider", "openai"]).env("OPENAI_API_KEY", KEY);
    exec.run().await.exits(2).says("`providers` can only be set by you");
    let text = format!("base_url = \"{}\"\n", thief.openai_url());
    let user = User::with([("vtcode.toml", text)]);
    let model = ScriptedModel::start(vec![]).await;
    for exec in [user.exec(&model, "hi"), user.vtcode(["exec", "hi"]).env("OPENAI_API_KEY", KEY)] {
        exec.run().await.exits(2).says("`base_url` can only be set by you").says("vtcode.toml");
    }
    assert!(thief.requests().is_empty() && model.requests().is_empty());
}

#[tokio::test]
async fn a_configuration_that_cannot_be_is_named() {
    let model = ScriptedModel::start(vec![]).await;
    for (text, words) in [
        ("modle = \"x\"", "unknown key `modle`; did you mean `model`?"),
        (
            "[limits]\nmax_turn = 3",
            "unknown key `limits.max_turn`; did you mean `limits.max_turns`?",
        ),
        ("[limits]\nmax_turns = 0", "`limits.max_turns` is 0"),
        ("model = 7", "`model` is 7, but must be text"),
        ("model = ", "vtcode.toml"),
    ] {
        let user = User::with([("vtcode.toml", text)]);
        user.exec(&model, "hi").run().await.exits(2).prints("").says(words).says("vtcode.toml");
        user.vtcode(["config", "check"]).run().await.exits(2).says(words);
        assert!(user.session_ids().is_empty());
    }
    let user = User::new();
    // Neither is a file; to open the second would wait for ever.
    std::fs::create_dir(user.folder.path().join("vtcode.toml")).unwrap();
    user.exec(&model, "hi").run().await.exits(2).says("vtcode.toml").says("not a file");
    std::fs::create_dir_all(user.config()).unwrap();
    let pipe = user.config().join("vtcode.toml");
    std::process::Command::new("mkfifo").arg(pipe).status().unwrap();
    user.exec(&model, "hi").run().await.exits(2).says("config/vtcode/vtcode.toml");

    let user = User::new();
    let exec = user.exec(&model, "hi").env("VTCODE_MAX_TURNS", "many");
    exec.run().await.exits(2).says("VTCODE_MAX_TURNS").says("limits.max_turns");
    user.exec(&model, "hi").args(["--provider", "acme"]).run().await.exits(2).says("acme");
    user.vtcode(["exec", "--base-url", "localhost:1", "hi"]).run().await.exits(2).says("https://");
    assert!(model.requests().is_empty());
}

#[tokio::test]
async fn without_any_provider_the_ways_are_listed() {
    // A server of the developer's own, at one of the ports where models live, would be found.
    for port in vtcode_core::llm::discover::LOCAL_PORTS {
        if tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok() {
            return;
        }
    }
    let user = User::new();
    let ran = user.vtcode(["exec", "hi"]).run().await.exits(3).prints("");
    for way in [
        "ANTHROPIC_API_KEY",
        "OPENAI_API_KEY",
        "GEMINI_API_KEY",
        "ollama",
        "--base-url",
        "vtcode demo",
    ] {
        assert!(ran.stderr.contains(way), "no `{way}` in:\n{ran}");
    }
    assert!(!user.state().exists(), "no session may be left");
}

#[tokio::test]
async fn a_provider_without_its_key_is_told_the_variable() {
    let user = User::new();
    for (provider, variable) in [
        ("openai", "OPENAI_API_KEY"),
        ("responses", "OPENAI_API_KEY"),
        ("anthropic", "ANTHROPIC_API_KEY"),
        ("gemini", "GEMINI_API_KEY"),
    ] {
        let exec = user.vtcode(["exec", "hi", "--provider", provider]);
        exec.run().await.exits(3).says(variable);
    }
}

#[tokio::test]
async fn a_key_that_was_not_copied_whole_is_a_fault_of_the_configuration() {
    let user = User::new();
    let exec = user.vtcode(["exec", "hi", "--provider", "openai", "-m", "m"]);
    exec.env("OPENAI_API_KEY", "sk-two\nlines").run().await.exits(2).says("copied whole");
}
