//! A cluster whose containers are imagined.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use manager::state::{Event, Filter, Key, Kind, Reader, Store, StoreError};
use manager::{Control, Orchestration};
use proto::object::{NodeState, UpdateState};
use proto::spec::{Availability, ContainerSpec, RestartPolicy, ServiceMode, TaskSpec, UpdateConfig};
use proto::{Node, NodeId, Service, ServiceSpec, Task, TaskState, Timestamp};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long an imagined container takes from start to running, and from stop to end.
pub(crate) const STEP: Duration = Duration::from_millis(100);

/// A store, the loops over it, and an agent for all nodes.
pub(crate) struct Cluster {
    pub(crate) store: Store,
    pub(crate) control: Control,
    tasks: JoinSet<()>,
}

impl Cluster {
    /// A cluster of ready nodes `n1`, `n2` …
    pub(crate) async fn of(nodes: usize) -> Self {
        let store = Store::in_memory();
        for number in 1..=nodes {
            add_node(&store, number).await;
        }
        Self::over(store)
    }

    /// The same over a store that is there.
    pub(crate) fn over(store: Store) -> Self {
        let mut tasks = JoinSet::new();
        tasks.spawn(Orchestration::run(store.clone(), std::future::pending()));
        tasks.spawn(pretend(store.clone()));
        tasks.spawn(watch_invariants(store.clone()));
        Self {
            control: Control::new(store.clone()),
            store,
            tasks,
        }
    }

    /// Makes a service and waits until nothing happens at once.
    pub(crate) async fn create(&self, spec: ServiceSpec) -> Arc<Service> {
        let service = self.control.create_service(spec).await.unwrap();
        settle().await;
        service
    }

    /// Puts a service into the store that control would refuse, as an earlier version may have left it.
    pub(crate) async fn plant(&self, spec: ServiceSpec) {
        let service = Service {
            id: proto::ServiceId::random(),
            spec,
            ..Service::default()
        };
        self.store.update(|tx| tx.create(service)).await.unwrap();
        settle().await;
    }

    /// Changes the spec of a service.
    pub(crate) async fn update(&self, name: &str, change: impl FnOnce(&mut ServiceSpec)) {
        let service = self.control.service(name).unwrap();
        let mut spec = service.spec.clone();
        change(&mut spec);
        self.control
            .update_service(name, service.meta.version.index, spec)
            .await
            .unwrap();
    }

    pub(crate) async fn change_node(&self, id: &str, change: impl FnOnce(&mut Node)) {
        self.store
            .update(|tx| tx.modify::<Node>(id, change))
            .await
            .unwrap();
        settle().await;
    }

    /// Every task of the service, oldest first.
    pub(crate) fn tasks(&self, name: &str) -> Vec<Arc<Task>> {
        let service = self.control.service(name).unwrap();
        let mut tasks = self
            .store
            .view(|tx| tx.by_key::<Task>(Key::Service(service.id.as_str().to_owned())));
        tasks.sort_by_key(|task| task.meta.created_at);
        tasks
    }

    /// The tasks of the service that run and shall run, by slot and image.
    pub(crate) fn running(&self, name: &str) -> Vec<Arc<Task>> {
        let mut tasks = self.tasks(name);
        tasks.retain(|task| {
            task.status.state == TaskState::Running && task.desired_state == TaskState::Running
        });
        tasks.sort_by_key(|task| (task.slot, task.node_id.clone()));
        tasks
    }

    /// Slots of the running tasks.
    pub(crate) fn slots(&self, name: &str) -> Vec<u64> {
        self.running(name).iter().map(|task| task.slot).collect()
    }

    /// How many tasks run on each node.
    pub(crate) fn spread(&self, name: &str) -> Vec<(String, usize)> {
        let mut counts = BTreeMap::new();
        for task in self.running(name) {
            *counts.entry(task.node_id.as_str().to_owned()).or_insert(0) += 1;
        }
        counts.into_iter().collect()
    }

    /// Images of the running tasks.
    pub(crate) fn images(&self, name: &str) -> Vec<String> {
        self.running(name)
            .iter()
            .map(|task| image(task).to_owned())
            .collect()
    }

    /// How the service's update goes, with its message.
    pub(crate) fn update_status(&self, name: &str) -> Option<(UpdateState, String)> {
        let service = self.control.service(name).unwrap();
        service
            .update_status
            .as_ref()
            .map(|status| (status.state, status.message.clone()))
    }

    /// How far the service's update is.
    pub(crate) fn update_state(&self, name: &str) -> Option<UpdateState> {
        self.update_status(name).map(|(state, _)| state)
    }

    /// Waits until the condition holds; gives up after a quarter of an hour.
    pub(crate) async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) -> Duration {
        let begun = Instant::now();
        while !holds(self) {
            assert!(begun.elapsed() < Duration::from_secs(900), "never: {what}");
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }
}

impl Drop for Cluster {
    /// A broken invariant or a broken agent fails the test.
    fn drop(&mut self) {
        while let Some(ended) = self.tasks.try_join_next() {
            assert!(std::thread::panicking() || ended.is_ok(), "{ended:?}");
        }
    }
}

/// Lets everything happen that happens at once, and containers start or stop.
pub(crate) async fn settle() {
    sleep(Duration::from_millis(400)).await;
}

/// A replicated service. The image says how its containers behave, see [`behaviour`].
pub(crate) fn service(name: &str, image: &str, replicas: u64) -> ServiceSpec {
    ServiceSpec {
        name: name.into(),
        mode: ServiceMode::replicated(replicas),
        task_template: TaskSpec {
            container_spec: Some(ContainerSpec {
                image: image.into(),
                ..ContainerSpec::default()
            }),
            ..TaskSpec::default()
        },
        ..ServiceSpec::default()
    }
}

/// The spec with another image.
pub(crate) fn set_image(spec: &mut ServiceSpec, image: &str) {
    spec.task_template.container_spec.as_mut().unwrap().image = image.into();
}

/// The spec with a restart policy.
pub(crate) fn restart(mut spec: ServiceSpec, policy: RestartPolicy) -> ServiceSpec {
    spec.task_template.restart_policy = Some(policy);
    spec
}

/// The spec with an update configuration.
pub(crate) fn updating(mut spec: ServiceSpec, config: UpdateConfig) -> ServiceSpec {
    spec.update_config = Some(config);
    spec
}

pub(crate) const fn seconds(count: i64) -> i64 {
    count * 1_000_000_000
}

pub(crate) fn image(task: &Task) -> &str {
    &task.spec.container_spec.as_ref().unwrap().image
}

pub(crate) async fn add_node(store: &Store, number: usize) {
    let mut node = Node {
        id: NodeId::from(format!("n{number}")),
        ..Node::default()
    };
    node.description.hostname = format!("host{number}");
    node.description.resources.nano_cpus = 4_000_000_000;
    node.description.resources.memory_bytes = 8 << 30;
    node.status.state = NodeState::Ready;
    node.spec.availability = Availability::Active;
    store.update(|tx| tx.create(node)).await.unwrap();
}

/// What an imagined container does after its start, by the image's name.
enum Behaviour {
    /// `app…`: runs until it is stopped.
    Runs,
    /// `slow…`: takes 10 s to become healthy.
    Slow,
    /// `sick…`: starts and never becomes healthy.
    Sick,
    /// `bad…`: fails at once.
    Fails,
    /// `crash…`: runs for 2 s and fails.
    Crashes,
    /// `once…`: runs for 2 s and ends well.
    Completes,
}

fn behaviour(task: &Task) -> Behaviour {
    let image = image(task);
    match image.split(':').next().unwrap_or(image) {
        "slow" => Behaviour::Slow,
        "sick" => Behaviour::Sick,
        "bad" => Behaviour::Fails,
        "crash" => Behaviour::Crashes,
        "once" => Behaviour::Completes,
        _ => Behaviour::Runs,
    }
}

/// The agents of all nodes that are not down.
async fn pretend(store: Store) {
    let mut events = store.watch(Filter::kinds(&[Kind::Task, Kind::Node]));
    let mut containers = JoinSet::new();
    while let Some(event) = events.next().await {
        while let Some(ended) = containers.try_join_next() {
            ended.expect("an imagined container");
        }
        for task in moved(&store, &event) {
            containers.spawn(step(store.clone(), task));
        }
    }
}

/// The tasks that their nodes go on with after the event.
fn moved(store: &Store, event: &Event) -> Vec<Arc<Task>> {
    match event {
        Event::Task(change) => {
            let told = change.old().map(|old| (old.status.state, old.desired_state));
            let new = change.new_object().cloned().into_iter();
            new.filter(|task| told != Some((task.status.state, task.desired_state)))
                .collect()
        }
        // A node that is back hears what is wanted of it.
        Event::Node(change)
            if change
                .old()
                .is_some_and(|old| old.status.state == NodeState::Down) =>
        {
            let node = change.object().id.as_str().to_owned();
            store.view(|tx| tx.by_key::<Task>(Key::Node(node)))
        }
        _ => Vec::new(),
    }
}

/// Takes one task one step further.
async fn step(store: Store, task: Arc<Task>) {
    let state = task.status.state;
    let node = store.view(|tx| tx.get::<Node>(task.node_id.as_str()));
    let down = node.is_none_or(|node| node.status.state == NodeState::Down);
    if down || state < TaskState::Assigned || state.is_terminal() {
        return;
    }
    if task.desired_state > TaskState::Complete {
        sleep(STEP).await;
        return advance(&store, &task, TaskState::Shutdown, "shutdown").await;
    }
    match state {
        TaskState::Assigned => advance(&store, &task, TaskState::Ready, "prepared").await,
        TaskState::Ready if task.desired_state >= TaskState::Running => {
            advance(&store, &task, TaskState::Starting, "starting").await;
        }
        TaskState::Starting => {
            sleep(STEP).await;
            match behaviour(&task) {
                Behaviour::Sick => {}
                Behaviour::Fails => advance(&store, &task, TaskState::Failed, "failed").await,
                Behaviour::Slow => {
                    sleep(Duration::from_secs(10)).await;
                    advance(&store, &task, TaskState::Running, "started").await;
                }
                _ => advance(&store, &task, TaskState::Running, "started").await,
            }
        }
        TaskState::Running => match behaviour(&task) {
            Behaviour::Crashes => {
                sleep(Duration::from_secs(2)).await;
                advance(&store, &task, TaskState::Failed, "failed").await;
            }
            Behaviour::Completes => {
                sleep(Duration::from_secs(2)).await;
                advance(&store, &task, TaskState::Complete, "finished").await;
            }
            _ => {}
        },
        _ => {}
    }
}

/// Writes a state as the dispatcher does: it only grows.
async fn advance(store: &Store, task: &Task, state: TaskState, message: &str) {
    let written = store
        .update(|tx| {
            let current = tx.get::<Task>(task.id.as_str());
            if current.is_none_or(|current| current.status.state >= state) {
                return Ok(());
            }
            tx.modify::<Task>(task.id.as_str(), |task| {
                task.status.state = state;
                task.status.message = message.into();
                task.status.timestamp = Timestamp::now();
            })
        })
        .await;
    assert!(
        matches!(written, Ok(()) | Err(StoreError::NotFound { .. })),
        "{written:?}"
    );
}

/// What has to hold after every commit, whatever the test does.
async fn watch_invariants(store: Store) {
    let mut events = store.watch(Filter::kinds(&[Kind::Task]));
    while let Some(event) = events.next().await {
        let Event::Task(change) = event else { continue };
        if let (Some(old), Some(new)) = (change.old(), change.new_object()) {
            assert!(
                new.desired_state >= old.desired_state,
                "desired states only grow: {old:?} {new:?}"
            );
            assert_eq!(old.spec, new.spec, "the spec of a task never changes");
            let moved = !old.node_id.is_empty() && old.node_id != new.node_id;
            assert!(!moved, "a task never moves");
        }
        if let Some(new) = change.new_object() {
            check_slot(&store, new);
        }
    }
}

/// Without start-first, a slot never has two containers at once, except of nodes that are lost and while one task takes
/// over from another.
fn check_slot(store: &Store, task: &Task) {
    store.view(|tx| {
        let Some(service) = tx.get::<Service>(task.service_id.as_str()) else {
            return;
        };
        let start_first = |config: &Option<UpdateConfig>| {
            config
                .as_ref()
                .is_some_and(|config| config.order == proto::spec::UpdateOrder::StartFirst)
        };
        if start_first(&service.spec.update_config) || start_first(&service.spec.rollback_config) {
            return;
        }
        let tasks = tx.by_key::<Task>(Key::Slot(service.id.as_str().to_owned(), task.slot));
        let ready = |id: &NodeId| {
            tx.get::<Node>(id.as_str())
                .is_some_and(|node| node.status.state == NodeState::Ready)
        };
        let alive = tasks.iter().filter(|other| {
            (TaskState::Starting..=TaskState::Running).contains(&other.status.state)
                && ready(&other.node_id)
                && (task.slot != 0 || other.node_id == task.node_id)
        });
        let alive: Vec<_> = alive
            .filter(|other| {
                let leaves = |new: &&std::sync::Arc<Task>| {
                    new.takes_over.as_ref().is_some_and(|over| over.task == other.id)
                };
                !tasks.iter().any(|new| leaves(&new))
            })
            .map(|task| (&task.id, task.status.state, task.desired_state))
            .collect();
        assert!(
            alive.len() <= 1,
            "two containers in slot {}: {alive:?}",
            task.slot
        );
    });
}
