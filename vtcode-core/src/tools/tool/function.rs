//! A tool that is a function: a name, a schema and a closure in, something a model can call out.

use std::borrow::Cow;
use std::fmt;

use serde_json::Value;

use super::{CallContext, Effect, Tool, ToolError, ToolFuture, ToolOutput, ToolSpec};

/// A tool made by [`tool_fn`].
#[derive(Clone)]
pub struct FunctionTool<F> {
    spec: ToolSpec,
    effect: Effect,
    function: F,
}

/// Returns a tool that is an async function of its arguments.
///
/// `parameters` is the JSON schema of the arguments, which are checked by it before the function is
/// called. What the function does nobody can see, so each call may do anything: it runs beside no
/// other, is on the disk before it begins, and is judged as a command of which nothing is proven. Say
/// [`without_effect`](FunctionTool::without_effect) of one that touches nothing, and write a
/// [`Tool`] for one that touches files.
///
/// Dropping the future ends the call. An error is a result that the model reads; so is a panic.
///
/// ```
/// use serde_json::json;
/// use vtcode_core::tools::tool::{Tool, tool_fn};
///
/// let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}});
/// let tool = tool_fn("shout", "Makes a text loud.", schema, |args| async move {
///     Ok(args["text"].as_str().unwrap_or_default().to_uppercase())
/// });
/// assert!(tool.effect(&json!({})).opaque);
/// assert!(tool.without_effect().effect(&json!({})).is_read_only());
/// ```
pub fn tool_fn<F, R, T>(
    name: impl Into<Cow<'static, str>>,
    description: impl Into<Cow<'static, str>>,
    parameters: Value,
    function: F,
) -> FunctionTool<F>
where
    F: Fn(Value) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, ToolError>> + Send + 'static,
    T: Into<ToolOutput>,
{
    let spec = ToolSpec { name: name.into(), description: description.into(), parameters };
    FunctionTool { spec, effect: Effect::opaque(), function }
}

impl<F> FunctionTool<F> {
    /// Promises that the function touches no file, no network and no other program: its calls run
    /// beside all others, and nobody is asked.
    #[must_use]
    pub fn without_effect(mut self) -> Self {
        self.effect = Effect::default();
        self
    }
}

impl<F, R, T> Tool for FunctionTool<F>
where
    F: Fn(Value) -> R + Send + Sync + 'static,
    R: Future<Output = Result<T, ToolError>> + Send + 'static,
    T: Into<ToolOutput>,
{
    fn spec(&self) -> &ToolSpec {
        &self.spec
    }

    fn effect(&self, _args: &Value) -> Effect {
        self.effect.clone()
    }

    fn call<'a>(&'a self, args: &'a Value, _context: &'a CallContext) -> ToolFuture<'a> {
        Box::pin(async move { (self.function)(args.clone()).await.map(Into::into) })
    }
}

impl<F> fmt::Debug for FunctionTool<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FunctionTool").field("name", &self.spec.name).finish_non_exhaustive()
    }
}

impl From<String> for ToolOutput {
    fn from(text: String) -> Self {
        Self::text(text)
    }
}

impl From<&str> for ToolOutput {
    fn from(text: &str) -> Self {
        Self::text(text)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use serde_json::json;

    use super::*;
    use crate::config::limits::Limits;
    use crate::tools::optimized_registry::OptimizedToolRegistry;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]})
    }

    #[tokio::test]
    async fn a_function_gets_arguments_that_fit_and_gives_a_text_an_error_or_a_panic() {
        for limits in [Limits::full(), Limits::plain()] {
            let asked = Arc::new(AtomicU32::new(0));
            let counted = Arc::clone(&asked);
            let tool = tool_fn("halve", "Halves a number.", schema(), move |args| {
                counted.fetch_add(1, Ordering::Relaxed);
                async move {
                    match args["n"].as_i64() {
                        Some(0) => panic!("nothing to halve"),
                        Some(n) if n % 2 == 0 => Ok((n / 2).to_string()),
                        _ => Err(ToolError::Failed("it is odd".to_owned())),
                    }
                }
            });
            let tools = vec![Arc::new(tool.without_effect()) as Arc<dyn Tool>];
            let registry = OptimizedToolRegistry::with_tools(tools, limits.tools);
            let halve = |n: Value| registry.execute_tool_optimized("halve", json!({"n": n}));
            assert_eq!(halve(json!(4)).await.unwrap().text, "2");
            assert_eq!(halve(json!(5)).await.unwrap_err().to_string(), "it is odd");
            let crashed = halve(json!(0)).await.unwrap_err();
            assert!(matches!(crashed, ToolError::Crashed { .. }), "{crashed}");
            let unfit = halve(json!("four")).await.unwrap_err();
            assert!(matches!(unfit, ToolError::BadArguments { .. }), "{unfit}");
            assert_eq!(asked.load(Ordering::Relaxed), 3, "what does not fit is not called");
        }
    }
}
