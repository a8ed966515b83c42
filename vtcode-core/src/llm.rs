//! Talking to models: the conversation's types, the wire formats and the client.

pub mod discover;
pub mod message;
pub mod models;
pub mod optimized_client;
pub mod provider;

pub use message::{LLMRequest, LLMResponse};
