//! The ids of a session's calls: a call comes in as its answer named it, and goes out under an id that
//! no other call of the session has. Some servers give no ids, or count anew in each answer; others
//! refuse a conversation in which two calls have the same one.
//! Never renames a call that is in the conversation: what was sent stays as it was.

use std::collections::HashMap;

use crate::llm::message::{Message, ToolCall, tool_calls};

/// The ids that are taken.
#[derive(Debug, Default)]
pub(super) struct CallIds {
    /// Each with the number that its next namesake tries first.
    taken: HashMap<String, u32>,
}

impl CallIds {
    /// Goes on after a conversation.
    pub(super) fn after(messages: &[Message]) -> Self {
        let mut ids = Self::default();
        for message in messages {
            if let Message::Assistant { parts } = message {
                ids.taken.extend(tool_calls(parts).map(|call| (call.id.clone(), 2)));
            }
        }
        ids
    }

    /// Gives a new call an id of its own.
    pub(super) fn claim(&mut self, call: &mut ToolCall) {
        if let Some(next) = self.taken.get_mut(&call.id) {
            let mut number = *next;
            let named = |number: u32| format!("{}_{number}", call.id);
            let mut id = named(number);
            while self.taken.contains_key(&id) {
                number += 1;
                id = named(number);
            }
            self.taken.insert(std::mem::replace(&mut call.id, id), number + 1);
        }
        self.taken.insert(call.id.clone(), 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::message::Part;

    fn call(id: &str) -> ToolCall {
        ToolCall { id: id.to_owned(), name: "f".to_owned(), arguments: String::new() }
    }

    #[test]
    fn an_id_that_is_taken_gets_a_number_and_every_other_stays() {
        let said = vec![Part::ToolCall(call("call_1")), Part::ToolCall(call("call_1_3"))];
        let mut ids = CallIds::after(&[Message::Assistant { parts: said }]);
        let mut claimed = |id: &str| {
            let mut call = call(id);
            ids.claim(&mut call);
            call.id
        };
        let given: Vec<_> = ["call_1", "call_1", "call_2", "call_1_2", "call_1"]
            .into_iter()
            .map(&mut claimed)
            .collect();
        assert_eq!(given, ["call_1_2", "call_1_4", "call_2", "call_1_2_2", "call_1_5"]);
    }
}
