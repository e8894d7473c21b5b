//! Inside a transaction: reading the tables, and changing them on a layer of one's own until the commit.

use std::sync::Arc;

use proto::Timestamp;

use super::error::StoreError;
use super::index::{By, Key};
use super::layer::Layer;
use super::object::StoreObject;
use super::row::RowId;
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

/// A transaction that changes objects. It sees its own changes; nobody else does before the commit.
#[derive(Debug)]
pub struct WriteTx<'a> {
    base: &'a Tables,
    layer: &'a mut Layer,
    now: Timestamp,
}

impl<'a> WriteTx<'a> {
    /// `now` is the time that changed objects get.
    pub(super) fn new(base: &'a Tables, layer: &'a mut Layer, now: Timestamp) -> Self {
        Self { base, layer, now }
    }

    /// The time that objects get which this transaction changes.
    pub fn now(&self) -> Timestamp {
        self.now
    }

    /// Adds a new object; sets its times.
    ///
    /// # Errors
    /// [`StoreError::Exists`], [`StoreError::NameConflict`].
    pub fn create<T: StoreObject>(&mut self, object: T) -> Result<(), StoreError> {
        self.create_shared(Arc::new(object))
    }

    /// The same, of an object that is copied only if somebody else still holds it: objects are large.
    ///
    /// # Errors
    /// As [`Self::create`].
    pub fn create_shared<T: StoreObject>(&mut self, mut object: Arc<T>) -> Result<(), StoreError> {
        if self.get::<T>(object.id()).is_some() {
            return Err(StoreError::Exists {
                kind: T::KIND,
                id: object.id().to_owned(),
            });
        }
        self.check_name(object.as_ref())?;
        let meta = Arc::make_mut(&mut object).meta_mut();
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
        self.check_new_name(current.as_ref(), &object)?;
        let meta = object.meta_mut();
        (meta.created_at, meta.updated_at) = (current.meta().created_at, self.now);
        self.put(Arc::new(object));
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
        // Copied to where it stays: objects are large.
        let mut object = current.clone();
        let changed = Arc::make_mut(&mut object);
        change(changed);
        self.check_new_name(current.as_ref(), changed)?;
        let meta = changed.meta_mut();
        meta.clone_from(current.meta());
        meta.updated_at = self.now;
        self.put(object);
        Ok(())
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
        self.layer.write(T::KIND, RowId::from(id), None);
        Ok(())
    }

    /// Objects that the transaction has changed so far.
    pub fn changes(&self) -> usize {
        self.layer.len()
    }

    fn put<T: StoreObject>(&mut self, object: Arc<T>) {
        let id = RowId::from(object.id());
        self.layer.write(T::KIND, id, Some(T::wrap(object)));
    }

    fn check_new_name<T: StoreObject>(&self, current: &T, object: &T) -> Result<(), StoreError> {
        match current.unique_name() == object.unique_name() {
            true => Ok(()),
            false => self.check_name(object),
        }
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
        match self.layer.get(T::KIND, id) {
            Some((_, now)) => now.as_ref().and_then(T::unwrap).cloned(),
            None => T::table(self.base).get(id).cloned(),
        }
    }

    fn find<T: StoreObject>(&self, by: By<'_>) -> Vec<Arc<T>> {
        let mut found = T::table(self.base).find(by);
        if self.layer.of_kind(T::KIND).next().is_none() {
            return found;
        }
        found.retain(|object| self.layer.get(T::KIND, object.id()).is_none());
        let ours = self
            .layer
            .of_kind(T::KIND)
            .filter_map(|(_, now)| T::unwrap(now.as_ref()?));
        found.extend(ours.filter(|object| by.matches(object.as_ref())).cloned());
        found.sort_by(|one, two| one.id().cmp(two.id()));
        found
    }
}
