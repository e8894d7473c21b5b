//! Nodes that are drained, paused, lost, changed, or missing.

use proto::TaskState;
use proto::object::NodeState;
use proto::spec::{Availability, Placement, Reservations, ResourceRequirements};

use super::harness::{Cluster, add_node, service, settle};

#[tokio::test(start_paused = true)]
async fn the_tasks_of_a_drained_node_run_elsewhere_without_delay() {
    let cluster = Cluster::of(2).await;
    cluster.create(service("web", "app", 4)).await;
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Drain)
        .await;
    assert_eq!(cluster.spread("web"), [("n1".into(), 4)]);
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Active)
        .await;
    assert_eq!(
        cluster.spread("web"),
        [("n1".into(), 4)],
        "nothing moves back by itself"
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
