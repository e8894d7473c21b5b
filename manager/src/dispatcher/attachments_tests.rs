//! Containers that were started by hand, on the cluster's networks: the dispatcher with the allocator beside it.

use proto::object::{NetworkAttachment, NodeDescription};
use proto::spec::{IpamConfig, IpamOptions, NetworkSpec};
use proto::wire::assignment_change::Kind as WireKind;
use proto::wire::{
    AssignmentsMessage, AssignmentsRequest, AttachNetworkRequest, DetachNetworkRequest, SessionRequest,
};
use proto::{Network, Node, Task, TaskState};
use tokio_stream::StreamExt;
use tonic::{Code, Status, Streaming};

use proto::wire::dispatcher_client::DispatcherClient;

use super::*;
use crate::orchestration::Orchestration;

fn network(id: &str, subnet: &str, attachable: bool) -> Network {
    let pool = IpamConfig {
        subnet: subnet.into(),
        ..IpamConfig::default()
    };
    Network {
        id: id.into(),
        spec: NetworkSpec {
            name: format!("name-{id}"),
            attachable,
            ipam_options: (!subnet.is_empty()).then(|| IpamOptions {
                configs: vec![pool],
                ..IpamOptions::default()
            }),
            ..NetworkSpec::default()
        },
        ..Network::default()
    }
}

/// A manager with two nodes and three networks.
struct Bench {
    store: Store,
    dispatcher: Dispatcher,
    loops: tokio::task::JoinHandle<()>,
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.loops.abort();
    }
}

async fn bench() -> Bench {
    let store = Store::in_memory();
    for id in ["n1", "n2"] {
        let node = Node {
            id: id.into(),
            ..Node::default()
        };
        store.update(|tx| tx.create(node)).await.unwrap();
    }
    for network in [
        network("open", "10.7.0.0/29", true),
        network("any", "", true),
        network("closed", "10.8.0.0/24", false),
    ] {
        store.update(|tx| tx.create(network)).await.unwrap();
    }
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let loops = tokio::spawn(Orchestration::run(store.clone(), std::future::pending()));
    Bench {
        store,
        dispatcher,
        loops,
    }
}

struct Agent {
    client: DispatcherClient<crate::remote::NodeChannel>,
    session: String,
    _stream: Streaming<proto::wire::SessionMessage>,
}

impl Bench {
    async fn register(&self, node: &str) -> Agent {
        let mut client = self.dispatcher.serve_in_process();
        let request = SessionRequest {
            description: serde_json::to_vec(&NodeDescription::default()).unwrap(),
            session_id: String::new(),
            node_id: node.into(),
            address: String::new(),
        };
        let mut stream = client.session(request).await.unwrap().into_inner();
        let session = stream.next().await.unwrap().unwrap().session_id;
        Agent {
            client,
            session,
            _stream: stream,
        }
    }

    fn tasks(&self) -> Vec<Arc<Task>> {
        self.store.view(|tx| tx.all::<Task>())
    }
}

impl Agent {
    async fn attach(&mut self, container: &str, network: &str, address: &str) -> Result<String, Status> {
        let request = AttachNetworkRequest {
            session_id: self.session.clone(),
            container_id: container.into(),
            network: network.into(),
            address: address.into(),
            names: vec![format!("box-{container}"), "alias".into()],
            ..AttachNetworkRequest::default()
        };
        let answer = self.client.attach_network(request).await?.into_inner();
        let given: NetworkAttachment = serde_json::from_slice(&answer.attachment).unwrap();
        assert!(given.network.vni().is_some() && !answer.task_id.is_empty());
        Ok(given.addresses[0].clone())
    }

    async fn detach(&mut self, container: &str, network: &str) -> Result<(), Status> {
        let request = DetachNetworkRequest {
            session_id: self.session.clone(),
            container_id: container.into(),
            network_id: network.into(),
        };
        self.client.detach_network(request).await.map(drop)
    }

    async fn assignments(&mut self) -> Streaming<AssignmentsMessage> {
        let request = AssignmentsRequest {
            session_id: self.session.clone(),
            ..AssignmentsRequest::default()
        };
        self.client.assignments(request).await.unwrap().into_inner()
    }
}

#[tokio::test]
async fn a_container_gets_a_place_and_the_same_one_when_it_asks_again() {
    let bench = bench().await;
    let mut agent = bench.register("n1").await;
    let first = agent.attach("c1", "name-open", "").await.unwrap();
    assert_eq!(first, "10.7.0.2/29");
    assert_eq!(
        agent.attach("c1", "open", "").await.unwrap(),
        first,
        "asked again"
    );
    assert_eq!(agent.attach("c2", "open", "").await.unwrap(), "10.7.0.3/29");
    assert_eq!(bench.tasks().len(), 2);
    // By another address it is another place.
    assert_eq!(
        agent.attach("c1", "open", "10.7.0.6").await.unwrap(),
        "10.7.0.6/29"
    );
    assert_eq!(bench.tasks().len(), 2);
    agent.attach("c1", "any", "").await.unwrap();
    agent.detach("c1", "open").await.unwrap();
    agent.detach("c1", "open").await.unwrap();
    assert_eq!(bench.tasks().len(), 2);
    agent.detach("c1", "").await.unwrap();
    agent.detach("c2", "").await.unwrap();
    assert!(bench.tasks().is_empty());
    // What another node's container has is nobody else's to take.
    agent.attach("c1", "open", "10.7.0.5").await.unwrap();
    bench.register("n2").await.detach("c1", "").await.unwrap();
    assert_eq!(bench.tasks().len(), 1);
}

#[tokio::test]
async fn what_cannot_be_given_is_refused_and_leaves_nothing() {
    let bench = bench().await;
    let mut agent = bench.register("n1").await;
    let refused = |answer: Result<String, Status>| {
        let status = answer.unwrap_err();
        (status.code(), status.message().to_owned())
    };
    assert_eq!(
        refused(agent.attach("c", "name-closed", "").await),
        (
            Code::PermissionDenied,
            "network name-closed not manually attachable".into()
        )
    );
    assert_eq!(
        refused(agent.attach("c", "nosuch", "").await),
        (Code::NotFound, "network nosuch not found".into())
    );
    let (code, message) = refused(agent.attach("c", "any", "10.0.0.9").await);
    assert_eq!(code, Code::InvalidArgument);
    assert!(message.contains("only when connecting to networks with user configured subnets"));
    agent.attach("taken", "open", "10.7.0.4").await.unwrap();
    assert_eq!(
        refused(agent.attach("c", "open", "10.7.0.4").await),
        (
            Code::FailedPrecondition,
            "address 10.7.0.4 of network name-open is in use by container box-taken on node ".into()
        )
    );
    for n in 0..4 {
        agent.attach(&format!("fill{n}"), "open", "").await.unwrap();
    }
    let (code, message) = refused(agent.attach("c", "open", "").await);
    assert_eq!(code, Code::FailedPrecondition);
    assert!(
        message.starts_with("no free address in network name-open"),
        "{message}"
    );
    assert_eq!(bench.tasks().len(), 5);
    agent.session = "old".into();
    let (code, _) = refused(agent.attach("c", "nosuch", "").await);
    assert_eq!(code, Code::Unavailable, "that is no word about the network");
}

#[tokio::test]
async fn the_node_is_assigned_its_place_and_the_others_learn_where_it_is() {
    let bench = bench().await;
    let (mut here, mut there) = (bench.register("n1").await, bench.register("n2").await);
    there.attach("c2", "open", "").await.unwrap();
    let mut told = there.assignments().await;
    told.next().await.unwrap().unwrap();
    here.attach("c1", "open", "10.7.0.6").await.unwrap();
    let member = loop {
        let message = told.next().await.unwrap().unwrap();
        let mut changes = message.changes.into_iter();
        if let Some(change) = changes.find(|change| change.kind() == WireKind::Member) {
            break change;
        }
    };
    let member: proto::object::NetworkMember = serde_json::from_slice(&member.object).unwrap();
    assert_eq!(member.attachments[0].names, ["box-c1", "alias"]);
    assert_eq!(member.attachments[0].addresses[0].to_string(), "10.7.0.6");

    let mut told = here.assignments().await;
    let complete = told.next().await.unwrap().unwrap();
    let kinds: Vec<_> = complete.changes.iter().map(|change| change.kind()).collect();
    for kind in [WireKind::Task, WireKind::Network, WireKind::Member] {
        assert!(kinds.contains(&kind), "{kind:?} of {kinds:?}");
    }
    let task = complete
        .changes
        .iter()
        .find(|change| change.kind() == WireKind::Task)
        .unwrap();
    let task: Task = serde_json::from_slice(&task.object).unwrap();
    assert_eq!(task.attachment().unwrap().container_id, "c1");
    assert_eq!(
        (task.status.state, task.short_name()),
        (TaskState::Assigned, "box-c1".into())
    );
}

#[tokio::test]
async fn places_are_left_alone_until_their_node_is_gone() {
    let bench = bench().await;
    let mut agent = bench.register("n1").await;
    agent.attach("c1", "open", "").await.unwrap();
    // Drained, down, up: nothing of that is a reason to take a place away.
    let drain = |node: &mut Node| node.spec.availability = proto::spec::Availability::Drain;
    bench.store.update(|tx| tx.modify("n1", drain)).await.unwrap();
    agent.attach("c2", "open", "").await.unwrap();
    let down = |node: &mut Node| node.status.state = proto::object::NodeState::Down;
    bench.store.update(|tx| tx.modify("n1", down)).await.unwrap();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let states: Vec<_> = bench.tasks().iter().map(|task| task.status.state).collect();
    assert_eq!(states, [TaskState::Assigned; 2]);
    let control = crate::Control::new(bench.store.clone());
    let error = control.remove_network("open").await.unwrap_err().to_string();
    assert!(error.contains("container box-c1 on"), "{error}");
    control.remove_node("n1", true).await.unwrap();
    let mut events = bench
        .store
        .watch(crate::state::Filter::kinds(&[crate::state::Kind::Task]));
    while !bench.tasks().is_empty() {
        events.next().await.unwrap();
    }
    control.remove_network("open").await.unwrap();
}
