//! A session for programs: events in, one JSON object a line on stdout out, in the shape that
//! readers of `codex exec --json` know.

use std::collections::HashMap;
use std::io::{self, Write as _};
use std::sync::{Arc, OnceLock};

use serde_json::{Value, json};
use vtcode_core::core::event::{Event, EventKind};
use vtcode_core::llm::message::{Part, Usage};
use vtcode_core::tools::tool::Detail;

/// Writes a session's lines.
#[derive(Debug, Default)]
pub(crate) struct JsonLines {
    items: usize,
    /// Calls that run: the item's id and what was said of it.
    running: HashMap<String, (String, Call)>,
    /// What running commands printed so far.
    output: HashMap<String, String>,
    lost: Lost,
}

/// Why a line was lost, the first time that one was.
pub(crate) type Lost = Arc<OnceLock<io::Error>>;

/// What a call is to the reader.
#[derive(Debug)]
enum Call {
    Command { command: String },
    Edit,
    Other { name: String, arguments: Value },
}

/// The most of a command's output that one line repeats; the journal and the spool hold all of it.
const OUTPUT_BYTES: usize = 1 << 20;

impl JsonLines {
    /// Writes the line that begins every run.
    pub(crate) fn begin(session_id: &str) -> Self {
        let begun = Self::default();
        begun.print(&json!({"type": "thread.started", "thread_id": session_id}));
        begun
    }

    /// Returns where it stands that a line could not be written.
    pub(crate) fn lost(&self) -> Lost {
        Arc::clone(&self.lost)
    }

    /// Writes the line of an error outside of any turn.
    pub(crate) fn error(message: &str) {
        // The exit code says it, too.
        let _ = print(&json!({"type": "error", "message": message}));
    }

    /// Writes an event.
    pub(crate) fn event(&mut self, event: &Event) {
        match &event.kind {
            EventKind::PromptStarted { .. } => self.print(&json!({"type": "turn.started"})),
            EventKind::Retry { attempt, wait, cause } => self.print(&json!({
                "type": "retry",
                "attempt": attempt,
                "wait_ms": u64::try_from(wait.as_millis()).unwrap_or(u64::MAX),
                "cause": cause,
            })),
            EventKind::EndpointChanged { attempt, provider, base_url, model, cause } => {
                self.print(&json!({
                    "type": "retry",
                    "attempt": attempt,
                    "wait_ms": 0,
                    "cause": cause,
                    "endpoint": {"provider": provider, "base_url": base_url, "model": model},
                }));
            }
            EventKind::Part { part: Part::Text { text } } => self.said("agent_message", text),
            EventKind::Part { part: Part::Reasoning { text, .. } } if !text.is_empty() => {
                self.said("reasoning", text);
            }
            EventKind::ToolStarted { call_id, name, arguments } => {
                let id = self.next_id();
                let call = Call::new(name, arguments);
                let item = call.item(&id, "in_progress", json!({}));
                self.print(&json!({"type": "item.started", "item": item}));
                self.running.insert(call_id.clone(), (id, call));
            }
            EventKind::ToolProgress { call_id, text } => {
                let output = self.output.entry(call_id.clone()).or_default();
                if output.len() + text.len() <= OUTPUT_BYTES {
                    output.push_str(text);
                }
            }
            EventKind::ToolFinished { call_id, text, is_error, class, detail, ran, .. } => {
                let output = self.output.remove(call_id).unwrap_or_default();
                let Some((id, call)) = self.running.remove(call_id) else { return };
                let failed = *is_error
                    || matches!(detail, Detail::Command { exit_code, .. } if *exit_code != Some(0));
                let status = if failed { "failed" } else { "completed" };
                let mut facts = match (&call, detail) {
                    (Call::Command { .. }, Detail::Command { exit_code, .. }) => {
                        json!({"aggregated_output": output, "exit_code": exit_code})
                    }
                    (Call::Command { .. }, _) => json!({"aggregated_output": text}),
                    (Call::Edit, Detail::Files { changes }) => json!({"changes": changes}),
                    _ => json!({}),
                };
                facts["duration_ms"] = u64::try_from(ran.as_millis()).unwrap_or(u64::MAX).into();
                if *is_error {
                    facts["error"] = text.as_str().into();
                    facts["error_class"] = json!(class);
                }
                self.print(
                    &json!({"type": "item.completed", "item": call.item(&id, status, facts)}),
                );
            }
            EventKind::Warning { message } => {
                self.print(&json!({"type": "error", "message": message}));
            }
            EventKind::SettingsChanged { message } => {
                self.print(&json!({"type": "settings.changed", "message": message}));
            }
            EventKind::PromptFinished { usage } => {
                self.print(&json!({"type": "turn.completed", "usage": tokens(*usage)}));
            }
            EventKind::PromptFailed { error, class, usage } => self.print(&json!({
                "type": "turn.failed",
                "error": {"message": error, "class": class},
                "usage": tokens(*usage),
            })),
            _ => {}
        }
    }

    fn said(&mut self, kind: &str, text: &str) {
        let id = self.next_id();
        self.print(
            &json!({"type": "item.completed", "item": {"id": id, "type": kind, "text": text}}),
        );
    }

    fn print(&self, line: &Value) {
        if let Err(error) = print(line) {
            let _ = self.lost.set(error);
        }
    }

    fn next_id(&mut self) -> String {
        self.items += 1;
        format!("item_{}", self.items - 1)
    }
}

impl Call {
    fn new(name: &str, arguments: &str) -> Self {
        let read: Option<Value> = serde_json::from_str(arguments).ok();
        match name {
            "run_command" => {
                // Readers rely on a text: where there is no command, what stands there instead.
                let command = read.as_ref().and_then(|read| read["command"].as_str());
                Self::Command { command: command.unwrap_or(arguments).to_owned() }
            }
            "edit_file" | "write_file" | "apply_patch" => Self::Edit,
            _ => {
                let arguments = read.unwrap_or_else(|| Value::String(arguments.to_owned()));
                Self::Other { name: name.to_owned(), arguments }
            }
        }
    }

    fn item(&self, id: &str, status: &str, facts: Value) -> Value {
        let mut item = match self {
            Self::Command { command } => json!({
                "type": "command_execution",
                "command": command,
                "aggregated_output": "",
                "exit_code": null,
            }),
            Self::Edit => json!({"type": "file_change", "changes": []}),
            Self::Other { name, arguments } => {
                json!({"type": "tool_call", "name": name, "arguments": arguments})
            }
        };
        item["id"] = id.into();
        item["status"] = status.into();
        if let (Value::Object(item), Value::Object(facts)) = (&mut item, facts) {
            item.extend(facts);
        }
        item
    }
}

fn tokens(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input_tokens,
        "cached_input_tokens": usage.cached_input_tokens,
        "output_tokens": usage.output_tokens,
    })
}

fn print(line: &Value) -> io::Result<()> {
    match writeln!(io::stdout(), "{line}") {
        // A reader that went away has seen enough.
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        printed => printed,
    }
}
