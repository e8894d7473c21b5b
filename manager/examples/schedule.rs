//! How long it takes to find nodes for tasks: `cargo run --release -p manager --example schedule [NODES [TASKS [SERVICES]]]`.
//!
//! Everything is in memory, as in SwarmKit's `BenchmarkScheduler`: no consensus, no dispatcher. Two figures: tasks that
//! wait already (scheduler and store), and services just made (orchestrator and allocator, too). Beside the time on the
//! clock stands the processors' time: on a machine that does other things, too, that is the figure to compare.

use std::time::{Duration, Instant};

use manager::Orchestration;
use manager::state::{Change, Event, Filter, Kind, Reader, Store};
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

/// How long something took.
#[derive(Debug, Clone, Copy)]
struct Took {
    clock: Duration,
    /// Of all threads.
    processor: Duration,
}

fn print(what: &str, nodes: usize, tasks: usize, services: usize, took: Took) {
    let each = |all: Duration| all.as_nanos() / tasks.max(1) as u128;
    println!(
        "{what}: {tasks} tasks of {services} services on {nodes} nodes in {:.2?}, {} ns per task; processor {:.2?}, {} \
         ns per task",
        took.clock,
        each(took.clock),
        took.processor,
        each(took.processor)
    );
}

/// What this process has used of the processors: fields 14 and 15 of proc_pid_stat(5), in hundredths of a second.
fn processor_time() -> anyhow::Result<Duration> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .unwrap_or_default()
        .split_whitespace()
        .collect();
    let ticks: u64 = fields
        .iter()
        .skip(11)
        .take(2)
        .filter_map(|field| field.parse::<u64>().ok())
        .sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// From tasks in state PENDING to all of them assigned.
async fn waiting_tasks(nodes: usize, tasks: usize, services: usize) -> anyhow::Result<Took> {
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
async fn made_services(nodes: usize, tasks: usize, services: usize) -> anyhow::Result<Took> {
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
) -> anyhow::Result<Took> {
    let assigned = |event: &Event| {
        matches!(event, Event::Task(Change::Update { old, new })
            if old.status.state == TaskState::Pending && new.status.state == TaskState::Assigned)
    };
    let mut events = store.watch(Filter::kinds(&[Kind::Task]).only(assigned));
    let (begun, used) = (Instant::now(), processor_time()?);
    let loops = tokio::spawn(Orchestration::run(store.clone(), std::future::pending()));
    begin(store).await?;
    for _ in 0..tasks {
        events.next().await;
    }
    let took = Took {
        clock: begun.elapsed(),
        processor: processor_time()?.saturating_sub(used),
    };
    loops.abort();
    anyhow::ensure!(store.view(|tx| pending_count(&tx)) == 0, "tasks are left");
    Ok(took)
}

fn pending_count(tx: &impl Reader) -> usize {
    let tasks = tx.all::<Task>();
    tasks
        .iter()
        .filter(|task| task.status.state == TaskState::Pending)
        .count()
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
