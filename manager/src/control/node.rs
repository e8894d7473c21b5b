//! Nodes: what a user says about them, and their removal.

use std::sync::Arc;

use proto::object::{NodeState, Reachability};
use proto::spec::NodeRole;
use proto::{Node, NodeSpec, Task, TaskState, Timestamp};

use super::{Control, ControlError, Result, lookup};
use crate::state::{Key, Reader, WriteTx};

impl Control {
    /// The node by identifier, hostname or unique beginning of the identifier.
    ///
    /// # Errors
    /// [`ControlError::NotFound`], [`ControlError::Ambiguous`].
    pub fn node(&self, reference: &str) -> Result<Arc<Node>> {
        self.store.view(|tx| lookup::object(&tx, reference))
    }

    /// Every node.
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.store.view(|tx| tx.all())
    }

    /// Changes availability, labels or role.
    ///
    /// # Errors
    /// [`ControlError::OutOfSequence`], [`ControlError::FailedPrecondition`] (the last manager stays one),
    /// [`ControlError::InvalidArgument`] and those of [`Self::node`].
    pub async fn update_node(&self, reference: &str, version: u64, spec: NodeSpec) -> Result<()> {
        self.store
            .update(|tx| {
                let mut node = lookup::owned::<Node>(tx, reference)?;
                if node.meta.version.index != version {
                    return Err(ControlError::OutOfSequence);
                }
                refuse_role(tx, &node, spec.role)?;
                node.spec = spec;
                Ok(tx.update(node)?)
            })
            .await
    }

    /// Forgets a node that is down; with `force` also one that is not. Nobody will ever know what became of its tasks:
    /// they are orphaned, and replaced elsewhere.
    ///
    /// # Errors
    /// [`ControlError::FailedPrecondition`] and those of [`Self::node`].
    pub async fn remove_node(&self, reference: &str, force: bool) -> Result<()> {
        self.store
            .update(|tx| {
                let node = lookup::object::<Node>(tx, reference)?;
                refuse_removal(&node, force)?;
                orphan_tasks(tx, &node)?;
                Ok::<_, ControlError>(tx.remove::<Node>(node.id.as_str())?)
            })
            .await
    }
}

fn orphan_tasks(tx: &mut WriteTx<'_>, node: &Node) -> Result<()> {
    for task in tx.by_key::<Task>(Key::Node(node.id.as_str().to_owned())) {
        if !task.status.state.is_terminal() {
            tx.modify(&task.id, |task: &mut Task| {
                task.status.state = TaskState::Orphaned;
                task.status.timestamp = Timestamp::now();
                "the node was removed".clone_into(&mut task.status.message);
            })?;
        }
    }
    Ok(())
}

/// The managers that are left must be able to decide without this one.
fn refuse_role(tx: &impl Reader, node: &Node, role: NodeRole) -> Result<()> {
    if node.spec.role == role || role == NodeRole::Manager {
        return Ok(());
    }
    let nodes = tx.all::<Node>();
    let others = || {
        nodes
            .iter()
            .filter(|other| other.id != node.id && other.spec.role == NodeRole::Manager)
    };
    if others().count() == 0 {
        return Err(ControlError::FailedPrecondition(
            "attempting to demote the last manager of the swarm".to_owned(),
        ));
    }
    let members = others().filter_map(|other| other.manager_status.as_ref());
    let total = members.clone().count();
    let reachable = members.filter(|status| status.reachability == Reachability::Reachable);
    match reachable.count() * 2 > total {
        true => Ok(()),
        false => Err(ControlError::FailedPrecondition(
            "can't remove member from the raft: this would result in a loss of quorum".to_owned(),
        )),
    }
}

fn refuse_removal(node: &Node, force: bool) -> Result<()> {
    if node.manager_status.is_some() {
        return Err(ControlError::FailedPrecondition(format!(
            "node {} is a cluster manager and is a member of the raft cluster. \
             It must be demoted to worker before removal",
            node.id
        )));
    }
    if node.status.state == NodeState::Ready && !force {
        return Err(ControlError::FailedPrecondition(format!(
            "node {} is not down and can't be removed",
            node.id
        )));
    }
    Ok(())
}
