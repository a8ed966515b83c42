//! What one thread keeps.

use std::sync::atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed};

use serde_json::Value;

use super::statistics::{PoolStatistics, Slot, Slots};
use crate::config::limits::PoolLimits;

/// The limits, and a number that changes when every thread has to look at them again.
#[derive(Debug)]
pub(super) struct Shared {
    version: AtomicU32,
    buffers: AtomicUsize,
    lists: AtomicUsize,
    strings_of_a_value: AtomicUsize,
    buffer_bytes: AtomicUsize,
    thread_bytes: AtomicUsize,
}

impl Shared {
    pub(super) const fn new(limits: PoolLimits) -> Self {
        Self {
            version: AtomicU32::new(1),
            buffers: AtomicUsize::new(limits.buffers),
            lists: AtomicUsize::new(limits.lists),
            strings_of_a_value: AtomicUsize::new(limits.strings_of_a_value),
            buffer_bytes: AtomicUsize::new(limits.buffer_bytes),
            thread_bytes: AtomicUsize::new(limits.thread_bytes),
        }
    }

    pub(super) fn set_limits(&self, limits: PoolLimits) {
        // Every session sets them, and most set the same: shelves need not be cleared for that.
        if self.limits() != limits {
            self.buffers.store(limits.buffers, Relaxed);
            self.lists.store(limits.lists, Relaxed);
            self.strings_of_a_value.store(limits.strings_of_a_value, Relaxed);
            self.buffer_bytes.store(limits.buffer_bytes, Relaxed);
            self.thread_bytes.store(limits.thread_bytes, Relaxed);
            self.shed();
        }
    }

    pub(super) fn shed(&self) {
        // 0 is what a thread begins with. Release: who sees the number sees the limits.
        if self.version.fetch_add(1, std::sync::atomic::Ordering::Release) == u32::MAX {
            self.version.store(1, std::sync::atomic::Ordering::Release);
        }
    }

    fn limits(&self) -> PoolLimits {
        PoolLimits {
            buffers: self.buffers.load(Relaxed),
            lists: self.lists.load(Relaxed),
            strings_of_a_value: self.strings_of_a_value.load(Relaxed),
            buffer_bytes: self.buffer_bytes.load(Relaxed),
            thread_bytes: self.thread_bytes.load(Relaxed),
        }
    }
}

/// A thread's shelves. Strings and byte buffers lie on one, as strings: to make a buffer of one costs
/// nothing, while the other way its content is checked, even if there is none.
#[derive(Debug)]
pub(super) struct Shelves {
    shared: &'static Shared,
    slots: &'static Slots,
    slot: &'static Slot,
    version: u32,
    limits: PoolLimits,
    buffers: Vec<String>,
    lists: Vec<Vec<String>>,
    /// What lies on both, without the strings that are lent.
    bytes: usize,
}

impl Shelves {
    pub(super) const fn new(shared: &'static Shared, slots: &'static Slots) -> Self {
        Self {
            shared,
            slots,
            slot: &slots.uncounted,
            version: 0,
            limits: PoolLimits::NONE,
            buffers: Vec::new(),
            lists: Vec::new(),
            bytes: 0,
        }
    }

    #[inline]
    pub(super) fn look(&mut self) {
        if self.version != self.shared.version.load(Relaxed) {
            self.begin_anew();
        }
    }

    #[cold]
    #[inline(never)]
    fn begin_anew(&mut self) {
        if self.version == 0 {
            self.slot = self.slots.claim();
        }
        self.version = self.shared.version.load(std::sync::atomic::Ordering::Acquire);
        self.limits = self.shared.limits();
        self.slot.shed(self.buffers.len() + self.lists.len());
        self.buffers = Vec::new();
        self.lists = Vec::new();
        self.bytes = 0;
    }

    #[inline]
    pub(super) fn buffer(&mut self) -> String {
        self.look();
        let Some(buffer) = self.buffers.pop() else {
            self.slot.fresh.add_one();
            return String::new();
        };
        // Copies, so that the store in between does not have them read again.
        let (slot, bytes) = (self.slot, self.bytes - buffer.capacity());
        self.bytes = bytes;
        slot.reused.add_one();
        slot.holds_bytes(bytes);
        buffer
    }

    #[inline]
    pub(super) fn keep_buffer(&mut self, mut buffer: String) {
        self.look();
        if self.has_room(buffer.capacity(), self.buffers.len(), self.limits.buffers) {
            buffer.clear();
            let (slot, bytes) = (self.slot, self.bytes + buffer.capacity());
            self.bytes = bytes;
            slot.kept.add_one();
            slot.holds_bytes(bytes);
            self.buffers.push(buffer);
        }
    }

    pub(super) fn list(&mut self) -> Vec<String> {
        self.look();
        let Some(list) = self.lists.pop() else {
            self.slot.fresh.add_one();
            return Vec::new();
        };
        self.bytes -= list_bytes(&list);
        self.slot.reused.add_one();
        self.slot.holds_bytes(self.bytes);
        list
    }

    pub(super) fn keep_list(&mut self, mut list: Vec<String>) {
        for text in list.drain(..) {
            if text.capacity() > 0 {
                self.keep_buffer(text);
            }
        }
        self.look();
        let bytes = list_bytes(&list);
        if bytes > 0 && self.has_room(bytes, self.lists.len(), self.limits.lists) {
            self.bytes += bytes;
            self.lists.push(list);
            self.slot.kept.add_one();
            self.slot.holds_bytes(self.bytes);
        }
    }

    pub(super) fn keep_strings_of(&mut self, value: Value) {
        self.look();
        let mut left = self.limits.strings_of_a_value;
        self.take_apart(value, &mut left);
    }

    /// `left` counts every value that is looked into, so that neither a wide nor a deep one costs
    /// more than dropping it.
    fn take_apart(&mut self, value: Value, left: &mut usize) {
        if *left == 0 {
            return;
        }
        *left -= 1;
        match value {
            Value::String(text) if text.capacity() > 0 => self.keep_buffer(text),
            Value::Array(values) => values.into_iter().for_each(|v| self.take_apart(v, left)),
            Value::Object(fields) => {
                for (name, value) in fields {
                    self.take_apart(Value::String(name), left);
                    self.take_apart(value, left);
                }
            }
            _ => {}
        }
    }

    pub(super) fn statistics(&mut self) -> PoolStatistics {
        self.look();
        self.slot.read()
    }

    #[inline]
    fn has_room(&self, bytes: usize, kept: usize, most: usize) -> bool {
        if bytes > self.limits.buffer_bytes {
            self.slot.oversize.add_one();
            return false;
        }
        let fits = kept < most && self.bytes + bytes <= self.limits.thread_bytes;
        if !fits {
            self.slot.full.add_one();
        }
        fits
    }
}

impl Drop for Shelves {
    fn drop(&mut self) {
        self.slot.shed(self.buffers.len() + self.lists.len());
        self.slots.leave(self.slot);
    }
}

fn list_bytes(list: &Vec<String>) -> usize {
    list.capacity() * size_of::<String>()
}
