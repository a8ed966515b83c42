//! The slots in which calls run: a priority goes in, the right to run comes out. The highest
//! priority goes first, and waiting counts as priority, so that nobody waits for ever. No timer
//! ticks: who goes first is looked at when a slot becomes free.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::tools::tool::ToolError;

/// How urgent a call is. Waiting for a slot counts, too: each `aging` of the limits as one level,
/// but nothing overtakes a critical call.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ExecutionPriority {
    /// It can wait for what somebody waits for.
    Low,
    /// What the model asks for.
    #[default]
    Normal,
    /// What a person waits for.
    High,
    /// It goes before everything that waits, and never waits for company.
    Critical,
}

#[derive(Debug)]
pub(in crate::tools) struct Slots {
    state: Mutex<State>,
    max_waiting: usize,
    aging: Duration,
}

#[derive(Debug)]
struct State {
    free: usize,
    arrivals: u64,
    waiting: Vec<Waiter>,
}

#[derive(Debug)]
struct Waiter {
    arrival: u64,
    priority: ExecutionPriority,
    since: Instant,
    wake: oneshot::Sender<Permit>,
}

/// The right to run one call or one batch; dropping it gives the slot back.
#[derive(Debug)]
pub struct Permit {
    /// None once it was handed on.
    slots: Option<Arc<Slots>>,
}

/// Takes its waiter out of the queue when the wait is given up.
struct Waiting<'a> {
    slots: &'a Slots,
    arrival: u64,
}

impl Slots {
    pub(in crate::tools) fn new(count: usize, max_waiting: usize, aging: Duration) -> Arc<Self> {
        let state = State { free: count.max(1), arrivals: 0, waiting: Vec::new() };
        Arc::new(Self { state: Mutex::new(state), max_waiting, aging })
    }

    /// Waits for a slot; fails at once when too many wait already. Dropping the future leaves the
    /// queue.
    pub(in crate::tools) async fn permit(
        self: &Arc<Self>,
        priority: ExecutionPriority,
    ) -> Result<Permit, ToolError> {
        let (wait, receiver) = {
            let mut state = self.state();
            if state.free > 0 {
                state.free -= 1;
                return Ok(Permit { slots: Some(Arc::clone(self)) });
            }
            if state.waiting.len() >= self.max_waiting {
                return Err(ToolError::Overloaded { waiting: state.waiting.len() });
            }
            let (wake, receiver) = oneshot::channel();
            let arrival = state.arrivals;
            state.arrivals += 1;
            state.waiting.push(Waiter { arrival, priority, since: Instant::now(), wake });
            (Waiting { slots: self, arrival }, receiver)
        };
        let permit = receiver.await;
        drop(wait);
        Ok(permit.expect("a waiter leaves the queue only with a permit, or with its future"))
    }

    /// Returns how many wait.
    pub(in crate::tools) fn waiting(&self) -> usize {
        self.state().waiting.len()
    }

    /// Hands a free slot to who is most urgent now.
    fn release(self: &Arc<Self>) {
        let mut permit = Permit { slots: None };
        loop {
            let waiter = {
                let mut state = self.state();
                let now = Instant::now();
                let first = state.waiting.iter().enumerate().max_by(|(_, a), (_, b)| {
                    let urgency = |waiter: &Waiter| self.urgency(waiter, now);
                    // Of two as urgent as each other, who came first.
                    urgency(a).total_cmp(&urgency(b)).then(b.arrival.cmp(&a.arrival))
                });
                let Some(first) = first.map(|(at, _)| at) else {
                    state.free += 1;
                    return;
                };
                state.waiting.swap_remove(first)
            };
            permit.slots = Some(Arc::clone(self));
            match waiter.wake.send(permit) {
                Ok(()) => return,
                // It gave up in this moment; the next one gets the slot.
                Err(mut back) => {
                    back.slots = None;
                    permit = back;
                }
            }
        }
    }

    fn urgency(&self, waiter: &Waiter, now: Instant) -> f64 {
        let waited = now.saturating_duration_since(waiter.since).as_secs_f64();
        let aged = waited / self.aging.as_secs_f64().max(f64::MIN_POSITIVE);
        match waiter.priority {
            // Nothing overtakes it, however long it waited.
            ExecutionPriority::Critical => f64::MAX,
            priority => f64::from(priority as u8) + aged,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each use leaves the state whole: nothing in them panics half way.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(slots) = self.slots.take() {
            slots.release();
        }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.slots.state().waiting.retain(|waiter| waiter.arrival != self.arrival);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt as _;

    const AGING: Duration = Duration::from_secs(5);

    /// Lets calls of these priorities queue for one slot, some time apart; returns the order in
    /// which they run.
    async fn order(priorities: &[ExecutionPriority], apart: Duration) -> Vec<usize> {
        let slots = Slots::new(1, 100, AGING);
        let first = slots.permit(ExecutionPriority::Low).await.unwrap();
        let ran = Mutex::new(Vec::new());
        let mut calls: Vec<_> = priorities
            .iter()
            .enumerate()
            .map(|(n, priority)| {
                let (slots, ran) = (Arc::clone(&slots), &ran);
                Box::pin(async move {
                    let permit = slots.permit(*priority).await.unwrap();
                    ran.lock().unwrap().push(n);
                    drop(permit);
                })
            })
            .collect();
        for call in &mut calls {
            assert!(call.now_or_never().is_none());
            tokio::time::advance(apart).await;
        }
        drop(first);
        futures_util::future::join_all(calls).await;
        ran.into_inner().unwrap()
    }

    use ExecutionPriority::{Critical, High, Low, Normal};

    #[tokio::test(start_paused = true)]
    async fn the_most_urgent_goes_first_and_equals_in_order() {
        let order = order(&[Low, Normal, High, Critical, Normal, Low], Duration::ZERO).await;
        assert_eq!(order, [3, 2, 1, 4, 0, 5]);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_long_becomes_urgent_but_never_critical() {
        // A low call that waited for 11 s goes before a high one that came just now.
        assert_eq!(order(&[Low, High, Critical], Duration::from_secs(11)).await, [2, 0, 1]);
        assert_eq!(order(&[Low, High, Critical], Duration::from_secs(1)).await, [2, 1, 0]);
    }

    #[tokio::test]
    async fn who_gives_up_leaves_the_queue_and_loses_no_slot() {
        let slots = Slots::new(1, 100, AGING);
        let held = slots.permit(Low).await.unwrap();
        let mut gone = Box::pin(slots.permit(High));
        assert!((&mut gone).now_or_never().is_none());
        assert_eq!(slots.waiting(), 1);
        drop(gone);
        assert_eq!(slots.waiting(), 0);

        // Given up after the slot was handed over, but before it was taken.
        let mut gone = Box::pin(slots.permit(High));
        assert!((&mut gone).now_or_never().is_none());
        drop(held);
        drop(gone);
        assert!(slots.permit(Low).now_or_never().is_some_and(|permit| permit.is_ok()));
    }

    #[tokio::test]
    async fn a_full_queue_refuses() {
        let slots = Slots::new(1, 1, AGING);
        let _held = slots.permit(Low).await.unwrap();
        let mut waits = Box::pin(slots.permit(Low));
        assert!((&mut waits).now_or_never().is_none());
        let refused = slots.permit(Critical).now_or_never().unwrap();
        assert!(matches!(refused, Err(ToolError::Overloaded { waiting: 1 })));
    }
}
