//! All tables together: what a transaction reads and what a snapshot holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use proto::{Cluster, Config, Network, Node, Secret, Service, ServiceId, Task, TaskSpec};

use super::object::{Kind, Object, StoreAction};
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
    /// What the newest task of each service runs.
    pub(super) specs: BTreeMap<ServiceId, Arc<TaskSpec>>,
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
            StoreAction::Remove(kind, id) => {
                if kind == Kind::Service {
                    self.specs.remove(id.as_str());
                }
                self.take(kind, &id)
            }
        }
    }

    /// A task that was read from the disk or came from another member has a spec of its own. It is as large as all the rest
    /// of a task, and the same in all tasks of a service: equal ones become one.
    pub(super) fn share_spec(&mut self, object: &mut Object) {
        let Object::Task(task) = object else { return };
        let known = match self.tasks.get(task.id.as_str()) {
            Some(before) => &before.spec,
            None => &*self
                .specs
                .entry(task.service_id.clone())
                .or_insert_with(|| task.spec.clone()),
        };
        if Arc::ptr_eq(known, &task.spec) {
            return;
        }
        if **known == *task.spec {
            let known = known.clone();
            Arc::make_mut(task).spec = known;
        } else {
            self.specs.insert(task.service_id.clone(), task.spec.clone());
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
