//! Presets, faults of the configuration, and the file that `config init` writes.

use std::fmt::Write as _;

use serde_json::json;
use vtcode_testkit::{ScriptedModel, call, say};

use crate::user::User;

#[tokio::test]
async fn a_preset_lies_under_all_that_the_user_writes() {
    let user = User::with([("vtcode.toml", "optimization.async_pipeline.enable_caching = true\n")]);
    user.configure("preset = \"production\"\n");
    let show = user.vtcode(["config", "show"]).env("VTCODE_PRESET", "debug").run().await.exits(0);
    let line = |key: &str| {
        let line = show.stdout.lines().find(|line| line.starts_with(key));
        line.unwrap_or_else(|| panic!("no {key} in {show}"))
    };
    assert!(line("preset = debug").contains("$VTCODE_PRESET"), "the later layer chooses: {show}");
    assert!(line("optimization.memory_pool.enabled = false").contains("preset debug"), "{show}");
    let caching = line("optimization.async_pipeline.enable_caching = true");
    assert!(caching.contains("vtcode.toml"), "{show}");
    // Production's sizes are not among them.
    assert!(line("optimization.tool_registry.hot_cache_size = 16").contains("default"), "{show}");
}

#[tokio::test]
async fn every_preset_does_the_same_work() {
    let mut transcripts = Vec::new();
    for preset in ["development", "production", "debug"] {
        let user = User::with([("a.txt", "alpha\n")]);
        let read = || call("read_file", json!({"path": "a.txt"}));
        let model =
            ScriptedModel::start(vec![read().and(call("list_files", json!({}))), say("Done.")])
                .await;
        let ran = user
            .exec(&model, "go")
            .args(["--preset", preset])
            .run()
            .await
            .exits(0)
            .prints("Done.\n");
        let profiled = ran.stderr.contains("where the time went") && ran.stderr.contains("used: ");
        assert_eq!(profiled, preset == "development", "{ran}");
        transcripts.push(
            model.requests()[1].json()["messages"]
                .to_string()
                .replace(user.folder.path().to_str().unwrap(), "<folder>"),
        );
    }
    assert!(transcripts[0].contains("alpha"));
    let results = |text: &String| text.split("\"role\":\"assistant\"").nth(1).unwrap().to_owned();
    assert!(
        transcripts.iter().all(|text| results(text) == results(&transcripts[0])),
        "{transcripts:?}"
    );
}

#[tokio::test]
async fn a_fault_names_the_value_its_place_and_what_would_fit() {
    let user = User::new();
    let check = || user.vtcode(["config", "check"]);
    let ran = check().env("VTCODE_MAX_CONCURRENT_TOOLS", "many").run().await.exits(2);
    for words in ["$VTCODE_MAX_CONCURRENT_TOOLS", "max_concurrent_tools", "`many`", "from 1 to 256"]
    {
        assert!(ran.stderr.contains(words), "no {words} in {ran}");
    }
    let ran = check().env("VTCODE_PRESET", "fast").run().await.exits(2);
    assert!(ran.stderr.contains("`development`, `production` or `debug`"), "{ran}");
}

#[tokio::test]
async fn a_file_to_begin_with_is_written_and_never_over_another() {
    let user = User::new();
    let path = user.folder.path().join("vtcode.toml");
    user.vtcode(["config", "init"]).run().await.exits(0);
    let written = std::fs::read_to_string(&path).unwrap();
    assert!(written.contains("\n#max_string_pool_size = 64\n"), "{written}");
    user.vtcode(["config", "check"]).run().await.exits(0);
    std::fs::write(&path, "model = \"mine\"\n").unwrap();
    let ran = user.vtcode(["config", "init"]).run().await.exits(2);
    assert!(ran.stderr.contains("it is not overwritten"), "{ran}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "model = \"mine\"\n");
    // A link that leads nowhere is something in its place, too.
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("elsewhere", &path).unwrap();
    user.vtcode(["config", "init"]).run().await.exits(2);
    assert!(!user.folder.path().join("elsewhere").exists());
    user.vtcode(["config", "init", "--user"]).run().await.exits(0);
    assert!(user.config().join("vtcode.toml").exists());
}

/// A session of enough turns to be compared.
async fn profiled(user: &User) -> String {
    let read = |n: u64| call("read_file", json!({"path": format!("{n}.txt")}));
    let replies = (0..8).map(read).chain([say("Done.")]).collect();
    let model = ScriptedModel::start(replies).await;
    let exec = user.exec(&model, "go").arg("--profile");
    let exec = exec.env("VTCODE_ENABLE_REGRESSION_TESTING", "true");
    exec.run().await.exits(0).prints("Done.\n").stderr.clone()
}

#[tokio::test]
async fn a_profiled_run_is_held_against_those_before_it() {
    for (before_us, alarm) in [(0.01, true), (1e9, false)] {
        let user = User::with((0..8).map(|n| (format!("{n}.txt"), "text\n")));
        let file = user.state().join("perf/own-work.jsonl");
        std::fs::create_dir_all(file.parent().unwrap()).unwrap();
        let mut run = String::new();
        writeln!(run, "{}", json!({"own_us": vec![before_us; 20]})).unwrap();
        std::fs::write(&file, &run).unwrap();
        let said = profiled(&user).await;
        assert_eq!(said.contains("performance regression"), alarm, "{said}");
        assert_eq!(std::fs::read_to_string(&file).unwrap().lines().count(), 2);
    }
}

#[tokio::test]
async fn a_run_that_cannot_be_kept_for_comparison_is_one_line_and_no_failure() {
    let user = User::with((0..8).map(|n| (format!("{n}.txt"), "text\n")));
    std::fs::create_dir_all(user.state().join("perf/own-work.jsonl")).unwrap();
    let said = profiled(&user).await;
    assert_eq!(said.matches("not kept for comparison").count(), 1, "{said}");
}

#[tokio::test]
async fn keys_that_bound_what_is_kept_or_run() {
    let user = User::with([("large.txt", "x".repeat(2 << 20))]);
    let model = ScriptedModel::start_with(|_, number| match number % 3 {
        0 => call("run_command", json!({"command": "sleep 1.5; echo through"})),
        1 => call("run_command", json!({"command": "echo y >> large.txt"})),
        _ => say("Done."),
    })
    .await;
    let run = |variables: &'static [(&str, &str)]| {
        let exec = user.exec(&model, "go").arg("--cache");
        let exec = variables.iter().fold(exec, |exec, (name, value)| exec.env(name, value));
        async { exec.run().await.exits(0) }
    };
    let bounded = run(&[
        ("VTCODE_COMMAND_TIMEOUT_S", "1"),
        ("VTCODE_UNDO_MAX_MB", "1"),
        ("VTCODE_CACHE_DISK_MB", "0"),
    ]);
    let bounded = bounded.await;
    assert!(bounded.stderr.contains("ended at its deadline of 1000 ms"), "{bounded}");
    assert!(bounded.stderr.contains("cannot be undone"), "{bounded}");
    assert!(!user.state().join("answers").exists(), "{bounded}");
    let free = run(&[]).await;
    assert!(free.stderr.contains("through") && !free.stderr.contains("deadline"), "{free}");
    assert!(!free.stderr.contains("cannot be undone"), "{free}");
    assert_eq!(std::fs::read_dir(user.state().join("answers")).unwrap().count(), 3, "{free}");
}

#[tokio::test]
async fn a_price_of_the_users_is_what_a_run_costs() {
    let million = 1_000_000;
    for (input, cached, output, cost) in
        [("1", "1", "1", "$3.0000"), ("1", "0.5", "1", "$2.5000"), ("1", "1", "7", "$9.0000")]
    {
        let user = User::new();
        let answer = say("Done.").usage(2 * million, million, million);
        let model = ScriptedModel::start(vec![answer]).await;
        let exec = user.exec(&model, "go").env("VTCODE_PRICE_INPUT", input);
        let exec = exec.env("VTCODE_PRICE_CACHED", cached).env("VTCODE_PRICE_OUTPUT", output);
        exec.run().await.exits(0).says(cost);
    }
}
