//! The only cache: bounded by count, bytes and age, and by one run at a time for each key.
//! A key goes in, a value or the duty to make it comes out. Never decides whether a value that is
//! young enough still holds: that is for who kept it to know.

pub mod disk;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use quick_cache::Weighter;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::config::limits::CacheLimits;

/// What names a value: a hash of everything that it depends on.
pub type Key = [u8; 32];

/// A cache of values that are cheap to clone.
#[derive(Debug)]
pub struct Cache<V> {
    kept: Option<quick_cache::sync::Cache<Key, Entry<V>, ByBytes>>,
    limits: CacheLimits,
    /// What is being made, for whom else wants it.
    flights: Mutex<HashMap<Key, Arc<Making<V>>>>,
}

/// A value that is being made.
#[derive(Debug)]
struct Making<V> {
    value: OnceLock<V>,
    /// Cancelled when it landed or was given up; wakes those who follow in the order they came.
    over: CancellationToken,
}

#[derive(Debug, Clone)]
struct Entry<V> {
    value: V,
    weight: u64,
    kept_at: Instant,
}

#[derive(Debug, Clone)]
struct ByBytes;

impl<V> Weighter<Key, Entry<V>> for ByBytes {
    fn weight(&self, _: &Key, entry: &Entry<V>) -> u64 {
        entry.weight
    }
}

/// What there is for a key that is wanted.
#[derive(Debug)]
pub enum Flight<'a, V> {
    /// Nobody makes it: the caller does, and lands it.
    Lead(Lead<'a, V>),
    /// Somebody makes it already.
    Follow(Follow<V>),
}

/// The duty to make a value. Dropped without landing, another takes the duty over.
#[derive(Debug)]
pub struct Lead<'a, V> {
    cache: &'a Cache<V>,
    key: Key,
    making: Arc<Making<V>>,
}

/// A value that somebody else makes.
#[derive(Debug)]
pub struct Follow<V>(Arc<Making<V>>);

impl<V: Clone> Cache<V> {
    /// Returns an empty cache.
    pub fn new(limits: CacheLimits) -> Self {
        let kept = (limits.entries > 0).then(|| {
            quick_cache::sync::Cache::with_weighter(limits.entries, limits.bytes as u64, ByBytes)
        });
        Self { kept, limits, flights: Mutex::default() }
    }

    /// Returns the value kept for a key, if it is young enough.
    pub fn get(&self, key: &Key) -> Option<V> {
        let entry = self.kept.as_ref()?.get(key)?;
        if entry.kept_at.elapsed() < self.limits.time_to_live {
            return Some(entry.value);
        }
        self.remove(key);
        None
    }

    /// Keeps a value of about this size; drops others until it fits. What is larger than all that
    /// may be kept is not kept.
    pub fn insert(&self, key: Key, value: V, bytes: usize) {
        let Some(kept) = &self.kept else { return };
        // Each entry weighs at least its share, so that the bytes bound the count, too.
        let weight = bytes.max(self.limits.bytes.div_ceil(self.limits.entries)) as u64;
        kept.insert(key, Entry { value, weight, kept_at: Instant::now() });
    }

    /// Drops a value that does not hold any more.
    pub fn remove(&self, key: &Key) {
        if let Some(kept) = &self.kept {
            kept.remove(key);
        }
    }

    /// Returns how many values are kept.
    pub fn len(&self) -> usize {
        self.kept.as_ref().map_or(0, quick_cache::sync::Cache::len)
    }

    /// Returns whether no value is kept.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes the duty to make the value of a key, or joins who has it.
    pub fn flight(&self, key: Key) -> Flight<'_, V> {
        let mut flights = self.flights();
        if let Some(making) = flights.get(&key) {
            return Flight::Follow(Follow(Arc::clone(making)));
        }
        let making = Arc::new(Making { value: OnceLock::new(), over: CancellationToken::new() });
        flights.insert(key, Arc::clone(&making));
        Flight::Lead(Lead { cache: self, key, making })
    }
}

impl<V: Clone> Cache<V> {
    /// Returns the bytes of all that is kept; a small value counts as an even share of the room.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, quick_cache::sync::Cache::weight)
    }

    /// Drops all that is kept. What is being made goes on.
    pub fn clear(&self) {
        if let Some(kept) = &self.kept {
            kept.clear();
        }
    }
}

impl<V> Cache<V> {
    fn flights(&self) -> MutexGuard<'_, HashMap<Key, Arc<Making<V>>>> {
        // The map is whole after any panic: each use makes one change.
        self.flights.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Lead<'_, V> {
    /// Hands the value to all that follow.
    pub fn land(self, value: V) {
        // It is set once: landing takes the duty.
        let _ = self.making.value.set(value);
    }
}

impl<V> Drop for Lead<'_, V> {
    fn drop(&mut self) {
        // Before anybody is told: who hears that it was given up may take the duty at once.
        self.cache.flights().remove(&self.key);
        self.making.over.cancel();
    }
}

impl<V: Clone> Follow<V> {
    /// Waits for the value; none when its maker gave up.
    pub async fn landed(self) -> Option<V> {
        self.0.over.cancelled().await;
        self.0.value.get().cloned()
    }
}

/// Returns the key of something that consists of these pieces.
pub fn key<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Key {
    let mut hasher = blake3::Hasher::new();
    for piece in pieces {
        // With its length, so that no two lists of pieces run into the same bytes.
        hasher.update(&(piece.len() as u64).to_le_bytes()).update(piece);
    }
    *hasher.finalize().as_bytes()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const LIMITS: CacheLimits =
        CacheLimits { entries: 10, bytes: 1000, time_to_live: Duration::from_secs(60) };

    fn named(n: usize) -> Key {
        key([n.to_string().as_bytes()])
    }

    #[tokio::test(start_paused = true)]
    async fn a_value_is_kept_until_it_is_too_old() {
        let cache = Cache::new(LIMITS);
        cache.insert(named(1), "one", 1);
        assert_eq!(cache.get(&named(1)), Some("one"));
        tokio::time::advance(Duration::from_secs(61)).await;
        assert_eq!(cache.get(&named(1)), None);
        assert!(cache.is_empty());
    }

    #[tokio::test]
    async fn count_and_bytes_are_bounded() {
        let cache = Cache::new(LIMITS);
        (0..100).for_each(|n| cache.insert(named(n), n, 1));
        assert!(cache.len() <= 10, "{}", cache.len());
        (0..100).for_each(|n| cache.insert(named(n), n, 400));
        assert!(cache.len() <= 2, "{}", cache.len());
        assert!((400..=1000).contains(&cache.kept_bytes()), "{}", cache.kept_bytes());
        cache.clear();
        assert_eq!((cache.len(), cache.kept_bytes()), (0, 0));
        cache.insert(named(999), 999, 2000);
        assert_eq!(cache.get(&named(999)), None);
    }

    #[tokio::test]
    async fn no_entries_is_no_cache() {
        let cache = Cache::new(CacheLimits { entries: 0, ..LIMITS });
        cache.insert(named(1), 1, 1);
        assert_eq!(cache.get(&named(1)), None);
    }

    #[tokio::test]
    async fn one_leads_and_the_others_follow_until_it_lands_or_gives_up() {
        let cache = Cache::<u32>::new(LIMITS);
        let Flight::Lead(lead) = cache.flight(named(1)) else { panic!("nobody leads yet") };
        let Flight::Follow(follow) = cache.flight(named(1)) else { panic!("one leads") };
        lead.land(7);
        assert_eq!(follow.landed().await, Some(7));

        let Flight::Lead(lead) = cache.flight(named(1)) else { panic!("it landed") };
        let Flight::Follow(follow) = cache.flight(named(1)) else { panic!("one leads") };
        drop(lead);
        assert_eq!(follow.landed().await, None);
        assert!(matches!(cache.flight(named(1)), Flight::Lead(_)));
    }

    #[tokio::test]
    async fn who_follows_is_told_in_the_order_it_came() {
        for _ in 0..20 {
            let cache = Cache::<u32>::new(LIMITS);
            let Flight::Lead(lead) = cache.flight(named(1)) else { panic!("nobody leads yet") };
            let (told, mut order) = tokio::sync::mpsc::channel(20);
            for number in 0..20 {
                let Flight::Follow(follow) = cache.flight(named(1)) else { panic!("one leads") };
                let told = told.clone();
                tokio::spawn(async move {
                    told.try_send((number, follow.landed().await)).unwrap();
                });
            }
            tokio::task::yield_now().await;
            lead.land(7);
            for number in 0..20 {
                assert_eq!(order.recv().await, Some((number, Some(7))));
            }
        }
    }

    #[test]
    fn keys_tell_where_one_piece_ends() {
        let of = |pieces: &[&str]| key(pieces.iter().map(|piece| piece.as_bytes()));
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_ne!(of(&["a"]), of(&["a", ""]));
    }
}
