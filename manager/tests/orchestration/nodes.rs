//! Nodes that are drained, paused, lost, changed, or missing.

use std::time::Duration;

use manager::state::Reader;
use proto::object::NodeState;
use proto::spec::{
    Availability, Placement, Reservations, ResourceRequirements, RestartCondition, RestartPolicy,
};
use proto::{ServiceSpec, TaskState};
use tokio::time::sleep;

use super::harness::{Cluster, add_node, restart, seconds, service, set_image, settle};

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_drained_node_run_elsewhere_without_delay() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 4)).await;
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Drain)
        .await;
    settle().await;
    assert_eq!(cluster.spread("web"), [("n1".into(), 4)]);
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Active)
        .await;
    assert_eq!(
        cluster.spread("web"),
        [("n1".into(), 4)],
        "nothing moves back at once"
    );
}

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_lost_node_run_elsewhere_and_stop_when_it_returns() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 4)).await;
    cluster
        .change_node("n2", |node| node.status.state = NodeState::Down)
        .await;
    assert_eq!(cluster.spread("web"), [("n1".into(), 4)]);
    let lost = cluster
        .tasks("web")
        .into_iter()
        .filter(|task| task.node_id.as_str() == "n2");
    assert!(
        lost.into_iter()
            .all(|task| task.desired_state == TaskState::Shutdown)
    );
}

#[tokio::test(start_paused = true)]
async fn a_paused_node_keeps_its_tasks_and_gets_no_new_ones() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 2)).await;
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Pause)
        .await;
    cluster
        .update("web", |spec| spec.mode = proto::spec::ServiceMode::replicated(4))
        .await;
    settle().await;
    assert_eq!(cluster.spread("web"), [("n1".into(), 3), ("n2".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_task_without_a_node_says_why_and_is_placed_when_one_comes() {
    let cluster = Cluster::of(2).await;
    let mut spec = service("big", "app", 2);
    spec.task_template.resources = Some(ResourceRequirements {
        reservations: Some(Reservations {
            memory_bytes: 6 << 30,
            ..Reservations::default()
        }),
        ..ResourceRequirements::default()
    });
    cluster.create(spec.clone()).await;
    assert_eq!(cluster.running("big").len(), 2);
    spec.name = "bigger".into();
    cluster.create(spec).await;
    let waiting = cluster.tasks("bigger");
    assert!(waiting.iter().all(|task| {
        task.status.state == TaskState::Pending
            && task.status.err == "no suitable node (insufficient resources on 2 nodes)"
            && task.status.message == "pending task scheduling"
    }));
    add_node(&cluster.store, 3).await;
    settle().await;
    assert_eq!(cluster.spread("bigger"), [("n3".into(), 1)]);
    cluster.control.remove_service("big").await.unwrap();
    settle().await;
    settle().await;
    assert_eq!(
        cluster.running("bigger").len(),
        2,
        "room that is given back is used"
    );
}

#[tokio::test(start_paused = true)]
async fn a_task_moves_away_when_its_node_loses_the_label_that_it_asks_for() {
    let cluster = Cluster::of(2).await;
    cluster
        .change_node("n1", |node| {
            drop(node.spec.labels.insert("disk".into(), "ssd".into()))
        })
        .await;
    let mut spec = service("db", "app", 1);
    spec.task_template.placement = Some(Placement {
        constraints: vec!["node.labels.disk==ssd".into()],
        ..Placement::default()
    });
    cluster.create(spec).await;
    assert_eq!(cluster.spread("db"), [("n1".into(), 1)]);
    cluster.change_node("n1", |node| node.spec.labels.clear()).await;
    assert_eq!(cluster.spread("db"), []);
    let waits = cluster.tasks("db").pop().unwrap();
    assert_eq!(
        waits.status.err,
        "no suitable node (scheduling constraints not satisfied on 2 nodes)"
    );
    cluster
        .change_node("n2", |node| {
            drop(node.spec.labels.insert("disk".into(), "ssd".into()))
        })
        .await;
    assert_eq!(cluster.spread("db"), [("n2".into(), 1)]);
}

/// A cluster of two nodes with a task of the service on each, of which `n2` is drained.
async fn drained(spec: ServiceSpec) -> Cluster {
    let cluster = Cluster::of(2).await;
    cluster.create(spec).await;
    cluster
        .until("it runs on both", |cluster| cluster.spread("web").len() == 2)
        .await;
    drain(&cluster, true).await;
    cluster
}

async fn drain(cluster: &Cluster, on: bool) {
    let availability = if on {
        Availability::Drain
    } else {
        Availability::Active
    };
    cluster
        .store
        .update(|tx| tx.modify::<proto::Node>("n2", |node| node.spec.availability = availability))
        .await
        .unwrap();
}

/// Follows the number of running tasks until all of them are on `n1`; the least that it was.
async fn least_while_moving(cluster: &Cluster) -> usize {
    let least = std::sync::Mutex::new(usize::MAX);
    cluster
        .until("all is on n1", |cluster| {
            let running = cluster.tasks("web");
            let running = running
                .iter()
                .filter(|task| task.status.state == TaskState::Running);
            let mut least = least.lock().unwrap();
            *least = (*least).min(running.count());
            cluster.spread("web") == [("n1".into(), 2)]
        })
        .await;
    least.into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn tasks_that_nobody_can_tell_apart_leave_a_drained_node_when_their_replacements_run() {
    let cluster = drained(service("web", "slow", 2)).await;
    assert_eq!(least_while_moving(&cluster).await, 2);
}

#[tokio::test(start_paused = true)]
async fn a_service_that_asks_for_it_stops_first_on_a_drained_node() {
    let mut spec = service("web", "slow", 2);
    spec.labels
        .insert("shoal.drain.order".into(), "stop-first".into());
    let cluster = drained(spec).await;
    assert_eq!(least_while_moving(&cluster).await, 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_of_a_drained_node_is_stopped_at_the_deadline_whether_it_is_replaced_or_not() {
    for (label, expected) in [(None, 60), (Some("20s"), 20)] {
        let mut spec = service("web", "app", 2);
        if let Some(deadline) = label {
            spec.labels.insert("shoal.drain.deadline".into(), deadline.into());
        }
        spec.task_template.placement = Some(Placement {
            max_replicas: 1,
            ..Placement::default()
        });
        let cluster = drained(spec).await;
        let waited = cluster
            .until("n2 is empty", |cluster| {
                cluster.spread("web") == [("n1".into(), 1)]
            })
            .await;
        assert_eq!(
            waited.as_secs(),
            expected,
            "no other node takes it, and it goes on until then"
        );
        drain(&cluster, false).await;
        settle().await;
        assert_eq!(cluster.slots("web"), [1, 2], "its replacement waits for a node");
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_says_how_long_its_tasks_may_wait_and_a_new_leader_does_not_begin_anew() {
    let cluster = Cluster::of(2).await;
    let mut spec = service("web", "app", 2);
    spec.task_template.placement = Some(Placement {
        max_replicas: 1,
        ..Placement::default()
    });
    cluster.create(spec).await;
    cluster
        .change_node("n2", |node| {
            drop(
                node.spec
                    .labels
                    .insert("shoal.drain.deadline".into(), "30s".into()),
            );
            node.spec.availability = Availability::Drain;
        })
        .await;
    let store = cluster.store.clone();
    drop(cluster);
    let cluster = Cluster::over(store);
    let made = cluster.tasks("web").len();
    sleep(Duration::from_secs(25)).await;
    assert_eq!(cluster.spread("web").len(), 2);
    assert_eq!(
        cluster.tasks("web").len(),
        made,
        "it knows that the replacement is there"
    );
    sleep(Duration::from_secs(6)).await;
    assert_eq!(cluster.spread("web"), [("n1".into(), 1)]);
}

#[tokio::test(start_paused = true)]
async fn a_replacement_that_fails_is_made_again_with_the_delay_of_the_policy_and_the_old_task_goes_on() {
    let policy = RestartPolicy {
        condition: RestartCondition::Any,
        delay: Some(seconds(10)),
        ..RestartPolicy::default()
    };
    let cluster = Cluster::of(2).await;
    cluster.create(restart(service("web", "app", 2), policy)).await;
    // What is made from now on fails, and what runs is not touched.
    cluster
        .store
        .update(|tx| {
            let id = tx.all::<proto::Service>()[0].id.clone();
            tx.modify::<proto::Service>(id.as_str(), |service| {
                set_image(&mut service.spec, "bad");
                service.update_status = Some(proto::object::UpdateStatus {
                    state: proto::object::UpdateState::Paused,
                    ..Default::default()
                });
            })
        })
        .await
        .unwrap();
    drain(&cluster, true).await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(cluster.spread("web").len(), 2, "the old task goes on");
    let failed = cluster.tasks("web");
    let failed = failed
        .iter()
        .filter(|task| task.status.state == TaskState::Failed)
        .count();
    assert_eq!(failed, 3, "at once, after 10 s and after 20 s");
}

#[tokio::test(start_paused = true)]
async fn tasks_of_a_node_that_has_been_down_for_a_day_are_given_up() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 2)).await;
    let down = |cluster: &Cluster, state| {
        let store = cluster.store.clone();
        async move {
            store
                .update(|tx| tx.modify::<proto::Node>("n2", |node| node.status.state = state))
                .await
                .unwrap();
        }
    };
    let orphaned = |cluster: &Cluster| {
        let tasks = cluster.tasks("web");
        tasks
            .iter()
            .filter(|task| task.status.state == TaskState::Orphaned)
            .count()
    };
    let hours = |count: u64| sleep(Duration::from_secs(count * 3600));
    down(&cluster, NodeState::Down).await;
    hours(23).await;
    assert_eq!(
        (orphaned(&cluster), cluster.spread("web")),
        (0, vec![("n1".into(), 2)])
    );
    hours(2).await;
    assert_eq!(orphaned(&cluster), 1);
    assert_eq!(
        cluster.spread("web"),
        [("n1".into(), 2)],
        "what replaced it is left alone"
    );

    // A node that comes back in time keeps its word.
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 2)).await;
    down(&cluster, NodeState::Down).await;
    hours(23).await;
    down(&cluster, NodeState::Ready).await;
    down(&cluster, NodeState::Down).await;
    hours(2).await;
    assert_eq!(orphaned(&cluster), 0);
}
