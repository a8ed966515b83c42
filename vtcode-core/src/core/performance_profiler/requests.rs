//! What became of a run's model requests: attempts and counts come in as events, two lines of the
//! report go out.

use std::time::Duration;

use super::show;
use crate::core::event::{ClientCounts, EventKind};
use crate::llm::message::Usage;

/// The sums of a run's requests.
#[derive(Debug, Clone, Default)]
pub struct Requests {
    /// What the client last told.
    pub counts: ClientCounts,
    /// The tokens of all attempts.
    pub usage: Usage,
    /// What they cost, in US dollars; none where a price is not known.
    pub cost_usd: Option<f64>,
    /// From the first byte to the end, all attempts together.
    pub answering: Duration,
}

impl Requests {
    pub(super) fn take(&mut self, event: &EventKind) {
        match event {
            EventKind::ClientCounts { counts } => self.counts = counts.clone(),
            EventKind::AttemptEnded(attempt) => {
                self.usage += attempt.usage;
                if let Some(usd) = attempt.cost_usd {
                    *self.cost_usd.get_or_insert_default() += usd;
                }
                let first_byte = attempt.first_byte.unwrap_or(attempt.took);
                self.answering += attempt.took.saturating_sub(first_byte);
            }
            _ => {}
        }
    }

    /// Writes both lines; nothing when nothing was asked.
    pub(super) fn lines(&self) -> String {
        let counts = &self.counts;
        if counts.requests + counts.kept + counts.shared == 0 {
            return String::new();
        }
        let attempts: Vec<_> = counts
            .attempts
            .iter()
            .map(|(outcome, count)| format!("{count} {}", format!("{outcome:?}").to_lowercase()))
            .collect();
        let usage = self.usage;
        let each = self.answering.checked_div(u32::try_from(usage.output_tokens).unwrap_or(0));
        format!(
            "model requests: {}; {} kept, {} shared; {} waits, {}; {} hedged, {} won; \
             {} failed over; \
             connections: {} opened, {} of them ahead, {} used again\n  \
             {} tokens in ({} cached), {} out, {}; first byte {} (p95 {}, p99 {}); {} a token\n",
            attempts.join(", "),
            counts.kept,
            counts.shared,
            counts.waits,
            show(counts.waited),
            counts.hedges,
            counts.hedges_won,
            counts.failovers,
            counts.connections_opened,
            counts.connections_opened_ahead,
            counts.connections_reused,
            usage.input_tokens,
            usage.cached_input_tokens,
            usage.output_tokens,
            self.cost_usd.map_or_else(|| "cost unknown".to_owned(), |usd| format!("${usd:.4}")),
            show(counts.first_byte_p50),
            show(counts.first_byte_p95),
            show(counts.first_byte_p99),
            show(each.unwrap_or_default()),
        )
    }
}
