//! Addresses that are asked for: given, kept, explained.

use proto::object::{NodeState, TaskStatus};
use proto::spec::{ATTACHMENT_RUNTIME, NetworkAttachmentConfig, NetworkAttachmentSpec};

use super::tests::{Bench, create, network, service, task};
use super::*;

/// A service that asks for an address on network `n`.
fn asking(id: &str, address: &str) -> Service {
    let mut service = service(id, &["n"], &[]);
    service.spec.task_template.networks[0].addresses = vec![address.into()];
    service
}

/// A place for a container on network `n`.
fn place(id: &str, address: Option<&str>, preferred: &str) -> Task {
    let spec = proto::TaskSpec {
        runtime: ATTACHMENT_RUNTIME.into(),
        network_attachment_spec: Some(NetworkAttachmentSpec {
            container_id: format!("c-{id}"),
            preferred_address: preferred.into(),
            ..NetworkAttachmentSpec::default()
        }),
        networks: vec![NetworkAttachmentConfig {
            target: "n".into(),
            aliases: vec![format!("box-{id}")],
            addresses: address.map(str::to_owned).into_iter().collect(),
            ..NetworkAttachmentConfig::default()
        }],
        ..proto::TaskSpec::default()
    };
    Task {
        id: id.into(),
        node_id: "node".into(),
        spec: spec.into(),
        desired_state: TaskState::Running,
        ..Task::default()
    }
}

fn address(bench: &Bench, id: &str) -> String {
    let task = bench.task(id);
    let on = task.networks_attachments.first();
    on.map_or_else(|| task.status.err.clone(), |on| on.addresses[0].clone())
}

async fn with_network() -> Bench {
    let bench = Bench::new();
    create(&bench.store, network("n", "10.7.0.0/24", false)).await;
    bench
}

async fn change(bench: &Bench, id: &str, change: impl FnOnce(&mut Task)) {
    bench.store.update(|tx| tx.modify(id, change)).await.unwrap();
}

#[tokio::test]
async fn an_address_that_is_asked_for_is_kept_for_whoever_asks() {
    let mut bench = with_network().await;
    // .1 is the gateway; whoever asks for nothing gets what nobody asks for, whoever comes first.
    let fixed = asking("fixed", "10.7.0.2");
    create(&bench.store, fixed.clone()).await;
    let other = service("other", &["n"], &[]);
    create(&bench.store, other.clone()).await;
    create(&bench.store, task("a", &other)).await;
    create(&bench.store, task("b", &fixed)).await;
    bench.settle().await;
    assert_eq!(address(&bench, "b"), "10.7.0.2/24");
    let others = [
        bench.service("other").endpoint.virtual_ips[0].addr.clone(),
        bench.service("fixed").endpoint.virtual_ips[0].addr.clone(),
        address(&bench, "a"),
    ];
    assert!(!others.contains(&"10.7.0.2/24".to_owned()), "{others:?}");
    create(&bench.store, place("p", Some("10.7.0.2"), "")).await;
    bench.settle().await;
    assert_eq!(
        address(&bench, "p"),
        "address 10.7.0.2 of network name-n is kept for service name-fixed, which asks for it too"
    );
    bench.store.update(|tx| tx.remove::<Task>("b")).await.unwrap();
    bench.settle().await;
    assert_ne!(
        address(&bench, "p"),
        "10.7.0.2/24",
        "it is kept between two tasks"
    );
    bench
        .store
        .update(|tx| tx.remove::<Service>("fixed"))
        .await
        .unwrap();
    bench.settle().await;
    assert_eq!(address(&bench, "p"), "10.7.0.2/24");
}

#[tokio::test]
async fn what_cannot_be_given_is_explained() {
    let mut bench = with_network().await;
    let outside = asking("outside", "10.8.0.9");
    let gateway = asking("gateway", "10.7.0.1");
    let edge = asking("edge", "10.7.0.255");
    for (id, of) in [("t1", &outside), ("t2", &gateway), ("t3", &edge)] {
        create(&bench.store, of.clone()).await;
        create(&bench.store, task(id, of)).await;
    }
    bench.settle().await;
    assert_eq!(
        address(&bench, "t1"),
        "address 10.8.0.9 is not one of network name-n (10.7.0.0/24)"
    );
    assert_eq!(
        address(&bench, "t2"),
        "address 10.7.0.1 of network name-n is in use by the network itself: it is its gateway"
    );
    assert_eq!(
        address(&bench, "t3"),
        "address 10.7.0.255 is not one of network name-n (10.7.0.0/24)"
    );
}

#[tokio::test]
async fn of_two_services_the_second_waits_and_says_for_whom() {
    let mut bench = with_network().await;
    let (first, second) = (asking("first", "10.7.0.9"), asking("second", "10.7.0.9"));
    create(&bench.store, first.clone()).await;
    bench.settle().await;
    create(&bench.store, second.clone()).await;
    create(&bench.store, task("t2", &second)).await;
    create(&bench.store, task("t1", &first)).await;
    bench.settle().await;
    assert_eq!(address(&bench, "t1"), "10.7.0.9/24");
    assert_eq!(
        address(&bench, "t2"),
        "address 10.7.0.9 of network name-n is kept for service name-first, which asks for it too"
    );
}

#[tokio::test]
async fn a_task_leaves_its_address_when_it_has_ended_or_is_lost_with_its_node() {
    let mut bench = with_network().await;
    let mut node = Node {
        id: "node".into(),
        ..Node::default()
    };
    node.description.hostname = "host".into();
    node.status.state = NodeState::Ready;
    create(&bench.store, node).await;
    let web = asking("web", "10.7.0.9");
    create(&bench.store, web.clone()).await;
    create(&bench.store, task("t1", &web)).await;
    bench.settle().await;
    let run = |task: &mut Task| {
        task.node_id = "node".into();
        task.status.state = TaskState::Running;
        task.desired_state = TaskState::Shutdown;
    };
    change(&bench, "t1", run).await;
    create(&bench.store, task("t2", &web)).await;
    bench.settle().await;
    assert_eq!(
        address(&bench, "t2"),
        "address 10.7.0.9 of network name-n is in use by task name-web.1 on node host, which is running"
    );
    let down = |node: &mut Node| node.status.state = NodeState::Down;
    bench.store.update(|tx| tx.modify("node", down)).await.unwrap();
    bench.settle().await;
    assert_eq!(address(&bench, "t2"), "10.7.0.9/24");
    let ended = TaskStatus {
        state: TaskState::Shutdown,
        ..TaskStatus::default()
    };
    // The lost one comes back and ends: the address is not free for that.
    change(&bench, "t1", |task| task.status = ended.clone()).await;
    create(&bench.store, place("p", Some("10.7.0.9"), "")).await;
    create(&bench.store, task("t3", &web)).await;
    bench.settle().await;
    assert!(
        address(&bench, "t3").contains("in use by task"),
        "{}",
        address(&bench, "t3")
    );
    change(&bench, "t2", |task| task.status = ended).await;
    bench.settle().await;
    assert_eq!(address(&bench, "t3"), "10.7.0.9/24");
}

#[tokio::test]
async fn a_place_is_assigned_at_once_and_prefers_the_address_that_it_had() {
    let mut bench = with_network().await;
    create(&bench.store, place("p", None, "10.7.0.50")).await;
    create(&bench.store, place("q", None, "10.7.0.50")).await;
    create(&bench.store, place("r", None, "192.0.2.1")).await;
    bench.settle().await;
    let placed = bench.task("p");
    assert_eq!(placed.status.state, TaskState::Assigned);
    assert_eq!(placed.networks_attachments[0].aliases, ["box-p"]);
    assert_eq!(address(&bench, "p"), "10.7.0.50/24");
    assert_eq!(
        address(&bench, "q"),
        "10.7.0.2/24",
        "somebody has it: any other will do"
    );
    assert_eq!(address(&bench, "r"), "10.7.0.3/24");
    create(&bench.store, place("s", Some("10.7.0.50"), "")).await;
    bench.settle().await;
    assert_eq!(
        address(&bench, "s"),
        "address 10.7.0.50 of network name-n is in use by container box-p"
    );
}
