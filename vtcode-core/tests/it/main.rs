//! The whole library over real sockets, files and processes: one binary, a module per subsystem.

mod attachments;
mod background;
mod bad_input;
mod checks;
mod compaction;
mod configuration;
mod decoding;
mod elsewhere;
mod engine;
mod escapes;
mod fallbacks;
mod fault_matrix;
mod history;
mod idle;
mod instructions;
mod journal;
mod keys;
mod ledger;
mod load;
mod measuring;
mod memory;
mod optimization_integration_tests;
mod rate;
mod recovery;
mod sandbox;
mod secrets;
mod session;
mod streams;
mod wires;

/// Counted, for the tests of what takes no memory.
#[global_allocator]
static ALLOCATOR: vtcode_testkit::Counting<std::alloc::System> =
    vtcode_testkit::Counting(std::alloc::System);
