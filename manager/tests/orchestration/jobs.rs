//! Jobs: how many runs, how many at a time, what a failure means, and running again.

use std::time::Duration;

use proto::object::NodeState;
use proto::spec::{Availability, Empty, JobMode, RestartCondition, RestartPolicy, ServiceMode};
use proto::{ServiceSpec, Task, TaskState};
use tokio::time::sleep;

use super::harness::{Cluster, add_node, restart, seconds, service, settle};

fn job(image: &str, concurrent: Option<u64>, total: Option<u64>) -> ServiceSpec {
    let mut spec = service("job", image, 1);
    spec.mode = ServiceMode {
        replicated_job: Some(JobMode {
            max_concurrent: concurrent,
            total_completions: total,
        }),
        ..ServiceMode::default()
    };
    spec
}

fn everywhere(image: &str) -> ServiceSpec {
    let mut spec = service("job", image, 1);
    spec.mode = ServiceMode {
        global_job: Some(Empty {}),
        ..ServiceMode::default()
    };
    spec
}

fn in_state(cluster: &Cluster, state: TaskState) -> Vec<std::sync::Arc<Task>> {
    let mut tasks = cluster.tasks("job");
    tasks.retain(|task| task.status.state == state);
    tasks
}

/// Waits until so many tasks have ended well; the most that were on their way at once.
async fn complete(cluster: &Cluster, count: usize) -> usize {
    let most = std::sync::Mutex::new(0);
    cluster
        .until("so many runs", |cluster| {
            let tasks = cluster.tasks("job");
            let open = tasks
                .iter()
                .filter(|task| !task.status.state.is_terminal())
                .count();
            let mut most = most.lock().unwrap();
            *most = (*most).max(open);
            in_state(cluster, TaskState::Complete).len() == count
        })
        .await;
    sleep(Duration::from_secs(30)).await;
    assert_eq!(in_state(cluster, TaskState::Complete).len(), count, "and no more");
    most.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn what_is_not_said_is_one_at_a_time_and_as_many_as_at_a_time() {
    for (concurrent, total, runs, at_once) in [
        (None, None, 1, 1),
        (None, Some(3), 3, 1),
        (Some(2), None, 2, 2),
        (Some(2), Some(5), 5, 2),
        (Some(9), Some(2), 2, 2),
    ] {
        let cluster = Cluster::of(2).await;
        cluster.create(job("once", concurrent, total)).await;
        assert_eq!(
            complete(&cluster, runs).await,
            at_once,
            "{concurrent:?} of {total:?}"
        );
        let mut slots: Vec<u64> = cluster.tasks("job").iter().map(|task| task.slot).collect();
        slots.sort_unstable();
        assert_eq!(
            slots,
            (1..=runs as u64).collect::<Vec<_>>(),
            "each run has a place of its own"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_run_that_fails_is_tried_again_and_one_that_ended_well_is_not_whatever_the_condition() {
    let policy = |attempts| RestartPolicy {
        condition: RestartCondition::Any,
        delay: Some(seconds(1)),
        max_attempts: Some(attempts),
        window: None,
    };
    let cluster = Cluster::of(1).await;
    cluster
        .create(restart(job("crash", Some(1), Some(2)), policy(2)))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(
        in_state(&cluster, TaskState::Failed).len(),
        6,
        "three times in each of two places"
    );
    let cluster = Cluster::of(1).await;
    cluster
        .create(restart(job("once", None, Some(1)), policy(2)))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.tasks("job").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_forced_update_runs_the_job_again_as_a_new_iteration() {
    let cluster = Cluster::of(2).await;
    cluster.create(job("once", None, Some(2))).await;
    complete(&cluster, 2).await;
    cluster
        .update("job", |spec| spec.task_template.force_update += 1)
        .await;
    cluster
        .until("it runs again", |cluster| {
            !in_state(cluster, TaskState::Running).is_empty()
        })
        .await;
    complete(&cluster, 2).await;
    let status = cluster
        .control
        .service("job")
        .unwrap()
        .job_status
        .clone()
        .unwrap();
    assert_eq!(status.job_iteration.index, 1);
    assert!(
        cluster
            .tasks("job")
            .iter()
            .all(|task| task.job_iteration == Some(status.job_iteration))
    );
    // A run that has not ended makes way for the next iteration.
    let cluster = Cluster::of(1).await;
    cluster.create(job("app", None, Some(1))).await;
    cluster
        .update("job", |spec| spec.task_template.force_update += 1)
        .await;
    settle().await;
    settle().await;
    let tasks = cluster.tasks("job");
    assert_eq!(
        tasks
            .iter()
            .filter(|task| !task.status.state.is_terminal())
            .count(),
        1,
        "{tasks:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_global_job_runs_once_on_each_node_also_on_those_that_come() {
    let cluster = Cluster::of(2).await;
    cluster.create(everywhere("once")).await;
    complete(&cluster, 2).await;
    add_node(&cluster.store, 3).await;
    complete(&cluster, 3).await;
    cluster
        .change_node("n1", |node| node.spec.availability = Availability::Drain)
        .await;
    cluster
        .change_node("n1", |node| node.spec.availability = Availability::Active)
        .await;
    complete(&cluster, 3).await;
}

#[tokio::test(start_paused = true)]
async fn a_run_on_a_lost_or_drained_node_is_run_elsewhere() {
    for lost in [true, false] {
        let cluster = Cluster::of(1).await;
        cluster.create(job("app", None, Some(1))).await;
        add_node(&cluster.store, 2).await;
        cluster
            .change_node("n1", |node| match lost {
                true => node.status.state = NodeState::Down,
                false => node.spec.availability = Availability::Drain,
            })
            .await;
        cluster
            .until("it runs on n2", |cluster| {
                let tasks = in_state(cluster, TaskState::Running);
                tasks.iter().any(|task| task.node_id.as_str() == "n2")
            })
            .await;
    }
}
