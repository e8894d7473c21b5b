//! Sessions: who may have one, and how long it lasts.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use proto::object::NodeState;
use proto::wire::SessionRequest;
use proto::{Node, Task, TaskState};
use tokio_stream::StreamExt;
use tonic::Code;

use super::tests::{cluster, modify, node_state, register};
use super::*;
use crate::state::{MemoryProposer, ProposeError, Proposer, Replica, StoreAction};

#[tokio::test]
async fn states_only_grow_and_only_the_node_itself_reports() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut stranger = register(&dispatcher, "n2").await.unwrap();
    stranger.report("t1", TaskState::Failed).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    agent.report("t1", TaskState::Running).await.unwrap();
    agent.report("t1", TaskState::Preparing).await.unwrap();
    agent.report("nosuch", TaskState::Running).await.unwrap();
    assert_eq!(
        store.view(|tx| tx.get::<Task>("t1")).unwrap().status.state,
        TaskState::Running
    );
}

#[tokio::test]
async fn unknown_nodes_and_sessions_are_refused() {
    let dispatcher = Dispatcher::start(cluster().await).await.unwrap();
    let refused = register(&dispatcher, "stranger").await.map(|_| ()).unwrap_err();
    assert_eq!(
        (refused.code(), refused.message()),
        (Code::NotFound, "node stranger is not part of the cluster")
    );
    assert!(!dispatcher.has_session(&"stranger".into()));
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    // A second registration ends the first session.
    let mut again = register(&dispatcher, "n1").await.unwrap();
    assert_eq!(agent.beat().await.unwrap_err().code(), Code::NotFound);
    assert_eq!(again.beat().await.unwrap(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_misses_its_heartbeats_is_down_until_it_registers_again() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_millis(2900)).await;
        agent.beat().await.unwrap();
    }
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
    tokio::time::sleep(Duration::from_millis(3100)).await;
    assert_eq!(node_state(&store, "n1"), NodeState::Down);
    assert_eq!(agent.beat().await.unwrap_err().code(), Code::NotFound);
    let _agent = register(&dispatcher, "n1").await.unwrap();
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_new_leader_doubts_and_then_gives_up_on_nodes_that_do_not_register() {
    let store = cluster().await;
    for id in ["n1", "n2"] {
        modify(&store, id, |node: &mut Node| node.status.state = NodeState::Ready).await;
    }
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    assert_eq!(node_state(&store, "n1"), NodeState::Unknown);
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    for _ in 0..32 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        agent.beat().await.unwrap();
    }
    assert_eq!(
        (node_state(&store, "n1"), node_state(&store, "n2")),
        (NodeState::Ready, NodeState::Down)
    );
}

/// Keeps everything in memory, and nothing while its disk is full.
struct Disk {
    inner: MemoryProposer,
    is_full: Arc<AtomicBool>,
}

impl Proposer for Disk {
    fn term(&self) -> Option<u64> {
        self.inner.term()
    }

    fn propose(&self, term: u64, actions: Vec<StoreAction>) -> BoxFuture<'_, Result<u64, ProposeError>> {
        match self.is_full.load(Ordering::SeqCst) {
            true => Box::pin(async { Err(ProposeError::DiskFull { path: "/".into() }) }),
            false => self.inner.propose(term, actions),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_lost_while_nothing_can_be_written_is_down_afterwards() {
    let (replica, is_full) = (Replica::default(), Arc::new(AtomicBool::new(false)));
    let disk = Disk {
        inner: MemoryProposer::new(replica.clone()),
        is_full: is_full.clone(),
    };
    let store = Store::new(replica, Arc::new(disk));
    let node = Node {
        id: "n1".into(),
        ..Node::default()
    };
    store.update(|tx| tx.create(node)).await.unwrap();
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let _agent = register(&dispatcher, "n1").await.unwrap();
    is_full.store(true, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
    is_full.store(false, Ordering::SeqCst);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node_state(&store, "n1"), NodeState::Down);
    assert!(!dispatcher.has_session(&"n1".into()));
}

/// A manager on a busy machine answers its leader late, and registers late.
#[tokio::test(start_paused = true)]
async fn a_node_that_is_only_slow_is_given_its_time_again() {
    let store = cluster().await;
    for id in ["n1", "n2"] {
        modify(&store, id, |node: &mut Node| node.status.state = NodeState::Ready).await;
    }
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    for id in ["n1", "n2"] {
        dispatcher.hurry(&id.into(), Duration::from_secs(1));
    }
    tokio::time::sleep(Duration::from_millis(900)).await;
    dispatcher.relax(&"n1".into());
    tokio::time::sleep(Duration::from_secs(4)).await;
    let states = || (node_state(&store, "n1"), node_state(&store, "n2"));
    assert_eq!(states(), (NodeState::Unknown, NodeState::Down));
    // It is not given more than it had.
    dispatcher.relax(&"n1".into());
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(states(), (NodeState::Down, NodeState::Down));
    // Who has registered is not concerned.
    let _agent = register(&dispatcher, "n1").await.unwrap();
    dispatcher.hurry(&"n1".into(), Duration::from_secs(1));
    dispatcher.relax(&"n1".into());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_stall_of_this_process_is_not_the_nodes_fault() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    // The clock jumps as after SIGSTOP: the watchdog wakes far too late.
    tokio::time::advance(Duration::from_secs(60)).await;
    tokio::task::yield_now().await;
    assert!(agent.beat().await.is_ok());
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
}

#[tokio::test(start_paused = true)]
async fn a_manager_that_is_starved_gives_its_nodes_a_respite_and_not_for_ever() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut agent = register(&dispatcher, "n1").await.unwrap();
    let late = |millis| async move {
        tokio::time::advance(Duration::from_millis(millis)).await;
        tokio::task::yield_now().await;
    };
    late(3200).await;
    assert!(agent.beat().await.is_ok());
    assert_eq!(node_state(&store, "n1"), NodeState::Ready);
    late(3200).await;
    for _ in 0..3 {
        assert_eq!(node_state(&store, "n1"), NodeState::Ready);
        late(1200).await;
    }
    tokio::time::sleep(Duration::from_millis(10)).await;
    assert_eq!(node_state(&store, "n1"), NodeState::Down);
}

#[tokio::test]
async fn a_removed_node_loses_its_session() {
    let store = cluster().await;
    let dispatcher = Dispatcher::start(store.clone()).await.unwrap();
    let mut client = dispatcher.serve_in_process();
    let request = SessionRequest {
        description: b"{}".to_vec(),
        session_id: String::new(),
        node_id: "n2".into(),
        address: String::new(),
    };
    let mut stream = client.session(request).await.unwrap().into_inner();
    stream.next().await.unwrap().unwrap();
    store.update(|tx| tx.remove::<Node>("n2")).await.unwrap();
    assert_eq!(stream.next().await.unwrap().unwrap_err().code(), Code::NotFound);
}
