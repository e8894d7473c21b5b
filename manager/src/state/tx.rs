//! Inside a transaction: reading the tables, and changing them on a layer of one's own until the commit.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::Timestamp;

use super::error::StoreError;
use super::index::{By, Key};
use super::object::{Kind, Object, StoreAction, StoreObject};
use super::tables::Tables;

/// Reading, alike in both kinds of transaction.
pub trait Reader {
    /// The object with the identifier.
    fn get<T: StoreObject>(&self, id: impl AsRef<str>) -> Option<Arc<T>>;
    /// The objects that match, by identifier.
    fn find<T: StoreObject>(&self, by: By<'_>) -> Vec<Arc<T>>;

    /// The objects found under the key, by identifier.
    fn by_key<T: StoreObject>(&self, key: Key) -> Vec<Arc<T>> {
        self.find(By::Key(&key))
    }

    /// The first object of that name.
    fn by_name<T: StoreObject>(&self, name: &str) -> Option<Arc<T>> {
        self.by_key(Key::Name(name.to_owned())).into_iter().next()
    }

    /// Every object of the kind, by identifier.
    fn all<T: StoreObject>(&self) -> Vec<Arc<T>> {
        self.find(By::All)
    }
}

/// A consistent look at the tables.
#[derive(Debug, Clone, Copy)]
pub struct ReadTx<'a> {
    tables: &'a Tables,
}

impl<'a> ReadTx<'a> {
    pub(super) fn new(tables: &'a Tables) -> Self {
        Self { tables }
    }

    /// The tables themselves, to go through without copying.
    pub fn tables(&self) -> &'a Tables {
        self.tables
    }
}

impl Reader for ReadTx<'_> {
    fn get<T: StoreObject>(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        T::table(self.tables).get(id.as_ref()).cloned()
    }

    fn find<T: StoreObject>(&self, by: By<'_>) -> Vec<Arc<T>> {
        T::table(self.tables).find(by)
    }
}

/// Which object.
type Place = (Kind, String);

/// When in the transaction an object was first changed, and how it is now (`None`: gone).
type Written = (usize, Option<Object>);

/// What a transaction has changed so far, and how to take parts of it back.
#[derive(Debug, Default)]
pub(super) struct Layer {
    changed: BTreeMap<Place, Written>,
    /// What stood in `changed` before each write, latest last.
    undo: Vec<(Place, Option<Written>)>,
}

impl Layer {
    /// Objects changed so far.
    pub(super) fn len(&self) -> usize {
        self.changed.len()
    }

    /// A mark to return to.
    pub(super) fn mark(&self) -> usize {
        self.undo.len()
    }

    /// Takes back every write after the mark.
    pub(super) fn rollback(&mut self, mark: usize) {
        while self.undo.len() > mark {
            match self.undo.pop() {
                Some((place, Some(before))) => drop(self.changed.insert(place, before)),
                Some((place, None)) => drop(self.changed.remove(&place)),
                None => return,
            }
        }
    }

    /// The objects written after the mark, as they are now.
    pub(super) fn written_since(&self, mark: usize) -> impl Iterator<Item = &Object> {
        self.undo[mark..]
            .iter()
            .filter_map(|(place, _)| self.changed.get(place)?.1.as_ref())
    }

    /// The change set that turns `base` into what the transaction sees, in the order of the first change of each object.
    pub(super) fn into_actions(self, base: &Tables) -> Vec<StoreAction> {
        let mut changed: Vec<_> = self.changed.into_iter().collect();
        changed.sort_by_key(|(_, (order, _))| *order);
        let actions = changed.into_iter().filter_map(|((kind, id), (_, now))| {
            match (base.get_object(kind, &id).is_some(), now) {
                (false, Some(object)) => Some(StoreAction::Create(object)),
                (true, Some(object)) => Some(StoreAction::Update(object)),
                (true, None) => Some(StoreAction::Remove(kind, id)),
                (false, None) => None,
            }
        });
        actions.collect()
    }

    fn write(&mut self, kind: Kind, id: &str, object: Option<Object>) {
        let place = (kind, id.to_owned());
        let order = self
            .changed
            .get(&place)
            .map_or(self.undo.len(), |(order, _)| *order);
        let before = self.changed.insert(place.clone(), (order, object));
        self.undo.push((place, before));
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Written> {
        let of_kind = self
            .changed
            .range((kind, String::new())..)
            .take_while(move |((other, _), _)| *other == kind);
        of_kind.map(|(_, change)| change)
    }
}

/// A transaction that changes objects. It sees its own changes; nobody else does before the commit.
#[derive(Debug)]
pub struct WriteTx<'a> {
    base: &'a Tables,
    layer: &'a mut Layer,
    now: Timestamp,
}

impl<'a> WriteTx<'a> {
    pub(super) fn new(base: &'a Tables, layer: &'a mut Layer) -> Self {
        Self {
            base,
            layer,
            now: Timestamp::now(),
        }
    }

    /// Adds a new object; sets its times.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::NameConflict`].
    pub fn create<T: StoreObject>(&mut self, mut object: T) -> Result<(), StoreError> {
        if self.get::<T>(object.id()).is_some() {
            return Err(StoreError::Exists {
                kind: T::KIND,
                id: object.id().to_owned(),
            });
        }
        self.check_name(&object)?;
        let meta = object.meta_mut();
        (meta.created_at, meta.updated_at) = (self.now, self.now);
        self.put(object);
        Ok(())
    }

    /// Puts the object in the place of the one with its identifier, if that still has the object's version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::Sequence`], [`StoreError::NameConflict`].
    pub fn update<T: StoreObject>(&mut self, mut object: T) -> Result<(), StoreError> {
        let Some(current) = self.get::<T>(object.id()) else {
            return Err(StoreError::NotFound {
                kind: T::KIND,
                id: object.id().to_owned(),
            });
        };
        if current.meta().version != object.meta().version {
            return Err(StoreError::Sequence {
                kind: T::KIND,
                id: object.id().to_owned(),
            });
        }
        if current.unique_name() != object.unique_name() {
            self.check_name(&object)?;
        }
        let created_at = current.meta().created_at;
        let meta = object.meta_mut();
        (meta.created_at, meta.updated_at) = (created_at, self.now);
        self.put(object);
        Ok(())
    }

    /// Changes the object in place, whatever its version.
    ///
    /// # Errors
    /// [`StoreError::NotFound`], [`StoreError::NameConflict`].
    pub fn modify<T: StoreObject>(
        &mut self,
        id: impl AsRef<str>,
        change: impl FnOnce(&mut T),
    ) -> Result<(), StoreError> {
        let id = id.as_ref();
        let Some(current) = self.get::<T>(id) else {
            return Err(StoreError::NotFound {
                kind: T::KIND,
                id: id.to_owned(),
            });
        };
        let mut object = T::clone(&current);
        change(&mut object);
        *object.meta_mut() = current.meta().clone();
        self.update(object)
    }

    /// Takes the object out.
    ///
    /// # Errors
    /// [`StoreError::NotFound`].
    pub fn remove<T: StoreObject>(&mut self, id: impl AsRef<str>) -> Result<(), StoreError> {
        let id = id.as_ref();
        if self.get::<T>(id).is_none() {
            return Err(StoreError::NotFound {
                kind: T::KIND,
                id: id.to_owned(),
            });
        }
        self.layer.write(T::KIND, id, None);
        Ok(())
    }

    /// Objects that the transaction has changed so far.
    pub fn changes(&self) -> usize {
        self.layer.len()
    }

    fn put<T: StoreObject>(&mut self, object: T) {
        let id = object.id().to_owned();
        self.layer.write(T::KIND, &id, Some(T::wrap(Arc::new(object))));
    }

    fn check_name<T: StoreObject>(&self, object: &T) -> Result<(), StoreError> {
        let Some(name) = object.unique_name() else {
            return Ok(());
        };
        let namesakes = self.by_key::<T>(Key::Name(name.to_owned()));
        match namesakes.iter().any(|other| other.id() != object.id()) {
            true => Err(StoreError::NameConflict {
                kind: T::KIND,
                name: name.to_owned(),
            }),
            false => Ok(()),
        }
    }
}

impl Reader for WriteTx<'_> {
    fn get<T: StoreObject>(&self, id: impl AsRef<str>) -> Option<Arc<T>> {
        let id = id.as_ref();
        match self.layer.changed.get(&(T::KIND, id.to_owned())) {
            Some((_, now)) => now.as_ref().and_then(T::unwrap).cloned(),
            None => T::table(self.base).get(id).cloned(),
        }
    }

    fn find<T: StoreObject>(&self, by: By<'_>) -> Vec<Arc<T>> {
        let mut found = T::table(self.base).find(by);
        if self.layer.of_kind(T::KIND).next().is_none() {
            return found;
        }
        found.retain(|object| {
            !self
                .layer
                .changed
                .contains_key(&(T::KIND, object.id().to_owned()))
        });
        let ours = self
            .layer
            .of_kind(T::KIND)
            .filter_map(|(_, now)| T::unwrap(now.as_ref()?));
        found.extend(ours.filter(|object| by.matches(object.as_ref())).cloned());
        found.sort_by(|one, two| one.id().cmp(two.id()));
        found
    }
}
