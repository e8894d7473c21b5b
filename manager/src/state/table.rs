//! One kind's objects by identifier and by index key.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

use super::index::{By, Key};
use super::object::StoreObject;

/// Objects of one kind.
#[derive(Debug, Clone)]
pub struct Table<T> {
    rows: BTreeMap<Arc<str>, Arc<T>>,
    index: HashMap<Key, BTreeSet<Arc<str>>>,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: BTreeMap::new(),
            index: HashMap::new(),
        }
    }
}

impl<T: StoreObject> Table<T> {
    /// The object with the identifier.
    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.rows.get(id)
    }

    /// Every object by identifier.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.rows.values()
    }

    /// Objects of the kind.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// How many objects are found under the key.
    pub fn count(&self, key: &Key) -> usize {
        self.index.get(key).map_or(0, BTreeSet::len)
    }

    /// The objects that match, by identifier.
    pub fn find(&self, by: By<'_>) -> Vec<Arc<T>> {
        match by {
            By::All => self.rows.values().cloned().collect(),
            By::IdPrefix(prefix) => self
                .rows
                .range::<str, _>((Bound::Included(prefix), Bound::Unbounded))
                .take_while(|(id, _)| id.starts_with(prefix))
                .map(|(_, object)| object.clone())
                .collect(),
            By::NamePrefix(_) => self
                .rows
                .values()
                .filter(|object| by.matches(object.as_ref()))
                .cloned()
                .collect(),
            By::Key(key) => {
                let ids = self.index.get(key).into_iter().flatten();
                ids.filter_map(|id| self.rows.get(id).cloned()).collect()
            }
        }
    }

    /// Puts the object in; returns the one whose place it took.
    pub(super) fn insert(&mut self, object: Arc<T>) -> Option<Arc<T>> {
        let old = self.rows.get(object.id()).cloned();
        let id: Arc<str> = match self.rows.get_key_value(object.id()) {
            Some((id, _)) => id.clone(),
            None => Arc::from(object.id()),
        };
        let (before, after) = (
            old.as_ref().map(|old| old.keys()).unwrap_or_default(),
            object.keys(),
        );
        before
            .iter()
            .filter(|key| !after.contains(key))
            .for_each(|key| self.unlink(key, &id));
        for key in after.into_iter().filter(|key| !before.contains(key)) {
            self.index.entry(key).or_default().insert(id.clone());
        }
        self.rows.insert(id, object);
        old
    }

    /// Takes the object out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<T>> {
        let old = self.rows.remove(id)?;
        old.keys().iter().for_each(|key| self.unlink(key, id));
        Some(old)
    }

    fn unlink(&mut self, key: &Key, id: &str) {
        if let Some(ids) = self.index.get_mut(key) {
            ids.remove(id);
            if ids.is_empty() {
                self.index.remove(key);
            }
        }
    }
}

impl By<'_> {
    /// Whether the object is among those asked for.
    pub(super) fn matches<T: StoreObject>(&self, object: &T) -> bool {
        match self {
            By::All => true,
            By::IdPrefix(prefix) => object.id().starts_with(prefix),
            By::NamePrefix(prefix) => object
                .keys()
                .iter()
                .any(|key| matches!(key, Key::Name(name) if name.starts_with(prefix))),
            By::Key(key) => object.keys().contains(key),
        }
    }
}
