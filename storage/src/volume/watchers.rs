//! Who wants to hear that a volume has come or gone.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use super::Volumes;

type Watcher = Box<dyn Fn(&Volumes) -> bool + Send>;

/// Functions to call after each change; one that says false is not called again.
#[derive(Default)]
pub(crate) struct Watchers(Mutex<Vec<Watcher>>);

impl Watchers {
    pub(crate) fn add(&self, watcher: Watcher) {
        self.0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(watcher);
    }

    pub(crate) fn tell(&self, volumes: &Volumes) {
        let mut watchers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        watchers.retain(|watcher| watcher(volumes));
    }
}

impl fmt::Debug for Watchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watchers")
    }
}
