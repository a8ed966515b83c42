//! Events of sessions, as the tests of the profile tell them. A call's id is its tool's name.

use std::time::Duration;

use crate::core::event::EventKind;
use crate::llm::message::{FinishReason, Usage};
use crate::tools::tool::Detail;

pub(super) fn prompt() -> EventKind {
    EventKind::PromptStarted { text: String::new(), images: Vec::new() }
}

pub(super) fn sent(turn: u32) -> EventKind {
    EventKind::RequestSent { turn, body_bytes: 0, prefix: None }
}

pub(super) fn ended() -> EventKind {
    EventKind::ResponseEnded { finish: FinishReason::Stop, usage: Usage::default() }
}

pub(super) fn finished() -> EventKind {
    EventKind::PromptFinished { usage: Usage::default() }
}

pub(super) fn started(tool: &str) -> EventKind {
    let (call_id, name) = (tool.to_owned(), tool.to_owned());
    EventKind::ToolStarted { call_id, name, arguments: String::new() }
}

pub(super) fn done(tool: &str, waited: u64, ran: u64) -> EventKind {
    EventKind::ToolFinished {
        call_id: tool.to_owned(),
        name: tool.to_owned(),
        text: String::new(),
        is_error: false,
        class: None,
        detail: Detail::Plain,
        waited: Duration::from_millis(waited),
        ran: Duration::from_millis(ran),
    }
}
