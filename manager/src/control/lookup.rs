//! Finding the object that a user means: by identifier, by name, by a unique beginning of an identifier; in this order.

use std::sync::Arc;

use proto::Task;

use super::{ControlError, Result};
use crate::state::{By, Key, Reader, StoreObject};

/// The object that `reference` means.
pub(super) fn object<T: StoreObject>(tx: &impl Reader, reference: &str) -> Result<Arc<T>> {
    if let Some(object) = tx.get::<T>(reference) {
        return Ok(object);
    }
    let named = tx.by_key::<T>(Key::Name(reference.to_owned()));
    if !named.is_empty() {
        return only_one(named, reference);
    }
    // The empty string begins every identifier, and means none.
    let begun = if reference.is_empty() {
        Vec::new()
    } else {
        tx.find::<T>(By::IdPrefix(reference))
    };
    only_one(begun, reference)
}

/// A copy of the object that `reference` means, to change.
pub(super) fn owned<T: StoreObject>(tx: &impl Reader, reference: &str) -> Result<T> {
    object::<T>(tx, reference).map(Arc::unwrap_or_clone)
}

/// The task that `reference` means; tasks bear names (`web.1.<id>`, `web.1`) that no index knows.
pub(super) fn task(tx: &impl Reader, reference: &str) -> Result<Arc<Task>> {
    match object::<Task>(tx, reference) {
        Err(ControlError::NotFound { .. }) => {}
        found => return found,
    }
    let named = tx
        .all::<Task>()
        .into_iter()
        .filter(|task| task.name() == reference)
        .collect();
    only_one(named, reference)
}

fn only_one<T: StoreObject>(mut found: Vec<Arc<T>>, reference: &str) -> Result<Arc<T>> {
    match (found.pop(), found.len()) {
        (None, _) => Err(ControlError::not_found(T::KIND, reference)),
        (Some(object), 0) => Ok(object),
        (Some(_), others) => Err(ControlError::Ambiguous {
            kind: T::KIND,
            reference: reference.to_owned(),
            matches: others + 1,
        }),
    }
}
