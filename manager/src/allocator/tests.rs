//! The allocator over a store: everything gets its share, nothing is given twice, nothing leaks.

use std::collections::HashMap;
use std::time::Duration;

use proptest::prelude::*;
use proto::object::TaskStatus;
use proto::spec::{
    EndpointMode, EndpointSpec, IpamConfig, IpamOptions, NetworkAttachmentConfig, NetworkSpec, PortConfig,
};

use super::*;

pub(super) fn network(id: &str, subnet: &str, ingress: bool) -> Network {
    let config = IpamConfig {
        subnet: subnet.to_owned(),
        ..IpamConfig::default()
    };
    let ipam = IpamOptions {
        configs: vec![config],
        ..IpamOptions::default()
    };
    let ipam_options = (!subnet.is_empty()).then_some(ipam);
    let spec = NetworkSpec {
        name: format!("name-{id}"),
        ingress,
        ipam_options,
        ..NetworkSpec::default()
    };
    Network {
        id: id.into(),
        spec,
        ..Network::default()
    }
}

pub(super) fn service(id: &str, networks: &[&str], ports: &[PortConfig]) -> Service {
    let mut service = Service {
        id: id.into(),
        ..Service::default()
    };
    service.spec.name = format!("name-{id}");
    let attach = |id: &&str| NetworkAttachmentConfig {
        target: (*id).to_owned(),
        ..NetworkAttachmentConfig::default()
    };
    service.spec.task_template.networks = networks.iter().map(attach).collect();
    service.spec.endpoint_spec = Some(EndpointSpec {
        ports: ports.to_vec(),
        ..EndpointSpec::default()
    });
    service
}

pub(super) fn task(id: &str, service: &Service) -> Task {
    Task {
        id: id.into(),
        service_id: service.id.clone(),
        service_name: service.spec.name.clone(),
        slot: 1,
        spec: service.spec.task_template.clone().into(),
        desired_state: TaskState::Running,
        ..Task::default()
    }
}

fn port(target: u16, published: u16) -> PortConfig {
    PortConfig {
        target_port: target,
        published_port: published,
        ..PortConfig::default()
    }
}

pub(super) async fn create<T: crate::state::StoreObject>(store: &Store, object: T) {
    store.update(|tx| tx.create(object)).await.unwrap();
}

/// One allocator that works whenever it is asked to.
pub(super) struct Bench {
    pub(super) store: Store,
    allocator: Allocator,
    events: WatchStream,
}

impl Bench {
    pub(super) fn new() -> Self {
        Self::over(Store::in_memory())
    }

    /// An allocator that begins with what the store says.
    pub(super) fn over(store: Store) -> Self {
        let filter = Filter::kinds(&[Kind::Network, Kind::Service, Kind::Task, Kind::Node]);
        let (allocator, events) = store.view_and_watch(filter, |tx| Allocator::load(&tx));
        Self {
            store,
            allocator,
            events,
        }
    }

    /// Until nothing changes any more.
    pub(super) async fn settle(&mut self) {
        loop {
            while let Some(event) = self.events.try_next() {
                self.allocator.note(&event);
            }
            if self.allocator.todo.is_empty() {
                return;
            }
            self.allocator.work(&self.store, &mut self.events).await.unwrap();
        }
    }

    pub(super) fn task(&self, id: &str) -> std::sync::Arc<Task> {
        self.store.view(|tx| tx.get::<Task>(id)).unwrap()
    }

    pub(super) fn service(&self, id: &str) -> std::sync::Arc<Service> {
        self.store.view(|tx| tx.get::<Service>(id)).unwrap()
    }
}

#[tokio::test]
async fn a_task_goes_from_new_to_pending_with_its_addresses() {
    let mut bench = Bench::new();
    let web = service("s", &["n"], &[port(80, 8080), port(81, 0)]);
    create(&bench.store, task("t", &web)).await;
    create(&bench.store, web).await;
    bench.settle().await;
    assert_eq!(bench.task("t").status.err, "network n not found");
    create(&bench.store, network("n", "", false)).await;
    create(&bench.store, network("z", "", true)).await;
    bench.settle().await;

    let task = bench.task("t");
    assert_eq!(
        (task.status.state, task.status.err.as_str()),
        (TaskState::Pending, "")
    );
    let addresses: Vec<_> = task
        .networks_attachments
        .iter()
        .map(|on| on.addresses[0].as_str())
        .collect();
    assert_eq!(addresses, ["10.0.0.3/24", "10.0.1.3/24"]);
    let service = bench.service("s");
    let ports: Vec<_> = service
        .endpoint
        .ports
        .iter()
        .map(|port| port.published_port)
        .collect();
    assert_eq!(ports, [8080, 30000]);
    let vips: Vec<_> = service
        .endpoint
        .virtual_ips
        .iter()
        .map(|vip| vip.addr.as_str())
        .collect();
    assert_eq!(vips, ["10.0.0.2/24", "10.0.1.2/24"]);
}

#[tokio::test]
async fn a_network_with_ipv6_gives_an_address_of_each_version() {
    let mut bench = Bench::new();
    let mut dual = network("n", "10.1.0.0/24", false);
    dual.spec.ipv6_enabled = true;
    create(&bench.store, dual).await;
    let web = service("s", &["n"], &[]);
    create(&bench.store, task("t", &web)).await;
    create(&bench.store, web).await;
    bench.settle().await;
    let pools = bench
        .store
        .view(|tx| tx.get::<Network>("n"))
        .unwrap()
        .ipam
        .configs
        .clone();
    let subnet: ipnet::Ipv6Net = pools[1].subnet.parse().unwrap();
    assert_eq!((pools.len(), subnet.prefix_len()), (2, 64));
    let vips = bench.service("s").endpoint.virtual_ips.clone();
    let task = bench.task("t");
    let addresses = &task.networks_attachments[0].addresses;
    assert_eq!(task.status.state, TaskState::Pending);
    for pair in [[&vips[0].addr, &vips[1].addr], [&addresses[0], &addresses[1]]] {
        assert!(
            pair[0].starts_with("10.1.0.") && pair[1].ends_with("/64"),
            "{pair:?}"
        );
        let address: ipnet::Ipv6Net = pair[1].parse().unwrap();
        assert!(subnet.contains(&address.addr()));
    }
    assert_ne!(vips[1].addr, addresses[1]);
}

#[tokio::test]
async fn an_update_keeps_what_it_can() {
    let mut bench = Bench::new();
    create(&bench.store, network("a", "", false)).await;
    create(&bench.store, network("b", "", false)).await;
    create(&bench.store, network("z", "", true)).await;
    create(&bench.store, service("s", &["a"], &[port(80, 0)])).await;
    bench.settle().await;
    let before = bench.service("s").endpoint.clone();
    let change = service("s", &["b", "a"], &[port(81, 0), port(80, 0)]).spec;
    bench
        .store
        .update(|tx| tx.modify("s", |s: &mut Service| s.spec = change))
        .await
        .unwrap();
    bench.settle().await;
    let after = bench.service("s").endpoint.clone();
    assert_eq!(after.virtual_ips[1], before.virtual_ips[0]);
    assert_eq!(after.ports[1], before.ports[0]);
    assert_ne!(after.ports[0].published_port, after.ports[1].published_port);

    let change = EndpointSpec {
        mode: EndpointMode::Dnsrr,
        ports: vec![],
    };
    bench
        .store
        .update(|tx| tx.modify("s", |s: &mut Service| s.spec.endpoint_spec = Some(change)))
        .await
        .unwrap();
    bench.settle().await;
    assert!(bench.service("s").endpoint.virtual_ips.is_empty());
}

#[tokio::test]
async fn exhaustion_is_told_and_ends_when_something_is_given_back() {
    let mut bench = Bench::new();
    create(&bench.store, network("n", "10.7.0.0/29", false)).await;
    let web = service("s", &["n"], &[]);
    create(&bench.store, web.clone()).await;
    // .1 is the gateway, .2 the service; four are left.
    for n in 0..5 {
        create(&bench.store, task(&format!("t{n}"), &web)).await;
    }
    bench.settle().await;
    let late = bench.task("t4");
    assert_eq!(late.status.state, TaskState::New);
    assert_eq!(
        late.status.err,
        "no free address in network name-n (10.7.0.0/29); remove tasks or services, or use a larger subnet"
    );
    let end = |task: &mut Task| task.status.state = TaskState::Failed;
    bench.store.update(|tx| tx.modify("t1", end)).await.unwrap();
    bench.settle().await;
    assert_eq!(bench.task("t4").status.state, TaskState::Pending);
    assert_eq!(
        bench.task("t4").networks_attachments[0].addresses,
        bench.task("t1").networks_attachments[0].addresses
    );
}

#[tokio::test]
async fn an_overfull_pool_is_told_on_the_network() {
    let mut bench = Bench::new();
    let cluster = proto::Cluster {
        id: "c".into(),
        default_addr_pool: vec!["10.9.0.0/24".into()],
        subnet_size: 25,
        ..proto::Cluster::default()
    };
    create(&bench.store, cluster).await;
    for id in ["a", "b", "c"] {
        create(&bench.store, network(id, "", false)).await;
    }
    bench.settle().await;
    let third = bench.store.view(|tx| tx.get::<Network>("c")).unwrap();
    assert!(
        third
            .err
            .starts_with("no free subnet in the address pools 10.9.0.0/24"),
        "{}",
        third.err
    );
    bench.store.update(|tx| tx.remove::<Network>("a")).await.unwrap();
    bench.settle().await;
    let third = bench.store.view(|tx| tx.get::<Network>("c")).unwrap();
    assert_eq!(
        (third.err.as_str(), third.ipam.configs[0].subnet.as_str()),
        ("", "10.9.0.0/25")
    );
}

#[tokio::test]
async fn a_new_leader_goes_on_from_the_store() {
    let mut bench = Bench::new();
    create(&bench.store, network("n", "10.7.0.0/29", false)).await;
    let web = service("s", &["n"], &[]);
    create(&bench.store, web.clone()).await;
    for n in 0..5 {
        create(&bench.store, task(&format!("t{n}"), &web)).await;
    }
    bench.settle().await;
    bench.store.update(|tx| tx.remove::<Task>("t0")).await.unwrap();

    let run = tokio::spawn(run(bench.store.clone()));
    let done = || bench.task("t4").status.state == TaskState::Pending;
    for _ in 0..500 {
        if done() {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    run.abort();
    assert!(done());
}

/// One step of a random history.
#[derive(Debug, Clone)]
enum Step {
    AddTask(u8, u8),
    EndTask(u8),
    RemoveTask(u8),
    AddService(u8),
    RemoveService(u8),
    Settle,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (0u8..30, 0u8..3).prop_map(|(task, service)| Step::AddTask(task, service)),
        2 => (0u8..30).prop_map(Step::EndTask),
        2 => (0u8..30).prop_map(Step::RemoveTask),
        2 => (0u8..3).prop_map(Step::AddService),
        1 => (0u8..3).prop_map(Step::RemoveService),
        3 => Just(Step::Settle),
    ];
    proptest::collection::vec(step, 0..80)
}

async fn take(bench: &mut Bench, step: Step) {
    let plain = |n: u8| service(&format!("s{n}"), &["n", "m"], &[]);
    // Steps that do not apply change nothing.
    let _: Result<(), StoreError> = match step {
        Step::AddTask(id, of) => {
            bench
                .store
                .update(|tx| tx.create(task(&format!("t{id}"), &plain(of))))
                .await
        }
        Step::EndTask(id) => {
            let ended = TaskStatus {
                state: TaskState::Complete,
                ..TaskStatus::default()
            };
            bench
                .store
                .update(|tx| tx.modify(format!("t{id}"), |t: &mut Task| t.status = ended))
                .await
        }
        Step::RemoveTask(id) => bench.store.update(|tx| tx.remove::<Task>(format!("t{id}"))).await,
        Step::AddService(n) => bench.store.update(|tx| tx.create(plain(n))).await,
        Step::RemoveService(n) => {
            bench
                .store
                .update(|tx| tx.remove::<Service>(format!("s{n}")))
                .await
        }
        Step::Settle => {
            bench.settle().await;
            Ok(())
        }
    };
}

/// Nobody holds what another holds; nobody waits while an address is free.
fn check(bench: &Bench) {
    let mut held: HashMap<(NetworkId, String), String> = HashMap::new();
    let mut hold = |network: &NetworkId, address: &str, holder: String| {
        let before = held.insert((network.clone(), address.to_owned()), holder.clone());
        assert_eq!(before, None, "{address} is held by {holder} too");
        assert!(
            !address.starts_with("10.7.0.1/"),
            "{holder} has the gateway's address"
        );
    };
    let (services, tasks) = bench.store.view(|tx| (tx.all::<Service>(), tx.all::<Task>()));
    for service in &services {
        service
            .endpoint
            .virtual_ips
            .iter()
            .for_each(|vip| hold(&vip.network_id, &vip.addr, service.spec.name.clone()));
    }
    for task in tasks.iter().filter(|task| !task.status.state.is_terminal()) {
        for on in &task.networks_attachments {
            on.addresses
                .iter()
                .for_each(|address| hold(&on.network.id, address, task.id.to_string()));
        }
    }
    let small = held.keys().filter(|(network, _)| network.as_str() == "n").count();
    let waits = tasks.iter().any(|task| task.status.state == TaskState::New);
    assert!(
        !waits || small == 13,
        "somebody waits while {small} of 13 addresses are held"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn no_address_is_given_twice_and_none_leaks(history in steps()) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut bench = Bench::new();
            create(&bench.store, network("n", "10.7.0.0/28", false)).await;
            create(&bench.store, network("m", "10.8.0.0/24", false)).await;
            for step in history {
                take(&mut bench, step).await;
            }
            bench.settle().await;
            check(&bench);
        });
    }
}
