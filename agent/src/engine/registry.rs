//! All containers of the node, found by id, name or id prefix; names are taken before a container exists.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::container::Container;
use super::error::{EngineError, Result};
use super::id::ContainerId;

/// The index. Locks are held for look-ups only, never across an await.
#[derive(Debug, Default)]
pub(crate) struct Registry(RwLock<Index>);

#[derive(Debug, Default)]
struct Index {
    by_id: BTreeMap<ContainerId, Arc<Container>>,
    names: HashMap<String, ContainerId>,
}

impl Registry {
    /// Takes `name` for `id`.
    ///
    /// # Errors
    /// Docker's message if another container has it.
    pub(crate) fn reserve(&self, name: &str, id: &ContainerId) -> Result<()> {
        let mut index = self.write();
        if let Some(owner) = index.names.get(name) {
            return Err(EngineError::Conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to remove \
                 (or rename) that container to be able to reuse that name."
            )));
        }
        index.names.insert(name.to_owned(), id.clone());
        Ok(())
    }

    /// Gives a name back, if `id` has it.
    pub(crate) fn release(&self, name: &str, id: &ContainerId) {
        let mut index = self.write();
        if index.names.get(name) == Some(id) {
            index.names.remove(name);
        }
    }

    /// Makes a container visible; its name must be reserved.
    pub(crate) fn insert(&self, container: Arc<Container>) {
        self.write().by_id.insert(container.id.clone(), container);
    }

    /// Forgets a container and its name.
    pub(crate) fn remove(&self, id: &ContainerId) {
        let mut index = self.write();
        index.by_id.remove(id);
        index.names.retain(|_, owner| owner != id);
    }

    /// Finds a container by full id, name (with or without slash), or unambiguous id prefix, in this order.
    ///
    /// # Errors
    /// None, or several for a prefix.
    pub(crate) fn find(&self, text: &str) -> Result<Arc<Container>> {
        let index = self.read();
        let missing = || EngineError::NoSuchContainer(text.to_owned());
        if let Some(container) = ContainerId::parse(text).and_then(|id| index.by_id.get(&id)) {
            return Ok(container.clone());
        }
        let name = text.strip_prefix('/').unwrap_or(text);
        if let Some(container) = index.names.get(name).and_then(|id| index.by_id.get(id)) {
            return Ok(container.clone());
        }
        if text.is_empty() {
            return Err(missing());
        }
        let mut matches = index
            .by_id
            .values()
            .filter(|container| container.id.as_str().starts_with(text));
        match (matches.next(), matches.next()) {
            (Some(container), None) => Ok(container.clone()),
            (None, _) => Err(missing()),
            (Some(_), Some(_)) => Err(EngineError::AmbiguousPrefix(text.to_owned())),
        }
    }

    /// Every container, by id.
    pub(crate) fn all(&self) -> Vec<Arc<Container>> {
        self.read().by_id.values().cloned().collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Index> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Index> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::record::{Paths, tests::sample};

    fn add(registry: &Registry, digits: &str, name: &str) -> ContainerId {
        let mut record = sample();
        record.id = ContainerId::parse(&digits.repeat(64 / digits.len())).unwrap();
        record.name = name.into();
        let id = record.id.clone();
        registry.reserve(name, &id).unwrap();
        let paths = Paths::new("/nonexistent".as_ref(), "/nonexistent".as_ref(), &id);
        registry.insert(Arc::new(Container::new(record, paths)));
        id
    }

    #[test]
    fn by_id_name_and_prefix() {
        let registry = Registry::default();
        let one = add(&registry, "ab", "one");
        let two = add(&registry, "ac", "two");
        for text in [one.as_str(), one.short(), "one", "/one", "ab"] {
            assert_eq!(registry.find(text).unwrap().id, one, "{text}");
        }
        assert_eq!(registry.find("two").unwrap().id, two);
        assert!(matches!(registry.find("a"), Err(EngineError::AmbiguousPrefix(_))));
        for text in ["", "b", "on"] {
            assert!(
                matches!(registry.find(text), Err(EngineError::NoSuchContainer(_))),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_belongs_to_one() {
        let registry = Registry::default();
        let one = add(&registry, "ab", "one");
        let other = ContainerId::random();
        let error = registry.reserve("one", &other).unwrap_err().to_string();
        assert!(
            error.starts_with("Conflict. The container name \"/one\" is already in use by container"),
            "{error}"
        );
        registry.release("one", &other);
        assert!(registry.reserve("one", &other).is_err());
        registry.remove(&one);
        registry.reserve("one", &other).unwrap();
    }
}
