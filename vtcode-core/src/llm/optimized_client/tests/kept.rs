//! Answers that are given again.

use std::path::Path;

use super::*;

/// A client that keeps answers in a folder.
fn keeping(server: &Server, folder: &Path, limits: ClientLimits) -> OptimizedLLMClient {
    let base_url = format!("http://127.0.0.1:{}/v1", server.port);
    let folders = Folders { answers: Some(folder), ..Folders::default() };
    let endpoint = endpoint(Wire::OpenAiChat, &base_url);
    OptimizedLLMClient::with_folders(endpoint, limits, folders).unwrap()
}

fn always() -> ClientLimits {
    ClientLimits { keep_all_answers: true, ..limits() }
}

/// Asks; returns the words, and the warnings.
async fn told(client: &OptimizedLLMClient, request: &LLMRequest) -> (String, Vec<String>) {
    let (mut words, mut warnings) = (String::new(), Vec::new());
    let mut stream = client.stream(request);
    while let Some(event) = stream.next().await {
        match event.unwrap() {
            StreamEvent::Delta(Delta::Text(text)) => words.push_str(&text),
            StreamEvent::Degraded { what } => warnings.push(what),
            _ => {}
        }
    }
    (words, warnings)
}

fn question() -> LLMRequest {
    LLMRequest::from_prompt("hi")
}

#[tokio::test]
async fn a_later_run_gets_the_answer_as_a_stream_that_used_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start([say("once")]).await;
    let first = keeping(&server, folder.path(), always());
    assert_eq!(told(&first, &question()).await, ("once".to_owned(), vec![]));
    let later = keeping(&server, folder.path(), always());
    let mut stream = later.stream(&question());
    let mut events = Vec::new();
    while let Some(event) = stream.next().await {
        events.push(event.unwrap());
    }
    let text = || "once".to_owned();
    assert_eq!(
        events[..4],
        [
            StreamEvent::FirstByte,
            StreamEvent::Delta(Delta::Text(text().into())),
            StreamEvent::Delta(Delta::Part(Part::Text { text: text() })),
            StreamEvent::Delta(Delta::Finish(FinishReason::Stop)),
        ]
    );
    assert!(matches!(
        &events[4..],
        [StreamEvent::AttemptEnded(Attempt {
            outcome: Outcome::Kept,
            usage: Usage { input_tokens: 0, .. },
            ..
        })]
    ));
    assert_eq!(server.requests().len(), 1);
    assert_eq!(later.get_metrics().await.answers_kept, 1);
}

#[tokio::test]
async fn what_differs_in_anything_is_another_request() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start((0..20).map(|n| say(&n.to_string()))).await;
    let client = keeping(&server, folder.path(), always());
    let other_key = || {
        let base_url = format!("http://127.0.0.1:{}/v1", server.port);
        let mut endpoint = endpoint(Wire::OpenAiChat, &base_url);
        endpoint.key = Some(SecretString::from("sk-somebody-else"));
        endpoint
    };
    let folders = Folders { answers: Some(folder.path()), ..Folders::default() };
    let somebody = OptimizedLLMClient::with_folders(other_key(), always(), folders).unwrap();
    let other_model = Endpoint { model: "n".to_owned(), key: Some(KEY.into()), ..other_key() };
    let other_model = OptimizedLLMClient::with_folders(other_model, always(), folders).unwrap();
    let requests = [
        (&client, question()),
        (&client, LLMRequest::from_prompt("ho")),
        (&client, LLMRequest { system: "s".to_owned(), ..question() }),
        (&client, LLMRequest { temperature: Some(0.1), ..question() }),
        (&client, LLMRequest { temperature: Some(0.2), ..question() }),
        (&client, LLMRequest { sample: 1, ..question() }),
        (&somebody, question()),
        (&other_model, question()),
    ];
    for round in 0..2 {
        for (n, (client, request)) in requests.iter().enumerate() {
            assert_eq!(told(client, request).await.0, n.to_string(), "round {round}");
        }
    }
    assert_eq!(server.requests().len(), requests.len());
}

#[tokio::test]
async fn only_whole_answers_are_kept_and_at_other_temperatures_none_unless_wanted() {
    let folder = tempfile::tempdir().unwrap();
    let cut = chunk("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"length\"}]}\n\n");
    let server = Server::start([
        vec![stream_head(), words("half"), cut, stream_end()],
        say("whole"),
        say("warm"),
        say("warm again"),
    ])
    .await;
    let client = keeping(&server, folder.path(), always());
    for expected in ["half", "whole", "whole"] {
        assert_eq!(told(&client, &question()).await.0, expected);
    }
    let client = keeping(&server, folder.path(), limits());
    for expected in ["warm", "warm again"] {
        assert_eq!(told(&client, &question()).await.0, expected);
    }
}

#[tokio::test]
async fn a_folder_that_cannot_be_used_costs_one_warning_and_no_answer() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("file");
    std::fs::write(&file, "").unwrap();
    let server = Server::start((0..4).map(|n| say(&n.to_string()))).await;
    let client = keeping(&server, &file, always());
    let (words, warnings) = told(&client, &question()).await;
    assert_eq!((words.as_str(), warnings.len()), ("0", 1), "{warnings:?}");
    let (words, warnings) = told(&client, &LLMRequest::from_prompt("ho")).await;
    assert_eq!((words.as_str(), warnings.len()), ("1", 0), "{warnings:?}");
    // In memory it is kept all the same.
    assert_eq!(told(&client, &question()).await.0, "0");
}

#[tokio::test]
async fn a_spoilt_answer_is_asked_for_again_with_one_warning() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start([say("one"), say("two")]).await;
    told(&keeping(&server, folder.path(), always()), &question()).await;
    let file = std::fs::read_dir(folder.path()).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&file).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let client = keeping(&server, folder.path(), always());
    let (words, warnings) = told(&client, &question()).await;
    assert_eq!((words.as_str(), warnings.len()), ("two", 1), "{warnings:?}");
    let later = keeping(&server, folder.path(), always());
    assert_eq!(told(&later, &question()).await, ("two".to_owned(), vec![]));
}
