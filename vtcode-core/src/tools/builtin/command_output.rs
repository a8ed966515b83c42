//! `command_output`: the id of a background command comes in, what it printed since the last look
//! goes out, and whether it runs.
//! Each piece of output is given once. Never waits when there is something to tell.

use std::sync::Arc;
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::tools::builtin::run_command::Background;
use crate::tools::builtin::spec;
use crate::tools::tool::{CallContext, Effect, Tool, ToolError, ToolFuture, ToolSpec, parse_args};

const NAME: &str = "command_output";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    id: String,
    /// Wait so long for news
    wait_ms: Option<u64>,
}

/// Looks at background commands.
#[derive(Debug)]
pub struct CommandOutput {
    spec: ToolSpec,
    background: Arc<Background>,
}

impl CommandOutput {
    /// Returns the tool for these commands.
    pub fn new(background: Arc<Background>) -> Self {
        let description = "What a background command printed since you last looked.";
        Self { spec: spec::<Args>(NAME, description), background }
    }
}

impl Tool for CommandOutput {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn timeout(&self, args: &Value) -> Option<Duration> {
        let args = parse_args::<Args>(NAME, args).ok()?;
        args.wait_ms.filter(|ms| *ms > 0).map(Duration::from_millis)
    }

    /// Waits for news until `context.timeout` if the arguments ask for a wait. A call that is
    /// cancelled or dropped takes nothing: the next one gives it.
    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            let Args { id, wait_ms } = parse_args(NAME, args)?;
            let job = self.background.find(&id)?;
            let news = async {
                if wait_ms.is_some_and(|ms| ms > 0) {
                    // No news are told as well.
                    let _ = tokio::time::timeout(context.timeout, job.news()).await;
                }
            };
            if context.cancel.run_until_cancelled(news).await.is_none() {
                return Err(ToolError::Cancelled { name: NAME.to_owned() });
            }
            Ok(job.tell("runs", context).0)
        })
    }
}
