//! What a guess is worth: its probability and its size go in, gain or loss in tokens comes out.
//! A step that is not needed saves the tokens that it would have read and written, and its time; a
//! file that nobody asks for costs its tokens now and in every request that carries it on.

use super::{Guess, Span};
use crate::config::limits::Price;

/// What a step and a token are worth. The unit is an input token at its full price.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Worth {
    /// A step that is not needed.
    pub step: f64,
    /// An attached token that is not needed.
    pub token: f64,
}

/// What is known of a session when a guess is weighed.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Standing {
    /// What tokens cost; none when nobody knows.
    pub price: Option<Price>,
    /// Tokens in the window.
    pub context_tokens: u64,
    /// Tokens that the model writes in a step.
    pub output_tokens: f64,
    /// How long a step takes, in seconds.
    pub step_seconds: f64,
    /// What a second of the user's time is worth, in input tokens.
    pub second_tokens: f64,
    /// Requests that will still carry what is attached now.
    pub requests_to_come: f64,
}

/// Where a price is not known: a provider that asks a tenth for what is in its cache, and five
/// times as much for what the model writes.
const USUAL: Price = Price { input: 1.0, cached: 0.1, output: 5.0 };

/// Tokens of a call and of the frame round its result.
const CALL_TOKENS: f64 = 60.0;

impl Worth {
    /// Returns what a step and a token are worth in a session.
    pub fn of(standing: &Standing) -> Self {
        let price = standing.price.filter(|price| price.input > 0.0).unwrap_or(USUAL);
        let (cached, output) = (price.cached / price.input, price.output / price.input);
        Self {
            step: standing.context_tokens as f64 * cached
                + standing.output_tokens * output
                + CALL_TOKENS
                + standing.step_seconds * standing.second_tokens,
            token: 1.0 + cached * standing.requests_to_come,
        }
    }

    /// Returns what attaching so many tokens gains, in input tokens at their full price, if they
    /// are asked for with this probability, from 0 to 1. Below 0 it is a loss.
    pub fn gain(&self, probability: f32, tokens: u64) -> f64 {
        let probability = f64::from(probability);
        probability * self.step - (1.0 - probability) * tokens as f64 * self.token
    }

    /// Returns the probability, from 0 to 1, from which on so many tokens are worth attaching.
    pub fn break_even(&self, tokens: u64) -> f64 {
        let cost = tokens as f64 * self.token;
        if cost + self.step > 0.0 { cost / (cost + self.step) } else { 1.0 }
    }
}

/// How much is attached at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    /// Files for one result.
    pub files: usize,
    /// Tokens for one result.
    pub tokens: u64,
    /// Tokens of a file that is attached whole; of a larger one, a part is.
    pub whole_tokens: u64,
    /// The lines of such a part.
    pub part_lines: u32,
}

impl Bounds {
    /// Returns the bounds within which at most so many tokens are attached to one result: of 3
    /// files at most, and of a file that does not fit, 120 lines.
    pub fn of(tokens: u64) -> Self {
        Self { files: 3, tokens, whole_tokens: tokens, part_lines: 120 }
    }
}

/// Bytes of a token of source code, about.
pub const TOKEN_BYTES: u64 = 4;
/// Bytes of a line of source code, about.
pub const LINE_BYTES: u64 = 40;

/// Returns what of a file of so many bytes is worth showing, and the tokens that it takes: the
/// whole of a small one, else the lines round the one that was named, or those after what was read.
pub fn part(guess: &Guess<'_>, bytes: u64, bounds: &Bounds) -> (Span, u64) {
    let tokens = bytes.div_ceil(TOKEN_BYTES);
    if tokens <= bounds.whole_tokens {
        return (Span::Whole, tokens);
    }
    let lines = bounds.part_lines;
    let first = match (guess.line, guess.read) {
        // What is named is mostly read from a little before it on.
        (Some(line), _) => line.saturating_sub(lines / 4).max(1),
        (None, Some(Span::Lines { last, .. })) if last != u32::MAX => last.saturating_add(1),
        _ => 1,
    };
    let span = Span::Lines { first, last: first.saturating_add(lines - 1) };
    (span, u64::from(lines) * LINE_BYTES / TOKEN_BYTES)
}
