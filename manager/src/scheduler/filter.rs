//! Which nodes can take a task, and why the others cannot.

use std::sync::Arc;

use proto::object::{NetworkAttachment, NodeState};
use proto::spec::{Availability, MountType, Platform, PortProtocol, Reservations};
use proto::{Node, NodeId, Task};

use super::constraint::{self, Constraint};
use super::neighbours::Neighbours;
use super::node::{NodeInfo, host_ports};
use super::resources::{Lack, reservations};
use crate::allocator::subnets;

pub(crate) use super::reason::{Unsuitable, explain};

/// What a task asks of a node, read once for all nodes and all tasks that are alike.
#[derive(Debug)]
pub(crate) struct Filters<'t> {
    task: &'t Task,
    reserved: Option<&'t Reservations>,
    /// Drivers by type and name.
    plugins: Vec<(&'static str, &'t str)>,
    /// `None` if they cannot be read: then no node satisfies them.
    constraints: Option<Vec<Constraint>>,
    platforms: &'t [Platform],
    ports: Vec<(PortProtocol, u16)>,
    max_replicas: u64,
    /// A network of the task is.
    encrypted: bool,
    volumes: Vec<Place>,
    neighbours: Neighbours,
}

/// Where a volume of the task is: no other node can take it.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) nodes: Vec<NodeId>,
    /// For people: the volume, and where it is.
    pub(crate) text: Arc<str>,
}

impl<'t> Filters<'t> {
    pub(crate) fn new(task: &'t Task) -> Self {
        let placement = task.spec.placement.as_ref();
        Self {
            task,
            reserved: reservations(&task.spec),
            plugins: plugins(task).collect(),
            constraints: constraint::parse(placement.map_or(&[], |placement| &placement.constraints)).ok(),
            platforms: placement.map_or(&[], |placement| &placement.platforms),
            ports: host_ports(task).collect(),
            max_replicas: placement.map_or(0, |placement| placement.max_replicas),
            encrypted: task
                .networks_attachments
                .iter()
                .any(|on| on.network.spec.is_encrypted()),
            volumes: Vec::new(),
            neighbours: Neighbours::default(),
        }
    }

    /// The same, with volumes that are on certain nodes.
    pub(crate) fn with_volumes(self, volumes: Vec<Place>) -> Self {
        Self { volumes, ..self }
    }

    /// The same, with rules about tasks of other services.
    pub(crate) fn with_neighbours(self, neighbours: Neighbours) -> Self {
        Self { neighbours, ..self }
    }

    /// Whether the node can take one more of the tasks.
    ///
    /// # Errors
    /// The first reason why it cannot.
    pub(crate) fn check(&self, info: &NodeInfo) -> Result<(), Unsuitable> {
        let node = &info.node;
        let satisfied = self
            .constraints
            .as_ref()
            .is_some_and(|all| constraint::matches(all, node));
        require(is_available(node), Unsuitable::NotReady)?;
        self.room(info)?;
        require(
            self.plugins
                .iter()
                .all(|(kind, name)| has_plugin(node, kind, name)),
            Unsuitable::Plugin,
        )?;
        require(
            !self.encrypted || node.description.data_path.encrypts(),
            Unsuitable::Encryption,
        )?;
        let reached = |on: &NetworkAttachment| subnets::conflict(&on.network, node).map(|(ours, _)| ours);
        let reached = self.task.networks_attachments.iter().find_map(reached);
        reached.map_or(Ok(()), |ours| {
            Err(Unsuitable::Subnet(Arc::from(ours.to_string())))
        })?;
        require(satisfied, Unsuitable::Constraints)?;
        require(self.runs_on(&node.description.platform), Unsuitable::Platform)?;
        require(
            !self.ports.iter().any(|port| info.has_port(port)),
            Unsuitable::HostPort,
        )?;
        require(self.below_max_replicas(info), Unsuitable::MaxReplicas)?;
        let elsewhere = self.volumes.iter().find(|place| !place.nodes.contains(&node.id));
        elsewhere.map_or(Ok(()), |place| Err(Unsuitable::Volume(place.text.clone())))?;
        self.neighbours.check(info)
    }

    /// As [`Self::check`], of what changes when a task that is alike is placed on the node.
    pub(crate) fn has_room_for_another(&self, info: &NodeInfo) -> bool {
        self.ports.is_empty()
            && self.room(info).is_ok()
            && self.below_max_replicas(info)
            && !self.neighbours.avoids(&self.task.service_id)
    }

    fn room(&self, info: &NodeInfo) -> Result<(), Unsuitable> {
        let Some(wanted) = self.reserved else {
            return Ok(());
        };
        let lack = info.used().lack(&info.node.description.resources, wanted);
        lack.map_or(Ok(()), |lack| {
            Err(match lack {
                Lack::Room => Unsuitable::Resources,
                Lack::Things(kind) => Unsuitable::GenericResource(Arc::from(kind)),
            })
        })
    }

    fn below_max_replicas(&self, info: &NodeInfo) -> bool {
        self.max_replicas == 0 || u64::from(info.service_tasks(&self.task.service_id)) < self.max_replicas
    }

    fn runs_on(&self, node: &Platform) -> bool {
        let fits = |image: &Platform| {
            (image.os.is_empty() || image.os == node.os)
                && (image.architecture.is_empty()
                    || goarch(&image.architecture) == goarch(&node.architecture))
        };
        self.platforms.is_empty() || self.platforms.iter().any(fits)
    }
}

fn require(holds: bool, otherwise: Unsuitable) -> Result<(), Unsuitable> {
    if holds { Ok(()) } else { Err(otherwise) }
}

pub(super) fn is_available(node: &Node) -> bool {
    node.status.state == NodeState::Ready && node.spec.availability == Availability::Active
}

/// Architectures go by the kernel's name or by Go's.
fn goarch(name: &str) -> &str {
    match name {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The drivers that a task needs, by type and name.
fn plugins(task: &Task) -> impl Iterator<Item = (&'static str, &str)> {
    let mounts = task
        .spec
        .container_spec
        .iter()
        .flat_map(|container| &container.mounts);
    let volumes = mounts
        .filter(|mount| mount.kind == MountType::Volume)
        .filter_map(|mount| mount.volume_options.as_ref()?.driver_config.as_ref())
        .map(|driver| ("Volume", driver.name.as_str()))
        .filter(|(_, name)| *name != "local");
    let networks = task
        .networks_attachments
        .iter()
        .map(|attached| ("Network", attached.network.driver_state.name.as_str()));
    let logs = task
        .spec
        .log_driver
        .iter()
        .map(|driver| ("Log", driver.name.as_str()));
    let logs = logs.filter(|(_, name)| *name != "none");
    volumes
        .chain(networks)
        .chain(logs)
        .filter(|(_, name)| !name.is_empty())
}

/// Whether the node has the driver. An agent that names no drivers at all, or none for logs, is taken to have it.
fn has_plugin(node: &Node, kind: &str, name: &str) -> bool {
    let plugins = &node.description.engine.plugins;
    let mut of_kind = plugins.iter().filter(|plugin| plugin.kind == kind).peekable();
    if plugins.is_empty() || (kind == "Log" && of_kind.peek().is_none()) {
        return true;
    }
    of_kind.any(|plugin| {
        plugin
            .name
            .strip_prefix(name)
            .is_some_and(|tag| tag.is_empty() || tag == ":latest")
    })
}
