//! A second request for an answer that is late.

use super::*;

/// A client that has seen twenty quick answers, and the server's next ones.
async fn practised(
    budget: f64,
    next: impl IntoIterator<Item = Vec<Step>>,
) -> (Server, OptimizedLLMClient) {
    let quick = (0..20).map(|_| say("quick"));
    let server = Server::start(quick.chain(next)).await;
    let limits = ClientLimits { hedge_budget: budget, attempts: 1, ..limits() };
    let client = server.client_with(Wire::OpenAiChat, limits);
    for _ in 0..20 {
        assert_eq!(ask(&client).await.unwrap().text(), "quick");
    }
    assert_eq!(client.get_metrics().await.hedges, 0, "nobody knows yet what is late");
    (server, client)
}

async fn heard(client: &OptimizedLLMClient) -> (String, Vec<(u32, Outcome)>) {
    let (mut words, mut ended) = (String::new(), Vec::new());
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    while let Some(event) = tokio::time::timeout(GUARD, stream.next()).await.expect("it ends") {
        match event.unwrap() {
            StreamEvent::Delta(Delta::Text(text)) => words.push_str(&text),
            StreamEvent::AttemptEnded(attempt) => ended.push((attempt.attempt, attempt.outcome)),
            _ => {}
        }
    }
    (words, ended)
}

const BOTH: [(u32, Outcome); 2] = [(1, Outcome::Overtaken), (1, Outcome::Done)];

#[tokio::test]
async fn the_second_request_counts_when_it_begins_first_and_the_ledger_shows_both() {
    let (server, client) = practised(1.0, [vec![Step::Hang], say("second")]).await;
    assert_eq!(heard(&client).await, ("second".to_owned(), BOTH.to_vec()));
    tokio::time::timeout(GUARD, server.seen.client_closed.notified()).await.expect("it was left");
    let metrics = client.get_metrics().await;
    assert_eq!((metrics.requests, metrics.hedges, metrics.hedges_won), (21, 1, 1));
    assert_eq!(server.requests().len(), 22);
}

#[tokio::test]
async fn the_first_request_counts_when_it_begins_first_after_all() {
    let go_on = Arc::new(Notify::new());
    let mut late = say("first");
    late.insert(0, Step::Await(Arc::clone(&go_on)));
    let (server, client) = practised(1.0, [late, vec![Step::Hang]]).await;
    let (told, ()) = tokio::join!(heard(&client), async {
        while server.requests().len() < 22 {
            tokio::task::yield_now().await;
        }
        go_on.notify_one();
    });
    assert_eq!(told, ("first".to_owned(), BOTH.to_vec()));
    assert_eq!(client.get_metrics().await.hedges_won, 0);
}

#[tokio::test]
async fn whichever_fails_the_other_one_goes_on() {
    let busy = |go_on: &Arc<Notify>| {
        let mut busy = status(503, "busy");
        busy.insert(0, Step::Await(Arc::clone(go_on)));
        busy
    };
    let (go_on, then) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut second = say("second");
    second.insert(0, Step::Await(Arc::clone(&then)));
    let (server, client) = practised(1.0, [busy(&go_on), second]).await;
    let (told, ()) = tokio::join!(heard(&client), async {
        while server.requests().len() < 22 {
            tokio::task::yield_now().await;
        }
        go_on.notify_one();
        while client.get_metrics().await.attempts.iter().all(|(how, _)| *how != Outcome::Failed) {
            tokio::task::yield_now().await;
        }
        then.notify_one();
    });
    let ended = vec![(1, Outcome::Failed), (1, Outcome::Done)];
    assert_eq!(told, ("second".to_owned(), ended.clone()));

    let go_on = Arc::new(Notify::new());
    let mut first = say("first");
    first.insert(0, Step::Await(Arc::clone(&go_on)));
    let (_server, client) = practised(1.0, [first, status(503, "busy")]).await;
    let (told, ()) = tokio::join!(heard(&client), async {
        while client.get_metrics().await.attempts.iter().all(|(how, _)| *how != Outcome::Failed) {
            tokio::task::yield_now().await;
        }
        go_on.notify_one();
    });
    assert_eq!(told, ("first".to_owned(), ended));
}

#[tokio::test]
async fn nothing_is_sent_twice_without_a_budget_or_where_it_would_cost_much() {
    let short = Duration::from_millis(200);
    for (budget, text) in [(0.0, "hi".to_owned()), (1.0, "long ".repeat(10_000))] {
        let (server, client) = practised(budget, [vec![Step::Hang]]).await;
        // Another beginning than the one that the provider has in its cache.
        let request = LLMRequest { system: "new".to_owned(), ..LLMRequest::from_prompt(text) };
        let mut stream = client.stream(&request);
        let told = tokio::time::timeout(short, stream.next()).await;
        assert!(told.is_err(), "it hangs: {told:?}");
        assert_eq!((server.requests().len(), client.get_metrics().await.hedges), (21, 0));
    }
}
