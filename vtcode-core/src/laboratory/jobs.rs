//! The same work on many recorded sessions: items go in, results come out in their order, however
//! many threads there are.

use std::sync::atomic::{AtomicUsize, Ordering};

/// Does one thing for each item on so many threads, or one for each processor, and returns the
/// results in the order of the items. Never starts more threads than there are items, and at least
/// one. Panics when `each` does.
pub fn on_all_cores<T: Sync, R: Send>(
    threads: Option<usize>,
    items: &[T],
    each: impl Fn(&T) -> R + Sync,
) -> Vec<R> {
    let cores = || std::thread::available_parallelism().map_or(1, usize::from);
    let next = AtomicUsize::new(0);
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let work = || {
            let mut done = Vec::new();
            while let at = next.fetch_add(1, Ordering::Relaxed)
                && let Some(item) = items.get(at)
            {
                done.push((at, each(item)));
            }
            done
        };
        let threads = threads.unwrap_or_else(cores).clamp(1, items.len().max(1));
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no job panics")).collect()
    });
    results.sort_by_key(|(at, _)| *at);
    results.into_iter().map(|(_, result)| result).collect()
}

/// Draws of places among so many, with replacement: the same ones everywhere, for intervals.
#[derive(Debug, Clone)]
pub struct Draws {
    state: u64,
    among: usize,
}

impl Draws {
    /// Begins them; there must be something to draw.
    pub fn among(among: usize) -> Self {
        Self { state: 0x9e37_79b9_7f4a_7c15, among }
    }

    /// Draws as many as there are places; these count from 0. Each call draws on from the last.
    pub fn all(&mut self) -> impl Iterator<Item = usize> + '_ {
        (0..self.among).map(|_| self.draw())
    }

    /// xorshift64*.
    fn draw(&mut self) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        (self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % self.among
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items_on_any_number_of_threads() {
        let items: Vec<u32> = (0..100).collect();
        let expected: Vec<u32> = items.iter().map(|item| item * 2).collect();
        for threads in [None, Some(0), Some(1), Some(7), Some(1000)] {
            assert_eq!(on_all_cores(threads, &items, |item| item * 2), expected);
        }
        assert_eq!(on_all_cores(None, &[], |item: &u32| *item), Vec::<u32>::new());
    }

    #[test]
    fn every_place_is_drawn_about_as_often() {
        let mut draws = Draws::among(10);
        let mut counts = [0; 10];
        (0..1000).for_each(|_| draws.all().for_each(|at| counts[at] += 1));
        assert!(counts.iter().all(|count| (900..1100).contains(count)), "{counts:?}");
    }
}
