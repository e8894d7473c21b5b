//! How many places one caller may take, so that no one takes them all.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Places of which each caller gets so many at a time.
#[derive(Debug)]
pub(super) struct Crowd<K> {
    each: usize,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

/// A place; free again when it is dropped.
#[derive(Debug)]
pub(super) struct Place<K: Hash + Eq> {
    who: K,
    taken: Arc<Mutex<HashMap<K, usize>>>,
}

impl<K: Hash + Eq + Clone> Crowd<K> {
    pub(super) fn new(each: usize) -> Self {
        Self {
            each,
            taken: Arc::default(),
        }
    }

    /// A place for a caller, unless it has all of its own.
    pub(super) fn enter(&self, who: K) -> Option<Place<K>> {
        let mut taken = lock(&self.taken);
        let count = taken.entry(who.clone()).or_default();
        if *count >= self.each {
            return None;
        }
        *count += 1;
        Some(Place {
            who,
            taken: self.taken.clone(),
        })
    }
}

impl<K: Hash + Eq> Drop for Place<K> {
    fn drop(&mut self) {
        let mut taken = lock(&self.taken);
        if let Some(count) = taken.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                taken.remove(&self.who);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_caller_does_not_take_the_places_of_another() {
        let crowd = Crowd::new(2);
        let first = crowd.enter("a").unwrap();
        let _second = crowd.enter("a").unwrap();
        assert!(crowd.enter("a").is_none());
        assert!(crowd.enter("b").is_some());
        drop(first);
        assert!(crowd.enter("a").is_some());
        assert_eq!(lock(&crowd.taken).len(), 1, "who has left is forgotten");
    }
}
