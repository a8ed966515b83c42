//! A provider's limit: requests come in, and whether there is still one for each goes out.
//! Never waits: who is refused is told so.

use std::sync::{Mutex, PoisonError};
use std::time::Instant;

/// A token bucket, as a provider has one; full at first.
#[derive(Debug)]
pub struct Bucket {
    per_second: f64,
    burst: f64,
    left: Mutex<(f64, Instant)>,
}

impl Bucket {
    /// Returns a bucket that gets so many tokens a second, and holds so many.
    pub fn new(per_second: f64, burst: f64) -> Self {
        Self { per_second, burst, left: Mutex::new((burst, Instant::now())) }
    }

    /// Takes a token; false when there is none.
    pub fn take(&self) -> bool {
        let mut held = self.left.lock().unwrap_or_else(PoisonError::into_inner);
        // Within the lock: two who come at once must not turn the time back.
        let now = Instant::now();
        let more = (now - held.1).as_secs_f64() * self.per_second;
        let left = (held.0 + more).min(self.burst);
        let takes = left >= 1.0;
        *held = (left - f64::from(u8::from(takes)), now);
        takes
    }
}
