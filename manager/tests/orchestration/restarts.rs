//! Restart policies: conditions, delays, attempts and windows.

use std::time::Duration;

use proto::TaskState;
use proto::spec::{RestartCondition, RestartPolicy};
use tokio::time::sleep;

use super::harness::{Cluster, restart, seconds, service, settle};

fn policy(condition: RestartCondition, attempts: u64) -> RestartPolicy {
    RestartPolicy {
        condition,
        delay: Some(seconds(3)),
        max_attempts: (attempts > 0).then_some(attempts),
        window: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_task_is_replaced_after_the_delay() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(restart(
            service("web", "crash", 1),
            policy(RestartCondition::Any, 0),
        ))
        .await;
    cluster
        .until("it fails", |cluster| cluster.tasks("web").len() == 2)
        .await;
    let replacement = cluster.tasks("web")[1].clone();
    assert_eq!(
        replacement.desired_state,
        TaskState::Ready,
        "prepared, but not started"
    );
    let waited = cluster
        .until("it is started", |cluster| cluster.running("web").len() == 1)
        .await;
    assert!(
        waited >= Duration::from_secs(3) && waited < Duration::from_millis(3300),
        "{waited:?}"
    );
    assert_eq!(cluster.running("web")[0].id, replacement.id);
    assert_eq!(cluster.slots("web"), [1]);
}

#[tokio::test(start_paused = true)]
async fn attempts_are_counted_and_then_it_stays_down() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(restart(
            service("web", "bad", 2),
            policy(RestartCondition::OnFailure, 2),
        ))
        .await;
    sleep(Duration::from_secs(60)).await;
    let tasks = cluster.tasks("web");
    assert_eq!(tasks.len(), 6, "per slot one task and two more attempts");
    assert!(tasks.iter().all(|task| task.status.state == TaskState::Failed));

    // A new spec is a new chance.
    cluster
        .update("web", |spec| super::harness::set_image(spec, "app"))
        .await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.slots("web"), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_ended_well_is_replaced_only_if_the_condition_is_any() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(restart(
            service("any", "once", 1),
            policy(RestartCondition::Any, 0),
        ))
        .await;
    cluster
        .create(restart(
            service("fail", "once", 1),
            policy(RestartCondition::OnFailure, 0),
        ))
        .await;
    cluster
        .create(restart(
            service("none", "crash", 1),
            policy(RestartCondition::None, 0),
        ))
        .await;
    sleep(Duration::from_secs(20)).await;
    assert!(cluster.tasks("any").len() > 2);
    assert_eq!(cluster.tasks("fail").len(), 1);
    assert_eq!(cluster.tasks("none").len(), 1);
}

#[tokio::test(start_paused = true)]
async fn history_is_kept_up_to_the_limit() {
    let cluster = Cluster::of(1).await;
    let mut spec = service("web", "bad", 1);
    spec.task_template.restart_policy = Some(RestartPolicy {
        delay: Some(seconds(1)),
        ..RestartPolicy::default()
    });
    cluster.create(spec).await;
    sleep(Duration::from_secs(60)).await;
    settle().await;
    let kept = cluster.tasks("web").len();
    assert!((5..=6).contains(&kept), "{kept}");
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_goes_on_where_the_last_one_stopped() {
    let cluster = Cluster::of(1).await;
    let store = cluster.store.clone();
    cluster
        .create(restart(
            service("web", "crash", 1),
            policy(RestartCondition::Any, 0),
        ))
        .await;
    cluster
        .until("it fails", |cluster| cluster.tasks("web").len() == 2)
        .await;
    drop(cluster);
    let cluster = Cluster::over(store);
    let waited = cluster
        .until("it is started", |cluster| cluster.running("web").len() == 1)
        .await;
    assert!(waited < Duration::from_secs(4), "{waited:?}");
}

/// How long each task after the first waited from its making to its start, in seconds.
async fn waits(cluster: &Cluster, count: usize) -> Vec<u64> {
    let mut waits = Vec::new();
    while waits.len() < count {
        let known = cluster.tasks("web").last().unwrap().id.clone();
        cluster
            .until("the next task", |cluster| {
                cluster.tasks("web").last().unwrap().id != known
            })
            .await;
        let waited = cluster
            .until("it may start", |cluster| {
                cluster.tasks("web").last().unwrap().desired_state == TaskState::Running
            })
            .await;
        waits.push(waited.as_secs());
    }
    waits
}

#[tokio::test(start_paused = true)]
async fn restarts_back_off_where_a_longest_delay_is_set_and_a_new_leader_goes_on_so() {
    let cluster = Cluster::of(1).await;
    let mut spec = restart(service("web", "bad", 1), policy(RestartCondition::Any, 0));
    spec.labels.insert("shoal.restart.max-delay".into(), "20s".into());
    cluster.create(spec).await;
    // The first restart waits already when the service is made.
    assert_eq!(waits(&cluster, 2).await, [6, 12]);
    cluster
        .until("the next one waits", |cluster| {
            let last = cluster.tasks("web").pop().unwrap();
            last.desired_state == TaskState::Ready && last.status.state == TaskState::Ready
        })
        .await;
    let store = cluster.store.clone();
    drop(cluster);
    let cluster = Cluster::over(store);
    assert_eq!(waits(&cluster, 2).await, [20, 20]);
    cluster.update("web", |spec| spec.labels.clear()).await;
    assert_eq!(
        waits(&cluster, 2).await.last(),
        Some(&3),
        "without the label as Docker"
    );
}
