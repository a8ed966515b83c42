//! An agent with a tool of its own: registers it, works on one task and prints what happens. The
//! model is found as `vtcode exec` finds it:
//! `OPENAI_API_KEY=… cargo run -p vtcode-core --example own_tool`.

use std::error::Error;
use std::sync::Arc;

use serde_json::json;
use vtcode_core::core::event::EventKind;
use vtcode_core::core::optimized_agent::{AgentOutcome, OptimizedAgentEngine};
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_core::tools::tool::tool_fn;

async fn work(client: OptimizedLLMClient, task: &str) -> Result<AgentOutcome, Box<dyn Error>> {
    let schema = json!({"type": "object", "properties": {"text": {"type": "string"}}});
    let count = tool_fn("count_words", "Counts the words of a text.", schema, |args| async move {
        Ok(format!(
            "{} words",
            args["text"].as_str().unwrap_or_default().split_whitespace().count()
        ))
    });
    let tools = OptimizedToolRegistry::new(8); // The built-in tools, for the current folder.
    tools.register(Arc::new(count.without_effect()));
    let pipeline = Arc::new(AsyncToolPipeline::with_registry(Arc::new(tools)));
    let engine = OptimizedAgentEngine::new("example", pipeline, Arc::new(client));
    let engine = engine.on_event(|event| match &event.kind {
        EventKind::TextDelta { text } => print!("{text}"),
        EventKind::ToolFinished { name, text, .. } => println!("[{name}: {text}]"),
        _ => {}
    });
    Ok(engine.run(task).await?)
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = OptimizedLLMClient::new(4, 0, 0.0, 1);
    client.start().await?;
    let outcome = work(client, "Count the words of: the quick brown fox").await?;
    println!("\n{} requests, {} tokens", outcome.turns, outcome.usage.input_tokens);
    Ok(())
}

#[cfg(test)]
mod tests {
    use vtcode_core::config::endpoint::{Endpoint, Wire};
    use vtcode_core::config::limits::Limits;
    use vtcode_core::core::optimized_agent::End;
    use vtcode_testkit::{ScriptedModel, call, say};

    use super::*;

    #[tokio::test]
    async fn the_example_runs_its_own_tool() {
        let asks = call("count_words", json!({"text": "the quick brown fox"}));
        let model = ScriptedModel::start(vec![asks, say("Four.")]).await;
        let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
        let client = OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client).unwrap();
        let outcome = work(client, "count").await.unwrap();
        assert_eq!(outcome.end, Some(End::Done("Four.".to_owned())));
        let request = model.requests()[1].json();
        let result = request["messages"].as_array().unwrap().last().unwrap().clone();
        assert_eq!(result["content"], "4 words");
    }
}
