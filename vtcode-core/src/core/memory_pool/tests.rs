use std::thread;

use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Shelves of the test's own: other tests set the limits of the process.
fn shelves(limits: PoolLimits) -> (Shelves, &'static Shared) {
    let shared: &'static Shared = Box::leak(Box::new(Shared::new(limits)));
    let slots: &'static Slots = Box::leak(Box::new(Slots::new()));
    (Shelves::new(shared, slots), shared)
}

const FEW: PoolLimits = PoolLimits {
    buffers: 3,
    lists: 2,
    strings_of_a_value: 8,
    buffer_bytes: 256,
    thread_bytes: 600,
};

fn list_bytes(list: &Vec<String>) -> usize {
    list.capacity() * size_of::<String>()
}

#[derive(Debug, Clone)]
enum Step {
    Take,
    Return(usize),
    TakeList,
    ReturnList(usize),
    Shed,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => Just(Step::Take),
        4 => (0usize..400).prop_map(Step::Return),
        1 => Just(Step::TakeList),
        1 => (0usize..16).prop_map(Step::ReturnList),
        1 => Just(Step::Shed),
    ];
    proptest::collection::vec(step, 0..60)
}

proptest! {
    /// Against the dullest model: two stacks of capacities.
    #[test]
    fn the_shelves_are_two_bounded_stacks(steps in steps()) {
        let (mut shelves, shared) = shelves(FEW);
        let (mut buffers, mut lists) = (Vec::<usize>::new(), Vec::<usize>::new());
        let (mut full, mut oversize) = (0, 0);
        for step in steps {
            let bytes: usize = buffers.iter().chain(&lists).sum();
            let mut fits = |bytes_more: usize, kept: usize, most: usize| {
                let (large, some) = (bytes_more > 256, kept < most && bytes + bytes_more <= 600);
                oversize += u64::from(large);
                full += u64::from(!large && !some);
                !large && some
            };
            match step {
                Step::Take => {
                    let buffer = shelves.buffer();
                    prop_assert!(buffer.is_empty());
                    prop_assert_eq!(buffer.capacity(), buffers.pop().unwrap_or(0));
                }
                Step::Return(size) => {
                    let mut buffer = String::with_capacity(size);
                    buffer.extend(std::iter::repeat_n('x', size / 2));
                    let size = buffer.capacity();
                    if fits(size, buffers.len(), 3) {
                        buffers.push(size);
                    }
                    shelves.keep_buffer(buffer);
                }
                Step::TakeList => {
                    let list = shelves.list();
                    prop_assert!(list.is_empty());
                    prop_assert_eq!(list_bytes(&list), lists.pop().unwrap_or(0));
                }
                Step::ReturnList(size) => {
                    let list = Vec::with_capacity(size);
                    let size = list_bytes(&list);
                    if size > 0 && fits(size, lists.len(), 2) {
                        lists.push(size);
                    }
                    shelves.keep_list(list);
                }
                Step::Shed => {
                    shared.shed();
                    buffers.clear();
                    lists.clear();
                }
            }
            let held = shelves.statistics();
            prop_assert_eq!(held.held, buffers.len() + lists.len());
            prop_assert_eq!(held.held_bytes, buffers.iter().chain(&lists).sum::<usize>());
            prop_assert_eq!((held.full, held.oversize), (full, oversize));
        }
    }
}

#[test]
fn zero_slots_keep_nothing() {
    let (mut none, _) = shelves(PoolLimits::NONE);
    none.keep_buffer(String::with_capacity(64));
    none.keep_list(vec!["a".to_owned()]);
    none.keep_strings_of(json!({"a": "b"}));
    assert_eq!((none.buffer().capacity(), none.list().capacity()), (0, 0));
    let counts = none.statistics();
    assert_eq!((counts.kept, counts.reused, counts.held_bytes, counts.fresh), (0, 0, 0, 2));
}

#[test]
fn new_limits_hold_from_the_next_touch_on() {
    let (mut few, shared) = shelves(FEW);
    few.keep_buffer(String::with_capacity(64));
    shared.set_limits(FEW);
    assert_eq!(few.statistics().held, 1, "the same limits clear nothing");
    shared.set_limits(PoolLimits { buffers: 1, ..FEW });
    assert_eq!(few.statistics().held, 0);
    few.keep_buffer(String::with_capacity(64));
    few.keep_buffer(String::with_capacity(64));
    let counts = few.statistics();
    assert_eq!((counts.held, counts.full), (1, 1));
}

#[test]
fn the_strings_of_lists_and_values_are_used_again() {
    let (mut few, _) = shelves(FEW);
    few.keep_list(vec!["a list's".repeat(4), String::new()]);
    few.keep_strings_of(json!({"name": ["text", 1, null], "other": "more"}));
    // The shelf holds three: the list's string, and the first two of the value.
    let counts = few.statistics();
    assert_eq!((counts.held, counts.full), (4, 2));
    assert!(few.buffer().is_empty() && few.list().is_empty());
}

#[test]
fn a_deep_value_is_taken_apart_only_as_far_as_allowed() {
    let (mut few, _) = shelves(PoolLimits { buffers: 64, thread_bytes: 1 << 20, ..FEW });
    let deep = (0..100).fold(json!("deep"), |inner, _| json!([inner]));
    few.keep_strings_of(deep);
    assert_eq!(few.statistics().kept, 0);
    let wide: Vec<_> = (0..100).map(|_| json!("wide")).collect();
    few.keep_strings_of(json!(wide));
    assert_eq!(few.statistics().kept, 7, "the array itself is the eighth");
}

#[test]
fn a_thread_that_ends_gives_its_slot_and_its_bytes_back() {
    let slots: &'static Slots = Box::leak(Box::new(Slots::new()));
    let shared: &'static Shared = Box::leak(Box::new(Shared::new(FEW)));
    for _ in 0..2000 {
        let mut one = Shelves::new(shared, slots);
        one.keep_buffer(String::with_capacity(8));
    }
    let sum = slots.sum();
    assert_eq!((sum.kept, sum.held, sum.held_bytes), (2000, 0, 0));
    let many: Vec<_> = (0..600)
        .map(|_| {
            let mut one = Shelves::new(shared, slots);
            one.keep_buffer(String::with_capacity(8));
            one
        })
        .collect();
    assert_eq!(slots.sum().held, 512, "who finds no slot works and is not counted");
    drop(many);
    assert_eq!(slots.sum().held, 0);
}

#[test]
fn a_loan_is_a_string_in_every_way_that_is_needed() {
    let mut loan = StringLoan::from("say ");
    loan.push_str("it");
    assert_eq!(loan, "say it");
    assert_eq!(loan.clone(), loan);
    assert_eq!(format!("{loan} {loan:?}"), "say it \"say it\"");
    assert_eq!(serde_json::to_string(&loan).unwrap(), "\"say it\"");
    assert_eq!(serde_json::from_str::<StringLoan>("\"say it\"").unwrap(), loan);
    let kept: String = loan.into_string();
    assert_eq!(kept, "say it");
    assert!(global_pool().loan_string().is_empty() && global_pool().loan_bytes().is_empty());
}

/// Its limits are the process's, which other tests change: what they cannot change is asserted.
#[test]
fn loans_survive_threads_panics_and_the_end_of_a_thread() {
    thread_local! {
        static LATE: RefCell<Option<StringLoan>> = const { RefCell::new(None) };
    }
    // Dropped on another thread.
    let loan = StringLoan::from("made here");
    thread::spawn(move || drop(loan)).join().unwrap();
    // Dropped by a panic.
    let panicked = thread::spawn(|| {
        let _loan = StringLoan::from("lost");
        let _bytes = global_pool().loan_bytes();
        panic!("on purpose");
    });
    assert!(panicked.join().is_err());
    // Dropped after the thread's shelves: `LATE` is touched first, so it is destroyed last, or
    // first where the system goes the other way; both orders are taken.
    for pool_first in [false, true] {
        let late = thread::spawn(move || {
            if pool_first {
                drop(StringLoan::from("shelved"));
            }
            LATE.with_borrow_mut(|late| *late = Some(StringLoan::from("late")));
        });
        late.join().unwrap();
    }
}
