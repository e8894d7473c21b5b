//! What is told to those who ask before anything moves, and when it moves.

use std::time::Duration;

use proto::object::{NodeState, UpdateState, UpdateStatus};
use proto::spec::{Labels, ServiceMode};
use proto::{Cluster, Node, Service, Task, TaskState};
use tokio::time::sleep;

use super::{MOST_MOVES, SETTLE, preview, run};
use crate::state::{Reader, Store};

/// Four tasks on the first of two nodes.
async fn uneven(labels: &[(&str, &str)]) -> Store {
    let store = Store::in_memory();
    let mut service = Service {
        id: "s".into(),
        ..Service::default()
    };
    service.spec.name = "web".into();
    service.spec.mode = ServiceMode::replicated(4);
    let owned = |(key, value): &(&str, &str)| ((*key).to_owned(), (*value).to_owned());
    service.spec.labels = labels.iter().map(owned).collect::<Labels>();
    let written = store.update(|tx| {
        for id in ["a", "b"] {
            let mut node = Node {
                id: id.into(),
                ..Node::default()
            };
            node.description.hostname = format!("host-{id}");
            node.status.state = NodeState::Ready;
            tx.create(node)?;
        }
        for slot in 1..=4u64 {
            let mut task = Task {
                id: format!("t{slot}").into(),
                service_id: "s".into(),
                slot,
                node_id: "a".into(),
                desired_state: TaskState::Running,
                ..Task::default()
            };
            task.status.state = TaskState::Running;
            tx.create(task)?;
        }
        tx.create(service)
    });
    written.await.unwrap();
    store
}

#[tokio::test]
async fn the_plan_names_tasks_and_hosts() {
    let plan = uneven(&[]).await.view(|tx| preview(&tx));
    let moves: Vec<_> = plan
        .moves
        .iter()
        .map(|one| (one.task_id.as_str(), one.from.as_str(), one.to.as_str()))
        .collect();
    assert_eq!(moves, [("t4", "host-a", "host-b"), ("t3", "host-a", "host-b")]);
    assert!(plan.unmoved.is_empty());
}

#[tokio::test]
async fn what_stays_uneven_says_why() {
    for (label, value, reason) in [
        ("shoal.rebalance", "off", "shoal.rebalance is off"),
        ("shoal.drain.order", "stop-first", "may not overlap"),
        ("shoal.placement.strategy", "binpack", "not placed by spreading"),
    ] {
        let plan = uneven(&[(label, value)]).await.view(|tx| preview(&tx));
        assert!(plan.moves.is_empty());
        assert!(plan.unmoved[0].reason.contains(reason), "{plan:?}");
    }
}

/// A rebalancer that has just begun: nodes and services are not at rest yet.
async fn begun(store: &Store) {
    let cluster = Cluster {
        id: "c".into(),
        ..Cluster::default()
    };
    store.update(|tx| tx.create(cluster)).await.unwrap();
    tokio::spawn(run(store.clone()));
    sleep(Duration::from_secs(1)).await;
}

async fn ask(store: &Store) {
    let asked = store.update(|tx| tx.modify::<Cluster>("c", |cluster| cluster.rebalances += 1));
    asked.await.unwrap();
    sleep(Duration::from_secs(2)).await;
}

/// Where tasks move to.
fn moving(store: &Store) -> Vec<String> {
    let tasks = store.view(|tx| tx.all::<Task>());
    let new = tasks.iter().filter(|task| task.takes_over.is_some());
    new.map(|task| task.node_id.to_string()).collect()
}

#[tokio::test(start_paused = true)]
async fn what_a_user_asks_for_moves_at_once_and_what_nobody_asked_for_when_there_is_rest() {
    let asked = uneven(&[]).await;
    begun(&asked).await;
    ask(&asked).await;
    assert_eq!(moving(&asked), ["b"], "one task of a service at a time");

    let left = uneven(&[]).await;
    begun(&left).await;
    sleep(SETTLE - Duration::from_secs(2)).await;
    assert!(moving(&left).is_empty());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(moving(&left), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_comes_after_the_user_has_asked_proves_itself_first() {
    let store = uneven(&[]).await;
    let away = |state| {
        let store = &store;
        async move {
            let changed = store.update(|tx| tx.modify::<Node>("b", |node| node.status.state = state));
            changed.await.unwrap();
        }
    };
    away(NodeState::Down).await;
    begun(&store).await;
    ask(&store).await;
    away(NodeState::Ready).await;
    sleep(SETTLE - Duration::from_secs(1)).await;
    assert!(moving(&store).is_empty());
    sleep(Duration::from_secs(2)).await;
    assert_eq!(moving(&store), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_does_not_interrupt_an_update() {
    let store = uneven(&[]).await;
    let update = |state| {
        let store = &store;
        let status = UpdateStatus {
            state,
            ..UpdateStatus::default()
        };
        async move {
            let changed =
                store.update(|tx| tx.modify::<Service>("s", |service| service.update_status = Some(status)));
            changed.await.unwrap();
            sleep(Duration::from_secs(2)).await;
        }
    };
    update(UpdateState::Updating).await;
    begun(&store).await;
    ask(&store).await;
    assert!(moving(&store).is_empty());
    update(UpdateState::Completed).await;
    assert_eq!(moving(&store), ["b"]);
}

#[tokio::test(start_paused = true)]
async fn who_asks_has_no_more_tasks_moved_at_a_time_than_else() {
    let store = uneven(&[]).await;
    let more = store.update(|tx| {
        let first = tx.get::<Service>("s").unwrap();
        let tasks = tx.all::<Task>();
        for number in 1..=MOST_MOVES {
            let mut service = first.as_ref().clone();
            service.id = format!("s{number}").into();
            service.spec.name = format!("web{number}");
            for task in &tasks {
                let mut task = task.as_ref().clone();
                task.id = format!("{}-{number}", task.id).into();
                task.service_id = service.id.clone();
                tx.create(task)?;
            }
            tx.create(service)?;
        }
        Ok::<_, crate::state::StoreError>(())
    });
    more.await.unwrap();
    begun(&store).await;
    ask(&store).await;
    assert_eq!(moving(&store).len(), MOST_MOVES);
}
