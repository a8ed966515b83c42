//! Page ranges for a print dialog.

mod parse;
mod ranges;

pub use parse::parse;
pub use ranges::{merge, show};
