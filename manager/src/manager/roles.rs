//! Brings the members of consensus and the roles of the nodes together.
//!
//! A node whose role is manager makes itself a member (`Managers.Join`). A member whose node is to be a worker, or is gone, is
//! taken out here. What members are is written on their nodes, for people and for the checks of `node demote`.

use std::collections::HashMap;
use std::time::Duration;

use proto::object::{ManagerStatus, Reachability};
use proto::spec::NodeRole;
use proto::{Node, NodeId};

use crate::dispatcher::Dispatcher;
use crate::files::chain;
use crate::seat::Seat;
use crate::state::consensus::MemberState;
use crate::state::{Filter, Kind, Reader, Store, StoreError};

/// Until the next attempt, after one that failed.
const RETRY: Duration = Duration::from_secs(2);
/// A manager that the leader does not reach is hardly a node that will register: its tasks need not wait as long.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// Keeps them together, until the store is gone.
pub(super) async fn keep(store: Store, seat: Seat, dispatcher: Dispatcher) {
    let mut events = store.watch(Filter::kinds(&[Kind::Node]));
    let mut reachable = seat.consensus().reachable();
    loop {
        reachable.borrow_and_update();
        while events.try_next().is_some() {}
        let kept = reconcile(&store, &seat, &dispatcher).await;
        let retry = async {
            match kept {
                true => std::future::pending().await,
                false => tokio::time::sleep(RETRY).await,
            }
        };
        tokio::select! {
            biased;
            event = events.next() => if event.is_none() { return },
            changed = reachable.changed() => if changed.is_err() { return },
            () = retry => {}
        }
    }
}

/// Returns whether everything is as it should be.
async fn reconcile(store: &Store, seat: &Seat, dispatcher: &Dispatcher) -> bool {
    let members = seat.consensus().members();
    for member in &members {
        match member.reachable {
            true => dispatcher.relax(&member.member.node),
            false => dispatcher.hurry(&member.member.node, UNREACHABLE),
        }
    }
    let mut done = is_shown(store, seat, &members).await;
    let surplus = surplus(store, &members);
    for member in &surplus {
        match seat.consensus().remove(member.id).await {
            Ok(()) => tracing::info!(node.id = %member.member.node, "a manager is one no more"),
            Err(error) => {
                tracing::warn!(node.id = %member.member.node, error = chain(&error), "a manager stays one");
                done = false;
            }
        }
    }
    // Nothing else may happen that would bring us here again: a node that is away does nothing any more.
    let again = !surplus.is_empty();
    let shown = !again || is_shown(store, seat, &seat.consensus().members()).await;
    shown && done
}

async fn is_shown(store: &Store, seat: &Seat, members: &[MemberState]) -> bool {
    let shown = show(store, seat, members).await;
    if let Err(error) = &shown {
        tracing::warn!(error = chain(error), "the managers' states could not be kept");
    }
    shown.is_ok()
}

/// Members whose node is no manager's.
fn surplus(store: &Store, members: &[MemberState]) -> Vec<MemberState> {
    let is_manager = |node: &NodeId| {
        let node = store.view(|tx| tx.get::<Node>(node));
        node.is_some_and(|node| node.spec.role == NodeRole::Manager)
    };
    // Groups from before the node was recorded are groups of one.
    let surplus = members
        .iter()
        .filter(|member| !member.member.node.is_empty() && !is_manager(&member.member.node));
    surplus.cloned().collect()
}

/// Writes on each node what it is as a manager.
async fn show(store: &Store, seat: &Seat, members: &[MemberState]) -> Result<(), StoreError> {
    let own = &seat.own().node;
    let status = |member: &MemberState| ManagerStatus {
        leader: member.member.node == *own,
        reachability: match member.reachable {
            true => Reachability::Reachable,
            false => Reachability::Unreachable,
        },
        addr: member.member.address.clone(),
    };
    let mut wanted: HashMap<NodeId, ManagerStatus> = members
        .iter()
        .filter(|member| member.votes)
        .map(|member| (member.member.node.clone(), status(member)))
        .collect();
    if members.len() == 1 && wanted.contains_key(&NodeId::default()) {
        wanted = members
            .iter()
            .map(|member| {
                (
                    own.clone(),
                    ManagerStatus {
                        leader: true,
                        ..status(member)
                    },
                )
            })
            .collect();
    }
    let differs = |node: &Node| node.manager_status.as_ref() != wanted.get(&node.id);
    let nodes = store.view(|tx| tx.all::<Node>());
    if !nodes.iter().any(|node| differs(node)) {
        return Ok(());
    }
    store
        .update(|tx| {
            for node in tx.all::<Node>().iter().filter(|node| differs(node)) {
                tx.modify(&node.id, |node: &mut Node| {
                    node.manager_status = wanted.get(&node.id).cloned();
                })?;
            }
            Ok(())
        })
        .await
}
