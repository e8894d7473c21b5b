//! Index keys: the questions that the store answers without a scan.

use super::row::{RowId, Rows};
use crate::hash::QuickMap;

/// A property by which objects are found. An object is found under every key that [`StoreObject::keys`] names for it.
///
/// [`StoreObject::keys`]: super::StoreObject::keys
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The object's name (of a node: its hostname). Case matters.
    Name(String),
    /// Tasks of a service.
    Service(String),
    /// Tasks assigned to a node.
    Node(String),
    /// Tasks of one slot of a replicated service.
    Slot(String, u64),
    /// Services and tasks that use a network.
    Network(String),
    /// Services and tasks that use a secret.
    Secret(String),
    /// Services and tasks that use a config.
    Config(String),
}

/// A [`Key`] whose texts belong to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum KeyRef<'a> {
    Name(&'a str),
    Service(&'a str),
    Node(&'a str),
    Slot(&'a str, u64),
    Network(&'a str),
    Secret(&'a str),
    Config(&'a str),
}

impl Key {
    /// The same key, borrowed.
    pub fn as_ref(&self) -> KeyRef<'_> {
        match self {
            Self::Name(text) => KeyRef::Name(text),
            Self::Service(text) => KeyRef::Service(text),
            Self::Node(text) => KeyRef::Node(text),
            Self::Slot(text, slot) => KeyRef::Slot(text, *slot),
            Self::Network(text) => KeyRef::Network(text),
            Self::Secret(text) => KeyRef::Secret(text),
            Self::Config(text) => KeyRef::Config(text),
        }
    }
}

/// Which objects of one kind to find.
#[derive(Debug, Clone, Copy)]
pub enum By<'a> {
    /// Every object.
    All,
    /// Objects whose identifier starts so.
    IdPrefix(&'a str),
    /// Objects whose name starts so.
    NamePrefix(&'a str),
    /// Objects found under the key.
    Key(&'a Key),
}

/// Rows by key. Nothing is allocated to look a key up.
#[derive(Debug, Clone, Default)]
pub(super) struct Index {
    /// One map for each kind of key that is a text.
    texts: [QuickMap<Box<str>, Rows>; 6],
    slots: QuickMap<Box<str>, QuickMap<u64, Rows>>,
}

/// The place of the services' map among those of texts.
const SERVICE: usize = 1;

/// Where the rows of a key are.
enum Place<'a> {
    Text(usize, &'a str),
    Slot(&'a str, u64),
}

impl<'a> From<KeyRef<'a>> for Place<'a> {
    fn from(key: KeyRef<'a>) -> Self {
        match key {
            KeyRef::Name(text) => Self::Text(0, text),
            KeyRef::Service(text) => Self::Text(SERVICE, text),
            KeyRef::Node(text) => Self::Text(2, text),
            KeyRef::Network(text) => Self::Text(3, text),
            KeyRef::Secret(text) => Self::Text(4, text),
            KeyRef::Config(text) => Self::Text(5, text),
            KeyRef::Slot(text, slot) => Self::Slot(text, slot),
        }
    }
}

impl Index {
    /// The rows under the key.
    pub(super) fn get(&self, key: KeyRef<'_>) -> Option<&Rows> {
        match Place::from(key) {
            Place::Text(kind, text) => self.texts[kind].get(text),
            Place::Slot(text, slot) => self.slots.get(text)?.get(&slot),
        }
    }

    /// The services that have rows.
    pub(super) fn services(&self) -> impl Iterator<Item = &str> {
        self.texts[SERVICE].keys().map(AsRef::as_ref)
    }

    /// The slots of the service that have rows.
    pub(super) fn slots(&self, service: &str) -> impl Iterator<Item = (u64, &Rows)> {
        let slots = self.slots.get(service).into_iter().flatten();
        slots.map(|(slot, rows)| (*slot, rows))
    }

    /// The row is found under the key.
    pub(super) fn link(&mut self, key: KeyRef<'_>, row: &RowId) {
        match Place::from(key) {
            Place::Text(kind, text) => match self.texts[kind].get_mut(text) {
                Some(rows) => rows.insert(row),
                None => drop(self.texts[kind].insert(text.into(), Rows::One(row.clone()))),
            },
            Place::Slot(text, slot) => {
                if !self.slots.contains_key(text) {
                    self.slots.insert(text.into(), QuickMap::default());
                }
                if let Some(slots) = self.slots.get_mut(text) {
                    slots
                        .entry(slot)
                        .and_modify(|rows| rows.insert(row))
                        .or_insert_with(|| Rows::One(row.clone()));
                }
            }
        }
    }

    /// The row is not found under the key any more.
    pub(super) fn unlink(&mut self, key: KeyRef<'_>, row: &RowId) {
        match Place::from(key) {
            Place::Text(kind, text) => {
                let rows = self.texts[kind].get_mut(text);
                if rows.is_some_and(|rows| rows.remove(row)) {
                    self.texts[kind].remove(text);
                }
            }
            Place::Slot(text, slot) => {
                let Some(slots) = self.slots.get_mut(text) else {
                    return;
                };
                if slots.get_mut(&slot).is_some_and(|rows| rows.remove(row)) {
                    slots.remove(&slot);
                }
                if slots.is_empty() {
                    self.slots.remove(text);
                }
            }
        }
    }
}
