//! What is told to those who ask before anything moves.

use proto::object::NodeState;
use proto::spec::{Labels, ServiceMode};
use proto::{Node, Service, Task, TaskState};

use super::preview;
use crate::state::Store;

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
