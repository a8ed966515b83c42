//! What a prompt may use: requests and what they used come in, the limit that the next request
//! would pass goes out, before it is sent. Where a provider reports no usage, the size of what
//! went over the wire is counted instead.

use crate::config::limits::{AgentLimits, Price};
use crate::llm::message::{Attempt, Outcome, Usage};

use super::phase::Limit;

/// Bytes of a request that are about one token, until an answer tells.
const BYTES_PER_TOKEN: u64 = 4;

/// What the prompt has used, and what tells how much the next request will.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// What the tokens of the model that is asked cost, if known.
    price: Option<Price>,
    spent: Usage,
    spent_usd: f64,
    /// What all prompts cost, and whether some of it is not known.
    total_usd: f64,
    unknown: bool,
    /// The size of the request that is out, and of what its answer said so far.
    body_bytes: u64,
    answer_bytes: u64,
    /// Body bytes and usage of the last answer that told its usage.
    last: Option<(u64, Usage)>,
}

impl Budget {
    /// Begins with a model of this price.
    pub(super) fn at(price: Option<Price>) -> Self {
        Self { price, ..Self::default() }
    }

    /// From here on, a model of this price is asked.
    pub(super) fn priced(&mut self, price: Option<Price>) {
        self.price = price;
    }

    /// Another prompt begins.
    pub(super) fn begin(&mut self) {
        (self.spent, self.spent_usd) = (Usage::default(), 0.0);
    }

    /// Returns what all prompts cost, if all of it is known.
    pub(super) fn cost_usd(&self) -> Option<f64> {
        let known = !self.unknown && (self.total_usd > 0.0 || self.price.is_some());
        known.then_some(self.total_usd)
    }

    /// Returns the limit that a request of this size would pass.
    pub(super) fn passed_by(&self, body_bytes: usize, limits: &AgentLimits) -> Option<Limit> {
        let next = self.guess(body_bytes as u64);
        let tokens = |usage: Usage| usage.input_tokens.saturating_add(usage.output_tokens);
        if let Some(max) = limits.max_tokens
            && tokens(self.spent).saturating_add(tokens(next)) > max
        {
            return Some(Limit::Tokens(max));
        }
        let (max, price) = (limits.max_cost_usd?, self.price?);
        (self.spent_usd + price.of(next) > max).then_some(Limit::Cost(max))
    }

    /// A request goes out.
    pub(super) fn sends(&mut self, body_bytes: usize) {
        (self.body_bytes, self.answer_bytes) = (body_bytes as u64, 0);
    }

    /// The answer says something.
    pub(super) fn says(&mut self, bytes: usize) {
        self.answer_bytes += bytes as u64;
    }

    /// The conversation was made anew: what its next request uses is guessed by what the last one
    /// did, byte for byte, and nothing of it is in a cache.
    pub(super) fn resized(&mut self, body_bytes: usize) {
        if let Some((before, usage)) = &mut self.last {
            let tokens = u128::from(usage.input_tokens) * body_bytes as u128;
            let tokens = tokens.div_ceil(u128::from((*before).max(1)));
            let input_tokens = u64::try_from(tokens).unwrap_or(u64::MAX);
            *usage = Usage { input_tokens, ..Usage::default() };
            *before = body_bytes as u64;
        }
    }

    /// An attempt ended.
    pub(super) fn ended(&mut self, attempt: &Attempt) {
        let told = attempt.usage != Usage::default();
        if told {
            self.last = Some((self.body_bytes, attempt.usage));
        } else if !began(attempt) {
            return;
        }
        let output_tokens = self.answer_bytes.div_ceil(BYTES_PER_TOKEN);
        let guess = || Usage { output_tokens, ..self.guess(self.body_bytes) };
        let usage = if told { attempt.usage } else { guess() };
        let cost = attempt.cost_usd.filter(|_| told).or(self.price.map(|price| price.of(usage)));
        self.spent += usage;
        self.spent_usd += cost.unwrap_or_default();
        // What a provider did not tell is a guess, which bounds the prompt and is no account.
        if told {
            self.total_usd += cost.unwrap_or_default();
        }
        self.unknown |= cost.is_none();
    }

    /// Guesses what a request of this size uses, its answer not counted: that of the last one,
    /// and what came after it.
    pub(super) fn guess(&self, body_bytes: u64) -> Usage {
        let Some((before, usage)) = self.last else {
            let input_tokens = body_bytes.div_ceil(BYTES_PER_TOKEN);
            return Usage { input_tokens, ..Usage::default() };
        };
        let input_tokens =
            usage.input_tokens + body_bytes.saturating_sub(before).div_ceil(BYTES_PER_TOKEN);
        // A provider that keeps prefixes has the last request by now.
        let caches = usage.cached_input_tokens > 0;
        let cached_input_tokens = if caches { usage.input_tokens } else { 0 };
        Usage { input_tokens, cached_input_tokens, output_tokens: 0 }
    }
}

/// Returns whether the model began to answer, which a provider bills even when nobody hears it.
fn began(attempt: &Attempt) -> bool {
    match attempt.outcome {
        Outcome::Done => true,
        Outcome::Broken | Outcome::Stalled | Outcome::Cancelled | Outcome::Overtaken => {
            attempt.first_byte.is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::limits::Limits;

    const PRICE: Price = Price { input: 2.0, cached: 0.2, output: 10.0 };

    fn limits(max_tokens: Option<u64>, max_cost_usd: Option<f64>) -> AgentLimits {
        AgentLimits { max_tokens, max_cost_usd, ..Limits::full().agent }
    }

    fn attempt(outcome: Outcome, input: u64, cached: u64, output: u64) -> Attempt {
        let usage =
            Usage { input_tokens: input, cached_input_tokens: cached, output_tokens: output };
        Attempt {
            attempt: 1,
            model: String::new(),
            outcome,
            usage,
            cost_usd: None,
            first_byte: None,
            took: Duration::ZERO,
            parse: Duration::ZERO,
        }
    }

    #[test]
    fn a_request_that_would_pass_a_limit_is_known_before_it_is_sent() {
        let mut budget = Budget::default();
        let tokens = |max| limits(Some(max), None);
        assert_eq!(budget.passed_by(4000, &tokens(1000)), None);
        assert_eq!(budget.passed_by(4004, &tokens(1000)), Some(Limit::Tokens(1000)));
        budget.sends(4000);
        budget.ended(&attempt(Outcome::Done, 900, 0, 100));
        // 1,000 are spent, and 900 and what is new would follow.
        assert_eq!(budget.passed_by(4400, &tokens(2000)), None);
        assert_eq!(budget.passed_by(4404, &tokens(2000)), Some(Limit::Tokens(2000)));
        budget.begin();
        assert_eq!(budget.passed_by(4400, &tokens(1000)), None);
    }

    #[test]
    fn what_a_broken_answer_used_is_spent_too() {
        let mut budget = Budget::default();
        budget.sends(4000);
        budget.ended(&attempt(Outcome::Broken, 900, 0, 100));
        assert_eq!(budget.passed_by(4000, &limits(Some(1899), None)), Some(Limit::Tokens(1899)));
        assert_eq!(budget.passed_by(4000, &limits(Some(1900), None)), None);
    }

    #[test]
    fn without_a_word_of_usage_the_bytes_count() {
        let mut budget = Budget::default();
        budget.sends(4000);
        budget.says(400);
        budget.ended(&attempt(Outcome::Done, 0, 0, 0));
        assert_eq!(budget.passed_by(4000, &limits(Some(2099), None)), Some(Limit::Tokens(2099)));
        assert_eq!(budget.passed_by(4000, &limits(Some(2100), None)), None);
        // A refused attempt used nothing.
        budget.ended(&attempt(Outcome::RateLimited, 0, 0, 0));
        assert_eq!(budget.passed_by(4000, &limits(Some(2100), None)), None);
    }

    #[test]
    fn what_the_provider_keeps_costs_less() {
        let mut budget = Budget::at(Some(PRICE));
        budget.sends(400_000);
        budget.ended(&attempt(Outcome::Done, 100_000, 90_000, 1000));
        // 10,000 fresh, 90,000 cached and 1,000 out cost 4.8 cents; the next one 2 if it is kept.
        assert_eq!(budget.passed_by(400_000, &limits(None, Some(0.07))), None);
        assert_eq!(budget.passed_by(400_000, &limits(None, Some(0.06))), Some(Limit::Cost(0.06)));
    }

    #[test]
    fn an_attempt_that_broke_off_is_paid_for_at_the_price_of_who_began_it() {
        let cents = |cents: f64| limits(None, Some(cents / 100.0));
        let mut budget = Budget::at(Some(PRICE));
        budget.sends(400_000);
        // 100,000 in and 1,000 out cost 21 cents there.
        let broken = attempt(Outcome::Broken, 100_000, 0, 1000);
        budget.ended(&Attempt { cost_usd: Some(0.21), ..broken });
        budget.priced(Some(Price { input: 1.0, cached: 1.0, output: 1.0 }));
        assert_eq!(budget.passed_by(400_000, &cents(31.1)), None);
        assert!(budget.passed_by(400_000, &cents(30.9)).is_some());
        assert_eq!(budget.cost_usd(), Some(0.21));

        // Nobody said what this one used, but it had begun.
        let mut budget = Budget::at(Some(PRICE));
        budget.sends(400_000);
        let broken = attempt(Outcome::Broken, 0, 0, 0);
        budget.ended(&broken);
        assert_eq!(budget.passed_by(400_000, &cents(20.1)), None, "it never began");
        budget.ended(&Attempt { first_byte: Some(Duration::ZERO), ..broken });
        assert!(budget.passed_by(400_000, &cents(39.9)).is_some());
        assert_eq!(budget.cost_usd(), Some(0.0), "what is only guessed is on no account");
    }
}
