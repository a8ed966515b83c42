//! Calls on their way to the pipeline and results on their way back: each is told as it happens,
//! and becomes an input of the state machine. Decides neither order nor permission.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use serde_json::Value;

use super::super::phase::Input;
use super::super::repeats::Gave;
use super::super::sum_changes;
use super::Run;
use crate::core::event::{ErrorClass, EventKind};
use crate::core::memory_budget::Charge;
use crate::llm::message::{ToolAnswer, ToolCall};
use crate::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, Pending, ToolRequest, ToolResult,
};
use crate::tools::tool::{Detail, ToolOutput};

/// A call that was handed to the pipeline.
pub(super) struct Open {
    index: usize,
    call: ToolCall,
    /// The memory that is kept free for it.
    room: Charge,
}

/// A call that waits or runs in the pipeline.
pub(super) struct Running {
    /// Given out with the result.
    open: Option<Open>,
    result: Pending,
}

impl Future for Running {
    type Output = (Open, ToolResult);

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.result).poll(cx));
        Poll::Ready((self.open.take().expect("it is polled to its end once"), result))
    }
}

/// Changes that are kept one by one.
const CHANGES: usize = 4096;

impl Run<'_> {
    /// Hands a call to the pipeline.
    pub(super) fn start_call(&mut self, index: usize, call: ToolCall) {
        let ToolCall { id: call_id, name, arguments } = call;
        let told = self.tell(EventKind::ToolStarted { call_id, name, arguments });
        let EventKind::ToolStarted { call_id: id, name, arguments } = told else { return };
        let call = ToolCall { id, name, arguments };
        if self.stopped {
            // It could not be recorded, so it must not run.
            let answer = ToolAnswer::interrupted(&call, false);
            self.pending.push_back(Input::CallDone(index, answer));
            return;
        }
        let room = match self.room_for_call(&call) {
            Ok(room) => room,
            Err(why) => return self.not_run(index, call, why, Some(ErrorClass::Environment)),
        };
        let args = match read_arguments(&call.arguments) {
            Ok(args) => args,
            Err(problem) => {
                return self.not_run(index, call, problem, Some(ErrorClass::Model));
            }
        };
        self.checks_make_way(&call, &args);
        let (out, call_id) = (Arc::clone(&self.out), call.id.clone());
        let progress = move |text: &str| {
            let kind = EventKind::ToolProgress { call_id: call_id.clone(), text: text.to_owned() };
            out.tell(&out.event(kind));
        };
        let request = ToolRequest {
            // The provider's ids may repeat; the place in the conversation does not, also after a
            // resume. Outputs too long for a result are kept under this name.
            id: format!("{}-{index}", self.conversation.messages()),
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
        // Submitted here, in the order asked; only the result is waited for elsewhere.
        match self.engine.pipeline.submit(request) {
            Ok(result) => {
                let open = Open { index, call, room };
                self.calls.push(Running { open: Some(open), result });
            }
            Err(error) => self.not_run(index, call, error.to_string(), error.class()),
        }
    }

    /// Takes what a call gave; none where it must be cut first, which happens elsewhere.
    pub(super) fn call_ended(&mut self, (open, result): (Open, ToolResult)) -> Option<Input> {
        if self.oversize.is_too_long(&result) {
            let oversize = self.oversize.clone();
            self.cutting.spawn(async move { (open, oversize.bounded(result).await) });
            return None;
        }
        Some(self.call_done(open, result))
    }

    /// Answers a call that was not handed to the pipeline.
    fn not_run(&mut self, index: usize, call: ToolCall, why: String, class: Option<ErrorClass>) {
        let output = ToolOutput { is_error: true, ..ToolOutput::text(why) };
        let answer = self.answer(call, output, class, [Duration::ZERO; 2]);
        self.pending.push_back(Input::CallDone(index, answer));
    }

    /// Takes the result of a call, as the model gets it.
    pub(super) fn call_done(&mut self, open: Open, result: ToolResult) -> Input {
        let Open { index, call, room } = open;
        drop(room);
        let (output, class) = match result.result {
            Ok(output) => {
                let class = output.is_error.then_some(ErrorClass::Tool);
                (output, class)
            }
            Err(error) => {
                let output = ToolOutput { is_error: true, ..ToolOutput::text(error.to_string()) };
                (output, error.class())
            }
        };
        let times = [result.waited, result.execution_time];
        Input::CallDone(index, self.answer(call, output, class, times))
    }

    /// Makes of a result what the model reads, and tells it.
    fn answer(
        &mut self,
        call: ToolCall,
        output: ToolOutput,
        class: Option<ErrorClass>,
        [waited, ran]: [Duration; 2],
    ) -> ToolAnswer {
        let ToolOutput { text, is_error, detail, .. } = output;
        let mut changed = false;
        if let Detail::Files { changes } = &detail {
            self.changes.extend(changes.iter().cloned());
            if self.changes.len() > CHANGES {
                // One for each file is enough.
                self.changes = sum_changes(std::mem::take(&mut self.changes));
            }
            changed = !changes.is_empty();
        }
        if changed {
            self.checks_edited();
        }
        let is_read = !is_error && is_repeatable(&self.engine.pipeline, &call.name);
        let noted = self.repeats.noted(&call, Gave { text: &text, is_read, changed, ran });
        let text = noted.unwrap_or(text);
        self.charge_result(text.len());
        let ToolCall { id: call_id, name, .. } = call;
        let finished =
            EventKind::ToolFinished { call_id, name, text, is_error, class, detail, waited, ran };
        match self.tell(finished) {
            EventKind::ToolFinished { call_id, name, text, is_error, .. } => {
                ToolAnswer { call_id, name, text, is_error }
            }
            other => unreachable!("it gives back what it was given, not {other:?}"),
        }
    }
}

fn is_repeatable(pipeline: &AsyncToolPipeline, name: &str) -> bool {
    pipeline.registry().get(name).is_ok_and(|tool| tool.is_repeatable())
}

/// Reads a call's arguments; what is no JSON object is answered in words to repair it from.
pub(super) fn read_arguments(text: &str) -> Result<Value, String> {
    let text = text.trim();
    let problem = match serde_json::from_str(if text.is_empty() { "{}" } else { text }) {
        Ok(args @ Value::Object(_)) => return Ok(args),
        Ok(_) => "they are not an object".to_owned(),
        // What ends in the middle of a text was cut off more often than written so.
        Err(error) if error.is_eof() => {
            format!(
                "they end in the middle, cut off perhaps at the output limit, so write less at once ({error})"
            )
        }
        Err(error) => error.to_string(),
    };
    Err(format!(
        "the arguments of this call are not valid JSON, so it was not run: {problem}; send the \
         call again with one JSON object"
    ))
}
