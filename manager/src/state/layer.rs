//! What a transaction has changed so far, before it is committed.

use std::collections::BTreeMap;

use super::object::{Kind, Object, StoreAction};
use super::row::RowId;
use super::tables::Tables;
use crate::hash::QuickMap;

/// When in the transaction an object was first changed, and how it is now (`None`: gone).
pub(super) type Written = (usize, Option<Object>);

/// A write: of which object, and what stood there before.
type Undo = (Kind, RowId, Option<Written>);

/// What a transaction has changed so far, and how to take parts of it back.
#[derive(Debug, Default)]
pub(super) struct Layer {
    /// By kind; those of which nothing was changed are not there.
    changed: BTreeMap<Kind, QuickMap<RowId, Written>>,
    objects: usize,
    /// What stood in `changed` before each write, latest last.
    undo: Vec<Undo>,
}

impl Layer {
    /// Objects changed so far.
    pub(super) fn len(&self) -> usize {
        self.objects
    }

    /// A mark to return to.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back every write after the mark.
    pub(super) fn rollback(&mut self, mark: usize) {
        for (kind, id, before) in self.undo.drain(mark..).rev() {
            let changed = self.changed.entry(kind).or_default();
            match before {
                Some(before) => drop(changed.insert(id, before)),
                None => {
                    changed.remove(&id);
                    self.objects -= 1;
                }
            }
        }
    }

    /// The objects written after the mark, as they are now.
    pub(super) fn written_since(&self, mark: usize) -> impl Iterator<Item = &Object> {
        self.undo[mark..]
            .iter()
            .filter_map(|(kind, id, _)| self.get(*kind, id.as_str())?.1.as_ref())
    }

    /// The change set that turns `base` into what the transaction sees, in the order of the first change of each object.
    pub(super) fn into_actions(self, base: &Tables) -> Vec<StoreAction> {
        let kinds = self.changed.into_iter();
        let all = kinds.flat_map(|(kind, changed)| changed.into_iter().map(move |(id, now)| (kind, id, now)));
        let mut changed: Vec<_> = all.collect();
        changed.sort_unstable_by_key(|(_, _, (order, _))| *order);
        let actions = changed.into_iter().filter_map(|(kind, id, (_, now))| {
            match (base.contains(kind, id.as_str()), now) {
                (false, Some(object)) => Some(StoreAction::Create(object)),
                (true, Some(object)) => Some(StoreAction::Update(object)),
                (true, None) => Some(StoreAction::Remove(kind, id.as_str().to_owned())),
                (false, None) => None,
            }
        });
        actions.collect()
    }

    /// What was written of the object.
    pub(super) fn get(&self, kind: Kind, id: &str) -> Option<&Written> {
        self.changed.get(&kind)?.get(id.as_bytes())
    }

    /// What was written of objects of the kind.
    pub(super) fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Written> {
        self.changed.get(&kind).into_iter().flat_map(QuickMap::values)
    }

    /// Writes an object; `None` takes it out.
    pub(super) fn write(&mut self, kind: Kind, id: RowId, object: Option<Object>) {
        let changed = self.changed.entry(kind).or_default();
        let order = changed.get(&id).map_or(self.undo.len(), |(order, _)| *order);
        let before = changed.insert(id.clone(), (order, object));
        self.objects += usize::from(before.is_none());
        self.undo.push((kind, id, before));
    }
}
