//! Tools for testing agents: a script of replies comes in, a model that says them on a real socket
//! comes out, with the delays and the faults that real providers have; and temporary workspaces.
//! Knows no agent: whoever speaks one of the four wires can be tested, measured or shown with it.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use serde_json::json;
//! use vtcode_testkit::{Fault, ScriptedModel, call, fail, say};
//!
//! let model = ScriptedModel::start(vec![
//!     say("I look.").and(call("grep_file", json!({"pattern": "fn main"}))),
//!     fail(Fault::status(429).header("retry-after", "0")),
//!     say("Found it."),
//! ])
//! .await;
//! // … point the agent at `model.openai_url()` or `model.gemini_url()`, let it run, then:
//! assert_eq!(model.requests().len(), 0);
//! # }
//! ```
//!
//! Each [`Request`] says what was `billed` for it: the tokens that its response had reported by the
//! time it ended, however it ended. A ledger that is right says the same, attempt by attempt.

mod allocations;
mod bill;
mod bucket;
mod http;
mod model;
mod reply;
mod response;
#[cfg(feature = "tls")]
mod tls;
mod wire;
mod workspace;

pub use allocations::{Allocations, Counting};
pub use bucket::Bucket;
pub use model::{Request, ScriptedModel};
pub use reply::{Fault, Reply, Usage, call, fail, raw_call, say, think};
pub use response::Chunking;
#[cfg(feature = "tls")]
pub use tls::TlsServer;
pub use wire::Wire;
pub use workspace::TempWorkspace;
