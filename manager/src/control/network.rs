//! Networks: create, remove.

use std::sync::Arc;

use ipnet::IpNet;
use proto::{Network, NetworkId, NetworkSpec, Node, Service, Task, TaskState};

use super::{Control, ControlError, Result, lookup, validate};
use crate::allocator::{no_address, subnets};
use crate::state::{Key, Kind, Reader};

impl Control {
    /// Makes a network. The allocator then gives it a subnet, unless the spec names one.
    ///
    /// # Errors
    /// [`ControlError::InvalidArgument`] (also for a subnet that overlaps another network's), [`ControlError::NameConflict`].
    pub async fn create_network(&self, mut spec: NetworkSpec) -> Result<Arc<Network>> {
        validate::network(&mut spec)?;
        let id = NetworkId::random();
        self.store
            .update(|tx| {
                if spec.ingress {
                    refuse_second_ingress(tx)?;
                }
                refuse_overlap(tx, &spec)?;
                refuse_unencryptable(tx, &spec)?;
                Ok::<_, ControlError>(tx.create(Network {
                    id: id.clone(),
                    spec,
                    ..Network::default()
                })?)
            })
            .await?;
        self.network(id.as_str())
    }

    /// The network by identifier, name or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn network(&self, reference: &str) -> Result<Arc<Network>> {
        self.store.view(|tx| lookup::object(&tx, reference))
    }

    /// Every network that the manager keeps.
    pub fn networks(&self) -> Vec<Arc<Network>> {
        self.store.view(|tx| tx.all())
    }

    /// What is wrong with a network: it has no addresses or too few, or some nodes reach its addresses otherwise.
    pub fn network_problems(&self, id: &str) -> Vec<String> {
        self.store.view(|tx| {
            let Some(network) = tx.get::<Network>(id) else {
                return Vec::new();
            };
            let nodes = tx.all::<Node>();
            let conflicts = nodes.iter().filter_map(|node| conflict(&network, node));
            let failed = Some(network.err.clone()).filter(|error| !error.is_empty());
            failed
                .into_iter()
                .chain(exhaustion(&tx, &network))
                .chain(conflicts)
                .collect()
        })
    }

    /// Why a node cannot take tasks of some networks.
    pub fn node_problems(&self, node: &Node) -> Vec<String> {
        let networks = self.networks();
        networks
            .iter()
            .filter_map(|network| conflict(network, node))
            .collect()
    }

    /// Removes a network that no service and no task uses.
    ///
    /// # Errors
    /// [`ControlError::InUse`] and those of [`Self::network`].
    pub async fn remove_network(&self, reference: &str) -> Result<()> {
        self.store
            .update(|tx| {
                let network = lookup::object::<Network>(tx, reference)?;
                refuse_while_in_use(tx, &network)?;
                Ok::<_, ControlError>(tx.remove::<Network>(network.id.as_str())?)
            })
            .await
    }
}

/// The tasks that have no address of the network say so themselves.
fn exhaustion(tx: &impl Reader, network: &Network) -> Option<String> {
    let text = no_address(network)?;
    let tasks = tx.by_key::<Task>(Key::Network(network.id.as_str().to_owned()));
    let waits = |task: &&Arc<Task>| task.status.state == TaskState::New && task.status.err == text;
    match tasks.iter().filter(waits).count() {
        0 => None,
        1 => Some(format!("{text}: 1 task waits")),
        count => Some(format!("{text}: {count} tasks wait")),
    }
}

/// Nodes join after networks are made, and their routes change.
fn conflict(network: &Network, node: &Node) -> Option<String> {
    let (ours, theirs) = subnets::conflict(network, node)?;
    let (name, hostname) = (&network.spec.name, &node.description.hostname);
    Some(format!(
        "subnet {ours} of network {name} overlaps with {theirs}, which node {hostname} reaches otherwise: it takes no tasks of it"
    ))
}

fn refuse_second_ingress(tx: &impl Reader) -> Result<()> {
    match tx.all::<Network>().iter().find(|network| network.spec.ingress) {
        Some(present) => {
            let message = format!("ingress network ({}) is already present", present.spec.name);
            Err(ControlError::FailedPrecondition(message))
        }
        None => Ok(()),
    }
}

fn refuse_overlap(tx: &impl Reader, spec: &NetworkSpec) -> Result<()> {
    let wanted = subnets::of_spec(spec).map_err(|error| ControlError::invalid(error.to_string()))?;
    for network in tx.all::<Network>() {
        for (ours, theirs) in wanted
            .iter()
            .flat_map(|ours| subnets::of(&network).into_iter().map(move |t| (ours, t)))
        {
            if subnets::overlap(*ours, theirs) {
                let message = format!(
                    "subnet {ours} overlaps with network {} ({theirs})",
                    network.spec.name
                );
                return Err(ControlError::invalid(message));
            }
        }
    }
    refuse_hiding(tx, &wanted)
}

/// What a user asks for must not hide what a node reaches otherwise.
fn refuse_hiding(tx: &impl Reader, wanted: &[IpNet]) -> Result<()> {
    let nodes = tx.all::<Node>();
    for (subnet, node) in subnets::of_nodes(&nodes) {
        if let Some(ours) = wanted.iter().find(|ours| subnets::overlap(**ours, subnet)) {
            let hostname = &node.description.hostname;
            let message =
                format!("subnet {ours} overlaps with {subnet}, which node {hostname} reaches otherwise");
            return Err(ControlError::invalid(message));
        }
    }
    Ok(())
}

/// A network that no node could carry would only leave its tasks waiting.
fn refuse_unencryptable(tx: &impl Reader, spec: &NetworkSpec) -> Result<()> {
    let nodes = tx.all::<Node>();
    if !spec.is_encrypted() || nodes.iter().any(|node| node.description.data_path.encrypts()) {
        return Ok(());
    }
    Err(ControlError::FailedPrecondition(format!(
        "network {} cannot be encrypted: no node of this swarm has a kernel with WireGuard (CONFIG_WIREGUARD, module \
         wireguard)",
        spec.name
    )))
}

fn refuse_while_in_use(tx: &impl Reader, network: &Network) -> Result<()> {
    let key = Key::Network(network.id.as_str().to_owned());
    let in_use = |user_kind, users| ControlError::InUse {
        kind: Kind::Network,
        name: network.spec.name.clone(),
        user_kind,
        users,
    };
    let mut services = tx.by_key::<Service>(key.clone());
    if network.spec.ingress {
        services = tx.all::<Service>();
        services.retain(|service| crate::allocator::uses_ingress(&service.spec));
    }
    if !services.is_empty() {
        return Err(in_use(
            Kind::Service,
            services.iter().map(|service| service.spec.name.clone()).collect(),
        ));
    }
    let mut tasks = tx.by_key::<Task>(key);
    tasks.retain(|task| holds(tx, task));
    let users: Vec<_> = tasks.iter().map(|task| user(tx, task)).collect();
    if users.is_empty() {
        Ok(())
    } else {
        Err(in_use(Kind::Task, users))
    }
}

/// A container that somebody started by hand is told by its own name and its node's.
fn user(tx: &impl Reader, task: &Task) -> String {
    if task.attachment().is_none() {
        return task.name();
    }
    let node = tx.get::<Node>(&task.node_id);
    let place = node.map_or_else(
        || task.node_id.to_string(),
        |node| node.description.hostname.clone(),
    );
    format!("{} (container {} on {place})", task.id, task.short_name())
}

/// Tasks that only have to stop do not hold a network, nor do those of a removed service, which nobody has told to stop
/// yet: a stack can be removed in one go.
fn holds(tx: &impl Reader, task: &Task) -> bool {
    let orphan = !task.service_id.as_str().is_empty() && tx.get::<Service>(&task.service_id).is_none();
    task.desired_state <= TaskState::Running && task.status.state <= TaskState::Running && !orphan
}
