//! Rolling updates: order, parallelism, failures and the way back.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use manager::state::{Event, Filter, Kind};
use proto::object::{NodeState, UpdateState};
use proto::spec::{FailureAction, ServiceMode, UpdateConfig, UpdateOrder};
use proto::{TaskState, Timestamp};
use tokio::time::{Instant, sleep};

use super::harness::{Cluster, STEP, image, seconds, service, set_image, settle, updating};

fn config() -> UpdateConfig {
    UpdateConfig {
        monitor: seconds(5),
        ..UpdateConfig::default()
    }
}

/// When containers of the image came to run and ended, since the call.
fn follow(cluster: &Cluster, wanted: &'static str) -> Arc<Mutex<Vec<(Duration, TaskState)>>> {
    let log = Arc::new(Mutex::new(Vec::new()));
    let mut events = cluster.store.watch(Filter::kinds(&[Kind::Task]));
    let (begun, written) = (Instant::now(), log.clone());
    tokio::spawn(async move {
        while let Some(event) = events.next().await {
            let Event::Task(change) = event else { continue };
            let (Some(old), Some(new)) = (change.old(), change.new_object()) else {
                continue;
            };
            if image(new) == wanted && old.status.state != new.status.state {
                written.lock().unwrap().push((begun.elapsed(), new.status.state));
            }
        }
    });
    log
}

fn times(log: &Mutex<Vec<(Duration, TaskState)>>, state: TaskState) -> Vec<Duration> {
    log.lock()
        .unwrap()
        .iter()
        .filter(|entry| entry.1 == state)
        .map(|entry| entry.0)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn slots_are_updated_a_few_at_a_time_with_the_delay_between() {
    let cluster = Cluster::of(2).await;
    let config = UpdateConfig {
        parallelism: 2,
        delay: seconds(3),
        ..config()
    };
    cluster.create(updating(service("web", "app:1", 6), config)).await;
    let new = follow(&cluster, "app:2");
    cluster.update("web", |spec| set_image(spec, "app:2")).await;
    settle().await;
    let (state, message) = cluster.update_status("web").unwrap();
    assert_eq!(
        (state, message.as_str()),
        (UpdateState::Updating, "update in progress")
    );
    cluster
        .until("completed", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.update_status("web").unwrap().1, "update completed");
    assert_eq!(cluster.images("web"), ["app:2"; 6]);
    let started = times(&new, TaskState::Running);
    assert_eq!(started.len(), 6, "each slot once");
    for pair in started.chunks(2).collect::<Vec<_>>().windows(2) {
        let (before, after) = (pair[0][1], pair[1][0]);
        assert!(
            after >= before + Duration::from_secs(3),
            "the delay lies between: {started:?}"
        );
        assert!(
            after <= before + Duration::from_secs(4),
            "and not much more: {started:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn stop_first_stops_the_old_before_the_new_starts() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(updating(service("db", "app:1", 1), config()))
        .await;
    let (old, new) = (follow(&cluster, "app:1"), follow(&cluster, "app:2"));
    cluster.update("db", |spec| set_image(spec, "app:2")).await;
    settle().await;
    assert_eq!(cluster.images("db"), ["app:2"]);
    assert!(times(&old, TaskState::Shutdown)[0] <= times(&new, TaskState::Starting)[0]);
    assert!(
        times(&new, TaskState::Ready)[0] < times(&old, TaskState::Shutdown)[0],
        "prepared meanwhile"
    );
}

#[tokio::test(start_paused = true)]
async fn start_first_stops_the_old_only_when_the_new_one_is_healthy() {
    let cluster = Cluster::of(1).await;
    let config = UpdateConfig {
        order: UpdateOrder::StartFirst,
        ..config()
    };
    cluster.create(updating(service("web", "app:1", 2), config)).await;
    let (old, new) = (follow(&cluster, "app:1"), follow(&cluster, "slow:2"));
    cluster.update("web", |spec| set_image(spec, "slow:2")).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.images("web"), ["app:1", "app:1"]);
    cluster
        .until("completed", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.images("web"), ["slow:2", "slow:2"]);
    let (stopped, running) = (times(&old, TaskState::Shutdown), times(&new, TaskState::Running));
    assert!(
        running[0] + STEP <= stopped[0] && running[1] + STEP <= stopped[1],
        "{running:?} {stopped:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_update_pauses() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(updating(service("web", "app:1", 3), config()))
        .await;
    cluster.update("web", |spec| set_image(spec, "bad:2")).await;
    sleep(Duration::from_secs(60)).await;
    let (state, message) = cluster.update_status("web").unwrap();
    assert_eq!(state, UpdateState::Paused);
    assert!(
        message.starts_with("update paused due to failure or early termination of task "),
        "{message}"
    );
    assert_eq!(
        cluster.images("web"),
        ["app:1", "app:1"],
        "the other slots are not touched"
    );

    // Writing the service again goes on.
    cluster.update("web", |spec| set_image(spec, "app:3")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.update_status("web").unwrap().0, UpdateState::Completed);
    assert_eq!(cluster.images("web"), ["app:3"; 3]);
}

#[tokio::test(start_paused = true)]
async fn a_failing_update_rolls_back() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let cluster = Cluster::of(1).await;
        let config = UpdateConfig {
            failure_action: FailureAction::Rollback,
            order,
            ..config()
        };
        cluster.create(updating(service("web", "app:1", 3), config)).await;
        cluster.update("web", |spec| set_image(spec, "crash:2")).await;
        cluster
            .until("rollback", |cluster| {
                cluster.update_state("web") == Some(UpdateState::RollbackStarted)
            })
            .await;
        let message = cluster.update_status("web").unwrap().1;
        assert!(
            message.starts_with("update rolled back due to failure or early"),
            "{message}"
        );
        cluster
            .until("the end", |cluster| {
                cluster.update_state("web") == Some(UpdateState::RollbackCompleted)
            })
            .await;
        assert_eq!(cluster.update_status("web").unwrap().1, "rollback completed");
        assert_eq!(cluster.images("web"), ["app:1"; 3]);
        let service = cluster.control.service("web").unwrap();
        assert_eq!(
            service.spec.task_template.container_spec.as_ref().unwrap().image,
            "app:1"
        );
        assert_eq!(service.previous_spec, None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_rollback_that_fails_is_paused() {
    let cluster = Cluster::of(1).await;
    let config = UpdateConfig {
        failure_action: FailureAction::Rollback,
        ..config()
    };
    let mut spec = updating(service("web", "bad:1", 2), config.clone());
    spec.rollback_config = Some(UpdateConfig {
        failure_action: FailureAction::Pause,
        ..config
    });
    cluster.create(spec).await;
    cluster.update("web", |spec| set_image(spec, "bad:2")).await;
    cluster
        .until("paused", |cluster| {
            cluster.update_state("web") == Some(UpdateState::RollbackPaused)
        })
        .await;
    let message = cluster.update_status("web").unwrap().1;
    assert!(
        message.starts_with("rollback paused due to failure or early termination of task"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_share_of_failures_is_borne() {
    let cluster = Cluster::of(1).await;
    let config = UpdateConfig {
        max_failure_ratio: 0.5,
        parallelism: 1,
        ..config()
    };
    cluster.create(updating(service("web", "app:1", 4), config)).await;
    cluster.update("web", |spec| set_image(spec, "bad:2")).await;
    sleep(Duration::from_secs(60)).await;
    assert_eq!(cluster.update_status("web").unwrap().0, UpdateState::Paused);
    assert_eq!(
        cluster.images("web"),
        ["app:1"],
        "two failures of four are borne, the third is too much"
    );
}

#[tokio::test(start_paused = true)]
async fn a_failing_update_continues_if_it_shall() {
    let cluster = Cluster::of(1).await;
    let config = UpdateConfig {
        failure_action: FailureAction::Continue,
        parallelism: 0,
        ..config()
    };
    cluster.create(updating(service("web", "app:1", 3), config)).await;
    cluster.update("web", |spec| set_image(spec, "bad:2")).await;
    cluster
        .until("completed", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_rollback_by_hand_uses_its_own_configuration() {
    let cluster = Cluster::of(1).await;
    let mut spec = updating(
        service("web", "app:1", 4),
        UpdateConfig {
            delay: seconds(60),
            ..config()
        },
    );
    spec.rollback_config = Some(UpdateConfig {
        parallelism: 0,
        ..config()
    });
    cluster.create(spec).await;
    cluster.update("web", |spec| set_image(spec, "app:2")).await;
    settle().await;
    let version = cluster.control.service("web").unwrap().meta.version.index;
    cluster.control.rollback_service("web", version).await.unwrap();
    settle().await;
    assert_eq!(cluster.images("web"), ["app:1"; 4]);
    sleep(Duration::from_secs(6)).await;
    let status = cluster.update_status("web").unwrap();
    assert_eq!(
        status,
        (UpdateState::RollbackCompleted, "rollback completed".into())
    );
}

#[tokio::test(start_paused = true)]
async fn only_what_differs_is_dirty() {
    let cluster = Cluster::of(2).await;
    cluster
        .create(updating(service("web", "app:1", 3), config()))
        .await;
    let before: Vec<_> = cluster
        .running("web")
        .iter()
        .map(|task| task.id.clone())
        .collect();
    let same = |cluster: &Cluster| {
        let now: Vec<_> = cluster
            .running("web")
            .iter()
            .map(|task| task.id.clone())
            .collect();
        now.starts_with(&before)
    };
    cluster
        .update("web", |spec| {
            drop(spec.labels.insert("team".into(), "blue".into()))
        })
        .await;
    sleep(Duration::from_secs(30)).await;
    assert!(same(&cluster), "labels of the service");
    cluster
        .update("web", |spec| spec.mode = ServiceMode::replicated(4))
        .await;
    sleep(Duration::from_secs(30)).await;
    assert!(same(&cluster), "the number of replicas");
    let fits = proto::spec::Placement {
        constraints: vec!["node.role==worker".into()],
        ..Default::default()
    };
    cluster
        .update("web", |spec| spec.task_template.placement = Some(fits))
        .await;
    sleep(Duration::from_secs(30)).await;
    assert!(same(&cluster), "constraints that the nodes satisfy");
    assert_eq!(cluster.update_status("web"), None);
    cluster
        .update("web", |spec| spec.task_template.force_update += 1)
        .await;
    sleep(Duration::from_secs(30)).await;
    assert!(!same(&cluster), "force");
    assert_eq!(cluster.update_status("web").unwrap().0, UpdateState::Completed);
}

#[tokio::test(start_paused = true)]
async fn a_second_update_takes_the_place_of_the_first() {
    let cluster = Cluster::of(1).await;
    cluster
        .create(updating(
            service("web", "app:1", 5),
            UpdateConfig {
                delay: seconds(10),
                ..config()
            },
        ))
        .await;
    cluster.update("web", |spec| set_image(spec, "app:2")).await;
    sleep(Duration::from_secs(15)).await;
    cluster.update("web", |spec| set_image(spec, "app:3")).await;
    cluster
        .until("completed", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.images("web"), ["app:3"; 5]);
    let second = follow(&cluster, "app:2");
    sleep(Duration::from_secs(60)).await;
    assert!(times(&second, TaskState::Running).is_empty());
    let service = cluster.control.service("web").unwrap();
    assert!(
        service
            .update_status
            .as_ref()
            .unwrap()
            .completed_at
            .is_some_and(|at| at <= Timestamp::now())
    );
}

/// Three nodes with a task of `log` on each; its updates rest for 2 s between them.
async fn with_global_log() -> Cluster {
    let cluster = Cluster::of(3).await;
    let mut spec = updating(
        service("log", "app:1", 1),
        UpdateConfig {
            delay: seconds(2),
            ..config()
        },
    );
    spec.mode = ServiceMode::global();
    cluster.create(spec).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_global_service_is_updated_node_by_node() {
    let cluster = with_global_log().await;
    let new = follow(&cluster, "app:2");
    cluster.update("log", |spec| set_image(spec, "app:2")).await;
    cluster
        .until("completed", |cluster| {
            cluster.update_state("log") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.images("log"), ["app:2"; 3]);
    let started = times(&new, TaskState::Running);
    assert!(
        started
            .windows(2)
            .all(|pair| pair[1] >= pair[0] + Duration::from_secs(2)),
        "{started:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_update_leaves_out_a_node_that_is_lost_meanwhile_and_comes_to_it_when_it_is_back() {
    let cluster = with_global_log().await;
    cluster.update("log", |spec| set_image(spec, "app:2")).await;
    cluster
        .change_node("n3", |node| node.status.state = NodeState::Down)
        .await;
    let completed = |cluster: &Cluster| cluster.update_state("log") == Some(UpdateState::Completed);
    cluster.until("completed", completed).await;
    let wanted = || {
        let tasks = cluster.tasks("log").into_iter();
        tasks.filter(|task| task.desired_state == TaskState::Running)
    };
    let mut nodes: Vec<String> = wanted().map(|task| task.node_id.to_string()).collect();
    nodes.sort();
    assert_eq!(nodes, ["n1", "n2"]);
    cluster
        .change_node("n3", |node| node.status.state = NodeState::Ready)
        .await;
    cluster
        .until("it is everywhere", |cluster| {
            cluster.images("log") == ["app:2"; 3]
        })
        .await;
}

/// Updates a service of two slots to an image that never becomes healthy, with a progress deadline of 30 s.
async fn update_to_sick(config: UpdateConfig) -> Cluster {
    let cluster = Cluster::of(2).await;
    let mut spec = updating(service("web", "app:1", 2), config);
    spec.labels
        .insert("shoal.update.progress-deadline".into(), "30s".into());
    cluster.create(spec).await;
    cluster.update("web", |spec| set_image(spec, "sick")).await;
    cluster
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_run_by_the_deadline_pauses_the_update() {
    let cluster = update_to_sick(config()).await;
    sleep(Duration::from_secs(29)).await;
    assert_eq!(cluster.update_state("web"), Some(UpdateState::Updating));
    cluster
        .until("paused", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Paused)
        })
        .await;
    let (_, message) = cluster.update_status("web").unwrap();
    assert!(
        message.starts_with("update paused due to task ") && message.ends_with(" not running after 30s"),
        "{message}"
    );
    assert_eq!(cluster.images("web"), ["app:1"], "the other slot is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_run_by_the_deadline_rolls_the_update_back() {
    for order in [UpdateOrder::StopFirst, UpdateOrder::StartFirst] {
        let cluster = update_to_sick(UpdateConfig {
            failure_action: FailureAction::Rollback,
            order,
            ..config()
        })
        .await;
        cluster
            .until("rolled back", |cluster| {
                cluster.update_state("web") == Some(UpdateState::RollbackCompleted)
            })
            .await;
        assert_eq!(cluster.images("web"), ["app:1", "app:1"]);
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_goes_on_whatever_happens_goes_on_past_the_deadline() {
    let cluster = update_to_sick(UpdateConfig {
        failure_action: FailureAction::Continue,
        ..config()
    })
    .await;
    cluster
        .until("both slots are done", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.running("web").len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_slow_task_is_in_time_when_the_deadline_allows_it() {
    let cluster = update_to_sick(config()).await;
    settle().await;
    cluster.update("web", |spec| set_image(spec, "slow")).await;
    cluster
        .until("completed", |cluster| {
            cluster.update_state("web") == Some(UpdateState::Completed)
        })
        .await;
    assert_eq!(cluster.images("web"), ["slow", "slow"]);
}
