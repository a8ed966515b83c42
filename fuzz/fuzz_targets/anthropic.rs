//! Any bytes come in as an answer on this wire, in several cuts; each cut must say the same, no more
//! than the bytes hold, and nothing may panic.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vtcode_core::config::endpoint::Wire;

#[path = "../../vtcode-core/tests/wires/harness.rs"]
mod harness;

fuzz_target!(|bytes: &[u8]| {
    harness::check(Wire::Anthropic, bytes);
});
