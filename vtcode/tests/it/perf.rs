//! Profiles as people meet them: files of a run, `perf report`, `compare` and `check`.

use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};
use vtcode_testkit::{Reply, ScriptedModel, call, say};

use crate::user::User;

/// Reads one file a turn, each another one: a model that goes in circles is stopped.
fn script(turns: usize) -> Vec<Reply> {
    let read = |turn| call("read_file", json!({"path": format!("{turn}.txt")}));
    (0..turns).map(read).chain([say("Done.")]).collect()
}

fn json_of(path: &Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn user_with_files() -> User {
    User::with((0..12).map(|number| (format!("{number}.txt"), "alpha\n")))
}

#[tokio::test]
async fn a_run_leaves_its_profile_in_each_form_asked_for() {
    let user = user_with_files();
    let model = ScriptedModel::start(script(6)).await;
    let forms = ["p.html", "p.json", "p.trace.json"];
    let mut run = user.exec(&model, "look <script>at</script> it");
    for form in forms {
        run = run.args(["--profile-out", form]);
    }
    run.run().await.exits(0).prints("Done.\n");
    let [html, json, trace] = forms.map(|form| user.folder.path().join(form));

    let page = std::fs::read_to_string(&html).unwrap();
    assert!(page.contains("look &lt;script&gt;at&lt;/script&gt; it") && page.contains("turn 7"));
    opens_in_a_browser(&html);

    let json = json_of(&json);
    assert_eq!(json["turns"].as_array().unwrap().len(), 7);
    assert_eq!(json["ledger"]["attempts"], 7);
    let ran: u64 = json["benchmarks"]
        .as_array()
        .unwrap()
        .iter()
        .filter(|run| run["name"] == "tool read_file")
        .map(|run| run["operations"].as_u64().unwrap())
        .sum();
    assert_eq!(ran, 6);
    let trace = json_of(&trace);
    let bars = trace["traceEvents"].as_array().unwrap();
    assert_eq!(bars.iter().filter(|bar| bar["cat"] == "read_file").count(), 6);

    // The journal alone gives the same page later.
    let later = user.vtcode(["perf", "report", "--html"]).run().await.exits(0);
    assert_eq!(later.stdout, page);
    let table = user.vtcode(["perf", "report"]).run().await.exits(0);
    assert!(table.stdout.contains("where the time went") && table.stdout.contains("7 requests"));
}

/// Looks at a page as a browser sees it, if there is one.
fn opens_in_a_browser(page: &Path) {
    let home = tempfile::tempdir().unwrap();
    let browser = Command::new("chromium")
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"])
        .arg(format!("--user-data-dir={}", home.path().display()))
        .arg(format!("file://{}", page.display()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    let Ok(out) = browser else {
        eprintln!("SKIPPED: there is no chromium here to open the page in");
        return;
    };
    let dom = String::from_utf8_lossy(&out.stdout);
    assert!(dom.contains("Where the time went") && dom.contains("</main>"), "{dom}");
    assert!(!dom.contains("<script"), "{dom}");
}

#[tokio::test]
async fn a_profile_without_a_place_or_a_kind_is_refused_before_any_work() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("Done.")]).await;
    for (file, says) in [("p.txt", "what kind of profile"), ("none/p.html", "cannot write")] {
        user.exec(&model, "hi").args(["--profile-out", file]).run().await.exits(2).says(says);
    }
    assert_eq!(model.requests().len(), 0);
}

#[tokio::test]
async fn a_stage_that_got_slower_than_its_baseline_is_exit_1() {
    let user = user_with_files();
    let model = ScriptedModel::start(script(12)).await;
    user.exec(&model, "look").run().await.exits(0);
    user.vtcode(["perf", "check"]).run().await.exits(2).says("--save");
    user.vtcode(["perf", "check", "--save"]).run().await.exits(0);
    let kept = user.folder.path().join(".vtcode/perf-baseline.json");
    // The same profile is no slower than itself.
    user.vtcode(["perf", "check"]).run().await.exits(0);

    // The same session, had the model taken ten times as long.
    let mut slow = json_of(&kept);
    for run in slow["benchmarks"].as_array_mut().unwrap() {
        for sample in run["samples_ns"].as_array_mut().unwrap() {
            *sample = (sample.as_u64().unwrap() * 10).into();
        }
    }
    let path = user.folder.path().join("slow.json");
    std::fs::write(&path, slow.to_string()).unwrap();
    let check = user.vtcode(["perf", "check", "slow.json"]).run().await.exits(1);
    check.says("slower than the baseline");
    let compare = user.vtcode(["perf", "compare", ".vtcode/perf-baseline.json", "slow.json"]);
    let compare = compare.run().await.exits(0);
    assert!(compare.stdout.contains("SLOWER") && compare.stdout.contains("10.000"), "{compare}");

    // On another kind of machine there is nothing to conclude.
    slow["machine"] = "abacus".into();
    std::fs::write(&path, slow.to_string()).unwrap();
    let compare = user.vtcode(["perf", "compare", ".vtcode/perf-baseline.json", "slow.json"]);
    compare.run().await.exits(0).says("different kinds of machine");
    user.vtcode(["perf", "check", "slow.json"]).run().await.exits(0).says("NOT COMPARED");
    std::fs::write(&path, "[]").unwrap();
    user.vtcode(["perf", "check", "slow.json"]).run().await.exits(2).says("no saved profile");
}

#[tokio::test]
async fn what_is_neither_a_profile_nor_a_session_is_told_in_words() {
    let user = User::new();
    let file = |name: &str| user.folder.path().join(name);
    let kept = json!({"machine": "m", "benchmarks": []}).to_string();
    std::fs::write(file("none-of-ours.json"), kept).unwrap();
    std::fs::write(file("cut.json"), "{\"benchmarks\": [{\"name\"").unwrap();
    std::fs::write(file("other.json"), "{\"benchmarks\": {\"name\": 1}}").unwrap();
    std::fs::write(file("bytes.json"), [0xff, 0, 0x1b]).unwrap();
    std::fs::write(file("bytes"), [0xff, 0, 0x1b, b'\n', b'{']).unwrap();
    std::fs::write(file("empty"), "").unwrap();
    let perf = async |args: &[&str]| user.vtcode(["perf"]).args(args).run().await;
    for (bad, why) in [
        ("cut.json", "is no saved profile"),
        ("other.json", "is no saved profile"),
        ("bytes.json", "valid UTF-8"),
    ] {
        perf(&["compare", bad, bad]).await.exits(2).says(why).says(bad);
        perf(&["check", "none-of-ours.json", "--baseline", bad]).await.exits(2).says(bad);
    }
    for bad in ["bytes", "empty", "no-such-session", "\u{1b}[2J"] {
        for args in [&["report", bad][..], &["compare", bad, bad], &["check", bad, "--save"]] {
            // A journal with a line that cannot be read is no wrong argument.
            let out = perf(args).await.exits(if bad == "bytes" { 1 } else { 2 });
            assert!(out.stderr.len() > 10 && !out.stderr.contains('\u{1b}'), "{args:?}: {out}");
            assert_eq!(out.stdout, "", "{args:?}");
        }
    }
    let nothing = perf(&["compare", "none-of-ours.json", "none-of-ours.json"]).await;
    nothing.exits(2).says("no stage in common");
    let nothing = perf(&["check", "none-of-ours.json", "--baseline", "none-of-ours.json"]).await;
    nothing.exits(2).says("no stage in common");
    for number in ["nan", "inf", "-1"] {
        let bound = format!("--max-percent={number}");
        perf(&["check", bound.as_str()]).await.exits(2);
    }
    assert!(!file(".vtcode/perf-baseline.json").exists(), "what is no profile is kept as none");
}

#[tokio::test]
async fn the_bench_prints_the_contracts_rows_and_counts_allocations() {
    let user = User::new();
    let out = user.vtcode(["bench", "memory_pool", "--json", "--save", "kept.json"]).run().await;
    let report: Value = serde_json::from_str(&out.exits(0).stdout).unwrap();
    let row = &report["rows"][0];
    for key in ["name", "unit", "baseline", "ours", "ratio", "ci_low", "ci_high", "samples"] {
        assert!(!row[key].is_null(), "{key} in {row}");
    }
    assert_eq!(row["name"], "memory_pool");
    let close = |found: &Value, wanted: f64| (found.as_f64().unwrap() - wanted).abs() < 0.01;
    assert!(close(&row["allocations"]["ours"], 0.0), "a pooled buffer has its room: {row}");
    assert!(close(&row["allocations"]["baseline"], 5.0), "64 to 1024 by doubling: {row}");
    // With everything off, ours is the other side.
    let args = ["bench", "memory_pool", "--json", "--preset", "debug"];
    let out = user.vtcode(args).run().await.exits(0);
    let off: Value = serde_json::from_str(&out.stdout).unwrap();
    assert!(close(&off["rows"][0]["allocations"]["ours"], 5.0), "{off}");
    let against = ["bench", "memory_pool_glibc", "--json", "--against", "kept.json"];
    let report: Value =
        serde_json::from_str(&user.vtcode(against).run().await.exits(0).stdout).unwrap();
    let standing = &report["rows"][0]["against"];
    assert!(standing["ratio"].is_f64() && report["not_compared"].is_null(), "{report}");
    user.vtcode(["bench", "nonsense"]).run().await.exits(2).says("no such row");
}

#[tokio::test]
async fn a_file_that_holds_no_readings_or_cannot_be_written_is_told_before_anything_is_measured() {
    let user = User::new();
    let file = |name: &str| user.folder.path().join(name);
    std::fs::write(file("cut.json"), "{\"rows\": [").unwrap();
    std::fs::write(file("list.json"), "[1, 2]").unwrap();
    std::fs::write(file("bytes.json"), [0xff, 0, 0x1b]).unwrap();
    for (args, says) in [
        (["--against", "none.json"], "cannot read `none.json`"),
        (["--against", "cut.json"], "holds no readings"),
        (["--against", "list.json"], "there is no list `rows`"),
        (["--against", "bytes.json"], "holds no readings"),
        (["--against", "."], "cannot read `.`"),
        (["--against", "/dev/zero"], "too large"),
        (["--save", "none/kept.json"], "cannot write `none/kept.json`"),
        (["--save", "."], "cannot write `.`"),
    ] {
        let out = user.vtcode(["bench"]).args(args).run().await.exits(2).says(says);
        assert_eq!(out.stdout, "", "{args:?}");
    }
}
