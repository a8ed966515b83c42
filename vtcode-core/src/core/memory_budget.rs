//! The ceiling of a session's memory: what is kept is charged, caches are shed when it gets tight,
//! and new work is refused before it gets full. Takes numbers in and gives a permit or a refusal.
//! Never frees what is charged, and looks at the process only when somebody asks for room: nothing
//! is sampled while nothing runs.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::core::memory_pool::MemoryPool;

/// From this share of the ceiling on, whatever can be made again is let go of: 80 of 100.
const SHED_PERCENT: u64 = 80;
/// From this share on, nothing new is begun: 95 of 100.
const REFUSE_PERCENT: u64 = 95;

/// What the bytes are kept for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Account {
    /// Messages of the conversation that are in memory.
    History,
    /// Results, and the buffers of calls that run.
    ToolOutput,
    /// The answer that is streaming.
    Answer,
    /// Prompts that wait.
    Prompts,
}

const ACCOUNTS: usize = 4;

/// New work was refused, because too much is kept already.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "{} MiB of the {} MiB that a session may use are taken \
     (optimization.agent_execution.max_memory_mb)",
    used_bytes >> 20, ceiling_bytes >> 20
)]
pub struct OutOfMemory {
    /// What is taken; where something new was asked for, that is among it.
    pub used_bytes: u64,
    /// The ceiling.
    pub ceiling_bytes: u64,
}

/// Something that keeps bytes of its own which can be made again.
pub trait Sheds: Send + Sync {
    /// Returns the bytes that it keeps.
    fn kept_bytes(&self) -> u64;

    /// Lets go of them.
    fn shed(&self);
}

/// A session's budget. Clones are the same one.
#[derive(Clone)]
pub struct MemoryBudget(Arc<Inner>);

struct Inner {
    ceiling_bytes: u64,
    charged: [AtomicU64; ACCOUNTS],
    /// What the system says that the process holds.
    resident: fn() -> u64,
    sheds: Mutex<Vec<Arc<dyn Sheds>>>,
    shed: AtomicU64,
    refused: AtomicU64,
}

/// What a budget has seen.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Bytes charged now, those of caches and pools among them.
    pub charged_bytes: u64,
    /// How often caches were shed.
    pub shed: u64,
    /// How often new work was refused.
    pub refused: u64,
}

impl MemoryBudget {
    /// Returns a budget for so many bytes. `resident` tells what the process holds, whatever is
    /// charged: the larger of both counts.
    pub fn new(ceiling_bytes: u64, resident: fn() -> u64) -> Self {
        Self(Arc::new(Inner {
            ceiling_bytes,
            charged: Default::default(),
            resident,
            sheds: Mutex::default(),
            shed: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        }))
    }

    /// Counts what this keeps, and sheds it when it gets tight.
    pub fn watch(&self, sheds: Arc<dyn Sheds>) {
        self.sheds().push(sheds);
    }

    /// Asks for room for something new of about this size. Sheds caches when more than 80 of 100 of
    /// the ceiling would be taken, and fails when more than 95 of 100 still would be.
    pub fn admit(&self, bytes: u64) -> Result<(), OutOfMemory> {
        let Inner { ceiling_bytes, .. } = *self.0;
        let share = |percent| ceiling_bytes / 100 * percent;
        let mut used = self.used_bytes().saturating_add(bytes);
        if used > share(SHED_PERCENT) {
            self.0.shed.fetch_add(1, Ordering::Relaxed);
            self.sheds().iter().for_each(|sheds| sheds.shed());
            used = self.used_bytes().saturating_add(bytes);
        }
        if used > share(REFUSE_PERCENT) {
            self.0.refused.fetch_add(1, Ordering::Relaxed);
            return Err(OutOfMemory { used_bytes: used, ceiling_bytes });
        }
        Ok(())
    }

    /// Returns a charge for something new. Fails as [`admit`](Self::admit) does, and then charges
    /// nothing.
    pub fn charge(&self, account: Account, bytes: u64) -> Result<Charge, OutOfMemory> {
        self.admit(bytes)?;
        Ok(self.hold(account, bytes))
    }

    /// Returns a charge for what is there already and has to stay, even beyond the ceiling.
    pub fn hold(&self, account: Account, bytes: u64) -> Charge {
        self.0.charged[account as usize].fetch_add(bytes, Ordering::Relaxed);
        Charge { budget: self.clone(), account, bytes }
    }

    /// Returns the figures when more than the ceiling is taken, so that even what must go on
    /// cannot; none otherwise.
    pub fn is_full(&self) -> Option<OutOfMemory> {
        let (used_bytes, ceiling_bytes) = (self.used_bytes(), self.0.ceiling_bytes);
        (used_bytes > ceiling_bytes).then_some(OutOfMemory { used_bytes, ceiling_bytes })
    }

    /// Returns what it has seen.
    pub fn used(&self) -> MemoryUse {
        MemoryUse {
            charged_bytes: self.charged_bytes(),
            shed: self.0.shed.load(Ordering::Relaxed),
            refused: self.0.refused.load(Ordering::Relaxed),
        }
    }

    /// Returns the bytes charged to one account.
    pub fn charged(&self, account: Account) -> u64 {
        self.0.charged[account as usize].load(Ordering::Relaxed)
    }

    fn used_bytes(&self) -> u64 {
        self.charged_bytes().max((self.0.resident)())
    }

    fn charged_bytes(&self) -> u64 {
        let own: u64 = self.0.charged.iter().map(|bytes| bytes.load(Ordering::Relaxed)).sum();
        let others: u64 = self.sheds().iter().map(|sheds| sheds.kept_bytes()).sum();
        own.saturating_add(others)
    }

    fn sheds(&self) -> std::sync::MutexGuard<'_, Vec<Arc<dyn Sheds>>> {
        // Each use makes one change: it is sound after any panic.
        self.0.sheds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MemoryBudget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryBudget")
            .field("ceiling_bytes", &self.0.ceiling_bytes)
            .field("used", &self.used())
            .finish_non_exhaustive()
    }
}

/// Bytes that are charged as long as this lives.
#[derive(Debug)]
#[must_use]
pub struct Charge {
    budget: MemoryBudget,
    account: Account,
    bytes: u64,
}

impl Charge {
    /// Charges another number of bytes from here on.
    pub fn set(&mut self, bytes: u64) {
        let charged = &self.budget.0.charged[self.account as usize];
        if bytes >= self.bytes {
            charged.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            charged.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }

    /// Charges some more bytes.
    pub fn add(&mut self, bytes: u64) {
        self.set(self.bytes.saturating_add(bytes));
    }

    /// Returns the bytes that are charged.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.set(0);
    }
}

impl Sheds for MemoryPool {
    fn kept_bytes(&self) -> u64 {
        self.statistics().held_bytes as u64
    }

    fn shed(&self) {
        MemoryPool::shed(*self);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A cache of so many bytes.
    struct Kept(AtomicU64);

    impl Sheds for Kept {
        fn kept_bytes(&self) -> u64 {
            self.0.load(Ordering::Relaxed)
        }

        fn shed(&self) {
            self.0.store(0, Ordering::Relaxed);
        }
    }

    #[test]
    fn caches_go_at_80_and_work_is_refused_at_95_of_100() {
        let budget = MemoryBudget::new(1000, || 0);
        let cache = Arc::new(Kept(AtomicU64::new(500)));
        budget.watch(Arc::clone(&cache) as Arc<dyn Sheds>);
        let history = budget.hold(Account::History, 300);
        budget.admit(0).unwrap();
        assert_eq!(cache.kept_bytes(), 500, "800 is not more than 80 of 100");
        let call = budget.charge(Account::ToolOutput, 1).unwrap();
        assert_eq!((cache.kept_bytes(), budget.used().shed), (0, 1));
        let more = budget.charge(Account::ToolOutput, 649).unwrap();
        let refused = budget.charge(Account::Prompts, 1).unwrap_err();
        assert_eq!(refused, OutOfMemory { used_bytes: 951, ceiling_bytes: 1000 });
        assert_eq!((budget.used().charged_bytes, budget.used().refused), (950, 1));
        assert_eq!(budget.is_full(), None);
        let kept = budget.hold(Account::History, 51);
        assert!(budget.is_full().is_some());
        drop((history, call, more, kept));
        assert_eq!(budget.used().charged_bytes, 0);
        budget.admit(950).unwrap();
    }

    #[test]
    fn what_the_process_holds_counts_whatever_is_charged() {
        let budget = MemoryBudget::new(1000, || 960);
        assert!(budget.admit(0).is_err());
        assert_eq!(budget.is_full(), None);
        assert!(MemoryBudget::new(1000, || 1001).is_full().is_some());
        MemoryBudget::new(2000, || 960).admit(0).unwrap();
    }

    #[test]
    fn a_charge_grows_and_shrinks() {
        let budget = MemoryBudget::new(1000, || 0);
        let mut charge = budget.hold(Account::Answer, 10);
        charge.add(5);
        assert_eq!((charge.bytes(), budget.charged(Account::Answer)), (15, 15));
        charge.set(3);
        assert_eq!(budget.charged(Account::Answer), 3);
        drop(charge);
        assert_eq!(budget.charged(Account::Answer), 0);
    }
}
