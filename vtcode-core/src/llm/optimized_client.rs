//! The model client: a request in, a stream of deltas out, over connections that are kept.
//! Holds the clocks and the one retry budget of each request; both end it with an error that says
//! what to do. Never retries once words or calls were given out, never shows a key, knows no tool.

mod answers;
mod attempts;
mod body;
mod clocks;
mod connect;
mod error;
mod hedge;
mod ledger;
mod rate;
mod recorded;
mod retry;
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
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use reqwest::Url;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use secrecy::ExposeSecret;
use tokio::sync::OnceCell;
use tokio::time::Instant;

pub(in crate::llm) use self::connect::client as http_client;

pub use self::clocks::{Clock, Silence};
pub use self::error::LlmError;
pub use self::ledger::ClientMetrics;
pub use self::recorded::{Recorded, RecordedAnswer};
pub use self::start::StartError;

use self::answers::{Answers, Kept};
use self::attempts::{Attempts, Refusal};
use self::clocks::Clocks;
use self::connect::Connections;
use self::hedge::HedgeBudget;
use self::ledger::Counters;
use self::rate::Limiter;
use self::shared::{Listener, Shared};
use self::start::Wanted;
use self::transport::Transport;
use crate::config::endpoint::Endpoint;
use crate::config::limits::{ClientLimits, RateLimits};
use crate::core::cache::{self, Key};
use crate::core::conversation::{Conversation, RequestBody};
use crate::core::memory_budget::Sheds;
use crate::llm::message::{
    Attempt, Delta, FinishReason, Images, LLMRequest, LLMResponse, Outcome, Setup, Usage,
};
use crate::llm::provider::{self, DecodeError, Provider};

/// How much of a server's words is shown.
const MAX_ERROR_CHARS: usize = 1000;

/// How long providers keep the beginning of a request at least.
const WARM: Duration = Duration::from_secs(300);

/// The shortest key that is kept from being shown.
const MIN_SECRET_BYTES: usize = 8;

/// A client for one endpoint. Clones share its connections.
#[derive(Clone)]
pub struct OptimizedLLMClient {
    /// What requests go through, once it is known where they go.
    inner: Arc<OnceCell<Arc<Inner>>>,
    /// What `start` lays over the settings that it finds.
    wanted: Option<Wanted>,
}

/// Where a client keeps what outlives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Folders<'a> {
    /// The rate limits of accounts, shared by all processes of the user.
    pub rate: Option<&'a Path>,
    /// Answers that are given again.
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
    counters: Counters,
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
        self.inner().map_or(0, |inner| inner.answers.kept_bytes())
    }

    fn shed(&self) {
        if let Ok(inner) = self.inner() {
            inner.answers.clear();
        }
    }
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
        Self::with_folders(endpoint, limits, Folders { rate: folder, answers: None })
    }

    /// Does the same, and keeps answers for later runs where a folder is given for them.
    pub fn with_folders(
        endpoint: Endpoint,
        limits: ClientLimits,
        folders: Folders<'_>,
    ) -> Result<Self, LlmError> {
        let inner = Arc::new(Inner::new(endpoint, limits, folders)?);
        Ok(Self { inner: Arc::new(OnceCell::new_with(Some(inner))), wanted: None })
    }

    /// Returns a client that nothing leaves: each request is answered with what `recorded` gives for
    /// it. All else is as it is with a server: clocks, retries, decoding and ledger.
    pub fn with_recorded(
        endpoint: Endpoint,
        limits: ClientLimits,
        recorded: Recorded,
    ) -> Result<Self, LlmError> {
        let mut inner = Inner::new(endpoint, limits, Folders::default())?;
        inner.transport = Transport::Recorded(recorded);
        let inner = Arc::new(OnceCell::new_with(Some(Arc::new(inner))));
        Ok(Self { inner, wanted: None })
    }

    fn inner(&self) -> Result<&Arc<Inner>, LlmError> {
        self.inner.get().ok_or(LlmError::NotStarted)
    }

    /// Opens a connection and shakes hands, so that the first request finds both done. Call it as
    /// soon as the endpoint is known; it returns at once, sends no request, and a failure shows
    /// only when the first request meets it.
    pub fn warm_up(&self) {
        if let Some(inner) = self.inner.get() {
            inner.connections.warm_up();
        }
    }

    /// Returns what all requests did so far.
    #[expect(clippy::unused_async, reason = "callers await it, so that it may come to wait")]
    pub async fn get_metrics(&self) -> ClientMetrics {
        self.inner.get().map(|inner| inner.metrics()).unwrap_or_default()
    }

    /// Returns the translation between the conversation and the endpoint's wire format. An error,
    /// like those below, says that the client has not started.
    pub fn provider(&self) -> Result<&dyn Provider, LlmError> {
        Ok(&*self.inner()?.provider)
    }

    /// Returns the endpoint.
    pub fn endpoint(&self) -> Result<&Endpoint, LlmError> {
        Ok(&self.inner()?.endpoint)
    }

    /// Returns what a request may use.
    pub fn limits(&self) -> Result<&ClientLimits, LlmError> {
        Ok(&self.inner()?.limits)
    }

    /// Sends a rendered request body. `tools` are the names that it offers. The total clock starts
    /// here; nothing is sent before the stream is asked for its first event. The very same request
    /// that is on its way already is not sent a second time: both hear one answer.
    pub fn send(&self, body: impl Into<RequestBody>, tools: &[String]) -> ResponseStream {
        match self.inner() {
            Ok(inner) => inner.ask(body.into(), tools, inner.limits.temperature, 0),
            Err(error) => ResponseStream { source: Source::Failed(Some(error)) },
        }
    }

    /// Renders and sends a request without tools.
    pub fn stream(&self, request: &LLMRequest) -> ResponseStream {
        match self.inner() {
            Ok(inner) => {
                let temperature = request.temperature.or(inner.limits.temperature);
                let rules = inner.provider.images();
                if let Err(error) =
                    request.messages.iter().try_for_each(|m| rules.check(m.images()))
                {
                    return ResponseStream { source: Source::Failed(Some(error.into())) };
                }
                inner.ask(inner.render(request), &[], temperature, request.sample)
            }
            Err(error) => ResponseStream { source: Source::Failed(Some(error)) },
        }
    }

    /// Sends a request and returns the whole answer. The very same request gets the same answer
    /// while it is on its way; at temperature 0 it is kept, too. Either used no tokens. To get two
    /// answers to one question, give the requests different [`LLMRequest::sample`]s.
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
            limits,
            provider,
            connections,
            transport: Transport::Network,
            url,
            headers,
            counters: Counters::default(),
            unshared: AtomicU64::new(0),
        })
    }

    fn metrics(&self) -> ClientMetrics {
        let metrics = self.counters.metrics();
        let opened = self.connections.opened();
        let sent = metrics.attempts.iter().filter(|(outcome, _)| *outcome != Outcome::Unreachable);
        let sent: u64 = sent.map(|(_, count)| count).sum();
        ClientMetrics {
            connections_opened: opened,
            connections_opened_ahead: self.connections.opened_ahead(),
            connections_reused: sent.saturating_sub(opened),
            disk_failures: self.answers.disk_failures(),
            limits_unshared: self.unshared.load(Ordering::Relaxed),
            ..metrics
        }
    }

    fn render(&self, request: &LLMRequest) -> RequestBody {
        let provider = &self.provider;
        let mut conversation = Conversation::new(provider.head(&Setup {
            model: self.endpoint.model.clone(),
            system: request.system.clone(),
            tools: Vec::new(),
            max_output_tokens: self.limits.max_output_tokens,
            max_output_chosen: self.limits.max_output_chosen,
            session_id: String::new(),
            temperature: request.temperature.or(self.limits.temperature),
            effort: self.limits.effort,
            answer_schema: None,
        }));
        for message in &request.messages {
            conversation.push_with(&provider.segment(message), Images::of(message.images()));
        }
        provider.frame(&conversation)
    }

    /// Asks for an answer: one that was kept, one that is on its way, or one of its own.
    fn ask(
        self: &Arc<Self>,
        body: RequestBody,
        tools: &[String],
        temperature: Option<f32>,
        sample: u32,
    ) -> ResponseStream {
        let key = self.request_key(&body, tools, sample);
        let kept = self.limits.answers.entries > 0
            && (self.limits.keep_all_answers || temperature.is_some_and(|t| t <= 0.0));
        let mut warning = None;
        if kept {
            let (answer, told) = self.answers.get(&key);
            if let Some(answer) = answer {
                self.counters.kept();
                let listener = Shared::again(self, key, answer.events());
                return ResponseStream { source: Source::Heard(listener) };
            }
            warning = told;
        }
        let begin = || {
            self.counters.request();
            let attempts = Attempts::new(Arc::clone(self), body, tools.to_vec(), warning);
            Shared::begin(self, key, kept.then(Kept::default), attempts)
        };
        let listener = if self.limits.shared_bytes == 0 {
            begin()
        } else {
            let mut flights = self.flights();
            let joined = flights.get(&key).and_then(Weak::upgrade).and_then(|s| s.join());
            if joined.is_some() {
                self.counters.shared();
            }
            joined.unwrap_or_else(|| {
                let listener = begin();
                flights.insert(key, listener.shared());
                listener
            })
        };
        ResponseStream { source: Source::Heard(listener) }
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
}

#[derive(Debug)]
enum Source {
    /// A request, or an answer that was kept.
    Heard(Listener),
    /// No request can be made.
    Failed(Option<LlmError>),
}

impl ResponseStream {
    /// Returns the next event; none after the answer or an error. Dropping the returned future
    /// loses nothing. Ask until none comes: reading the last bytes is what keeps the connection.
    pub async fn next(&mut self) -> Option<Result<StreamEvent, LlmError>> {
        match &mut self.source {
            Source::Heard(listener) => listener.next().await,
            Source::Failed(error) => error.take().map(Err),
        }
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
