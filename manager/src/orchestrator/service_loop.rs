//! The loop that watches the store, plans for the services that something happened to, and writes the plans.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use proto::upkeep;
use proto::{Cluster, Node, NodeId, Service, ServiceId, Task, TaskState};
use tokio::time::{Instant, sleep_until};

use super::draft::Picture;
use super::plan::{Memory, Plan, plan, plan_removal};
use super::rest::is_at_rest;
use super::slot::is_per_node;
use super::task::has_stopped;
use super::write::apply;
use crate::contacts::Contacts;
use crate::state::{
    Change, Event, Filter, Key, Kind, ReadTx, Reader, Store, StoreError, StoreObject, WatchStream,
};

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store, contacts: Contacts) -> Result<(), StoreError> {
    let filter = Filter::kinds(&[Kind::Service, Kind::Task, Kind::Node]).only(matters);
    let (dirty, events) = store.view_and_watch(filter, |tx| every_service(&tx));
    let memory = dirty
        .iter()
        .map(|id| {
            (
                id.clone(),
                Memory {
                    enforce: true,
                    ..Memory::default()
                },
            )
        })
        .collect();
    let mut orchestrator = Orchestrator {
        store,
        contacts,
        events,
        dirty,
        memory,
        wake: BTreeMap::new(),
    };
    loop {
        orchestrator.reconcile().await?;
        if !orchestrator.wait().await {
            return Ok(());
        }
    }
}

struct Orchestrator {
    store: Store,
    contacts: Contacts,
    events: WatchStream,
    /// Services to look at.
    dirty: BTreeSet<ServiceId>,
    memory: HashMap<ServiceId, Memory>,
    /// When to look at services again, whatever happens.
    wake: BTreeMap<ServiceId, Instant>,
}

impl Orchestrator {
    /// Plans for every dirty service and writes the plans.
    async fn reconcile(&mut self) -> Result<(), StoreError> {
        let now = Instant::now();
        let mut work = Vec::new();
        for id in std::mem::take(&mut self.dirty) {
            let plan = self.plan(&id, now);
            match plan.wake {
                Some(wake) => drop(self.wake.insert(id.clone(), wake)),
                None => drop(self.wake.remove(&id)),
            }
            work.extend(plan.steps.into_iter().map(|step| (id.clone(), step)));
        }
        if work.iter().all(|(_, step)| step.is_empty()) {
            return Ok(());
        }
        apply(&self.store, work).await
    }

    fn plan(&mut self, id: &ServiceId, now: Instant) -> Plan {
        let mut picture = self.store.view(|tx| picture(&tx, id));
        if picture.service.id.is_empty() || picture.service.pending_delete {
            self.memory.remove(id);
            return plan_removal(&picture);
        }
        let memory = self.memory.entry(id.clone()).or_default();
        if is_at_rest(&picture, memory) {
            memory.rest();
            return Plan::default();
        }
        picture.heard = heard(&picture.tasks, &self.contacts);
        plan(&picture, memory, now)
    }

    /// Waits until a service is dirty. Returns whether the store is still there.
    async fn wait(&mut self) -> bool {
        while self.dirty.is_empty() {
            let wake = self.wake.values().min().copied();
            let event = tokio::select! {
                biased;
                () = sleep_until(wake.unwrap_or_else(Instant::now)), if wake.is_some() => {
                    self.note_time();
                    continue;
                }
                event = self.events.next() => event,
            };
            let Some(event) = event else { return false };
            self.note(&event);
        }
        while let Some(event) = self.events.try_next() {
            self.note(&event);
        }
        true
    }

    fn note_time(&mut self) {
        let now = Instant::now();
        self.dirty.extend(
            self.wake
                .iter()
                .filter(|(_, wake)| **wake <= now)
                .map(|(id, _)| id.clone()),
        );
        self.wake.retain(|_, wake| *wake > now);
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Service(change) => drop(self.dirty.insert(change.object().id.clone())),
            Event::Task(change) => {
                let id = &change.object().service_id;
                let handing_over = self.memory.get(id).is_some_and(|memory| memory.handing_over);
                if !id.is_empty() && concerns(change, handing_over) {
                    self.dirty.insert(id.clone());
                }
            }
            Event::Node(change) if node_changed(change) => self.note_node(&change.object().id),
            _ => {}
        }
    }

    /// Services with a task on the node, and those with a task on every node.
    fn note_node(&mut self, node: &NodeId) {
        let services = self.store.view(|tx| {
            let tasks = tx.by_key::<Task>(Key::Node(node.as_str().to_owned()));
            let on_node = tasks.iter().map(|task| task.service_id.clone());
            let everywhere = tx
                .all::<Service>()
                .into_iter()
                .filter(|service| is_per_node(service));
            on_node
                .chain(everywhere.map(|service| service.id.clone()))
                .collect::<BTreeSet<_>>()
        });
        for id in services.into_iter().filter(|id| !id.is_empty()) {
            self.memory.entry(id.clone()).or_default().enforce = true;
            self.dirty.insert(id);
        }
    }
}

/// Every service, and every service that is gone but has tasks.
fn every_service(tx: &ReadTx<'_>) -> BTreeSet<ServiceId> {
    let services = tx.all::<Service>().into_iter().map(|service| service.id.clone());
    let orphans = Task::table(tx.tables()).services().map(ServiceId::from);
    services.chain(orphans).filter(|id| !id.is_empty()).collect()
}

/// Whether an event can be a reason to act at all. Asked inside the commit, so that what never is costs nothing more.
fn matters(event: &Event) -> bool {
    match event {
        Event::Task(change) => concerns(change, true),
        _ => true,
    }
}

/// Whether the change of a task can be a reason to act. `handing_over`: whether it matters that a task came to run.
fn concerns(change: &Change<Task>, handing_over: bool) -> bool {
    match change {
        // Beside the rebalancer nobody else makes tasks of services.
        Change::Create(task) => task.takes_over.is_some(),
        Change::Remove(_) => true,
        Change::Update { old, new } => {
            let moved = old.status.state != new.status.state;
            let matters =
                new.status.state.is_terminal() || (handing_over && new.status.state == TaskState::Running);
            old.desired_state != new.desired_state || (moved && matters)
        }
    }
}

/// Whether the change of a node can be a reason to act.
fn node_changed(change: &Change<Node>) -> bool {
    match change {
        Change::Create(_) | Change::Remove(_) => true,
        Change::Update { old, new } => {
            old.spec != new.spec
                || old.status != new.status
                || old.description.hostname != new.description.hostname
                || old.description.platform != new.description.platform
                || old.description.engine.labels != new.description.engine.labels
        }
    }
}

/// When the nodes were heard of tasks that have a lease and may run.
fn heard(tasks: &[Arc<Task>], contacts: &Contacts) -> BTreeMap<NodeId, Instant> {
    let fenced = tasks
        .iter()
        .filter(|task| !has_stopped(task) && upkeep::fencing(&task.labels).is_some());
    fenced
        .map(|task| (task.node_id.clone(), contacts.last(&task.node_id)))
        .collect()
}

/// What the store says of the service. Its identifier is empty if it is gone.
fn picture(tx: &ReadTx<'_>, id: &ServiceId) -> Picture {
    let service = tx.get::<Service>(id.as_str()).unwrap_or_default();
    let tasks = tx.by_key::<Task>(Key::Service(id.as_str().to_owned()));
    let nodes: Vec<Arc<Node>> = match is_per_node(&service) {
        true => tx.all::<Node>(),
        false => {
            let ids: BTreeSet<&NodeId> = tasks.iter().map(|task| &task.node_id).collect();
            ids.into_iter()
                .filter_map(|id| tx.get::<Node>(id.as_str()))
                .collect()
        }
    };
    let cluster = tx.all::<Cluster>().into_iter().next();
    let defaults = cluster.and_then(|cluster| cluster.spec.task_defaults.clone());
    Picture {
        service,
        tasks,
        nodes: nodes.into_iter().map(|node| (node.id.clone(), node)).collect(),
        default_log: defaults.and_then(|defaults| defaults.log_driver),
        heard: BTreeMap::new(),
    }
}
