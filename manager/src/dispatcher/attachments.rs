//! Containers that no service asked for, on the cluster's networks: each place is a task that runs nothing, on the node
//! that asked.
//!
//! ```text
//! AttachNetwork ─ task NEW ═watch═> allocator: address, ASSIGNED ═watch═> answer
//!                                            └ no address, and why ═watch═> the task is removed; refusal
//! DetachNetwork ─ the task is removed: its address is free
//! ```
//! A place is known by its container and its network, so that a node may ask again when an answer was lost. It is left
//! alone by whatever looks after services; it ends with a word of its node, or with its node.

use std::sync::Arc;
use std::time::Duration;

use proto::object::TaskStatus;
use proto::spec::{ATTACHMENT_RUNTIME, NetworkAttachmentConfig, NetworkAttachmentSpec};
use proto::wire::{AttachNetworkRequest, AttachNetworkResponse};
use proto::{Network, NodeId, Task, TaskId, TaskSpec, TaskState, Timestamp};
use tonic::Status;

use crate::state::{By, Change, Event, Filter, Key, Kind, Reader, Store, StoreError, WatchStream, WriteTx};

/// How long the allocator may take. It answers at once, unless this manager has just begun to lead.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which places of a node.
#[derive(Debug)]
pub(super) struct Places {
    container: Option<String>,
    network: Option<String>,
}

impl Places {
    /// All that it has.
    pub(super) fn of_node() -> Self {
        Self {
            container: None,
            network: None,
        }
    }

    /// A container's, on one network or on all.
    pub(super) fn of_container(container: String, network: String) -> Result<Self, Status> {
        if container.is_empty() {
            return Err(Status::invalid_argument("which container?"));
        }
        Ok(Self {
            container: Some(container),
            network: Some(network).filter(|network| !network.is_empty()),
        })
    }

    fn has(&self, task: &Task) -> bool {
        let Some(attachment) = task.attachment() else {
            return false;
        };
        let network = self.network.as_ref();
        self.container
            .as_ref()
            .is_none_or(|container| *container == attachment.container_id)
            && network.is_none_or(|network| task.spec.networks.iter().any(|on| on.target == *network))
    }
}

/// Gives a container a place on a network.
pub(super) async fn attach(
    store: &Store,
    node: &NodeId,
    request: AttachNetworkRequest,
) -> Result<AttachNetworkResponse, Status> {
    if request.container_id.is_empty() {
        return Err(Status::invalid_argument("which container?"));
    }
    let network = store.view(|tx| find(&tx, &request.network))?;
    check(&network, &request)?;
    let spec = Arc::new(spec(&network, request));
    let id = store
        .update(|tx| ensure(tx, node, &spec))
        .await
        .map_err(|error: StoreError| Status::unavailable(crate::files::chain(&error)))?;
    match tokio::time::timeout(PATIENCE, given(store, &id)).await {
        Ok(Ok(task)) => answer(&task),
        Ok(Err(refusal)) => Err(withdraw(store, &id, refusal).await),
        Err(_) => {
            let late = Status::deadline_exceeded("no address was given in time");
            Err(withdraw(store, &id, late).await)
        }
    }
}

/// Takes places back; their addresses are free.
pub(super) async fn detach(store: &Store, node: &NodeId, places: &Places) -> Result<(), StoreError> {
    store
        .update(|tx| {
            for task in of_node(tx, node).iter().filter(|task| places.has(task)) {
                tx.remove::<Task>(task.id.as_str())?;
            }
            Ok(())
        })
        .await
}

fn of_node(tx: &impl Reader, node: &NodeId) -> Vec<Arc<Task>> {
    let mut tasks = tx.by_key::<Task>(Key::Node(node.as_str().to_owned()));
    tasks.retain(|task| task.attachment().is_some());
    tasks
}

/// By identifier, name, or unique beginning of the identifier.
fn find(tx: &impl Reader, reference: &str) -> Result<Arc<Network>, Status> {
    let found = tx.get::<Network>(reference);
    let found = found.or_else(|| tx.by_key::<Network>(Key::Name(reference.to_owned())).pop());
    let begun = || match reference.is_empty() {
        true => Vec::new(),
        false => tx.find::<Network>(By::IdPrefix(reference)),
    };
    let found = found.or_else(|| match begun().as_slice() {
        [one] => Some(one.clone()),
        _ => None,
    });
    found.ok_or_else(|| Status::not_found(format!("network {reference} not found")))
}

fn check(network: &Network, request: &AttachNetworkRequest) -> Result<(), Status> {
    if !network.spec.attachable || network.spec.ingress {
        let message = format!("network {} not manually attachable", request.network);
        return Err(Status::permission_denied(message));
    }
    let pools = || network.spec.ipam_options.iter().flat_map(|ipam| &ipam.configs);
    let is_ipv6 = |subnet: &str| subnet.contains(':');
    let is_ipv4 = |subnet: &str| subnet.contains('.');
    let asks = |of_version: fn(&str) -> bool, address: &str| {
        let mut given = pools().filter(|pool| of_version(&pool.subnet));
        !address.is_empty() && given.next().is_none()
    };
    match !asks(is_ipv4, &request.address) && !asks(is_ipv6, &request.address6) {
        true => Ok(()),
        // Docker's words.
        false => Err(Status::invalid_argument(
            "user specified IP address is supported only when connecting to networks with user configured subnets",
        )),
    }
}

fn spec(network: &Network, request: AttachNetworkRequest) -> TaskSpec {
    let addresses = [request.address, request.address6];
    let on = NetworkAttachmentConfig {
        target: network.id.to_string(),
        aliases: request.names,
        addresses: addresses
            .into_iter()
            .filter(|address| !address.is_empty())
            .collect(),
        ..NetworkAttachmentConfig::default()
    };
    TaskSpec {
        runtime: ATTACHMENT_RUNTIME.to_owned(),
        network_attachment_spec: Some(NetworkAttachmentSpec {
            container_id: request.container_id,
            preferred_address: request.preferred_address,
            mac_address: request.mac_address,
        }),
        networks: vec![on],
        ..TaskSpec::default()
    }
}

/// The task that holds the place: the one that is there, if it is what is asked for.
fn ensure(tx: &mut WriteTx<'_>, node: &NodeId, spec: &Arc<TaskSpec>) -> Result<TaskId, StoreError> {
    let container = spec.network_attachment_spec.as_ref();
    let places = Places {
        container: container.map(|attachment| attachment.container_id.clone()),
        network: spec.networks.first().map(|on| on.target.clone()),
    };
    for task in of_node(tx, node).iter().filter(|task| places.has(task)) {
        if !task.status.state.is_terminal() && suits(task, spec) {
            return Ok(task.id.clone());
        }
        tx.remove::<Task>(task.id.as_str())?;
    }
    let id = TaskId::random();
    tx.create(Task {
        id: id.clone(),
        node_id: node.clone(),
        spec: spec.clone(),
        desired_state: TaskState::Running,
        status: TaskStatus {
            timestamp: Timestamp::now(),
            state: TaskState::New,
            message: "created".to_owned(),
            ..TaskStatus::default()
        },
        ..Task::default()
    })?;
    Ok(id)
}

/// Whether the task is what is asked for. Which address somebody would like best is no reason to take one away.
fn suits(task: &Task, spec: &TaskSpec) -> bool {
    let mac = |spec: &TaskSpec| {
        let attachment = spec.network_attachment_spec.as_ref();
        attachment.map(|attachment| attachment.mac_address.clone())
    };
    task.spec.networks == spec.networks && mac(&task.spec) == mac(spec)
}

/// Waits until the task has its address, or a reason why it gets none.
async fn given(store: &Store, id: &TaskId) -> Result<Arc<Task>, Status> {
    let own = id.clone();
    let only = move |event: &Event| matches!(event, Event::Task(change) if change.object().id == own);
    let filter = Filter::kinds(&[Kind::Task]).only(only);
    let (mut task, mut events) = store.view_and_watch(filter, |tx| tx.get::<Task>(id));
    loop {
        let current = task.ok_or_else(|| Status::aborted("the place was taken back meanwhile"))?;
        if current.status.state >= TaskState::Assigned && !current.status.state.is_terminal() {
            return Ok(current);
        }
        if !current.status.err.is_empty() {
            return Err(Status::failed_precondition(current.status.err.clone()));
        }
        task = next(&mut events).await;
    }
}

async fn next(events: &mut WatchStream) -> Option<Arc<Task>> {
    match events.next().await {
        Some(Event::Task(Change::Create(new) | Change::Update { new, .. })) => Some(new),
        _ => None,
    }
}

/// What cannot be given is not waited for: whoever asked is told why.
async fn withdraw(store: &Store, id: &TaskId, refusal: Status) -> Status {
    let removed = store.update(|tx| match tx.get::<Task>(id) {
        Some(task) if task.status.state < TaskState::Assigned => tx.remove::<Task>(id.as_str()),
        _ => Ok(()),
    });
    if let Err(error) = removed.await {
        let error = crate::files::chain(&error);
        tracing::warn!(task.id = %id, error, "a place on a network that was refused is still asked for");
    }
    refusal
}

fn answer(task: &Task) -> Result<AttachNetworkResponse, Status> {
    let given = task.networks_attachments.first();
    let given = given.ok_or_else(|| Status::internal("the place has no address"))?;
    Ok(AttachNetworkResponse {
        task_id: task.id.to_string(),
        attachment: serde_json::to_vec(given).map_err(|error| Status::internal(error.to_string()))?,
    })
}
