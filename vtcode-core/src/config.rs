//! The only reader of switches, files and the environment.

mod credentials;
pub mod dialect;
pub mod endpoint;
pub mod env;
pub mod files;
pub mod layers;
pub mod limits;
pub mod named;
pub mod optimization;
pub mod reload;
pub mod safety;
