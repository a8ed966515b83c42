//! Each fault does to the client what its name says, and no more: the server goes on.

use std::io::ErrorKind;
use std::time::Duration;

use serde_json::json;
use vtcode_testkit::{Fault, ScriptedModel, Usage, Wire, call, fail, say};

use crate::client::{ALL, Client, path, request, said, within};

const TEXT: &str = "Some words, so many that they need several events to arrive.";

/// Returns a model that fails so, and then works.
async fn broken(fault: Fault) -> ScriptedModel {
    ScriptedModel::start(vec![say(TEXT).fault(fault), say("Again.")]).await
}

/// The next request gets the next reply; on a new connection where the old one is gone.
async fn goes_on(model: &ScriptedModel, wire: Wire) {
    let got = Client::to(model).await.stream(wire).await;
    assert!(got.text().contains("Again."));
}

#[tokio::test]
async fn a_status_comes_with_its_headers_and_the_wires_own_error() {
    for (wire, code, kind) in [
        (Wire::Chat, 429, "requests"),
        (Wire::Chat, 500, "server_error"),
        (Wire::Messages, 429, "rate_limit_error"),
        (Wire::Messages, 529, "overloaded_error"),
        (Wire::Responses, 429, "requests"),
        (Wire::Gemini, 429, "RESOURCE_EXHAUSTED"),
        (Wire::Gemini, 500, "INTERNAL"),
    ] {
        let model = broken(Fault::status(code).header("Retry-After", "7")).await;
        let mut client = Client::to(&model).await;
        let got = client.stream(wire).await;
        assert_eq!(got.status, code);
        assert_eq!(got.header("retry-after"), Some("7"));
        let error = &got.json()["error"];
        assert_eq!(error.get("type").unwrap_or(&error["status"]), kind);
        assert!(client.stream(wire).await.text().contains("Again."), "the connection goes on");
        assert!(model.requests().iter().all(|request| request.error.is_none()));
    }
}

#[tokio::test]
async fn a_status_may_have_any_body() {
    let headers = vec![("Content-Type".to_owned(), "text/plain".to_owned())];
    let fault = Fault::Status { code: 502, headers, body: "bad gateway".to_owned() };
    let got = Client::to(&broken(fault).await).await.stream(Wire::Chat).await;
    assert_eq!((got.status, got.text()), (502, "bad gateway"));
    assert_eq!(got.head.matches("content-type").count(), 1);
}

#[tokio::test]
async fn a_cut_after_events_leaves_whole_events_and_no_end() {
    for wire in ALL {
        for count in [0, 2] {
            let model = broken(Fault::CutAfterEvents(count)).await;
            let mut client = Client::to(&model).await;
            let got = client.stream(wire).await;
            assert!(!got.complete);
            assert_eq!(got.events().len(), count);
            client.end().await.unwrap();
            goes_on(&model, wire).await;
        }
    }
}

#[tokio::test]
async fn a_cut_after_all_events_still_leaves_the_body_open() {
    let model = broken(Fault::CutAfterEvents(usize::MAX)).await;
    let got = Client::to(&model).await.stream(Wire::Chat).await;
    assert!(!got.complete);
    assert!(said(Wire::Chat, &got).terminal);
}

#[tokio::test]
async fn a_cut_after_bytes_leaves_exactly_so_many() {
    for wire in ALL {
        let model = broken(Fault::CutAfterBytes(usize::MAX)).await;
        let whole = Client::to(&model).await.stream(wire).await.body;
        for count in [0, 1, 300, whole.len() - 1] {
            let model = broken(Fault::CutAfterBytes(count)).await;
            let got = Client::to(&model).await.stream(wire).await;
            assert!(!got.complete);
            assert_eq!(got.body, whole[..count]);
            goes_on(&model, wire).await;
        }
    }
}

#[tokio::test]
async fn an_answer_that_is_not_streamed_is_cut_short_of_its_length() {
    for (fault, bytes) in [(Fault::CutAfterEvents(0), 0), (Fault::CutAfterBytes(20), 20)] {
        let model = broken(fault).await;
        let mut client = Client::to(&model).await;
        client.post(path(Wire::Chat), &request(Wire::Chat, false).to_string()).await;
        let got = client.response().await.unwrap();
        assert!(!got.complete);
        assert_eq!(got.body.len(), bytes);
    }
}

#[tokio::test]
async fn a_stall_lasts_until_the_client_goes_and_ends_then() {
    for wire in ALL {
        let model = broken(Fault::StallAfterEvents(2)).await;
        let mut client = Client::to(&model).await;
        client.post(path(wire), &request(wire, true).to_string()).await;
        within(model.wait_until(|requests| requests.iter().any(|r| r.first_byte_at.is_some())))
            .await;
        assert!(model.requests()[0].ended_at.is_none());
        // Other connections are served meanwhile.
        goes_on(&model, wire).await;
        assert!(model.requests()[0].ended_at.is_none());

        drop(client);
        within(model.wait_until(|requests| requests[0].ended_at.is_some())).await;
        assert!(model.requests()[0].client_left);
        assert!(!model.requests()[1].client_left);
    }
}

#[tokio::test]
async fn a_client_that_goes_during_the_delay_is_noticed() {
    let hours = Duration::from_secs(10_000);
    let model = ScriptedModel::start(vec![say("Too late.").delay(hours)]).await;
    let mut client = Client::to(&model).await;
    client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    within(model.wait_for_requests(1)).await;
    drop(client);
    within(model.wait_until(|requests| requests[0].client_left)).await;
    assert!(model.requests()[0].first_byte_at.is_none());
}

#[tokio::test]
async fn a_client_that_goes_between_two_chunks_is_noticed() {
    let hours = Duration::from_secs(10_000);
    let model = ScriptedModel::start(vec![say(TEXT).pace(hours)]).await;
    let mut client = Client::to(&model).await;
    client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    within(model.wait_until(|requests| requests.iter().any(|r| r.first_byte_at.is_some()))).await;
    drop(client);
    within(model.wait_until(|requests| requests[0].client_left)).await;
}

#[tokio::test]
async fn an_overloaded_provider_says_so_in_the_stream() {
    for (wire, name) in [
        (Wire::Chat, ""),
        (Wire::Messages, "error"),
        (Wire::Responses, "error"),
        (Wire::Gemini, ""),
    ] {
        let model = broken(Fault::ErrorAfterEvents(3)).await;
        let got = Client::to(&model).await.stream(wire).await;
        assert!(got.complete);
        let events = got.events();
        assert_eq!(events.len(), 4);
        assert_eq!(events[3].0, name);
        let error = events[3].1.get("error").unwrap_or(&events[3].1);
        assert!(error["message"].as_str().unwrap().contains("verload"));
    }
}

#[tokio::test]
async fn garbage_arrives_byte_by_byte_and_properly_framed() {
    for garbage in [b"data: {\"choices\": [\n\n\xff\xfe\0".to_vec(), Vec::new()] {
        for wire in ALL {
            let model = broken(Fault::Garbage(garbage.clone())).await;
            let mut client = Client::to(&model).await;
            let got = client.stream(wire).await;
            assert!(got.complete);
            assert_eq!(got.body, garbage);
            assert!(client.stream(wire).await.text().contains("Again."));
        }
    }
}

#[tokio::test]
async fn a_reset_is_an_error_and_a_close_is_an_end() {
    for wire in ALL {
        let model = broken(Fault::Reset).await;
        let mut client = Client::to(&model).await;
        client.post(path(wire), &request(wire, true).to_string()).await;
        assert_eq!(client.end().await.unwrap_err().kind(), ErrorKind::ConnectionReset);
        goes_on(&model, wire).await;

        let model = broken(Fault::CloseBeforeResponse).await;
        let mut client = Client::to(&model).await;
        client.post(path(wire), &request(wire, true).to_string()).await;
        client.end().await.unwrap();
        goes_on(&model, wire).await;
    }
}

#[tokio::test]
async fn a_portal_answers_with_html() {
    let got = Client::to(&broken(Fault::NotSse).await).await.stream(Wire::Messages).await;
    assert_eq!(got.status, 200);
    assert_eq!(got.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(got.text().starts_with("<!doctype html>"));
}

#[tokio::test]
async fn an_empty_answer_is_valid_and_says_nothing() {
    for (wire, finish) in [
        (Wire::Chat, "stop"),
        (Wire::Messages, "end_turn"),
        (Wire::Responses, "completed"),
        (Wire::Gemini, "STOP"),
    ] {
        let reply = call("ls", json!({})).fault(Fault::Empty);
        let model = ScriptedModel::start(vec![reply, fail(Fault::Empty)]).await;
        let mut client = Client::to(&model).await;
        for _ in 0..2 {
            let said = said(wire, &client.stream(wire).await);
            assert_eq!(said.parts, []);
            assert_eq!(said.finish.as_deref(), Some(finish));
            assert!(said.terminal);
        }
    }
}

#[tokio::test]
async fn a_missing_terminal_ends_the_body_but_not_the_message() {
    for wire in ALL {
        let model = broken(Fault::MissingTerminal).await;
        let got = Client::to(&model).await.stream(wire).await;
        assert!(got.complete);
        let said = said(wire, &got);
        assert_eq!(said.parts, [crate::client::Part::Text(TEXT.to_owned())]);
        assert_eq!((said.finish, said.terminal), (None, false));
    }
}

#[tokio::test]
async fn a_cut_of_the_response_counts_its_head_and_framing() {
    for wire in ALL {
        let model = ScriptedModel::start(vec![say(TEXT)]).await;
        let whole = Client::to(&model).await.stream(wire).await;
        let bytes = model.requests()[0].answer_bytes;
        assert!(bytes > whole.head.len() + whole.text().len());
        for count in [0, 1, whole.head.len() + 3, bytes - 1] {
            let model = broken(Fault::CutResponseAfterBytes(count)).await;
            let mut client = Client::to(&model).await;
            client.post(path(wire), &request(wire, true).to_string()).await;
            let got = within(client.response()).await;
            assert!(got.is_none_or(|got| !got.complete), "{wire:?} {count}");
            goes_on(&model, wire).await;
        }
    }
}

#[tokio::test]
async fn silence_is_not_a_byte_until_the_client_goes() {
    let model = broken(Fault::Silence).await;
    let mut client = Client::to(&model).await;
    client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    model.wait_for_requests(1).await;
    drop(client);
    within(model.wait_until(|requests| requests[0].ended_at.is_some())).await;
    let request = &model.requests()[0];
    assert!(request.client_left && request.first_byte_at.is_none());
    goes_on(&model, Wire::Chat).await;
}

#[tokio::test]
async fn a_drip_is_the_same_answer_and_a_replacement_is_another() {
    for wire in ALL {
        let model = broken(Fault::DripAfterEvents(1, Duration::from_micros(1))).await;
        let dripped = Client::to(&model).await.stream(wire).await;
        let model = ScriptedModel::start(vec![say(TEXT)]).await;
        let whole = Client::to(&model).await.stream(wire).await;
        assert_eq!(dripped.text(), whole.text());
        let model = broken(Fault::replace("Some", "Many")).await;
        let other = Client::to(&model).await.stream(wire).await;
        assert_eq!(other.text(), whole.text().replace("Some", "Many"));
    }
}

#[tokio::test]
async fn a_long_line_is_as_long_as_ordered_and_a_content_type_is_as_ordered() {
    let model = broken(Fault::LongLineAfterEvents(1, 300_000)).await;
    let got = Client::to(&model).await.stream(Wire::Chat).await;
    assert!(got.text().ends_with(&"x".repeat(300_000)) && got.text().len() < 400_000);
    let model = broken(Fault::ContentType("image/png".to_owned())).await;
    let got = Client::to(&model).await.stream(Wire::Chat).await;
    assert_eq!(got.header("content-type"), Some("image/png"));
    assert!(got.text().contains("[DONE]"));
}

/// What is billed is what was said before the cut: the whole, the first half of it, or nothing.
#[tokio::test]
async fn the_bill_is_what_was_said_of_it() {
    let used = Usage { input: 70, cached: 20, output: 9 };
    for wire in ALL {
        let reply = || say(TEXT).usage(used.input, used.cached, used.output);
        let start = match wire {
            // Reported once, at the end.
            Wire::Chat | Wire::Responses => Usage::default(),
            // The input at the start, the output at the end.
            Wire::Messages => Usage { output: 1, ..used },
            // With every event.
            _ => used,
        };
        let replies = vec![reply(), reply().fault(Fault::CutAfterEvents(2)), fail(Fault::Silence)];
        let model = ScriptedModel::start(replies).await;
        for _ in 0..2 {
            Client::to(&model).await.stream(wire).await;
        }
        let mut client = Client::to(&model).await;
        client.post(path(wire), &request(wire, true).to_string()).await;
        model.wait_for_requests(3).await;
        drop(client);
        let billed: Vec<_> = model.requests().iter().map(|request| request.billed).collect();
        assert_eq!(billed, [used, start, Usage::default()], "{wire:?}");
    }
}
