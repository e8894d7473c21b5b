//! Gives networks their subnets, services their virtual addresses and published ports, and tasks their addresses; with
//! these a task goes from NEW to PENDING, and one that only holds a place for a container on its node to ASSIGNED.
//!
//! Input: networks, services and tasks in the store. Output: `Network.ipam`, `Service.endpoint`,
//! `Task.networks_attachments` and the status of tasks that wait, with the reason when something is exhausted.
//!
//! - [`subnets`], `subnets6`: which subnets a network gets
//! - `pool`: the addresses of one network, and who holds them
//! - `ledger`: all pools, as the store's objects say; there is no state that could leak
//! - `claims`: addresses that services ask for by name
//! - `assign`: what single objects get; `fixed`: an address that somebody asks for

mod assign;
mod claims;
mod fixed;
#[cfg(test)]
mod fixed_tests;
mod ledger;
mod pool;
pub(crate) mod subnets;
mod subnets6;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;

use proto::object::NodeState;
use proto::spec::PublishMode;
use proto::{Network, NetworkId, Node, Service, ServiceId, ServiceSpec, Task, TaskId, TaskState};

use crate::state::{
    Change, Event, Filter, Kind, MAX_CHANGES, ReadTx, Reader, Store, StoreError, StoreObject, WatchStream,
};
use assign::Outcome;
pub(crate) use assign::no_address;
use ledger::Ledger;

/// Whether the service has ports that every node publishes.
pub(crate) fn uses_ingress(spec: &ServiceSpec) -> bool {
    let ports = spec.endpoint_spec.iter().flat_map(|endpoint| &endpoint.ports);
    ports
        .into_iter()
        .any(|port| port.publish_mode == PublishMode::Ingress)
}

/// Runs until the store is gone.
///
/// # Errors
/// The store refused a change: this manager leads no longer, or its disk is full.
pub(crate) async fn run(store: Store) -> Result<(), StoreError> {
    let filter = Filter::kinds(&[Kind::Network, Kind::Service, Kind::Task, Kind::Node]).only(matters);
    let (mut allocator, mut events) = store.view_and_watch(filter, |tx| Allocator::load(&tx));
    loop {
        allocator.work(&store, &mut events).await?;
        if !allocator.learn(&mut events).await {
            return Ok(());
        }
    }
}

/// Whether an event can change what is held or wanted: a task that has its addresses keeps them until it ends.
fn matters(event: &Event) -> bool {
    match event {
        Event::Task(Change::Update { old, new }) => {
            old.status.state == TaskState::New || new.status.state.is_terminal()
        }
        // What is lost with its node leaves the address that another asks for.
        Event::Node(Change::Update { old, new }) => old.status.state != new.status.state && is_down(new),
        Event::Node(change) => matches!(change, Change::Remove(_)),
        _ => true,
    }
}

fn is_down(node: &Node) -> bool {
    node.status.state == NodeState::Down
}

/// What is known, and what is to be done.
#[derive(Debug, Default)]
struct Allocator {
    ledger: Ledger,
    todo: Todo,
    /// Objects that could not be given what they need; they are tried again when something was given back.
    stuck: Todo,
}

/// Objects that may need something, in the order in which they depend on each other.
#[derive(Debug, Default)]
struct Todo {
    networks: BTreeSet<NetworkId>,
    services: BTreeSet<ServiceId>,
    tasks: BTreeSet<TaskId>,
}

impl Todo {
    fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.services.is_empty() && self.tasks.is_empty()
    }

    fn append(&mut self, mut other: Self) {
        self.networks.append(&mut other.networks);
        self.services.append(&mut other.services);
        self.tasks.append(&mut other.tasks);
    }
}

impl Allocator {
    fn load(tx: &ReadTx<'_>) -> Self {
        let mut this = Self::default();
        // Networks first: the others hold addresses in their pools.
        tx.all::<Network>()
            .into_iter()
            .for_each(|network| this.note_network(&Change::Create(network)));
        let mut services = tx.all::<Service>();
        // Of those that ask for one address, whoever asked first has it.
        services.sort_by_key(|service| service.meta.created_at);
        services
            .into_iter()
            .for_each(|service| this.note_service(&Change::Create(service)));
        let mut unwanted = Vec::new();
        for task in Task::table(tx.tables()).all() {
            // A task that was lost with its node may have left its address to the one that replaces it.
            match task.desired_state > TaskState::Complete {
                true => unwanted.push(task),
                false => this.learn_task(task, true),
            }
        }
        unwanted.into_iter().for_each(|task| this.learn_task(task, true));
        this
    }

    /// Gives what can be given.
    async fn work(&mut self, store: &Store, events: &mut WatchStream) -> Result<(), StoreError> {
        if self.todo.is_empty() {
            return Ok(());
        }
        let todo = std::mem::take(&mut self.todo);
        let mut batch = store.batch().await;
        for id in todo.networks {
            if batch
                .update(|tx| assign::network(tx, &mut self.ledger, &id))
                .await?
                == Outcome::Stuck
            {
                self.stuck.networks.insert(id);
            }
        }
        for id in todo.services {
            if batch
                .update(|tx| assign::service(tx, &mut self.ledger, &id))
                .await?
                == Outcome::Stuck
            {
                self.stuck.services.insert(id);
            }
        }
        for (number, id) in todo.tasks.into_iter().enumerate() {
            // Otherwise every task of a large service would be kept twice, until the last one is written.
            if number % MAX_CHANGES == 0 {
                self.catch_up(events);
            }
            if batch.update(|tx| assign::task(tx, &mut self.ledger, &id)).await? == Outcome::Stuck {
                self.stuck.tasks.insert(id);
            }
        }
        batch.commit().await
    }

    /// Learns from the events that are there.
    fn catch_up(&mut self, events: &mut WatchStream) {
        while let Some(event) = events.try_next() {
            self.note(&event);
        }
    }

    /// Learns from events until there is something to do. Returns whether the store is still there.
    async fn learn(&mut self, events: &mut WatchStream) -> bool {
        loop {
            self.catch_up(events);
            if !self.todo.is_empty() {
                return true;
            }
            match events.next().await {
                Some(event) => self.note(&event),
                None => return false,
            }
        }
    }

    fn note(&mut self, event: &Event) {
        match event {
            Event::Network(change) => self.note_network(change),
            Event::Service(change) => self.note_service(change),
            Event::Task(change) => self.note_task(change),
            Event::Node(_) => self.retry(),
            _ => {}
        }
    }

    fn note_network(&mut self, change: &Change<Network>) {
        let network = change.object();
        if matches!(change, Change::Remove(_)) {
            self.ledger.remove_network(&network.id);
            self.retry();
        } else if subnets::plan_of(network).is_some() {
            self.ledger.add_network(network);
            self.retry();
        } else if matches!(change, Change::Create(_)) {
            self.todo.networks.insert(network.id.clone());
        }
    }

    fn note_service(&mut self, change: &Change<Service>) {
        let given_back = change.old().is_some_and(|old| {
            self.ledger
                .release_service(old, change.new_object().map(AsRef::as_ref))
        });
        if let Some(service) = change.new_object() {
            self.ledger.hold_service(service);
            self.todo.services.insert(service.id.clone());
        }
        if given_back || change.new_object().is_none() {
            self.retry();
        }
    }

    fn note_task(&mut self, change: &Change<Task>) {
        match change {
            Change::Create(task) => self.learn_task(task, true),
            Change::Update { new, .. } => self.learn_task(new, false),
            Change::Remove(task) => self.forget_task(task),
        }
    }

    fn learn_task(&mut self, task: &Task, is_new: bool) {
        if task.status.state.is_terminal() {
            return self.forget_task(task);
        }
        self.ledger.hold_task(task);
        // With an error it is among the stuck, unless a manager before this one wrote it.
        if task.status.state == TaskState::New && (is_new || task.status.err.is_empty()) {
            self.todo.tasks.insert(task.id.clone());
        }
    }

    fn forget_task(&mut self, task: &Task) {
        self.todo.tasks.remove(&task.id);
        self.stuck.tasks.remove(&task.id);
        if self.ledger.release_task(task) {
            self.retry();
        }
    }

    /// Something was given back, or a network is there now.
    fn retry(&mut self) {
        self.todo.append(std::mem::take(&mut self.stuck));
    }
}
