//! What is opened, what is used again, and whom it trusts.

use super::*;

/// A client that trusts the authority of these tests.
fn trusting(port: u16, limits: &ClientLimits) -> OptimizedLLMClient {
    let limits = ClientLimits { ca_file: Some(tls::authority()), ..limits.clone() };
    let base_url = format!("https://localhost:{port}/v1");
    OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, &base_url), limits).unwrap()
}

#[tokio::test]
async fn a_connection_that_was_made_ahead_is_the_first_requests() {
    let server = Server::start([say("a"), say("b")]).await;
    let client = server.client();
    client.warm_up();
    // Nobody has asked for anything yet.
    server.accepted(1).await;
    client.warm_up();
    assert_eq!(ask(&client).await.unwrap().text(), "a");
    assert_eq!(ask(&client).await.unwrap().text(), "b");
    assert_eq!((server.connections(), server.requests().len()), (1, 2));
    let metrics = client.get_metrics().await;
    assert_eq!((metrics.connections_opened, metrics.connections_opened_ahead), (1, 1));
    assert_eq!(metrics.connections_reused, 1);
}

#[tokio::test]
async fn the_handshake_of_a_connection_made_ahead_is_over_when_the_request_comes() {
    let server = Server::start_with(Some(tls::acceptor(&["http/1.1"])), [say("a")]).await;
    let client = trusting(server.port, &limits());
    client.warm_up();
    let mut handshakes = server.seen.handshakes.subscribe();
    let shaken = handshakes.wait_for(|count| *count == 1);
    tokio::time::timeout(GUARD, shaken).await.expect("without a request").unwrap();
    assert!(server.requests().is_empty());
    assert_eq!(ask(&client).await.unwrap().text(), "a");
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_made_ahead_that_fails_or_hangs_does_not_hold_up_the_request() {
    // Nobody listens: the request meets that itself.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    drop(listener);
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, &url), limits());
    let client = client.unwrap();
    client.warm_up();
    assert!(matches!(ask(&client).await, Err(LlmError::Unreachable { .. })));

    // The first handshake never ends; the second one does.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let client = trusting(port, &limits());
    client.warm_up();
    let (hangs, _) = listener.accept().await.unwrap();
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let socket = tls::acceptor(&["http/1.1"]).accept(socket).await.unwrap();
        let scripts = Arc::new(Mutex::new(VecDeque::from([say("a")])));
        serve(socket, scripts, Arc::default()).await
    });
    assert_eq!(ask(&client).await.unwrap().text(), "a");
    assert_eq!(client.get_metrics().await.connections_opened_ahead, 0);
    drop(hangs);
    server.abort();
}

#[tokio::test]
async fn nothing_is_made_ahead_where_connections_are_not_kept() {
    let server = Server::start([say("a")]).await;
    let limits = ClientLimits { idle_connections: 0, ..limits() };
    let client = server.client_with(Wire::OpenAiChat, limits);
    client.warm_up();
    ask(&client).await.unwrap();
    let metrics = client.get_metrics().await;
    assert_eq!((metrics.connections_opened, metrics.connections_opened_ahead), (1, 0));
}

#[tokio::test]
async fn a_server_is_trusted_by_the_authority_that_the_user_names_and_asked_once_otherwise() {
    let tls = tls::acceptor(&["http/1.1"]);
    let server = Server::start_with(Some(tls), [say("a")]).await;
    assert_eq!(ask(&trusting(server.port, &limits())).await.unwrap().text(), "a");

    let url = format!("https://localhost:{}/v1", server.port);
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, &url), limits());
    let (told, error) = events(&client.unwrap()).await;
    let error = error.unwrap();
    assert!(matches!(error, LlmError::Untrusted { .. }), "{error:?}");
    assert!(error.to_string().contains("client.ca_file"), "{error}");
    assert_eq!(retries(&told), 0);
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_told_and_not_asked_again() {
    let garbage = || vec![Step::Send(b"SSH-2.0-OpenSSH_9.7\r\n".to_vec()), Step::Close];
    let server = Server::start((0..5).map(|_| garbage())).await;
    let (told, error) = events(&server.client()).await;
    let error = error.unwrap();
    assert!(matches!(error, LlmError::NotAModel { .. }), "{error:?}");
    assert!(error.to_string().contains("no HTTP"), "{error}");
    assert_eq!((retries(&told), server.connections()), (0, 1));

    // The same without TLS where TLS is asked for.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = trusting(listener.local_addr().unwrap().port(), &limits());
    let server = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        socket.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        let _ = socket.read_to_end(&mut Vec::new()).await;
    });
    let (told, error) = events(&client).await;
    let error = error.unwrap();
    assert!(matches!(error, LlmError::NoTls { .. }), "{error:?}");
    assert!(error.to_string().contains("no TLS"), "{error}");
    assert_eq!(retries(&told), 0);
    server.abort();
}

/// What a server says to begin HTTP/2 and to end it: settings, and that it will not go on.
const HTTP2_REFUSED: [u8; 26] = [
    0, 0, 0, 4, 0, 0, 0, 0, 0, // SETTINGS
    0, 0, 8, 7, 0, 0, 0, 0, 0, // GOAWAY
    0, 0, 0, 0, 0, 0, 0, 0xd, // no stream was taken; HTTP_1_1_REQUIRED
];

#[tokio::test]
async fn a_server_that_breaks_http2_is_asked_in_the_older_way_with_one_warning() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = trusting(listener.local_addr().unwrap().port(), &limits());
    let server = tokio::spawn(async move {
        let acceptor = tls::acceptor(&["h2", "http/1.1"]);
        let scripts = Arc::new(Mutex::new(VecDeque::from([say("a"), say("b")])));
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = acceptor.accept(socket).await.unwrap();
            if socket.get_ref().1.alpn_protocol() == Some(b"h2") {
                socket.write_all(&HTTP2_REFUSED).await.unwrap();
                let _ = socket.read_to_end(&mut Vec::new()).await;
            } else {
                serve(socket, Arc::clone(&scripts), Arc::default()).await;
            }
        }
    });
    for (expected, warnings) in [("a", 1), ("b", 0)] {
        let (told, error) = events(&client).await;
        assert!(error.is_none(), "{error:?}");
        assert!(told.contains(&StreamEvent::Delta(Delta::Text(expected.into()))), "{told:?}");
        let degraded = |event: &&StreamEvent| matches!(event, StreamEvent::Degraded { .. });
        assert_eq!(told.iter().filter(degraded).count(), warnings, "{told:?}");
    }
    server.abort();
}

#[tokio::test]
async fn a_stream_that_fell_silent_is_not_followed_by_another_on_its_connection() {
    // HTTP/2 would keep the connection, as only the stream on it was given up.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let short = Duration::from_millis(300);
    let limits = ClientLimits { connect: short, first_byte: short, attempts: 2, ..limits() };
    let client = trusting(listener.local_addr().unwrap().port(), &limits);
    let server = tokio::spawn(async move {
        let acceptor = tls::acceptor(&["h2"]);
        let mut open = Vec::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let mut socket = acceptor.accept(socket).await.unwrap();
            // It says that it is there, and nothing more.
            socket.write_all(&HTTP2_REFUSED[..9]).await.unwrap();
            open.push(socket);
        }
    });
    let (told, error) = events(&client).await;
    assert!(matches!(error, Some(LlmError::TimedOut { .. })), "{error:?}");
    assert_eq!(retries(&told), 1);
    assert_eq!(client.get_metrics().await.connections_opened, 2);
    server.abort();
}

#[tokio::test]
async fn an_http2_connection_that_answers_no_ping_is_left_before_its_clock() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (ping, pong) = (Duration::from_millis(50), Duration::from_millis(50));
    // Without pings the clock of the first byte would end it, with another error.
    let limits = ClientLimits { ping, pong, attempts: 1, ..limits() };
    let client = trusting(listener.local_addr().unwrap().port(), &limits);
    let server = tokio::spawn(async move {
        let (socket, _) = listener.accept().await.unwrap();
        let mut socket = tls::acceptor(&["h2"]).accept(socket).await.unwrap();
        // It says that it is there; whatever it is sent after that is read, and not answered.
        socket.write_all(&HTTP2_REFUSED[..9]).await.unwrap();
        let mut sent = Vec::new();
        let _ = socket.read_to_end(&mut sent).await;
        sent
    });
    let (_, error) = events(&client).await;
    let error = error.expect("nothing answers");
    assert!(!matches!(error, LlmError::TimedOut { .. }), "{error:?}");
    drop(client);
    // A frame of 8 bytes, of the kind PING, that answers none.
    let sent = server.await.unwrap();
    assert!(sent.windows(5).any(|head| head == [0, 0, 8, 6, 0]), "{sent:?}");
}

/// Asks so often, one after the other, and returns what was opened.
async fn opened_for(client: &OptimizedLLMClient, requests: usize) -> u64 {
    for n in 0..requests {
        let answer = client.chat_optimized(LLMRequest::from_prompt(format!("question {n}")));
        tokio::time::timeout(GUARD, answer).await.expect("it answers").unwrap();
    }
    client.get_metrics().await.connections_opened
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_one_after_the_other_use_one_connection_and_one_handshake() {
    const REQUESTS: usize = 1000;
    let server = Server::start((0..REQUESTS).map(|_| say("a"))).await;
    let client = server.client();
    client.warm_up();
    assert_eq!(opened_for(&client, REQUESTS).await, 1);
    assert_eq!(server.connections(), 1);

    let tls = tls::acceptor(&["http/1.1"]);
    let server = Server::start_with(Some(tls), (0..100).map(|_| say("a"))).await;
    assert_eq!(opened_for(&trusting(server.port, &limits()), 100).await, 1);
    assert_eq!((server.connections(), *server.seen.handshakes.borrow()), (1, 1));
}

/// A server over HTTP/2 that gives every request the same answer, and counts handshakes.
async fn http2_server(handshakes: watch::Sender<usize>) -> (u16, JoinHandle<()>) {
    const ANSWER: &[u8] =
        b"data: {\"choices\":[{\"delta\":{\"content\":\"a\"},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let task = tokio::spawn(async move {
        let mut connections = tokio::task::JoinSet::new();
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            socket.set_nodelay(true).unwrap();
            let handshakes = handshakes.clone();
            connections.spawn(async move {
                let socket = tls::acceptor(&["h2"]).accept(socket).await.unwrap();
                handshakes.send_modify(|count| *count += 1);
                let mut connection = h2::server::handshake(socket).await.unwrap();
                while let Some(Ok((request, mut respond))) = connection.accept().await {
                    // What the client sends takes no more than its first window.
                    drop(request);
                    let head =
                        ::http::Response::builder().header("content-type", "text/event-stream");
                    let mut stream = respond.send_response(head.body(()).unwrap(), false).unwrap();
                    stream.send_data(Bytes::from_static(ANSWER), true).unwrap();
                }
            });
        }
    });
    (port, task)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_over_http2_use_one_connection_also_when_they_come_together() {
    let (handshakes, seen) = watch::channel(0);
    let (port, server) = http2_server(handshakes).await;
    let client = trusting(port, &limits());
    assert_eq!(opened_for(&client, 300).await, 1);
    let together = (0..20).map(|n| {
        let client = client.clone();
        async move { client.chat_optimized(LLMRequest::from_prompt(format!("at once {n}"))).await }
    });
    let answers = tokio::time::timeout(GUARD, futures_util::future::join_all(together)).await;
    assert!(answers.expect("they answer").iter().all(Result::is_ok));
    assert_eq!((client.get_metrics().await.connections_opened, *seen.borrow()), (1, 1));
    server.abort();
}
