//! What nodes say of themselves, and what they hear of each other.

use std::net::{IpAddr, Ipv4Addr};

use proto::Node;
use proto::object::{NodeDescription, NodeState, Peer};
use proto::wire::dispatcher_server::Dispatcher as _;
use proto::wire::{AssignmentsMessage, AssignmentsRequest};
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Status};

use super::tests::{SOON, cluster, create, modify, register, task, words};
use super::*;

/// What a node is told that is not in the manager's process.
async fn over_a_wire(
    dispatcher: &Dispatcher,
    node: &str,
    session: &str,
) -> impl Stream<Item = Result<AssignmentsMessage, Status>> {
    let mut request = Request::new(AssignmentsRequest {
        session_id: session.to_owned(),
        acknowledges: true,
    });
    let address = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let id = node.into();
    request.extensions_mut().insert(Caller::Node { id, address });
    dispatcher.assignments(request).await.unwrap().into_inner()
}

async fn join(store: &Store, id: &str) {
    let node = Node {
        id: id.into(),
        ..Node::default()
    };
    create(store, node).await;
}

#[tokio::test]
async fn what_a_node_has_is_written_when_it_is_news() {
    type Has<'a> = Option<&'a [&'a str]>;
    type Said = fn(&NodeDescription) -> &[String];
    let route: &[&str] = &["10.9.0.0/16"];
    let cases: [(Has<'_>, Has<'_>, Said); 2] = [
        (Some(&["data"]), None, |description| &description.volumes),
        (None, Some(route), |description| &description.subnets),
    ];
    for (volumes, subnets, said) in cases {
        let store = cluster().await;
        let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
        let mut agent = register(&dispatcher, "n1").await.unwrap();
        let node = || store.view(|tx| tx.get::<Node>("n1")).unwrap();
        agent.beat_with_news(volumes, subnets).await.unwrap();
        let noted = node();
        assert_eq!(said(&noted.description), volumes.or(subnets).unwrap());
        assert_eq!(noted.description.hostname, "host-n1");
        agent.beat_with_news(volumes, subnets).await.unwrap();
        agent.beat().await.unwrap();
        assert_eq!(node().meta.version, noted.meta.version);
        let none: &[&str] = &[];
        agent
            .beat_with_news(volumes.and(Some(none)), subnets.and(Some(none)))
            .await
            .unwrap();
        assert!(said(&node().description).is_empty());
    }
}

#[tokio::test]
async fn a_node_learns_who_the_others_are() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n2").await.unwrap();
    let mut stream = agent.assignments().await;
    stream.next().await.unwrap().unwrap();
    // That a leader has yet to hear of a node is no news to the others; where it is, is.
    modify(&store, "n1", |node: &mut Node| {
        node.status.state = NodeState::Unknown
    })
    .await;
    modify(&store, "n1", |node: &mut Node| {
        node.status.addr = "192.0.2.1".into()
    })
    .await;
    let moved = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&moved), ["+peer n1"]);
    let peer: Peer = serde_json::from_slice(&moved.changes[0].object).unwrap();
    assert_eq!((peer.addr.as_str(), peer.port), ("192.0.2.1", 7946));
    store.update(|tx| tx.remove::<Node>("n1")).await.unwrap();
    assert_eq!(words(&stream.next().await.unwrap().unwrap()), ["-peer n1"]);
}

#[tokio::test(start_paused = true)]
async fn of_nodes_that_come_in_a_crowd_a_node_hears_together_and_of_its_tasks_at_once() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let agent = register(&dispatcher, "n2").await.unwrap();
    let mut stream = over_a_wire(&dispatcher, "n2", &agent.session).await;
    stream.next().await.unwrap().unwrap();
    let join = async |id: &str| join(&store, id).await;
    join("c1").await;
    let first = tokio::time::timeout(SOON, stream.next()).await.unwrap();
    assert_eq!(words(&first.unwrap().unwrap()), ["+peer c1"]);
    for id in ["c2", "c3", "c4"] {
        join(id).await;
        assert!(tokio::time::timeout(SOON, stream.next()).await.is_err(), "{id}");
    }
    let crowd = stream.next().await.unwrap().unwrap();
    assert_eq!(words(&crowd), ["+peer c2", "+peer c3", "+peer c4"]);
    store.update(|tx| tx.remove::<Node>("c4")).await.unwrap();
    let removed = tokio::time::timeout(SOON, stream.next()).await.unwrap();
    assert_eq!(words(&removed.unwrap().unwrap()), ["-peer c4"]);
    join("c5").await;
    create(&store, task("t22", "n2")).await;
    let urgent = tokio::time::timeout(SOON, stream.next()).await.unwrap();
    let urgent = words(&urgent.unwrap().unwrap());
    assert!(
        urgent.contains(&"+peer c5".into()) && urgent.contains(&"+task t22".into()),
        "{urgent:?}"
    );
}

/// Users ask the manager for what the nodes have, as soon as these are there.
#[tokio::test(start_paused = true)]
async fn the_manager_s_own_node_hears_of_each_node_at_once() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n2").await.unwrap();
    let mut stream = agent.assignments().await;
    stream.next().await.unwrap().unwrap();
    for id in ["c1", "c2"] {
        join(&store, id).await;
        let told = tokio::time::timeout(SOON, stream.next()).await.unwrap();
        assert_eq!(words(&told.unwrap().unwrap()), [format!("+peer {id}")]);
    }
}
