//! A key in everything public that can hold one, or something of one: printed in both ways, also
//! while a request is on its way and after it was refused, and never to be read there.

use std::fmt::Debug;
use std::sync::{Arc, Mutex};

use secrecy::SecretString;
use vtcode_core::config::endpoint::{Endpoint, Wire};
use vtcode_core::config::env::Env;
use vtcode_core::config::layers::{Settings, Sources};
use vtcode_core::config::limits::Limits;
use vtcode_core::core::optimized_agent::OptimizedAgentEngine;
use vtcode_core::llm::message::LLMRequest;
use vtcode_core::llm::optimized_client::{LlmError, OptimizedLLMClient};
use vtcode_core::tools::async_pipeline::AsyncToolPipeline;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;
use vtcode_testkit::{Fault, Reply, ScriptedModel, fail, say};

const KEY: &str = "sk-marker-5f0c8e1d77";

/// Checks what is printed of something.
#[track_caller]
fn hides(what: &str, shown: &impl Debug) {
    let texts = [format!("{shown:?}"), format!("{shown:#?}")];
    for text in texts {
        assert!(!text.contains(KEY), "{what}: {text}");
    }
}

/// Does the same with an error, and all that caused it.
#[track_caller]
fn tells_nothing(what: &str, error: &(impl std::error::Error + 'static)) {
    hides(what, error);
    let mut cause: Option<&dyn std::error::Error> = Some(error);
    while let Some(error) = cause {
        assert!(!error.to_string().contains(KEY), "{what}: {error}");
        cause = error.source();
    }
}

/// A server that says the key of each request aloud.
fn telltale(code: u16) -> Reply {
    fail(Fault::Status {
        code,
        headers: vec![("x-key".to_owned(), KEY.to_owned())],
        body: format!(r#"{{"error":{{"message":"no such key: {KEY}","type":"auth"}}}}"#),
    })
}

fn endpoint(wire: Wire, model: &ScriptedModel) -> Endpoint {
    let url = match wire {
        Wire::Anthropic => model.anthropic_url(),
        Wire::Gemini => model.gemini_url(),
        _ => model.openai_url(),
    };
    let mut endpoint = Endpoint::new(wire, url, "scripted").with_key(SecretString::from(KEY));
    endpoint.dialect.headers = vec![("x-gate".to_owned(), SecretString::from(KEY))];
    endpoint
}

fn client(endpoint: Endpoint) -> OptimizedLLMClient {
    OptimizedLLMClient::with_endpoint(endpoint, Limits::full().client).unwrap()
}

#[test]
fn settings_and_what_they_are_made_of_hide_keys() {
    let variables = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "GEMINI_API_KEY", "MINE_KEY"];
    let env: Env = variables.into_iter().map(|name| (name, KEY)).collect();
    hides("environment", &env);
    let file = format!(
        "[providers.mine]\nbase_url = \"http://127.0.0.1:9/v1\"\nkey_env = \"MINE_KEY\"\n\
         headers = {{ X-Auth = \"Bearer {KEY}\" }}\n"
    );
    let sources = Sources { user_file: Some(("/u.toml".into(), file)), ..Sources::default() };
    hides("sources", &sources);
    let settings = Settings::resolve(&sources, &env).unwrap();
    hides("settings", &settings);
    hides("limits", &settings.limits);
    for (key, value, _) in settings.show() {
        assert!(!value.contains(KEY), "{}", key.name);
    }
    for file in [
        format!("[providers.mine]\nkey = \"{KEY}\"\n"),
        format!("[providers.mine]\nbase_url = \"http://h\"\nheaders = \"{KEY}\"\n"),
        format!("[providers.mine]\nbase_url = \"http://h\"\nheaders = {{ X = [\"{KEY}\"] }}\n"),
        format!("[providers.mine]\nbase_url = \"http://h\"\nkey_env = [\"{KEY}\"]\n"),
        format!("api_key = \"{KEY}\"\n"),
        format!("api_key = \"{KEY}\n"),
    ] {
        let sources = Sources { user_file: Some(("/u.toml".into(), file)), ..Sources::default() };
        let error = Settings::resolve(&sources, &env).unwrap_err();
        tells_nothing("configuration", &error);
    }
}

#[tokio::test]
async fn a_client_hides_its_key_before_while_and_after_it_uses_it() {
    for wire in Wire::ALL {
        let model = ScriptedModel::start_with(|_, number| match number {
            0 => say("So it is."),
            1 => telltale(401),
            2 => telltale(404),
            3 => telltale(400),
            _ => telltale(500),
        })
        .await;
        let endpoint = endpoint(wire, &model);
        hides("endpoint", &endpoint);
        assert!(!endpoint.to_string().contains(KEY));
        let client = client(endpoint);
        hides("client", &client);
        let request = LLMRequest::from_prompt("hi");
        let mut stream = client.stream(&request);
        hides("stream", &stream);
        while let Some(event) = stream.next().await {
            hides("stream", &stream);
            hides("event", &event.unwrap());
        }
        for _ in 0..4 {
            let mut stream = client.stream(&request);
            let mut failed: Option<LlmError> = None;
            while let Some(event) = stream.next().await {
                hides("stream", &stream);
                match event {
                    Ok(event) => hides("event", &event),
                    Err(error) => failed = Some(error),
                }
            }
            tells_nothing("answer", &failed.expect("each of them is refused"));
        }
        hides("metrics", &client.get_metrics().await);
        let sent = model.requests();
        assert!(sent.len() >= 5 && sent.iter().all(|r| r.header("x-gate") == Some(KEY)), "{wire}");
    }
}

#[tokio::test]
async fn an_engine_tells_of_its_requests_without_their_key() {
    for wire in Wire::ALL {
        let model = ScriptedModel::start_with(|_, number| match number {
            0 => telltale(500),
            _ => telltale(401),
        })
        .await;
        let tools = Arc::new(OptimizedToolRegistry::with_tools(Vec::new(), Limits::full().tools));
        hides("registry", &*tools);
        let pipeline = Arc::new(AsyncToolPipeline::with_registry(tools));
        let events = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&events);
        let engine = OptimizedAgentEngine::new(
            "one",
            Arc::clone(&pipeline),
            Arc::new(client(endpoint(wire, &model))),
        )
        .on_event(move |event| heard.lock().unwrap().push(event.clone()));
        hides("engine", &engine);
        engine.submit("hi").await.unwrap();
        engine.close_input();
        let outcome = engine.start().await.unwrap();
        hides("outcome", &outcome);
        let said = outcome.end.expect("it was asked").to_string();
        assert!(!said.contains(KEY) && said.contains("[key]"), "{wire}: {said}");
        hides("engine", &engine);
        let events = std::mem::take(&mut *events.lock().unwrap());
        assert!(events.len() > 3);
        for event in &events {
            hides("event", event);
            assert!(!serde_json::to_string(event).unwrap().contains(KEY));
        }
        hides("pipeline", &pipeline.get_metrics().await);
        pipeline.shutdown().await;
    }
}
