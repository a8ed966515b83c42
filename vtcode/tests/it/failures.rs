//! `exec` when the model, or what stands in its place, fails.

use serde_json::json;
use vtcode_testkit::{Fault, ScriptedModel, call, fail, raw_call, say};

use crate::user::{PROVIDERS, User, last_result, results};

#[tokio::test]
async fn nobody_there_is_told_with_the_address() {
    let user = User::new();
    let gone = ScriptedModel::start(vec![]).await;
    let exec = user.exec(&gone, "hi");
    let url = gone.openai_url();
    gone.shutdown().await;
    let ran = exec.run().await.exits(3).prints("").says("cannot reach").says(&url);
    assert!(ran.stderr.contains("vtcode resume"), "{ran}");
}

#[tokio::test]
async fn a_refused_key_and_an_unknown_model_are_the_providers_no() {
    for (status, words) in [
        (401, "the provider refused the key (HTTP 401)"),
        (403, "the provider refused the key (HTTP 403)"),
        (404, "knows no model `scripted`"),
        (400, "the provider does not take the request (HTTP 400)"),
    ] {
        for provider in PROVIDERS {
            let user = User::new();
            let model = ScriptedModel::start(vec![fail(Fault::status(status))]).await;
            let exec = user.exec_on(provider, &model, "hi");
            let ran = exec.run().await.exits(3).prints("").says(words);
            ran.says("the script orders this error");
            assert_eq!(model.requests().len(), 1, "asking again changes nothing");
        }
    }
}

#[tokio::test]
async fn a_key_that_google_does_not_know_is_a_refused_one() {
    let user = User::new();
    let body = r#"{"error": {"code": 400, "message": "API key not valid.", "status":
        "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]}}"#;
    let fault = Fault::Status { code: 400, headers: Vec::new(), body: body.to_owned() };
    let model = ScriptedModel::start(vec![fail(fault)]).await;
    let ran = user.exec_on("gemini", &model, "hi").run().await.exits(3);
    ran.says("the provider refused the key (HTTP 400)").says("API key not valid.");
}

#[tokio::test]
async fn a_server_in_trouble_is_asked_again_in_sight() {
    let user = User::new();
    let trouble = || fail(Fault::status(500).header("retry-after", "0"));
    let model = ScriptedModel::start(vec![trouble(), trouble(), say("Better.")]).await;
    let ran = user.exec(&model, "hi").run().await.exits(0).prints("Better.\n");
    ran.says("HTTP 500").says("attempt 2").says("attempt 3");

    let model = ScriptedModel::start_with(move |_, _| trouble()).await;
    let ran = user.exec(&model, "hi").env("VTCODE_CLIENT_ATTEMPTS", "2").run().await.exits(1);
    ran.prints("").says("attempt 2").says("vtcode: the provider failed (HTTP 500)");
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn a_rate_limit_is_waited_for_and_told_when_it_does_not_pass() {
    let user = User::new();
    let limited = || fail(Fault::status(429).header("retry-after", "0"));
    let model = ScriptedModel::start(vec![limited(), say("Now.")]).await;
    user.exec(&model, "hi").run().await.exits(0).prints("Now.\n").says("limits the rate");

    let model = ScriptedModel::start_with(move |_, _| limited()).await;
    let ran = user.exec(&model, "hi").env("VTCODE_CLIENT_ATTEMPTS", "3").run().await;
    ran.exits(3).says("limits the rate");
    assert_eq!(model.requests().len(), 3);
}

#[tokio::test]
async fn what_is_no_answer_fails_and_says_what_came() {
    for (fault, code, words) in [
        (Fault::Garbage(b"data: {\"choices\": nonsense\n\n".to_vec()), 1, "vtcode: "),
        // Whoever sends web pages is no provider.
        (Fault::NotSse, 3, "HTML page"),
        (Fault::Empty, 1, "the model gave an empty answer"),
        (Fault::ErrorAfterEvents(0), 1, "overloaded"),
        (Fault::MissingTerminal, 1, "vtcode: "),
        (Fault::CutAfterEvents(1), 1, "vtcode: "),
        (Fault::CloseBeforeResponse, 1, "vtcode: "),
        (Fault::Reset, 1, "vtcode: "),
    ] {
        let user = User::new();
        let broken = fault.clone();
        let model =
            ScriptedModel::start_with(move |_, _| say("Half an answer").fault(broken.clone()));
        let model = model.await;
        let exec = user.exec(&model, "hi").env("VTCODE_CLIENT_ATTEMPTS", "1");
        let ran = exec.run().await;
        assert_eq!(ran.stdout, "", "{fault:?}: {ran}");
        println!("{fault:?}");
        ran.exits(code).says(words).says("to go on: vtcode resume");
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_is_asked_for_again() {
    for fault in [
        Fault::CutAfterEvents(2),
        Fault::ErrorAfterEvents(2),
        Fault::MissingTerminal,
        Fault::Empty,
        Fault::CloseBeforeResponse,
    ] {
        for provider in PROVIDERS {
            let user = User::new();
            let half = "Half an answer that goes on for longer than two events hold";
            let broken = say(half).fault(fault.clone());
            let model = ScriptedModel::start(vec![broken, say("A whole one.")]).await;
            let exec = user.exec_on(provider, &model, "hi");
            // The line tells the cause first; how much of it there is room for depends on the URL.
            exec.run().await.exits(0).prints("A whole one.\n").says("\n! ");
            let requests = model.requests();
            assert_eq!(requests[0].body, requests[1].body, "{provider} {fault:?}");
        }
    }
}

#[tokio::test]
async fn a_call_whose_answer_broke_off_runs_once() {
    let user = User::new();
    let command = call("run_command", json!({"command": "echo once >> log"}));
    let broken =
        command.and(say("and then some words that never end")).fault(Fault::CutAfterEvents(6));
    let model = ScriptedModel::start(vec![broken, say("Done.")]).await;
    user.exec(&model, "hi").run().await.exits(0).says("broke off after a tool call");
    assert_eq!(user.folder.read("log"), "once\n");
}

#[tokio::test]
async fn a_stalled_answer_is_given_up_and_asked_for_again() {
    let user = User::new();
    let model = ScriptedModel::start(vec![
        say("Half").fault(Fault::StallAfterEvents(0)),
        say("Half").fault(Fault::StallAfterEvents(2)),
        say("Whole."),
    ])
    .await;
    let exec = user.exec(&model, "hi").env("VTCODE_FIRST_BYTE_TIMEOUT_S", "1");
    let exec = exec.env("VTCODE_CONNECT_TIMEOUT_S", "1").env("VTCODE_GAP_TIMEOUT_S", "1");
    exec.run().await.exits(0).prints("Whole.\n").says("took too long");
}

#[tokio::test]
async fn the_model_can_mend_a_call_that_cannot_be_made() {
    for (wrong, words) in [
        (raw_call("read_file", "{\"path\": \"notes"), "not valid JSON"),
        (raw_call("read_file", "[1]"), "they are not an object"),
        (call("read_fiel", json!({"path": "notes.txt"})), "did you mean `read_file`?"),
        (call("read_file", json!({"pfad": "notes.txt"})), "`pfad`"),
        (call("read_file", json!({"path": 7})), "bad arguments for `read_file`"),
        (call("edit_file", json!({"path": "notes.txt"})), "bad arguments for `edit_file`"),
        (raw_call("run_command", ""), "missing field `command`"),
    ] {
        for provider in PROVIDERS {
            let user = User::with([("notes.txt", "one\n")]);
            let right = call("read_file", json!({"path": "notes.txt"}));
            let model = ScriptedModel::start(vec![wrong.clone(), right, say("Done.")]).await;
            let exec = user.exec_on(provider, &model, "hi");
            exec.run().await.exits(0).prints("Done.\n").says("failed");
            let told = results(&model.requests()[2]);
            assert!(told[0].contains(words), "{wrong:?}: {told:?}");
            assert_eq!(told[1], "1\tone\n");
        }
    }
}

#[tokio::test]
async fn a_refusal_of_the_model_is_a_failed_task() {
    for provider in PROVIDERS {
        for (words, told) in [("No.", "the model refused: No."), ("", "refused without a word")] {
            let user = User::new();
            let model = ScriptedModel::start(vec![say(words).finish("content_filter")]).await;
            let exec = user.exec_on(provider, &model, "hi");
            exec.run().await.exits(1).prints("").says(told);
        }
    }
}

#[tokio::test]
async fn an_answer_cut_off_at_the_output_limit_is_a_limit_reached() {
    for provider in PROVIDERS {
        let user = User::new();
        let model = ScriptedModel::start(vec![say("As far as").finish("length")]).await;
        let exec = user.exec_on(provider, &model, "hi");
        exec.run().await.exits(4).prints("").says("As far as").says("output limit");
    }
}

#[tokio::test]
async fn a_call_cut_off_in_the_middle_is_not_run_and_the_model_is_told() {
    for provider in PROVIDERS {
        // This wire sends no half of a call.
        if provider == "gemini" {
            continue;
        }
        let user = User::new();
        let cut = raw_call("write_file", "{\"path\":\"a.txt\",\"content\":\"lo").finish("length");
        let model = ScriptedModel::start(vec![cut, say("Again, shorter.")]).await;
        let exec = user.exec_on(provider, &model, "hi");
        exec.run().await.exits(0).says("output limit");
        let told = last_result(&model);
        assert!(told.contains("was not run") && told.contains("cut off"), "{provider}: {told}");
        assert!(!user.folder.path().join("a.txt").exists());
    }
}

#[tokio::test]
async fn a_command_that_fails_is_a_result_and_not_the_end() {
    let user = User::new();
    let command = call("run_command", json!({"command": "echo out; echo err >&2; exit 3"}));
    let model = ScriptedModel::start(vec![command, say("It failed.")]).await;
    user.exec(&model, "hi").run().await.exits(0).prints("It failed.\n").says("exit code 3");
    assert_eq!(last_result(&model), "out\nerr\n[exit code 3]");
}

#[tokio::test]
async fn a_state_folder_that_cannot_be_is_told() {
    let user = User::with([("file", "")]);
    let model = ScriptedModel::start(vec![]).await;
    let file = user.folder.path().join("file");
    let ran = user.exec(&model, "hi").env("XDG_STATE_HOME", &file).run().await;
    let ran = ran.exits(1).says("cannot write the session's journal");
    assert_eq!(ran.stderr.matches("os error").count(), 1, "the cause is told once: {ran}");
    let homeless = user.exec(&model, "hi").without_env("HOME").without_env("XDG_STATE_HOME");
    homeless.run().await.exits(2).says("set HOME or XDG_STATE_HOME");
    assert!(model.requests().is_empty());
}
