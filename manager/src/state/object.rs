//! The kinds of objects that the store keeps, and one change of one object.

use std::fmt;
use std::sync::Arc;

use proto::{Cluster, Config, Meta, Network, Node, Secret, Service, ServiceId, Task, Version};
use serde::{Deserialize, Serialize};

use super::index::KeyRef;
use super::table::Table;
use super::tables::Tables;
use super::watch::{Change, Event};

/// An object with a table of its own.
pub trait StoreObject: Clone + fmt::Debug + Send + Sync + 'static {
    /// Its kind.
    const KIND: Kind;

    /// Its identifier, unique within the kind.
    fn id(&self) -> &str;
    /// Version and times.
    fn meta(&self) -> &Meta;
    /// Version and times; written by the store alone.
    fn meta_mut(&mut self) -> &mut Meta;
    /// The name, if objects of the kind bear unique names.
    fn unique_name(&self) -> Option<&str>;
    /// Under which keys it is found.
    fn keys(&self) -> Vec<KeyRef<'_>>;

    /// The object among all kinds.
    fn wrap(object: Arc<Self>) -> Object;
    /// The object if it is of this kind.
    fn unwrap(object: &Object) -> Option<&Arc<Self>>;
    /// A change among the changes of all kinds.
    fn event(change: Change<Self>) -> Event;
    /// Its table.
    fn table(tables: &Tables) -> &Table<Self>;
    /// Its table, to change.
    fn table_mut(tables: &mut Tables) -> &mut Table<Self>;
}

macro_rules! kinds {
    ($($kind:ident, $table:ident, $word:literal, $name:expr;)*) => {
        /// A kind of object.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum Kind {
            $(#[doc = concat!("A ", $word, ".")] $kind,)*
        }

        impl Kind {
            /// Every kind, in the order in which a snapshot lists them.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(match self { $(Self::$kind => $word,)* })
            }
        }

        /// An object of any kind. Cheap to clone.
        #[derive(Debug, Clone, Serialize, Deserialize)]
        pub enum Object {
            $(#[doc = concat!("A ", $word, ".")] $kind(Arc<$kind>),)*
        }

        impl Object {
            /// Its kind.
            pub fn kind(&self) -> Kind {
                match self { $(Self::$kind(_) => Kind::$kind,)* }
            }

            /// Its identifier.
            pub fn id(&self) -> &str {
                match self { $(Self::$kind(object) => StoreObject::id(object.as_ref()),)* }
            }

            /// Version and times.
            pub fn meta(&self) -> &Meta {
                match self { $(Self::$kind(object) => StoreObject::meta(object.as_ref()),)* }
            }

            /// Version and times, to change; copies the object if somebody else holds it.
            pub(super) fn meta_mut(&mut self) -> &mut Meta {
                match self { $(Self::$kind(object) => Arc::make_mut(object).meta_mut(),)* }
            }

            /// Its name, if objects of the kind bear unique names.
            pub fn unique_name(&self) -> Option<&str> {
                match self { $(Self::$kind(object) => object.unique_name(),)* }
            }
        }

        $(impl From<$kind> for Object {
            fn from(object: $kind) -> Self {
                Self::$kind(Arc::new(object))
            }
        })*

        impl Tables {
            /// Puts the object in its table; tells what changed.
            pub(super) fn put(&mut self, mut object: Object) -> Event {
                self.share_spec(&mut object);
                match object {
                    $(Object::$kind(new) => $kind::event(match self.$table.insert(new.clone()) {
                        Some(old) => Change::Update { old, new },
                        None => Change::Create(new),
                    }),)*
                }
            }

            /// Takes the object out of its table; tells what changed, nothing if it was not there.
            pub(super) fn take(&mut self, kind: Kind, id: &str) -> Option<Event> {
                match kind {
                    $(Kind::$kind => self.$table.remove(id).map(|old| $kind::event(Change::Remove(old))),)*
                }
            }

            /// The object of the kind with the identifier.
            pub fn get_object(&self, kind: Kind, id: &str) -> Option<Object> {
                match kind { $(Kind::$kind => self.$table.get(id).cloned().map(Object::$kind),)* }
            }

            /// Whether there is an object of the kind with the identifier.
            pub(super) fn contains(&self, kind: Kind, id: &str) -> bool {
                match kind { $(Kind::$kind => self.$table.get(id).is_some(),)* }
            }

            /// Every object, kind by kind, each kind by identifier.
            pub fn objects(&self) -> impl Iterator<Item = Object> + '_ {
                std::iter::empty()$(.chain(self.$table.all().map(|object| Object::$kind(object.clone()))))*
            }
        }

        $(impl StoreObject for $kind {
            const KIND: Kind = Kind::$kind;

            fn id(&self) -> &str {
                self.id.as_str()
            }
            fn meta(&self) -> &Meta {
                &self.meta
            }
            fn meta_mut(&mut self) -> &mut Meta {
                &mut self.meta
            }
            fn unique_name(&self) -> Option<&str> {
                let name: fn(&$kind) -> Option<&str> = $name;
                name(self)
            }
            fn keys(&self) -> Vec<KeyRef<'_>> {
                super::keys::Keys::keys(self)
            }
            fn wrap(object: Arc<Self>) -> Object {
                Object::$kind(object)
            }
            fn unwrap(object: &Object) -> Option<&Arc<Self>> {
                match object {
                    Object::$kind(object) => Some(object),
                    _ => None,
                }
            }
            fn event(change: Change<Self>) -> Event {
                Event::$kind(change)
            }
            fn table(tables: &Tables) -> &Table<Self> {
                &tables.$table
            }
            fn table_mut(tables: &mut Tables) -> &mut Table<Self> {
                &mut tables.$table
            }
        })*
    };
}

kinds! {
    Cluster, clusters, "cluster", |cluster| Some(&cluster.spec.name);
    Node, nodes, "node", |_| None;
    Network, networks, "network", |network| Some(&network.spec.name);
    Secret, secrets, "secret", |secret| Some(&secret.spec.name);
    Config, configs, "config", |config| Some(&config.spec.name);
    Service, services, "service", |service| Some(&service.spec.name);
    Task, tasks, "task", |_| None;
}

/// One change of one object, as it is agreed upon and replicated.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StoreAction {
    /// A new object.
    Create(Object),
    /// The object takes the place of the one with its identifier.
    Update(Object),
    /// The object is gone.
    Remove(Kind, String),
}

/// What tells that objects are written with nearly as many bytes: tasks made from one version of one spec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Likeness {
    service: ServiceId,
    version: Version,
    networks: usize,
    things: usize,
    /// Bytes of what is said about the state.
    words: usize,
}

impl Object {
    /// What the object has in common with others; `None` if nothing is known to be.
    pub(super) fn likeness(&self) -> Option<Likeness> {
        let Self::Task(task) = self else {
            return None;
        };
        Some(Likeness {
            service: task.service_id.clone(),
            version: task.spec_version?,
            networks: task.networks_attachments.len(),
            things: task.generic_resources.len(),
            words: task.status.err.len() + task.status.message.len(),
        })
    }
}
