//! The state machine without a world: benches and the regression gate measure with it what a turn
//! costs before anything is performed.

use super::phase::{Action, Input, Phase, step};
use crate::config::limits::AgentLimits;
use crate::llm::message::{FinishReason, Part, ToolAnswer, ToolCall, Usage};

/// Takes one prompt through `turns` turns, each with `calls` calls that answer at once and in
/// order. Returns the number of transitions. Performs nothing.
pub fn rehearse(turns: u32, calls: usize, limits: &AgentLimits) -> usize {
    let limits = AgentLimits { max_turns: turns.saturating_add(1), ..limits.clone() };
    let (mut phase, mut transitions) = (Phase::Idle, 0);
    let mut take = |input| {
        let (next, actions) = step(std::mem::replace(&mut phase, Phase::Closed), input, &limits);
        phase = next;
        transitions += 1;
        actions
    };
    take(Input::Prompt(String::new()));
    for turn in 0..=turns {
        let calls = if turn < turns { calls } else { 0 };
        let mut started = Vec::with_capacity(calls);
        let mut note = |actions: Vec<Action>| {
            started.extend(actions.into_iter().filter_map(|action| match action {
                Action::Start(index, call) => Some((index, call)),
                _ => None,
            }));
        };
        for number in 0..calls {
            let (name, arguments) = ("read_file".to_owned(), "{}".to_owned());
            let call = ToolCall { id: format!("call_{number}"), name, arguments };
            note(take(Input::Part(Part::ToolCall(call))));
        }
        if calls == 0 {
            note(take(Input::Part(Part::Text { text: "Done.".to_owned() })));
        }
        let finish = if calls > 0 { FinishReason::ToolCalls } else { FinishReason::Stop };
        note(take(Input::AnswerEnded { finish, usage: Usage::default() }));
        for (index, call) in started {
            let ToolCall { id: call_id, name, .. } = call;
            let answer = ToolAnswer { call_id, name, text: String::new(), is_error: false };
            take(Input::CallDone(index, answer));
        }
    }
    assert_eq!(phase, Phase::Idle, "a prompt whose model is content has an end");
    transitions
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::limits::Limits;

    #[test]
    fn every_call_and_answer_is_a_transition() {
        for limits in [Limits::full().agent, Limits::plain().agent] {
            // The prompt; three turns of four calls, their results and an end; the last words.
            assert_eq!(rehearse(3, 4, &limits), 1 + 3 * (4 + 1 + 4) + 2);
        }
    }
}
