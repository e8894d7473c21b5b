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

/// Network `n` with 10.7.0.0/24 and fd00:7::/64.
async fn with_both_versions() -> Bench {
    let bench = Bench::new();
    let mut both = network("n", "10.7.0.0/24", false);
    both.spec.ipv6_enabled = true;
    let six = proto::spec::IpamConfig {
        subnet: "fd00:7::/64".into(),
        ..proto::spec::IpamConfig::default()
    };
    both.spec.ipam_options.get_or_insert_default().configs.push(six);
    create(&bench.store, both).await;
    bench
}

/// A place that asks for these addresses.
fn place_at(id: &str, addresses: &[&str]) -> Task {
    let mut place = place(id, None, "");
    let mut spec = proto::TaskSpec::clone(&place.spec);
    spec.networks[0].addresses = addresses.iter().map(|&text| text.into()).collect();
    place.spec = spec.into();
    place
}

fn both(bench: &Bench, id: &str) -> (String, String) {
    let task = bench.task(id);
    match task.networks_attachments.first() {
        Some(on) => (on.addresses[0].clone(), on.addresses[1].clone()),
        None => (task.status.err.clone(), String::new()),
    }
}

fn pair(v4: &str, v6: &str) -> (String, String) {
    (v4.into(), v6.into())
}

#[tokio::test]
async fn an_ipv6_address_that_is_asked_for_is_nobody_elses() {
    let mut bench = with_both_versions().await;
    create(&bench.store, place_at("far", &["fd00:7::1234"])).await;
    create(&bench.store, place_at("near", &["10.7.0.9", "fd00:7::3"])).await;
    bench.settle().await;
    assert_eq!(both(&bench, "far"), pair("10.7.0.2/24", "fd00:7::1234/64"));
    assert_eq!(both(&bench, "near"), pair("10.7.0.9/24", "fd00:7::3/64"));
    // What would go with 10.7.0.3 is taken: nobody gets that; and who asks for it hears why not.
    create(&bench.store, place("any", None, "")).await;
    create(&bench.store, place_at("three", &["10.7.0.3"])).await;
    create(&bench.store, place_at("again", &["fd00:7::1234"])).await;
    // 10.7.0.9 goes with another: its own place is free.
    create(&bench.store, place_at("nine", &["fd00:7::9"])).await;
    bench.settle().await;
    assert_eq!(both(&bench, "any"), pair("10.7.0.4/24", "fd00:7::4/64"));
    let held = "address fd00:7::3 of network name-n is in use by container box-near";
    assert!(
        both(&bench, "three").0.starts_with(held),
        "{:?}",
        both(&bench, "three")
    );
    assert!(both(&bench, "again").0.contains("in use by container box-far"));
    assert_eq!(both(&bench, "nine").1, "fd00:7::9/64");
    // Whose address goes with an IPv4 address has it no less.
    create(&bench.store, place_at("four", &["fd00:7::4"])).await;
    create(&bench.store, place_at("gate", &["fd00:7::1"])).await;
    create(&bench.store, place_at("out", &["fd00:8::4"])).await;
    bench.settle().await;
    assert!(both(&bench, "four").0.contains("in use by container box-any"));
    for outside in ["gate", "out"] {
        assert!(
            both(&bench, outside)
                .0
                .contains("is not one of network name-n (fd00:7::/64)")
        );
    }
    // What is given back is given again, also by a manager that has just begun.
    bench.store.update(|tx| tx.remove::<Task>("near")).await.unwrap();
    let mut bench = Bench::over(bench.store);
    bench.settle().await;
    assert_eq!(both(&bench, "three"), pair("10.7.0.3/24", "fd00:7::3/64"));
    assert!(
        both(&bench, "again").0.contains("in use by container box-far"),
        "it is known from the store"
    );
}

#[tokio::test]
async fn an_ipv6_address_that_a_service_asks_for_is_kept() {
    let mut bench = with_both_versions().await;
    let fixed = asking("fixed", "fd00:7::3");
    create(&bench.store, fixed.clone()).await;
    bench.settle().await;
    for id in ["a", "b"] {
        create(&bench.store, place(id, None, "")).await;
    }
    create(&bench.store, place_at("p", &["fd00:7::3"])).await;
    bench.settle().await;
    for id in ["a", "b"] {
        assert_ne!(both(&bench, id).1, "fd00:7::3/64");
    }
    assert!(both(&bench, "p").0.contains("is kept for service name-fixed"));
    create(&bench.store, task("t", &fixed)).await;
    bench.settle().await;
    assert_eq!(both(&bench, "t").1, "fd00:7::3/64");
    let mut plain = with_network().await;
    create(&plain.store, place_at("q", &["fd00:7::3"])).await;
    plain.settle().await;
    assert_eq!(
        address(&plain, "q"),
        "address fd00:7::3: network name-n has no IPv6"
    );
}
