//! A session whose model fails goes on with another one: the transcript is the same, and each change
//! of the prefix has its cause.

use std::time::Duration;

use secrecy::SecretString;
use serde_json::json;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::event::{EventKind, PrefixChange};
use vtcode_core::core::optimized_agent::End;
use vtcode_testkit::{Fault, Reply, ScriptedModel, call, fail, say, think};

use crate::session::{ALL, Session, full, plain, within};

fn look() -> Reply {
    think("Where is it?").and(call("read_file", json!({"path": "a.txt"})))
}

fn look_further() -> Reply {
    think("Not there.")
        .and(say("I look further."))
        .and(call("read_file", json!({"path": "b.txt"})))
        .and(call("read_file", json!({"path": "none.txt"})))
}

fn busy() -> Reply {
    fail(Fault::status(503))
}

fn url(wire: Wire, model: &ScriptedModel) -> String {
    match wire {
        Wire::Anthropic => model.anthropic_url(),
        Wire::Gemini => model.gemini_url(),
        _ => model.openai_url(),
    }
}

fn other(wire: Wire, model: &ScriptedModel) -> Endpoint {
    Endpoint::new(wire, url(wire, model), "another").with_key(SecretString::from("sk-of-the-other"))
}

fn model_changes(session: &Session) -> usize {
    let change = PrefixChange::Model;
    session.count(|kind| *kind == EventKind::PrefixChanged { change })
}

fn places(session: &Session) -> Vec<(u32, String)> {
    let kinds = session.kinds().into_iter();
    let places = kinds.filter_map(|kind| match kind {
        EventKind::EndpointChanged { attempt, model, .. } => Some((attempt, model)),
        _ => None,
    });
    places.collect()
}

/// What the wires that seal their thinking keep of it differs; what is said and done does not.
fn without_thinking(session: &Session) -> Vec<String> {
    let transcript = session.transcript();
    let lines = transcript.lines().filter(|line| !line.starts_with("thinks:"));
    lines.map(str::to_owned).collect()
}

#[tokio::test]
async fn another_wire_goes_on_with_calls_and_thinking_and_the_transcript_is_the_same() {
    for (first, second) in [
        (Wire::Anthropic, Wire::OpenAiChat),
        (Wire::OpenAiChat, Wire::Anthropic),
        (Wire::Gemini, Wire::OpenAiResponses),
        (Wire::OpenAiResponses, Wire::Gemini),
    ] {
        for limits in [full(), plain()] {
            let calm =
                Session::new(first, limits.clone(), vec![look(), look_further(), say("Done.")]);
            let calm = calm.await;
            calm.run(&["find it"]).await;

            let answers = ScriptedModel::start(vec![look_further(), say("Done.")]).await;
            let replies = vec![look(), busy(), busy(), busy()];
            let session =
                Session::new(first, limits, replies).await.fallback(other(second, &answers));
            let outcome = session.run(&["find it"]).await;
            assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{first} {second}");
            assert_eq!(without_thinking(&session), without_thinking(&calm), "{first} {second}");
            assert_eq!(places(&session), [(4, "another".to_owned())]);
            assert_eq!(model_changes(&session), 1, "one move, and it stays there");
            let told = |kind: &EventKind| matches!(kind, EventKind::ClientCounts { counts } if counts.failovers == 1);
            assert_eq!(session.count(told), 1);

            let requests = answers.requests();
            assert_eq!((requests.len(), session.model.requests().len()), (2, 4));
            assert!(requests.iter().all(|request| request.error.is_none()));
            let body = String::from_utf8_lossy(&requests[0].body).into_owned();
            assert!(body.contains("alpha"), "the result of the call: {body}");
            for request in session.model.requests() {
                let (head, body) = (format!("{:?}", request.headers), request.body);
                let held = head + &String::from_utf8_lossy(&body);
                assert!(!held.contains("sk-of-the-other"), "{held}");
            }
        }
    }
}

#[tokio::test]
async fn once_the_first_one_answers_again_the_session_is_back_there() {
    for wire in ALL {
        let mut limits = full();
        // The next request finds out.
        limits.client.breaker.open = Duration::ZERO;
        let answers = ScriptedModel::start(vec![look_further()]).await;
        let replies = vec![look(), busy(), busy(), busy(), say("Done.")];
        let session = Session::new(wire, limits, replies).await;
        let session = session.fallback(other(Wire::OpenAiChat, &answers));
        let outcome = session.run(&["find it"]).await;
        assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())), "{wire}");
        assert_eq!(places(&session), [(4, "another".to_owned()), (1, "scripted".to_owned())]);
        assert_eq!(model_changes(&session), 2);
        assert_eq!(answers.requests().len(), 1);
    }
}

#[tokio::test]
async fn an_answer_that_broke_off_is_asked_for_again_where_it_began() {
    let half =
        say("A long answer, of which only the beginning comes.").fault(Fault::CutAfterEvents(2));
    let nobody = ScriptedModel::start(Vec::new()).await;
    let session = Session::new(Wire::OpenAiChat, full(), vec![half, say("Done.")]).await;
    let session = session.fallback(other(Wire::Anthropic, &nobody));
    let outcome = session.run(&["go"]).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    assert_eq!((places(&session), nobody.connections()), (vec![], 0));
}

#[tokio::test]
async fn a_long_session_whose_oldest_messages_lie_in_a_file_moves_whole() {
    let mut limits: Limits = full();
    limits.agent.history_window_bytes = 600;
    let runs = |from: usize| {
        (from..from + 12).map(|n| call("run_command", json!({"command": format!("echo {n}")})))
    };
    let answers = ScriptedModel::start(runs(12).chain([say("Done.")]).collect()).await;
    let replies = runs(0).chain([busy(), busy(), busy(), say("Here again.")]).collect();
    let session = Session::new(Wire::Anthropic, limits, replies).await;
    let session = session.fallback(other(Wire::OpenAiChat, &answers));
    let outcome = session.run(&["find it"]).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    let body = answers.requests()[0].json();
    let messages = body["messages"].as_array().unwrap();
    let results = messages.iter().filter(|message| message["role"] == "tool").count();
    assert_eq!(results, 12, "{body:#}");
    // A later run goes on with the first model, and with all of it.
    let outcome = session.run(&["and now?"]).await;
    assert_eq!(outcome.end, Some(End::Done("Here again.".to_owned())));
    let body = String::from_utf8(session.model.requests().last().unwrap().body.to_vec()).unwrap();
    assert_eq!(body.matches("\"tool_result\"").count(), 24, "{body}");
}

#[tokio::test]
async fn a_summary_that_fails_is_asked_for_elsewhere() {
    let mut limits = full();
    limits.agent.context.window_tokens = Some(9_000);
    limits.agent.context.answer_tokens = 500;
    let wordy = |n: usize| {
        say(format!("thought {n} ").repeat(300)).and(call("list_files", json!({"path": "none"})))
    };
    let answers = ScriptedModel::start(vec![say("In short: a lot."), say("Done.")]).await;
    let replies = (0..8).map(wordy).chain([busy(), busy(), busy()]).collect();
    let session = Session::new(Wire::Anthropic, limits, replies).await;
    let session = session.fallback(other(Wire::OpenAiChat, &answers));
    let (journal, messages) = session.open();
    let (engine, pipeline) = session.engine(journal, messages);
    engine.submit("think about it").await.unwrap();
    engine.close_input();
    let outcome = within(engine.start()).await.unwrap();
    within(pipeline.shutdown()).await;
    assert_eq!(outcome.end, Some(End::Done("Done.".to_owned())));
    let bodies: Vec<_> =
        answers.requests().iter().map(|r| String::from_utf8_lossy(&r.body).into_owned()).collect();
    assert!(bodies[0].contains("about to exceed your context window"), "{}", bodies[0]);
    assert!(bodies[1].contains("In short: a lot.") && !bodies[1].contains("thought 3"));
}
