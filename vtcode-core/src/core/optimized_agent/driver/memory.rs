//! The session's memory: what the driver keeps is charged, and what would be too much is refused in
//! words that the model or the user reads. Looks at the process when something is about to begin,
//! and never in between.

use std::sync::Arc;

use super::super::phase::{Limit, Stop};
use super::Run;
use crate::core::memory_budget::{Account, Charge, MemoryBudget, Sheds};
use crate::core::memory_pool::global_pool;
use crate::llm::message::ToolCall;
use crate::llm::optimized_client::OptimizedLLMClient;
use crate::tools::async_pipeline::AsyncToolPipeline;

/// An answer that grows by this much is held against the ceiling once more.
const ANSWER_STEP_BYTES: u64 = 64 * 1024;
/// A running call holds at most so many times the bytes of its result in buffers.
const BUFFERS_PER_RESULT: u64 = 4;

/// What the driver has charged.
#[derive(Debug)]
pub(super) struct Charges {
    history: Charge,
    results: Charge,
    answer: Charge,
    /// Where the answer is looked at next.
    next_look: u64,
}

impl Charges {
    /// Charges nothing yet; what can be made again is shed from here on.
    pub(super) fn new(
        budget: &MemoryBudget,
        pipeline: &AsyncToolPipeline,
        client: &Arc<OptimizedLLMClient>,
    ) -> Self {
        budget.watch(Arc::clone(pipeline.registry()) as Arc<dyn Sheds>);
        budget.watch(Arc::clone(client) as Arc<dyn Sheds>);
        budget.watch(Arc::new(global_pool()));
        Self {
            history: budget.hold(Account::History, 0),
            results: budget.hold(Account::ToolOutput, 0),
            answer: budget.hold(Account::Answer, 0),
            next_look: ANSWER_STEP_BYTES,
        }
    }
}

impl Run<'_> {
    /// Charges a result until the next request holds it.
    pub(super) fn charge_result(&mut self, bytes: usize) {
        self.charges.results.add(bytes as u64);
    }

    /// Asks for the memory of a call; its answer says why there is none.
    pub(super) fn room_for_call(&self, call: &ToolCall) -> Result<Charge, String> {
        let result_bytes = self.engine.pipeline.registry().limits().result_bytes as u64;
        let charge = self.engine.memory.charge(
            Account::ToolOutput,
            result_bytes.saturating_mul(BUFFERS_PER_RESULT) + call.arguments.len() as u64,
        );
        charge.map_err(|full| {
            format!(
                "not run, because there is no memory left for it: {full}; finish with what you have"
            )
        })
    }

    /// A request goes out: what was said and done until now is in the conversation, or given up, and
    /// its answer has said nothing yet. Charges what is in memory of that; returns whether there is
    /// room for the answer.
    pub(super) fn room_for_answer(&mut self) -> bool {
        self.charges.history.set(self.conversation.window_bytes() as u64);
        self.charges.results.set(0);
        self.charges.answer.set(0);
        self.charges.next_look = ANSWER_STEP_BYTES;
        let Some(full) = self.engine.memory.is_full() else { return true };
        self.stop(Stop::Limit(Limit::Memory(full)));
        false
    }

    /// Charges what the answer says; one that does not end ends the prompt.
    pub(super) fn charge_answer(&mut self, bytes: usize) {
        let Charges { answer, next_look, .. } = &mut self.charges;
        answer.add(bytes as u64);
        if answer.bytes() < *next_look {
            return;
        }
        *next_look = answer.bytes() + ANSWER_STEP_BYTES;
        if let Err(full) = self.engine.memory.admit(0)
            && !self.stopped
        {
            self.stop(Stop::Limit(Limit::Memory(full)));
        }
    }
}
