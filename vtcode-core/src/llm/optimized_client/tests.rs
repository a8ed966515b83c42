//! The client against real sockets: a listener that plays canned bytes, request by request.

mod connections;
mod fallback;
mod hedge;
mod kept;
mod shared;
mod silence;
mod tls;

use std::collections::VecDeque;
use std::sync::Mutex;

use bytes::Bytes;
use secrecy::SecretString;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;

use super::*;
use crate::config::endpoint::Wire;
use crate::config::env::Env;
use crate::config::limits::{CacheLimits, Limits};
use crate::llm::message::{Message, Outcome, Part};

/// A guard against tests that hang; nothing waits for it.
const GUARD: Duration = Duration::from_secs(20);

/// What the server does about a request.
pub(in crate::llm) enum Step {
    Send(Vec<u8>),
    /// Says nothing more until the client closes.
    Hang,
    /// Says nothing more until it is told to, or the client closes.
    Await(Arc<Notify>),
    Close,
}

/// Plays one script for each request, in the order in which requests come.
pub(in crate::llm) struct Server {
    port: u16,
    seen: Arc<Seen>,
    task: JoinHandle<()>,
}

#[derive(Default)]
struct Seen {
    connections: watch::Sender<usize>,
    handshakes: watch::Sender<usize>,
    requests: Mutex<Vec<String>>,
    client_closed: Notify,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    pub(in crate::llm) async fn start(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        Self::start_with(None, scripts).await
    }

    /// Starts one that speaks TLS, if an acceptor is given.
    async fn start_with(
        tls: Option<tokio_rustls::TlsAcceptor>,
        scripts: impl IntoIterator<Item = Vec<Step>>,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let scripts: Arc<Mutex<VecDeque<_>>> = Arc::new(Mutex::new(scripts.into_iter().collect()));
        let seen = Arc::new(Seen::default());
        let accepted = Arc::clone(&seen);
        let task = tokio::spawn(async move {
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                accepted.connections.send_modify(|count| *count += 1);
                // A piece must not wait for the client's word that the one before came.
                socket.set_nodelay(true).unwrap();
                let (scripts, seen) = (Arc::clone(&scripts), Arc::clone(&accepted));
                match tls.clone() {
                    Some(tls) => connections.spawn(async move {
                        let socket = tls.accept(socket).await.ok()?;
                        seen.handshakes.send_modify(|count| *count += 1);
                        serve(socket, scripts, seen).await
                    }),
                    None => connections.spawn(serve(socket, scripts, seen)),
                };
            }
        });
        Self { port, seen, task }
    }

    pub(in crate::llm) fn port(&self) -> u16 {
        self.port
    }

    fn connections(&self) -> usize {
        *self.seen.connections.borrow()
    }

    /// Waits until so many were accepted.
    async fn accepted(&self, count: usize) {
        let mut seen = self.seen.connections.subscribe();
        let wait = seen.wait_for(|seen| *seen >= count);
        tokio::time::timeout(GUARD, wait).await.expect("they come").unwrap();
    }

    fn requests(&self) -> Vec<String> {
        self.seen.requests.lock().unwrap().clone()
    }

    fn client(&self) -> OptimizedLLMClient {
        self.client_with(Wire::OpenAiChat, limits())
    }

    fn client_with(&self, wire: Wire, limits: ClientLimits) -> OptimizedLLMClient {
        let base_url = format!("http://127.0.0.1:{}/v1/", self.port);
        OptimizedLLMClient::with_endpoint(endpoint(wire, &base_url), limits).unwrap()
    }
}

async fn serve(
    mut socket: impl AsyncRead + AsyncWrite + Unpin,
    scripts: Arc<Mutex<VecDeque<Vec<Step>>>>,
    seen: Arc<Seen>,
) -> Option<()> {
    let mut bytes = Vec::new();
    loop {
        let request = read_request(&mut socket, &mut bytes).await?;
        seen.requests.lock().unwrap().push(request);
        let script = scripts.lock().unwrap().pop_front().expect("a script for each request");
        for step in script {
            match step {
                Step::Send(bytes) => socket.write_all(&bytes).await.ok()?,
                Step::Close => return None,
                Step::Await(go_on) => {
                    let mut byte = [0];
                    tokio::select! {
                        () = go_on.notified() => {}
                        _ = socket.read(&mut byte) => {
                            seen.client_closed.notify_one();
                            return None;
                        }
                    }
                }
                Step::Hang => {
                    while socket.read(&mut [0; 100]).await.is_ok_and(|read| read > 0) {}
                    seen.client_closed.notify_one();
                    return None;
                }
            }
        }
    }
}

async fn read_request(
    socket: &mut (impl AsyncRead + Unpin),
    bytes: &mut Vec<u8>,
) -> Option<String> {
    loop {
        let text = String::from_utf8_lossy(bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length = head
                .lines()
                .find_map(|line| {
                    line.to_ascii_lowercase().strip_prefix("content-length:")?.trim().parse().ok()
                })
                .unwrap_or(0);
            if body.len() >= length {
                let request = text.into_owned();
                bytes.clear();
                return Some(request);
            }
        }
        if socket.read_buf(bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// A whole HTTP response.
pub(in crate::llm) fn http(status: u16, content_type: &str, body: &str) -> Vec<u8> {
    with_header(status, &format!("content-type: {content_type}"), body)
}

fn with_header(status: u16, header: &str, body: &str) -> Vec<u8> {
    let length = body.len();
    format!("HTTP/1.1 {status} Status\r\n{header}\r\ncontent-length: {length}\r\n\r\n{body}")
        .into_bytes()
}

/// The start of a streamed response.
fn stream_head() -> Step {
    Step::Send(
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
            .to_vec(),
    )
}

fn chunk(body: &str) -> Step {
    Step::Send(format!("{:x}\r\n{body}\r\n", body.len()).into_bytes())
}

/// The end of a streamed response.
fn stream_end() -> Step {
    Step::Send(b"0\r\n\r\n".to_vec())
}

fn words(text: &str) -> Step {
    chunk(&format!("data: {{\"choices\":[{{\"delta\":{{\"content\":\"{text}\"}}}}]}}\n\n"))
}

fn finish() -> Step {
    chunk("data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n")
}

/// A streamed response that says something.
fn say(text: &str) -> Vec<Step> {
    vec![stream_head(), words(text), finish(), stream_end()]
}

fn status(status: u16, message: &str) -> Vec<Step> {
    let body = serde_json::json!({"error": {"message": message}}).to_string();
    vec![Step::Send(http(status, "application/json", &body))]
}

fn limits() -> ClientLimits {
    ClientLimits { backoff: Duration::from_millis(1), ..Limits::full().client }
}

const KEY: &str = "sk-very-secret";

fn endpoint(wire: Wire, base_url: &str) -> Endpoint {
    Endpoint::new(wire, base_url, "m").with_key(SecretString::from(KEY))
}

async fn ask(client: &OptimizedLLMClient) -> Result<LLMResponse, LlmError> {
    let answer = client.chat_optimized(LLMRequest::from_prompt("hi"));
    tokio::time::timeout(GUARD, answer).await.expect("an answer or an error comes")
}

/// Asks, and returns all events and the error.
async fn events(client: &OptimizedLLMClient) -> (Vec<StreamEvent>, Option<LlmError>) {
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    let mut events = Vec::new();
    loop {
        match tokio::time::timeout(GUARD, stream.next()).await.expect("an event or the end comes") {
            // The ledger has tests of its own.
            Some(Ok(StreamEvent::AttemptEnded(_))) => {}
            Some(Ok(event)) => events.push(event),
            Some(Err(error)) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (events, Some(error));
            }
            None => return (events, None),
        }
    }
}

fn retries(events: &[StreamEvent]) -> usize {
    events.iter().filter(|event| matches!(event, StreamEvent::Retry { .. })).count()
}

#[tokio::test]
async fn an_answer_is_collected_and_its_request_is_what_the_wire_wants() {
    let server = Server::start([say("Hello")]).await;
    let answer = ask(&server.client()).await.unwrap();
    assert_eq!(answer.parts, [Part::Text { text: "Hello".to_owned() }]);
    assert_eq!(answer.finish, FinishReason::Stop);

    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v1/chat/completions HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("authorization: Bearer {KEY}\r\n")), "{request}");
    assert!(request.contains("content-type: application/json\r\n"), "{request}");
    assert!(request.ends_with(r#""messages":[{"role":"user","content":"hi"}]}"#), "{request}");
}

#[tokio::test]
async fn the_other_wire_goes_the_same_way() {
    let stream = concat!(
        "event: content_block_start\n",
        r#"data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"Hi"}}"#,
        "\n\nevent: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":0}\n\n",
        "event: message_delta\n",
        r#"data: {"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":2,"output_tokens":1}}"#,
        "\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    );
    let server = Server::start([vec![stream_head(), chunk(stream), stream_end()]]).await;
    let answer = ask(&server.client_with(Wire::Anthropic, limits())).await.unwrap();
    assert_eq!(answer.text(), "Hi");
    assert_eq!(answer.usage, Usage { input_tokens: 2, cached_input_tokens: 0, output_tokens: 1 });
    let request = &server.requests()[0];
    assert!(request.starts_with("POST /v1/v1/messages HTTP/1.1\r\n"), "{request}");
    assert!(request.contains(&format!("x-api-key: {KEY}\r\n")), "{request}");
}

#[tokio::test]
async fn many_requests_use_one_connection() {
    let server =
        Server::start([say("one"), say("two"), status(400, "no"), say("three"), say("four")]).await;
    let client = server.client();
    for expected in [Some("one"), Some("two"), None, Some("three"), Some("four")] {
        let answer = ask(&client).await.ok().map(|answer| answer.text());
        assert_eq!(answer.as_deref(), expected);
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn connections_that_may_not_be_kept_are_made_anew() {
    let server = Server::start([say("one"), say("two")]).await;
    let limits = ClientLimits { idle_connections: 0, ..limits() };
    let client = server.client_with(Wire::OpenAiChat, limits);
    for expected in ["one", "two"] {
        assert_eq!(ask(&client).await.unwrap().text(), expected);
    }
    assert_eq!(server.connections(), 2);
}

#[tokio::test]
async fn a_client_that_was_not_started_says_so_and_started_asks_where_the_settings_say() {
    let client = OptimizedLLMClient::new(1, 16, 100.0, 10);
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(error, LlmError::NotStarted), "{error:?}");
    assert!(error.to_string().contains("call `start`"), "{error}");
    assert!(client.endpoint().is_err());

    let folder = tempfile::tempdir().unwrap();
    let env = |base_url: &str| -> Env {
        let home = folder.path().to_str().unwrap();
        [("HOME", home), ("OPENAI_BASE_URL", base_url)].into_iter().collect()
    };
    let wrong = client.start_in(folder.path(), &env("no url")).await.unwrap_err();
    assert!(matches!(wrong, StartError::NoProvider(_)), "{wrong:?}");

    let server = Server::start([say("Hello"), say("again")]).await;
    let base_url = format!("http://127.0.0.1:{}/v1", server.port);
    std::fs::write(
        folder.path().join("vtcode.toml"),
        "model = \"of the folder\"\nclient.temperature = 0.5\nclient.requests_per_minute = 60",
    )
    .unwrap();
    client.start_in(folder.path(), &env(&base_url)).await.unwrap();
    assert_eq!(ask(&client).await.unwrap().text(), "Hello");
    let request = &server.requests()[0];
    assert!(request.contains(r#""model":"of the folder""#), "{request}");
    assert!(request.contains(r#""temperature":0.5"#), "{request}");

    // A second start changes nothing; the lower of two limits holds.
    client.clone().start_in(folder.path(), &env("no url")).await.unwrap();
    assert_eq!(ask(&client).await.unwrap().text(), "again");
    let limits = client.limits().unwrap();
    assert_eq!((limits.idle_connections, limits.answers.entries), (1, 16));
    assert_eq!((limits.rate.requests_per_minute, limits.rate.burst), (Some(60), Some(10)));
}

/// A request whose answer is always the same.
fn cold(text: &str) -> LLMRequest {
    LLMRequest { temperature: Some(0.0), ..LLMRequest::from_prompt(text) }
}

#[tokio::test]
async fn the_same_request_at_temperature_0_is_asked_once_and_used_nothing_the_second_time() {
    let server = Server::start([status(400, "no"), say("one"), say("other")]).await;
    let client = server.client();
    client.chat_optimized(cold("a")).await.unwrap_err();
    // Both at once: one is sent, and what failed before was not kept.
    let (one, two) =
        tokio::join!(client.chat_optimized(cold("a")), client.chat_optimized(cold("a")));
    assert_eq!((one.unwrap().text(), two.unwrap().text()), ("one".to_owned(), "one".to_owned()));
    let again = client.chat_optimized(cold("a")).await.unwrap();
    assert_eq!((again.text().as_str(), again.usage), ("one", Usage::default()));
    assert_eq!(client.chat_optimized(cold("b")).await.unwrap().text(), "other");
    assert_eq!(server.requests().len(), 3);
    let metrics = client.get_metrics().await;
    assert_eq!((metrics.requests, metrics.answers_shared, metrics.answers_kept), (3, 1, 1));
}

#[tokio::test]
async fn answers_at_another_temperature_or_with_no_room_are_asked_for_each_time() {
    let server = Server::start((0..4).map(|_| say("x"))).await;
    let client = server.client();
    let warm = LLMRequest { temperature: Some(0.5), ..cold("a") };
    client.chat_optimized(warm.clone()).await.unwrap();
    client.chat_optimized(warm).await.unwrap();
    let none = CacheLimits { entries: 0, ..limits().answers };
    let client = server.client_with(Wire::OpenAiChat, ClientLimits { answers: none, ..limits() });
    client.chat_optimized(cold("a")).await.unwrap();
    client.chat_optimized(cold("a")).await.unwrap();
    assert_eq!(server.requests().len(), 4);
}

#[tokio::test]
async fn the_end_is_told_before_the_connection_is_read_to_its_end() {
    // The server never ends its response: Finish comes all the same, and then nothing.
    let server = Server::start([vec![stream_head(), words("a"), finish(), Step::Hang]]).await;
    let (events, error) = events(&server.client()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(events.first(), Some(&StreamEvent::FirstByte));
    assert_eq!(events.last(), Some(&StreamEvent::Delta(Delta::Finish(FinishReason::Stop))));
    server.seen.client_closed.notified().await;
}

#[tokio::test]
async fn what_passes_is_tried_again_and_each_retry_is_told() {
    let server = Server::start([
        vec![Step::Send(with_header(429, "retry-after: 0", "slow down"))],
        status(500, "oops"),
        status(529, "overloaded"),
        say("at last"),
    ])
    .await;
    let (events, error) = events(&server.client()).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(retries(&events), 3);
    assert!(
        matches!(&events[0], StreamEvent::Retry { attempt: 2, wait, cause }
            if wait.is_zero() && cause.contains("slow down")),
        "{:?}",
        events[0]
    );
    assert!(matches!(&events[2], StreamEvent::Retry { attempt: 4, .. }), "{:?}", events[2]);
    assert_eq!(server.requests().len(), 4);
    let requests = server.requests();
    assert!(requests.iter().all(|request| *request == requests[0]), "the same bytes each time");
}

#[tokio::test]
async fn attempts_end() {
    let server = Server::start((0..3).map(|_| status(503, "down"))).await;
    let client = server.client_with(Wire::OpenAiChat, ClientLimits { attempts: 3, ..limits() });
    let error = ask(&client).await.unwrap_err();
    assert!(matches!(&error, LlmError::Server { status: 503, .. }), "{error:?}");
    assert!(!error.is_refusal());
    assert_eq!(server.requests().len(), 3);
}

#[tokio::test]
async fn a_refusal_is_told_at_once() {
    for (code, word) in [(400, "take"), (401, "key"), (403, "key"), (404, "model"), (422, "take")] {
        let server = Server::start([status(code, "because of me")]).await;
        let error = ask(&server.client()).await.unwrap_err();
        assert!(error.is_refusal(), "{error:?}");
        let shown = error.to_string();
        assert!(shown.contains(word) && shown.contains("because of me"), "{shown}");
        assert_eq!(server.requests().len(), 1, "{code}");
    }
}

#[tokio::test]
async fn an_empty_account_is_not_a_crowd() {
    let body = r#"{"error":{"message":"You exceeded your quota","code":"insufficient_quota"}}"#;
    let server = Server::start([vec![Step::Send(http(429, "application/json", body))]]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(matches!(error, LlmError::BadRequest { status: 429, .. }), "{error:?}");
}

#[tokio::test]
async fn a_server_that_knows_no_such_request_is_not_asked_again() {
    let server = Server::start([status(501, "Unsupported method")]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("Unsupported method"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn a_wait_longer_than_the_request_is_told_and_not_waited() {
    let late = vec![Step::Send(with_header(429, "retry-after: 9000", "{}"))];
    let server = Server::start([late]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("come back in 9000 s"), "{error}");
    assert!(error.is_refusal());
}

#[tokio::test]
async fn an_answer_cut_before_its_first_word_is_asked_for_again() {
    let server = Server::start([
        vec![Step::Close],
        vec![stream_head(), chunk(": hello\n\n"), Step::Close],
        vec![stream_head(), stream_end()],
        vec![
            stream_head(),
            chunk("data: {\"error\":{\"message\":\"x\",\"code\":503}}\n\n"),
            Step::Close,
        ],
        say("whole"),
    ])
    .await;
    let answer = ask(&server.client()).await.unwrap();
    assert_eq!(answer.text(), "whole");
    assert_eq!(server.requests().len(), 5);
}

#[tokio::test]
async fn an_answer_cut_after_its_first_word_is_not_said_twice() {
    let server = Server::start([vec![stream_head(), words("half"), Step::Close]]).await;
    let (events, error) = events(&server.client()).await;
    assert!(events.contains(&StreamEvent::Delta(Delta::Text("half".into()))), "{events:?}");
    assert_eq!(retries(&events), 0);
    let error = error.unwrap();
    assert!(matches!(error, LlmError::Interrupted { .. }), "{error:?}");
    assert!(error.is_temporary() && !error.is_refusal());
}

#[tokio::test]
async fn an_answer_that_said_it_was_finished_is_whole_however_its_connection_ends() {
    let stop = "data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let server = Server::start([vec![stream_head(), words("all"), chunk(stop), Step::Close]]).await;
    assert_eq!(ask(&server.client()).await.unwrap().text(), "all");
}

#[tokio::test]
async fn silence_before_the_first_byte_and_in_the_middle_runs_out() {
    let short = Duration::from_millis(50);
    let limits = ClientLimits { connect: short, first_byte: short, gap: short, ..limits() };

    let server = Server::start([vec![Step::Hang], vec![stream_head(), Step::Hang], say("a")]).await;
    let client = server.client_with(Wire::OpenAiChat, limits.clone());
    let (told, error) = events(&client).await;
    assert!(error.is_none(), "{error:?}");
    assert_eq!(retries(&told), 2, "{told:?}");
    assert_eq!(server.connections(), 3, "a silent connection is not used again");

    let server = Server::start([vec![stream_head(), words("a"), Step::Hang]]).await;
    let client = server.client_with(Wire::OpenAiChat, limits.clone());
    let (_, error) = events(&client).await;
    let error = error.unwrap();
    assert!(matches!(error, LlmError::TimedOut { clock: Clock::Gap, .. }), "{error:?}");

    let total = ClientLimits { total: short, gap: GUARD, ..limits };
    let server = Server::start([vec![stream_head(), words("a"), Step::Hang]]).await;
    let (_, error) = events(&server.client_with(Wire::OpenAiChat, total)).await;
    let error = error.unwrap();
    assert!(matches!(error, LlmError::TimedOut { clock: Clock::Total, .. }), "{error:?}");
    assert!(!error.is_temporary());
}

#[tokio::test]
async fn a_handshake_that_never_ends_runs_out() {
    let server = Server::start([]).await;
    let limits = ClientLimits { connect: Duration::from_millis(50), attempts: 1, ..limits() };
    let url = format!("https://127.0.0.1:{}/v1", server.port);
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, &url), limits);
    let error = ask(&client.unwrap()).await.unwrap_err();
    assert!(matches!(error, LlmError::TimedOut { clock: Clock::Connect, .. }), "{error:?}");
    assert!(error.is_refusal());
}

#[tokio::test]
async fn nobody_there_is_told_quickly_and_says_where() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    drop(listener);
    let url = format!("http://127.0.0.1:{port}/v1");
    // A backoff that the guard would not survive: it is not used for a server that is not there.
    let limits = ClientLimits { backoff: GUARD * 2, ..limits() };
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, &url), limits);
    let (told, error) = events(&client.unwrap()).await;
    let error = error.unwrap();
    assert_eq!(retries(&told), 1);
    assert!(matches!(error, LlmError::Unreachable { refused_locally: true, .. }), "{error:?}");
    assert!(error.is_refusal());
    let shown = error.to_string();
    assert!(shown.contains(&url) && shown.contains("refused"), "{shown}");
}

#[tokio::test]
async fn what_answers_but_is_no_model_is_told() {
    let html = vec![Step::Send(http(200, "text/html; charset=utf-8", "<html>Hi</html>"))];
    let server = Server::start([html]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("base URL"), "{error}");

    let json = vec![Step::Send(http(200, "application/json", r#"{"status":"ok"}"#))];
    let server = Server::start([json]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(matches!(error, LlmError::NotAModel { .. }), "{error:?}");

    let json = vec![Step::Send(http(200, "application/json", r#"{"error":"no such model"}"#))];
    let server = Server::start([json]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("no such model"), "{error}");

    let packed = "content-type: text/event-stream\r\ncontent-encoding: gzip";
    let packed = vec![Step::Send(with_header(200, packed, "\u{1f}\u{8b}"))];
    let server = Server::start([packed]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("compressed with gzip"), "{error}");

    let page = vec![Step::Send(http(502, "text/html", "<html>Bad gateway</html>"))];
    let server = Server::start([page]).await;
    let limits = ClientLimits { attempts: 1, ..limits() };
    let error = ask(&server.client_with(Wire::OpenAiChat, limits)).await.unwrap_err();
    assert!(!error.to_string().contains('<'), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_understood() {
    let body =
        r#"{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}]}"#;
    let server = Server::start([vec![Step::Send(http(200, "application/json", body))]]).await;
    assert_eq!(ask(&server.client()).await.unwrap().text(), "Hi");
}

#[tokio::test]
async fn what_comes_counts_and_not_what_it_was_announced_as() {
    let events = "\r\ndata: {\"choices\":[{\"delta\":{\"content\":\"Hi\"}}]}\n\n\
                  data: {\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    let whole = r#" {"choices":[{"message":{"content":"Hi"},"finish_reason":"stop"}]}"#;
    for body in [events, whole] {
        for kind in ["text/event-stream", "application/json", "text/plain", "image/png"] {
            let server = Server::start([vec![Step::Send(http(200, kind, body))]]).await;
            assert_eq!(ask(&server.client()).await.unwrap().text(), "Hi", "{kind}: {body}");
        }
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_with_the_key() {
    let moved = Step::Send(with_header(307, "location: http://127.0.0.1:1/v1", ""));
    let server = Server::start([vec![moved]]).await;
    let error = ask(&server.client()).await.unwrap_err();
    assert!(error.to_string().contains("http://127.0.0.1:1/v1"), "{error}");
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_key_is_never_shown() {
    let echo = format!("your key {KEY} is wrong");
    let in_stream = format!("data: {{\"error\":{{\"message\":\"{echo}\"}}}}\n\n");
    let malformed = format!("data: {KEY}\n\n");
    let server = Server::start([
        status(401, &echo),
        vec![Step::Send(http(400, "text/plain", &echo))],
        vec![Step::Send(with_header(307, &format!("location: http://h/{KEY}"), ""))],
        vec![stream_head(), chunk(&in_stream), stream_end()],
        vec![stream_head(), chunk(&malformed), stream_end()],
    ])
    .await;
    let client = server.client();
    for _ in 0..5 {
        let error = ask(&client).await.unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(shown.contains("[key]"), "{shown}");
        assert!(!shown.contains(KEY), "{shown}");
    }
    let stream = client.stream(&LLMRequest::from_prompt("hi"));
    let shown = format!("{client:?} {stream:?} {:?}", client.endpoint().unwrap());
    assert!(!shown.contains(KEY), "{shown}");
    assert!(client.inner().unwrap().headers.values().any(HeaderValue::is_sensitive));

    let secret = "http://user:hush@127.0.0.1:1/v1?token=hush";
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, secret), limits());
    let error = ask(&client.unwrap()).await.unwrap_err();
    assert!(!format!("{error} {error:?}").contains("hush"), "{error:?}");
}

#[tokio::test]
async fn a_stand_in_for_a_key_does_not_riddle_the_servers_words() {
    let server = Server::start([status(400, "no fixture: unexpected text")]).await;
    let mut endpoint = endpoint(Wire::OpenAiChat, &format!("http://127.0.0.1:{}/v1", server.port));
    endpoint.key = Some(SecretString::from("x"));
    let client = OptimizedLLMClient::with_endpoint(endpoint, limits()).unwrap();
    let error = ask(&client).await.unwrap_err();
    assert!(error.to_string().contains("no fixture: unexpected text"), "{error}");
}

#[tokio::test]
async fn a_server_that_does_not_stream_is_heard_on_every_wire() {
    for (wire, body) in [
        (
            Wire::OpenAiChat,
            json!({"choices": [{"message": {"content": "Hi"}, "finish_reason": "stop"}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 1}}),
        ),
        (
            Wire::OpenAiResponses,
            json!({"object": "response", "status": "completed", "error": null,
            "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
            "usage": {"input_tokens": 3, "output_tokens": 1}}),
        ),
        (
            Wire::Anthropic,
            json!({"type": "message", "content": [{"type": "text", "text": "Hi"}],
            "stop_reason": "end_turn", "usage": {"input_tokens": 3, "output_tokens": 1}}),
        ),
        (
            Wire::Gemini,
            json!({"candidates": [{"content": {"parts": [{"text": "Hi"}]},
            "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1}}),
        ),
    ] {
        let whole = Step::Send(http(200, "application/json", &body.to_string()));
        let server = Server::start([vec![whole]]).await;
        let answer = ask(&server.client_with(wire, limits())).await.unwrap();
        assert_eq!((answer.text().as_str(), answer.finish), ("Hi", FinishReason::Stop), "{wire}");
        assert_eq!((answer.usage.input_tokens, answer.usage.output_tokens), (3, 1), "{wire}");
    }
}

#[tokio::test]
async fn a_wait_that_stands_in_the_error_is_kept() {
    let body = r#"{"error":{"message":"busy","details":[{"retryDelay":"0s"}]}}"#;
    let server = Server::start([
        vec![Step::Send(http(429, "application/json", body))],
        vec![Step::Send(http(400, "application/json", "{}"))],
    ])
    .await;
    let long = ClientLimits { backoff: GUARD, ..limits() };
    let (events, error) = events(&server.client_with(Wire::Gemini, long)).await;
    let waits: Vec<_> = events
        .iter()
        .filter_map(|event| match event {
            StreamEvent::Retry { wait, .. } => Some(*wait),
            _ => None,
        })
        .collect();
    assert_eq!(waits, [Duration::ZERO]);
    assert!(matches!(error, Some(LlmError::BadRequest { .. })), "{error:?}");
}

#[tokio::test]
async fn a_query_of_the_base_url_stands_beside_the_wires_own() {
    let whole = Step::Send(http(400, "application/json", r#"{"error":{"message":"no"}}"#));
    let server = Server::start([vec![whole]]).await;
    let url = format!("http://127.0.0.1:{}/?version=2", server.port);
    let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::Gemini, &url), limits()).unwrap();
    ask(&client).await.unwrap_err();
    let request = &server.requests()[0];
    let line = "POST /v1beta/models/m:streamGenerateContent?alt=sse&version=2 HTTP/1.1\r\n";
    assert!(request.starts_with(line), "{request}");
    assert!(request.contains(&format!("x-goog-api-key: {KEY}\r\n")), "{request}");
}

#[test]
fn endpoints_that_cannot_work_are_told_before_anything_is_sent() {
    for url in ["", "localhost:11434/v1", "/v1", "ftp://h/v1", "http://", "file:///v1"] {
        let client = OptimizedLLMClient::with_endpoint(endpoint(Wire::OpenAiChat, url), limits());
        let error = client.unwrap_err();
        assert!(error.to_string().contains("base URL"), "{url}: {error}");
        assert!(error.is_refusal());
    }
    let mut broken = endpoint(Wire::Anthropic, "http://h");
    broken.key = Some(SecretString::from("two\nlines"));
    let error = OptimizedLLMClient::with_endpoint(broken, limits()).unwrap_err();
    assert!(error.to_string().contains("key"), "{error}");
    assert!(!format!("{error:?}").contains("two"), "{error:?}");
}

#[tokio::test]
async fn a_key_of_white_space_is_no_key_and_a_query_stays_a_query() {
    let server = Server::start([say("a")]).await;
    let url = format!("http://127.0.0.1:{}/v1/?version=2", server.port);
    let mut keyless = endpoint(Wire::OpenAiChat, &url);
    keyless.key = Some(SecretString::from(" \n"));
    ask(&OptimizedLLMClient::with_endpoint(keyless, limits()).unwrap()).await.unwrap();
    let request = &server.requests()[0];
    assert!(!request.contains("authorization"), "{request}");
    assert!(request.starts_with("POST /v1/chat/completions?version=2 HTTP/1.1"), "{request}");
}

#[tokio::test]
async fn dropping_the_stream_closes_its_connection() {
    let server = Server::start([vec![stream_head(), words("a"), Step::Hang], say("b")]).await;
    let client = server.client();
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    while stream.next().await.unwrap().unwrap() != StreamEvent::Delta(Delta::Text("a".into())) {}
    drop(stream);
    tokio::time::timeout(GUARD, server.seen.client_closed.notified()).await.unwrap();
    assert_eq!(ask(&client).await.unwrap().text(), "b");
}

#[tokio::test]
async fn asking_for_an_event_can_be_given_up_and_taken_up_again() {
    let server = Server::start([status(500, "once"), say("whole")]).await;
    let client = server.client();
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    let mut told = Vec::new();
    let all = async {
        loop {
            // Polled once and dropped if nothing is ready, as a `select!` in a loop does it.
            tokio::select! {
                biased;
                event = stream.next() => match event {
                    Some(event) => told.push(event.unwrap()),
                    None => break,
                },
                () = tokio::task::yield_now() => {}
            }
        }
    };
    tokio::time::timeout(GUARD, all).await.unwrap();
    assert_eq!(retries(&told), 1);
    assert!(told.contains(&StreamEvent::Delta(Delta::Text("whole".into()))), "{told:?}");
    let finished = StreamEvent::Delta(Delta::Finish(FinishReason::Stop));
    assert!(
        matches!(&told[told.len() - 2..], [last, StreamEvent::AttemptEnded(_)] if *last == finished)
    );
    assert_eq!(server.requests().len(), 2);
}

#[tokio::test]
async fn the_engines_way_sends_its_bytes_and_knows_its_tools() {
    let call = r#"{\"name\":\"read_file\",\"arguments\":{}}"#;
    let server = Server::start([say(call)]).await;
    let client = server.client();
    let hello = client.provider().unwrap().segment(&Message::user("hi"));
    let mut conversation = Conversation::new(Bytes::from_static(b"{\"messages\":["));
    conversation.push(&hello);
    let body = client.provider().unwrap().frame(&conversation);
    let body_bytes = body.len();
    let mut stream = client.send(body, &["read_file".to_owned()].into());
    let mut told = Vec::new();
    while let Some(event) = stream.next().await {
        told.push(event.unwrap());
    }
    let request = &server.requests()[0];
    assert!(request.ends_with(r#"{"messages":[{"role":"user","content":"hi"}]}"#), "{request}");
    let sized = format!("content-length: {body_bytes}\r\n");
    assert!(request.contains(&sized), "several pieces are no chunks: {request}");
    let finished = StreamEvent::Delta(Delta::Finish(FinishReason::ToolCalls));
    assert!(told.contains(&finished), "{told:?}");
}

/// Asks, and returns what each attempt came to.
async fn attempts(client: &OptimizedLLMClient) -> Vec<Attempt> {
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    let mut attempts = Vec::new();
    while let Some(event) = stream.next().await {
        if let Ok(StreamEvent::AttemptEnded(attempt)) = event {
            attempts.push(attempt);
        }
    }
    attempts
}

#[tokio::test]
async fn every_attempt_is_a_line_of_the_ledger() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":3}}"#;
    let used = || chunk(&format!("data: {usage}\n\n"));
    let server = Server::start([
        status(503, "busy"),
        vec![stream_head(), words("a"), used(), Step::Close],
        vec![stream_head(), words("b"), used(), finish(), stream_end()],
    ])
    .await;
    let client = server.client();
    let outcomes = |attempts: &[Attempt]| {
        let facts = |a: &Attempt| (a.attempt, a.outcome, a.usage.output_tokens);
        attempts.iter().map(facts).collect::<Vec<_>>()
    };
    // Words were given out: the second attempt is the last, and its tokens are counted.
    let broken = attempts(&client).await;
    assert_eq!(outcomes(&broken), [(1, Outcome::Failed, 0), (2, Outcome::Broken, 3)]);
    assert!(broken[0].first_byte.is_none() && broken[1].first_byte.is_some());

    let done = attempts(&client).await;
    assert_eq!(outcomes(&done), [(1, Outcome::Done, 3)]);

    let metrics = client.get_metrics().await;
    assert_eq!(metrics.requests, 2);
    let expected = [(Outcome::Done, 1), (Outcome::Failed, 1), (Outcome::Broken, 1)];
    assert_eq!(metrics.attempts, expected);
    assert_eq!((metrics.usage.input_tokens, metrics.usage.output_tokens), (18, 6));
    assert_eq!(metrics.first_byte.count, 2);
}

#[tokio::test]
async fn an_answer_that_nobody_waits_for_is_in_the_ledger_too() {
    let server = Server::start([vec![stream_head(), words("a"), Step::Hang]]).await;
    let client = server.client();
    let mut stream = client.stream(&LLMRequest::from_prompt("hi"));
    while stream.next().await.unwrap().unwrap() != StreamEvent::Delta(Delta::Text("a".into())) {}
    assert_eq!(stream.cancel().map(|attempt| attempt.outcome), Some(Outcome::Cancelled));
    assert_eq!(client.get_metrics().await.attempts, [(Outcome::Cancelled, 1)]);
}
