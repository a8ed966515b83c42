//! A byte that chooses a tool and the text of its arguments come in; the check answers them.
//! What is refused is refused in words of bounded length.
//! Never runs a tool.
#![no_main]

use std::path::Path;
use std::sync::{Arc, LazyLock};

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use vtcode_core::config::limits::Limits;
use vtcode_core::safety::sandbox::Sandbox;
use vtcode_core::safety::workspace::Workspace;
use vtcode_core::tools::builtin;
use vtcode_core::tools::optimized_registry::OptimizedToolRegistry;

static REGISTRY: LazyLock<OptimizedToolRegistry> = LazyLock::new(|| {
    let limits = Limits::full().tools;
    let workspace = Workspace::open(Path::new("/")).expect("every system has its root");
    let spool = std::env::temp_dir();
    let tools = builtin::all(&Arc::new(workspace), spool, [], Arc::new(Sandbox::off()), &limits);
    OptimizedToolRegistry::with_tools(tools, limits)
});

fuzz_target!(|input: (u8, &str)| {
    let (tool, text) = input;
    let Ok(args) = serde_json::from_str::<Value>(text) else { return };
    let specs = REGISTRY.specs();
    let spec = &specs[usize::from(tool) % specs.len()];
    let tool = REGISTRY.get(&spec.name).expect("it is in the catalog");
    if let Err(error) = REGISTRY.check(&tool, &args) {
        let told = error.to_string();
        assert!(told.contains('`') && told.len() < 4_500, "{told}");
    }
});
