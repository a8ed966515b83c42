//! The parts without the engine: the pipeline runs tool calls, the client asks a model about what
//! they gave. `OPENAI_API_KEY=… cargo run -p vtcode-core --example pipeline_and_client`.

use std::error::Error;
use std::time::Duration;

use serde_json::json;
use vtcode_core::llm::message::LLMRequest;
use vtcode_core::llm::optimized_client::OptimizedLLMClient;
use vtcode_core::tools::async_pipeline::{
    AsyncToolPipeline, ExecutionContext, ExecutionPriority, ToolRequest,
};

async fn ask_about(client: &OptimizedLLMClient, paths: &[&str]) -> Result<String, Box<dyn Error>> {
    // Four calls at a time, a hundred results kept, up to five similar calls run as one.
    let mut pipeline = AsyncToolPipeline::new(4, 100, 5, Duration::from_millis(100));
    pipeline.start().await?;
    let mut ids = Vec::new();
    for (n, path) in paths.iter().enumerate() {
        let request = ToolRequest {
            id: format!("read-{n}"),
            tool_name: "read_file".to_owned(),
            args: json!({"path": path}),
            priority: ExecutionPriority::Normal,
            timeout: Duration::from_secs(10),
            context: ExecutionContext::default(),
        };
        ids.push(pipeline.submit_request(request).await?);
    }
    let mut texts = String::new();
    for (id, path) in ids.iter().zip(paths) {
        let done = pipeline.wait_result(id).await;
        println!("{path}: {:?}, from the cache: {}", done.execution_time, done.cache_hit);
        texts += &done.result?.text;
    }
    pipeline.shutdown().await;
    let question = format!("What do these files have in common?\n{texts}");
    Ok(client.chat_optimized(LLMRequest::from_prompt(question)).await?.text())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let client = OptimizedLLMClient::new(4, 64, 2.0, 10);
    client.start().await?;
    println!("{}", ask_about(&client, &["Cargo.toml", "README.md"]).await?);
    Ok(())
}

#[cfg(test)]
mod tests {
    use vtcode_core::config::endpoint::{Endpoint, Wire};
    use vtcode_core::config::limits::Limits;
    use vtcode_testkit::{ScriptedModel, say};

    use super::*;

    #[tokio::test]
    async fn the_example_reads_and_asks() {
        let model = ScriptedModel::start(vec![say("A name.")]).await;
        let endpoint = Endpoint::new(Wire::OpenAiChat, model.openai_url(), "scripted");
        let client = OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client).unwrap();
        // The current folder of a test is its package's.
        let answer = ask_about(&client, &["Cargo.toml", "src/lib.rs"]).await.unwrap();
        assert_eq!(answer, "A name.");
        let body = String::from_utf8_lossy(&model.requests()[0].body).into_owned();
        assert!(body.contains("vtcode-core") && body.contains("pub mod llm;"), "{body}");
    }
}
