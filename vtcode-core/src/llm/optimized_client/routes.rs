//! Where requests may go: endpoints in the order in which they are wanted come in, the one that the
//! next request goes to comes out, and what is left of a request that has to go on elsewhere.
//! Sends nothing, and renders nothing: a request for another endpoint is made anew by who knows
//! what is in it.

use std::sync::atomic::Ordering;
use std::sync::{Arc, Weak};

use tokio::time::Instant;

use super::answers::Kept;
use super::attempts::Attempts;
use super::ledger::{Counters, EndpointMetrics};
use super::shared::{Listener, Shared};
use super::transport::Transport;
use super::{ClientMetrics, Folders, Inner, LlmError, ResponseStream, Source};
use crate::config::endpoint::Endpoint;
use crate::config::limits::ClientLimits;
use crate::core::conversation::RequestBody;
use crate::llm::message::Outcome;
use crate::llm::provider::Provider;

/// An endpoint that requests may go to, and what a request to it may use.
#[derive(Debug, Clone)]
pub struct Route {
    /// The endpoint.
    pub endpoint: Endpoint,
    /// The limits; those of the first route hold for clocks and attempts of a whole request.
    pub limits: ClientLimits,
}

/// What is needed to make a request for one of a client's endpoints.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    /// The endpoint.
    pub endpoint: &'a Endpoint,
    /// What a request may use.
    pub limits: &'a ClientLimits,
    /// The translation between the conversation and its wire.
    pub provider: &'a dyn Provider,
}

/// A request that leaves its endpoint: where it goes on, why, and what is left of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Onward {
    pub(super) route: usize,
    pub(super) rest: Rest,
    pub(super) cause: String,
}

impl Onward {
    /// Returns the endpoint that it goes to, counted from 0.
    pub fn route(&self) -> usize {
        self.route
    }

    /// Returns the number of the attempt that follows, from 1.
    pub fn attempt(&self) -> u32 {
        self.rest.attempt
    }

    /// Returns why it leaves.
    pub fn cause(&self) -> &str {
        &self.cause
    }
}

/// What is left of a request: the attempts and the time that it had as a whole only shrink.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rest {
    /// The attempt that follows.
    pub(super) attempt: u32,
    /// When its time is over; none: it has not begun.
    pub(super) total_at: Option<Instant>,
    /// The endpoints that it left.
    pub(super) left: Vec<usize>,
}

impl Rest {
    /// All of it.
    pub(super) fn whole() -> Self {
        Self { attempt: 1, ..Self::default() }
    }
}

/// Every endpoint of a client.
pub(super) struct Routes {
    all: Vec<Arc<Inner>>,
    counters: Arc<Counters>,
}

/// A rendered request.
pub(super) struct Asked<'a> {
    pub(super) body: RequestBody,
    pub(super) tools: &'a Arc<[String]>,
    pub(super) temperature: Option<f32>,
    pub(super) sample: u32,
}

impl Routes {
    pub(super) fn new(routes: Vec<Route>, folders: Folders<'_>) -> Result<Self, LlmError> {
        let counters = Arc::<Counters>::default();
        let inner = |Route { endpoint, limits }| {
            Inner::new(endpoint, limits, folders, Arc::clone(&counters)).map(Arc::new)
        };
        let all = routes.into_iter().map(inner).collect::<Result<Vec<_>, _>>()?;
        if all.is_empty() {
            return Err(LlmError::Endpoint { what: "there is none".to_owned() });
        }
        Ok(Self { all, counters })
    }

    /// Returns a single endpoint whose answers come by another way than the network.
    pub(super) fn with_transport(route: Route, transport: Transport) -> Result<Self, LlmError> {
        let counters = Arc::<Counters>::default();
        let Route { endpoint, limits } = route;
        let mut inner = Inner::new(endpoint, limits, Folders::default(), Arc::clone(&counters))?;
        inner.transport = transport;
        Ok(Self { all: vec![Arc::new(inner)], counters })
    }

    /// Returns the endpoint that is wanted most.
    pub(super) fn first(&self) -> &Arc<Inner> {
        &self.all[0]
    }

    /// Returns an endpoint.
    pub(super) fn get(&self, route: usize) -> Result<&Arc<Inner>, LlmError> {
        let none = || LlmError::Endpoint { what: format!("there is no number {route}") };
        self.all.get(route).ok_or_else(none)
    }

    pub(super) fn each(&self) -> impl Iterator<Item = &Arc<Inner>> {
        self.all.iter()
    }

    /// Returns where the next request goes: to the first endpoint that is not left alone, or to the
    /// very first when all are.
    pub(super) fn choose(&self) -> usize {
        self.all.iter().position(|inner| inner.breaker.admits()).unwrap_or(0)
    }

    /// Returns where a request at an endpoint goes on that it has to leave; none: nowhere.
    pub(super) fn after(&self, at: usize, left: &[usize]) -> Option<usize> {
        self.open(at, left).next()
    }

    /// Returns how many endpoints a request has, the one that it is at included.
    pub(super) fn left(&self, at: usize, left: &[usize]) -> u32 {
        1 + self.open(at, left).count() as u32
    }

    fn open<'a>(&'a self, at: usize, left: &'a [usize]) -> impl Iterator<Item = usize> + 'a {
        let others =
            self.all.iter().enumerate().filter(move |(n, _)| *n != at && !left.contains(n));
        others.filter(|(_, inner)| inner.breaker.admits()).map(|(n, _)| n)
    }

    /// Asks an endpoint for an answer: one that was kept, one that is on its way, or one of its own.
    pub(super) fn ask(
        self: &Arc<Self>,
        route: usize,
        rest: Rest,
        asked: Asked<'_>,
    ) -> Result<ResponseStream, LlmError> {
        let inner = self.get(route)?;
        let Asked { body, tools, temperature, sample } = asked;
        let key = inner.request_key(&body, tools, sample);
        let limits = &inner.limits;
        let kept = limits.answers.entries > 0
            && (limits.keep_all_answers || temperature.is_some_and(|t| t <= 0.0));
        let mut warning = None;
        if kept {
            let (answer, told) = inner.answers.get(&key);
            if let Some(answer) = answer {
                self.counters.kept();
                return Ok(heard(Shared::again(inner, key, answer.events())));
            }
            warning = told;
        }
        let begin = || {
            if rest.total_at.is_none() {
                self.counters.request();
            }
            let attempts = Attempts::new(self, (route, rest), body, Arc::clone(tools), warning);
            Shared::begin(inner, key, kept.then(Kept::default), attempts)
        };
        if limits.shared_bytes == 0 {
            return Ok(heard(begin()));
        }
        let mut flights = inner.flights();
        let joined = flights.get(&key).and_then(Weak::upgrade).and_then(|s| s.join());
        if joined.is_some() {
            self.counters.shared();
        }
        Ok(heard(joined.unwrap_or_else(|| {
            let listener = begin();
            flights.insert(key, listener.shared());
            listener
        })))
    }

    pub(super) fn metrics(&self) -> ClientMetrics {
        let metrics = self.counters.metrics();
        let sum = |of: fn(&Inner) -> u64| self.all.iter().map(|inner| of(inner)).sum();
        let opened = sum(|inner| inner.connections.opened());
        let sent = metrics.attempts.iter().filter(|(outcome, _)| *outcome != Outcome::Unreachable);
        let sent: u64 = sent.map(|(_, count)| count).sum();
        let endpoint = |inner: &Arc<Inner>| EndpointMetrics {
            endpoint: inner.endpoint.to_string(),
            first_byte: inner.first_bytes.percentiles(),
            admits: inner.breaker.admits(),
        };
        ClientMetrics {
            connections_opened: opened,
            connections_opened_ahead: sum(|inner| inner.connections.opened_ahead()),
            connections_reused: sent.saturating_sub(opened),
            disk_failures: sum(|inner| inner.answers.disk_failures()),
            limits_unshared: sum(|inner| inner.unshared.load(Ordering::Relaxed)),
            endpoints: self.all.iter().map(endpoint).collect(),
            ..metrics
        }
    }
}

fn heard(listener: Listener) -> ResponseStream {
    ResponseStream { source: Source::Heard(listener), again: None }
}
