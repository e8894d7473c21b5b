//! A node: its session with whoever leads, and its containers, which outlive both the session and the agent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::StreamExt;
use manager::dispatcher::Dispatcher;
use proto::object::{NodeDescription, TaskStatus};
use proto::upkeep;
use proto::wire::assignment_change::{Action, Kind};
use proto::wire::assignments_message::Type;
use proto::wire::dispatcher_server::Dispatcher as _;
use proto::wire::{
    AssignmentsMessage, AssignmentsRequest, HeartbeatRequest, SessionRequest, TaskStatusUpdate,
    UpdateTaskStatusRequest,
};
use proto::{NodeId, Task, TaskId, TaskState, Timestamp};
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::managers::{Seat, Seats};
use crate::world::{Container, World};

/// How long a node waits for an answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Stop grace period of a task that names none.
const GRACE: Duration = Duration::from_secs(10);

/// The session has come to its end.
struct Ended(&'static str);

/// A node.
#[derive(Clone)]
pub(crate) struct Worker {
    world: World,
    pub(crate) id: NodeId,
    description: NodeDescription,
    seats: Seats,
    tasks: Arc<Mutex<BTreeMap<TaskId, Known>>>,
    /// When a heartbeat was sent that a leader of a majority has answered.
    contact: Arc<Contact>,
    /// Something is to be reported.
    news: Arc<Notify>,
    agent: Arc<Mutex<Option<JoinHandle<()>>>>,
}

/// When something was. Wakes those who wait in their order, which a `watch` does not.
#[derive(Default)]
struct Contact {
    last: Mutex<Option<Instant>>,
    news: Notify,
}

impl Contact {
    fn last(&self) -> Option<Instant> {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, at: Option<Instant>) {
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = at;
        self.news.notify_waiters();
    }
}

/// A task that the node has been given.
struct Known {
    task: Task,
    state: TaskState,
    reported: Option<TaskState>,
    /// The latest wish: the state wanted, or `None` if the task is to vanish.
    wish: watch::Sender<Option<TaskState>>,
    driver: JoinHandle<()>,
}

impl Worker {
    pub(crate) fn new(world: &World, seats: &Seats, id: NodeId, description: NodeDescription) -> Self {
        Self {
            world: world.clone(),
            id,
            description,
            seats: seats.clone(),
            tasks: Arc::default(),
            contact: Arc::default(),
            news: Arc::default(),
            agent: Arc::default(),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<TaskId, Known>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn agent(&self) -> MutexGuard<'_, Option<JoinHandle<()>>> {
        self.agent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The agent starts, if it does not run. Containers go on whatever it does.
    pub(crate) fn start(&self) {
        let mut agent = self.agent();
        if agent.is_none() {
            self.world.note(format_args!("{} starts", self.id));
            *agent = Some(tokio::spawn(self.clone().live()));
        }
    }

    /// The agent is killed.
    pub(crate) fn stop(&self) {
        if let Some(agent) = self.agent().take() {
            self.world.note(format_args!("{} stops", self.id));
            agent.abort();
        }
    }

    /// Whether it never comes back when all is well again. Every zone has another node.
    pub(crate) fn may_be_missed(&self) -> bool {
        self.id.as_str() != "n2"
    }

    /// The machine loses its power: agent and containers are gone. What had run is found ended when it starts again.
    pub(crate) fn lose_power(&self) {
        self.stop();
        self.contact.put(None);
        for (id, known) in self.tasks().iter_mut() {
            known.driver.abort();
            if self.world.running().contains_key(id) {
                self.world.runs(id, None);
            }
            if !known.state.is_terminal() {
                known.state = TaskState::Failed;
            }
            known.driver = tokio::spawn(self.clone().wait_for_end(id.clone(), known.wish.subscribe()));
        }
    }

    async fn live(self) {
        loop {
            let seats = self.seats.all();
            let Some(seat) = self.world.pick(&seats).cloned() else {
                self.world.pause(50..300).await;
                continue;
            };
            let place = seat.place.clone();
            let Err(Ended(why)) = self.session(seat).await;
            self.world
                .note(format_args!("{} has no session with {place}: {why}", self.id));
            self.world.pause(50..600).await;
        }
    }

    async fn session(&self, seat: Seat) -> Result<std::convert::Infallible, Ended> {
        let request = SessionRequest {
            description: serde_json::to_vec(&self.description).unwrap_or_default(),
            session_id: String::new(),
            node_id: self.id.to_string(),
            address: String::new(),
        };
        let register = async {
            self.world.way(self.id.as_str(), &seat.place).await;
            let request = Dispatcher::in_process_request(request);
            let mut stream = seat
                .dispatcher
                .session(request)
                .await
                .map_err(|_| Ended("refused"))?
                .into_inner();
            let first = stream
                .next()
                .await
                .and_then(Result::ok)
                .ok_or(Ended("no session"))?;
            self.world.way(&seat.place, self.id.as_str()).await;
            Ok((first.session_id, stream))
        };
        let (session, mut stream) = within(register).await?;
        let request = AssignmentsRequest {
            session_id: session.clone(),
            ..AssignmentsRequest::default()
        };
        let assignments = seat
            .dispatcher
            .assignments(Dispatcher::in_process_request(request));
        let assignments = within(async { assignments.await.map_err(|_| Ended("no assignments")) })
            .await?
            .into_inner();
        for known in self.tasks().values_mut() {
            known.reported = None;
        }
        let watch = async {
            while stream.next().await.is_some_and(|message| message.is_ok()) {}
            Err(Ended("ended by the manager"))
        };
        tokio::select! {
            biased;
            () = seat.end.wait() => Err(Ended("the manager is gone")),
            ended = watch => ended,
            ended = self.beat(&seat, &session) => ended,
            ended = self.learn(&seat, assignments) => ended,
            ended = self.report(&seat, &session) => ended,
        }
    }

    async fn beat(&self, seat: &Seat, session: &str) -> Result<std::convert::Infallible, Ended> {
        loop {
            let request = HeartbeatRequest {
                session_id: session.to_owned(),
                ..HeartbeatRequest::default()
            };
            let sent = Instant::now();
            let answer = within(async {
                self.world.way(self.id.as_str(), &seat.place).await;
                let answer = seat
                    .dispatcher
                    .heartbeat(Dispatcher::in_process_request(request))
                    .await;
                self.world.way(&seat.place, self.id.as_str()).await;
                answer
                    .map(tonic::Response::into_inner)
                    .map_err(|_| Ended("heartbeat refused"))
            });
            let answer = answer.await?;
            if let Some(ago) = answer.confirmed_ms_ago {
                self.hear(sent - Duration::from_millis(ago));
            }
            sleep(Duration::from_millis(answer.period_ms)).await;
        }
    }

    fn hear(&self, contact: Instant) {
        if self.contact.last().is_none_or(|last| contact > last) {
            self.contact.put(Some(contact));
        }
    }

    /// Waits until a lease lasts.
    async fn leased(&self, lease: Duration) {
        loop {
            let news = self.contact.news.notified();
            if self.contact.last().is_some_and(|at| at + lease > Instant::now()) {
                return;
            }
            news.await;
        }
    }

    /// Waits until a lease is over, and for as long afterwards as the task may take to end.
    async fn fenced(&self, task: &Task, lease: Duration) {
        loop {
            let news = self.contact.news.notified();
            let end = self.contact.last().map(|at| at + lease);
            tokio::select! {
                biased;
                () = sleep_until(end.unwrap_or_else(Instant::now)) => break,
                () = news => {}
            }
        }
        self.world
            .note(format_args!("{} {}: the lease is over", self.id, task.id));
        self.world
            .pause(0..u64::try_from(GRACE.as_millis()).unwrap_or_default())
            .await;
    }

    async fn learn(
        &self,
        seat: &Seat,
        mut messages: impl futures::Stream<Item = Result<AssignmentsMessage, tonic::Status>> + Unpin,
    ) -> Result<std::convert::Infallible, Ended> {
        while let Some(Ok(message)) = messages.next().await {
            self.world.stream(&seat.place, self.id.as_str()).await;
            self.take(message);
        }
        Err(Ended("assignments ended"))
    }

    fn take(&self, message: AssignmentsMessage) {
        let complete = message.r#type() == Type::Complete;
        let changes: Vec<_> = message
            .changes
            .iter()
            .filter(|change| change.kind() == Kind::Task)
            .collect();
        let mut told = std::collections::BTreeSet::new();
        for change in changes {
            let id = TaskId::from(change.id.as_str());
            if change.action() == Action::Remove {
                self.vanish(&id);
                continue;
            }
            if let Ok(task) = serde_json::from_slice::<Task>(&change.object) {
                told.insert(id);
                self.put(task);
            }
        }
        if complete {
            let unknown: Vec<_> = self
                .tasks()
                .keys()
                .filter(|id| !told.contains(*id))
                .cloned()
                .collect();
            unknown.iter().for_each(|id| self.vanish(id));
        }
    }

    fn vanish(&self, id: &TaskId) {
        if let Some(known) = self.tasks().get(id) {
            known.wish.send_replace(None);
        }
    }

    fn put(&self, task: Task) {
        let mut tasks = self.tasks();
        if let Some(known) = tasks.get_mut(&task.id) {
            known.wish.send_replace(Some(task.desired_state));
            known.task = task;
            return;
        }
        let (wish, wishes) = watch::channel(Some(task.desired_state));
        let state = task.status.state;
        let driver = match state.is_terminal() {
            true => tokio::spawn(self.clone().wait_for_end(task.id.clone(), wishes)),
            false => tokio::spawn(self.clone().drive(task.clone(), wishes)),
        };
        let known = Known {
            state,
            reported: Some(state),
            wish,
            driver,
            task,
        };
        tasks.insert(known.task.id.clone(), known);
    }

    /// Brings what the manager does not know yet.
    async fn report(&self, seat: &Seat, session: &str) -> Result<std::convert::Infallible, Ended> {
        loop {
            let news: Vec<(TaskId, TaskState)> = self
                .tasks()
                .iter()
                .filter(|(_, known)| known.reported != Some(known.state))
                .map(|(id, known)| (id.clone(), known.state))
                .collect();
            if news.is_empty() {
                self.news.notified().await;
                continue;
            }
            let request = UpdateTaskStatusRequest {
                session_id: session.to_owned(),
                updates: news.iter().map(|(id, state)| update(id, *state)).collect(),
            };
            if self.world.chance(0.1) {
                tokio::spawn(self.clone().say_again(seat.clone(), request.clone()));
            }
            within(self.say(seat, request)).await?;
            for (id, state) in news {
                if let Some(known) = self.tasks().get_mut(&id) {
                    known.reported = Some(state);
                }
            }
        }
    }

    async fn say(&self, seat: &Seat, report: UpdateTaskStatusRequest) -> Result<(), Ended> {
        self.world.way(self.id.as_str(), &seat.place).await;
        let request = Dispatcher::in_process_request(report);
        let answer = seat.dispatcher.update_task_status(request).await;
        self.world.way(&seat.place, self.id.as_str()).await;
        answer.map(drop).map_err(|_| Ended("report refused"))
    }

    /// A report is doubled, and the second comes when later ones may have come.
    async fn say_again(self, seat: Seat, report: UpdateTaskStatusRequest) {
        self.world.pause(50..3000).await;
        // What is refused is refused: the session may be over.
        let _ = within(self.say(&seat, report)).await;
    }

    fn advance(&self, id: &TaskId, state: TaskState) {
        if let Some(known) = self.tasks().get_mut(id) {
            known.state = state;
            self.world.note(format_args!("{} {id} {state:?}", self.id));
        }
        self.news.notify_one();
    }

    /// A task's life on this node.
    async fn drive(self, task: Task, mut wishes: watch::Receiver<Option<TaskState>>) {
        let stopped = {
            let mut wanted = wishes.clone();
            tokio::select! {
                biased;
                _ = wanted.wait_for(|wish| wish.is_none_or(|wish| wish > TaskState::Complete)) => true,
                () = self.run(&task, wishes.clone()) => false,
            }
        };
        if stopped {
            self.world.pause(20..400).await;
            if self.world.running().contains_key(&task.id) {
                self.world.runs(&task.id, None);
            }
            if wishes.borrow_and_update().is_some() {
                self.advance(&task.id, TaskState::Shutdown);
            }
        }
        self.wait_for_end(task.id, wishes).await;
    }

    /// From the assignment to the end that the container finds by itself.
    async fn run(&self, task: &Task, mut wishes: watch::Receiver<Option<TaskState>>) {
        let id = &task.id;
        self.advance(id, TaskState::Accepted);
        self.advance(id, TaskState::Preparing);
        self.world.pause(10..500).await;
        let image = task
            .spec
            .container_spec
            .as_ref()
            .map(|container| container.image.as_str())
            .unwrap_or_default();
        if image.starts_with("bad") && self.world.chance(0.5) {
            return self.advance(id, TaskState::Rejected);
        }
        self.advance(id, TaskState::Ready);
        // The sender lives as long as the task is known.
        let _ = wishes
            .wait_for(|wish| wish.is_some_and(|wish| wish >= TaskState::Running))
            .await;
        self.advance(id, TaskState::Starting);
        // The clocks of two machines do not go alike.
        let lease = upkeep::fencing(&task.labels).map(|lease| lease.mul_f64(1.005));
        if let Some(lease) = lease {
            self.leased(lease).await;
        }
        let container = Container {
            service: task.service_id.clone(),
            slot: task.slot,
            node: self.id.clone(),
            fenced: lease.is_some(),
        };
        self.world.runs(id, Some(container));
        let over = async {
            match lease {
                Some(lease) => self.fenced(task, lease).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            biased;
            () = over => {}
            () = self.serve(id, image) => {}
        }
        self.world.runs(id, None);
        self.advance(id, TaskState::Failed);
    }

    /// From the start to the end that the container finds by itself.
    async fn serve(&self, id: &TaskId, image: &str) {
        self.world.pause(10..300).await;
        self.advance(id, TaskState::Running);
        match image.split(':').next() {
            Some("crash") => self.world.pause(200..6000).await,
            _ => std::future::pending().await,
        }
    }

    /// Forgets the task when the manager does.
    async fn wait_for_end(self, id: TaskId, mut wishes: watch::Receiver<Option<TaskState>>) {
        let _ = wishes.wait_for(Option::is_none).await;
        if self.world.running().contains_key(&id) {
            self.world.runs(&id, None);
        }
        self.tasks().remove(&id);
    }
}

fn update(id: &TaskId, state: TaskState) -> TaskStatusUpdate {
    let status = TaskStatus {
        timestamp: Timestamp::now(),
        state,
        ..TaskStatus::default()
    };
    TaskStatusUpdate {
        task_id: id.to_string(),
        status: serde_json::to_vec(&status).unwrap_or_default(),
    }
}

async fn within<T>(answer: impl Future<Output = Result<T, Ended>>) -> Result<T, Ended> {
    timeout(PATIENCE, answer)
        .await
        .unwrap_or(Err(Ended("no answer in time")))
}
