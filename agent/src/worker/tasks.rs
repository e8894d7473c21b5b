//! The controllers of this node's tasks, kept in step with the assignments.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use proto::object::{NetworkKey, NetworkMember};
use proto::wire::assignment_change::Kind;
use proto::{Task, TaskId};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::assignments::{Assignments, Change};
use super::attachments::Attachments;
use super::controller::{Adopted, Controller, Wanted};
use super::session;
use super::shared::Shared;
use crate::api::error::chain;
use crate::engine::{ContainerId, RemoveOptions};

/// The controllers of this node's tasks.
#[derive(Debug)]
pub(super) struct Tasks {
    shared: Arc<Shared>,
    /// Places of containers that no task runs; `None` where there is no manager to ask.
    attachments: Option<Arc<Attachments>>,
    running: Mutex<HashMap<TaskId, Running>>,
}

#[derive(Debug)]
struct Running {
    wanted: watch::Sender<Wanted>,
    actor: JoinHandle<()>,
}

impl session::Sink for Tasks {
    async fn apply(&self, assignments: Assignments) {
        let complete = assignments.complete.then(|| Listed::of(&assignments.changes));
        // What tasks need comes before the tasks, and services after them: a task that was found running is back in its
        // service before the service is written anew.
        let mut later = Vec::new();
        let is_complete = assignments.complete;
        let (mut members, mut places) = (Vec::new(), Vec::new());
        for change in assignments.changes {
            match change {
                Change::Secret(secret) => self.shared.files.put_secret(*secret),
                Change::Config(config) => self.shared.files.put_config(*config),
                Change::Peer(peer) => self.shared.members.put(peer),
                // A removed node is refused at once.
                Change::Remove(Kind::Peer, id) => self.shared.members.remove(&id),
                Change::NetworkKey(key) => self.set_network_key(&key).await,
                Change::Network(network) => self.ensure_network(&network).await,
                Change::Member(member) => members.push(*member),
                Change::Task(task) if task.attachment().is_some() => places.push(*task),
                other => later.push(other),
            }
        }
        self.tell_of_others(members).await;
        let mut endpoints = Vec::new();
        for change in later {
            match change {
                Change::Task(task) => self.assign(*task).await,
                other => endpoints.push(other),
            }
        }
        for change in endpoints {
            match change {
                Change::Endpoint(endpoint) => self.set_endpoint(*endpoint).await,
                Change::Remove(kind, id) => self.remove(kind, &id).await,
                _ => {}
            }
        }
        if let Some(listed) = complete {
            self.forget_others(&listed).await;
        }
        if let Err(error) = self.shared.overlay.tell_lost().await {
            tracing::warn!("what runs on lost nodes is still spoken to: {}", chain(&error));
        }
        // Last: whoever waits for its place then knows the ways and names of the others.
        if let Some(attachments) = &self.attachments {
            attachments.assigned(&places, is_complete);
        }
    }
}

impl Tasks {
    pub(super) fn new(shared: Arc<Shared>, attachments: Option<Arc<Attachments>>) -> Self {
        Self {
            shared,
            attachments,
            running: Mutex::default(),
        }
    }

    /// Ends the controllers; containers stay as they are.
    pub(super) fn abandon(&self) {
        for (_, running) in self.lock().drain() {
            running.actor.abort();
        }
    }

    /// Nobody is asked for places any more.
    pub(super) fn stop_asking(&self) {
        if let Some(attachments) = &self.attachments {
            self.shared.engine.unset_cluster_networks(attachments);
        }
    }

    /// As if a manager had said that nothing is assigned to this node; returns when all is gone.
    pub(super) async fn give_up_everything(&self) {
        session::Sink::apply(self, Assignments::nothing()).await;
        self.finished().await;
        self.shared.engine.leave_cluster_networks().await;
        self.shared.networks.expect_nobody();
        self.shared.networks.sweep().await;
        if let Err(error) = self.shared.overlay.leave().await {
            tracing::warn!("cannot forget the other nodes: {}", chain(&error));
        }
    }

    async fn assign(&self, task: Task) {
        let task = Arc::new(task);
        let wanted = Wanted {
            task: task.clone(),
            removed: false,
        };
        if let Some(running) = self.lock().get(&task.id) {
            running
                .wanted
                .send_if_modified(|old| replace_if_other(old, wanted));
            return;
        }
        let adopted = self.adopt(&task.id);
        let (sender, receiver) = watch::channel(wanted);
        let controller = Controller::new(self.shared.clone(), receiver, adopted);
        if controller.serves()
            && let Err(error) = controller.join_service().await
        {
            tracing::warn!(task.id = %task.id, "cannot put the task back into its service: {}", chain(&error));
        }
        let actor = tokio::spawn(controller.run());
        self.lock().insert(
            task.id.clone(),
            Running {
                wanted: sender,
                actor,
            },
        );
    }

    /// The container that an earlier process of this agent made for the task.
    fn adopt(&self, task: &TaskId) -> Option<Adopted> {
        let engine = &self.shared.engine;
        let (id, _) = engine
            .tasks()
            .into_iter()
            .find(|(_, found)| found.task_id == task.as_str())?;
        let state = engine.watch(id.as_str()).ok()?.borrow().clone();
        Some(Adopted { id, state })
    }

    async fn remove(&self, kind: Kind, id: &str) {
        match kind {
            Kind::Task => self.remove_task(id),
            Kind::Secret => self.shared.files.remove_secret(id),
            Kind::Config => self.shared.files.remove_config(id),
            Kind::Network => self.shared.networks.release(id).await,
            Kind::Peer => self.shared.members.remove(id),
            Kind::ServiceEndpoint => self.remove_endpoint(id).await,
            // Without it tunnels stay as they are: whoever has it and needs it no more is no danger.
            Kind::NetworkKey => {}
            Kind::Member => self.remove_members([id.to_owned()].into()).await,
        }
    }

    /// Its controller stops and removes the container, then ends.
    fn remove_task(&self, id: &str) {
        if let Some(attachments) = &self.attachments {
            attachments.removed(id);
        }
        let mut tasks = self.lock();
        if let Some(running) = tasks.get(id) {
            running.wanted.send_modify(|wanted| wanted.removed = true);
        }
        tasks.retain(|_, running| !running.actor.is_finished());
    }

    async fn forget_others(&self, listed: &Listed) {
        let gone: Vec<TaskId> = self
            .lock()
            .keys()
            .filter(|id| !listed.has(id.as_str()))
            .cloned()
            .collect();
        for id in gone {
            self.remove_task(id.as_str());
        }
        self.remove_strays(listed).await;
        for service in self.shared.directory.known() {
            if !listed.has(service.as_str()) {
                self.remove_endpoint(service.as_str()).await;
            }
        }
        if let Err(error) = self.shared.overlay.retain(|id| listed.has(id)).await {
            tracing::warn!("cannot forget tasks of other nodes: {}", chain(&error));
        }
        self.shared.members.retain(|id| listed.has(id));
        self.shared.files.retain(|id| listed.has(id));
        self.shared.networks.retain(|id| listed.has(id)).await;
    }

    /// Containers of tasks that neither the manager nor any controller knows.
    async fn remove_strays(&self, listed: &Listed) {
        let known = |task: &str| listed.has(task) || self.lock().contains_key(task);
        let strays: Vec<ContainerId> = self
            .shared
            .engine
            .tasks()
            .into_iter()
            .filter(|(_, task)| !known(&task.task_id))
            .map(|(id, _)| id)
            .collect();
        for id in strays {
            tracing::info!(container.id = %id, "removing the container of a task that is no longer known");
            let options = RemoveOptions {
                force: true,
                volumes: true,
            };
            if let Err(error) = self.shared.engine.remove(id.as_str(), options).await {
                tracing::warn!(container.id = %id, "cannot remove the container: {}", chain(&error));
            }
        }
    }

    /// A network that cannot be made is the failure of the tasks that need it; here it is only a head start.
    async fn ensure_network(&self, network: &proto::Network) {
        self.shared.overlay.note_network(network);
        if let Err(error) = self.shared.networks.ensure(network).await {
            tracing::debug!(network.id = %network.id, "{}", chain(&error));
        }
    }

    /// Nodes and their tasks; before this node's own tasks, which may speak to them at once.
    async fn tell_of_others(&self, members: Vec<NetworkMember>) {
        if let Err(error) = self.shared.overlay.refresh().await {
            tracing::warn!("cannot set up the ways to the other nodes: {}", chain(&error));
        }
        if let Err(error) = self.shared.overlay.set(members).await {
            tracing::warn!("cannot set up the ways to other nodes' tasks: {}", chain(&error));
        }
    }

    async fn set_network_key(&self, key: &NetworkKey) {
        if let Err(error) = self.shared.overlay.set_key(key).await {
            tracing::warn!("cannot take the network key: {}", chain(&error));
        }
    }

    async fn remove_members(&self, ids: BTreeSet<String>) {
        if let Err(error) = self.shared.overlay.remove(ids).await {
            tracing::warn!("cannot forget tasks of other nodes: {}", chain(&error));
        }
    }

    async fn set_endpoint(&self, endpoint: proto::ServiceEndpoint) {
        let id = endpoint.id.clone();
        if let Err(error) = self.shared.directory.set_endpoint(endpoint).await {
            tracing::warn!(service.id = %id, "cannot set up the service's endpoint: {}", chain(&error));
        }
    }

    async fn remove_endpoint(&self, id: &str) {
        if let Err(error) = self.shared.directory.remove_endpoint(id).await {
            tracing::warn!(service.id = %id, "cannot remove the service's endpoint: {}", chain(&error));
        }
    }

    /// Waits for the controllers of removed tasks.
    async fn finished(&self) {
        let actors: Vec<_> = self.lock().drain().map(|(_, running)| running.actor).collect();
        for actor in actors {
            // A panicked controller has said so already.
            let _ = actor.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TaskId, Running>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Identifiers of everything in a complete set.
struct Listed(HashSet<String>);

impl Listed {
    fn of(changes: &[Change]) -> Self {
        Self(changes.iter().filter_map(Self::id).collect())
    }

    fn id(change: &Change) -> Option<String> {
        Some(match change {
            Change::Task(task) => task.id.to_string(),
            Change::Secret(secret) => secret.id.to_string(),
            Change::Config(config) => config.id.to_string(),
            Change::Network(network) => network.id.to_string(),
            Change::Endpoint(endpoint) => endpoint.id.to_string(),
            Change::Peer(peer) => peer.node_id.to_string(),
            Change::Member(member) => member.task_id.to_string(),
            Change::NetworkKey(_) | Change::Remove(..) => return None,
        })
    }

    fn has(&self, id: &str) -> bool {
        self.0.contains(id)
    }
}

/// Whether the manager wants something else than before; the observed part is only this node's own word coming back.
fn replace_if_other(old: &mut Wanted, new: Wanted) -> bool {
    let same = old.task.desired_state == new.task.desired_state && old.removed == new.removed;
    *old = new;
    !same
}
