//! Connections, requests and scripts: what is kept, what is refused, and what ends when.

use std::io::ErrorKind;

use serde_json::json;
use tokio::net::TcpStream;
use vtcode_testkit::{Fault, ScriptedModel, Wire, say};

use crate::client::{ALL, Client, path, request, within};

#[tokio::test]
async fn two_requests_on_one_connection_get_two_replies() {
    let model = ScriptedModel::start(vec![say("One."), say("Two.")]).await;
    let mut client = Client::to(&model).await;
    assert!(client.stream(Wire::Chat).await.text().contains("One."));
    assert!(client.stream(Wire::Messages).await.text().contains("Two."));

    assert_eq!(model.connections(), 1);
    within(model.wait_until(|requests| requests.iter().all(|r| r.ended_at.is_some()))).await;
    let requests = model.requests();
    assert_eq!(requests.len(), 2);
    assert_eq!(requests[0].wire, Some(Wire::Chat));
    assert_eq!(requests[1].wire, Some(Wire::Messages));
    assert_eq!(requests[1].connection, 0);
    assert_eq!(requests[0].header("Host"), Some("x"));
    assert_eq!(&requests[0].body[..], request(Wire::Chat, true).to_string().as_bytes());
    assert_eq!(requests[1].json(), request(Wire::Messages, true));
    for request in &requests {
        assert!(request.received_at <= request.first_byte_at.unwrap());
        assert!(request.first_byte_at <= request.ended_at);
        assert!(!request.client_left && request.error.is_none());
    }
    assert!(requests[0].ended_at.unwrap() <= requests[1].received_at);
}

#[tokio::test]
async fn pipelined_requests_are_answered_one_after_the_other() {
    let model = ScriptedModel::start(vec![say("One."), say("Two."), say("Three.")]).await;
    let mut client = Client::to(&model).await;
    for _ in 0..3 {
        client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    }
    for word in ["One.", "Two.", "Three."] {
        assert!(client.response().await.unwrap().text().contains(word));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_connections_share_one_script() {
    let model = ScriptedModel::start_with(|_, number| say(format!("Number {number}."))).await;
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let mut client = Client::to(&model).await;
        clients.spawn(async move { client.stream(Wire::Chat).await.text().to_owned() });
    }
    let texts = within(clients.join_all()).await;
    for number in 0..20 {
        let word = format!("Number {number}.");
        assert_eq!(texts.iter().filter(|text| text.contains(&word)).count(), 1);
    }
    assert_eq!((model.connections(), model.requests().len()), (20, 20));
}

#[tokio::test]
async fn a_responder_sees_the_request_and_its_number() {
    let model = ScriptedModel::start_with(|request, number| {
        say(format!("{number}: {}", request.json()["messages"][0]["content"]))
    })
    .await;
    let mut client = Client::to(&model).await;
    assert!(client.stream(Wire::Messages).await.text().contains(r#"0: \"hi\""#));
    assert!(client.stream(Wire::Messages).await.text().contains(r#"1: \"hi\""#));
}

#[tokio::test]
async fn an_ended_script_is_an_error_of_the_test_and_says_so() {
    for wire in ALL {
        let model = ScriptedModel::start(vec![say("Only this.")]).await;
        let mut client = Client::to(&model).await;
        client.stream(wire).await;
        let got = client.stream(wire).await;
        assert_eq!(got.status, 500);
        assert_eq!(got.json()["error"]["message"], "the script has 1 replies, this is request 2");
        assert_eq!(got.header("x-should-retry"), Some("false"));
        assert!(model.requests()[1].error.as_ref().unwrap().contains("1 replies"));
    }
}

#[tokio::test]
async fn a_chunked_request_body_is_joined() {
    let model = ScriptedModel::start(vec![say("Read."), say("Again.")]).await;
    let mut client = Client::to(&model).await;
    let body = request(Wire::Chat, true).to_string();
    let (a, b) = body.split_at(10);
    let bytes = format!(
        "POST {} HTTP/1.1\r\nTransfer-Encoding: Chunked\r\n\r\n\
         A;name=x\r\n{a}\r\n{:x}\r\n{b}\r\n0\r\nTrailer: y\r\n\r\n",
        path(Wire::Chat),
        b.len(),
    );
    // Byte by byte, as the worst network would.
    for byte in bytes.as_bytes() {
        client.write(&[*byte]).await;
    }
    assert!(client.response().await.unwrap().text().contains("Read."));
    assert_eq!(&model.requests()[0].body[..], body.as_bytes());
    assert!(client.stream(Wire::Chat).await.text().contains("Again."), "nothing is left over");
}

#[tokio::test]
async fn a_client_that_waits_for_100_continue_gets_it() {
    let model = ScriptedModel::start(vec![say("Read.")]).await;
    let mut client = Client::to(&model).await;
    let body = request(Wire::Messages, true).to_string();
    let head = format!("POST {} HTTP/1.1\r\nExpect: 100-Continue", path(Wire::Messages));
    client.write(format!("{head}\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes()).await;
    assert!(client.interim().await.starts_with("HTTP/1.1 100 "));
    client.write(body.as_bytes()).await;
    assert!(client.response().await.unwrap().text().contains("Read."));
}

#[tokio::test]
async fn connection_close_is_obeyed_after_a_whole_answer() {
    let model = ScriptedModel::start(vec![say("Bye.")]).await;
    let mut client = Client::to(&model).await;
    let body = request(Wire::Chat, true).to_string();
    let head = format!("POST {} HTTP/1.1\r\nConnection: close", path(Wire::Chat));
    client
        .write(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
        .await;
    assert!(client.response().await.unwrap().complete);
    client.end().await.unwrap();
}

#[tokio::test]
async fn the_models_are_listed_and_leave_no_trace() {
    let model = ScriptedModel::start(vec![]).await;
    let mut client = Client::to(&model).await;
    for (header, key) in [("x: y", "owned_by"), ("anthropic-version: 2023-06-01", "display_name")] {
        client
            .write(format!("GET /v1/models?limit=5 HTTP/1.1\r\n{header}\r\n\r\n").as_bytes())
            .await;
        let got = client.response().await.unwrap();
        assert_eq!(got.status, 200);
        assert_eq!(got.json()["data"][0]["id"], "scripted");
        assert!(got.json()["data"][0][key].is_string());
    }
    assert_eq!(model.requests().len(), 0);
}

#[tokio::test]
async fn what_the_provider_would_refuse_is_refused_and_takes_no_reply() {
    let model = ScriptedModel::start(vec![say("For the valid one.")]).await;
    let mut client = Client::to(&model).await;
    let good = |wire| request(wire, true);
    for (target, body, status, message) in [
        ("/v1/chat/completions", "{\"model\":".to_owned(), 400, "not JSON"),
        ("/v1/chat/completions", String::new(), 400, "not JSON"),
        ("/v1/chat/completions", "[1]".to_owned(), 400, "model: field required"),
        ("/v1/messages", json!({"model": "m", "messages": []}).to_string(), 400, "messages"),
        ("/v1/messages", good(Wire::Chat).to_string(), 400, "max_tokens"),
        ("/v1/v1/messages", good(Wire::Messages).to_string(), 404, "POST /v1/v1/messages"),
        ("/v1/responses", json!({"model": "m", "input": []}).to_string(), 400, "input"),
        (path(Wire::Gemini), json!({"contents": []}).to_string(), 400, "contents"),
        (path(Wire::Gemini), good(Wire::Chat).to_string(), 400, "Unknown name \"model\""),
        ("/v1beta/models/m:streamGenerateContent", good(Wire::Gemini).to_string(), 404, "method"),
        (
            path(Wire::Gemini),
            json!({"contents": [{"role": "user", "parts": [{"functionResponse": {}}]}]})
                .to_string(),
            400,
            "functionResponse",
        ),
        ("/chat/completions", good(Wire::Chat).to_string(), 404, "POST /chat/completions"),
    ] {
        client.post(target, &body).await;
        let got = client.response().await.unwrap();
        assert_eq!(got.status, status, "{target} {body}");
        assert!(got.json()["error"]["message"].as_str().unwrap().contains(message));
        assert_eq!(got.json()["type"] == "error", target == "/v1/messages");
        let last = model.requests().pop().unwrap();
        assert!(last.error.unwrap().contains(message));
        assert_eq!(&last.body[..], body.as_bytes());
    }
    client.post("/v1/messages?beta=true", &good(Wire::Messages).to_string()).await;
    assert!(client.response().await.unwrap().text().contains("For the valid one."));
    assert_eq!(model.requests().pop().unwrap().path, "/v1/messages?beta=true");
}

#[tokio::test]
async fn what_is_not_http_is_refused_and_closed() {
    let model = ScriptedModel::start(vec![say("Never.")]).await;
    let long = format!("GET / HTTP/1.1\r\nx: {}", "y".repeat(70_000));
    for (bytes, status) in [
        ("\x16\x03\x01 tls\r\n\r\n", 400),
        ("POST /v1/messages HTTP/1.0\r\n\r\n", 505),
        ("POST /v1/messages HTTP/1.1\r\nno colon\r\n\r\n", 400),
        ("POST /v1/messages HTTP/1.1\r\nContent-Length: -1\r\n\r\n", 400),
        ("POST /v1/messages HTTP/1.1\r\nContent-Length: 99999999999\r\n\r\n", 413),
        ("POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        ("POST /v1/messages HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", 400),
        (&long, 431),
    ] {
        let mut client = Client::to(&model).await;
        client.write(bytes.as_bytes()).await;
        assert_eq!(client.response().await.unwrap().status, status, "{bytes:.60}");
        assert!(model.requests().pop().unwrap().error.is_some());
    }
}

#[tokio::test]
async fn a_client_that_goes_in_the_middle_of_a_request_leaves_no_trace() {
    let model = ScriptedModel::start(vec![say("For the next one.")]).await;
    let mut client = Client::to(&model).await;
    client.write(b"POST /v1/messages HTTP/1.1\r\nContent-Length: 100\r\n\r\n{").await;
    drop(client);
    let got = Client::to(&model).await.stream(Wire::Messages).await;
    assert!(got.text().contains("For the next one."));
    assert_eq!((model.requests().len(), model.connections()), (1, 2));
}

#[tokio::test]
async fn waiting_for_requests_ends_with_the_request() {
    let model = ScriptedModel::start_with(|_, _| say("Yes.")).await;
    let (mut one, mut two) = (Client::to(&model).await, Client::to(&model).await);
    let ((), _, _) = tokio::join!(
        within(model.wait_for_requests(2)),
        one.stream(Wire::Chat),
        two.stream(Wire::Chat)
    );
    assert_eq!(model.requests().len(), 2);
}

#[tokio::test]
async fn shutdown_closes_the_port_and_what_stalls_on_it() {
    let model = ScriptedModel::start(vec![say("Hm.").fault(Fault::StallAfterEvents(1))]).await;
    let mut client = Client::to(&model).await;
    client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    within(model.wait_until(|requests| requests.iter().any(|r| r.first_byte_at.is_some()))).await;
    let address = model.address();
    within(model.shutdown()).await;
    let refused = TcpStream::connect(address).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert!(!client.response().await.unwrap().complete);
}

#[tokio::test]
async fn dropping_the_model_ends_its_connections() {
    let model = ScriptedModel::start(vec![say("Hm.").fault(Fault::StallAfterEvents(0))]).await;
    let mut client = Client::to(&model).await;
    client.post(path(Wire::Chat), &request(Wire::Chat, true).to_string()).await;
    within(model.wait_for_requests(1)).await;
    drop(model);
    assert!(client.response().await.is_none_or(|got| !got.complete));
}
