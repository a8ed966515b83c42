//! Finds the model: settings in, an endpoint out; ports in, the first base URL and model out.
//! Asks all ports at once and for a moment only, as most users have none of them.
//! Never looks beyond loopback and never sends a key.

use std::time::Duration;

use futures_util::future::join_all;
use reqwest::Url;
use serde::Deserialize;

use super::models;
use super::optimized_client::{Route, http_client, root_cause};
use crate::config::endpoint::{self, Choice, Endpoint, NoProvider, Wire};
use crate::config::env::Env;
use crate::config::layers::{OwnPrice, Settings};

/// The TCP ports at which Ollama, LM Studio and llama.cpp listen, in this order, if nobody told
/// them otherwise.
pub const LOCAL_PORTS: [u16; 3] = [11434, 1234, 8080];

/// How long a server has to answer. One that is there takes a few milliseconds.
const PATIENCE: Duration = Duration::from_millis(300);

/// The longest list of models that is read.
const MAX_LIST_BYTES: usize = 1024 * 1024;

#[derive(Deserialize)]
struct Models {
    data: Vec<Model>,
}

#[derive(Deserialize)]
struct Model {
    id: String,
}

/// Returns the endpoint that the settings choose, or a local server that answers. Fails when the
/// provider's name is not known, it lacks a key or a model, the base URL is none, or nothing is set
/// and no local server answers.
pub async fn endpoint(settings: &Settings, env: &Env) -> Result<Endpoint, NoProvider> {
    let mut endpoint = match endpoint::choose(settings, env)? {
        Choice::Endpoint(endpoint) => endpoint,
        Choice::Local { model } => {
            let (base_url, first) = local_server(&LOCAL_PORTS).await.ok_or(NoProvider::Nothing)?;
            let model = model.unwrap_or(first);
            Endpoint::new(Wire::OpenAiChat, base_url, model)
        }
    };
    endpoint.dialect.facts = models::of(endpoint.wire, &endpoint.model, settings);
    Ok(endpoint)
}

/// Where requests go when the first endpoint fails.
#[derive(Debug, Clone, Default)]
pub struct Fallbacks {
    /// The endpoints, in order.
    pub endpoints: Vec<Endpoint>,
    /// What to say of those that cannot be used here.
    pub left_out: Vec<String>,
}

/// Returns the endpoints that the settings name for the time when the first one fails. One without
/// a key or a model is left out. Fails when nobody knows a name, or a base URL is none.
pub fn fallbacks(
    settings: &Settings,
    env: &Env,
    first: &Endpoint,
) -> Result<Fallbacks, NoProvider> {
    // A price that was set is that of the model that was chosen.
    let mut settings = settings.clone();
    settings.price = OwnPrice::default();
    let mut found = Fallbacks::default();
    for entry in &settings.fallback {
        match endpoint::fallback(entry, first, &settings, env) {
            Ok(mut endpoint) => {
                let same = |other: &Endpoint| other.to_string() == endpoint.to_string();
                if !same(first) && !found.endpoints.iter().any(same) {
                    endpoint.dialect.facts = models::of(endpoint.wire, &endpoint.model, &settings);
                    found.endpoints.push(endpoint);
                }
            }
            Err(error @ (NoProvider::NoKey { .. } | NoProvider::NoModel { .. })) => {
                found.left_out.push(format!("the fallback `{entry}` is left out: {error}"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Returns the ways that requests may go: the endpoint that the settings were settled for, and those
/// to which they go when it fails, each with the limits of its own model.
pub fn routes(settings: &Settings, first: Endpoint, fallbacks: Vec<Endpoint>) -> Vec<Route> {
    let limits = settings.limits.client.clone();
    let others = fallbacks.into_iter().map(|endpoint| {
        let mut own = settings.clone();
        own.price = OwnPrice::default();
        models::fill_in(&mut own, endpoint.wire, endpoint.dialect.facts);
        Route { limits: own.limits.client, endpoint }
    });
    std::iter::once(Route { endpoint: first, limits }).chain(others).collect()
}

/// Returns base URL and model of the first of `ports` at which a server for Chat Completions
/// answers on this machine. `ports` is usually [`LOCAL_PORTS`]. All are asked at once, and one that
/// has not answered within 300 milliseconds counts as empty.
pub async fn local_server(ports: &[u16]) -> Option<(String, String)> {
    let asked = ports.iter().map(|port| async move {
        let base_url = format!("http://127.0.0.1:{port}/v1");
        let model = tokio::time::timeout(PATIENCE, first_model(&base_url)).await.ok()??;
        Some((base_url, model))
    });
    join_all(asked).await.into_iter().flatten().next()
}

/// How long a server that somebody chose has to answer when it is asked whether it is there.
const REACH: Duration = Duration::from_secs(5);

/// Asks a server once, without a key, whether it is there; any answer counts, whatever its HTTP
/// status. Fails when the URL is none, no connection comes about, or no answer begins within 5
/// seconds; the error says which.
pub async fn reach(base_url: &str) -> Result<(), String> {
    let url = Url::parse(base_url).map_err(|e| e.to_string())?;
    let http = http_client(&url, REACH, 0).map_err(|e| e.to_string())?;
    match tokio::time::timeout(REACH, http.get(url).send()).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(root_cause(&error)),
        Err(_) => Err(format!("no answer within {} s", REACH.as_secs())),
    }
}

async fn first_model(base_url: &str) -> Option<String> {
    let url = Url::parse(&format!("{base_url}/models")).ok()?;
    let http = http_client(&url, PATIENCE, 0).ok()?;
    let mut response = http.get(url).send().await.ok()?.error_for_status().ok()?;
    let mut body = Vec::new();
    while let Some(bytes) = response.chunk().await.ok()? {
        body.extend_from_slice(&bytes);
        if body.len() > MAX_LIST_BYTES {
            return None;
        }
    }
    let models: Models = serde_json::from_slice(&body).ok()?;
    // Models that only turn text into vectors stand in the same list.
    models.data.into_iter().map(|model| model.id).find(|id| !id.contains("embed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::llm::optimized_client::tests::{Server, Step, http};

    fn models(ids: &[&str]) -> Vec<Step> {
        let data: Vec<_> = ids.iter().map(|id| serde_json::json!({"id": id})).collect();
        let body = serde_json::json!({"object": "list", "data": data}).to_string();
        vec![Step::Send(http(200, "application/json", &body))]
    }

    /// Returns a port at which nobody listens.
    async fn free_port() -> u16 {
        tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn the_first_port_with_a_model_wins() {
        let html = vec![Step::Send(http(200, "text/html", "<html>"))];
        let other = Server::start([html]).await;
        let empty = Server::start([models(&[])]).await;
        let first = Server::start([models(&["text-embedding-x", "qwen"])]).await;
        let second = Server::start([models(&["llama"])]).await;
        let ports = [free_port().await, other.port(), empty.port(), first.port(), second.port()];
        assert_eq!(
            local_server(&ports).await,
            Some((format!("http://127.0.0.1:{}/v1", first.port()), "qwen".to_owned()))
        );
    }

    #[tokio::test]
    async fn nobody_there_and_one_that_hangs_give_none() {
        let hangs = Server::start([vec![Step::Hang]]).await;
        assert_eq!(local_server(&[free_port().await, hangs.port()]).await, None);
        assert_eq!(local_server(&[]).await, None);
    }
}
