//! The state machine without a world: benches and the regression gate measure with it what a turn
//! costs before anything is performed.

use super::phase::{Action, Input, Phase, Verdict, step};
use crate::config::limits::AgentLimits;
use crate::llm::message::{FinishReason, Part, Prompt, ToolAnswer, ToolCall, Usage};

/// What happens to a session that goes well, written down beforehand.
#[derive(Debug, Clone)]
pub struct Rehearsal {
    inputs: Vec<Input>,
    limits: AgentLimits,
}

impl Rehearsal {
    /// Returns one prompt with `turns` turns of `calls` calls each, which answer in order, and a
    /// last one of words.
    pub fn new(turns: u32, calls: usize, limits: &AgentLimits) -> Self {
        let limits = AgentLimits { max_turns: turns.saturating_add(1), ..limits.clone() };
        let name = || "read_file".to_owned();
        let mut inputs = vec![Input::Prompt(Prompt::default())];
        let ended =
            |finish| Input::AnswerEnded { finish, usage: Usage::default(), verdict: Verdict::Free };
        for _ in 0..turns {
            for call in 0..calls {
                let (id, arguments) = (format!("call_{call}"), "{}".to_owned());
                inputs.push(Input::Part(Part::ToolCall(ToolCall { id, name: name(), arguments })));
            }
            inputs.push(ended(FinishReason::ToolCalls));
            for call in 0..calls {
                let (call_id, text) = (format!("call_{call}"), String::new());
                let answer = ToolAnswer { call_id, name: name(), text, is_error: false };
                inputs.push(Input::CallDone(call, answer));
            }
        }
        inputs.push(Input::Part(Part::Text { text: "Done.".to_owned() }));
        inputs.push(ended(FinishReason::Stop));
        Self { inputs, limits }
    }

    /// Returns how many transitions it takes.
    pub fn transitions(&self) -> usize {
        self.inputs.len()
    }

    /// Takes the state machine through it; performs nothing of what it orders, and lets go of each
    /// order at once. Returns the number of its orders. Panics when the prompt does not come to its
    /// end.
    pub fn run(self) -> usize {
        let (mut phase, mut actions, mut orders) = (Phase::Idle, Vec::new(), 0);
        for input in self.inputs {
            step(&mut phase, input, &self.limits, &mut actions);
            orders += actions.len();
            actions.clear();
        }
        assert_eq!(phase, Phase::Idle, "a prompt whose model is content has an end");
        orders
    }

    /// Does the same and hands the orders over, as to who performs them. Panics as
    /// [`run`](Self::run) does.
    pub fn give(self, orders: &mut Orders) {
        let mut phase = Phase::Idle;
        for input in self.inputs {
            step(&mut phase, input, &self.limits, &mut orders.0);
        }
        assert_eq!(phase, Phase::Idle, "a prompt whose model is content has an end");
    }
}

/// What a rehearsal ordered.
#[derive(Debug, Default)]
pub struct Orders(Vec<Action>);

impl Orders {
    /// Lets go of all of it; the room stays.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    #[test]
    fn every_turn_is_asked_for_started_and_told() {
        for limits in [Limits::full().agent, Limits::plain().agent] {
            let rehearsal = Rehearsal::new(3, 4, &limits);
            // The prompt; three turns of four calls, their results and an end; the last words.
            assert_eq!(rehearsal.transitions(), 1 + 3 * (4 + 1 + 4) + 2);
            // The prompt's message and request; for each turn four calls, two messages and the next
            // request; the last message and the end.
            let mut orders = Orders::default();
            rehearsal.clone().give(&mut orders);
            assert_eq!(orders.0.len(), 2 + 3 * (4 + 2 + 1) + 2);
            assert_eq!(rehearsal.run(), orders.0.len());
        }
    }
}
