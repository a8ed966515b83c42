//! The second request for an answer that is late to begin: an attempt and what the endpoint is
//! known to take come in, the time at which another one may go out comes out.
//! Bounded by a share of all requests, so that a slow provider is not asked twice for everything.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::Inner;
use super::ledger::Running;
use super::rate::Reservation;
use crate::core::conversation::RequestBody;
use crate::core::performance_profiler::Percentiles;

/// From how many answers on their times say what is late.
const ENOUGH_ANSWERS: u64 = 20;

/// Up to this size a request costs little a second time. A longer one does where the provider has
/// its beginning in its cache.
const SHORT_BYTES: usize = 32 * 1024;

/// One request's worth of the budget, and the most of them that are saved up.
const WHOLE: u64 = 1_000_000;
const SAVED_UP: u64 = 3 * WHOLE;

/// The share of all requests that may be sent twice.
#[derive(Debug, Default)]
pub(super) struct HedgeBudget(AtomicU64);

impl HedgeBudget {
    /// A request goes out, which earns its share.
    pub(super) fn earn(&self, share: f64) {
        // A second stands for a whole request: its microseconds are the millionth parts.
        let share = Duration::from_secs_f64(share.clamp(0.0, 1.0)).as_micros() as u64;
        let add = |saved: u64| Some((saved + share).min(SAVED_UP));
        // It never fails: the closure always gives a value.
        let _ = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, add);
    }

    /// Takes what a second request costs; false when it is not there.
    pub(super) fn spend(&self) -> bool {
        let take = |saved: u64| saved.checked_sub(WHOLE);
        self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }
}

/// Returns when the answer to a request that goes out now is late, if a second one may help then.
pub(super) fn late_at(client: &Inner, body: &RequestBody, known: &Percentiles) -> Option<Instant> {
    let wanted = client.limits.hedge_budget > 0.0 && known.count >= ENOUGH_ANSWERS;
    let cheap = body.len() <= SHORT_BYTES || client.is_warm(body);
    (wanted && cheap).then(|| Instant::now() + known.p95)
}

/// A response whose answer has begun, or that is none.
pub(super) struct Opened {
    pub(super) response: reqwest::Response,
    pub(super) body: Body,
}

/// What is known of a response's body.
pub(super) enum Body {
    /// It was not looked at: the response is no success.
    Unread,
    Began(Bytes),
    Empty,
}

pub(super) type Opening = Pin<Box<dyn Future<Output = reqwest::Result<Opened>> + Send>>;

/// Waits until the answer to a request begins.
pub(super) async fn opened(
    sending: impl Future<Output = reqwest::Result<reqwest::Response>>,
) -> reqwest::Result<Opened> {
    let mut response = sending.await?;
    let body = if response.status().is_success() {
        response.chunk().await?.map_or(Body::Empty, Body::Began)
    } else {
        Body::Unread
    };
    Ok(Opened { response, body })
}

/// What the second request came to, and its place in the rate limits.
type Placed = (Option<Reservation>, reqwest::Result<Opened>);

/// The second request.
pub(super) struct Second {
    pub(super) running: Running,
    pub(super) opening: Pin<Box<dyn Future<Output = Placed> + Send>>,
}

impl Second {
    /// Sends the request once more, if the rate limits let it go at once.
    pub(super) fn begin(client: &Inner, body: &RequestBody, attempt: u32) -> Self {
        let opening = client.open(body);
        let (limiter, bytes) = (client.limiter.clone(), body.weight());
        let opening = Box::pin(async move {
            let Some(limiter) = limiter else { return (None, opening.await) };
            let (reservation, _) = limiter.reserve(bytes).await;
            if !reservation.wait.is_zero() {
                // Dropped, it gives its place back. The first one is still on its way.
                drop(reservation);
                return std::future::pending().await;
            }
            (Some(reservation), opening.await)
        });
        Self { running: client.running(attempt), opening }
    }
}

/// Returns what the second one says; waits for ever where there is none.
pub(super) async fn second(second: &mut Option<Second>) -> Placed {
    match second {
        Some(second) => second.opening.as_mut().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_share_of_all_requests_is_sent_twice() {
        let budget = HedgeBudget::default();
        let spent = |requests: usize, share| {
            (0..requests)
                .filter(|_| {
                    budget.earn(share);
                    budget.spend()
                })
                .count()
        };
        assert_eq!(spent(19, 0.05), 0);
        assert_eq!(spent(981, 0.05), 50);
        assert_eq!(spent(100, 0.0), 0);
        (0..1000).for_each(|_| budget.earn(0.05));
        let saved = (0..10).filter(|_| budget.spend()).count();
        assert_eq!(saved, 3, "a long calm does not pay for a crowd");
    }
}
