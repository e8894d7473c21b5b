//! A node as the scheduler sees it: what is placed on it, what that takes, and how often a service failed there.

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::time::Duration;

use proto::spec::{GenericResource, PortProtocol, PublishMode};
use proto::{Node, ServiceId, Task, TaskState, Version};
use tokio::time::Instant;

use super::rank::Share;
use super::resources::{Used, reservations};
use crate::hash::QuickMap;

/// How long a failure counts.
const FAILURE_WINDOW: Duration = Duration::from_secs(5 * 60);
/// How many failures make a node the last choice for a service.
const MAX_FAILURES: usize = 5;

/// From which version of its service's spec a task was made.
pub(crate) type SpecVersion = Option<Version>;

/// A node, and what is placed on it.
#[derive(Debug)]
pub(crate) struct NodeInfo {
    pub(crate) node: Arc<Node>,
    used: Used,
    /// Tasks that run or shall run.
    tasks: u32,
    by_service: QuickMap<ServiceId, u32>,
    /// Ports published in host mode, with the number of tasks that have them.
    ports: HashMap<(PortProtocol, u16), u32>,
    failures: HashMap<(ServiceId, SpecVersion), VecDeque<Instant>>,
}

impl NodeInfo {
    pub(crate) fn new(node: Arc<Node>) -> Self {
        Self {
            node,
            used: Used::default(),
            tasks: 0,
            by_service: QuickMap::default(),
            ports: HashMap::new(),
            failures: HashMap::new(),
        }
    }

    pub(crate) fn used(&self) -> &Used {
        &self.used
    }

    /// Tasks of the service that run or shall run.
    pub(crate) fn service_tasks(&self, service: &ServiceId) -> u32 {
        self.by_service.get(service).copied().unwrap_or_default()
    }

    /// Whether a task has the port of the node itself.
    pub(crate) fn has_port(&self, port: &(PortProtocol, u16)) -> bool {
        self.ports.contains_key(port)
    }

    /// Tasks that run or shall run.
    pub(crate) fn tasks(&self) -> u32 {
        self.tasks
    }

    /// How much of the node is reserved.
    pub(crate) fn reserved(&self) -> Share {
        self.used.share(&self.node.description.resources)
    }

    /// How often tasks like this one failed here of late; zero while that is too seldom to matter.
    pub(crate) fn failures(&self, task: &Task, now: Instant) -> u32 {
        if self.failures.is_empty() {
            return 0;
        }
        let failures = self.failures.get(&(task.service_id.clone(), task.spec_version));
        let recent = failures.map_or(0, |times| {
            times
                .iter()
                .filter(|time| now.duration_since(**time) < FAILURE_WINDOW)
                .count()
        });
        match recent < MAX_FAILURES {
            true => 0,
            false => u32::try_from(recent).unwrap_or(u32::MAX),
        }
    }

    /// Adds a task with the things that it was given.
    pub(crate) fn add(&mut self, task: &Task, given: &[GenericResource]) {
        if let Some(reserved) = reservations(&task.spec) {
            self.used.take(reserved, given);
        }
        for port in host_ports(task) {
            *self.ports.entry(port).or_default() += 1;
        }
        if is_active(task) {
            self.tasks += 1;
            match self.by_service.get_mut(&task.service_id) {
                Some(count) => *count += 1,
                None => drop(self.by_service.insert(task.service_id.clone(), 1)),
            }
        }
    }

    /// Takes a task away that was added with the same arguments.
    pub(crate) fn remove(&mut self, task: &Task, given: &[GenericResource]) {
        if let Some(reserved) = reservations(&task.spec) {
            self.used.give_back(reserved, given);
        }
        for port in host_ports(task) {
            decrement(&mut self.ports, &port);
        }
        if is_active(task) {
            self.tasks = self.tasks.saturating_sub(1);
            decrement(&mut self.by_service, &task.service_id);
        }
    }

    /// Remembers that a task failed here.
    pub(crate) fn failed(&mut self, task: &Task, now: Instant) {
        self.failures.retain(|_, times| {
            times.retain(|time| now.duration_since(*time) < FAILURE_WINDOW);
            !times.is_empty()
        });
        let times = self
            .failures
            .entry((task.service_id.clone(), task.spec_version))
            .or_default();
        times.push_back(now);
        if times.len() == MAX_FAILURES {
            tracing::warn!(
                node.id = %self.node.id,
                service.id = %task.service_id,
                "the node becomes the last choice for the service: it failed there {MAX_FAILURES} times in 5 minutes"
            );
        }
    }
}

/// Whether the task counts in the balance: it is not on its way out.
pub(crate) fn is_active(task: &Task) -> bool {
    task.desired_state <= TaskState::Complete
}

/// Ports that the task wants of its node itself.
pub(crate) fn host_ports(task: &Task) -> impl Iterator<Item = (PortProtocol, u16)> + '_ {
    let ports = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
    ports
        .filter(|port| port.publish_mode == PublishMode::Host && port.published_port != 0)
        .map(|port| (port.protocol, port.published_port))
}

fn decrement<K: Hash + Eq, S: BuildHasher>(counts: &mut HashMap<K, u32, S>, key: &K) {
    if let Some(count) = counts.get_mut(key) {
        *count -= 1;
        if *count == 0 {
            counts.remove(key);
        }
    }
}
