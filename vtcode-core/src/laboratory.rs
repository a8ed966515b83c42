//! Measures on recorded sessions what an optimization is worth before a user pays for it.
//! Recorded sessions go in; steps, times and tokens with and without it come out.
//! Reads no file and no clock of its own: who calls it hands in the text and the time.

pub mod acts;
pub mod corpus;
pub mod jobs;
pub mod judge;
pub mod play;
pub mod tape;
pub mod waits;
