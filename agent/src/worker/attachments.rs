//! Places of containers that were started by hand on the cluster's networks: asked of the managers for the engine, and kept in
//! step with what the managers say that this node has.
//!
//! ```text
//! engine ─ attach → AttachNetwork ─ network made here ─ assigned: ways and names of the others are known → start
//!        ─ detach → DetachNetwork
//! new session: every place that is assigned and used by nobody is given back; every one that is used and not
//!              assigned is asked for again, with the address that it has
//! ```
//! A place is a task that runs nothing; its container lives by its own rules, and on when no manager can be reached.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use manager::remote::{self, NodeChannel};
use proto::object::{ContainerStatus, NetworkAttachment, TaskStatus};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{AttachNetworkRequest, AttachNetworkResponse, DetachNetworkRequest};
use proto::{Task, TaskId, TaskState, Timestamp};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::{Code, Status};

use super::shared::Shared;
use crate::api::error::chain;
use crate::engine::places::{ClusterNetworks, Occupied, Place, PlaceError, PlaceRequest};

/// How long a place is asked for. A cluster that loses its leader has another one in less.
const PATIENCE: Duration = Duration::from_secs(8);
/// How long a place that was given may take to be assigned too; without that the container starts all the same.
const ASSIGNMENT: Duration = Duration::from_secs(3);
/// How long the managers are told that a container has left. They learn of it with the next session at the latest.
const GOODBYE: Duration = Duration::from_secs(2);
/// Between two questions within one session.
const AGAIN: Duration = Duration::from_millis(250);

/// A container and the identifier of a network.
type Spot = (String, String);

/// The places of this node.
#[derive(Debug)]
pub struct Attachments {
    shared: Arc<Shared>,
    client: DispatcherClient<NodeChannel>,
    session: watch::Receiver<Option<String>>,
    trouble: watch::Receiver<String>,
    /// Places that containers have or are about to have, with their tasks.
    held: Arc<Mutex<BTreeMap<Spot, TaskId>>>,
    /// Containers for which a place is asked at the moment.
    asking: Mutex<Vec<String>>,
    /// Tasks that are assigned to this node.
    assigned: watch::Sender<BTreeSet<TaskId>>,
}

impl ClusterNetworks for Attachments {
    fn attach(&self, request: PlaceRequest) -> BoxFuture<'_, Result<Place, PlaceError>> {
        self.take(request).boxed()
    }

    fn detach(&self, container: String, network: Option<String>) -> BoxFuture<'_, ()> {
        self.give_back(container, network).boxed()
    }

    fn reachable(&self) -> BoxFuture<'_, ()> {
        self.session().map(drop).boxed()
    }
}

impl Attachments {
    /// Nothing is held, as far as this process knows.
    pub fn new(
        shared: Arc<Shared>,
        client: DispatcherClient<NodeChannel>,
        session: watch::Receiver<Option<String>>,
        trouble: watch::Receiver<String>,
    ) -> Self {
        Self {
            shared,
            client,
            session,
            trouble,
            held: Arc::default(),
            asking: Mutex::default(),
            assigned: watch::Sender::default(),
        }
    }

    /// These places are assigned to this node; with `complete` no others.
    pub fn assigned(self: &Arc<Self>, tasks: &[Task], complete: bool) {
        self.assigned.send_modify(|known| {
            if complete {
                known.clear();
            }
            known.extend(tasks.iter().map(|task| task.id.clone()));
        });
        let occupied = self.shared.engine.places();
        for task in tasks {
            match self.look_at(task, &occupied) {
                Some(pid) => self.report(task.id.clone(), &container_of(task), pid),
                None => self.give_back_later(task),
            }
        }
        if complete {
            let missing = occupied.into_iter().filter(|place| !is_among(tasks, place));
            missing.for_each(|place| self.regain_later(place));
        }
    }

    /// The place is no longer assigned to this node.
    pub fn removed(&self, task: &str) {
        self.assigned.send_if_modified(|known| known.remove(task));
    }

    /// The process of the container that uses the place, 0 if it is yet to start; `None`: nobody does.
    fn look_at(&self, task: &Task, occupied: &[Occupied]) -> Option<i32> {
        let spot = spot_of(task);
        let user = occupied.iter().find(|place| spot_used(place) == spot);
        if let Some(user) = user {
            lock(&self.held).insert(spot, task.id.clone());
            return Some(user.pid);
        }
        let is_coming = lock(&self.asking).contains(&spot.0) || lock(&self.held).contains_key(&spot);
        is_coming.then_some(0)
    }

    async fn take(&self, request: PlaceRequest) -> Result<Place, PlaceError> {
        let _asking = Asking::begin(&self.asking, &request.container);
        let answer = self.ask(&request).await?;
        let (task, given) = read(&answer)?;
        let (container, network) = (request.container, given.network.id.to_string());
        lock(&self.held).insert((container.clone(), network.clone()), task.clone());
        match self.settle(&container, &task, &given).await {
            Ok((address, address6)) => Ok(Place {
                network,
                address,
                address6,
            }),
            Err(error) => {
                self.give_back(container, Some(network)).await;
                Err(error)
            }
        }
    }

    /// What was given becomes a network on this node.
    async fn settle(
        &self,
        container: &str,
        task: &TaskId,
        given: &NetworkAttachment,
    ) -> Result<(Ipv4Addr, Option<Ipv6Addr>), PlaceError> {
        let address = address(given)?;
        let networks = &self.shared.networks;
        networks.expect(given.network.id.as_str(), container);
        self.shared.overlay.note_network(&given.network);
        let made = networks.ensure(&given.network).await;
        made.map_err(|error| PlaceError::Network(error.into()))?;
        let mut assigned = self.assigned.subscribe();
        let seen = timeout(ASSIGNMENT, assigned.wait_for(|known| known.contains(task)));
        if seen.await.is_err() {
            tracing::info!(task.id = %task, "the place was not assigned in time: others may not be reached at once");
        }
        self.report(task.clone(), container, 0);
        Ok(address)
    }

    /// Asks until a manager answers.
    async fn ask(&self, request: &PlaceRequest) -> Result<AttachNetworkResponse, PlaceError> {
        let mut last = String::new();
        let asking = async {
            loop {
                let session = self.session().await;
                let request = message(request, session.clone());
                match self.client.clone().attach_network(request).await {
                    Ok(answer) => return Ok(answer.into_inner()),
                    Err(status) if passes(&status) => last = remote::explain(&status),
                    Err(status) => return Err(refusal(&status)),
                }
                self.another_session(&session).await;
            }
        };
        let answered = timeout(PATIENCE, asking).await;
        answered.unwrap_or_else(|_| {
            let trouble = self.trouble.borrow().clone();
            let reason = [trouble, last].into_iter().find(|reason| !reason.is_empty());
            Err(PlaceError::Unreachable(
                reason.unwrap_or_else(|| "there is no answer".to_owned()),
            ))
        })
    }

    async fn session(&self) -> String {
        let mut session = self.session.clone();
        let found = session
            .wait_for(Option::is_some)
            .await
            .map(|session| session.clone());
        match found {
            Ok(session) => session.unwrap_or_default(),
            // The worker has ended.
            Err(_) => std::future::pending().await,
        }
    }

    /// Waits for a session other than this one, but not for long: the manager behind it may have changed its mind.
    async fn another_session(&self, session: &str) {
        let mut current = self.session.clone();
        let is_other = |now: &Option<String>| now.as_deref().is_some_and(|now| now != session);
        let _ = timeout(AGAIN, current.wait_for(is_other)).await;
    }

    async fn give_back(&self, container: String, network: Option<String>) {
        lock(&self.held)
            .retain(|(of, on), _| *of != container || network.as_ref().is_some_and(|network| network != on));
        self.shared
            .networks
            .unexpect(network.as_deref(), &container)
            .await;
        let Some(session_id) = self.session.borrow().clone() else {
            return;
        };
        let request = DetachNetworkRequest {
            session_id,
            container_id: container.clone(),
            network_id: network.unwrap_or_default(),
        };
        if let Err(error) = detach(&self.client, &request).await {
            tracing::info!(container.id = %container, "the managers will learn later that it has left a network: {error}");
            self.insist(request);
        }
    }

    /// Tells the managers again, as long as the session lasts in which they did not hear it. The next session settles it in
    /// any case.
    fn insist(&self, request: DetachNetworkRequest) {
        let (client, held, mut session) = (self.client.clone(), self.held.clone(), self.session.clone());
        tokio::spawn(async move {
            let is_over = |now: &Option<String>| now.as_deref() != Some(request.session_id.as_str());
            while timeout(AGAIN, session.wait_for(is_over)).await.is_err() {
                let is_back = lock(&held).keys().any(|spot| concerns(&request, spot));
                if is_back || detach(&client, &request).await.is_ok() {
                    return;
                }
            }
        });
    }

    fn give_back_later(self: &Arc<Self>, task: &Task) {
        let (this, (container, network)) = (self.clone(), spot_of(task));
        tracing::info!(container.id = %container, network.id = %network, "nobody uses the place on the network any more");
        tokio::spawn(async move { this.give_back(container, Some(network)).await });
    }

    /// A place that the managers have forgotten while its container went on: the node was away for too long.
    fn regain_later(self: &Arc<Self>, place: Occupied) {
        let this = self.clone();
        tokio::spawn(async move {
            if let Err(error) = this.regain(&place.request).await {
                let PlaceRequest {
                    container, network, ..
                } = &place.request;
                tracing::warn!(container.id = %container, network.id = %network, "the place on the network is lost: {error}");
            }
        });
    }

    async fn regain(&self, request: &PlaceRequest) -> Result<(), String> {
        let place = self.take(request.clone()).await.map_err(|error| chain(&error))?;
        if request.preferred == Some(place.address) {
            return Ok(());
        }
        tracing::warn!(container.id = %request.container, address = %place.address, "the address belongs to another now");
        let changed = self.shared.engine.change_address(&request.container, &place);
        changed.await.map_err(|error| chain(&error))
    }

    fn report(&self, task: TaskId, container: &str, pid: i32) {
        let status = TaskStatus {
            timestamp: Timestamp::now(),
            state: TaskState::Running,
            message: "attached".to_owned(),
            container_status: Some(ContainerStatus {
                container_id: container.to_owned(),
                pid: pid.into(),
                exit_code: 0,
            }),
            ..TaskStatus::default()
        };
        self.shared.reporter.put(task, status);
    }
}

/// A container for which a place is asked; until it is dropped.
struct Asking<'a> {
    list: &'a Mutex<Vec<String>>,
    container: String,
}

impl<'a> Asking<'a> {
    fn begin(list: &'a Mutex<Vec<String>>, container: &str) -> Self {
        lock(list).push(container.to_owned());
        Self {
            list,
            container: container.to_owned(),
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut list = lock(self.list);
        if let Some(at) = list.iter().position(|container| *container == self.container) {
            list.swap_remove(at);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn message(request: &PlaceRequest, session_id: String) -> AttachNetworkRequest {
    fn text<T: ToString>(address: Option<T>) -> String {
        address.map(|address| address.to_string()).unwrap_or_default()
    }
    AttachNetworkRequest {
        session_id,
        container_id: request.container.clone(),
        network: request.network.clone(),
        address: text(request.address),
        address6: text(request.address6),
        preferred_address: text(request.preferred),
        names: request.names.clone(),
        mac_address: request.mac.clone(),
    }
}

fn read(answer: &AttachNetworkResponse) -> Result<(TaskId, NetworkAttachment), PlaceError> {
    let given = serde_json::from_slice(&answer.attachment);
    let given = given.map_err(|error| PlaceError::Answer(error.into()))?;
    Ok((answer.task_id.clone().into(), given))
}

/// An IPv4 address, and perhaps one of IPv6 beside it.
fn address(given: &NetworkAttachment) -> Result<(Ipv4Addr, Option<Ipv6Addr>), PlaceError> {
    let all = super::plan::addresses(given).map_err(|error| PlaceError::Answer(error.into()))?;
    let v4 = all.iter().find_map(|address| match address {
        IpAddr::V4(address) => Some(*address),
        IpAddr::V6(_) => None,
    });
    let v6 = all.iter().find_map(|address| match address {
        IpAddr::V6(address) => Some(*address),
        IpAddr::V4(_) => None,
    });
    let v4 = v4.ok_or_else(|| PlaceError::Answer("it names no address".into()))?;
    Ok((v4, v6))
}

async fn detach(
    client: &DispatcherClient<NodeChannel>,
    request: &DetachNetworkRequest,
) -> Result<(), String> {
    match timeout(GOODBYE, client.clone().detach_network(request.clone())).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(status)) => Err(remote::explain(&status)),
        Err(_) => Err("no answer in time".to_owned()),
    }
}

fn concerns(request: &DetachNetworkRequest, (container, network): &Spot) -> bool {
    *container == request.container_id && (request.network_id.is_empty() || *network == request.network_id)
}

/// Whether another manager, or the same one later, may say something else.
fn passes(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted | Code::Unauthenticated
    )
}

fn refusal(status: &Status) -> PlaceError {
    PlaceError::Refused {
        code: status.code(),
        message: status.message().to_owned(),
    }
}

fn container_of(task: &Task) -> String {
    let container = task.attachment();
    container
        .map(|container| container.container_id.clone())
        .unwrap_or_default()
}

fn spot_of(task: &Task) -> Spot {
    let on = task.networks_attachments.first();
    let network = on.map(|on| on.network.id.to_string());
    (container_of(task), network.unwrap_or_default())
}

fn spot_used(place: &Occupied) -> Spot {
    (place.request.container.clone(), place.request.network.clone())
}

fn is_among(tasks: &[Task], place: &Occupied) -> bool {
    tasks.iter().any(|task| spot_of(task) == spot_used(place))
}
