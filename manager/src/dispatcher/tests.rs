//! The dispatcher through its own gRPC, as a node sees it.

use proto::object::{NetworkAttachment, NetworkMember, NodeDescription, NodeState, Peer, TaskStatus};
use proto::spec::{ContainerSpec, IpamConfig, NetworkAttachmentConfig, PortConfig, SecretReference};
use proto::wire::assignment_change::Action;
use proto::wire::assignments_message::Type;
use proto::wire::{
    AcknowledgeRequest, AssignmentsMessage, AssignmentsRequest, AwaitWithdrawalRequest, HeartbeatRequest,
    NodeSubnets, NodeVolumes, SessionRequest, TaskStatusUpdate, UpdateTaskStatusRequest,
};
use proto::{Cluster, Network, Node, Secret, Service, ServiceEndpoint, Task, TaskState};
use tokio_stream::StreamExt;
use tonic::{Status, Streaming};

use proto::wire::dispatcher_client::DispatcherClient;

use super::*;
use crate::state::StoreObject;

/// What has not happened by then waits for something.
pub(super) const SOON: Duration = Duration::from_millis(50);

pub(super) async fn create<T: StoreObject>(store: &Store, object: T) {
    store.update(|tx| tx.create(object)).await.unwrap();
}

pub(super) async fn modify<T: StoreObject>(store: &Store, id: &str, change: impl FnOnce(&mut T)) {
    store.update(|tx| tx.modify(id, change)).await.unwrap();
}

/// A store with nodes `n1` and `n2`, a network, a secret, and a service whose task `t1` uses both on `n1`.
pub(super) async fn cluster() -> Store {
    let store = Store::in_memory();
    for id in ["n1", "n2"] {
        create(
            &store,
            Node {
                id: id.into(),
                ..Node::default()
            },
        )
        .await;
    }
    let mut network = Network {
        id: "net".into(),
        ..Network::default()
    };
    network.spec.name = "net".into();
    create(&store, network).await;
    for id in ["used", "unused"] {
        let mut secret = Secret {
            id: id.into(),
            ..Secret::default()
        };
        secret.spec.name = id.into();
        create(&store, secret).await;
    }
    let mut service = Service {
        id: "s".into(),
        ..Service::default()
    };
    service.spec.name = "web".into();
    let on = NetworkAttachmentConfig {
        target: "net".into(),
        ..NetworkAttachmentConfig::default()
    };
    service.spec.task_template.networks = vec![on];
    create(&store, service).await;
    create(&store, task("t1", "n1")).await;
    store
}

pub(super) fn task(id: &str, node: &str) -> Task {
    let network = Network {
        id: "net".into(),
        ..Network::default()
    };
    let attachment = NetworkAttachment {
        network,
        addresses: vec![format!("10.0.0.{}/24", id.len())],
        aliases: vec![],
    };
    let secret = SecretReference {
        secret_id: "used".into(),
        ..SecretReference::default()
    };
    let container = ContainerSpec {
        secrets: vec![secret],
        ..ContainerSpec::default()
    };
    let mut task = Task {
        id: id.into(),
        node_id: node.into(),
        service_id: "s".into(),
        service_name: "web".into(),
        slot: 1,
        networks_attachments: vec![attachment],
        desired_state: TaskState::Running,
        ..Task::default()
    };
    task.status.state = TaskState::Assigned;
    std::sync::Arc::make_mut(&mut task.spec).container_spec = Some(container);
    task
}

/// A node's side of a session.
pub(super) struct Agent {
    client: DispatcherClient<crate::remote::NodeChannel>,
    pub(super) session: String,
    _stream: Streaming<proto::wire::SessionMessage>,
}

pub(super) async fn register(dispatcher: &Dispatcher, node: &str) -> Result<Agent, Status> {
    let mut client = dispatcher.serve_in_process();
    let description = NodeDescription {
        hostname: format!("host-{node}"),
        ..NodeDescription::default()
    };
    let description = serde_json::to_vec(&description).unwrap();
    let request = SessionRequest {
        description,
        session_id: String::new(),
        node_id: node.into(),
        address: String::new(),
    };
    let mut stream = client.session(request).await?.into_inner();
    let session = stream.next().await.unwrap()?.session_id;
    Ok(Agent {
        client,
        session,
        _stream: stream,
    })
}

impl Agent {
    pub(super) async fn assignments(&mut self) -> Streaming<AssignmentsMessage> {
        let request = AssignmentsRequest {
            session_id: self.session.clone(),
            acknowledges: true,
        };
        self.client.assignments(request).await.unwrap().into_inner()
    }

    async fn acknowledge(&mut self, told: &AssignmentsMessage) {
        let request = AcknowledgeRequest {
            session_id: self.session.clone(),
            results_in: told.results_in.clone(),
        };
        self.client.acknowledge(request).await.unwrap();
    }

    pub(super) async fn report(&mut self, task: &str, state: TaskState) -> Result<(), Status> {
        let status = serde_json::to_vec(&TaskStatus {
            state,
            ..TaskStatus::default()
        })
        .unwrap();
        let updates = vec![TaskStatusUpdate {
            task_id: task.into(),
            status,
        }];
        let request = UpdateTaskStatusRequest {
            session_id: self.session.clone(),
            updates,
        };
        self.client.update_task_status(request).await.map(|_| ())
    }

    pub(super) async fn beat(&mut self) -> Result<u64, Status> {
        self.beat_with_news(None, None).await
    }

    pub(super) async fn beat_with_news(
        &mut self,
        volumes: Option<&[&str]>,
        subnets: Option<&[&str]>,
    ) -> Result<u64, Status> {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        let request = HeartbeatRequest {
            session_id: self.session.clone(),
            load: None,
            volumes: volumes.map(|volumes| NodeVolumes {
                names: names(volumes),
            }),
            data_path: Vec::new(),
            subnets: subnets.map(|subnets| NodeSubnets {
                subnets: names(subnets),
            }),
        };
        Ok(self.client.heartbeat(request).await?.into_inner().period_ms)
    }
}

/// The message's changes as words, `+task t1` or `-secret used`.
pub(super) fn words(message: &AssignmentsMessage) -> Vec<String> {
    let word = |change: &proto::wire::AssignmentChange| {
        let sign = if change.action() == Action::Update {
            '+'
        } else {
            '-'
        };
        format!("{sign}{:?} {}", change.kind(), change.id).to_lowercase()
    };
    message.changes.iter().map(word).collect()
}

pub(super) fn node_state(store: &Store, node: &str) -> NodeState {
    store.view(|tx| tx.get::<Node>(node)).unwrap().status.state
}

#[tokio::test]
async fn a_node_is_told_everything_and_then_the_changes() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
    let mut stream = agent.assignments().await;

    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(first.r#type(), Type::Complete);
    assert_eq!(
        words(&first),
        [
            "+peer n1",
            "+peer n2",
            "+secret used",
            "+network net",
            "+serviceendpoint s",
            "+task t1"
        ]
    );

    // What the node reports itself is no news to it, but the others' endpoint is.
    agent.report("t1", TaskState::Running).await.unwrap();
    let second = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (second.r#type(), second.applies_to == first.results_in),
        (Type::Incremental, true)
    );
    assert_eq!(words(&second), ["+serviceendpoint s"]);
    let endpoint: ServiceEndpoint = serde_json::from_slice(&second.changes[0].object).unwrap();
    let backend = &endpoint.backends[0];
    assert_eq!(
        (backend.task_id.as_str(), backend.addresses[0].address.to_string()),
        ("t1", "10.0.0.2".into())
    );

    create(&store, task("elsewhere", "n2")).await;
    assert_eq!(
        words(&stream.next().await.unwrap().unwrap()),
        ["+member elsewhere"]
    );
    modify(&store, "t1", |task: &mut Task| {
        task.desired_state = TaskState::Shutdown
    })
    .await;
    assert_eq!(
        words(&stream.next().await.unwrap().unwrap()),
        ["+serviceendpoint s", "+task t1"]
    );
    agent.report("t1", TaskState::Shutdown).await.unwrap();
    let fourth = stream.next().await.unwrap().unwrap();
    assert_eq!(
        words(&fourth),
        [
            "-member elsewhere",
            "-serviceendpoint s",
            "-secret used",
            "-network net"
        ]
    );
    store.update(|tx| tx.remove::<Task>("t1")).await.unwrap();
    assert_eq!(words(&stream.next().await.unwrap().unwrap()), ["-task t1"]);
}

/// What a node is told next, as words.
async fn next_words(stream: &mut Streaming<AssignmentsMessage>) -> Vec<String> {
    words(&stream.next().await.unwrap().unwrap())
}

#[tokio::test]
async fn a_task_of_another_node_is_told_from_its_assignment_until_it_has_ended() {
    let store = cluster().await;
    let mut pending = task("t22", "");
    pending.status.state = TaskState::Pending;
    create(&store, pending).await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    let mut stream = agent.assignments().await;
    assert!(!next_words(&mut stream).await.contains(&"+member t22".to_owned()));

    let state = |state| modify(&store, "t22", move |task: &mut Task| task.status.state = state);
    modify(&store, "t22", |task: &mut Task| {
        task.node_id = "n2".into();
        task.status.state = TaskState::Assigned;
    })
    .await;
    let told = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&told), ["+member t22"]);
    let member: NetworkMember = serde_json::from_slice(&told.changes[0].object).unwrap();
    let on = &member.attachments[0];
    assert_eq!(
        (
            member.node_id.as_str(),
            on.network_id.as_str(),
            on.addresses[0].to_string()
        ),
        ("n2", "net", "10.0.0.3".into())
    );
    // How far it has come is no news to others until it answers.
    state(TaskState::Preparing).await;
    state(TaskState::Running).await;
    assert_eq!(next_words(&mut stream).await, ["+serviceendpoint s"]);
    // It answers nobody new, but connections to it may be open.
    modify(&store, "t22", |task: &mut Task| {
        task.desired_state = TaskState::Shutdown
    })
    .await;
    assert_eq!(next_words(&mut stream).await, ["+serviceendpoint s"]);
    state(TaskState::Shutdown).await;
    assert_eq!(next_words(&mut stream).await, ["-member t22"]);
}

#[tokio::test]
async fn who_runs_on_a_node_that_is_given_up_answers_nobody_until_it_is_back() {
    let store = cluster().await;
    let mut remote = task("t22", "n2");
    remote.status.state = TaskState::Running;
    create(&store, remote).await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    let mut stream = agent.assignments().await;
    let backends = |message: &AssignmentsMessage| {
        let endpoint = message.changes.iter().find(|change| change.id == "s").unwrap();
        let endpoint: ServiceEndpoint = serde_json::from_slice(&endpoint.object).unwrap();
        endpoint.backends.len()
    };
    assert_eq!(backends(&stream.next().await.unwrap().unwrap()), 1);
    let set = |state| modify(&store, "n2", move |node: &mut Node| node.status.state = state);
    set(NodeState::Down).await;
    let lost = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (words(&lost), backends(&lost)),
        (vec!["+peer n2".into(), "+serviceendpoint s".into()], 0)
    );
    let is_down = |message: &AssignmentsMessage| {
        let peer = message.changes.iter().find(|change| change.id == "n2").unwrap();
        serde_json::from_slice::<Peer>(&peer.object).unwrap().down
    };
    assert!(is_down(&lost));
    set(NodeState::Ready).await;
    let back = stream.next().await.unwrap().unwrap();
    assert_eq!((is_down(&back), backends(&back)), (false, 1));
    // A leader that has just begun knows of nobody; that alone ends no service.
    set(NodeState::Unknown).await;
    store.update(|tx| tx.remove::<Node>("n2")).await.unwrap();
    let gone = stream.next().await.unwrap().unwrap();
    assert_eq!(
        (words(&gone), backends(&gone)),
        (
            vec![
                "-peer n2".into(),
                "-member t22".into(),
                "+serviceendpoint s".into()
            ],
            0
        )
    );
}

#[tokio::test]
async fn the_network_key_reaches_those_alone_who_have_something_to_encrypt() {
    let store = cluster().await;
    let key = |text: &str| proto::object::NetworkKey {
        key: text.into(),
        created_at: proto::Timestamp::now(),
    };
    let keyed = Cluster {
        id: "c".into(),
        network_key: Some(key("one")),
        ..Cluster::default()
    };
    create(&store, keyed).await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    let mut stream = agent.assignments().await;
    let told = |message: &AssignmentsMessage| words(message).contains(&"+networkkey network-key".to_owned());
    assert!(
        !told(&stream.next().await.unwrap().unwrap()),
        "nothing is encrypted"
    );
    modify(&store, "net", |network: &mut Network| {
        let driver = network.spec.driver_configuration.get_or_insert_default();
        driver.options.insert("encrypted".into(), String::new());
    })
    .await;
    assert!(told(&stream.next().await.unwrap().unwrap()), "now it is");
    modify(&store, "c", |cluster: &mut Cluster| {
        cluster.network_key = Some(key("two"))
    })
    .await;
    let next = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&next), ["+networkkey network-key"], "a new one is told");
    agent.report("t1", TaskState::Shutdown).await.unwrap();
    let last = stream.next().await.unwrap().unwrap();
    assert!(words(&last).contains(&"-networkkey network-key".to_owned()));
}

#[tokio::test]
async fn a_task_is_withdrawn_when_all_others_have_acknowledged_it() {
    let store = cluster().await;
    let mut here = task("t22", "n2");
    here.status.state = TaskState::Running;
    create(&store, here).await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let own = register(&dispatcher, "n2").await.unwrap();
    let mut other = register(&dispatcher, "n1").await.unwrap();
    let mut stream = other.assignments().await;
    let mut told = stream.next().await.unwrap().unwrap();
    other.acknowledge(&told).await;

    let withdraw = |agent: &Agent| {
        let request = AwaitWithdrawalRequest {
            session_id: agent.session.clone(),
            task_id: "t22".into(),
        };
        let mut client = agent.client.clone();
        tokio::spawn(async move { client.await_withdrawal(request).await.map(drop) })
    };
    let mut withdrawn = withdraw(&own);
    // The store does not know of it yet.
    assert!(tokio::time::timeout(SOON, &mut withdrawn).await.is_err());
    modify(&store, "t22", |task: &mut Task| task.status.withdrawn = true).await;
    told = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&told), ["+serviceendpoint s"]);
    assert!(tokio::time::timeout(SOON, &mut withdrawn).await.is_err());
    other.acknowledge(&told).await;
    withdrawn.await.unwrap().unwrap();
    // What everybody knows is answered at once; what is lost does not count.
    withdraw(&own).await.unwrap().unwrap();
    modify(&store, "t22", |task: &mut Task| task.status.withdrawn = false).await;
    stream.next().await.unwrap().unwrap();
    modify(&store, "t22", |task: &mut Task| {
        task.desired_state = TaskState::Shutdown
    })
    .await;
    let mut withdrawn = withdraw(&own);
    assert!(tokio::time::timeout(SOON, &mut withdrawn).await.is_err());
    dispatcher.shared.sessions.leave(&"n1".into()).await.unwrap();
    withdrawn.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_node_learns_of_others_tasks_only_what_it_needs() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n2").await.unwrap();
    let first = agent.assignments().await.next().await.unwrap().unwrap();
    assert_eq!(first.r#type(), Type::Complete);
    assert_eq!(words(&first), ["+peer n1", "+peer n2"]);
}

#[tokio::test]
async fn an_ingress_network_is_told_once_it_has_a_subnet() {
    let store = cluster().await;
    modify(&store, "net", |network: &mut Network| network.spec.ingress = true).await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n2").await.unwrap();
    let mut stream = agent.assignments().await;
    let first = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&first), ["+peer n1", "+peer n2"]);
    give_subnet(&store).await;
    let next = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&next)[0], "+network net");
}

async fn give_subnet(store: &Store) {
    modify(store, "net", |network: &mut Network| {
        network.ipam.configs = vec![IpamConfig {
            subnet: "10.0.0.0/24".into(),
            ..IpamConfig::default()
        }];
    })
    .await;
}

#[tokio::test]
async fn a_node_without_tasks_learns_where_published_ports_lead() {
    let store = cluster().await;
    modify(&store, "net", |network: &mut Network| network.spec.ingress = true).await;
    give_subnet(&store).await;
    modify(&store, "s", |service: &mut Service| {
        service.endpoint.ports = vec![PortConfig {
            target_port: 80,
            published_port: 8080,
            ..PortConfig::default()
        }];
    })
    .await;
    modify(&store, "t1", |task: &mut Task| {
        task.status.state = TaskState::Running
    })
    .await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n2").await.unwrap();
    let first = agent.assignments().await.next().await.unwrap().unwrap();
    assert_eq!(
        words(&first),
        [
            "+peer n1",
            "+peer n2",
            "+network net",
            "+member t1",
            "+serviceendpoint s"
        ]
    );
    let endpoint = first.changes.iter().find(|change| change.id == "s").unwrap();
    let endpoint: ServiceEndpoint = serde_json::from_slice(&endpoint.object).unwrap();
    assert_eq!(endpoint.backends[0].addresses.len(), 1);
}
