//! What one node must know, and the changes of that.
//!
//! A node gets the tasks assigned to it; the secrets, configs and networks that its living tasks use, and the network of
//! published ports, over which it reaches them on other nodes; and the endpoint of every service that shares a network
//! with them or publishes ports. It gets the tasks of other nodes on its networks, and the nodes of the cluster: who may
//! speak to it, and where they are. Nothing else ever reaches it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proto::object::{NetworkKey, NetworkMember, Peer};
use proto::wire::AssignmentChange;
use proto::wire::assignment_change::{Action, Kind as WireKind};
use proto::{
    Cluster, Config, ConfigId, Network, NetworkId, Node, NodeId, Secret, SecretId, Service, ServiceEndpoint,
    ServiceId, Task, TaskId, TaskState,
};
use serde::Serialize;

use super::{endpoint, member};
use crate::allocator::subnets::plan_of;
use crate::state::{Audience, Circle, Event, Key, Reader};

/// There is one key; this is its identifier.
const NETWORK_KEY: &str = "network-key";

/// What the node has been told.
#[derive(Debug)]
pub(super) struct Assignments {
    node: NodeId,
    tasks: BTreeMap<TaskId, Arc<Task>>,
    secrets: BTreeMap<SecretId, u64>,
    configs: BTreeMap<ConfigId, u64>,
    networks: BTreeMap<NetworkId, u64>,
    network_key: Option<NetworkKey>,
    endpoints: BTreeMap<ServiceId, ServiceEndpoint>,
    /// Tasks of other nodes on these networks.
    members: BTreeMap<TaskId, NetworkMember>,
    /// Nodes as they were told, by identifier. Every session has every node: what they have is shared.
    peers: Vec<Arc<Node>>,
    /// Tasks, services and nodes to look at again.
    dirty_tasks: BTreeSet<TaskId>,
    dirty_services: BTreeSet<ServiceId>,
    dirty_nodes: BTreeSet<NodeId>,
    /// Tasks whose place is to be looked at again, and nodes that were given up or are back.
    dirty_members: BTreeSet<TaskId>,
    turned_nodes: BTreeSet<NodeId>,
    /// What the tasks need is to be looked at again.
    dirty_objects: bool,
    /// A node that was there has gone, was given up, is back or has another role.
    node_turned: bool,
}

/// Nodes, told what they must know.
pub(super) static CONCERNED: Circle = Circle { audience: concerned };

/// Whom an event can concern at all. Asked inside the commit.
fn concerned(event: &Event) -> Audience<'_> {
    let everybody_if = |matters: bool| match matters {
        true => Audience::Everybody,
        false => Audience::Nobody,
    };
    match event {
        Event::Task(change) => {
            let (old, new) = (change.old(), change.new_object());
            // What is on no network and publishes nothing is reached by nobody: most nodes need not hear of it.
            let answers = |task: Option<&Arc<Task>>| {
                task.is_some_and(|task| endpoint::is_backend(task) && endpoint::can_be_reached(task))
            };
            let moved = || member::moved(old.map(AsRef::as_ref), new.map(AsRef::as_ref));
            if answers(old) != answers(new) || moved() {
                return Audience::Everybody;
            }
            let now = &change.object().node_id;
            Audience::Nodes([old.map_or(now, |old| &old.node_id), now])
        }
        Event::Service(_) | Event::Network(_) | Event::Secret(_) | Event::Config(_) => Audience::Everybody,
        Event::Node(change) => match (change.old(), change.new_object()) {
            (Some(old), Some(new)) => everybody_if(!same_peer(old, new)),
            // A removed node is told nothing more; its session ends.
            (Some(old), None) => Audience::AllBut(&old.id),
            _ => Audience::Everybody,
        },
        Event::Cluster(change) => {
            let key =
                |cluster: Option<&Arc<Cluster>>| cluster.and_then(|cluster| cluster.network_key.clone());
            everybody_if(key(change.old()) != key(change.new_object()))
        }
        Event::Commit(_) => Audience::Nobody,
    }
}

impl Assignments {
    /// The node has been told nothing; everything is to be looked at.
    pub(super) fn new(node: NodeId, tx: &impl Reader) -> Self {
        let tasks = tx.by_key::<Task>(Key::Node(node.as_str().to_owned()));
        Self {
            node,
            tasks: BTreeMap::new(),
            secrets: BTreeMap::new(),
            configs: BTreeMap::new(),
            networks: BTreeMap::new(),
            network_key: None,
            endpoints: BTreeMap::new(),
            members: BTreeMap::new(),
            peers: Vec::new(),
            dirty_tasks: tasks.iter().map(|task| task.id.clone()).collect(),
            dirty_services: tx
                .all::<Service>()
                .iter()
                .map(|service| service.id.clone())
                .collect(),
            dirty_nodes: tx.all::<Node>().iter().map(|node| node.id.clone()).collect(),
            dirty_members: BTreeSet::new(),
            turned_nodes: BTreeSet::new(),
            dirty_objects: true,
            node_turned: false,
        }
    }

    /// Learns that something has changed.
    pub(super) fn note(&mut self, event: &Event) {
        match event {
            Event::Task(change) => {
                let task = change.object();
                self.dirty_services.insert(task.service_id.clone());
                self.dirty_tasks.insert(task.id.clone());
                self.dirty_members.insert(task.id.clone());
            }
            Event::Service(change) => drop(self.dirty_services.insert(change.object().id.clone())),
            Event::Network(_) | Event::Secret(_) | Event::Config(_) | Event::Cluster(_) => {
                self.dirty_objects = true;
            }
            Event::Node(change) => {
                let id = &change.object().id;
                let (old, new) = (change.old(), change.new_object());
                if is_given_up(old) != is_given_up(new) {
                    self.turned_nodes.insert(id.clone());
                }
                // That a node has come can wait; that one has gone, or is trusted otherwise, cannot.
                let matters = |node: &Arc<Node>| (node.spec.role, node.status.state.is_given_up());
                self.node_turned |= old.is_some() && old.map(matters) != new.map(matters);
                self.dirty_nodes.insert(id.clone());
            }
            Event::Commit(_) => {}
        }
    }

    /// Whether what the node is to be told is of other nodes alone: who is there, and where. Nothing that runs waits for it, and
    /// what is not reached any more is more than that.
    pub(super) fn is_of_peers_alone(&self) -> bool {
        let is_more = self.dirty_objects
            || self.node_turned
            || !self.dirty_tasks.is_empty()
            || !self.dirty_services.is_empty()
            || !self.dirty_members.is_empty();
        !is_more && !self.dirty_nodes.is_empty()
    }

    /// What the node must be told now: what tasks need comes before them, and goes after them.
    pub(super) fn changes(&mut self, tx: &impl Reader) -> Vec<AssignmentChange> {
        self.node_turned = false;
        let (mut tasks, mut gone_tasks) = (Vec::new(), Vec::new());
        for id in std::mem::take(&mut self.dirty_tasks) {
            // Also when it has only ended: it needs nothing any more.
            self.dirty_objects |= self.tasks.contains_key(&id);
            match self.look_at_task(tx, id) {
                Some(change) if change.action() == Action::Remove => gone_tasks.push(change),
                change => tasks.extend(change),
            }
        }
        let (mut needs, mut gone_needs) = (Vec::new(), Vec::new());
        if self.dirty_objects || !tasks.is_empty() {
            self.dirty_objects = false;
            let before: BTreeSet<_> = self.networks.keys().cloned().collect();
            self.look_at_needs(tx, &mut needs, &mut gone_needs);
            self.note_networks(tx, &before);
        }
        self.note_turned_nodes(tx);
        let peers = std::mem::take(&mut self.dirty_nodes).into_iter();
        let peers: Vec<_> = peers.filter_map(|id| self.look_at_node(tx, id)).collect();
        let members = std::mem::take(&mut self.dirty_members).into_iter();
        let members: Vec<_> = members.filter_map(|id| self.look_at_member(tx, id)).collect();
        let services = std::mem::take(&mut self.dirty_services).into_iter();
        let endpoints: Vec<_> = services.filter_map(|id| self.look_at_service(tx, id)).collect();
        [peers, needs, members, endpoints, tasks, gone_tasks, gone_needs]
            .into_iter()
            .flatten()
            .collect()
    }

    /// Which services and tasks the node must reach depends on its networks.
    fn note_networks(&mut self, tx: &impl Reader, before: &BTreeSet<NetworkId>) {
        if before.iter().eq(self.networks.keys()) {
            return;
        }
        self.dirty_services
            .extend(tx.all::<Service>().iter().map(|service| service.id.clone()));
        self.dirty_services.extend(self.endpoints.keys().cloned());
        self.dirty_members.extend(self.members.keys().cloned());
        for network in self.networks.keys().filter(|id| !before.contains(*id)) {
            let tasks = tx.by_key::<Task>(Key::Network(network.to_string()));
            self.dirty_members
                .extend(tasks.iter().map(|task| task.id.clone()));
        }
    }

    /// What runs on a node that was given up, or is back, answers no longer, or again.
    fn note_turned_nodes(&mut self, tx: &impl Reader) {
        for node in std::mem::take(&mut self.turned_nodes) {
            let tasks = tx.by_key::<Task>(Key::Node(node.to_string()));
            let answering = tasks.iter().filter(|task| endpoint::is_backend(task));
            self.dirty_services
                .extend(answering.map(|task| task.service_id.clone()));
            let is_gone = tx.get::<Node>(&node).is_none();
            let leaving = tasks
                .iter()
                .filter(|task| is_gone || member::leaves_its_address(task));
            self.dirty_members.extend(leaving.map(|task| task.id.clone()));
        }
    }

    fn look_at_task(&mut self, tx: &impl Reader, id: TaskId) -> Option<AssignmentChange> {
        let now = tx.get::<Task>(&id);
        let ours = now.filter(|task| task.node_id == self.node && task.status.state >= TaskState::Assigned);
        let Some(task) = ours else {
            return self
                .tasks
                .remove(&id)
                .map(|_| remove(WireKind::Task, id.as_str()));
        };
        let told = self.tasks.insert(id.clone(), task.clone());
        // The node knows the status better: it has written it.
        let same = told.is_some_and(|told| same_but_for_status(&told, &task));
        (!same).then(|| update(WireKind::Task, id.as_str(), task.as_ref()))
    }

    fn look_at_needs(
        &mut self,
        tx: &impl Reader,
        news: &mut Vec<AssignmentChange>,
        gone: &mut Vec<AssignmentChange>,
    ) {
        let alive: Vec<_> = self
            .tasks
            .values()
            .filter(|task| is_alive(task))
            .cloned()
            .collect();
        let containers = || alive.iter().filter_map(|task| task.spec.container_spec.as_ref());
        let secrets = containers()
            .flat_map(|container| &container.secrets)
            .map(|secret| secret.secret_id.clone());
        let secrets = objects(secrets, |id| tx.get::<Secret>(id));
        tell(WireKind::Secret, &mut self.secrets, secrets, news, gone);
        let configs = containers()
            .flat_map(|container| &container.configs)
            .map(|config| config.config_id.clone());
        let configs = objects(configs, |id| tx.get::<Config>(id));
        tell(WireKind::Config, &mut self.configs, configs, news, gone);
        let used = alive
            .iter()
            .flat_map(|task| &task.networks_attachments)
            .map(|on| on.network.id.clone());
        // Published ports answer on every node, whoever runs the tasks behind them.
        let all = tx.all::<Network>();
        // One that has no subnet yet would get one of the node's own choice there.
        let ingress = all
            .iter()
            .filter(|network| network.spec.ingress && plan_of(network).is_some());
        let networks = used.chain(ingress.map(|network| network.id.clone()));
        let networks = objects(networks, |id| tx.get::<Network>(id));
        self.tell_network_key(tx, &networks, news, gone);
        tell(WireKind::Network, &mut self.networks, networks, news, gone);
    }

    /// Those alone have the key who have something to encrypt.
    fn tell_network_key(
        &mut self,
        tx: &impl Reader,
        networks: &BTreeMap<NetworkId, Arc<Network>>,
        news: &mut Vec<AssignmentChange>,
        gone: &mut Vec<AssignmentChange>,
    ) {
        let needed = networks.values().any(|network| network.spec.is_encrypted());
        let clusters = tx.all::<Cluster>();
        let key = clusters.first().and_then(|cluster| cluster.network_key.clone());
        let key = key.filter(|_| needed);
        match (&key, &self.network_key) {
            (Some(new), told) if told.as_ref() != Some(new) => {
                news.push(update(WireKind::NetworkKey, NETWORK_KEY, new));
            }
            (None, Some(_)) => gone.push(remove(WireKind::NetworkKey, NETWORK_KEY)),
            _ => {}
        }
        self.network_key = key;
    }

    fn look_at_node(&mut self, tx: &impl Reader, id: NodeId) -> Option<AssignmentChange> {
        let place = self.peers.binary_search_by(|told| told.id.cmp(&id));
        let told = place.ok().map(|place| &self.peers[place]);
        let Some(node) = tx.get::<Node>(&id) else {
            told?;
            self.peers.retain(|told| told.id != id);
            return Some(remove(WireKind::Peer, id.as_str()));
        };
        if told.is_some_and(|told| same_peer(told, &node)) {
            return None;
        }
        let change = update(WireKind::Peer, id.as_str(), &Peer::of(&node));
        match place {
            Ok(place) => self.peers[place] = node,
            Err(place) => self.peers.insert(place, node),
        }
        Some(change)
    }

    fn look_at_member(&mut self, tx: &impl Reader, id: TaskId) -> Option<AssignmentChange> {
        let known = |network: &NetworkId| self.networks.contains_key(network);
        let task = tx.get::<Task>(&id).filter(|task| task.node_id != self.node);
        let task = task.filter(|task| match tx.get::<Node>(&task.node_id) {
            Some(node) => !member::leaves_its_address(task) || !is_given_up(Some(&node)),
            None => false, // there is no way to it
        });
        let Some(member) = task.and_then(|task| member::of(&task, known)) else {
            return self
                .members
                .remove(&id)
                .map(|_| remove(WireKind::Member, id.as_str()));
        };
        if self.members.get(&id) == Some(&member) {
            return None;
        }
        let change = update(WireKind::Member, id.as_str(), &member);
        self.members.insert(id, member);
        Some(change)
    }

    fn look_at_service(&mut self, tx: &impl Reader, id: ServiceId) -> Option<AssignmentChange> {
        let known = |network: &NetworkId| self.networks.contains_key(network);
        let service = tx.get::<Service>(&id);
        // Its tasks may be many: they are looked at only where they matter.
        let service = service.filter(|service| endpoint::matters(service, known));
        let endpoint = service.map(|service| {
            let mut tasks = tx.by_key::<Task>(Key::Service(id.as_str().to_owned()));
            tasks.retain(|task| endpoint::is_backend(task) && !is_given_up(tx.get(&task.node_id).as_ref()));
            endpoint::of(&service, &tasks, known)
        });
        let Some(endpoint) = endpoint else {
            return self
                .endpoints
                .remove(&id)
                .map(|_| remove(WireKind::ServiceEndpoint, id.as_str()));
        };
        let changed = self.endpoints.get(&id) != Some(&endpoint);
        let change = changed.then(|| update(WireKind::ServiceEndpoint, id.as_str(), &endpoint));
        self.endpoints.insert(id, endpoint);
        change
    }
}

/// Whether the other nodes need not hear of a node's change.
fn same_peer(one: &Node, two: &Node) -> bool {
    one.spec.role == two.spec.role
        && one.status.state.is_given_up() == two.status.state.is_given_up()
        && one.status.addr == two.status.addr
        && one.description.peer_port == two.description.peer_port
        && one.description.hostname == two.description.hostname
        && one.description.data_path == two.description.data_path
}

/// Whether the node is gone, or given up.
fn is_given_up(node: Option<&Arc<Node>>) -> bool {
    node.is_none_or(|node| node.status.state.is_given_up())
}

/// Whether the task still needs what it was given.
fn is_alive(task: &Task) -> bool {
    !task.status.state.is_terminal()
}

fn same_but_for_status(one: &Task, two: &Task) -> bool {
    // Most changes are reports of the node itself: the parts that can change are few.
    one.desired_state == two.desired_state
        && one.networks_attachments == two.networks_attachments
        && one.spec == two.spec
        && one.labels == two.labels
        && one.endpoint == two.endpoint
        && one.generic_resources == two.generic_resources
}

/// The objects that are there, by identifier.
fn objects<I: Ord, T>(
    ids: impl Iterator<Item = I>,
    get: impl Fn(&I) -> Option<Arc<T>>,
) -> BTreeMap<I, Arc<T>> {
    let ids: BTreeSet<_> = ids.collect();
    ids.into_iter()
        .filter_map(|id| get(&id).map(|object| (id, object)))
        .collect()
}

/// Compares what was told with what is needed, by version.
fn tell<I: Ord + Clone + AsRef<str>, T: crate::state::StoreObject + Serialize>(
    kind: WireKind,
    told: &mut BTreeMap<I, u64>,
    needed: BTreeMap<I, Arc<T>>,
    news: &mut Vec<AssignmentChange>,
    gone: &mut Vec<AssignmentChange>,
) {
    gone.extend(
        told.keys()
            .filter(|id| !needed.contains_key(*id))
            .map(|id| remove(kind, id.as_ref())),
    );
    let version = |object: &T| object.meta().version.index;
    let changed = needed
        .iter()
        .filter(|(id, object)| told.get(*id) != Some(&version(object)));
    news.extend(changed.map(|(id, object)| update(kind, id.as_ref(), object.as_ref())));
    *told = needed
        .into_iter()
        .map(|(id, object)| (id, version(&object)))
        .collect();
}

fn update(kind: WireKind, id: &str, object: &impl Serialize) -> AssignmentChange {
    AssignmentChange {
        action: Action::Update.into(),
        kind: kind.into(),
        id: id.to_owned(),
        // Plain data with string keys: writing it to memory does not fail.
        object: serde_json::to_vec(object).unwrap_or_default(),
    }
}

fn remove(kind: WireKind, id: &str) -> AssignmentChange {
    AssignmentChange {
        action: Action::Remove.into(),
        kind: kind.into(),
        id: id.to_owned(),
        object: Vec::new(),
    }
}
