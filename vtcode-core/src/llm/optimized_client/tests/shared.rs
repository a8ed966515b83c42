//! One request for all who ask the same.

use super::*;

const WHOLE: &str = "one two";

/// A server that says two words, the second once it is told to.
async fn in_two_pieces() -> (Server, Arc<Notify>) {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let more = Arc::new(Notify::new());
    let script = vec![
        stream_head(),
        words("one "),
        Step::Await(Arc::clone(&more)),
        words("two"),
        chunk(&format!("data: {usage}\n\n")),
        finish(),
        stream_end(),
    ];
    (Server::start([script, say("another")]).await, more)
}

/// What a listener heard: words and what it paid for.
#[derive(Debug, Default, PartialEq)]
struct Heard {
    words: String,
    usage: Usage,
    outcomes: Vec<Outcome>,
    error: bool,
}

async fn hear(mut stream: ResponseStream) -> Heard {
    let mut heard = Heard::default();
    while let Some(event) = stream.next().await {
        match event {
            Ok(StreamEvent::Delta(Delta::Text(words))) => heard.words.push_str(&words),
            Ok(StreamEvent::AttemptEnded(attempt)) => {
                heard.usage += attempt.usage;
                heard.outcomes.push(attempt.outcome);
            }
            Ok(_) => {}
            Err(_) => heard.error = true,
        }
    }
    heard
}

async fn joined(task: JoinHandle<Heard>) -> Heard {
    tokio::time::timeout(GUARD, task).await.expect("it ends").unwrap()
}

async fn first_word(stream: &mut ResponseStream) {
    let first = StreamEvent::Delta(Delta::Text("one ".into()));
    while stream.next().await.unwrap().unwrap() != first {}
}

fn question() -> LLMRequest {
    LLMRequest::from_prompt("hi")
}

#[tokio::test]
async fn everybody_hears_all_of_it_also_who_comes_late_and_it_is_billed_once() {
    let (server, more) = in_two_pieces().await;
    let client = server.client();
    let mut first = client.stream(&question());
    first_word(&mut first).await;
    let late: Vec<_> = (0..3).map(|_| tokio::spawn(hear(client.stream(&question())))).collect();
    // It came late, and goes before the end.
    drop(client.stream(&question()));
    let first = tokio::spawn(hear(first));
    more.notify_one();
    let paid = joined(first).await;
    assert_eq!((paid.words.as_str(), paid.outcomes.as_slice()), ("two", &[Outcome::Done][..]));
    assert_eq!((paid.usage.input_tokens, paid.usage.output_tokens), (9, 3));
    for task in late {
        let heard = joined(task).await;
        assert_eq!(heard.words, WHOLE);
        assert_eq!((heard.usage, heard.outcomes), (Usage::default(), vec![Outcome::Shared]));
    }
    let metrics = client.get_metrics().await;
    assert_eq!((server.requests().len(), metrics.requests, metrics.answers_shared), (1, 1, 4));
    assert_eq!(metrics.usage.input_tokens, 9);
    // What has ended is not on its way: the next one is a request of its own.
    assert_eq!(hear(client.stream(&question())).await.words, "another");
}

#[tokio::test]
async fn who_leaves_does_not_end_it_for_others_and_the_next_in_turn_pays() {
    let (server, more) = in_two_pieces().await;
    let client = server.client();
    let mut first = client.stream(&question());
    let second = client.stream(&question());
    first_word(&mut first).await;
    assert_eq!(first.cancel(), None, "somebody else listens");
    more.notify_one();
    let heard = tokio::time::timeout(GUARD, hear(second)).await.unwrap();
    assert_eq!((heard.words.as_str(), heard.usage.input_tokens), (WHOLE, 9));
    assert_eq!(heard.outcomes, [Outcome::Done]);
}

#[tokio::test]
async fn who_gives_up_while_waiting_hands_the_work_to_the_others() {
    let (server, more) = in_two_pieces().await;
    let client = server.client();
    let first = tokio::spawn(hear(client.stream(&question())));
    let second = tokio::spawn(hear(client.stream(&question())));
    tokio::time::timeout(GUARD, async {
        while server.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await
    .unwrap();
    first.abort();
    more.notify_one();
    let heard = tokio::time::timeout(GUARD, second).await.unwrap().unwrap();
    assert_eq!(heard.words, WHOLE);
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_last_one_who_leaves_ends_it() {
    let (server, _more) = in_two_pieces().await;
    let client = server.client();
    let mut first = client.stream(&question());
    let second = client.stream(&question());
    first_word(&mut first).await;
    drop(second);
    assert_eq!(first.cancel().map(|attempt| attempt.outcome), Some(Outcome::Cancelled));
    tokio::time::timeout(GUARD, server.seen.client_closed.notified()).await.unwrap();
    assert_eq!(client.get_metrics().await.attempts, [(Outcome::Cancelled, 1)]);
    assert_eq!(hear(client.stream(&question())).await.words, "another");
}

#[tokio::test]
async fn everybody_hears_of_an_error_and_of_the_attempts_before_it() {
    let server = Server::start([status(503, "busy"), status(400, "no")]).await;
    let client = server.client();
    let streams = [client.stream(&question()), client.stream(&question())];
    for stream in streams {
        let heard = hear(stream).await;
        assert!(heard.error);
        assert_eq!(heard.outcomes, [Outcome::Failed, Outcome::Refused]);
    }
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn requests_that_differ_or_may_not_share_are_sent_each() {
    let asks = |limits: ClientLimits, requests: [LLMRequest; 2]| async move {
        let server = Server::start([say("a"), say("b")]).await;
        let client = server.client_with(Wire::OpenAiChat, limits);
        let [one, two] = requests.map(|request| hear(client.stream(&request)));
        let (one, two) = tokio::join!(one, two);
        let mut words = [one.words, two.words];
        words.sort();
        words
    };
    let other = LLMRequest { sample: 1, ..question() };
    assert_eq!(asks(limits(), [question(), other]).await, ["a", "b"]);
    let other = LLMRequest { temperature: Some(0.5), ..question() };
    assert_eq!(asks(limits(), [question(), other]).await, ["a", "b"]);
    let none = ClientLimits { shared_bytes: 0, ..limits() };
    assert_eq!(asks(none, [question(), question()]).await, ["a", "b"]);
}

#[tokio::test]
async fn a_request_that_told_too_much_cannot_be_joined_any_more() {
    let (server, more) = in_two_pieces().await;
    let limits = ClientLimits { shared_bytes: 100, ..limits() };
    let client = server.client_with(Wire::OpenAiChat, limits);
    let mut first = client.stream(&question());
    let second = client.stream(&question());
    first_word(&mut first).await;
    assert_eq!(hear(client.stream(&question())).await.words, "another");
    more.notify_one();
    let (first, second) = tokio::join!(hear(first), hear(second));
    assert_eq!((first.words.as_str(), second.words.as_str()), ("two", WHOLE));
}

#[tokio::test]
async fn words_that_come_together_are_told_together() {
    let word = |text: &str| {
        format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n")
    };
    let together = chunk(&(0..50).map(|_| word("a ")).collect::<String>());
    let server = Server::start([vec![stream_head(), together, finish(), stream_end()]]).await;
    let (told, error) = events(&server.client()).await;
    assert_eq!(error, None);
    let said: Vec<_> = told
        .iter()
        .filter_map(|event| match event {
            StreamEvent::Delta(Delta::Text(text)) => Some(text.len()),
            _ => None,
        })
        .collect();
    // However the socket cuts what was written at once, it is not an event for each word.
    assert_eq!(said.iter().sum::<usize>(), 100);
    assert!(said.len() < 10, "{said:?}");
}
