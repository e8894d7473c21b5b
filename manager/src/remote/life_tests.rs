//! A node is lost with its tasks, and comes back.

use proto::object::NodeState;
use proto::spec::{ClusterSpec, ContainerSpec, DispatcherConfig, ServiceMode};
use proto::wire::{AssignmentsRequest, HeartbeatRequest, SessionRequest};
use proto::{Node, ServiceSpec, Task, TaskState};
use tokio_stream::StreamExt;

use super::*;
use crate::manager::{InitRequest, Manager, ManagerConfig};
use crate::state::{Event, Filter, Reader, Store};

/// Heartbeats of these tests.
const PERIOD: Duration = Duration::from_millis(200);

fn description(name: &str) -> NodeDescription {
    NodeDescription {
        hostname: name.into(),
        ..NodeDescription::default()
    }
}

/// A node at work until it is dropped: it keeps its session and does nothing else.
struct Agent {
    client: DispatcherClient<NodeChannel>,
    session_id: String,
    _heart: AbortOnDrop,
}

async fn register(mut client: DispatcherClient<NodeChannel>, node: &NodeId, name: &str) -> Agent {
    let request = SessionRequest {
        description: serde_json::to_vec(&description(name)).unwrap(),
        session_id: String::new(),
        node_id: node.to_string(),
        address: String::new(),
    };
    let mut stream = client.session(request).await.unwrap().into_inner();
    let session_id = stream.message().await.unwrap().unwrap().session_id;
    let (mut beats, id) = (client.clone(), session_id.clone());
    let heart = tokio::spawn(async move {
        let _stream = stream;
        loop {
            let request = HeartbeatRequest {
                session_id: id.clone(),
                ..HeartbeatRequest::default()
            };
            beats.heartbeat(request).await.unwrap();
            tokio::time::sleep(PERIOD / 4).await;
        }
    });
    Agent {
        client,
        session_id,
        _heart: AbortOnDrop(heart),
    }
}

/// Waits until the state is as wanted.
async fn until<R>(store: &Store, mut look: impl FnMut(&[Arc<Node>], &[Arc<Task>]) -> Option<R>) -> R {
    let mut events = store.watch(Filter::all().with_commits());
    loop {
        let (nodes, tasks) = store.view(|tx| (tx.all::<Node>(), tx.all::<Task>()));
        if let Some(found) = look(&nodes, &tasks) {
            return found;
        }
        while !matches!(events.next().await.unwrap(), Event::Commit(_)) {}
    }
}

/// The tasks on the node that are wanted, once there are so many.
async fn wanted(store: &Store, node: &NodeId, count: usize) -> Vec<Arc<Task>> {
    until(store, |_, tasks| {
        let on = tasks
            .iter()
            .filter(|task| task.node_id == *node && task.desired_state <= TaskState::Running)
            .filter(|task| task.status.state >= TaskState::Assigned);
        let on: Vec<_> = on.cloned().collect();
        (on.len() == count).then_some(on)
    })
    .await
}

#[tokio::test]
async fn a_lost_nodes_tasks_are_replaced_and_stopped_when_it_returns() {
    let home = tempfile::tempdir().unwrap();
    let config = ManagerConfig {
        state_dir: home.path().join("manager"),
        description: description("a"),
    };
    let request = InitRequest {
        listen_addr: "127.0.0.1:0".into(),
        spec: ClusterSpec {
            dispatcher: Some(DispatcherConfig {
                heartbeat_period: i64::try_from(PERIOD.as_nanos()).unwrap(),
            }),
            ..ClusterSpec::default()
        },
        ..InitRequest::default()
    };
    let manager = Manager::init(config, request).await.unwrap();
    let (control, store) = (manager.control(), manager.store());
    let a = manager.node_id().clone();
    let _a = register(manager.dispatcher(), &a, "a").await;
    let (token, dir) = (
        control.cluster().unwrap().join_tokens.worker,
        home.path().join("node"),
    );
    let remotes = [manager.listen_addr().to_string()];
    let joined = join(&dir, &remotes, &token, &description("b"), Availability::Active)
        .await
        .unwrap();
    let b = joined.node;
    let (client, remotes) = dispatcher(&dir).unwrap();
    let agent = register(client, &b, "b").await;

    let mut spec = ServiceSpec {
        name: "web".into(),
        mode: ServiceMode::replicated(4),
        ..ServiceSpec::default()
    };
    spec.task_template.container_spec = Some(ContainerSpec {
        image: "bb".into(),
        ..ContainerSpec::default()
    });
    control.create_service(spec).await.unwrap();
    wanted(store, &a, 2).await;
    let lost = wanted(store, &b, 2).await;

    drop((agent, remotes));
    until(store, |nodes, _| {
        let b = nodes.iter().find(|node| node.id == b)?;
        (b.status.state == NodeState::Down).then_some(())
    })
    .await;
    wanted(store, &a, 4).await;

    let (client, _remotes) = dispatcher(&dir).unwrap();
    let mut agent = register(client, &b, "b").await;
    assert_eq!(control.node("b").unwrap().status.state, NodeState::Ready);
    let request = AssignmentsRequest {
        session_id: agent.session_id.clone(),
        ..AssignmentsRequest::default()
    };
    let mut stream = agent.client.assignments(request).await.unwrap().into_inner();
    let complete = stream.next().await.unwrap().unwrap();
    let told: Vec<Task> = complete
        .changes
        .iter()
        .filter(|change| lost.iter().any(|task| task.id.as_str() == change.id))
        .map(|change| serde_json::from_slice(&change.object).unwrap())
        .collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|task| task.desired_state == TaskState::Shutdown));
}
