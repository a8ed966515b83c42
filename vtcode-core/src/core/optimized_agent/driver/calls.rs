//! Calls on their way to the pipeline and results on their way back: each is told as it happens,
//! and becomes an input of the state machine. Decides neither order nor permission.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::super::phase::Input;
use super::Run;
use crate::core::event::EventKind;
use crate::llm::message::{ToolAnswer, ToolCall};
use crate::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest, ToolResult,
};
use crate::tools::tool::Detail;

impl Run<'_> {
    /// Hands a call to the pipeline.
    pub(super) async fn start_call(&mut self, index: usize, call: ToolCall) {
        self.tell(EventKind::ToolStarted {
            call_id: call.id.clone(),
            name: call.name.clone(),
            arguments: call.arguments.clone(),
        });
        if self.stopped {
            // It could not be recorded, so it must not run.
            let answer = ToolAnswer::interrupted(&call, false);
            self.pending.push_back(Input::CallDone(index, answer));
            return;
        }
        let args = match arguments(&call) {
            Ok(args) => args,
            Err(answer) => {
                self.tell_answer(&answer, Detail::Plain, Duration::ZERO, Duration::ZERO);
                self.pending.push_back(Input::CallDone(index, answer));
                return;
            }
        };
        let (out, call_id) = (Arc::clone(&self.out), call.id.clone());
        let progress = move |text: &str| {
            let kind = EventKind::ToolProgress { call_id: call_id.clone(), text: text.to_owned() };
            out.tell(&out.event(kind));
        };
        let request = ToolRequest {
            // The provider's ids may repeat; the place in the conversation does not, also after a
            // resume. Outputs too long for a result are kept under this name.
            id: format!("{}-{index}", self.conversation.segments().len()),
            tool_name: call.name.clone(),
            args,
            priority: ExecutionPriority::Normal,
            // The tools' own limits hold; how long a call waits for others is theirs to decide.
            timeout: Duration::MAX,
            context: ExecutionContext {
                cancel: self.stop_calls.clone(),
                progress: Some(Arc::new(progress)),
                before_effect: self.before_effect.clone(),
            },
        };
        let pipeline = Arc::clone(&self.engine.pipeline);
        // Submitted here, in the order asked; only the result is waited for elsewhere.
        match pipeline.submit_request(request).await {
            Ok(id) => {
                self.calls.spawn(async move {
                    let result = pipeline.wait_result(&id).await;
                    (index, call, result)
                });
            }
            Err(error) => {
                let answer = ToolAnswer {
                    call_id: call.id,
                    name: call.name,
                    text: error.to_string(),
                    is_error: true,
                };
                self.tell_answer(&answer, Detail::Plain, Duration::ZERO, Duration::ZERO);
                self.pending.push_back(Input::CallDone(index, answer));
            }
        }
    }

    /// Takes what the pipeline gave for a call.
    pub(super) fn call_done(&mut self, call: &ToolCall, result: ToolResult) -> ToolAnswer {
        let (mut text, is_error, detail) = match result.result {
            Ok(output) => (output.text, output.is_error, output.detail),
            Err(error) => (error.to_string(), true, Detail::Plain),
        };
        if !is_error && is_repeatable(&self.engine.pipeline, &call.name) {
            // It parsed when the call was started.
            let args = serde_json::from_str(&call.arguments).unwrap_or(Value::Null);
            text = self.repeats.noted(&call.name, &args, text);
        }
        if let Detail::Files { changes } = &detail {
            self.changes.extend(changes.iter().cloned());
        }
        let answer =
            ToolAnswer { call_id: call.id.clone(), name: call.name.clone(), text, is_error };
        self.tell_answer(&answer, detail, result.waited, result.execution_time);
        answer
    }

    fn tell_answer(
        &mut self,
        answer: &ToolAnswer,
        detail: Detail,
        waited: Duration,
        ran: Duration,
    ) {
        let ToolAnswer { call_id, name, text, is_error } = answer.clone();
        self.tell(EventKind::ToolFinished { call_id, name, text, is_error, detail, waited, ran });
    }
}

pub(super) fn is_repeatable(pipeline: &AsyncToolPipeline, name: &str) -> bool {
    pipeline.registry().get(name).is_ok_and(|tool| tool.is_repeatable())
}

/// Reads a call's arguments; what is no JSON object is answered in words to repair it from.
pub(super) fn arguments(call: &ToolCall) -> Result<Value, ToolAnswer> {
    let text = call.arguments.trim();
    let problem = match serde_json::from_str(if text.is_empty() { "{}" } else { text }) {
        Ok(args @ Value::Object(_)) => return Ok(args),
        Ok(_) => "they are not an object".to_owned(),
        Err(error) => error.to_string(),
    };
    Err(ToolAnswer {
        call_id: call.id.clone(),
        name: call.name.clone(),
        text: format!(
            "the arguments of this call are not valid JSON, so it was not run: {problem}; send \
             the call again with one JSON object"
        ),
        is_error: true,
    })
}
