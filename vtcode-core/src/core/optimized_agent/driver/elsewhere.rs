//! The endpoint that requests go to: when it is another one than the last request's, the conversation
//! is made anew as that one's wire and model want it. Decides nothing: the client says where to.

use super::history::rendering as name_of;
use super::{Run, rendering};
use crate::config::limits::ContextLimits;
use crate::core::conversation::Conversation;
use crate::core::event::{EventKind, Prefix, PrefixChange};
use crate::core::journal::Journal;
use crate::llm::message::Setup;
use crate::llm::optimized_client::Place;

/// Says what a request to a place carries besides its messages.
pub(super) fn setup_for(setup: &Setup, place: &Place<'_>) -> Setup {
    let (endpoint, limits) = (place.endpoint, place.limits);
    Setup {
        model: endpoint.model.clone(),
        max_output_tokens: limits.max_output_tokens,
        max_output_chosen: limits.max_output_chosen,
        temperature: limits.temperature,
        effort: limits.effort,
        ..setup.clone()
    }
}

impl Run<'_> {
    /// Turns to the endpoint that the next request goes to.
    pub(super) async fn turn(&mut self) {
        let route = self.engine.client.route();
        if route != self.route && self.move_to(route).await {
            let cause = if route == 0 {
                "it is asked again after its failure"
            } else {
                "the one before it is left alone after its failure"
            };
            self.tell_place(1, cause.to_owned());
        }
    }

    /// Goes on with a request that left its endpoint before it gave anything.
    pub(super) async fn go_on_elsewhere(&mut self) {
        let Some(onward) = self.onward.take() else { return };
        if self.stopped || !self.move_to(onward.route()).await {
            return;
        }
        self.tell_place(onward.attempt(), onward.cause().to_owned());
        let body = if self.summing_up { self.summary_body() } else { self.frame() };
        if let Some(weight) = self.admit(&body) {
            self.expect_answer(weight);
            self.stream = Some(self.engine.client.go_on(onward, body, &self.tool_names));
            self.tell_prefix();
        }
    }

    /// Makes the conversation anew for an endpoint. False when it cannot be read: the prompt ends.
    async fn move_to(&mut self, route: usize) -> bool {
        // What is on its way to the disk is of the conversation as it was.
        self.take_stored(true).await;
        let Some(messages) = self.view() else { return false };
        // The client only names places that it has.
        let Ok(place) = self.engine.client.place(route) else { return false };
        self.route = route;
        self.provider = place.provider;
        self.wire = name_of(place.endpoint);
        self.place = place.endpoint.to_string();
        let head = self.provider.head(&setup_for(&self.setup, &place));
        let mut conversation = Conversation::new(head);
        let (provider, folder) = (self.provider, self.journal.as_ref().map(Journal::dir));
        let render = || {
            for message in &messages {
                rendering::push(&mut conversation, provider, folder, message);
            }
        };
        self.meter.time(|work| &mut work.render, render);
        self.conversation = conversation;
        self.budget.priced(place.limits.price);
        let weight = self.frame().weight();
        self.budget.resized(weight);
        true
    }

    fn tell_place(&mut self, attempt: u32, cause: String) {
        let Ok(Place { endpoint, .. }) = self.engine.client.place(self.route) else { return };
        self.tell(EventKind::EndpointChanged {
            attempt,
            provider: endpoint.provider.clone(),
            base_url: endpoint.base_url.clone(),
            model: endpoint.model.clone(),
            cause,
        });
    }

    /// Tells whether the request that goes out begins otherwise than the one before it; returns what
    /// it begins with.
    pub(super) fn tell_prefix(&mut self) -> Prefix {
        let (prefix, change) = self.prefixes.sends(&self.conversation, &self.place);
        if let Some(change) = change {
            self.tell(EventKind::PrefixChanged { change });
            let message = match change {
                PrefixChange::Unexplained => {
                    "this request does not begin as the one before it did; that is a fault of VT \
                     Code"
                }
                PrefixChange::ImageLost => {
                    "an image of this session is gone from its folder; the model reads words in its \
                     place"
                }
                _ => "",
            };
            if !message.is_empty() {
                self.tell(EventKind::Warning { message: message.to_owned() });
            }
        }
        prefix
    }

    /// Returns what may be filled of the window of the model that is asked.
    pub(super) fn context_limits(&self) -> ContextLimits {
        let limits = self.limits.context;
        match self.engine.client.place(self.route) {
            Ok(Place { endpoint, limits: client, .. }) if self.route > 0 => {
                let window = endpoint.dialect.facts.context_window;
                ContextLimits {
                    window_tokens: window.or(limits.window_tokens),
                    answer_tokens: u64::from(client.max_output_tokens),
                    ..limits
                }
            }
            _ => limits,
        }
    }
}
