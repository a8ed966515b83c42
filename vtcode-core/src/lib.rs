//! The engine, tools and model client of VT Code, for building coding agents.
//!
//! One loop ([`core::optimized_agent`]), one pipeline ([`tools::async_pipeline`]), one registry
//! ([`tools::optimized_registry`]), one client ([`llm::optimized_client`]), one event stream
//! ([`core::event`]). ARCHITECTURE.md in the repository shows how a turn flows through them.

pub mod config;
pub mod core;
pub mod laboratory;
pub mod llm;
pub mod safety;
pub mod tools;
