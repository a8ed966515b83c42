//! Buffers that are used again: an empty one comes out, with the room that its last user gave it,
//! and goes back when it is returned or its loan is dropped. Each thread has shelves of its own,
//! last in, first out, bounded by count and bytes, so nothing here takes a lock or waits.
//! Never gives out a buffer with anything in it, and never fails: without room on the shelf, with
//! zero slots or while a thread ends, it is the allocator that gives and takes.

use std::cell::RefCell;

use serde_json::Value;

use crate::config::limits::PoolLimits;

mod loan;
mod shelves;
mod statistics;

pub use loan::{BytesLoan, StringLoan};
pub use statistics::PoolStatistics;

use shelves::{Shared, Shelves};
use statistics::Slots;

static SHARED: Shared = Shared::new(PoolLimits::FULL);
static SLOTS: Slots = Slots::new();

thread_local! {
    static HERE: RefCell<Shelves> = const { RefCell::new(Shelves::new(&SHARED, &SLOTS)) };
}

/// The pool of this process; a handle that costs nothing to copy.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct MemoryPool;

/// Returns the pool of this process.
pub fn global_pool() -> MemoryPool {
    MemoryPool
}

impl MemoryPool {
    /// Returns an empty string.
    #[inline]
    pub fn get_string(self) -> String {
        with_shelves(Shelves::buffer).unwrap_or_default()
    }

    /// Takes a string back; what is in it is dropped.
    #[inline]
    pub fn return_string(self, text: String) {
        if text.capacity() > 0 {
            with_shelves(|here| here.keep_buffer(text));
        }
    }

    /// Returns an empty string that goes back when it is dropped.
    #[inline]
    pub fn loan_string(self) -> StringLoan {
        StringLoan::from(self.get_string())
    }

    /// Returns an empty buffer.
    #[inline]
    pub fn get_bytes(self) -> Vec<u8> {
        self.get_string().into_bytes()
    }

    /// Takes a buffer back; what is in it is dropped.
    #[inline]
    pub fn return_bytes(self, mut buffer: Vec<u8>) {
        buffer.clear();
        // Nothing is in it that could be no text.
        self.return_string(String::from_utf8(buffer).unwrap_or_default());
    }

    /// Returns an empty buffer that goes back when it is dropped.
    #[inline]
    pub fn loan_bytes(self) -> BytesLoan {
        BytesLoan::from(self.get_bytes())
    }

    /// Returns an empty list of strings.
    pub fn get_vec(self) -> Vec<String> {
        with_shelves(Shelves::list).unwrap_or_default()
    }

    /// Takes a list of strings back, and its strings, as far as there is room.
    pub fn return_vec(self, list: Vec<String>) {
        with_shelves(|here| here.keep_list(list));
    }

    /// Returns [`Value::Null`]. A value has no room of its own that could be kept: what is used
    /// again of a returned one are the buffers of its strings.
    pub fn get_value(self) -> Value {
        Value::Null
    }

    /// Takes a value apart, and its strings back, as far as there is room.
    pub fn return_value(self, value: Value) {
        with_shelves(|here| here.keep_strings_of(value));
    }

    /// Sets how much each thread may keep. What is kept is dropped, by each thread when it next
    /// comes here. The pool is the process's: the limits that were set last hold.
    pub fn set_limits(self, limits: PoolLimits) {
        SHARED.set_limits(limits);
    }

    /// Drops everything that is kept: at once what this thread keeps, and what another one keeps
    /// when it next comes here.
    pub fn shed(self) {
        SHARED.shed();
        with_shelves(Shelves::look);
    }

    /// Returns what became of all buffers so far, all threads together; of threads that
    /// live at the same time, 512 are counted.
    pub fn statistics(self) -> PoolStatistics {
        SLOTS.sum()
    }

    /// Returns what became of the buffers of this thread. They begin with what a thread that
    /// ended before left there: compare two readings.
    pub fn statistics_of_this_thread(self) -> PoolStatistics {
        with_shelves(Shelves::statistics).unwrap_or_default()
    }
}

/// None while the thread's own things are being destroyed, or from within the pool itself.
#[inline]
fn with_shelves<T>(f: impl FnOnce(&mut Shelves) -> T) -> Option<T> {
    HERE.try_with(|here| here.try_borrow_mut().ok().map(|mut here| f(&mut here))).ok().flatten()
}

#[cfg(test)]
mod tests;
