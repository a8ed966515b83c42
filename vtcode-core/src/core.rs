//! What holds a session together: the engine, its events, its journal and its conversation.

pub mod cache;
pub mod conversation;
pub mod event;
pub mod journal;
pub mod memory_budget;
pub mod memory_pool;
pub mod optimized_agent;
pub mod performance_profiler;
pub mod resources;
