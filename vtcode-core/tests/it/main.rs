//! The whole library over real sockets, files and processes: one binary, a module per subsystem.

mod background;
mod engine;
mod journal;
mod optimization_integration_tests;
mod sandbox;
mod session;
