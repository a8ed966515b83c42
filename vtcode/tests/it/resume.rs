//! `resume`: the same conversation goes on, byte for byte, whatever happened in between.

use std::io::Write;

use rustix::process::{Pid, Signal, kill_process_group};
use serde_json::json;
use vtcode_testkit::{Fault, Reply, Request, ScriptedModel, call, fail, raw_call, say, think};

use crate::user::{PROVIDERS, User, results, soon};

/// Asserts that a request goes on from where another one was: the same bytes, and more.
#[track_caller]
pub(crate) fn goes_on(first: &Request, second: &Request) {
    // The cache's marks move; all else stays.
    let bytes = |request: &Request| {
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let body = body.replace(r#","cache_control":{"type":"ephemeral"}"#, "");
        // What the answer may be stands behind the messages.
        let end = [r#"],"tool_choice":"#, r#"],"toolConfig":"#, r#"],"response_format":"#];
        let end = end.into_iter().find_map(|end| body.rfind(end));
        end.map_or(body.clone(), |end| format!("{}]}}", &body[..end]))
    };
    let (first, second) = (bytes(first), bytes(second));
    let open = first.strip_suffix("]}").expect("messages come last");
    let same = open.bytes().zip(second.bytes()).take_while(|(a, b)| a == b).count();
    assert_eq!(same, open.len(), "…{}\n…{}", &first[same..], &second[same..]);
    assert!(second.len() > first.len());
}

#[tokio::test]
async fn the_next_request_begins_with_the_bytes_of_the_last_one() {
    for provider in PROVIDERS {
        let user = User::with([("AGENTS.md", "Use tabs."), ("a.txt", "one\n")]);
        let model = ScriptedModel::start(vec![
            say("I look.").and(call("read_file", json!({"path": "a.txt"}))),
            say("One.\n"),
            call("read_file", json!({"path": "a.txt"})),
            say("Still one."),
        ])
        .await;
        let exec = user.exec_on(provider, &model, "what is in a?");
        exec.run().await.exits(0);
        // What the first run was told about the folder is not rewritten.
        user.folder.write("AGENTS.md", "Use spaces.");
        user.folder.write("new.txt", "");
        let resume = user.vtcode(["resume", "--last", "and now?"]);
        resume.run().await.exits(0).prints("Still one.\n");
        let requests = model.requests();
        assert!(requests.iter().all(|request| request.error.is_none()));
        for pair in requests.windows(2) {
            goes_on(&pair[0], &pair[1]);
        }
        assert!(user.journal().iter().all(|record| record["type"] != "prefix_changed"));
        let at = |number: usize| (requests[number].wire, &requests[number].path);
        assert_eq!(at(3), at(0));
        // One wire names the model in its path, the others in the body.
        let named = requests[3].json()["model"].as_str().unwrap_or(at(3).1).contains("scripted");
        assert!(named, "{provider}");
    }
}

#[tokio::test]
async fn a_session_is_named_by_its_id_the_begin_of_it_or_as_the_last() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "first").run().await.exits(0);
    let id = user.session_ids().remove(0);
    user.vtcode(["resume", &id, "second"]).run().await.exits(0);
    user.vtcode(["resume", &id[..13], "third"]).run().await.exits(0);
    user.vtcode(["resume", "--last"]).stdin("fourth").run().await.exits(0);
    user.vtcode(["resume", "--last", "-"]).stdin("fifth").run().await.exits(0);
    let body = model.requests().pop().unwrap().json();
    let said = body["messages"].as_array().unwrap().iter().filter(|m| m["role"] == "user");
    let said: Vec<_> = said.map(|message| message["content"].as_str().unwrap()).collect();
    assert_eq!(said, ["first", "second", "third", "fourth", "fifth"]);
    assert_eq!(user.session_ids(), [id], "it stays one session");
}

#[tokio::test]
async fn what_a_run_took_is_told_apart_from_what_its_session_took() {
    let user = User::new();
    let replies = vec![say("One.").usage(1000, 0, 10), say("Two.").usage(1200, 0, 5)];
    let model = ScriptedModel::start(replies).await;
    let first = user.exec(&model, "one").run().await.exits(0);
    let first = first.says("vtcode: 1 turn · 1000 tokens in (0 cached), 10 out");
    assert!(!first.stderr.contains("whole session"), "{first}");
    let rest = user.vtcode(["resume", "--last", "two"]).run().await.exits(0);
    let rest = rest.says("vtcode: this run: 1 turn · 1200 tokens in (0 cached), 5 out");
    let id = user.session_ids().remove(0);
    rest.says(&format!("the whole session: vtcode perf report {id}"));
    let whole = user.vtcode(["perf", "report", &id]).run().await.exits(0);
    assert!(whole.stdout.contains("2200 tokens in (0 cached), 15 out"), "{whole}");
}

#[tokio::test]
async fn what_names_no_session_is_a_usage_error() {
    let user = User::new();
    user.vtcode(["resume", "--last", "go"]).run().await.exits(2).says("no session");
    user.vtcode(["resume", "0190", "go"]).run().await.exits(2).says("no session `0190`");
    user.vtcode(["resume"]).run().await.exits(2).says("which session?");
    assert!(!user.state().exists());

    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").run().await.exits(0);
    user.exec(&model, "two").run().await.exits(0);
    let ids = user.session_ids();
    user.vtcode(["resume", "0", "go"]).run().await.exits(2).says("could be 2 sessions");
    user.vtcode(["resume", "", "go"]).run().await.exits(2).says("no session");
    user.vtcode(["resume", &ids[0]]).run().await.exits(2).says("the prompt is empty");
    user.vtcode(["resume", "--last", &ids[0], "go"]).run().await.exits(2).says("not both");
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn the_last_session_is_that_of_the_folder() {
    let user = User::with([("other/file", "")]);
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "here").run().await.exits(0);
    user.exec(&model, "there").args(["-C", "other"]).run().await.exits(0);
    let last = |model: &ScriptedModel| {
        let body = model.requests().pop().unwrap().json();
        body["messages"][1]["content"].as_str().unwrap().to_owned()
    };
    user.vtcode(["resume", "--last", "more"]).run().await.exits(0);
    assert_eq!(last(&model), "here");
    let elsewhere =
        user.vtcode(["resume", "--last", "more"]).in_folder(user.folder.path().join("other"));
    elsewhere.run().await.exits(0);
    assert_eq!(last(&model), "there");
    let nowhere = user.vtcode(["resume", "--last", "more"]).in_folder("/");
    nowhere.run().await.exits(0).says("no session of this folder; going on in");
    assert_eq!(last(&model), "there");
}

#[tokio::test]
async fn tools_work_in_the_sessions_own_folders_wherever_it_is_gone_on_with() {
    let user = User::with([("a.txt", "one\n")]);
    let more = User::with([("far.txt", "far\n")]);
    let far = more.folder.path().join("far.txt");
    let model = ScriptedModel::start(vec![
        say("Done."),
        call("read_file", json!({"files": [{"path": "a.txt"}, {"path": far}]})),
        say("Done."),
    ])
    .await;
    user.exec(&model, "go").arg("--add-dir").arg(more.folder.path()).run().await.exits(0);
    let id = user.session_ids().remove(0);
    user.vtcode(["resume", &id, "look"]).in_folder("/").run().await.exits(0);
    let result = results(&model.requests()[2]).remove(0);
    assert!(result.contains("one") && result.contains("far"), "{result}");
}

#[tokio::test]
async fn a_session_goes_on_with_another_model_or_server() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").run().await.exits(0);
    user.vtcode(["resume", "--last", "-m", "other", "two"]).run().await.exits(0);
    // The other model is now the session's own.
    user.vtcode(["resume", "--last", "three"]).run().await.exits(0);
    let moved = ScriptedModel::start_with(|_, _| say("Done.")).await;
    let url = moved.openai_url();
    user.vtcode(["resume", "--last", "--base-url", &url, "four"]).run().await.exits(0);
    let asked = |model: &ScriptedModel| -> Vec<_> {
        model.requests().iter().map(|r| r.json()["model"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(asked(&model), ["scripted", "other", "other"]);
    assert_eq!(asked(&moved), ["other"], "a server that moved has the same models");
    let root = moved.anthropic_url();
    let args =
        ["resume", "--last", "--provider=anthropic", "--base-url", &root, "-m", "third", "five"];
    user.vtcode(args).run().await.exits(0);
    let body = moved.requests().pop().unwrap().json();
    assert_eq!(body["model"], "third");
    assert_eq!(body["messages"].as_array().unwrap().len(), 9);
}

#[tokio::test]
async fn the_environment_does_not_move_a_session_to_another_provider() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").run().await.exits(0);
    let resume = user.vtcode(["resume", "--last", "two"]);
    let resume = resume.env("ANTHROPIC_API_KEY", "sk-other").env("VTCODE_MODEL", "other");
    resume.env("VTCODE_BASE_URL", "http://127.0.0.1:9/v1").run().await.exits(0);
    assert_eq!(model.requests()[1].json()["model"], "scripted");
}

#[tokio::test]
async fn what_ran_before_a_kill_is_not_run_again() {
    let user = User::new();
    let command = |command: &str| call("run_command", json!({"command": command}));
    let model = ScriptedModel::start(vec![
        command("echo once >> log")
            .and(command("echo twice >> log; echo pid $$; sleep 1000"))
            .and(command("echo never >> log")),
        say("I see."),
    ])
    .await;
    let mut running = user.exec(&model, "go").start();
    let line = running.stderr_says("│ pid ").await;
    running.signal(Signal::KILL);
    running.end().await;
    // What a killed program leaves behind; it is not what is tested here.
    let pid = line.rsplit(' ').next().unwrap().parse().unwrap();
    let _ = kill_process_group(Pid::from_raw(pid).unwrap(), Signal::KILL);

    let ran = user.vtcode(["resume", "--last", "what now?"]).run().await.exits(0);
    ran.prints("I see.\n").says("`run_command` had started and may have run");
    assert_eq!(user.folder.read("log"), "once\ntwice\n");
    let told = results(&model.requests()[1]);
    assert_eq!(told[0], "[no output, exit code 0]");
    assert!(told[1].contains("interrupted: this call had started and may have run"), "{told:?}");
    // It waited for the one before it, but nobody wrote down that it did.
    assert!(told[2].contains("interrupted: this call"), "{told:?}");
    assert_eq!(told.len(), 3);
}

#[tokio::test]
async fn a_kill_while_the_model_thinks_loses_nothing() {
    let user = User::new();
    let model = ScriptedModel::start(vec![
        call("run_command", json!({"command": "echo once >> log"})),
        say("").fault(Fault::StallAfterEvents(0)),
        say("Done."),
    ])
    .await;
    let running = user.exec(&model, "go").start();
    model.wait_for_requests(2).await;
    running.signal(Signal::KILL);
    running.end().await;
    user.vtcode(["resume", "--last", "go on"]).run().await.exits(0).prints("Done.\n");
    let requests = model.requests();
    goes_on(&requests[1], &requests[2]);
    assert_eq!(user.folder.read("log"), "once\n");
}

#[tokio::test]
async fn a_file_that_somebody_changed_between_two_runs_is_not_written_over() {
    for is_killed in [false, true] {
        let user = User::with([("a.txt", "alpha\n"), ("b.txt", "beta\n")]);
        let read = |path: &str| call("read_file", json!({"path": path}));
        let edit = json!({"path": "a.txt", "old_text": "alpha", "new_text": "gamma"});
        let write = json!({"path": "b.txt", "content": "mine\n"});
        let ends = if is_killed { say("").fault(Fault::StallAfterEvents(0)) } else { say("Read.") };
        let model = ScriptedModel::start(vec![
            read("a.txt").and(read("b.txt")),
            ends,
            call("edit_file", edit).and(call("write_file", write)),
            say("I see."),
        ])
        .await;
        let running = user.exec(&model, "read").start();
        soon("the second request", model.wait_for_requests(2)).await;
        if is_killed {
            running.signal(Signal::KILL);
        }
        running.end().await;
        let theirs = ["alpha\nof the user's\n", "of the user's, too\n"];
        user.folder.write("a.txt", theirs[0]);
        user.folder.write("b.txt", theirs[1]);
        user.vtcode(["resume", "--last", "write"]).run().await.exits(0).prints("I see.\n");
        let told = results(&model.requests()[3]);
        let [.., edit, write] = &told[..] else { panic!("{told:?}") };
        // What a killed run had seen is not known any more, so it counts as not read. An edit that
        // fits changes the words that it names, and no others.
        let (why, a) = if is_killed {
            ("`b.txt` exists and you have not read it", "gamma\nof the user's\n")
        } else {
            assert!(edit.starts_with("error: `a.txt` was changed after you last saw it"), "{edit}");
            ("`b.txt` was changed after you last saw it", theirs[0])
        };
        assert!(write.starts_with(&format!("error: {why}")), "{write}");
        assert_eq!(user.folder.read("a.txt"), a, "{edit}");
        assert_eq!(user.folder.read("b.txt"), theirs[1], "{write}");
    }
}

#[tokio::test]
async fn a_torn_journal_is_mended_and_told() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").run().await.exits(0);
    let path = user.session().join("journal.jsonl");
    let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
    file.write_all(b"{\"at_us\":1,\"type\":\"prompt_sta").unwrap();
    drop(file);
    user.vtcode(["resume", "--last", "two"]).run().await.exits(0).says("was torn");
    let again = user.vtcode(["resume", "--last", "three"]).run().await.exits(0);
    assert!(!again.stderr.contains("torn"), "{again}");
    let requests = model.requests();
    goes_on(&requests[1], &requests[2]);
}

#[tokio::test]
async fn a_journal_that_is_none_is_refused_and_left_as_it_is() {
    let user = User::new();
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").run().await.exits(0);
    let path = user.session().join("journal.jsonl");
    let text = std::fs::read_to_string(&path).unwrap();
    let broken = text.replacen("{\"at_us\"", "{\"at_them\"", 2);
    std::fs::write(&path, &broken).unwrap();
    user.vtcode(["resume", "--last", "two"]).run().await.exits(1).says("line 1");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), broken);
    assert_eq!(model.requests().len(), 1);
}

#[tokio::test]
async fn a_session_whose_folder_is_gone_says_so() {
    let user = User::with([("below/file", "")]);
    let model = ScriptedModel::start_with(|_, _| say("Done.")).await;
    user.exec(&model, "one").args(["-C", "below"]).run().await.exits(0);
    std::fs::remove_dir_all(user.folder.path().join("below")).unwrap();
    let id = user.session_ids().remove(0);
    user.vtcode(["resume", &id, "two"]).run().await.exits(2).says("below");
    assert_eq!(model.requests().len(), 1);
}

#[tokio::test]
async fn a_session_that_failed_goes_on_where_it_failed() {
    let user = User::new();
    let model = ScriptedModel::start(vec![
        call("run_command", json!({"command": "echo once >> log"})),
        fail(Fault::status(401)),
        say("Done."),
    ])
    .await;
    user.exec(&model, "go").run().await.exits(3);
    user.vtcode(["resume", "--last", "again"]).run().await.exits(0).prints("Done.\n");
    let requests = model.requests();
    goes_on(&requests[1], &requests[2]);
    assert_eq!(user.folder.read("log"), "once\n");
}

#[tokio::test]
async fn whatever_happened_before_the_conversation_is_the_same() {
    let read = || call("read_file", json!({"path": "a.txt"}));
    let slow = || call("run_command", json!({"command": "sleep 0.1; echo slow"}));
    let long = "words that go on for longer than one event of the stream holds";
    let cut = |reply: Reply, events| reply.fault(Fault::CutAfterEvents(events));
    let histories: [(&str, Vec<Reply>); 10] = [
        ("a server in trouble", vec![fail(Fault::status(500).header("retry-after", "0"))]),
        ("an empty answer", vec![fail(Fault::Empty)]),
        ("an answer cut off in its words", vec![cut(say(long), 3)]),
        ("thinking, cut off", vec![cut(think(long).and(say(long)), 5)]),
        ("an answer cut off after a call", vec![cut(read().and(say(long)), 6)]),
        ("words, then a call, then cut off", vec![cut(say("So.").and(read()).and(say(long)), 7)]),
        ("calls that end in another order", vec![slow().and(read()).and(slow())]),
        (
            "calls of one id",
            vec![read().call_id("x").and(read().call_id("x")), read().call_id("x")],
        ),
        ("arguments that are none", vec![raw_call("read_file", "{\"path").and(call("nothing", 7))]),
        (
            "thinking and words between",
            vec![think("Hm.").and(say("First.")).and(read()).and(say("Then."))],
        ),
    ];
    for (name, history) in histories {
        for provider in PROVIDERS {
            let user = User::with([("a.txt", "one\n")]);
            let replies = history.clone();
            // The last request of the first run fails, so that all of it is to be gone on with.
            let model = ScriptedModel::start_with(move |request, number| {
                let goes_on = String::from_utf8_lossy(&request.body).contains("and then?");
                match replies.get(number) {
                    _ if goes_on => say("Done."),
                    Some(reply) => reply.clone(),
                    None => fail(Fault::status(401)),
                }
            })
            .await;
            let exec = user.exec_on(provider, &model, "go");
            exec.run().await.exits(3);
            user.vtcode(["resume", "--last", "and then?"]).run().await.exits(0).prints("Done.\n");
            let requests = model.requests();
            let [.., last, next] = &requests[..] else { panic!("{name}") };
            assert_eq!(last.error.as_ref().or(next.error.as_ref()), None, "{name}");
            println!("{name}");
            goes_on(last, next);
        }
    }
}

#[tokio::test]
async fn a_request_that_begins_otherwise_has_its_cause_in_the_journal() {
    let user = User::new();
    let model = ScriptedModel::start(vec![say("One."), say("Two."), say("Three.")]).await;
    user.exec(&model, "first").run().await.exits(0);
    user.vtcode(["resume", "--last", "second", "--model", "other"]).run().await.exits(0);
    user.vtcode(["resume", "--last", "third"]).run().await.exits(0);
    let journal = user.journal();
    let changes = journal.iter().filter(|record| record["type"] == "prefix_changed");
    let changes: Vec<_> = changes.map(|record| &record["change"]).collect();
    assert_eq!(changes, ["model"]);
}

#[tokio::test]
async fn a_cache_that_was_missed_is_told_with_its_cause() {
    let user = User::with([("a.txt", "one\n")]);
    let read = || call("read_file", json!({"path": "a.txt"}));
    let model = ScriptedModel::start(vec![
        read().usage(5000, 4000, 10),
        read().usage(6000, 5000, 10),
        say("One.").usage(7000, 0, 10),
    ])
    .await;
    let ran = user.exec(&model, "what is in a?").run().await.exits(0);
    ran.says("the provider read 6000 tokens anew: it did not find them");
    let journal = user.journal();
    let misses: Vec<_> = journal.iter().filter(|record| record["type"] == "cache_missed").collect();
    assert_eq!(misses.len(), 1);
    assert_eq!(misses[0]["cause"], "provider");
}
