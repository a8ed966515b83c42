//! A tool that waits as long as it is told and does nothing else: what a call of it takes beyond
//! that is what calling costs. Benches and the regression gate measure with it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::tools::tool::{
    BatchFuture, CallContext, Effect, Tool, ToolFuture, ToolOutput, ToolSpec,
};

/// Waits for `ms` milliseconds; without, it is through at once. Calls with `batch` may run as one,
/// which takes as long as its longest.
pub struct Waits(ToolSpec);

impl Waits {
    /// Returns one of this name.
    pub fn named(name: impl Into<Cow<'static, str>>) -> Arc<dyn Tool> {
        let parameters = json!({"type": "object"});
        Arc::new(Self(ToolSpec { name: name.into(), description: "Waits.".into(), parameters }))
    }
}

fn wait(args: &Value) -> Option<Duration> {
    args["ms"].as_u64().map(Duration::from_millis)
}

impl Tool for Waits {
    fn spec(&self) -> &ToolSpec {
        &self.0
    }

    fn effect(&self, _args: &Value) -> Effect {
        Effect::default()
    }

    fn batch(&self, args: &Value) -> Option<String> {
        args["batch"].as_str().map(str::to_owned)
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move {
            if let Some(wait) = wait(args) {
                tokio::time::sleep(wait).await;
            }
            Ok(ToolOutput::text(""))
        })
    }

    fn call_batch<'a>(
        &'a self,
        calls: &'a [&'a Value],
        _context: &'a CallContext,
    ) -> BatchFuture<'a> {
        Box::pin(async move {
            if let Some(longest) = calls.iter().filter_map(|args| wait(args)).max() {
                tokio::time::sleep(longest).await;
            }
            calls.iter().map(|_| Ok(ToolOutput::text(""))).collect()
        })
    }
}
