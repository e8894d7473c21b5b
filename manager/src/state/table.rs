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

    /// Every object in no order: quicker by far than one after the other by identifier, where there are many.
    pub fn in_any_order(&self) -> impl Iterator<Item = &Arc<T>> {
        self.rows.values()
    }

    /// The services of the objects, in no order, without a look at the objects.
    pub fn services(&self) -> impl Iterator<Item = &str> {
        self.index.services()
    }

    /// The numbered slots of the service under which more than so many objects are found, in no order.
    pub fn slots_with_more_than(&self, limit: usize, service: &str) -> impl Iterator<Item = u64> {
        let slots = self.index.slots(service);
        slots
            .filter(move |(_, rows)| rows.len() > limit)
            .map(|(slot, _)| slot)
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
        let row = RowId::from(object.id());
        if let Some(place) = self.rows.get_mut(row.as_bytes()) {
            let old = std::mem::replace(place, object.clone());
            self.relink(&row, &old, &object);
            return Some(old);
        }
        let keys = object.keys();
        keys.into_iter().for_each(|key| self.index.link(key, &row));
        self.order.insert(row.clone());
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
