//! The model client: a request in, a stream of deltas out, over connections that are kept.
//! Holds the clocks and the one retry budget of each request, and where it goes on when its endpoint
//! fails; both end it with an error that says what to do. Never retries once words or calls were
//! given out, never shows a key, knows no tool.

mod answers;
mod attempts;
mod body;
mod breaker;
mod clocks;
mod connect;
mod error;
mod hedge;
mod ledger;
mod rate;
mod recorded;
mod retry;
mod routes;
#[cfg(test)]
mod scripts;
mod shared;
mod start;
#[cfg(test)]
pub(in crate::llm) mod tests;
mod transport;

use std::collections::HashMap;
use std::fmt;
use std::path::Path;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use reqwest::{Method, Url};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(in crate::llm) use self::connect::client as http_client;

pub use self::clocks::{Clock, Silence};
pub use self::error::LlmError;
pub use self::ledger::{ClientMetrics, EndpointMetrics};
pub use self::recorded::{Recorded, RecordedAnswer};
pub use self::routes::{Onward, Place, Route};
pub use self::start::StartError;

use self::answers::Answers;
use self::attempts::Refusal;
use self::body::outgoing;
use self::breaker::Breaker;
use self::clocks::Clocks;
use self::connect::{Connections, Sent};
use self::hedge::{HedgeBudget, Opening};
use self::ledger::{Counters, Running};
use self::rate::Limiter;
use self::routes::{Asked, Rest, Routes};
use self::shared::{Listener, Shared};
use self::start::Wanted;
use self::transport::Transport;
use crate::config::endpoint::Endpoint;
use crate::config::limits::{ClientLimits, RateLimits};
use crate::core::cache::{self, Key};
use crate::core::conversation::{Conversation, RequestBody};
use crate::core::memory_budget::Sheds;
use crate::core::performance_profiler::{Histogram, Percentiles};
use crate::llm::message::{
    Attempt, Delta, FinishReason, Images, LLMRequest, LLMResponse, Setup, Usage,
};
use crate::llm::provider::{self, DecodeError, Provider};

/// How much of a server's words is shown.
const MAX_ERROR_CHARS: usize = 1000;

/// How long providers keep the beginning of a request at least.
const WARM: Duration = Duration::from_secs(300);

/// The shortest key that is kept from being shown.
const MIN_SECRET_BYTES: usize = 8;

/// A client for one endpoint, and those to which its requests go when it fails. Clones share its
/// connections.
#[derive(Clone)]
pub struct OptimizedLLMClient {
    /// What requests go through, once it is known where they go.
    routes: Arc<OnceCell<Arc<Routes>>>,
    /// What `start` lays over the settings that it finds.
    wanted: Option<Wanted>,
}

/// Where a client keeps what outlives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Folders<'a> {
    /// The rate limits of accounts, shared by all processes of the user; none: they are the
    /// client's own.
    pub rate: Option<&'a Path>,
    /// Answers that are given again; none: they are kept in memory alone.
    pub answers: Option<&'a Path>,
}

struct Inner {
    endpoint: Endpoint,
    limits: ClientLimits,
    provider: Arc<dyn Provider>,
    connections: Connections,
    transport: Transport,
    url: Url,
    headers: HeaderMap,
    limiter: Option<Limiter>,
    counters: Arc<Counters>,
    /// How long answers of this endpoint took to begin.
    first_bytes: Histogram,
    breaker: Breaker,
    /// Names the server, the wire, the model's address and the key.
    account: Key,
    answers: Answers,
    /// The requests that are on their way, and may be joined.
    flights: Mutex<HashMap<Key, Weak<Shared>>>,
    hedges: HedgeBudget,
    /// What the last answered request began with, and when that was.
    warm: Mutex<Option<(Key, Instant)>>,
    /// Requests whose place in the limits could not be shared; the first is told.
    unshared: AtomicU64,
}

impl fmt::Debug for OptimizedLLMClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OptimizedLLMClient")
            .field("endpoint", &self.endpoint().ok())
            .field("limits", &self.limits().ok())
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
    /// The endpoint failed before it gave anything, and the request goes on at another one. Of a
    /// request that the client rendered, the answer follows; another one ends here, and its maker
    /// goes on with [`OptimizedLLMClient::go_on`].
    FailOver(Onward),
    /// A rate limit holds the request back for this long.
    Waiting {
        /// The wait.
        wait: Duration,
    },
    /// Nothing has come for a while, and the request still waits.
    Silent(Silence),
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

/// The answers that are kept.
impl Sheds for OptimizedLLMClient {
    fn kept_bytes(&self) -> u64 {
        let all = self.routes.get().into_iter().flat_map(|routes| routes.each());
        all.map(|inner| inner.answers.kept_bytes()).sum()
    }

    fn shed(&self) {
        if let Some(routes) = self.routes.get() {
            routes.each().for_each(|inner| inner.answers.clear());
        }
    }
}

impl OptimizedLLMClient {
    /// Returns a client for an endpoint. Connects to nothing yet. Its rate limits are its own.
    /// Fails when the base URL is none for HTTP, the key or a header cannot be sent, plain
    /// `http://` leads off this machine where the limits do not allow it, the file of certificates
    /// that they name cannot be used, or no HTTPS client can be built.
    pub fn with_endpoint(endpoint: Endpoint, limits: ClientLimits) -> Result<Self, LlmError> {
        Self::with_shared_limits(endpoint, limits, None)
    }

    /// Does the same; its rate limits are shared with all clients of the same account, in this
    /// process and others, through small files in `folder`. Whether the folder can be used shows
    /// only with the first request: one that cannot is told as [`StreamEvent::Degraded`]. Fails as
    /// [`with_endpoint`](Self::with_endpoint) does.
    pub fn with_shared_limits(
        endpoint: Endpoint,
        limits: ClientLimits,
        folder: Option<&Path>,
    ) -> Result<Self, LlmError> {
        Self::with_folders(endpoint, limits, Folders { rate: folder, answers: None })
    }

    /// Does the same, and keeps answers for later runs where a folder is given for them. Fails as
    /// [`with_endpoint`](Self::with_endpoint) does.
    pub fn with_folders(
        endpoint: Endpoint,
        limits: ClientLimits,
        folders: Folders<'_>,
    ) -> Result<Self, LlmError> {
        Self::with_routes(vec![Route { endpoint, limits }], folders)
    }

    /// Returns a client whose requests go to the first of these endpoints that does not fail.
    /// Clocks and attempts of a request are those of the first one's limits. Fails when there is no
    /// endpoint, or one of them cannot be used, as [`with_endpoint`](Self::with_endpoint) says.
    pub fn with_routes(routes: Vec<Route>, folders: Folders<'_>) -> Result<Self, LlmError> {
        Ok(Self::over(Routes::new(routes, folders)?))
    }

    fn over(routes: Routes) -> Self {
        Self { routes: Arc::new(OnceCell::new_with(Some(Arc::new(routes)))), wanted: None }
    }

    /// Returns a client that nothing leaves: each request is answered with what `recorded` gives for
    /// it. All else is as it is with a server: clocks, retries, decoding and ledger. Fails as
    /// [`with_endpoint`](Self::with_endpoint) does.
    pub fn with_recorded(
        endpoint: Endpoint,
        limits: ClientLimits,
        recorded: Recorded,
    ) -> Result<Self, LlmError> {
        let route = Route { endpoint, limits };
        let transport = Transport::Recorded(recorded);
        Ok(Self::over(Routes::with_transport(route, transport)?))
    }

    fn routes(&self) -> Result<&Arc<Routes>, LlmError> {
        self.routes.get().ok_or(LlmError::NotStarted)
    }

    fn inner(&self) -> Result<&Arc<Inner>, LlmError> {
        Ok(self.routes()?.first())
    }

    /// Opens a connection and shakes hands, so that the first request finds both done. Call it as
    /// soon as the endpoint is known; it returns at once, sends no request, and a failure shows
    /// only when the first request meets it. Does nothing outside a Tokio runtime.
    pub fn warm_up(&self) {
        if let Ok(inner) = self.inner() {
            inner.connections.warm_up();
        }
    }

    /// Returns what all requests through this client did so far; all zero before it has started. What
    /// earlier runs of a session did stands in its journal.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn get_metrics(&self) -> ClientMetrics {
        self.routes.get().map(|routes| routes.metrics()).unwrap_or_default()
    }

    /// Returns the translation between the conversation and the endpoint's wire format. An error,
    /// like those below, says that the client has not started.
    pub fn provider(&self) -> Result<&dyn Provider, LlmError> {
        Ok(&*self.inner()?.provider)
    }

    /// Returns where the next request goes, as a number for [`place`](Self::place); 0 before the
    /// client has started.
    pub fn route(&self) -> usize {
        self.routes.get().map_or(0, |routes| routes.choose())
    }

    /// Returns what is needed to make a request for one of the endpoints; 0 is the first. Fails
    /// when the client has not started, or no endpoint has that number.
    pub fn place(&self, route: usize) -> Result<Place<'_>, LlmError> {
        let inner = self.routes()?.get(route)?;
        let (endpoint, limits, provider) = (&inner.endpoint, &inner.limits, &*inner.provider);
        Ok(Place { endpoint, limits, provider })
    }

    /// Returns the endpoint; of several, the first.
    pub fn endpoint(&self) -> Result<&Endpoint, LlmError> {
        Ok(&self.inner()?.endpoint)
    }

    /// Returns what a request may use at the first endpoint.
    pub fn limits(&self) -> Result<&ClientLimits, LlmError> {
        Ok(&self.inner()?.limits)
    }

    /// Sends a rendered request body. `tools` are the names that it offers. The total clock starts
    /// here; nothing is sent before the stream is asked for its first event. The very same request
    /// that is on its way already is not sent a second time: both hear one answer. The body must be
    /// made for the first endpoint. What goes wrong, even that the client has not started, is told
    /// by the stream.
    pub fn send(&self, body: impl Into<RequestBody>, tools: &Arc<[String]>) -> ResponseStream {
        self.send_to(0, body, tools)
    }

    /// Does the same with a body that was made for another of the endpoints; the stream tells when
    /// none has that number.
    pub fn send_to(
        &self,
        route: usize,
        body: impl Into<RequestBody>,
        tools: &Arc<[String]>,
    ) -> ResponseStream {
        self.ask(route, Rest::whole(), body.into(), tools)
    }

    /// Goes on with a request that left its endpoint, with a body that was made for the one that it
    /// goes to. Its clock and its attempts go on, too.
    pub fn go_on(
        &self,
        onward: Onward,
        body: impl Into<RequestBody>,
        tools: &Arc<[String]>,
    ) -> ResponseStream {
        self.ask(onward.route, onward.rest, body.into(), tools)
    }

    fn ask(
        &self,
        route: usize,
        rest: Rest,
        body: RequestBody,
        tools: &Arc<[String]>,
    ) -> ResponseStream {
        let stream = self.routes().and_then(|routes| {
            let temperature = routes.get(route)?.limits.temperature;
            routes.ask(route, rest, Asked { body, tools, temperature, sample: 0 })
        });
        stream.unwrap_or_else(ResponseStream::failed)
    }

    /// Renders and sends a request. Its tools are only offered: calls are parts of the answer. What
    /// goes wrong, images that cannot be sent among it, is told by the stream.
    pub fn stream(&self, request: &LLMRequest) -> ResponseStream {
        let stream = self.routes().and_then(|routes| {
            let again = Again { routes: Arc::clone(routes), request: request.clone() };
            again.ask(routes.choose(), Rest::whole())
        });
        stream.unwrap_or_else(ResponseStream::failed)
    }

    /// Sends a request and returns the whole answer. The very same request gets the same answer
    /// while it is on its way; at temperature 0 it is kept, too. Either used no tokens. To get two
    /// answers to one question, give the requests different [`LLMRequest::sample`]s. Fails with the
    /// error that ended the stream, and then gives nothing of what had come of the answer.
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
    fn new(
        endpoint: Endpoint,
        limits: ClientLimits,
        folders: Folders<'_>,
        counters: Arc<Counters>,
    ) -> Result<Self, LlmError> {
        let provider = provider::of(&endpoint);
        let unusable = |what: String| LlmError::Endpoint { what };

        let url =
            request_url(&*provider, &endpoint.base_url, &endpoint.model).ok_or_else(|| {
                unusable(
                    "the base URL must look like `https://host` or `http://host:port/v1`".into(),
                )
            })?;

        let key = endpoint.key.as_ref().map(|key| key.expose_secret().trim());
        let key = key.filter(|key| !key.is_empty());
        let mut headers = HeaderMap::new();
        headers.insert(USER_AGENT, HeaderValue::from_static(connect::USER_AGENT));
        for (name, text) in provider.headers(key) {
            let mut value = HeaderValue::from_str(&text).map_err(|_| {
                unusable("the key holds characters that no key has; was it copied whole?".into())
            })?;
            value.set_sensitive(key.is_some_and(|key| text.contains(key)));
            headers.insert(HeaderName::from_static(name), value);
        }
        for (name, text) in &endpoint.dialect.headers {
            let unfit = || unusable(format!("`{name}` is no header, or its value cannot be one"));
            let header = HeaderName::from_bytes(name.as_bytes()).map_err(|_| unfit())?;
            let mut value = HeaderValue::from_str(text.expose_secret()).map_err(|_| unfit())?;
            value.set_sensitive(true);
            headers.insert(header, value);
        }

        let account = [endpoint.wire.as_str(), url.as_str(), key.unwrap_or_default()];
        let extra = endpoint.dialect.headers.iter();
        let extra = extra.flat_map(|(name, text)| [name.as_str(), text.expose_secret()]);
        let account = cache::key(account.into_iter().chain(extra).map(str::as_bytes));

        let connections = Connections::new(&url, &limits)?;
        // A server of this machine has no limits but those that the user sets.
        let limited = !connect::is_local(&url) || limits.rate != RateLimits::default();
        let limiter = limited.then(|| {
            let account = [url.as_str().as_bytes(), key.unwrap_or_default().as_bytes()];
            Limiter::new(limits.rate, folders.rate, &account)
        });
        Ok(Self {
            account,
            answers: Answers::new(&limits, folders.answers.map(Path::to_owned)),
            flights: Mutex::default(),
            hedges: HedgeBudget::default(),
            warm: Mutex::default(),
            limiter,
            endpoint,
            breaker: Breaker::new(limits.breaker),
            limits,
            provider,
            connections,
            transport: Transport::Network,
            url,
            headers,
            counters,
            first_bytes: Histogram::default(),
            unshared: AtomicU64::new(0),
        })
    }

    /// Sends a request, and waits until its answer begins.
    fn open(&self, body: &RequestBody) -> Opening {
        let sent = Sent::default();
        let mut request = reqwest::Request::new(Method::POST, self.url.clone());
        *request.headers_mut() = self.headers.clone();
        *request.body_mut() = Some(outgoing(body.clone(), sent.clone()));
        let request = reqwest::RequestBuilder::from_parts(self.connections.client(), request);
        self.transport.open(request, body.len(), sent)
    }

    /// Begins an attempt's line of the ledger.
    fn running(&self, attempt: u32) -> Running {
        Running::begin(attempt, &self.endpoint.model, self.limits.price)
    }

    /// Enters an attempt into the ledger.
    fn enter(&self, attempt: &Attempt) {
        self.counters.attempt(attempt);
        if let Some(first_byte) = attempt.first_byte {
            self.first_bytes.record(first_byte);
        }
    }

    /// Returns how long answers took to begin.
    fn first_bytes(&self) -> Percentiles {
        self.first_bytes.percentiles()
    }

    fn render(&self, request: &LLMRequest) -> RequestBody {
        let provider = &self.provider;
        let setup = Setup {
            model: self.endpoint.model.clone(),
            system: request.system.clone(),
            tools: request.tools.clone(),
            max_output_tokens: self.limits.max_output_tokens,
            max_output_chosen: self.limits.max_output_chosen,
            session_id: String::new(),
            temperature: request.temperature.or(self.limits.temperature),
            effort: self.limits.effort,
            answer_schema: request.answer_schema.clone(),
        };
        let mut conversation = Conversation::new(provider.head(&setup));
        for message in &request.messages {
            let images = Images::of(message.images());
            conversation.render(images, |onto| provider.render(message, onto));
        }
        provider.frame_choosing(&conversation, &request.tool_choice, &setup)
    }

    /// Names all that an answer depends on.
    fn request_key(&self, body: &RequestBody, tools: &[String], sample: u32) -> Key {
        let (body, sample) = (body.key(), sample.to_le_bytes());
        let fixed: [&[u8]; 3] = [&self.account, &body, &sample];
        cache::key(fixed.into_iter().chain(tools.iter().map(String::as_bytes)))
    }

    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Weak<Shared>>> {
        // The map is whole after any panic: each use makes one change.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was answered: the provider may have its beginning in its cache.
    fn was_answered(&self, body: &RequestBody) {
        *self.warm() = Some((body.head_key(), Instant::now()));
    }

    /// Returns whether the provider may have the beginning of a request in its cache.
    fn is_warm(&self, body: &RequestBody) -> bool {
        let fresh = |(key, at): (Key, Instant)| key == body.head_key() && at.elapsed() < WARM;
        self.warm().is_some_and(fresh)
    }

    fn warm(&self) -> MutexGuard<'_, Option<(Key, Instant)>> {
        // Each use replaces or copies it whole: it is sound after any panic.
        self.warm.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Nobody can join a request any more.
    fn not_in_flight(&self, shared: &Arc<Shared>) {
        let mut flights = self.flights();
        if flights.get(shared.key()).is_some_and(|known| known.as_ptr() == Arc::as_ptr(shared)) {
            flights.remove(shared.key());
        }
    }

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
        if connect::is_garbage(error) {
            let what = format!("it speaks no HTTP: {}", root_cause(error));
            return LlmError::NotAModel { url, what };
        }
        if let Some(tls) = connect::tls_error(error) {
            return match tls {
                rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => {
                    LlmError::Untrusted { url, cause: tls.to_string() }
                }
                rustls::Error::InvalidMessage(_) => LlmError::NoTls { url, cause: tls.to_string() },
                _ => LlmError::Unreachable { url, cause: tls.to_string(), refused_locally: false },
            };
        }
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

pub(super) fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

/// Returns the innermost cause's words; the outer ones only say that a request failed.
pub(super) fn root_cause(error: &reqwest::Error) -> String {
    causes(error).last().map(ToString::to_string).unwrap_or_default()
}

/// A streamed answer. Dropping it ends the request and closes its connection, unless the answer
/// was read to its end, or somebody else listens to it, too.
#[derive(Debug)]
#[must_use = "nothing is sent before the first event is asked for"]
pub struct ResponseStream {
    source: Source,
    /// How to ask elsewhere, where the client knows what is asked.
    again: Option<Again>,
}

#[derive(Debug)]
enum Source {
    /// A request, or an answer that was kept.
    Heard(Listener),
    /// No request can be made.
    Failed(Option<LlmError>),
}

/// A request that can be made for any endpoint.
struct Again {
    routes: Arc<Routes>,
    request: LLMRequest,
}

impl fmt::Debug for Again {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Again")
    }
}

impl Again {
    fn ask(self, route: usize, rest: Rest) -> Result<ResponseStream, LlmError> {
        let (inner, request) = (self.routes.get(route)?, &self.request);
        let rules = inner.provider.images();
        request.messages.iter().try_for_each(|message| rules.check(message.images()))?;
        let temperature = request.temperature.or(inner.limits.temperature);
        let (body, sample) = (inner.render(request), request.sample);
        let tools: Vec<_> = request.tools.iter().map(|tool| tool.name.to_string()).collect();
        let asked = Asked { body, tools: &Arc::from(tools), temperature, sample };
        let stream = self.routes.ask(route, rest, asked)?;
        Ok(ResponseStream { again: Some(self), ..stream })
    }
}

impl ResponseStream {
    fn failed(error: LlmError) -> Self {
        Self { source: Source::Failed(Some(error)), again: None }
    }

    /// Returns the next event; none after the answer or an error. Dropping the returned future
    /// loses nothing. Ask until none comes: reading the last bytes is what keeps the connection.
    /// Fails when the client has not started, the request cannot be made, or no attempt and no
    /// other endpoint is left to mend what went wrong; once words or calls were given out, none is
    /// tried.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, LlmError>> {
        let event = match &mut self.source {
            Source::Heard(listener) => listener.next().await,
            Source::Failed(error) => error.take().map(Err),
        };
        if let Some(Ok(StreamEvent::FailOver(onward))) = &event
            && let Some(again) = self.again.take()
        {
            let stream = again.ask(onward.route, onward.rest.clone());
            *self = stream.unwrap_or_else(Self::failed);
        }
        event
    }

    /// Ends the request before its answer did; returns what the attempt came to. None when somebody
    /// else goes on listening.
    pub fn cancel(self) -> Option<Attempt> {
        match self.source {
            Source::Heard(listener) => listener.leave(),
            Source::Failed(_) => None,
        }
    }
}
