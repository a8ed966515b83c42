//! The model client: a request in, a stream of deltas out, over connections that are kept.
//! Holds the clocks and the one retry budget of each request; both end it with an error that says
//! what to do. Never retries once words or calls were given out, never shows a key, knows no tool.

mod clocks;
mod connect;
mod error;
mod ledger;
mod rate;
mod retry;
#[cfg(test)]
pub(in crate::llm) mod tests;

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use reqwest::Url;
use reqwest::header::{
    CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use secrecy::ExposeSecret;
use tokio::time::{Instant, sleep_until, timeout_at};

pub(in crate::llm) use self::connect::client as http_client;

pub use self::clocks::Clock;
pub use self::error::LlmError;
pub use self::ledger::ClientMetrics;

use self::clocks::Clocks;
use self::ledger::{Counters, Running};
use self::rate::{Limiter, Reservation, Told};
use self::retry::Budget;
use crate::config::endpoint::Endpoint;
use crate::config::limits::{ClientLimits, RateLimits};
use crate::core::conversation::Conversation;
use crate::llm::message::{
    Attempt, Delta, FinishReason, LLMRequest, LLMResponse, Outcome, Setup, Usage,
};
use crate::llm::provider::sse::{SseError, SseParser};
use crate::llm::provider::{self, DecodeError, Decoder, Provider};

/// The most of an answer that is taken in. No model writes a tenth of it.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// How much of an error's body is read, how long for, and how much of it is shown.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const MAX_ERROR_WAIT: Duration = Duration::from_secs(2);
const MAX_ERROR_CHARS: usize = 1000;

/// The shortest key that is kept from being shown.
const MIN_SECRET_BYTES: usize = 8;

/// What may follow a finished answer before its connection is given up instead of kept.
const MAX_DRAIN_BYTES: usize = 64 * 1024;
const MAX_DRAIN_WAIT: Duration = Duration::from_millis(50);

/// A client for one endpoint. Clones share its connections.
#[derive(Clone)]
pub struct OptimizedLLMClient {
    inner: Arc<Inner>,
}

struct Inner {
    endpoint: Endpoint,
    limits: ClientLimits,
    provider: &'static dyn Provider,
    http: reqwest::Client,
    url: Url,
    headers: HeaderMap,
    limiter: Option<Limiter>,
    counters: Counters,
    /// True once it was said that the limits cannot be shared with other processes.
    unshared: AtomicBool,
}

impl fmt::Debug for OptimizedLLMClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptimizedLLMClient")
            .field("endpoint", &self.inner.endpoint)
            .field("limits", &self.inner.limits)
            .finish_non_exhaustive()
    }
}

/// What a streamed answer tells, in order.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum StreamEvent {
    /// An attempt failed before it gave anything; another follows after a wait.
    Retry {
        /// The attempt that follows, from 2.
        attempt: u32,
        /// The wait before it.
        wait: Duration,
        /// Why the last one failed.
        cause: String,
    },
    /// A rate limit holds the request back for this long.
    Waiting {
        /// The wait.
        wait: Duration,
    },
    /// The answer begins.
    FirstByte,
    /// A piece of the answer.
    Delta(Delta),
    /// An attempt ended, well or not.
    AttemptEnded(Attempt),
    /// Something is not as it should be; the request goes on without it.
    Degraded {
        /// What, and what it means.
        what: String,
    },
}

impl OptimizedLLMClient {
    /// Returns a client for an endpoint. Connects to nothing yet. Its rate limits are its own.
    pub fn with_endpoint(endpoint: Endpoint, limits: ClientLimits) -> Result<Self, LlmError> {
        Self::with_shared_limits(endpoint, limits, None)
    }

    /// Does the same; its rate limits are shared with all clients of the same account, in this
    /// process and others, through small files in `folder`.
    pub fn with_shared_limits(
        endpoint: Endpoint,
        limits: ClientLimits,
        folder: Option<&Path>,
    ) -> Result<Self, LlmError> {
        let provider = provider::for_wire(endpoint.wire);
        let unusable = |what: String| LlmError::Endpoint { what };

        let url = request_url(provider, &endpoint.base_url, &endpoint.model).ok_or_else(|| {
            unusable("the base URL must look like `https://host` or `http://host:port/v1`".into())
        })?;

        let key = endpoint.key.as_ref().map(|key| key.expose_secret().trim());
        let key = key.filter(|key| !key.is_empty());
        let mut headers = HeaderMap::new();
        for (name, text) in provider.headers(key) {
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                unusable("the key holds characters that no key has; was it copied whole?".into())
            })?;
            value.set_sensitive(key.is_some_and(|key| text.contains(key)));
            headers.insert(HeaderName::from_static(name), value);
        }

        let http = http_client(&url, limits.connect)
            .map_err(|error| unusable(format!("no HTTPS here: {}", root_cause(&error))))?;
        // A server of this machine has no limits but those that the user sets.
        let limited = !connect::is_local(&url) || limits.rate != RateLimits::default();
        let limiter = limited.then(|| {
            let account = [url.as_str().as_bytes(), key.unwrap_or_default().as_bytes()];
            Limiter::new(limits.rate, folder, &account)
        });
        let inner = Inner {
            limiter,
            endpoint,
            limits,
            provider,
            http,
            url,
            headers,
            counters: Counters::default(),
            unshared: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Returns what all requests did so far.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn get_metrics(&self) -> ClientMetrics {
        self.inner.counters.metrics()
    }

    /// Returns the translation between the conversation and the endpoint's wire format.
    pub fn provider(&self) -> &'static dyn Provider {
        self.inner.provider
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> &Endpoint {
        &self.inner.endpoint
    }

    /// Returns what a request may use.
    pub fn limits(&self) -> &ClientLimits {
        &self.inner.limits
    }

    /// Sends a rendered request body. `tools` are the names that it offers. The total clock starts
    /// here; nothing is sent before the stream is asked for its first event.
    pub fn send(&self, body: impl Into<Bytes>, tools: &[String]) -> ResponseStream {
        ResponseStream::new(Arc::clone(&self.inner), body.into(), tools.to_vec())
    }

    /// Renders and sends a request without tools.
    pub fn stream(&self, request: &LLMRequest) -> ResponseStream {
        let provider = self.inner.provider;
        let mut conversation = Conversation::new(provider.head(&Setup {
            model: self.inner.endpoint.model.clone(),
            system: request.system.clone(),
            tools: Vec::new(),
            max_output_tokens: self.inner.limits.max_output_tokens,
            session_id: String::new(),
        }));
        for message in &request.messages {
            conversation.push(provider.segment(message));
        }
        self.send(provider.body(conversation.head(), conversation.segments()), &[])
    }

    /// Sends a request and returns the whole answer.
    pub async fn chat_optimized(&self, request: LLMRequest) -> Result<LLMResponse, LlmError> {
        let mut answer =
            LLMResponse { parts: Vec::new(), finish: FinishReason::Other, usage: Usage::default() };
        let mut stream = self.stream(&request);
        while let Some(event) = stream.next().await {
            match event? {
                StreamEvent::Delta(Delta::Part(part)) => answer.parts.push(part),
                StreamEvent::Delta(Delta::Usage(usage)) => answer.usage = usage,
                StreamEvent::Delta(Delta::Finish(finish)) => answer.finish = finish,
                _ => {}
            }
        }
        Ok(answer)
    }
}

impl Inner {
    /// Returns the URL as it may be shown: without what could be secret in it.
    fn shown_url(&self) -> String {
        let mut url = self.url.clone();
        // Both fail only for URLs without a host, which are not let in.
        let _ = url.set_username("");
        let _ = url.set_password(None);
        url.set_query(None);
        url.set_fragment(None);
        url.into()
    }

    /// Returns a server's words as they may be shown: bounded, and without the key, should the
    /// server have sent it back.
    fn shown(&self, words: &str) -> String {
        let key = self.endpoint.key.as_ref().map_or("", |key| key.expose_secret().trim());
        // What stands where a server asks for no key (`x`, `ollama`) is no secret, but a word.
        let secret = key.len() >= MIN_SECRET_BYTES;
        let words = if secret { words.replace(key, "[key]") } else { words.to_owned() };
        match words.char_indices().nth(MAX_ERROR_CHARS) {
            Some((at, _)) => format!("{}…", &words[..at]),
            None => words,
        }
    }

    fn timed_out(&self, clock: Clock, clocks: &Clocks) -> LlmError {
        LlmError::TimedOut { url: self.shown_url(), clock, after: clocks.limit(clock) }
    }

    fn not_sent(&self, error: &reqwest::Error, clocks: &Clocks) -> LlmError {
        let url = self.shown_url();
        if !error.is_connect() {
            return LlmError::Interrupted { url, cause: root_cause(error) };
        }
        if error.is_timeout() {
            return self.timed_out(Clock::Connect, clocks);
        }
        let refused = causes(error)
            .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
            .any(|cause| cause.kind() == std::io::ErrorKind::ConnectionRefused);
        LlmError::Unreachable {
            url,
            cause: root_cause(error),
            refused_locally: refused && connect::is_local(&self.url),
        }
    }

    fn not_decoded(&self, error: DecodeError) -> LlmError {
        LlmError::Stream(match error {
            DecodeError::Malformed { what } => DecodeError::Malformed { what: self.shown(&what) },
            DecodeError::Reported { message, temporary } => {
                DecodeError::Reported { message: self.shown(&message), temporary }
            }
            error @ DecodeError::EndedEarly => error,
        })
    }

    /// Returns the error that an answer without success stands for.
    fn refused(&self, refusal: &Refusal) -> LlmError {
        let status = refusal.status.as_u16();
        let reason = refusal.status.canonical_reason().unwrap_or("no reason given");
        let message = match self.provider.error_message(&refusal.body) {
            Some(message) => message,
            // A page for browsers says nothing to a user of a terminal.
            None if refusal.body.trim_ascii_start().starts_with(b"<") => reason.to_owned(),
            None => match String::from_utf8_lossy(&refusal.body).trim() {
                "" => reason.to_owned(),
                words => words.to_owned(),
            },
        };
        let message = self.shown(&message);
        let retry_after = refusal.retry_after.or_else(|| self.provider.retry_after(&refusal.body));
        let contains = |word: &str| memchr::memmem::find(&refusal.body, word.as_bytes()).is_some();
        match status {
            300..=399 => LlmError::BadRequest {
                status,
                message: match &refusal.location {
                    Some(to) => format!(
                        "it redirects to {}, which is not followed with a key; name that as the base URL",
                        self.shown(to)
                    ),
                    None => message,
                },
            },
            401 | 403 => LlmError::Auth { status, message },
            // Google's word for a key that it does not know.
            400 if contains("API_KEY_INVALID") => LlmError::Auth { status, message },
            404 => LlmError::NotFound {
                url: self.shown_url(),
                model: self.endpoint.model.clone(),
                message,
            },
            // An empty account answers like a crowded server, but no wait fills it.
            429 if contains("insufficient_quota") => LlmError::BadRequest { status, message },
            429 => LlmError::RateLimited { retry_after, message },
            // What a server has not learned, it does not learn while we wait.
            501 | 505 => LlmError::BadRequest { status, message },
            408 | 409 | 500.. => LlmError::Server { status, retry_after, message },
            _ => LlmError::BadRequest { status, message },
        }
    }
}

/// Returns the URL that requests go to, if the base URL is one for HTTP. A query, which some
/// gateways ask for, stays at the end.
fn request_url(provider: &dyn Provider, base_url: &str, model: &str) -> Option<Url> {
    let mut base = Url::parse(base_url.trim()).ok()?;
    if !matches!(base.scheme(), "http" | "https") || !base.has_host() {
        return None;
    }
    let query = base.query().map(str::to_owned);
    base.set_query(None);
    base.set_fragment(None);
    let mut url = Url::parse(&provider.url(base.as_str().trim_end_matches('/'), model)).ok()?;
    let queries: Vec<_> = url.query().into_iter().chain(query.as_deref()).collect();
    let query = Some(queries.join("&")).filter(|query| !query.is_empty());
    url.set_query(query.as_deref());
    Some(url)
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Returns the innermost cause's words; the outer ones only say that a request failed.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// A streamed answer. Dropping it ends the request and closes its connection, unless the answer
/// was read to its end.
#[must_use = "nothing is sent before the first event is asked for"]
pub struct ResponseStream {
    client: Arc<Inner>,
    body: Bytes,
    tools: Vec<String>,
    clocks: Clocks,
    budget: Budget,
    state: State,
    /// What was decoded and not yet given out.
    ready: VecDeque<StreamEvent>,
    /// What comes after that.
    failed: Option<LlmError>,
    /// True once words or a call were decoded: another attempt would say them twice.
    committed: bool,
    /// The place that the attempt took in the rate limits.
    reservation: Option<Reservation>,
    running: Option<Running>,
}

type Reserving = Pin<Box<dyn Future<Output = (Reservation, std::io::Result<()>)> + Send>>;
type Sending = Pin<Box<dyn Future<Output = reqwest::Result<reqwest::Response>> + Send>>;

enum State {
    /// Before an attempt.
    Waiting {
        until: Instant,
    },
    Reserving(Reserving),
    /// Until the rate limits let the attempt go.
    Limited {
        until: Instant,
    },
    Sending(Sending),
    Refused(Refusal),
    Answering(Answer),
    Draining {
        response: reqwest::Response,
        until: Instant,
        left_bytes: usize,
    },
    Ended,
}

struct Refusal {
    response: reqwest::Response,
    status: reqwest::StatusCode,
    retry_after: Option<Duration>,
    location: Option<String>,
    body: Vec<u8>,
    until: Instant,
}

struct Answer {
    response: reqwest::Response,
    decoder: Box<dyn Decoder>,
    framing: Framing,
    taken_bytes: usize,
}

enum Framing {
    Events(SseParser),
    /// The server does not stream; all of its answer.
    Whole(Vec<u8>),
}

impl fmt::Debug for ResponseStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseStream")
            .field("attempt", &self.budget.attempt())
            .field("committed", &self.committed)
            .finish_non_exhaustive()
    }
}

impl Drop for ResponseStream {
    /// An answer that nobody waited for is paid for all the same.
    fn drop(&mut self) {
        self.attempt_ended(Outcome::Cancelled);
    }
}

impl ResponseStream {
    fn new(client: Arc<Inner>, body: Bytes, tools: Vec<String>) -> Self {
        let clocks = Clocks::start(&client.limits);
        let budget = Budget::new(&client.limits);
        client.counters.request();
        Self {
            client,
            body,
            tools,
            clocks,
            budget,
            state: State::Waiting { until: Instant::now() },
            ready: VecDeque::new(),
            failed: None,
            committed: false,
            reservation: None,
            running: None,
        }
    }

    /// Ends the request before its answer did; returns what the attempt came to.
    pub fn cancel(mut self) -> Option<Attempt> {
        self.attempt_ended(Outcome::Cancelled)
    }

    /// Returns the next event; none after the answer or an error. Dropping the returned future
    /// loses nothing. Ask until none comes: reading the last bytes is what keeps the connection.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, LlmError>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some(Ok(event));
            }
            if let Some(error) = self.failed.take() {
                return Some(Err(error));
            }
            if matches!(self.state, State::Ended) {
                return None;
            }
            self.advance().await;
        }
    }

    /// Takes one step. Awaits at most once, before anything changes, so that it can be dropped.
    async fn advance(&mut self) {
        let (deadline, clock) = self.clocks.deadline();
        match &mut self.state {
            State::Waiting { until } => {
                // A timer that is due still waits for the next tick, up to a millisecond, and that
                // before every request. bench: bench-agent, response end to next request
                if *until > Instant::now() {
                    sleep_until(*until).await;
                }
                match self.client.limiter.clone() {
                    Some(limiter) => {
                        let bytes = self.body.len();
                        let reserving = async move { limiter.reserve(bytes).await };
                        self.state = State::Reserving(Box::pin(reserving));
                    }
                    None => self.attempt(),
                }
            }
            State::Reserving(reserving) => {
                let (reservation, shared) = reserving.await;
                self.reserved(reservation, shared);
            }
            State::Limited { until } => {
                sleep_until(*until).await;
                self.attempt();
            }
            State::Sending(sending) => match timeout_at(deadline, sending).await {
                Ok(Ok(response)) => self.answered(response),
                Ok(Err(error)) => self.fail(self.client.not_sent(&error, &self.clocks)),
                Err(_) => self.fail(self.client.timed_out(clock, &self.clocks)),
            },
            State::Refused(refusal) => {
                let until = deadline.min(refusal.until);
                match timeout_at(until, refusal.response.chunk()).await {
                    Ok(Ok(Some(bytes))) if refusal.body.len() < MAX_ERROR_BYTES => {
                        let room = MAX_ERROR_BYTES - refusal.body.len();
                        refusal.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    // The end, or as much of it as we are ready to wait for.
                    _ => {
                        let error = self.client.refused(refusal);
                        self.fail(error);
                    }
                }
            }
            State::Answering(answer) => match timeout_at(deadline, answer.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.take(&bytes),
                Ok(Ok(None)) => self.end(None),
                Ok(Err(error)) => {
                    let (url, cause) = (self.client.shown_url(), root_cause(&error));
                    self.end(Some(LlmError::Interrupted { url, cause }));
                }
                Err(_) => self.end(Some(self.client.timed_out(clock, &self.clocks))),
            },
            State::Draining { response, until, left_bytes } => {
                match timeout_at(*until, response.chunk()).await {
                    Ok(Ok(Some(bytes))) if bytes.len() < *left_bytes => *left_bytes -= bytes.len(),
                    _ => self.state = State::Ended,
                }
            }
            State::Ended => {}
        }
    }

    /// Takes the place that the rate limits gave.
    fn reserved(&mut self, reservation: Reservation, shared: std::io::Result<()>) {
        if let Err(error) = shared
            && !self.client.unshared.swap(true, Ordering::Relaxed)
        {
            self.ready.push_back(StreamEvent::Degraded {
                what: format!("rate limits are not shared with other runs: {error}"),
            });
        }
        let wait = reservation.wait;
        if wait >= self.clocks.left() {
            // Dropped, it gives its place back.
            drop(reservation);
            self.failed = Some(LlmError::RateLimited {
                retry_after: Some(wait),
                message: "its limits leave no room before that".to_owned(),
            });
            self.state = State::Ended;
            return;
        }
        self.reservation = Some(reservation);
        if wait.is_zero() {
            self.attempt();
            return;
        }
        self.client.counters.waits(wait);
        self.ready.push_back(StreamEvent::Waiting { wait });
        self.state = State::Limited { until: Instant::now() + wait };
    }

    fn attempt(&mut self) {
        self.running = Some(Running::begin(self.budget.attempt()));
        let client = &self.client;
        self.clocks.attempt();
        let request = client
            .http
            .post(client.url.clone())
            .headers(client.headers.clone())
            .body(self.body.clone());
        self.state = State::Sending(Box::pin(request.send()));
    }

    fn answered(&mut self, response: reqwest::Response) {
        let header = |name| response.headers().get(name).and_then(|value| value.to_str().ok());
        let status = response.status();
        let now = SystemTime::now();
        let told = Told::read(response.headers(), now);
        if let Some(limiter) = &self.client.limiter {
            limiter.told(told);
        }
        if !status.is_success() {
            let retry_after =
                header(RETRY_AFTER).and_then(|value| retry::retry_after(value, now)).or(told.reset);
            let location = header(LOCATION).map(str::to_owned);
            let until = Instant::now() + MAX_ERROR_WAIT;
            let body = Vec::new();
            self.state =
                State::Refused(Refusal { response, status, retry_after, location, body, until });
            return;
        }
        // None was asked for. A server that compresses all the same cannot be read.
        if let Some(encoding) = header(CONTENT_ENCODING).filter(|name| *name != "identity") {
            let what = format!("its answer is compressed with {}", self.client.shown(encoding));
            let url = self.client.shown_url();
            self.fail(LlmError::NotAModel { url, what });
            return;
        }
        let content_type = header(CONTENT_TYPE).unwrap_or_default().to_ascii_lowercase();
        if content_type.starts_with("text/html") {
            let url = self.client.shown_url();
            self.fail(LlmError::NotAModel { url, what: "it sent an HTML page".to_owned() });
            return;
        }
        // Others (none, plain text) are sent by servers that stream nonetheless.
        let framing = if content_type.starts_with("application/json") {
            Framing::Whole(Vec::new())
        } else {
            Framing::Events(SseParser::new())
        };
        let decoder = self.client.provider.decoder(&self.tools);
        self.state = State::Answering(Answer { response, decoder, framing, taken_bytes: 0 });
    }

    /// Takes bytes of the answer.
    fn take(&mut self, bytes: &[u8]) {
        self.clocks.byte();
        let State::Answering(answer) = &mut self.state else { return };
        if answer.taken_bytes == 0 {
            self.ready.push_back(StreamEvent::FirstByte);
            if let Some(running) = &mut self.running {
                running.first_byte();
            }
        }
        answer.taken_bytes += bytes.len();
        if answer.taken_bytes > MAX_ANSWER_BYTES {
            self.fail(LlmError::TooLong { limit_bytes: MAX_ANSWER_BYTES });
            return;
        }
        let mut deltas = Vec::new();
        let result =
            match &mut answer.framing {
                Framing::Whole(body) => {
                    body.extend_from_slice(bytes);
                    Ok(())
                }
                Framing::Events(parser) => {
                    let mut decoded = Ok(());
                    let framed = parser.push(bytes, |event, data| {
                        if decoded.is_ok() {
                            decoded = answer.decoder.event(event, data, &mut deltas);
                        }
                    });
                    decoded.map_err(|error| self.client.not_decoded(error)).and(framed.map_err(
                        |SseError::TooLong { limit_bytes }| LlmError::TooLong { limit_bytes },
                    ))
                }
            };
        self.give(deltas);
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Takes the end of the answer, or what broke it. An answer that said it was finished is one,
    /// even if the connection broke between that and its own end.
    fn end(&mut self, broken: Option<LlmError>) {
        let State::Answering(answer) = &mut self.state else { return };
        let mut deltas = Vec::new();
        let result = match &answer.framing {
            Framing::Events(_) => answer
                .decoder
                .end(&mut deltas)
                .map_err(|error| broken.unwrap_or_else(|| self.client.not_decoded(error))),
            Framing::Whole(_) if broken.is_some() => Err(broken.expect("just seen")),
            Framing::Whole(body) => match self.client.provider.error_message(body) {
                Some(message) => {
                    let (status, message) = (200, self.client.shown(&message));
                    Err(LlmError::BadRequest { status, message })
                }
                None => answer
                    .decoder
                    .event("", &String::from_utf8_lossy(body), &mut deltas)
                    .and_then(|()| answer.decoder.end(&mut deltas))
                    .map_err(|_| LlmError::NotAModel {
                        url: self.client.shown_url(),
                        what: "it sent JSON that is no answer".to_owned(),
                    }),
            },
        };
        self.give(deltas);
        match result {
            Ok(()) => self.state = State::Ended,
            Err(error) => self.fail(error),
        }
    }

    fn give(&mut self, deltas: Vec<Delta>) {
        let finished = deltas.iter().any(|delta| matches!(delta, Delta::Finish(_)));
        for delta in deltas {
            match (&delta, &mut self.running) {
                (Delta::Usage(usage), Some(running)) => running.used(*usage),
                _ => self.committed = true,
            }
            self.ready.push_back(StreamEvent::Delta(delta));
        }
        if finished {
            let attempt = self.attempt_ended(Outcome::Done);
            self.ready.extend(attempt.map(StreamEvent::AttemptEnded));
        }
        if finished
            && let State::Answering(answer) = std::mem::replace(&mut self.state, State::Ended)
        {
            self.state = State::Draining {
                response: answer.response,
                until: Instant::now() + MAX_DRAIN_WAIT,
                left_bytes: MAX_DRAIN_BYTES,
            };
        }
    }

    /// Settles what the attempt took, and enters it into the ledger.
    fn attempt_ended(&mut self, outcome: Outcome) -> Option<Attempt> {
        let running = self.running.take()?;
        if let Some(reservation) = self.reservation.take() {
            match outcome {
                Outcome::Unreachable => drop(reservation),
                _ if running.usage() == Usage::default() && outcome != Outcome::Done => {
                    reservation.failed();
                }
                _ => reservation.settle(running.usage()),
            }
        }
        let attempt = running.end(outcome);
        self.client.counters.attempt(&attempt);
        Some(attempt)
    }

    /// Ends this attempt: with another one, or for good.
    fn fail(&mut self, error: LlmError) {
        let attempt = self.attempt_ended(Outcome::from(&error));
        self.ready.extend(attempt.map(StreamEvent::AttemptEnded));
        if let (LlmError::RateLimited { retry_after, .. }, Some(limiter)) =
            (&error, &self.client.limiter)
        {
            limiter.refused(*retry_after);
        }
        let wait = if self.committed { None } else { self.budget.next(&error, self.clocks.left()) };
        let Some(wait) = wait else {
            self.failed = Some(error);
            self.state = State::Ended;
            return;
        };
        self.ready.push_back(StreamEvent::Retry {
            attempt: self.budget.attempt(),
            wait,
            cause: error.to_string(),
        });
        self.state = State::Waiting { until: Instant::now() + wait };
    }
}
