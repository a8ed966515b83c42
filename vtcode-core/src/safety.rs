//! The one check before anything touches the user's machine.

pub mod permissions;
pub mod policy;
pub mod preimage;
pub mod sandbox;
pub mod workspace;
