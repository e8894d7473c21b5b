//! Index keys: the questions that the store answers without a scan.

use proto::TaskState;

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
    /// Tasks that managers want in this state.
    DesiredState(TaskState),
    /// Tasks observed in this state.
    State(TaskState),
    /// Services and tasks that use a network.
    Network(String),
    /// Services and tasks that use a secret.
    Secret(String),
    /// Services and tasks that use a config.
    Config(String),
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
