//! One task's life on this node: an actor that takes the step [`step`] names, reports, and takes the next.
//!
//! Inputs: what the manager wants (a watch), the container's state (the engine's watch). Outputs: statuses, the task's
//! place in its service, and in the end nothing: a removed task leaves no container.

mod outcome;

use std::sync::Arc;

use netd::Backend;
use proto::object::{ContainerStatus, PortStatus, TaskStatus};
use proto::spec::{PortConfig, PublishMode};
use proto::{Task, TaskState, Timestamp, upkeep};
use tokio::sync::watch;

use super::shared::Shared;
use super::step::{Step, step};
use super::{directory, lease, plan};
use crate::api::error::chain;
use crate::engine::{ContainerId, ContainerState, EngineError, RemoveOptions, Status};
use outcome::{Verdict, ended, failure, resume, started};

/// What the manager wants of a task.
#[derive(Debug, Clone)]
pub struct Wanted {
    /// The task with its desired state.
    pub task: Arc<Task>,
    /// The task is no longer this node's: nothing of it may stay.
    pub removed: bool,
}

/// A task's container as it was found.
#[derive(Debug)]
pub struct Adopted {
    /// Which.
    pub id: ContainerId,
    /// How it is.
    pub state: ContainerState,
}

/// The actor of one task.
#[derive(Debug)]
pub struct Controller {
    shared: Arc<Shared>,
    wanted: watch::Receiver<Wanted>,
    status: TaskStatus,
    container: Option<ContainerId>,
}

impl Controller {
    /// A controller for a new task, or for one that an earlier process of this agent has left behind.
    pub fn new(shared: Arc<Shared>, wanted: watch::Receiver<Wanted>, adopted: Option<Adopted>) -> Self {
        let recorded = wanted.borrow().task.status.clone();
        let (state, err) = resume(recorded.state, adopted.as_ref().map(|found| &found.state));
        let mut controller = Self {
            shared,
            wanted,
            status: recorded,
            container: adopted.map(|found| found.id),
        };
        if state != controller.status.state || controller.status.withdrawn {
            // What it was withdrawn for is looked at anew.
            controller.advance(state, "found again after a restart of the agent", err);
        }
        controller
    }

    /// Whether the task serves: it was running and is wanted running, so its place in the service is kept.
    pub fn serves(&self) -> bool {
        self.status.state == TaskState::Running
            && self.wanted.borrow().task.desired_state <= TaskState::Running
    }

    /// Puts the task into its service.
    pub async fn join_service(&self) -> netd::Result<()> {
        let Some(container) = &self.container else {
            return Ok(());
        };
        let task = self.wanted.borrow().task.clone();
        self.shared
            .directory
            .add(&task.service_id, backend(&task, container))
            .await
    }

    /// Lives until the task is removed.
    pub async fn run(mut self) {
        loop {
            let wanted = self.wanted.borrow_and_update().clone();
            let desired = if wanted.removed {
                TaskState::Remove
            } else {
                wanted.task.desired_state
            };
            match step(self.status.state, desired) {
                Step::Accept => self.advance(TaskState::Accepted, "accepted", String::new()),
                Step::BeginPreparing => self.advance(TaskState::Preparing, "preparing", String::new()),
                Step::Prepare => self.prepare(&wanted.task).await,
                Step::BeginStarting => self.advance(TaskState::Starting, "starting", String::new()),
                Step::Start => self.start().await,
                Step::Watch => self.watch().await,
                Step::Shutdown => self.shut_down().await,
                Step::Rest if wanted.removed => return self.clean_up().await,
                Step::Rest => self.changed().await,
            }
        }
    }

    async fn prepare(&mut self, task: &Task) {
        match self.bring_image(task).await {
            None => return,
            Some(Err(reason)) => return self.advance(TaskState::Rejected, "preparing", reason),
            Some(Ok(())) => {}
        }
        match self.try_prepare(task).await {
            Ok(id) => {
                self.container = Some(id);
                self.advance(TaskState::Ready, "prepared", String::new());
            }
            Err(reason) => self.advance(TaskState::Rejected, "preparing", reason),
        }
    }

    /// Gets the task's image from other nodes if this one lacks it; `None` if the task is wanted otherwise meanwhile.
    async fn bring_image(&mut self, task: &Task) -> Option<Result<(), String>> {
        let image = task.spec.container_spec.as_ref().map(|spec| spec.image.clone());
        let image = image.unwrap_or_default();
        let (shared, reporter) = (self.shared.clone(), self.shared.reporter.clone());
        let (id, status) = (task.id.clone(), self.status.clone());
        let say = move |message: String| {
            let status = TaskStatus {
                timestamp: Timestamp::now(),
                message,
                ..status.clone()
            };
            reporter.put(id.clone(), status);
        };
        tokio::select! {
            brought = shared.images.ensure(&image, &say) => Some(brought.map_err(|error| chain(&error))),
            () = self.changed() => None,
        }
    }

    async fn try_prepare(&self, task: &Task) -> Result<ContainerId, String> {
        for attachment in &task.networks_attachments {
            self.shared
                .networks
                .ensure(&attachment.network)
                .await
                .map_err(|error| chain(&error))?;
        }
        let hostname = &self.shared.hostname;
        let mut request = plan::container(task, hostname).map_err(|error| chain(&error))?;
        let words = plan::template_context(task, hostname);
        request.files = self
            .shared
            .files
            .of(task, &words)
            .map_err(|error| chain(&error))?;
        let created = self
            .shared
            .engine
            .create(request)
            .await
            .map_err(|error| chain(&error))?;
        Ok(created.id)
    }

    async fn start(&mut self) {
        let Some(mut state) = self.container_state() else {
            return self.container_gone();
        };
        let fresh = state.borrow_and_update().status == Status::Created;
        if fresh {
            match self.start_container().await {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => return self.advance(TaskState::Failed, "starting", chain(&error)),
            }
        }
        let verdict = tokio::select! {
            verdict = started(&mut state) => verdict,
            () = self.changed() => return,
        };
        match verdict {
            Verdict::Serving => self.serve().await,
            Verdict::Unhealthy => self.unhealthy().await,
            Verdict::Ended(state) => self.ended(&state).await,
        }
    }

    /// `None` if the task is wanted otherwise while it waits for its lease.
    async fn start_container(&mut self) -> Option<Result<(), EngineError>> {
        let Some(id) = self.container.clone() else {
            return Some(Ok(()));
        };
        let (engine, contact) = (self.shared.engine.clone(), self.shared.contact.clone());
        let lease = upkeep::fencing(&self.wanted.borrow().task.labels);
        let started = match lease {
            None => engine.start(id.as_str()).await,
            Some(lease) => tokio::select! {
                until = lease::granted(contact, lease) => engine.start_leased(id.as_str(), until).await,
                () = self.changed() => return None,
            },
        };
        Some(match started {
            Err(EngineError::Unchanged(_)) => Ok(()),
            outcome => outcome,
        })
    }

    /// The container is up and healthy: traffic first, then the word that it runs.
    async fn serve(&mut self) {
        let trouble = match self.join_service().await {
            Ok(()) => String::new(),
            // Another program has a port of the service here; the other nodes answer for it.
            Err(error) if error.kind() == netd::ErrorKind::Conflict => {
                format!("this node does not answer for the service: {}", chain(&error))
            }
            Err(error) => {
                let reason = format!("cannot be reached: {}", chain(&error));
                self.stop_container().await;
                return self.advance(TaskState::Failed, "starting", reason);
            }
        };
        self.status.port_status = self.host_ports().await;
        self.advance(TaskState::Running, "started", trouble);
    }

    async fn watch(&mut self) {
        let Some(mut state) = self.container_state() else {
            return self.container_gone();
        };
        let verdict = tokio::select! {
            verdict = ended(&mut state) => verdict,
            () = self.changed() => return,
        };
        match verdict {
            Verdict::Ended(state) => self.ended(&state).await,
            Verdict::Unhealthy | Verdict::Serving => self.unhealthy().await,
        }
    }

    async fn ended(&mut self, state: &ContainerState) {
        self.withdraw().await;
        match failure(state) {
            None => self.advance(TaskState::Complete, "finished", String::new()),
            Some(reason) => self.advance(TaskState::Failed, "started", reason),
        }
    }

    async fn unhealthy(&mut self) {
        self.stop_container().await;
        self.advance(TaskState::Failed, "started", "task: unhealthy container".into());
    }

    async fn shut_down(&mut self) {
        self.stop_container().await;
        self.advance(TaskState::Shutdown, "shutdown", String::new());
    }

    /// Takes the task out of its service everywhere, then stops the container within its grace period.
    async fn stop_container(&mut self) {
        if self.withdraw().await {
            self.withdraw_elsewhere().await;
            tokio::time::sleep(self.shared.drain).await;
        }
        let Some(id) = &self.container else { return };
        let stopped = self.shared.engine.stop(id.as_str(), None, None).await;
        match stopped {
            Ok(()) | Err(EngineError::Unchanged(_) | EngineError::NoSuchContainer(_)) => {}
            Err(error) => {
                tracing::warn!(container.id = %id, "cannot stop the container, killing it: {}", chain(&error));
                self.remove_container(id).await;
            }
        }
    }

    /// Nobody who asks from now on is sent to this task. Whether anybody was before.
    async fn withdraw(&self) -> bool {
        let task = self.wanted.borrow().task.clone();
        match self.shared.directory.withdraw(&task.service_id, &task.id).await {
            Ok(served) => served,
            Err(error) => {
                tracing::warn!(task.id = %task.id, "cannot take the task out of its service: {}", chain(&error));
                true
            }
        }
    }

    /// The other nodes hear from the manager that nobody is to be sent to this task: if it is the manager that wants it to stop
    /// they do so already, and otherwise from this node's word.
    async fn withdraw_elsewhere(&mut self) {
        let wanted = self.wanted.borrow().clone();
        if wanted.task.desired_state <= TaskState::Running && !wanted.removed {
            self.status.withdrawn = true;
            self.shared
                .reporter
                .put(wanted.task.id.clone(), self.status.clone());
        }
        if let Some(withdrawal) = &self.shared.withdrawal {
            withdrawal.everywhere(&wanted.task.id).await;
        }
    }

    async fn clean_up(mut self) {
        if let Some(id) = self.container.take() {
            self.remove_container(&id).await;
        }
        self.shared.networks.sweep().await;
    }

    async fn remove_container(&self, id: &ContainerId) {
        let options = RemoveOptions {
            force: true,
            volumes: true,
        };
        match self.shared.engine.remove(id.as_str(), options).await {
            Ok(()) | Err(EngineError::NoSuchContainer(_)) => {}
            Err(error) => {
                tracing::warn!(container.id = %id, "cannot remove the container: {}", chain(&error))
            }
        }
    }

    fn container_state(&self) -> Option<watch::Receiver<ContainerState>> {
        self.shared.engine.watch(self.container.as_ref()?.as_str()).ok()
    }

    fn container_gone(&mut self) {
        self.advance(TaskState::Failed, "started", "task: the container is gone".into());
    }

    /// Ports of mode `host` with their real numbers.
    async fn host_ports(&self) -> PortStatus {
        let task = self.wanted.borrow().task.clone();
        let asked = task.endpoint.iter().flat_map(|endpoint| &endpoint.ports);
        let asked: Vec<_> = asked
            .filter(|port| port.publish_mode == PublishMode::Host)
            .cloned()
            .collect();
        let Some(id) = self.container.as_ref().filter(|_| !asked.is_empty()) else {
            return PortStatus::default();
        };
        let bound = match self.shared.engine.inspect(id.as_str(), false).await {
            Ok(inspect) => inspect.network_settings.ports,
            Err(_) => return PortStatus { ports: asked },
        };
        let real = |port: PortConfig| {
            let bindings = bound.get(&format!("{}/{}", port.target_port, port.protocol));
            let number = bindings.and_then(Option::as_ref).and_then(|list| list.first());
            let number = number.and_then(|binding| binding.host_port.parse().ok());
            PortConfig {
                published_port: number.unwrap_or(port.published_port),
                ..port
            }
        };
        PortStatus {
            ports: asked.into_iter().map(real).collect(),
        }
    }

    /// Writes and reports the next state.
    fn advance(&mut self, state: TaskState, message: &str, err: String) {
        let task = self.wanted.borrow().task.clone();
        tracing::debug!(
            task.id = %task.id, task.name = %task.short_name(), from = %self.status.state, to = %state,
            desired = %task.desired_state, error = %err, "task"
        );
        self.status.state = state;
        self.status.withdrawn = false;
        self.status.timestamp = Timestamp::now();
        self.status.message = message.to_owned();
        self.status.err = err;
        self.status.container_status = self.container_status();
        self.shared.reporter.put(task.id.clone(), self.status.clone());
    }

    fn container_status(&self) -> Option<ContainerStatus> {
        let id = self.container.as_ref()?;
        let state = self
            .container_state()
            .map(|state| state.borrow().clone())
            .unwrap_or_default();
        Some(ContainerStatus {
            container_id: id.to_string(),
            pid: i64::from(state.pid),
            exit_code: i64::from(state.exit_code),
        })
    }

    /// Until the manager wants something else. When the worker itself ends, nothing does any more.
    async fn changed(&mut self) {
        if self.wanted.changed().await.is_err() {
            std::future::pending().await
        }
    }
}

fn backend(task: &Task, container: &ContainerId) -> Backend {
    let mut backend = Backend {
        task: task.id.to_string(),
        name: task.name(),
        sandbox: Some(container.to_string()),
        ..Backend::default()
    };
    for attachment in &task.networks_attachments {
        let network = attachment.network.id.as_str();
        let all = plan::addresses(attachment).unwrap_or_default();
        all.into_iter()
            .for_each(|address| directory::locate(&mut backend, network, address));
    }
    backend
}
