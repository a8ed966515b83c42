//! What a model can do: the `Tool` trait, the built-in tools, the registry and the pipeline.

pub mod async_pipeline;
pub mod builtin;
mod execution;
pub mod optimized_registry;
pub mod tool;
pub mod witness;
