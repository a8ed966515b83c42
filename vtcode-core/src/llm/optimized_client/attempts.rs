//! One logical request: its attempts, one after the other, as a stream of events.
//! Takes a body and the client that it goes through; gives what comes, and the ledger line of each
//! attempt. Never retries once words or calls were given out, and needs no task of its own.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use reqwest::Version;
use reqwest::header::{CONNECTION, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::breaker::Pass;
use super::clocks::{Clock, Clocks};
use super::error::{Leaves, LlmError};
use super::hedge::{self, Body, Opened, Opening, Second};
use super::ledger::Running;
use super::rate::{Reservation, Told};
use super::retry::{self, Budget};
use super::routes::{Onward, Rest, Routes};
use super::{Inner, StreamEvent, connect, root_cause};
use crate::core::conversation::RequestBody;
use crate::core::performance_profiler::Stopwatch;
use crate::llm::message::{Attempt, Delta, Outcome, Usage};
use crate::llm::provider::Decoder;
use crate::llm::provider::sse::{Framing, SseError};

/// The most of an answer that is taken in. No model writes a tenth of it.
const MAX_ANSWER_BYTES: usize = 256 * 1024 * 1024;

/// How much of an error's body is read, and how long for.
const MAX_ERROR_BYTES: usize = 64 * 1024;
const MAX_ERROR_WAIT: Duration = Duration::from_secs(2);

/// What may follow a finished answer before its connection is given up instead of kept.
const MAX_DRAIN_BYTES: usize = 64 * 1024;
const MAX_DRAIN_WAIT: Duration = Duration::from_millis(50);

/// A streamed answer. Dropping it ends the request and closes its connection, unless the answer
/// was read to its end.
pub(super) struct Attempts {
    routes: Arc<Routes>,
    /// The endpoint that it is at, and those that it left.
    at: usize,
    left: Vec<usize>,
    client: Arc<Inner>,
    body: RequestBody,
    tools: Arc<[String]>,
    clocks: Clocks,
    budget: Budget,
    state: State,
    /// What was decoded and not yet given out.
    ready: VecDeque<StreamEvent>,
    /// What the decoder gives; kept for its room.
    deltas: Vec<Delta>,
    /// What comes after that.
    failed: Option<LlmError>,
    /// True once words or a call were decoded: another attempt would say them twice.
    committed: bool,
    /// The place that the attempt took in the rate limits.
    reservation: Option<Reservation>,
    running: Option<Running>,
    /// The attempt's way past the endpoint's breaker.
    pass: Option<Pass>,
    /// When the answer is late enough to ask for it a second time, and who does.
    late_at: Option<Instant>,
    second: Option<Second>,
}

type Reserving = Pin<Box<dyn Future<Output = (Reservation, std::io::Result<()>)> + Send>>;

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
    Sending(Opening),
    Refused(Refusal),
    Answering(Answer),
    Draining {
        response: reqwest::Response,
        until: Instant,
        left_bytes: usize,
    },
    Ended,
}

pub(super) struct Refusal {
    response: reqwest::Response,
    pub(super) status: reqwest::StatusCode,
    pub(super) retry_after: Option<Duration>,
    pub(super) location: Option<String>,
    pub(super) body: Vec<u8>,
    until: Instant,
}

struct Answer {
    response: reqwest::Response,
    decoder: Box<dyn Decoder>,
    framing: Framing,
    taken_bytes: usize,
}

/// Returns whether the connection of an answer that has ended can carry another request.
fn is_kept(response: &reqwest::Response) -> bool {
    let closes = response.headers().get(CONNECTION).is_some_and(|value| value == "close");
    response.version() == Version::HTTP_11 && !closes
}

impl fmt::Debug for Attempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempts")
            .field("attempt", &self.budget.attempt())
            .field("committed", &self.committed)
            .finish_non_exhaustive()
    }
}

impl Drop for Attempts {
    /// An answer that nobody waited for is paid for all the same.
    fn drop(&mut self) {
        self.attempt_ended(Outcome::Cancelled);
    }
}

impl Attempts {
    /// Returns a request to an endpoint; `rest` is what is left of it.
    pub(super) fn new(
        routes: &Arc<Routes>,
        (at, rest): (usize, Rest),
        body: RequestBody,
        tools: Arc<[String]>,
        warning: Option<String>,
    ) -> Self {
        let client = Arc::clone(routes.get(at).unwrap_or(routes.first()));
        // What a request as a whole may use is what the first endpoint's limits say.
        let limits = &routes.first().limits;
        let clocks = Clocks::start(limits, &client.first_bytes());
        let clocks = match rest.total_at {
            Some(total_at) => clocks.going_on(total_at),
            None => clocks,
        };
        let budget = Budget::new(limits, rest.attempt, routes.left(at, &rest.left));
        Self {
            routes: Arc::clone(routes),
            at,
            left: rest.left,
            client,
            body,
            tools,
            clocks,
            budget,
            state: State::Waiting { until: Instant::now() },
            ready: warning.into_iter().map(|what| StreamEvent::Degraded { what }).collect(),
            deltas: Vec::new(),
            failed: None,
            committed: false,
            reservation: None,
            running: None,
            pass: None,
            late_at: None,
            second: None,
        }
    }

    /// Ends the request before its answer did; returns what the attempt came to.
    pub(super) fn cancel(mut self) -> Option<Attempt> {
        self.attempt_ended(Outcome::Cancelled)
    }

    /// Returns the next event; none after the answer or an error. Dropping the returned future
    /// loses nothing. Ask until none comes: reading the last bytes is what keeps the connection.
    pub(super) async fn next(&mut self) -> Option<Result<StreamEvent, LlmError>> {
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
        let look_up = self.clocks.look_up();
        match &mut self.state {
            State::Waiting { until } => {
                // A timer that is due still waits for the next tick, up to a millisecond, and that
                // before every request. bench: bench-agent, response end to next request
                if *until > Instant::now() {
                    sleep_until(*until).await;
                }
                if self.left_alone() {
                    return;
                }
                match self.client.limiter.clone() {
                    Some(limiter) => {
                        let bytes = self.body.weight();
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
            State::Sending(sending) => {
                let look_up = self.late_at.map_or(look_up, |late_at| late_at.min(look_up));
                tokio::select! {
                    biased;
                    opened = timeout_at(look_up, sending) => match opened {
                        Ok(opened) => self.first_opened(opened),
                        Err(_) if self.late() => {}
                        Err(_) if self.silent() => {}
                        Err(_) => self.fail(self.client.timed_out(clock, &self.clocks)),
                    },
                    (reservation, opened) = hedge::second(&mut self.second) => {
                        self.second_opened(reservation, opened);
                    }
                }
            }
            State::Refused(refusal) => {
                let until = deadline.min(refusal.until);
                match timeout_at(until, refusal.response.chunk()).await {
                    Ok(Ok(Some(bytes))) if refusal.body.len() < MAX_ERROR_BYTES => {
                        let room = MAX_ERROR_BYTES - refusal.body.len();
                        refusal.body.extend_from_slice(&bytes[..bytes.len().min(room)]);
                    }
                    // The end, or as much of it as we are ready to wait for.
                    ended => {
                        if matches!(ended, Ok(Ok(None))) && is_kept(&refusal.response) {
                            self.client.connections.returns();
                        }
                        let error = self.client.refused(refusal);
                        self.fail(error);
                    }
                }
            }
            State::Answering(answer) => match timeout_at(look_up, answer.response.chunk()).await {
                Ok(Ok(Some(bytes))) => self.take(&bytes),
                Ok(Ok(None)) => {
                    if is_kept(&answer.response) {
                        self.client.connections.returns();
                    }
                    self.end(None);
                }
                Ok(Err(error)) => {
                    let (url, cause) = (self.client.shown_url(), root_cause(&error));
                    self.end(Some(LlmError::Interrupted { url, cause }));
                }
                Err(_) if !self.silent() => {
                    self.end(Some(self.client.timed_out(clock, &self.clocks)));
                }
                Err(_) => {}
            },
            State::Draining { response, until, left_bytes } => {
                match timeout_at(*until, response.chunk()).await {
                    Ok(Ok(Some(bytes))) if bytes.len() < *left_bytes => *left_bytes -= bytes.len(),
                    ended => {
                        if matches!(ended, Ok(Ok(None))) && is_kept(response) {
                            self.client.connections.returns();
                        }
                        self.state = State::Ended;
                    }
                }
            }
            State::Ended => {}
        }
    }

    /// Asks a second time when the answer is late; false when it is not, or may not be asked for.
    fn late(&mut self) -> bool {
        if self.late_at.is_none_or(|late_at| Instant::now() < late_at) {
            return false;
        }
        self.late_at = None;
        if self.client.hedges.spend() {
            self.client.counters.hedged();
            let attempt = self.budget.attempt();
            self.second = Some(Second::begin(&self.client, &self.body, attempt));
        }
        true
    }

    /// The request that went first has an answer, or has failed; then the second one goes on alone.
    fn first_opened(&mut self, opened: reqwest::Result<Opened>) {
        let failed = match &opened {
            Ok(opened) if opened.response.status().is_success() => None,
            Ok(opened) if opened.response.status().as_u16() == 429 => Some(Outcome::RateLimited),
            Ok(_) => Some(Outcome::Failed),
            Err(_) => Some(Outcome::Broken),
        };
        match (failed, self.second.take()) {
            (Some(outcome), Some(second)) => {
                let attempt = self.attempt_ended(outcome);
                self.ready.extend(attempt.map(StreamEvent::AttemptEnded));
                self.running = Some(second.running);
                let other = second.opening;
                // Its place in the rate limits is the provider's to count from here on.
                self.state = State::Sending(Box::pin(async move {
                    let (reservation, opened) = other.await;
                    reservation.into_iter().for_each(Reservation::failed);
                    opened
                }));
            }
            (_, second) => {
                self.overtaken(second.map(|second| second.running));
                match opened {
                    Ok(opened) => self.answered(opened),
                    Err(error) => self.not_sent(&error),
                }
            }
        }
    }

    /// The second request has an answer, which is the one that counts, or has failed.
    fn second_opened(&mut self, place: Option<Reservation>, opened: reqwest::Result<Opened>) {
        let Some(second) = self.second.take() else { return };
        match opened {
            Ok(opened) if opened.response.status().is_success() => {
                self.client.counters.hedge_won();
                let first = self.running.replace(second.running);
                let first_place = std::mem::replace(&mut self.reservation, place);
                first_place.into_iter().for_each(Reservation::failed);
                self.overtaken(first);
                self.answered(opened);
            }
            _ => {
                place.into_iter().for_each(Reservation::failed);
                let attempt = second.running.end(Outcome::Failed);
                self.client.enter(&attempt);
                self.ready.push_back(StreamEvent::AttemptEnded(attempt));
            }
        }
    }

    /// Enters the one of two that began later into the ledger.
    fn overtaken(&mut self, running: Option<Running>) {
        if let Some(running) = running {
            let attempt = running.end(Outcome::Overtaken);
            self.client.enter(&attempt);
            self.ready.push_back(StreamEvent::AttemptEnded(attempt));
        }
    }

    /// Tells of a silence that lasts; false when its clock has run out.
    fn silent(&mut self) -> bool {
        let silence = self.clocks.silence(self.client.connections.is_opening());
        self.ready.extend(silence.map(StreamEvent::Silent));
        Instant::now() < self.clocks.deadline().0
    }

    /// The request did not get through. A server that breaks the newer protocol gets the older one.
    fn not_sent(&mut self, error: &reqwest::Error) {
        if connect::is_http2(error) && self.client.connections.leave_http2() {
            let what =
                format!("the server breaks HTTP/2 ({}); going on with HTTP/1.1", root_cause(error));
            self.ready.push_back(StreamEvent::Degraded { what });
        }
        self.fail(self.client.not_sent(error, &self.clocks));
    }

    /// Takes the place that the rate limits gave.
    fn reserved(&mut self, reservation: Reservation, shared: std::io::Result<()>) {
        if let Err(error) = shared
            && self.client.unshared.fetch_add(1, Ordering::Relaxed) == 0
        {
            self.ready.push_back(StreamEvent::Degraded {
                what: format!("rate limits are not shared with other runs: {error}"),
            });
        }
        let wait = reservation.wait;
        let error = LlmError::RateLimited {
            retry_after: Some(wait),
            message: "its limits leave no room before that".to_owned(),
        };
        let elsewhere = self.elsewhere().filter(|_| error.leaves() == Leaves::AtOnce);
        if elsewhere.is_some() || wait >= self.clocks.left() {
            // Dropped, it gives its place back.
            drop(reservation);
            if let Some(route) = elsewhere {
                self.fail_over(route, self.budget.attempt(), &error);
            } else {
                self.failed = Some(error);
                self.state = State::Ended;
            }
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
        self.running = Some(self.client.running(self.budget.attempt()));
        self.pass = Some(self.client.breaker.enter());
        let client = &self.client;
        self.clocks.attempt();
        client.hedges.earn(client.limits.hedge_budget);
        self.late_at = hedge::late_at(client, &self.body, &client.first_bytes());
        self.state = State::Sending(client.open(&self.body));
    }

    fn answered(&mut self, Opened { response, body }: Opened) {
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
        let content_type = header(CONTENT_TYPE).and_then(|text| text.get(.."text/html".len()));
        if content_type.is_some_and(|name| name.eq_ignore_ascii_case("text/html")) {
            let url = self.client.shown_url();
            self.fail(LlmError::NotAModel { url, what: "it sent an HTML page".to_owned() });
            return;
        }
        let (decoder, framing) = (self.client.provider.decoder(&self.tools), Framing::Unknown);
        self.state = State::Answering(Answer { response, decoder, framing, taken_bytes: 0 });
        match body {
            Body::Began(bytes) => self.take(&bytes),
            Body::Empty => self.end(None),
            Body::Unread => {}
        }
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
        let bytes = answer.framing.begin(bytes);
        let watch = Stopwatch::begin(self.client.limits.measured);
        let mut deltas = std::mem::take(&mut self.deltas);
        let result =
            match &mut answer.framing {
                Framing::Unknown => Ok(()),
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
        if let (Some(took), Some(running)) = (watch.read(), &mut self.running) {
            running.parsed(took);
        }
        self.give(deltas);
        if let Err(error) = result {
            self.fail(error);
        }
    }

    /// Takes the end of the answer, or what broke it. An answer that said it was finished is one,
    /// even if the connection broke between that and its own end.
    fn end(&mut self, broken: Option<LlmError>) {
        let State::Answering(answer) = &mut self.state else { return };
        let mut deltas = std::mem::take(&mut self.deltas);
        let result = match &answer.framing {
            Framing::Unknown | Framing::Events(_) => answer
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

    /// Gives out deltas. Words that came together are told together: each event costs its readers
    /// more than its words do. bench: decode, and bench-agent's long answer
    fn give(&mut self, mut deltas: Vec<Delta>) {
        let finished = deltas.iter().any(|delta| matches!(delta, Delta::Finish(_)));
        for delta in deltas.drain(..) {
            match (&delta, &mut self.running) {
                (Delta::Usage(usage), Some(running)) => running.used(*usage),
                _ => self.committed = true,
            }
            match (self.ready.back_mut(), &delta) {
                (Some(StreamEvent::Delta(Delta::Text(said))), Delta::Text(more))
                | (Some(StreamEvent::Delta(Delta::Reasoning(said))), Delta::Reasoning(more)) => {
                    said.push_str(more);
                }
                _ => self.ready.push_back(StreamEvent::Delta(delta)),
            }
        }
        self.deltas = deltas;
        if finished {
            self.client.was_answered(&self.body);
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
        self.client.enter(&attempt);
        if let Some(pass) = self.pass.take() {
            match outcome {
                Outcome::Done => pass.ended(true),
                Outcome::Unreachable | Outcome::Stalled | Outcome::Failed | Outcome::Broken => {
                    pass.ended(false);
                }
                // Nothing is known of its health.
                _ => drop(pass),
            }
        }
        Some(attempt)
    }

    /// Ends this attempt: with another one, or for good.
    fn fail(&mut self, error: LlmError) {
        let was_probe = self.pass.as_ref().is_some_and(Pass::is_probe);
        let attempt = self.attempt_ended(Outcome::from(&error));
        self.ready.extend(attempt.map(StreamEvent::AttemptEnded));
        let second = self.second.take();
        self.overtaken(second.map(|second| second.running));
        if let (LlmError::RateLimited { retry_after, .. }, Some(limiter)) =
            (&error, &self.client.limiter)
        {
            limiter.refused(*retry_after);
        }
        if matches!(error, LlmError::TimedOut { .. } | LlmError::Interrupted { .. }) {
            self.client.connections.renew();
            if let LlmError::TimedOut { clock: Clock::FirstByte, .. } = error {
                self.clocks.was_impatient(&self.client.limits);
            }
        }
        let leaves = if self.committed { Leaves::Never } else { error.leaves() };
        // Who only finds out whether an endpoint answers again does not insist, and nobody does at
        // one that fails everybody.
        let had_its_share =
            self.budget.had_its_share() || was_probe || !self.client.breaker.admits();
        let elsewhere = self.elsewhere().zip(self.budget.elsewhere()).filter(|_| match leaves {
            Leaves::Never => false,
            Leaves::WithItsShare => had_its_share,
            Leaves::AtOnce => true,
        });
        if let Some((route, attempt)) = elsewhere {
            self.fail_over(route, attempt, &error);
            return;
        }
        let wait = if self.committed { None } else { self.budget.next(&error, self.clocks.left()) };
        // What no wait mends here may be no trouble elsewhere.
        if wait.is_none()
            && leaves == Leaves::WithItsShare
            && let Some((route, attempt)) = self.elsewhere().zip(self.budget.elsewhere())
        {
            self.fail_over(route, attempt, &error);
            return;
        }
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

    /// Returns the endpoint at which the request could go on.
    fn elsewhere(&self) -> Option<usize> {
        self.routes.after(self.at, &self.left)
    }

    /// Leaves an endpoint that has failed others meanwhile, without asking it; false when it may be
    /// asked, or there is no other.
    fn left_alone(&mut self) -> bool {
        if self.client.breaker.admits() {
            return false;
        }
        let Some(route) = self.elsewhere() else { return false };
        self.hand_over(route, self.budget.attempt(), "it failed too often lately".to_owned());
        true
    }

    /// Goes on at another endpoint because of what happened at this one, which is left alone for a
    /// while: no further request has to find out the same.
    fn fail_over(&mut self, route: usize, attempt: u32, error: &LlmError) {
        self.client.breaker.trip(error.retry_after());
        self.hand_over(route, attempt, error.to_string());
    }

    fn hand_over(&mut self, route: usize, attempt: u32, cause: String) {
        self.client.counters.failed_over();
        let mut left = std::mem::take(&mut self.left);
        left.push(self.at);
        let rest = Rest { attempt, total_at: Some(self.clocks.total_at()), left };
        self.ready.push_back(StreamEvent::FailOver(Onward { route, rest, cause }));
        self.state = State::Ended;
    }
}
