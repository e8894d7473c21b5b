//! All tables together: what a transaction reads and what a snapshot holds.

use proto::{Cluster, Config, Network, Node, Secret, Service, Task};

use super::object::StoreAction;
use super::table::Table;
use super::watch::Event;

/// The state of the cluster after one commit.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    /// The version of the last commit.
    pub version: u64,
    pub(super) clusters: Table<Cluster>,
    pub(super) nodes: Table<Node>,
    pub(super) networks: Table<Network>,
    pub(super) secrets: Table<Secret>,
    pub(super) configs: Table<Config>,
    pub(super) services: Table<Service>,
    pub(super) tasks: Table<Task>,
}

impl Tables {
    /// Applies one agreed change set; every changed object gets `version`. Tells what changed, in order.
    pub(super) fn apply(&mut self, version: u64, actions: Vec<StoreAction>) -> Vec<Event> {
        self.version = version;
        actions
            .into_iter()
            .filter_map(|action| self.apply_one(version, action))
            .collect()
    }

    fn apply_one(&mut self, version: u64, action: StoreAction) -> Option<Event> {
        match action {
            StoreAction::Create(mut object) | StoreAction::Update(mut object) => {
                object.meta_mut().version.index = version;
                Some(self.put(object))
            }
            StoreAction::Remove(kind, id) => self.take(kind, &id),
        }
    }

    /// Takes over another replica's state as it is, versions included. Tells what changed.
    pub(super) fn replace(&mut self, next: Self) -> Vec<Event> {
        let gone: Vec<_> = self
            .objects()
            .filter(|old| next.get_object(old.kind(), old.id()).is_none())
            .map(|old| (old.kind(), old.id().to_owned()))
            .collect();
        let mut events: Vec<_> = gone
            .into_iter()
            .filter_map(|(kind, id)| self.take(kind, &id))
            .collect();
        for object in next.objects() {
            let ours = self.get_object(object.kind(), object.id());
            if ours.is_none_or(|ours| ours.meta().version != object.meta().version) {
                events.push(self.put(object));
            }
        }
        self.version = next.version;
        events
    }
}
