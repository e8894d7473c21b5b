//! How long it takes to find nodes for tasks: `cargo run --release -p manager --example schedule [NODES [TASKS [SERVICES]]]`.
//!
//! Everything is in memory, as in SwarmKit's `BenchmarkScheduler`: no consensus, no dispatcher. Two figures: tasks that
//! wait already (scheduler and store), and services just made (orchestrator and allocator, too).

use std::time::{Duration, Instant};

use manager::Orchestration;
use manager::state::{Change, Event, Filter, Key, Kind, Reader, Store};
use proto::object::NodeState;
use proto::spec::ServiceMode;
use proto::{Node, NodeId, Service, ServiceId, Task, TaskId, TaskState, Version};

fn main() -> anyhow::Result<()> {
    let numbers: Vec<usize> = std::env::args()
        .skip(1)
        .map(|text| text.parse())
        .collect::<Result<_, _>>()?;
    let number = |place: usize, default| numbers.get(place).copied().unwrap_or(default);
    let (nodes, tasks, services) = (number(0, 1000), number(1, 100_000), number(2, 1));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        let waiting = waiting_tasks(nodes, tasks, services).await?;
        print("tasks that wait", nodes, tasks, services, waiting);
        let made = made_services(nodes, tasks, services).await?;
        print("services just made", nodes, tasks, services, made);
        Ok(())
    })
}

fn print(what: &str, nodes: usize, tasks: usize, services: usize, took: Duration) {
    let each = took / u32::try_from(tasks).unwrap_or(u32::MAX).max(1);
    println!(
        "{what}: {tasks} tasks of {services} services on {nodes} nodes in {took:.1?}, {each:.2?} per task"
    );
}

/// From tasks in state PENDING to all of them assigned.
async fn waiting_tasks(nodes: usize, tasks: usize, services: usize) -> anyhow::Result<Duration> {
    let store = cluster(nodes).await?;
    let mut batch = store.batch().await;
    for service in make_services(tasks, services) {
        for slot in 1..=service.spec.mode.replicas().unwrap_or_default() {
            let task = pending(&service, slot);
            batch.update(|tx| tx.create(task)).await?;
        }
        batch.update(|tx| tx.create(service)).await?;
    }
    batch.commit().await?;
    measure(&store, tasks, async |_| Ok(())).await
}

/// From services without tasks to all of their tasks assigned.
async fn made_services(nodes: usize, tasks: usize, services: usize) -> anyhow::Result<Duration> {
    let store = cluster(nodes).await?;
    measure(&store, tasks, async |store| {
        let mut batch = store.batch().await;
        for service in make_services(tasks, services) {
            batch.update(|tx| tx.create(service)).await?;
        }
        Ok(batch.commit().await?)
    })
    .await
}

async fn measure(
    store: &Store,
    tasks: usize,
    begin: impl AsyncFnOnce(&Store) -> anyhow::Result<()>,
) -> anyhow::Result<Duration> {
    let assigned = |event: &Event| {
        matches!(event, Event::Task(Change::Update { old, new })
            if old.status.state == TaskState::Pending && new.status.state == TaskState::Assigned)
    };
    let mut events = store.watch(Filter::kinds(&[Kind::Task]).only(assigned));
    let begun = Instant::now();
    let loops = tokio::spawn(Orchestration::run(store.clone(), std::future::pending()));
    begin(store).await?;
    for _ in 0..tasks {
        events.next().await;
    }
    let took = begun.elapsed();
    loops.abort();
    anyhow::ensure!(store.view(|tx| pending_count(&tx)) == 0, "tasks are left");
    Ok(took)
}

fn pending_count(tx: &impl Reader) -> usize {
    tx.by_key::<Task>(Key::State(TaskState::Pending)).len()
}

async fn cluster(nodes: usize) -> anyhow::Result<Store> {
    let store = Store::in_memory();
    let mut batch = store.batch().await;
    for number in 0..nodes {
        let mut node = Node {
            id: NodeId::from(format!("node{number}")),
            ..Node::default()
        };
        node.status.state = NodeState::Ready;
        batch.update(|tx| tx.create(node)).await?;
    }
    batch.commit().await?;
    Ok(store)
}

fn make_services(tasks: usize, services: usize) -> Vec<Service> {
    let services = services.max(1);
    let make = |number: usize| {
        let replicas = tasks / services + usize::from(number < tasks % services);
        let mut service = Service {
            id: ServiceId::random(),
            ..Service::default()
        };
        service.spec.name = format!("service{number}");
        service.spec.mode = ServiceMode::replicated(replicas as u64);
        service.spec_version = Some(Version { index: 0 });
        service
    };
    (0..services).map(make).collect()
}

fn pending(service: &Service, slot: u64) -> Task {
    let mut task = Task {
        id: TaskId::random(),
        service_id: service.id.clone(),
        spec_version: service.spec_version,
        slot,
        desired_state: TaskState::Running,
        ..Task::default()
    };
    task.status.state = TaskState::Pending;
    task
}
