//! The one check before anything touches the user's machine.

pub mod policy;
pub mod sandbox;
pub mod workspace;
