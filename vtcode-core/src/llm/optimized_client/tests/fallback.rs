//! Requests that go on at another endpoint, over real sockets.

use super::*;
use crate::config::limits::BreakerLimits;

/// Nobody listens there.
async fn nobody() -> u16 {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
}

fn route(port: u16, key: &str) -> Route {
    let base_url = format!("http://127.0.0.1:{port}/v1");
    let endpoint = Endpoint::new(Wire::OpenAiChat, base_url, "m").with_key(key);
    Route { endpoint, limits: limits() }
}

fn client(ports: &[u16], limits: &ClientLimits) -> OptimizedLLMClient {
    let routes = ports.iter().enumerate().map(|(n, port)| Route {
        limits: limits.clone(),
        ..route(*port, &format!("sk-secret-of-{n}"))
    });
    OptimizedLLMClient::with_routes(routes.collect(), Folders::default()).unwrap()
}

/// Where requests went on, and as which attempt.
fn failovers(events: &[StreamEvent]) -> Vec<(usize, u32)> {
    let onward = events.iter().filter_map(|event| match event {
        StreamEvent::FailOver(onward) => Some((onward.route(), onward.attempt())),
        _ => None,
    });
    onward.collect()
}

fn said(events: &[StreamEvent]) -> String {
    let words = events.iter().filter_map(|event| match event {
        StreamEvent::Delta(Delta::Text(text)) => Some(text.to_string()),
        _ => None,
    });
    words.collect()
}

#[tokio::test]
async fn a_refused_connection_is_answered_by_the_next_endpoint_and_the_first_is_left_alone() {
    let second = Server::start([say("one"), say("two")]).await;
    let client = client(&[nobody().await, second.port()], &limits());
    let (told, error) = events(&client).await;
    assert_eq!((error, said(&told).as_str()), (None, "one"));
    assert_eq!(
        failovers(&told),
        [(1, 3)],
        "asked twice, as a local server that just starts may win"
    );
    let refused = client.get_metrics().await.attempts;
    assert_eq!(refused, [(Outcome::Done, 1), (Outcome::Unreachable, 2)]);

    let (told, _) = events(&client).await;
    assert_eq!((said(&told).as_str(), failovers(&told)), ("two", vec![]), "straight to the second");
    let metrics = client.get_metrics().await;
    assert_eq!(metrics.attempts, [(Outcome::Done, 2), (Outcome::Unreachable, 2)]);
    assert_eq!((metrics.requests, metrics.failovers), (2, 1));
    let admits: Vec<_> = metrics.endpoints.iter().map(|endpoint| endpoint.admits).collect();
    assert_eq!(admits, [false, true]);
    assert_eq!(second.connections(), 1);
}

#[tokio::test]
async fn an_endpoint_that_fails_has_its_share_of_the_attempts_and_no_secret_of_another() {
    let first = Server::start((0..3).map(|_| status(503, "busy"))).await;
    let second = Server::start([status(503, "busy, too"), say("at last")]).await;
    let client = client(&[first.port(), second.port()], &limits());
    let (told, error) = events(&client).await;
    assert_eq!((error, said(&told).as_str()), (None, "at last"));
    // Three of five attempts here, the others there.
    assert_eq!((retries(&told), failovers(&told)), (3, vec![(1, 4)]));
    let mine = |server: &Server, own: &str, other: &str| {
        let requests = server.requests();
        assert!(requests.iter().all(|r| r.contains(own) && !r.contains(other)), "{requests:?}");
        requests.len()
    };
    assert_eq!(mine(&first, "sk-secret-of-0", "sk-secret-of-1"), 3);
    assert_eq!(mine(&second, "sk-secret-of-1", "sk-secret-of-0"), 2);
    assert!(!format!("{told:?} {client:?}").contains("sk-secret"));
}

#[tokio::test]
async fn what_is_wrong_with_the_endpoint_leaves_it_at_once_and_what_is_wrong_with_the_request_stays()
 {
    for (code, words) in [(401, "bad key"), (404, "no such model"), (402, "pay"), (302, "moved")] {
        let first = Server::start([status(code, words)]).await;
        let second = Server::start([say("fine")]).await;
        let client = client(&[first.port(), second.port()], &limits());
        let (told, error) = events(&client).await;
        assert_eq!((error, said(&told).as_str()), (None, "fine"), "{code}");
        assert_eq!(failovers(&told), [(1, 2)], "{code}");
    }
    for (code, words) in [(400, "no"), (413, "large"), (400, "context_length_exceeded")] {
        let first = Server::start([status(code, words)]).await;
        let client = client(&[first.port(), nobody().await], &limits());
        let (told, error) = events(&client).await;
        assert!(matches!(error, Some(LlmError::BadRequest { .. })), "{code}: {error:?}");
        assert_eq!(failovers(&told), []);
    }
}

#[tokio::test]
async fn a_long_wait_is_spent_elsewhere_and_ends_when_the_provider_said() {
    let busy = with_header(429, "retry-after: 60", "{}");
    let first = Server::start([vec![Step::Send(busy)]]).await;
    let second = Server::start([say("one"), say("two")]).await;
    let client = client(&[first.port(), second.port()], &limits());
    for (answer, moves) in [("one", vec![(1, 2)]), ("two", vec![])] {
        let (told, _) = events(&client).await;
        assert_eq!((said(&told).as_str(), failovers(&told)), (answer, moves));
    }
    assert_eq!(first.requests().len(), 1);
}

#[tokio::test]
async fn a_silent_endpoint_is_left_within_its_clock() {
    let limits = ClientLimits {
        connect: Duration::from_millis(100),
        first_byte: Duration::ZERO,
        ..limits()
    };
    let first = Server::start([vec![Step::Hang]]).await;
    let second = Server::start([say("fine")]).await;
    let mut patient = route(second.port(), "k");
    patient.limits = limits.clone();
    let hasty = Route { limits, ..route(first.port(), "k") };
    let routes = vec![hasty, patient];
    let client = OptimizedLLMClient::with_routes(routes, Folders::default()).unwrap();
    let (told, _) = events(&client).await;
    assert_eq!(failovers(&told), [(1, 2)]);
}

#[tokio::test]
async fn an_answer_that_began_never_goes_on_elsewhere() {
    let first = Server::start([vec![stream_head(), words("half"), Step::Close]]).await;
    let second = Server::start([say("other")]).await;
    let client = client(&[first.port(), second.port()], &limits());
    let (told, error) = events(&client).await;
    assert!(matches!(error, Some(LlmError::Interrupted { .. } | LlmError::Stream(_))), "{error:?}");
    assert_eq!((said(&told).as_str(), failovers(&told)), ("half", vec![]));
    assert_eq!(second.connections(), 0);
}

#[tokio::test]
async fn one_request_finds_out_whether_the_first_answers_again() {
    let breaker = BreakerLimits { open: Duration::from_millis(50), ..limits().breaker };
    let limits = ClientLimits { breaker, ..limits() };
    let down = || status(404, "no such model");
    let first = Server::start([down(), down(), say("back"), say("still")]).await;
    let second = Server::start([say("one"), say("two")]).await;
    let client = client(&[first.port(), second.port()], &limits);
    let half_open = || async {
        let open_until = Instant::now() + GUARD;
        while !client.get_metrics().await.endpoints[0].admits && Instant::now() < open_until {
            tokio::task::yield_now().await;
        }
    };
    assert_eq!(ask(&client).await.unwrap().text(), "one");
    half_open().await;
    assert_eq!(ask(&client).await.unwrap().text(), "two", "it still fails");
    half_open().await;
    assert_eq!(client.route(), 0);
    assert_eq!(ask(&client).await.unwrap().text(), "back");
    assert_eq!(ask(&client).await.unwrap().text(), "still");
    assert_eq!((first.requests().len(), second.requests().len()), (4, 2));
    assert_eq!(client.get_metrics().await.failovers, 2);
}

#[tokio::test]
async fn when_all_fail_the_last_ones_error_is_told_and_each_was_asked() {
    let servers = [
        Server::start((0..2).map(|_| status(500, "a"))).await,
        Server::start((0..2).map(|_| status(500, "b"))).await,
        Server::start([status(500, "c")]).await,
    ];
    let ports: Vec<_> = servers.iter().map(Server::port).collect();
    let client = client(&ports, &limits());
    let (told, error) = events(&client).await;
    assert!(
        matches!(&error, Some(LlmError::Server { message, .. }) if message == "c"),
        "{error:?}"
    );
    assert_eq!(failovers(&told), [(1, 3), (2, 5)]);
    // The last one failed once, which is no reason to leave it alone.
    assert_eq!(client.route(), 2);
}

#[tokio::test]
async fn everybody_who_listens_goes_on_together() {
    let second = Server::start([say("shared")]).await;
    let client = client(&[nobody().await, second.port()], &limits());
    let (one, other) = tokio::join!(ask(&client), ask(&client));
    assert_eq!((one.unwrap().text(), other.unwrap().text()), ("shared".into(), "shared".into()));
    assert_eq!(second.requests().len(), 1);
    assert_eq!(client.get_metrics().await.failovers, 1);
}

#[tokio::test]
async fn time_and_attempts_are_those_of_one_request_wherever_it_goes() {
    let hang = || vec![Step::Hang];
    let (first, second) = (Server::start([status(404, "no")]).await, Server::start([hang()]).await);
    let limits = ClientLimits { total: Duration::from_millis(300), ..limits() };
    let client = client(&[first.port(), second.port()], &limits);
    let began = Instant::now();
    let (_, error) = events(&client).await;
    assert!(matches!(error, Some(LlmError::TimedOut { clock: Clock::Total, .. })), "{error:?}");
    assert!(began.elapsed() >= Duration::from_millis(300));
    assert_eq!((first.requests().len(), second.requests().len()), (1, 1));
}
