//! What the scheduler knows: nodes with what is placed on them, and tasks that wait for a node.
//!
//! Pure: it learns from events and answers with [`Decision`]s; the loop in [`super`] talks to the store.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::spec::GenericResource;
use proto::{Node, NodeId, Service, ServiceId, Task, TaskId, TaskState};
use tokio::time::Instant;

use super::gate::Gate;
use super::group::{Decision, Group, GroupKey, Queued};
use super::loads::Loads;
use super::neighbours;
use super::node::{NodeInfo, is_active};
use super::services::Services;
use super::volumes::Volumes;
use crate::hash::QuickMap;
use crate::state::{Change, Event, ReadTx, Reader, StoreObject};

/// A task that takes room on a node.
#[derive(Debug)]
struct Placed {
    task: Arc<Task>,
    node: NodeId,
    given: Vec<GenericResource>,
}

/// What the scheduler knows.
#[derive(Debug, Default)]
pub(crate) struct Cluster {
    pub(super) nodes: Vec<NodeInfo>,
    pub(super) index: QuickMap<NodeId, usize>,
    placed: QuickMap<TaskId, Placed>,
    pub(super) waiting: BTreeMap<Arc<GroupKey>, Group>,
    queued: QuickMap<TaskId, Queued>,
    pub(super) services: Services,
    pub(super) gate: Gate,
    pub(super) volumes: Volumes,
    pub(super) loads: Loads,
    /// Groups to try in the next pass.
    pub(super) fresh: BTreeSet<Arc<GroupKey>>,
    /// Whether something changed that can make room for any group.
    pub(super) retry: bool,
}

impl Cluster {
    /// Learns what the store knows.
    pub(crate) fn load(tx: &ReadTx<'_>, loads: Loads) -> Self {
        let mut cluster = Self {
            loads,
            ..Self::default()
        };
        tx.all::<Node>().iter().for_each(|node| cluster.put_node(node));
        tx.all::<Service>()
            .iter()
            .for_each(|service| cluster.services.put(service));
        let now = Instant::now();
        for task in Task::table(tx.tables()).all() {
            cluster.gate.note(None, Some(task));
            cluster.volumes.recall(task);
            cluster.put_task(task, now);
        }
        cluster
    }

    /// Learns of a change.
    pub(crate) fn note(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Task(change) => {
                let opens = self.gate.note(change.old(), change.new_object());
                self.retry |= opens;
                match change {
                    Change::Remove(task) => self.remove_task(task, now),
                    Change::Create(task) | Change::Update { new: task, .. } => self.put_task(task, now),
                }
            }
            Event::Node(Change::Remove(node)) => self.remove_node(&node.id),
            Event::Node(Change::Create(node) | Change::Update { new: node, .. }) => self.put_node(node),
            Event::Service(change) => {
                match change {
                    Change::Remove(service) => self.forget_service(&service.id),
                    Change::Create(service) | Change::Update { new: service, .. } => {
                        self.services.put(service)
                    }
                }
                self.retry = true;
            }
            _ => {}
        }
    }

    /// Whether a pass could place something.
    pub(crate) fn has_work(&self) -> bool {
        !self.fresh.is_empty() || (self.retry && !self.waiting.is_empty())
    }

    fn forget_service(&mut self, id: &ServiceId) {
        self.services.remove(id);
        self.gate.remove_service(id);
        self.volumes.forget(id);
    }

    fn put_node(&mut self, node: &Arc<Node>) {
        self.retry = true;
        if let Some(index) = self.index.get(&node.id) {
            let known = &mut self.nodes[*index].node;
            self.volumes.note_node(Some(known), Some(node));
            *known = node.clone();
            return;
        }
        self.volumes.note_node(None, Some(node));
        let mut info = NodeInfo::new(node.clone());
        for placed in self.placed.values().filter(|placed| placed.node == node.id) {
            info.add(&placed.task, &placed.given);
        }
        self.index.insert(node.id.clone(), self.nodes.len());
        self.nodes.push(info);
    }

    fn remove_node(&mut self, id: &NodeId) {
        let Some(index) = self.index.remove(id) else {
            return;
        };
        let removed = self.nodes.swap_remove(index);
        self.volumes.note_node(Some(&removed.node), None);
        if let Some(moved) = self.nodes.get(index) {
            self.index.insert(moved.node.id.clone(), index);
        }
    }

    /// Learns how a task is now.
    pub(super) fn put_task(&mut self, task: &Arc<Task>, now: Instant) {
        // What somebody started by hand is no load that could be put elsewhere.
        if task.attachment().is_some() {
            return;
        }
        let state = task.status.state;
        let ended = state < TaskState::Pending || state.is_terminal();
        if ended || (state == TaskState::Pending && !is_active(task)) {
            self.remove_task(task, now);
        } else if state == TaskState::Pending {
            self.unplace(&task.id);
            self.enqueue(task);
        } else if !task.node_id.is_empty() {
            self.dequeue(task);
            self.settle(task);
        }
    }

    fn enqueue(&mut self, task: &Arc<Task>) {
        let key = GroupKey::of(task);
        match self.queued.get(&task.id) {
            // What only says why it waits is our own word.
            Some(queued) if *queued.key == key => {
                if let Some(place) = self
                    .waiting
                    .get_mut(&key)
                    .and_then(|group| group.get_mut(queued.at))
                {
                    place.1 = task.clone();
                }
                return;
            }
            Some(_) => self.dequeue(task),
            None => {}
        }
        // Tasks of a group share its key.
        let known = self.waiting.get_key_value(&key).map(|(known, _)| known.clone());
        let key = known.unwrap_or_else(|| Arc::new(key));
        let group = self.waiting.entry(key.clone()).or_default();
        let queued = Queued {
            key: key.clone(),
            at: group.len(),
        };
        group.push((task.slot, task.clone()));
        self.queued.insert(task.id.clone(), queued);
        if !self.fresh.contains(&key) {
            self.fresh.insert(key);
        }
    }

    fn dequeue(&mut self, task: &Task) {
        let Some(Queued { key, at }) = self.queued.remove(&task.id) else {
            return;
        };
        let Some(group) = self.waiting.get_mut(&key) else {
            return;
        };
        group.swap_remove(at);
        let moved = group
            .get(at)
            .and_then(|(_, moved)| self.queued.get_mut(&moved.id));
        if let Some(moved) = moved {
            moved.at = at;
        }
        if group.is_empty() {
            self.waiting.remove(&key);
        }
    }

    /// What is left of a group waits on.
    pub(super) fn put_back(&mut self, key: Arc<GroupKey>, group: Group) {
        for (at, (_, task)) in group.iter().enumerate() {
            if let Some(queued) = self.queued.get_mut(&task.id) {
                queued.at = at;
            }
        }
        if !group.is_empty() {
            self.waiting.insert(key, group);
        }
    }

    /// A task has a node: counts it there, or counts it anew if it is on its way out.
    fn settle(&mut self, task: &Arc<Task>) {
        if let Some(placed) = self.placed.get_mut(&task.id)
            && placed.node == task.node_id
            && is_active(&placed.task) == is_active(task)
        {
            placed.task = task.clone();
            return;
        }
        self.unplace(&task.id);
        let placed = Placed {
            task: task.clone(),
            node: task.node_id.clone(),
            given: task.generic_resources.clone(),
        };
        if let Some(index) = self.index.get(&placed.node) {
            self.nodes[*index].add(task, &placed.given);
        }
        self.volumes.place(task, &placed.node);
        self.placed.insert(task.id.clone(), placed);
        self.wake_followers(&task.service_id);
    }

    /// Remembers a decision before the store has told of it; the node itself has counted the task already.
    pub(super) fn place(&mut self, task: &Arc<Task>, node: NodeId, given: Vec<GenericResource>) {
        self.queued.remove(&task.id);
        self.volumes.place(task, &node);
        self.placed.insert(
            task.id.clone(),
            Placed {
                task: task.clone(),
                node,
                given,
            },
        );
    }

    /// Takes back a decision that the store did not accept.
    pub(crate) fn take_back(&mut self, decision: &Decision, current: Option<&Arc<Task>>, now: Instant) {
        self.unplace(&decision.task.id);
        if let Some(task) = current {
            self.put_task(task, now);
        }
    }

    fn unplace(&mut self, id: &TaskId) -> Option<NodeId> {
        let placed = self.placed.remove(id)?;
        if let Some(index) = self.index.get(&placed.node) {
            self.nodes[*index].remove(&placed.task, &placed.given);
        }
        self.volumes.unplace(&placed.task, &placed.node);
        self.retry = true;
        Some(placed.node)
    }

    /// A task of the service is placed: tasks that want to be beside it can go on.
    pub(super) fn wake_followers(&mut self, service: &ServiceId) {
        let followers: BTreeSet<_> = neighbours::followers(&self.services, service).collect();
        if followers.is_empty() {
            return;
        }
        let waiting = self.waiting.keys();
        let woken = waiting.filter(|key| followers.contains(&key.service));
        self.fresh.extend(woken.cloned());
    }

    fn remove_task(&mut self, task: &Task, now: Instant) {
        self.dequeue(task);
        let Some(node) = self.unplace(&task.id) else {
            return;
        };
        let failed = matches!(task.status.state, TaskState::Failed | TaskState::Rejected);
        // Where the orchestrator chose the node there is no choice to be made better.
        if failed
            && task.slot != 0
            && let Some(index) = self.index.get(&node)
        {
            self.nodes[*index].failed(task, now);
        }
    }
}
