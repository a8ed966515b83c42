//! `command_stop`: the id of a background command comes in; the last it printed and how it ended go
//! out.
//! Asks first and kills then. Never fails because the command has ended before.

use std::borrow::Cow;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::tools::builtin::run_command::Background;
use crate::tools::builtin::spec;
use crate::tools::tool::{
    CallContext, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec, parse_args,
};

const NAME: &str = "command_stop";

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Args {
    id: String,
}

/// Stops background commands.
#[derive(Debug)]
pub struct CommandStop {
    spec: ToolSpec,
    background: Arc<Background>,
}

impl CommandStop {
    /// Returns the tool for these commands.
    pub fn new(background: Arc<Background>) -> Self {
        Self { spec: spec::<Args>(NAME, "End a background command."), background }
    }

    async fn stop(&self, args: Args, context: &CallContext) -> Result<ToolOutput, ToolError> {
        let job = self.background.find(&args.id)?;
        job.stop();
        if context.cancel.run_until_cancelled(job.end()).await.is_none() {
            return Err(ToolError::Cancelled { name: NAME.to_owned() });
        }
        Ok(job.tell("runs", context).0)
    }
}

impl Tool for CommandStop {
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    /// A command that ends may still do anything, such as save its files.
    fn effect(&self, args: &Value) -> Effect {
        match parse_args::<Args>(NAME, args) {
            Ok(_) => Effect::opaque(),
            Err(_) => Effect::default(),
        }
    }

    /// It runs nothing: what it ends was judged when it began.
    fn command<'a>(&self, _args: &'a Value) -> Option<Cow<'a, str>> {
        Some("".into())
    }

    /// Stops the command. It is ended even if the call is cancelled or dropped meanwhile.
    fn call<'a>(&'a self, args: &'a Value, context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move { self.stop(parse_args(NAME, args)?, context).await })
    }
}
