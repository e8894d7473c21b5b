//! The gRPC service.

use std::pin::Pin;
use std::time::Duration;

use futures::Stream;
use proto::wire::assignment_change::Kind as WireKind;
use proto::wire::assignments_message::Type;
use proto::wire::dispatcher_server;
use proto::wire::{
    AcknowledgeRequest, AcknowledgeResponse, AssignmentsMessage, AssignmentsRequest, AttachNetworkRequest,
    AttachNetworkResponse, AwaitWithdrawalRequest, AwaitWithdrawalResponse, DetachNetworkRequest,
    DetachNetworkResponse, HeartbeatRequest, HeartbeatResponse, LeaveRequest, LeaveResponse, SessionMessage,
    SessionRequest, UpdateTaskStatusRequest, UpdateTaskStatusResponse,
};
use proto::{Node, NodeId, Task, TaskId};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::assignments::{Assignments, CONCERNED};
use super::attachments::{self, Places};
use super::endpoint;
use super::receipts::Receipt;
use super::sessions::Session;
use super::{Caller, Dispatcher};
use crate::state::{Audience, Change, Circle, Event, Filter, Kind, Reader, Store, StoreError};

/// Messages of a stream that wait for a slow node; then their making waits.
const AHEAD: usize = 16;
/// At least so long between two messages that are of other nodes alone: a thousand nodes that join, each told to each by
/// itself, are more than a million messages. The manager's own node is told at once: what users ask of the manager, it asks
/// the nodes.
const PEERS_PACE: Duration = Duration::from_millis(500);

/// Nodes, told of themselves.
static ITSELF: Circle = Circle {
    audience: |event| match event {
        Event::Node(change) => Audience::Nodes([&change.object().id; 2]),
        _ => Audience::Nobody,
    },
};

type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;
type Sender<T> = mpsc::Sender<Result<T, Status>>;

#[tonic::async_trait]
impl dispatcher_server::Dispatcher for Dispatcher {
    type SessionStream = Messages<SessionMessage>;
    type AssignmentsStream = Messages<AssignmentsMessage>;

    async fn session(
        &self,
        request: Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let description = serde_json::from_slice(&request.description)
            .map_err(|error| Status::invalid_argument(format!("node description: {error}")))?;
        let named = match request.address.as_str() {
            "" => None,
            text => Some(
                text.parse()
                    .map_err(|_| Status::invalid_argument(format!("{text:?} is no address of a node")))?,
            ),
        };
        let (node, address) = match caller {
            Caller::InProcess => (NodeId::from(request.node_id), named),
            Caller::Node { id, address } => (id, named.or(Some(address))),
        };
        let session = self
            .shared
            .sessions
            .register(node.clone(), description, address)
            .await
            .map_err(refused)?;
        tracing::info!(node.id = %node, session.id = &*session.id, "node registered");
        let (sender, receiver) = mpsc::channel(AHEAD);
        let store = self.shared.store.clone();
        let drop_session = self.shared.sessions.dropper(&session);
        let loads = self.loads();
        tokio::spawn(async move {
            tokio::select! {
                biased;
                removed = tell_of_node(&store, &session, &sender) => if removed {
                    drop_session();
                    loads.remove(&session.node);
                },
                () = session.ended() => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn heartbeat(
        &self,
        request: Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.open_session(&caller, &request.session_id)?;
        if let Some(volumes) = request.volumes {
            let noted = self.shared.sessions.note_volumes(&session, volumes.names).await;
            noted.map_err(refused)?;
        }
        if !request.data_path.is_empty() {
            let path = serde_json::from_slice(&request.data_path)
                .map_err(|error| Status::invalid_argument(format!("data path: {error}")))?;
            let noted = self.shared.sessions.note_data_path(&session, path).await;
            noted.map_err(refused)?;
        }
        if let Some(subnets) = request.subnets {
            let noted = self.shared.sessions.note_subnets(&session, subnets.subnets).await;
            noted.map_err(refused)?;
        }
        let period = self.shared.sessions.beat(&session).ok_or_else(no_session)?;
        if let Some(load) = request.load {
            self.shared.loads.put(&session.node, load);
        }
        let period_ms = u64::try_from(period.as_millis()).unwrap_or(u64::MAX);
        // Rounded up: the node counts from then.
        let ago = |ago: Duration| u64::try_from(ago.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
        Ok(Response::new(HeartbeatResponse {
            period_ms,
            confirmed_ms_ago: self.shared.store.confirmed_ago().map(ago),
        }))
    }

    async fn update_task_status(
        &self,
        request: Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.open_session(&caller, &request.session_id)?;
        let statuses = request.updates.into_iter().map(|update| {
            let status = serde_json::from_slice(&update.status).map_err(|error| {
                Status::invalid_argument(format!("status of task {}: {error}", update.task_id))
            })?;
            Ok((update.task_id.into(), status))
        });
        let statuses = statuses.collect::<Result<_, Status>>()?;
        self.shared
            .statuses
            .report(session.node, statuses)
            .await
            .map_err(Status::unavailable)?;
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        request: Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.open_session(&caller, &request.session_id)?;
        let (sender, receiver) = mpsc::channel(AHEAD);
        let shared = self.shared.clone();
        let receipts = &shared.receipts;
        let receipt = request
            .acknowledges
            .then(|| receipts.begin(session.id.clone(), session.node.clone()));
        let store = self.shared.store.clone();
        let pace = match caller {
            Caller::InProcess => Duration::ZERO,
            Caller::Node { .. } => PEERS_PACE,
        };
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = assign(&store, &session.node, pace, receipt, &sender) => {}
                () = session.ended() => {}
                () = sender.closed() => {}
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }

    async fn acknowledge(
        &self,
        request: Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.open_session(&caller, &request.session_id)?;
        let message = request.results_in.parse();
        let message = message.map_err(|_| Status::invalid_argument("results_in is no message's"))?;
        self.shared.receipts.acknowledge(&session.id, message);
        Ok(Response::new(AcknowledgeResponse {}))
    }

    async fn await_withdrawal(
        &self,
        request: Request<AwaitWithdrawalRequest>,
    ) -> Result<Response<AwaitWithdrawalResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.open_session(&caller, &request.session_id)?;
        withdrawn(&self.shared.store, &session.node, request.task_id.into()).await;
        self.shared.receipts.all_but(&session.node).await;
        Ok(Response::new(AwaitWithdrawalResponse {}))
    }

    async fn leave(&self, request: Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        let Caller::Node { id, .. } = Caller::of(&request)? else {
            return Err(Status::failed_precondition(
                "a manager does not leave by its dispatcher",
            ));
        };
        self.shared.sessions.leave(&id).await.map_err(refused)?;
        // Its tasks are replaced elsewhere; what was started there by hand is on no network any more.
        attachments::detach(&self.shared.store, &id, &Places::of_node())
            .await
            .map_err(refused)?;
        tracing::info!(node.id = %id, "node left");
        Ok(Response::new(LeaveResponse {}))
    }

    async fn attach_network(
        &self,
        request: Request<AttachNetworkRequest>,
    ) -> Result<Response<AttachNetworkResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.place_session(&caller, &request.session_id)?;
        let place = attachments::attach(&self.shared.store, &session.node, request).await?;
        Ok(Response::new(place))
    }

    async fn detach_network(
        &self,
        request: Request<DetachNetworkRequest>,
    ) -> Result<Response<DetachNetworkResponse>, Status> {
        let caller = Caller::of(&request)?;
        let request = request.into_inner();
        let session = self.place_session(&caller, &request.session_id)?;
        let places = Places::of_container(request.container_id, request.network_id)?;
        attachments::detach(&self.shared.store, &session.node, &places)
            .await
            .map_err(refused)?;
        Ok(Response::new(DetachNetworkResponse {}))
    }
}

impl Dispatcher {
    /// The session, if it is the caller's. Without one the caller shall come again: "not found" would mean the network.
    fn place_session(&self, caller: &Caller, id: &str) -> Result<Session, Status> {
        let session = self.open_session(caller, id);
        session.map_err(|status| match status.code() {
            Code::NotFound => Status::unavailable(status.message()),
            _ => status,
        })
    }

    /// The session, if it is the caller's.
    fn open_session(&self, caller: &Caller, id: &str) -> Result<Session, Status> {
        let sessions = &self.shared.sessions;
        if let Caller::Node { id: node, .. } = caller
            && let Some(session) = sessions.of(node, id)
        {
            return Ok(session);
        }
        let session = sessions.get(id).ok_or_else(no_session)?;
        match caller {
            Caller::Node { id, .. } if *id != session.node => {
                Err(Status::permission_denied("the session is another node's"))
            }
            _ => Ok(session),
        }
    }
}

/// Sends the node's object, now and whenever it changes. Returns whether the node was removed, or there is nobody to tell.
async fn tell_of_node(store: &Store, session: &Session, sender: &Sender<SessionMessage>) -> bool {
    let filter = Filter::of_node(&ITSELF, session.node.clone());
    let (mut node, mut events) = store.view_and_watch(filter, |tx| tx.get::<Node>(&session.node));
    while let Some(current) = node {
        let message = SessionMessage {
            session_id: session.id.to_string(),
            node: serde_json::to_vec(current.as_ref()).unwrap_or_default(),
        };
        if sender.send(Ok(message)).await.is_err() {
            return false;
        }
        node = match events.next().await {
            Some(Event::Node(Change::Create(new) | Change::Update { new, .. })) => Some(new),
            _ => None,
        };
    }
    let removed = Status::not_found(format!("node {} is not part of the cluster", session.node));
    // The node may have gone already.
    let _ = sender.send(Err(removed)).await;
    true
}

/// Returns when the node's task answers for its service no longer, as far as the store knows.
async fn withdrawn(store: &Store, node: &NodeId, task: TaskId) {
    let id = task.clone();
    let only = move |event: &Event| matches!(event, Event::Task(change) if change.object().id == id);
    let mut events = store.watch(Filter::kinds(&[Kind::Task]).only(only));
    let answers = || {
        let task = store.view(|tx| tx.get::<Task>(&task));
        task.is_some_and(|task| task.node_id == *node && endpoint::is_backend(&task))
    };
    while answers() && events.next().await.is_some() {}
}

/// Sends everything, then the changes; those that are of other nodes alone at this pace.
async fn assign(
    store: &Store,
    node: &NodeId,
    peers_pace: Duration,
    mut receipt: Option<Receipt>,
    sender: &Sender<AssignmentsMessage>,
) {
    let filter = Filter::of_node(&CONCERNED, node.clone());
    let (mut told, mut events) = store.view_and_watch(filter, |tx| Assignments::new(node.clone(), &tx));
    let mut sequence = 0u64;
    // From when on the node can be told of other nodes alone. The first one that comes is told at once.
    let mut peers_from = Instant::now();
    loop {
        let question = receipt.as_mut().map_or(0, Receipt::question);
        while let Some(event) = events.try_next() {
            told.note(&event);
        }
        let waits = sequence > 0 && told.is_of_peers_alone() && Instant::now() < peers_from;
        let changes = match waits {
            true => Vec::new(),
            false => store.view(|tx| told.changes(&tx)),
        };
        if sequence == 0 || !changes.is_empty() {
            if sequence > 0 && changes.iter().any(|change| change.kind() == WireKind::Peer) {
                peers_from = Instant::now() + peers_pace;
            }
            let message = AssignmentsMessage {
                r#type: if sequence == 0 {
                    Type::Complete
                } else {
                    Type::Incremental
                }
                .into(),
                applies_to: if sequence == 0 {
                    String::new()
                } else {
                    sequence.to_string()
                },
                results_in: (sequence + 1).to_string(),
                changes,
            };
            sequence += 1;
            if sender.send(Ok(message)).await.is_err() {
                return;
            }
        }
        if let Some(receipt) = &mut receipt {
            receipt.told(question, sequence);
        }
        tokio::select! {
            // In this order: a seed of the simulation is to be one story.
            biased;
            event = events.next() => match event {
                Some(event) => told.note(&event),
                None => return,
            },
            () = asked(&mut receipt) => {}
            () = sleep_until(peers_from), if waits => {}
        }
    }
}

/// Returns when somebody wants to know how far the node is.
async fn asked(receipt: &mut Option<Receipt>) {
    match receipt {
        Some(receipt) => receipt.asked().await,
        None => std::future::pending().await,
    }
}

fn no_session() -> Status {
    Status::not_found("the session is not known; register again")
}

fn refused(error: StoreError) -> Status {
    match error {
        StoreError::NotFound { kind, id } => {
            Status::not_found(format!("{kind} {id} is not part of the cluster"))
        }
        other => Status::unavailable(crate::files::chain(&other)),
    }
}
