//! One simulated node.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use manager::remote;
use manager::remote::NodeChannel;
use proto::object::{ContainerStatus, NodeDescription, TaskStatus};
use proto::spec::Availability;
use proto::wire::assignment_change::{Action, Kind};
use proto::wire::dispatcher_client::DispatcherClient;
use proto::wire::{
    AssignmentChange, AssignmentsRequest, HeartbeatRequest, SessionRequest, TaskStatusUpdate,
    UpdateTaskStatusRequest,
};
use proto::{TaskId, TaskState, Timestamp};
use rand::Rng;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::Counters;

/// From PREPARING to RUNNING, milliseconds.
const START: std::ops::Range<u64> = 50..300;
/// Wait after a session has ended, milliseconds.
const PAUSE: std::ops::Range<u64> = 50..500;

/// Who the node is, and where the manager.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) name: String,
    pub(super) state: PathBuf,
    pub(super) manager: String,
    pub(super) token: String,
}

/// What matters of a task.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Assigned {
    desired_state: TaskState,
}

/// What a node has said of its tasks.
type Said = BTreeMap<TaskId, TaskState>;

impl Place {
    /// Joins the cluster; the certificate is kept in the state's folder.
    pub(super) async fn join(&self) -> Result<()> {
        std::fs::create_dir_all(&self.state)?;
        let managers = [self.manager.clone()];
        let description = self.description();
        let joined = remote::join(
            &self.state,
            &managers,
            &self.token,
            &description,
            Availability::Active,
        );
        joined.await.map(drop).context("join")
    }

    /// Holds sessions, one after the other.
    pub(super) async fn live(&self, counters: &Counters) -> Result<()> {
        let (client, _remotes) = remote::dispatcher(&self.state)?;
        let mut session = String::new();
        let mut said = Said::new();
        loop {
            let _ = self.session(&client, &mut session, &mut said, counters).await;
            counters.broken.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(some(PAUSE)).await;
        }
    }

    async fn session(
        &self,
        client: &DispatcherClient<NodeChannel>,
        session_id: &mut String,
        said: &mut Said,
        counters: &Counters,
    ) -> Result<()> {
        let request = SessionRequest {
            description: serde_json::to_vec(&self.description())?,
            session_id: session_id.clone(),
            node_id: String::new(),
            address: String::new(),
        };
        let mut messages = client.clone().session(request).await?.into_inner();
        let first = messages.message().await?.context("no first message")?;
        *session_id = first.session_id;
        let _open = Open::new(counters);
        let (reports, queue) = mpsc::unbounded_channel();
        tokio::select! {
            ended = async {
                while messages.message().await?.is_some() {}
                bail!("the session's stream has ended")
            } => ended,
            ended = heartbeats(client, session_id, counters) => ended,
            ended = follow(client, session_id, said, &reports, counters) => ended,
            ended = report(client, session_id, queue) => ended,
        }
    }

    fn description(&self) -> NodeDescription {
        let mut description = NodeDescription {
            hostname: self.name.clone(),
            ..NodeDescription::default()
        };
        description.platform.os = "linux".to_owned();
        description.platform.architecture = "x86_64".to_owned();
        description.resources.nano_cpus = 8_000_000_000;
        description.resources.memory_bytes = 16 << 30;
        description.engine.engine_version = "simulated".to_owned();
        description
    }
}

/// A session that is open, counted as long as it is.
struct Open<'a>(&'a Counters);

impl<'a> Open<'a> {
    fn new(counters: &'a Counters) -> Self {
        counters.sessions.fetch_add(1, Ordering::Relaxed);
        Self(counters)
    }
}

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

async fn heartbeats(
    client: &DispatcherClient<NodeChannel>,
    session_id: &str,
    counters: &Counters,
) -> Result<()> {
    let mut client = client.clone();
    loop {
        let request = HeartbeatRequest {
            session_id: session_id.to_owned(),
            ..HeartbeatRequest::default()
        };
        let answer = client.heartbeat(request).await?.into_inner();
        counters.heartbeats.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(answer.period_ms)).await;
    }
}

async fn follow(
    client: &DispatcherClient<NodeChannel>,
    session_id: &str,
    said: &mut Said,
    reports: &mpsc::UnboundedSender<(TaskId, TaskState)>,
    counters: &Counters,
) -> Result<()> {
    let request = AssignmentsRequest {
        session_id: session_id.to_owned(),
        ..AssignmentsRequest::default()
    };
    let mut stream = client.clone().assignments(request).await?.into_inner();
    // What was said in an earlier session may not have been heard.
    for (task, state) in said.iter() {
        reports.send((task.clone(), *state))?;
    }
    while let Some(message) = stream.message().await? {
        for change in message.changes {
            if change.kind() == Kind::Task {
                act(change, said, reports, counters)?;
            }
        }
    }
    bail!("the stream of assignments has ended")
}

fn act(
    change: AssignmentChange,
    said: &mut Said,
    reports: &mpsc::UnboundedSender<(TaskId, TaskState)>,
    counters: &Counters,
) -> Result<()> {
    let action = change.action();
    let id = TaskId::from(change.id);
    if action == Action::Remove {
        if said.remove(&id) == Some(TaskState::Running) {
            counters.running.fetch_sub(1, Ordering::Relaxed);
        }
        return Ok(());
    }
    let task: Assigned = serde_json::from_slice(&change.object)?;
    let before = said.get(&id).copied();
    if task.desired_state > TaskState::Running {
        if said.insert(id.clone(), TaskState::Shutdown) == Some(TaskState::Running) {
            counters.running.fetch_sub(1, Ordering::Relaxed);
        }
        reports.send((id, TaskState::Shutdown))?;
    } else if before.is_none() && task.desired_state == TaskState::Running {
        said.insert(id.clone(), TaskState::Running);
        counters.running.fetch_add(1, Ordering::Relaxed);
        reports.send((id.clone(), TaskState::Preparing))?;
        let reports = reports.clone();
        tokio::spawn(async move {
            tokio::time::sleep(some(START)).await;
            // The session may have ended; then the next one says it.
            let _ = reports.send((id, TaskState::Running));
        });
    }
    Ok(())
}

/// Sends what is to be said, all that has gathered at once.
async fn report(
    client: &DispatcherClient<NodeChannel>,
    session_id: &str,
    mut queue: mpsc::UnboundedReceiver<(TaskId, TaskState)>,
) -> Result<()> {
    let mut client = client.clone();
    let mut waiting = Vec::new();
    while queue.recv_many(&mut waiting, 1000).await > 0 {
        let updates = waiting.drain(..).map(|(task, state)| update(&task, state));
        let request = UpdateTaskStatusRequest {
            session_id: session_id.to_owned(),
            updates: updates.collect::<Result<_>>()?,
        };
        client.update_task_status(request).await?;
    }
    bail!("nobody has anything to say")
}

fn some(milliseconds: std::ops::Range<u64>) -> Duration {
    Duration::from_millis(rand::rng().random_range(milliseconds))
}

/// As large as that of a real task.
fn update(task: &TaskId, state: TaskState) -> Result<TaskStatusUpdate> {
    let container = (state >= TaskState::Running).then(|| ContainerStatus {
        container_id: task.as_str().repeat(3).chars().take(64).collect(),
        pid: 4711,
        exit_code: 0,
    });
    let status = TaskStatus {
        timestamp: Timestamp::now(),
        state,
        message: "simulated".to_owned(),
        container_status: container,
        ..TaskStatus::default()
    };
    Ok(TaskStatusUpdate {
        task_id: task.to_string(),
        status: serde_json::to_vec(&status)?,
    })
}
