//! Services that spread again when a node has come.

use std::time::Duration;

use proto::spec::{Availability, Placement, PlacementPreference, ServiceMode, SpreadOver};
use proto::{Cluster as ClusterObject, ServiceSpec, TaskState};
use tokio::time::{Instant, sleep};

use super::harness::{Cluster, add_node, service, set_image, settle};

/// The service runs on one node, and another one joins.
async fn joined(spec: ServiceSpec) -> Cluster {
    let cluster = Cluster::of(1).await;
    cluster.create(spec).await;
    sleep(Duration::from_secs(60)).await;
    add_node(&cluster.store, 2).await;
    cluster
}

fn spread(cluster: &Cluster) -> Vec<usize> {
    cluster
        .spread("web")
        .into_iter()
        .map(|(_, count)| count)
        .collect()
}

#[tokio::test(start_paused = true)]
async fn tasks_move_to_a_new_node_one_at_a_time_when_it_has_settled_and_then_stay() {
    let cluster = joined(service("web", "slow", 5)).await;
    sleep(Duration::from_secs(25)).await;
    assert_eq!(spread(&cluster), [5], "the node has to prove itself first");
    let most = std::sync::Mutex::new(0);
    cluster
        .until("it is even", |cluster| {
            let active = cluster.tasks("web");
            let active = active
                .iter()
                .filter(|task| task.desired_state == TaskState::Running)
                .count();
            assert!(cluster.running("web").len() >= 5, "start first");
            let mut most = most.lock().unwrap();
            *most = (*most).max(active);
            spread(cluster) == [3, 2]
        })
        .await;
    assert_eq!(most.into_inner().unwrap(), 6, "one at a time");
    assert_eq!(cluster.slots("web"), [1, 2, 3, 4, 5]);
    assert_eq!(cluster.update_state("web"), None, "a move is no update");
    let tasks: Vec<_> = cluster
        .running("web")
        .iter()
        .map(|task| task.id.clone())
        .collect();
    sleep(Duration::from_secs(600)).await;
    let later: Vec<_> = cluster
        .running("web")
        .iter()
        .map(|task| task.id.clone())
        .collect();
    assert_eq!(tasks, later, "a service that is even is left alone");
}

#[tokio::test(start_paused = true)]
async fn a_service_that_does_not_want_it_or_is_even_enough_stays() {
    for (replicas, label) in [(4, Some("off")), (1, None)] {
        let mut spec = service("web", "app", replicas);
        if let Some(value) = label {
            spec.labels.insert("shoal.rebalance".into(), value.into());
        }
        let cluster = joined(spec).await;
        sleep(Duration::from_secs(300)).await;
        assert_eq!(spread(&cluster), [usize::try_from(replicas).unwrap()]);
    }
}

#[tokio::test(start_paused = true)]
async fn constraints_hold_and_preferences_come_first() {
    let mut spec = service("web", "app", 4);
    spec.task_template.placement = Some(Placement {
        constraints: vec!["node.hostname!=host2".into()],
        ..Placement::default()
    });
    let cluster = joined(spec).await;
    sleep(Duration::from_secs(300)).await;
    assert_eq!(spread(&cluster), [4]);

    let mut spec = service("web", "app", 4);
    spec.task_template.placement = Some(Placement {
        preferences: vec![PlacementPreference {
            spread: Some(SpreadOver {
                spread_descriptor: "node.labels.zone".into(),
            }),
        }],
        ..Placement::default()
    });
    let cluster = Cluster::of(2).await;
    cluster.create(spec).await;
    add_node(&cluster.store, 3).await;
    cluster
        .change_node("n3", |node| {
            drop(node.spec.labels.insert("zone".into(), "b".into()))
        })
        .await;
    cluster
        .until("as many in each zone", |cluster| {
            cluster.spread("web") == [("n1".into(), 1), ("n2".into(), 1), ("n3".into(), 2)]
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_moves_while_an_update_is_under_way_and_what_is_due_moves_after_it() {
    let mut spec = service("web", "app", 4);
    spec.update_config = Some(proto::spec::UpdateConfig {
        delay: super::harness::seconds(40),
        ..Default::default()
    });
    let cluster = joined(spec).await;
    // All of it stays on the first node, as far as the scheduler is concerned.
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Pause)
        .await;
    cluster.update("web", |spec| set_image(spec, "app:2")).await;
    settle().await;
    cluster
        .change_node("n2", |node| node.spec.availability = Availability::Active)
        .await;
    let moved = |cluster: &Cluster| cluster.tasks("web").iter().any(|task| task.takes_over.is_some());
    cluster
        .until("the update is done", |cluster| {
            assert!(!moved(cluster));
            cluster.update_state("web") == Some(proto::object::UpdateState::Completed)
        })
        .await;
    cluster
        .until("it is even", |cluster| spread(cluster) == [2, 2])
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_task_that_does_not_come_to_run_where_it_should_move_stays_and_that_is_the_end() {
    let cluster = joined(service("web", "app", 4)).await;
    // Not taken for dirty: what is made from now on never becomes healthy.
    cluster
        .store
        .update(|tx| {
            use manager::state::Reader;
            let id = tx.all::<proto::Service>()[0].id.clone();
            tx.modify::<proto::Service>(id.as_str(), |service| set_image(&mut service.spec, "sick"))
        })
        .await
        .unwrap();
    sleep(Duration::from_secs(900)).await;
    assert_eq!(spread(&cluster), [4]);
    assert_eq!(cluster.images("web"), ["app"; 4]);
    let tried = cluster.tasks("web");
    let tried = tried.iter().filter(|task| task.takes_over.is_some()).count();
    assert_eq!(tried, 1, "it is not tried for ever");
}

#[tokio::test(start_paused = true)]
async fn a_user_can_ask_for_it() {
    let cluster = Cluster::of(1).await;
    let object = ClusterObject {
        id: "c".into(),
        ..ClusterObject::default()
    };
    cluster.store.update(|tx| tx.create(object)).await.unwrap();
    let mut spec = service("web", "app", 4);
    spec.labels.insert("shoal.rebalance".into(), "off".into());
    cluster.create(spec).await;
    add_node(&cluster.store, 2).await;
    sleep(Duration::from_secs(120)).await;
    let reason = &cluster.control.rebalance_plan().unmoved[0].reason;
    assert!(reason.contains("shoal.rebalance is off"), "{reason}");
    cluster.update("web", |spec| spec.labels.clear()).await;
    sleep(Duration::from_secs(120)).await;
    assert_eq!(spread(&cluster), [4], "a label alone is no reason to move");
    assert_eq!(cluster.control.rebalance_plan().moves.len(), 2);
    cluster.control.rebalance().await.unwrap();
    cluster
        .until("it is even", |cluster| spread(cluster) == [2, 2])
        .await;
    assert!(cluster.control.rebalance_plan().moves.is_empty());
    cluster
        .update("web", |spec| spec.mode = ServiceMode::replicated(0))
        .await;
    settle().await;
    assert!(spread(&cluster).is_empty());
}

#[tokio::test(start_paused = true)]
async fn what_a_user_asks_for_does_not_wait_for_a_node_that_has_just_come() {
    let cluster = joined(service("web", "app", 4)).await;
    let object = ClusterObject {
        id: "c".into(),
        ..ClusterObject::default()
    };
    cluster.store.update(|tx| tx.create(object)).await.unwrap();
    let asked = Instant::now();
    cluster.control.rebalance().await.unwrap();
    cluster
        .until("it is even", |cluster| {
            assert!(cluster.running("web").len() >= 4, "start first");
            spread(cluster) == [2, 2]
        })
        .await;
    assert!(asked.elapsed() < Duration::from_secs(20), "{:?}", asked.elapsed());
}
