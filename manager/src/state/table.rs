//! One kind's objects by identifier and by index key.

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::index::{By, Index, Key, KeyRef};
use super::object::StoreObject;
use super::row::{RowId, Rows};
use crate::hash::QuickMap;

/// Objects of one kind. A change of an object that is there costs the same in small tables and in large ones, but for
/// the sets of the keys that it comes under or leaves.
#[derive(Debug, Clone)]
pub struct Table<T> {
    rows: QuickMap<RowId, Arc<T>>,
    /// All identifiers.
    order: BTreeSet<RowId>,
    index: Index,
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            rows: QuickMap::default(),
            order: BTreeSet::new(),
            index: Index::default(),
        }
    }
}

impl<T: StoreObject> Table<T> {
    /// The object with the identifier.
    pub fn get(&self, id: &str) -> Option<&Arc<T>> {
        self.rows.get(id.as_bytes())
    }

    /// Every object by identifier.
    pub fn all(&self) -> impl Iterator<Item = &Arc<T>> {
        self.order.iter().filter_map(|id| self.rows.get(id))
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
        self.index.get(key.as_ref()).map_or(0, Rows::len)
    }

    /// The objects that match, by identifier.
    pub fn find(&self, by: By<'_>) -> Vec<Arc<T>> {
        match by {
            By::All => self.all().cloned().collect(),
            By::IdPrefix(prefix) => self
                .order
                .range::<[u8], _>((Bound::Included(prefix.as_bytes()), Bound::Unbounded))
                .take_while(|id| id.as_str().starts_with(prefix))
                .filter_map(|id| self.rows.get(id).cloned())
                .collect(),
            By::NamePrefix(_) => self
                .all()
                .filter(|object| by.matches(object.as_ref()))
                .cloned()
                .collect(),
            By::Key(key) => {
                let ids = self.index.get(key.as_ref()).into_iter().flat_map(Rows::iter);
                ids.filter_map(|id| self.rows.get(id).cloned()).collect()
            }
        }
    }

    /// Puts the object in; returns the one whose place it took.
    pub(super) fn insert(&mut self, object: Arc<T>) -> Option<Arc<T>> {
        let Some((row, old)) = self.rows.get_key_value(object.id().as_bytes()) else {
            let row = RowId::from(object.id());
            let keys = object.keys();
            keys.into_iter().for_each(|key| self.index.link(key, &row));
            self.order.insert(row.clone());
            self.rows.insert(row, object);
            return None;
        };
        let (row, old) = (row.clone(), old.clone());
        self.relink(&row, &old, &object);
        self.rows.insert(row, object)
    }

    /// Takes the object out.
    pub(super) fn remove(&mut self, id: &str) -> Option<Arc<T>> {
        let (row, old) = self.rows.remove_entry(id.as_bytes())?;
        self.order.remove(&row);
        old.keys()
            .into_iter()
            .for_each(|key| self.index.unlink(key, &row));
        Some(old)
    }

    fn relink(&mut self, row: &RowId, old: &T, new: &T) {
        let (before, after) = (old.keys(), new.keys());
        let gone = before.iter().filter(|key| !after.contains(key));
        gone.for_each(|key| self.index.unlink(*key, row));
        let come = after.iter().filter(|key| !before.contains(key));
        come.for_each(|key| self.index.link(*key, row));
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
                .any(|key| matches!(key, KeyRef::Name(name) if name.starts_with(prefix))),
            By::Key(key) => object.keys().contains(&key.as_ref()),
        }
    }
}
