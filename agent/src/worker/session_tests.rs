//! Sessions against a dispatcher of the test's own, over the same gRPC that a manager speaks.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::http::{Request, Uri};
use futures::Stream;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::service::TowerToHyperService;
use manager::remote::NodeChannel;
use proto::object::{DataPath, NodeDescription, TaskStatus};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::dispatcher_server::{Dispatcher, DispatcherServer};
use proto::wire::*;
use proto::{Task, TaskState};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Response, Status};
use tower::ServiceExt;

use super::assignments::{Assignments, Change};
use super::reporter::Reporter;
use super::session::{Sessions, Sink};
use super::withdrawal::Withdrawal;
use crate::engine::BootTime;

type Reply<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A dispatcher that says one task, refuses the first report, and tells the test what it hears.
#[derive(Default)]
struct Heard {
    sessions: Vec<SessionRequest>,
    refused: bool,
    volumes: Vec<Vec<String>>,
    data_paths: Vec<DataPath>,
    subnets: Vec<Vec<String>>,
}

#[derive(Clone)]
struct Script {
    heard: Arc<Mutex<Heard>>,
    reports: mpsc::UnboundedSender<TaskStatusUpdate>,
    acknowledged: mpsc::UnboundedSender<AcknowledgeRequest>,
    withdrawn: mpsc::UnboundedSender<AwaitWithdrawalRequest>,
}

#[tonic::async_trait]
impl Dispatcher for Script {
    type SessionStream = Reply<SessionMessage>;
    type AssignmentsStream = Reply<AssignmentsMessage>;

    async fn session(
        &self,
        request: tonic::Request<SessionRequest>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut heard = self.heard.lock().unwrap();
        heard.sessions.push(request.into_inner());
        let session_id = format!("session-{}", heard.sessions.len());
        Ok(Response::new(endless(SessionMessage {
            session_id,
            node: Vec::new(),
        })))
    }

    async fn heartbeat(
        &self,
        request: tonic::Request<HeartbeatRequest>,
    ) -> Result<Response<HeartbeatResponse>, Status> {
        let (request, mut heard) = (request.into_inner(), self.heard.lock().unwrap());
        heard.volumes.extend(request.volumes.map(|volumes| volumes.names));
        heard
            .subnets
            .extend(request.subnets.map(|subnets| subnets.subnets));
        heard
            .data_paths
            .extend(serde_json::from_slice::<DataPath>(&request.data_path));
        Ok(Response::new(HeartbeatResponse {
            period_ms: 60_000,
            confirmed_ms_ago: Some(2000),
        }))
    }

    async fn update_task_status(
        &self,
        request: tonic::Request<UpdateTaskStatusRequest>,
    ) -> Result<Response<UpdateTaskStatusResponse>, Status> {
        if !std::mem::replace(&mut self.heard.lock().unwrap().refused, true) {
            return Err(Status::unavailable("no leader"));
        }
        for update in request.into_inner().updates {
            self.reports.send(update).unwrap();
        }
        Ok(Response::new(UpdateTaskStatusResponse {}))
    }

    async fn assignments(
        &self,
        _: tonic::Request<AssignmentsRequest>,
    ) -> Result<Response<Self::AssignmentsStream>, Status> {
        let object = serde_json::to_vec(&Task {
            id: "t".into(),
            ..Task::default()
        })
        .unwrap();
        let change = AssignmentChange {
            action: 0,
            kind: 0,
            id: "t".into(),
            object,
        };
        let message = AssignmentsMessage {
            r#type: 0,
            applies_to: String::new(),
            results_in: "1".into(),
            changes: vec![change],
        };
        Ok(Response::new(endless(message)))
    }

    async fn acknowledge(
        &self,
        request: tonic::Request<AcknowledgeRequest>,
    ) -> Result<Response<AcknowledgeResponse>, Status> {
        self.acknowledged.send(request.into_inner()).unwrap();
        Ok(Response::new(AcknowledgeResponse {}))
    }

    async fn await_withdrawal(
        &self,
        request: tonic::Request<AwaitWithdrawalRequest>,
    ) -> Result<Response<AwaitWithdrawalResponse>, Status> {
        self.withdrawn.send(request.into_inner()).unwrap();
        std::future::pending().await
    }

    async fn leave(&self, _: tonic::Request<LeaveRequest>) -> Result<Response<LeaveResponse>, Status> {
        Err(Status::unimplemented("nobody leaves"))
    }

    async fn attach_network(
        &self,
        _: tonic::Request<AttachNetworkRequest>,
    ) -> Result<Response<AttachNetworkResponse>, Status> {
        Err(Status::unimplemented("there are no networks"))
    }

    async fn detach_network(
        &self,
        _: tonic::Request<DetachNetworkRequest>,
    ) -> Result<Response<DetachNetworkResponse>, Status> {
        Err(Status::unimplemented("there are no networks"))
    }
}

/// One message, then silence.
fn endless<T: Send + 'static>(message: T) -> Reply<T> {
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let _ = sender.send(Ok(message)).await;
        sender.closed().await;
    });
    Box::pin(ReceiverStream::new(receiver))
}

/// Passes on the tasks that were assigned.
#[derive(Debug)]
struct Told(mpsc::UnboundedSender<String>);

impl Sink for Told {
    async fn apply(&self, assignments: Assignments) {
        for change in assignments.changes {
            if let Change::Task(task) = change {
                self.0.send(task.id.to_string()).unwrap();
            }
        }
    }
}

async fn serve(script: Script) -> DispatcherClient<NodeChannel> {
    let connect = move |_: Uri| {
        let service = DispatcherServer::new(script.clone());
        async move {
            let (ours, theirs) = tokio::io::duplex(64 << 10);
            let service =
                service.map_request(|request: Request<Incoming>| request.map(tonic::body::Body::new));
            let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
            tokio::spawn(server.serve_connection(TokioIo::new(theirs), TowerToHyperService::new(service)));
            Ok::<_, std::io::Error>(TokioIo::new(ours))
        }
    };
    let endpoint = Endpoint::from_static("http://in.process");
    let channel = endpoint
        .connect_with_connector(tower::service_fn(connect))
        .await
        .unwrap();
    DispatcherClient::new(channel.into())
}

#[tokio::test]
async fn nothing_is_lost_with_a_session() {
    let heard = Arc::new(Mutex::new(Heard::default()));
    let (reports, mut reported) = mpsc::unbounded_channel();
    let (acknowledged, mut in_force) = mpsc::unbounded_channel();
    let (withdrawn, mut asked) = mpsc::unbounded_channel();
    let (tasks, mut assigned) = mpsc::unbounded_channel();
    let client = serve(Script {
        heard: heard.clone(),
        reports,
        acknowledged,
        withdrawn,
    })
    .await;
    let reporter = Arc::new(Reporter::default());
    let known = watch::Sender::new(vec!["data".to_owned()]);
    let data_path = watch::Sender::new(DataPath::default());
    let subnets = watch::Sender::new(vec!["192.0.2.0/24".to_owned()]);
    let session = watch::Sender::new(None);
    let withdrawal = Withdrawal::new(client.clone(), session.subscribe());
    // Without a session nobody is asked.
    withdrawal.everywhere(&"t".into()).await;
    let sessions = Sessions {
        advertised: None,
        node_id: "n".into(),
        description: NodeDescription {
            hostname: "box".into(),
            ..NodeDescription::default()
        },
        volumes: known.subscribe(),
        data_path: data_path.subscribe(),
        subnets: subnets.subscribe(),
        client,
        reporter: reporter.clone(),
        sink: Arc::new(Told(tasks)),
        trouble: watch::Sender::default(),
        role: watch::Sender::default(),
        session,
        contact: watch::Sender::default(),
    };
    let contact = sessions.contact.subscribe();
    let running = tokio::spawn(sessions.run());
    assert_eq!(assigned.recv().await.unwrap(), "t");
    reporter.put(
        "t".into(),
        TaskStatus {
            state: TaskState::Running,
            ..TaskStatus::default()
        },
    );
    let update = reported.recv().await.unwrap();
    let status: TaskStatus = serde_json::from_slice(&update.status).unwrap();
    assert_eq!((update.task_id.as_str(), status.state), ("t", TaskState::Running));
    // The refusal ended the first session; the second named it and was given the whole set again.
    assert_eq!(assigned.recv().await.unwrap(), "t");
    // A period of a minute is not waited for.
    known.send_replace(vec!["data".to_owned(), "more".to_owned()]);
    while heard.lock().unwrap().volumes.is_empty() {
        tokio::task::yield_now().await;
    }
    data_path.send_modify(|path| path.mtu = 1400);
    while heard.lock().unwrap().data_paths.is_empty() {
        tokio::task::yield_now().await;
    }
    subnets.send_replace(Vec::new());
    while heard.lock().unwrap().subnets.is_empty() {
        tokio::task::yield_now().await;
    }
    for session in ["session-1", "session-2"] {
        let said = in_force.recv().await.unwrap();
        assert_eq!(
            (said.session_id.as_str(), said.results_in.as_str()),
            (session, "1")
        );
    }
    // A node whose session ends waits for no answer.
    let task = "t".into();
    let withdrawn = async {
        let request = asked.recv().await.unwrap();
        assert_eq!(
            (request.session_id.as_str(), request.task_id.as_str()),
            ("session-2", "t")
        );
        running.abort();
    };
    tokio::join!(withdrawal.everywhere(&task), withdrawn);
    let heard = heard.lock().unwrap();
    let previous: Vec<_> = heard
        .sessions
        .iter()
        .map(|session| session.session_id.as_str())
        .collect();
    assert_eq!(previous, ["", "session-1"]);
    for session in &heard.sessions {
        let described: NodeDescription = serde_json::from_slice(&session.description).unwrap();
        assert_eq!(described.volumes, ["data"]);
        assert_eq!(described.subnets, ["192.0.2.0/24"]);
    }
    assert_eq!(heard.volumes, [["data", "more"]]);
    assert_eq!(
        heard.subnets,
        [Vec::<String>::new()],
        "a list that is empty is news"
    );
    assert_eq!(heard.data_paths[0].mtu, 1400);
    let agreed = contact.borrow().unwrap();
    let since = BootTime::now().before(Duration::from_secs(2));
    assert!(agreed <= since, "the managers agreed on their leader 2 s before");
}
