//! The node's session with a manager: register, keep alive, receive assignments, report statuses.
//!
//! ```text
//! dispatcher ═Session═>      session id            ┐
//!            <═Heartbeat═    every period           ├ one session; when any part ends, all end and a new one begins
//!            ═Assignments═>  changes → Sink         │
//!            <═Acknowledge═  what is in force       │
//!            <═UpdateTaskStatus═  Reporter's batches┘
//! ```
//! The same client speaks to a dispatcher in this process and to a remote one: only the channel differs.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use manager::remote::NodeChannel;
use proto::object::{DataPath, NodeDescription};
use proto::spec::NodeRole;
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{
    AcknowledgeRequest, AssignmentsRequest, HeartbeatRequest, NodeSubnets, NodeVolumes, SessionMessage,
    SessionRequest, TaskStatusUpdate, UpdateTaskStatusRequest,
};
use proto::{Node, NodeId, TaskId, object::TaskStatus};
use rand::Rng;
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tonic::{Code, Status, Streaming};

use super::assignments::{Assignments, AssignmentsError, Chain};
use super::lease;
use super::reporter::Reporter;
use crate::engine::BootTime;

/// Wait after the first failure; doubles up to [`BACKOFF_MAX`].
const BACKOFF_MIN: Duration = Duration::from_millis(100);
/// Longest wait between two attempts to register. SwarmKit waits up to 8 s; what a manager has replaced meanwhile shall
/// not run twice for so long once it can be reached again.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// How many periods a heartbeat may wait for its answer. By then the manager has given the node up, and only a new
/// session can tell it otherwise.
const PATIENCE: u32 = 3;
/// Until the dispatcher says otherwise.
const HEARTBEAT_DEFAULT: Duration = Duration::from_secs(1);

/// Whoever acts on assignments.
pub trait Sink: Send + Sync {
    /// Acts on one message; returns when tasks are under way and all else is in force, so that messages are never reordered.
    fn apply(&self, assignments: Assignments) -> impl Future<Output = ()> + Send;
}

/// Why a session ended.
#[derive(Debug, Error)]
pub enum SessionError {
    /// A call failed.
    #[error("{call} of the dispatcher failed: {}", manager::remote::explain(status))]
    Call {
        /// Which call.
        call: &'static str,
        /// What came back.
        status: Status,
    },
    /// The manager ended a stream.
    #[error("the dispatcher ended the stream of {0}")]
    Ended(&'static str),
    /// Assignments that cannot be followed.
    #[error("follow the assignments")]
    Assignments(#[from] AssignmentsError),
}

impl SessionError {
    /// Whether a manager, proven by its certificate to be of this cluster, said that this node is no part of it: the node
    /// was removed. Its tasks are replaced elsewhere, so they end here.
    fn is_dismissal(&self) -> bool {
        matches!(self, Self::Call { status, .. } if status.code() == Code::PermissionDenied)
    }
}

/// A node's side of the sessions, one after the other.
#[derive(Debug)]
pub struct Sessions<S> {
    /// Who speaks.
    pub node_id: NodeId,
    /// The address under which it shall be known, if not by that from which it speaks.
    pub advertised: Option<IpAddr>,
    /// What it is.
    pub description: NodeDescription,
    /// Its volumes, as they are now.
    pub volumes: watch::Receiver<Vec<String>>,
    /// How networks between nodes reach it, as it is now.
    pub data_path: watch::Receiver<DataPath>,
    /// What it reaches otherwise than by the cluster's networks, as it is now.
    pub subnets: watch::Receiver<Vec<String>>,
    /// The dispatcher.
    pub client: DispatcherClient<NodeChannel>,
    /// Statuses to report.
    pub reporter: Arc<Reporter>,
    /// Who acts on assignments.
    pub sink: Arc<S>,
    /// Why there is no session; empty while there is one.
    pub trouble: watch::Sender<String>,
    /// What the managers want this node to be; unknown before the first session.
    pub role: watch::Sender<Option<NodeRole>>,
    /// The session, while there is one.
    pub session: watch::Sender<Option<String>>,
    /// When this node had contact last with a manager that most managers follow.
    pub contact: watch::Sender<Option<BootTime>>,
}

impl<S: Sink> Sessions<S> {
    /// Holds sessions until the future is dropped.
    pub async fn run(self) {
        let mut session_id = String::new();
        let mut backoff = BACKOFF_MIN;
        loop {
            let mut registered = false;
            let Err(error) = self.once(&mut session_id, &mut registered).await;
            if registered {
                backoff = BACKOFF_MIN;
            }
            let trouble = crate::api::error::chain(&error);
            if *self.trouble.borrow() != trouble {
                tracing::info!(node.id = %self.node_id, "session ended: {trouble}");
                self.trouble.send_replace(trouble);
            }
            if error.is_dismissal() {
                self.sink.apply(Assignments::nothing()).await;
            }
            tokio::time::sleep(jitter(backoff)).await;
            backoff = (backoff * 2).min(BACKOFF_MAX);
        }
    }

    async fn once(&self, session_id: &mut String, registered: &mut bool) -> Result<Never, SessionError> {
        let mut news = News {
            volumes: self.volumes.clone(),
            data_path: self.data_path.clone(),
            subnets: self.subnets.clone(),
        };
        let described = news.describe(&self.description);
        let mut stream = self.register(session_id, &described).await?;
        let first = next(&mut stream).await?;
        self.hear(&first);
        *session_id = first.session_id;
        *registered = true;
        self.trouble.send_replace(String::new());
        tracing::debug!(session.id = %session_id, "registered");
        let _online = Online::begin(&self.session, session_id);
        let in_force = watch::Sender::default();
        tokio::select! {
            ended = self.listen(stream) => ended,
            ended = self.heartbeats(session_id, news) => ended,
            ended = self.assignments(session_id, &in_force) => ended,
            ended = self.acknowledge(session_id, in_force.subscribe()) => ended,
            ended = self.report(session_id) => ended,
        }
    }

    /// Later messages tell of changes of the node itself; their end is the session's end.
    async fn listen(&self, mut stream: Streaming<SessionMessage>) -> Result<Never, SessionError> {
        loop {
            self.hear(&next(&mut stream).await?);
        }
    }

    fn hear(&self, message: &SessionMessage) {
        // A node that cannot be read is another version's: it says nothing that this one could act on.
        if let Ok(node) = serde_json::from_slice::<Node>(&message.node) {
            self.role
                .send_if_modified(|role| role.replace(node.spec.role) != Some(node.spec.role));
        }
    }

    async fn register(
        &self,
        previous: &str,
        description: &NodeDescription,
    ) -> Result<Streaming<SessionMessage>, SessionError> {
        let request = SessionRequest {
            // A description of plain strings and numbers always serialises.
            description: serde_json::to_vec(description).unwrap_or_default(),
            session_id: previous.to_owned(),
            node_id: self.node_id.to_string(),
            address: self
                .advertised
                .map(|address| address.to_string())
                .unwrap_or_default(),
        };
        let answer = self.client.clone().session(request).await;
        Ok(answer
            .map_err(|status| SessionError::Call {
                call: "Session",
                status,
            })?
            .into_inner())
    }

    /// Says that the node is there and, when something that it has said has changed, at once how it is now. It does not wait
    /// for an answer to say it again: on a machine that is busy each may take its time.
    async fn heartbeats(&self, session_id: &str, mut news: News) -> Result<Never, SessionError> {
        let mut next = HeartbeatRequest::default();
        let mut period = HEARTBEAT_DEFAULT;
        let mut due = Instant::now();
        let mut under_way = FuturesUnordered::new();
        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    session_id.clone_into(&mut next.session_id);
                    under_way.push(self.heartbeat(std::mem::take(&mut next), period * PATIENCE));
                    due = Instant::now() + period;
                }
                Some(answered) = under_way.next() => period = answered?,
                () = news.come(&mut next) => due = Instant::now(),
            }
        }
    }

    /// One heartbeat. Returns the time until the next one.
    async fn heartbeat(
        &self,
        mut request: HeartbeatRequest,
        patience: Duration,
    ) -> Result<Duration, SessionError> {
        let cpus = self.description.resources.nano_cpus / 1_000_000_000;
        request.load = crate::load::now(usize::try_from(cpus).unwrap_or(1));
        let mut client = self.client.clone();
        let sent = BootTime::now();
        let answer = tokio::time::timeout(patience, client.heartbeat(request)).await;
        let late = |_| Status::deadline_exceeded("no answer in time");
        let failed = |status| SessionError::Call {
            call: "Heartbeat",
            status,
        };
        let answer = answer.map_err(late).flatten().map_err(failed)?.into_inner();
        if let Some(ago) = answer.confirmed_ms_ago {
            lease::note(&self.contact, sent.before(Duration::from_millis(ago)));
        }
        Ok(match answer.period_ms {
            0 => HEARTBEAT_DEFAULT,
            period => Duration::from_millis(period),
        })
    }

    async fn assignments(
        &self,
        session_id: &str,
        in_force: &watch::Sender<String>,
    ) -> Result<Never, SessionError> {
        let call = |status| SessionError::Call {
            call: "Assignments",
            status,
        };
        let request = AssignmentsRequest {
            session_id: session_id.to_owned(),
            acknowledges: true,
        };
        let mut stream = self
            .client
            .clone()
            .assignments(request)
            .await
            .map_err(call)?
            .into_inner();
        let mut chain = Chain::default();
        loop {
            let message = stream
                .message()
                .await
                .map_err(call)?
                .ok_or(SessionError::Ended("assignments"))?;
            let results_in = message.results_in.clone();
            self.sink.apply(chain.follow(message)?).await;
            in_force.send_replace(results_in);
        }
    }

    /// Says how far this node has come. What comes while that is said is said together.
    async fn acknowledge(
        &self,
        session_id: &str,
        mut in_force: watch::Receiver<String>,
    ) -> Result<Never, SessionError> {
        while in_force.changed().await.is_ok() {
            let request = AcknowledgeRequest {
                session_id: session_id.to_owned(),
                results_in: in_force.borrow_and_update().clone(),
            };
            match self.client.clone().acknowledge(request).await {
                // A manager that does not know the question does not wait for the answer either.
                Err(status) if status.code() != Code::Unimplemented => {
                    return Err(SessionError::Call {
                        call: "Acknowledge",
                        status,
                    });
                }
                _ => {}
            }
        }
        Err(SessionError::Ended("assignments"))
    }

    async fn report(&self, session_id: &str) -> Result<Never, SessionError> {
        loop {
            let mut batch = Unacknowledged {
                reporter: &self.reporter,
                batch: self.reporter.take().await,
            };
            let updates = batch.batch.iter().map(update).collect();
            let request = UpdateTaskStatusRequest {
                session_id: session_id.to_owned(),
                updates,
            };
            let answer = self.client.clone().update_task_status(request).await;
            answer.map_err(|status| SessionError::Call {
                call: "UpdateTaskStatus",
                status,
            })?;
            batch.batch.clear();
        }
    }
}

/// A batch that goes back to the reporter unless it was acknowledged, also when the session is cancelled under it.
struct Unacknowledged<'a> {
    reporter: &'a Reporter,
    batch: Vec<(TaskId, TaskStatus)>,
}

impl Drop for Unacknowledged<'_> {
    fn drop(&mut self) {
        if !self.batch.is_empty() {
            self.reporter.give_back(std::mem::take(&mut self.batch));
        }
    }
}

/// What a node says about itself anew while its session lasts.
struct News {
    volumes: watch::Receiver<Vec<String>>,
    data_path: watch::Receiver<DataPath>,
    subnets: watch::Receiver<Vec<String>>,
}

impl News {
    /// All of it, with what never changes.
    fn describe(&mut self, description: &NodeDescription) -> NodeDescription {
        NodeDescription {
            volumes: self.volumes.borrow_and_update().clone(),
            data_path: self.data_path.borrow_and_update().clone(),
            subnets: self.subnets.borrow_and_update().clone(),
            ..description.clone()
        }
    }

    /// Waits until something has changed and puts it into the request. What has no sender any more does not change.
    async fn come(&mut self, request: &mut HeartbeatRequest) {
        tokio::select! {
            Ok(()) = self.volumes.changed() => {
                let names = self.volumes.borrow_and_update().clone();
                request.volumes = Some(NodeVolumes { names });
            }
            Ok(()) = self.data_path.changed() => {
                // Plain strings and numbers always serialise.
                request.data_path = serde_json::to_vec(&*self.data_path.borrow_and_update()).unwrap_or_default();
            }
            Ok(()) = self.subnets.changed() => {
                let subnets = self.subnets.borrow_and_update().clone();
                request.subnets = Some(NodeSubnets { subnets });
            }
            else => std::future::pending().await,
        }
    }
}

/// The session is known to others as long as this lives.
struct Online<'a>(&'a watch::Sender<Option<String>>);

impl<'a> Online<'a> {
    fn begin(sender: &'a watch::Sender<Option<String>>, session: &str) -> Self {
        sender.send_replace(Some(session.to_owned()));
        Self(sender)
    }
}

impl Drop for Online<'_> {
    fn drop(&mut self) {
        self.0.send_replace(None);
    }
}

/// No value: the parts of a session only end by failing.
enum Never {}

fn update((task, status): &(TaskId, TaskStatus)) -> TaskStatusUpdate {
    // A status of plain strings and numbers always serialises.
    TaskStatusUpdate {
        task_id: task.to_string(),
        status: serde_json::to_vec(status).unwrap_or_default(),
    }
}

async fn next(stream: &mut Streaming<SessionMessage>) -> Result<SessionMessage, SessionError> {
    let message = stream.message().await.map_err(|status| SessionError::Call {
        call: "Session",
        status,
    })?;
    message.ok_or(SessionError::Ended("session messages"))
}

/// Between half and the whole of `wait`, so that nodes do not return in step.
fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(rand::rng().random_range(0.5..=1.0))
}
